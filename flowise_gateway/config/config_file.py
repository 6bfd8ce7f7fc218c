"""Reads the file `proxy.yaml`, and reloads it when it changes."""

from __future__ import annotations

import hashlib
import logging
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from flowise_gateway.config.schema import ProxyConfig, parse_config
from flowise_gateway.config.settings import Settings, here_or_beside
from flowise_gateway.config.yaml_document import ConfigError

log = logging.getLogger(__name__)

_DEFAULT_FILE = "proxy.yaml"
_MAX_BYTES = 1024**2
_CHECK_SECONDS = 1.0
_SETTLE_SECONDS = 1.0


def load_config(path: Path) -> ProxyConfig:
    """Read the file. Raises ConfigError."""
    return parse_config(path.name, _content(path))


def config_file(settings: Settings) -> ConfigFile:
    """The file in PROXY_CONFIG, otherwise `proxy.yaml`, once it exists. Raises ConfigError."""
    return ConfigFile(
        config_path(settings),
        must_exist=bool(settings.proxy_config),
        may_hold_keys=not settings.flowise_key_passthrough,
    )


def config_path(settings: Settings) -> Path:
    """The path of the file, which may not exist."""
    return Path(settings.proxy_config or here_or_beside(_DEFAULT_FILE))


class ConfigFile:
    """The current configuration: the content of the file, or its last valid content.

    `error` is the reason why the current file is not used, None if it is.
    """

    def __init__(
        self,
        path: Path | None,
        clock: Callable[[], float] = time.monotonic,
        *,
        must_exist: bool = True,
        may_hold_keys: bool = True,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """Read the file; without a path, always use the defaults. Raises ConfigError."""
        self._may_hold_keys = may_hold_keys
        self._path = path
        self._clock = clock
        self._wall_clock = wall_clock
        self._lock = Lock()
        self._checked_at = clock()
        self._config = ProxyConfig()
        self._seen: _State | None = None
        self._refused = b""
        self.error: str | None = None
        if path is not None:
            state = _state(path)
            if must_exist or not isinstance(state, FileNotFoundError):
                self._config = self._read(path, _content(path))
            # A write within the same clock tick as this read changes no time stamp: such a file is reread.
            self._seen = None if self._is_fresh(state) else state

    @property
    def current(self) -> ProxyConfig:
        """The configuration; the same object until it changes."""
        if self._path is not None and self._is_due() and self._lock.acquire(blocking=False):
            try:
                if self._is_due():
                    self._checked_at = self._clock()
                    self._check(self._path)
            finally:
                self._lock.release()
        return self._config

    def _is_due(self) -> bool:
        return self._clock() - self._checked_at >= _CHECK_SECONDS

    def _check(self, path: Path) -> None:
        state = _state(path)
        if _is_same(state, self._seen) or self._is_fresh(state):
            return
        content = b""
        outcome: ProxyConfig | ConfigError
        try:
            content = _content(path)
            outcome = self._read(path, content)
        except ConfigError as error:
            outcome = error
        if not _is_same(_state(path), state):
            return
        self._seen = state
        if isinstance(outcome, ProxyConfig):
            self._take_over(path, outcome)
        else:
            self._refuse(str(outcome), content)

    def _read(self, path: Path, content: bytes) -> ProxyConfig:
        config = parse_config(path.name, content)
        if config.keys and not self._may_hold_keys:
            raise ConfigError(
                f"{path.name}: keys: must be left out with FLOWISE_KEY_PASSTHROUGH: "
                "a caller sends one key, which is Flowise's"
            )
        if config.flowises and not self._may_hold_keys:
            raise ConfigError(
                f"{path.name}: flowises: must be left out with FLOWISE_KEY_PASSTHROUGH: "
                "a caller's key belongs to one Flowise and must not be sent to another"
            )
        if config.pipelines and not self._may_hold_keys:
            raise ConfigError(
                f"{path.name}: pipelines: must be left out with FLOWISE_KEY_PASSTHROUGH: "
                "a caller's key is Flowise's, and the pipeline host does not know it"
            )
        return config

    def _is_fresh(self, state: _State) -> bool:
        """Whether the file may still be being written: its first part can be valid, but lack the keys."""
        if isinstance(state, OSError):
            return False
        return 0 <= self._wall_clock() - state.changed_ns / 1e9 < _SETTLE_SECONDS

    def _take_over(self, path: Path, config: ProxyConfig) -> None:
        if config != self._config:
            self._config = config
            log.info("%s: the change is in effect", path.name)
        elif self.error is not None:
            log.info("%s: is valid again", path.name)
        self.error = None
        self._refused = b""

    def _refuse(self, reason: str, content: bytes) -> None:
        self.error = reason
        refused = hashlib.sha256(reason.encode("utf-8", "surrogateescape") + b"\n" + content).digest()
        if refused != self._refused:
            self._refused = refused
            log.error("the change is ignored, the previous version stays in effect: %s", reason)


@dataclass(frozen=True, slots=True)
class _Signature:
    """Changes when a file is written, replaced, or made readable again."""

    changed_ns: int
    status_changed_ns: int
    size: int
    inode: int
    device: int


_State = _Signature | OSError


def _state(path: Path) -> _State:
    try:
        found = path.stat()
    except OSError as error:
        return error.with_traceback(None)  # keep the error, but not its frames
    return _Signature(found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino, found.st_dev)


def _is_same(state: _State, other: _State | None) -> bool:
    if isinstance(state, OSError):
        return isinstance(other, OSError) and other.errno == state.errno
    return state == other


def _content(path: Path) -> bytes:
    try:
        # Opening a pipe would block until it has a writer.
        if not stat.S_ISREG(path.stat().st_mode):
            raise ConfigError(f"{path.name}: must be a file")
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path.name}: cannot be read: {error.strerror}") from None
    if len(content) > _MAX_BYTES:
        raise ConfigError(f"{path.name}: must be at most 1 MiB long")
    return content
