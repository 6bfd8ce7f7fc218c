"""The file `proxy.yaml`: models, keys, discovery and tasks; checked, and read anew when changed. Policy."""

from __future__ import annotations

import hashlib
import logging
import stat
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

from flow_turn import FLOW_ID, MODEL_ID
from proxy_settings import Settings
from proxy_yaml import (
    ConfigError,
    Field,
    Spot,
    Table,
    boolean,
    document,
    list_of,
    lowered,
    mapping,
    number,
    one_of,
    prose,
    text_like,
    value_of,
    whole_number,
)

log = logging.getLogger(__name__)
KEY_NAME = r"[^\W_][\w .@:/-]{0,63}"
KEY_NAME_TEXT = "1 to 64 letters, digits, spaces or . _ @ : / -"

_DEFAULT_FILE = "proxy.yaml"
_MAX_BYTES = 1024**2
_CHECK_SECONDS = 1.0
_SETTLE_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """A flow under a name of its own; the flow's id is in lower case."""

    id: str
    flow: str
    name: str = ""
    description: str = ""
    aliases: tuple[str, ...] = ()
    request_timeout: float | None = None
    fallback: str | None = None
    history: str = "auto"
    system: str = "auto"
    steps: str = "reasoning"
    sources: str = "auto"
    usage: str = "auto"
    tools: str = "report"


@dataclass(frozen=True, slots=True)
class KeyConfig:
    """A client key, known by its digest in lower case, and what it may use."""

    name: str
    sha256: str
    models: tuple[str, ...] = ("*",)
    requests_per_minute: int | None = None
    max_in_flight: int | None = None
    single_user: bool = False
    overrides: bool = False


@dataclass(frozen=True, slots=True)
class DiscoveryConfig:
    """Which flows become models without being configured."""

    enabled: bool = True
    types: tuple[str, ...] = ("CHATFLOW", "AGENTFLOW", "MULTIAGENT", "ASSISTANT")
    refresh_seconds: float = 60.0
    ids: str = "name"


@dataclass(frozen=True, slots=True)
class TasksConfig:
    """Who answers chat UIs' titles and tags: `builtin` (no flow is run), `flow` (the one asked), a model."""

    model: str = "builtin"


@dataclass(frozen=True, slots=True)
class ProxyConfig:
    """All that the file says; as it stands here, what an empty file says."""

    models: tuple[ModelConfig, ...] = ()
    keys: tuple[KeyConfig, ...] = ()
    discovery: DiscoveryConfig = field(default_factory=DiscoveryConfig)
    tasks: TasksConfig = field(default_factory=TasksConfig)
    flowise_mode: str = "auto"


def load_config(path: Path) -> ProxyConfig:
    """Read the file. Raises ConfigError."""
    return _parsed(path.name, _content(path))


def config_file(settings: Settings) -> ConfigFile:
    """The file that PROXY_CONFIG names, else `proxy.yaml` if and when there is one. Raises ConfigError."""
    return ConfigFile(
        Path(settings.proxy_config or _DEFAULT_FILE),
        must_exist=bool(settings.proxy_config),
        may_hold_keys=not settings.flowise_key_passthrough,
    )


class ConfigFile:
    """The configuration as the file has it now, or had it when it was last right.

    `error` is the reason why the file as it stands is not used, None if it is.
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
        """Read the file, without a path use the defaults for ever. Raises ConfigError."""
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
            # A write in the tick of the clock in which we read leaves no trace: such a file is read again.
            self._seen = None if self._is_fresh(state) else state

    @property
    def current(self) -> ProxyConfig:
        """The configuration; the same object until another one is taken over."""
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
        config = _parsed(path.name, content)
        if config.keys and not self._may_hold_keys:
            raise ConfigError(
                f"{path.name}: keys: must be left out with FLOWISE_KEY_PASSTHROUGH: "
                "a caller sends one key, and that is Flowise's"
            )
        return config

    def _is_fresh(self, state: _State) -> bool:
        """Whether somebody may be writing still: a part of the file can be right, and lack the keys."""
        if isinstance(state, OSError):
            return False
        return 0 <= self._wall_clock() - state.changed_ns / 1e9 < _SETTLE_SECONDS

    def _take_over(self, path: Path, config: ProxyConfig) -> None:
        if config != self._config:
            self._config = config
            log.info("%s: its change is taken over", path.name)
        elif self.error is not None:
            log.info("%s: is right again", path.name)
        self.error = None
        self._refused = b""

    def _refuse(self, reason: str, content: bytes) -> None:
        self.error = reason
        refused = hashlib.sha256(reason.encode("utf-8", "surrogateescape") + b"\n" + content).digest()
        if refused != self._refused:
            self._refused = refused
            log.error("a change is not taken over, what was read before stays: %s", reason)


@dataclass(frozen=True, slots=True)
class _Signature:
    """What differs after a file was written, replaced, or made readable again."""

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
        return error.with_traceback(None)  # it is kept, the frames need not be
    return _Signature(found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino, found.st_dev)


def _is_same(state: _State, other: _State | None) -> bool:
    if isinstance(state, OSError):
        return isinstance(other, OSError) and other.errno == state.errno
    return state == other


def _content(path: Path) -> bytes:
    try:
        # Opening a pipe would wait for its writer.
        if not stat.S_ISREG(path.stat().st_mode):
            raise ConfigError(f"{path.name}: must be a file")
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"{path.name}: cannot be read: {error.strerror}") from None
    if len(content) > _MAX_BYTES:
        raise ConfigError(f"{path.name}: must be at most 1 MiB long")
    return content


def _parsed(file: str, content: bytes) -> ProxyConfig:
    root = document(file, content)
    if root is None:
        return ProxyConfig()
    config: ProxyConfig = value_of(root, _ROOT)
    _check_model_names(root, config.models)
    _check_fallbacks(root, config.models)
    keys = root.entries("keys")
    _check_distinct((key.name, spot["name"]) for key, spot in zip(config.keys, keys, strict=True))
    _check_distinct((key.sha256, spot["sha256"]) for key, spot in zip(config.keys, keys, strict=True))
    return config


def _check_model_names(root: Spot, models: tuple[ModelConfig, ...]) -> None:
    spots = root.entries("models")
    ids = [(model.id, spot["id"]) for model, spot in zip(models, spots, strict=True)]
    aliases = [
        named
        for model, spot in zip(models, spots, strict=True)
        if model.aliases
        for named in zip(model.aliases, spot["aliases"].items(), strict=True)
    ]
    _check_distinct([*ids, *aliases])


def _check_distinct(named: Iterable[tuple[str, Spot]]) -> None:
    taken: dict[str, Spot] = {}
    for name, spot in named:
        first = taken.setdefault(name, spot)
        if first is not spot:
            raise spot.error(f"must differ from {first.path} (line {first.line})")


def _check_fallbacks(root: Spot, models: tuple[ModelConfig, ...]) -> None:
    known = {model.flow: n for n, model in reversed(list(enumerate(models)))}
    known |= {name: n for n, model in enumerate(models) for name in (model.id, *model.aliases)}
    next_ones = [known.get(model.fallback or "") for model in models]
    walk_of: dict[int, int] = {}
    for start in range(len(models)):
        at: int | None = start
        while at is not None and at not in walk_of:
            walk_of[at] = start
            at = next_ones[at]
        if at is not None and walk_of[at] == start:
            raise root.entries("models")[at]["fallback"].error("must not lead back to the model itself")


_MODEL_ID_TEXT = "a model id: 1 to 128 of A-Z a-z 0-9 . _ : / @ - (a mere number in quotes)"
_PLAIN_KEY = "plain keys are refused here; put its SHA-256 as sha256 (python3 proxy_cli.py keys new)"
_MODEL = Table(
    ModelConfig,
    {
        "id": text_like(MODEL_ID.pattern, _MODEL_ID_TEXT, is_required=True),
        "flow": lowered(text_like(FLOW_ID.pattern, "a flow id (a UUID)", is_required=True)),
        "name": prose(256),
        "description": prose(4096),
        "aliases": list_of(text_like(MODEL_ID.pattern, _MODEL_ID_TEXT), "a list of model ids"),
        "history": one_of("auto", "session", "messages", "question"),
        "system": one_of("auto", "override", "question", "drop"),
        "steps": one_of("reasoning", "off"),
        "sources": one_of("auto", "annotations", "footer", "off"),
        "usage": one_of("auto", "asked", "always"),
        "tools": one_of("report", "prompt", "reject"),
        "request_timeout": number(0.1, 86400),
        "fallback": text_like(MODEL_ID.pattern, _MODEL_ID_TEXT),
    },
)
_KEY = Table(
    KeyConfig,
    {
        "name": text_like(KEY_NAME, f"{KEY_NAME_TEXT} (a mere number in quotes)", is_required=True),
        # A digest of digits alone, or of digits around one e, is a number to YAML.
        "sha256": lowered(
            text_like(
                "[0-9a-fA-F]{64}",
                "the SHA-256 of a key, 64 hexadecimal digits (python3 proxy_cli.py keys new)",
                types=("str", "int", "float"),
                is_required=True,
            )
        ),
        "models": list_of(
            text_like(r"[A-Za-z0-9._:/@*?-]{1,128}", "a model id, or a pattern of one with * and ?"),
            "a list of model ids and patterns",
        ),
        "requests_per_minute": whole_number(1, 1_000_000),
        "max_in_flight": whole_number(1, 100_000),
        "single_user": Field("true or false", boolean),
        "overrides": Field("true or false", boolean),
    },
    refused=dict.fromkeys(("key", "secret", "token", "api_key", "password"), _PLAIN_KEY),
    may_hold_secrets=True,
)
_DISCOVERY = Table(
    DiscoveryConfig,
    {
        "enabled": Field("true or false", boolean),
        "types": list_of(
            one_of(*DiscoveryConfig().types), "a list of CHATFLOW, AGENTFLOW, MULTIAGENT, ASSISTANT"
        ),
        "refresh_seconds": number(1, 86400),
        "ids": one_of("name", "uuid"),
    },
)
_TASKS = Table(TasksConfig, {"model": text_like(MODEL_ID.pattern, "builtin, flow or a model id")})
_ROOT = mapping(
    Table(
        ProxyConfig,
        {
            "models": list_of(mapping(_MODEL), "a list of models", may_be_empty=True),
            "keys": list_of(mapping(_KEY), "a list of keys", may_be_empty=True),
            "discovery": mapping(_DISCOVERY, may_be_empty=True),
            "tasks": mapping(_TASKS, may_be_empty=True),
            "flowise_mode": one_of("auto", "queue"),
        },
    )
)
