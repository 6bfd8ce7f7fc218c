"""The file `proxy.yaml`: models, keys, discovery and tasks; checked, and read anew when changed. Policy."""

from __future__ import annotations

import hashlib
import logging
import re
import stat
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from threading import Lock
from typing import Any, Generic, TypeVar

import yaml

from flow_turn import FLOW_ID, MODEL_ID
from proxy_settings import Settings

log = logging.getLogger(__name__)
KEY_NAME = r"[^\W_][\w .@:/-]{0,63}"
KEY_NAME_TEXT = "1 to 64 letters, digits, spaces or . _ @ : / -"

_T = TypeVar("_T")
_DEFAULT_FILE = "proxy.yaml"
_MAX_BYTES = 1024**2
_MAX_NODES = 200_000
_MAX_DEPTH = 16
_CHECK_SECONDS = 1.0
_SETTLE_SECONDS = 1.0
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""Without libyaml the same, but slower."""


class ConfigError(Exception):
    """A fault of the file: one line with its place, the field and what is allowed, never a value."""


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
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{file}:{line}: must be UTF-8") from None
    try:
        _check_size(file, text)
        node = yaml.compose(text, Loader=_LOADER)
    except yaml.YAMLError as error:
        raise _syntax_error(file, text, error) from None
    root = _Spot(file, "", node)
    if node is None or root.is_empty:
        return ProxyConfig()
    config: ProxyConfig = _read(root, _ROOT)
    _check_model_names(root, config.models)
    _check_fallbacks(root, config.models)
    keys = root.entries("keys")
    _check_distinct((key.name, spot["name"]) for key, spot in zip(config.keys, keys, strict=True))
    _check_distinct((key.sha256, spot["sha256"]) for key, spot in zip(config.keys, keys, strict=True))
    return config


def _check_size(file: str, text: str) -> None:
    """Refuse what would grow or nest without end, before it is built."""
    tally = _Tally()
    for event in yaml.parse(text, Loader=_LOADER):
        fault = tally.fault_of(event)
        if fault is not None:
            start: Any = event.start_mark
            raise ConfigError(f"{file}:{start.line + 1}: must {fault}")


class _Tally:
    """Counts the values of a file as it is parsed; an alias counts as all that it repeats."""

    def __init__(self) -> None:
        self._sizes = [0]
        self._anchors: list[str | None] = []
        self._complete: dict[str | None, int] = {}

    def fault_of(self, event: yaml.Event) -> str | None:
        """Count one more event, and tell which limit it passes."""
        if isinstance(event, yaml.CollectionStartEvent):
            self._sizes.append(1)
            self._anchors.append(event.anchor)
        elif isinstance(event, yaml.CollectionEndEvent):
            self._add(self._anchors.pop(), self._sizes.pop())
        elif isinstance(event, yaml.ScalarEvent):
            self._add(event.anchor, 1)
        elif isinstance(event, yaml.AliasEvent):
            if event.anchor not in self._complete:
                return f"be valid YAML: {_ALIAS_HINT}"
            self._add(event.anchor, self._complete[event.anchor])
        if len(self._sizes) > _MAX_DEPTH:
            return f"not nest deeper than {_MAX_DEPTH} levels"
        if self._sizes[-1] > _MAX_NODES:
            return f"hold at most {_MAX_NODES} values, aliases included"
        return None

    def _add(self, anchor: str | None, size: int) -> None:
        self._complete[anchor] = size
        self._sizes[-1] += size


_ALIAS_HINT = "*name must repeat an &name before it; a text that begins with * needs quotes"


def _syntax_error(file: str, text: str, error: yaml.YAMLError) -> ConfigError:
    if isinstance(error, yaml.reader.ReaderError):
        line = len(_LINE_END.findall(text, 0, text.index(chr(error.character)))) + 1
        return ConfigError(f"{file}:{line}: must not hold control characters")
    mark = getattr(error, "problem_mark", None)
    lines = _LINE_END.split(text)
    # The end of a file without a last line end counts as a line of its own.
    line = min(mark.line + 1, len(lines)) if mark else 1
    parts = [getattr(error, name, None) for name in ("context", "problem")]
    if re.match(r" *\t", lines[line - 1]):
        reason = "a line must be indented with spaces, not with tabs"
    elif parts[0] == "while scanning an alias":
        reason = _ALIAS_HINT
    else:
        # The slower loader quotes names from the file.
        reason = re.sub(r" '[^'<]{2,}'", "", ", ".join(part for part in parts if part))
    return ConfigError(f"{file}:{line}: must be valid YAML: {reason}")


_LINE_END = re.compile("\r\n|[\n\r\x85\u2028\u2029]")


@dataclass(frozen=True, slots=True)
class _Spot:
    """A value in the file, and how an error names its place."""

    file: str
    path: str
    node: Any

    @property
    def line(self) -> int:
        """Where the value begins, from 1."""
        return int(self.node.start_mark.line) + 1

    @property
    def is_empty(self) -> bool:
        """Whether nothing, or null, stands there."""
        return bool(self.node.tag == "tag:yaml.org,2002:null")

    def error(self, text: str) -> ConfigError:
        """The one line that says what is wrong here."""
        named = f"{self.path}: " if self.path else ""
        return ConfigError(f"{self.file}:{self.line}: {named}{text}")

    def scalar(self, *types: str) -> str:
        """The text of a value of one of YAML's types. Raises ValueError."""
        if not (isinstance(self.node, yaml.ScalarNode) and _type(self.node) in types):
            raise ValueError
        return str(self.node.value)

    def items(self) -> list[_Spot]:
        """The values of a list. Raises ValueError."""
        if not (isinstance(self.node, yaml.SequenceNode) and _type(self.node) == "seq"):
            raise ValueError
        return [_Spot(self.file, f"{self.path}[{n}]", child) for n, child in enumerate(self.node.value)]

    def pairs(self) -> list[tuple[_Spot, _Spot]]:
        """The keys and values of a mapping, the keys as values of this place. Raises ValueError."""
        if not (isinstance(self.node, yaml.MappingNode) and _type(self.node) == "map"):
            raise ValueError
        return [
            (replace(self, node=key), _Spot(self.file, self.below(key.value), child))
            for key, child in self.node.value
        ]

    def below(self, name: str) -> str:
        """The path of a field of this mapping."""
        return f"{self.path}.{name}" if self.path else name

    def entries(self, name: str) -> list[dict[str, _Spot]]:
        """The values by name of each mapping in the list of this name, of a file found right."""
        return [
            {key.node.value: value for key, value in entry.pairs()}
            for section, entries in self.pairs()
            if section.node.value == name and not entries.is_empty
            for entry in entries.items()
        ]


def _type(node: Any) -> str:
    return str(node.tag).removeprefix("tag:yaml.org,2002:")


@dataclass(frozen=True, slots=True)
class _Field:
    """What a value may be, said so that it follows `must be`; `parse` raises ValueError for others."""

    allowed: str
    parse: Callable[[_Spot], Any]
    is_required: bool = False
    may_be_empty: bool = False


def _read(spot: _Spot, field_: _Field) -> Any:
    try:
        return field_.parse(spot)
    except ValueError:
        raise spot.error(f"must be {field_.allowed}") from None


@dataclass(frozen=True, slots=True)
class _Table(Generic[_T]):
    """The fields of a mapping; where somebody may put a key in the wrong place, no error quotes names."""

    build: Callable[..., _T]
    fields: Mapping[str, _Field]
    refused: Mapping[str, str] = field(default_factory=dict)
    may_hold_secrets: bool = False

    def read(self, spot: _Spot) -> _T:
        """The mapping as a value. Raises ConfigError, and ValueError where there is no mapping."""
        found: dict[str, _Spot] = {}
        for key, value in spot.pairs():
            name = self._name(key, value)
            if name in found:
                raise replace(key, path=value.path).error(
                    f"is given twice (first on line {found[name].line})"
                )
            found[name] = value
        for name, known in self.fields.items():
            if known.is_required and name not in found:
                raise replace(spot, path=spot.below(name)).error(f"is missing; it must be {known.allowed}")
        return self.build(
            **{
                name: _read(value, self.fields[name])
                for name, value in found.items()
                if not (value.is_empty and self.fields[name].may_be_empty)
            }
        )

    def _name(self, key: _Spot, value: _Spot) -> str:
        if not isinstance(key.node, yaml.ScalarNode):
            raise key.error("must have plain names as fields")
        name = str(key.node.value)
        at_key = replace(key, path=value.path)
        if name in self.refused:
            raise at_key.error(self.refused[name])
        if name not in self.fields:
            near = get_close_matches(name, self.fields, 1) if len(name) <= 32 else []
            known = f"known are {', '.join(self.fields)}"
            if near:
                raise at_key.error(f"is not a known field; did you mean {near[0]}?")
            if self.may_hold_secrets or not re.fullmatch("[a-z_]{1,32}", name):
                raise key.error(f"has a field that is not known; {known}")
            raise at_key.error(f"is not a known field; {known}")
        return name


def _check_model_names(root: _Spot, models: tuple[ModelConfig, ...]) -> None:
    spots = root.entries("models")
    ids = [(model.id, spot["id"]) for model, spot in zip(models, spots, strict=True)]
    aliases = [
        named
        for model, spot in zip(models, spots, strict=True)
        if model.aliases
        for named in zip(model.aliases, spot["aliases"].items(), strict=True)
    ]
    _check_distinct([*ids, *aliases])


def _check_distinct(named: Iterable[tuple[str, _Spot]]) -> None:
    taken: dict[str, _Spot] = {}
    for name, spot in named:
        first = taken.setdefault(name, spot)
        if first is not spot:
            raise spot.error(f"must differ from {first.path} (line {first.line})")


def _check_fallbacks(root: _Spot, models: tuple[ModelConfig, ...]) -> None:
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


def _text(
    pattern: str, allowed: str, *, types: tuple[str, ...] = ("str",), is_required: bool = False
) -> _Field:
    matches = re.compile(pattern).fullmatch

    def parse(spot: _Spot) -> str:
        text = spot.scalar(*types)
        if not matches(text):
            raise ValueError
        return text

    return _Field(allowed, parse, is_required)


def _lowered(known: _Field) -> _Field:
    return _Field(known.allowed, lambda spot: str(known.parse(spot)).lower(), known.is_required)


def _prose(max_length: int) -> _Field:
    def parse(spot: _Spot) -> str:
        text = spot.scalar("str")
        if len(text) > max_length or not all(c.isprintable() or c in "\n\t" for c in text):
            raise ValueError
        return text

    return _Field(f"a text of at most {max_length} characters (a mere number in quotes)", parse)


def _whole_number(low: int, high: int) -> _Field:
    def parse(spot: _Spot) -> int:
        text = spot.scalar("int")
        # YAML reads 060 as 48 and 1:30 as 90: whoever writes that hardly means it.
        if not (re.fullmatch(r"[1-9][0-9]{0,9}", text) and low <= int(text) <= high):
            raise ValueError
        return int(text)

    return _Field(f"a whole number from {low} to {high}", parse)


def _number(low: float, high: float) -> _Field:
    def parse(spot: _Spot) -> float:
        text = spot.scalar("int", "float")
        if not (re.fullmatch(r"(0|[1-9][0-9]{0,9})?(\.[0-9]{0,9})?", text) and low <= float(text) <= high):
            raise ValueError
        return float(text)

    return _Field(f"a number from {low:g} to {high:g}", parse)


def _boolean(spot: _Spot) -> bool:
    text = spot.scalar("bool").lower()
    if text not in {"true", "false"}:  # YAML takes yes and on as well
        raise ValueError
    return text == "true"


def _one_of(*allowed: str) -> _Field:
    # To YAML a bare `off` is a boolean.
    return _text("|".join(allowed), f"one of {', '.join(allowed)}", types=("str", "bool"))


def _list(item: _Field, allowed: str, *, may_be_empty: bool = False) -> _Field:
    def parse(spot: _Spot) -> tuple[Any, ...]:
        return tuple(_read(child, item) for child in spot.items())

    return _Field(allowed, parse, may_be_empty=may_be_empty)


def _mapping(table: _Table[Any], *, may_be_empty: bool = False) -> _Field:
    return _Field(f"a mapping with {', '.join(table.fields)}", table.read, may_be_empty=may_be_empty)


_MODEL_ID_TEXT = "a model id: 1 to 128 of A-Z a-z 0-9 . _ : / @ - (a mere number in quotes)"
_PLAIN_KEY = "plain keys are refused here; put its SHA-256 as sha256 (python3 proxy_cli.py keys new)"
_MODEL = _Table(
    ModelConfig,
    {
        "id": _text(MODEL_ID.pattern, _MODEL_ID_TEXT, is_required=True),
        "flow": _lowered(_text(FLOW_ID.pattern, "a flow id (a UUID)", is_required=True)),
        "name": _prose(256),
        "description": _prose(4096),
        "aliases": _list(_text(MODEL_ID.pattern, _MODEL_ID_TEXT), "a list of model ids"),
        "history": _one_of("auto", "session", "messages", "question"),
        "system": _one_of("auto", "override", "question", "drop"),
        "steps": _one_of("reasoning", "off"),
        "sources": _one_of("auto", "annotations", "footer", "off"),
        "usage": _one_of("auto", "asked", "always"),
        "tools": _one_of("report", "prompt", "reject"),
        "request_timeout": _number(0.1, 86400),
        "fallback": _text(MODEL_ID.pattern, _MODEL_ID_TEXT),
    },
)
_KEY = _Table(
    KeyConfig,
    {
        "name": _text(KEY_NAME, f"{KEY_NAME_TEXT} (a mere number in quotes)", is_required=True),
        # A digest of digits alone, or of digits around one e, is a number to YAML.
        "sha256": _lowered(
            _text(
                "[0-9a-fA-F]{64}",
                "the SHA-256 of a key, 64 hexadecimal digits (python3 proxy_cli.py keys new)",
                types=("str", "int", "float"),
                is_required=True,
            )
        ),
        "models": _list(
            _text(r"[A-Za-z0-9._:/@*?-]{1,128}", "a model id, or a pattern of one with * and ?"),
            "a list of model ids and patterns",
        ),
        "requests_per_minute": _whole_number(1, 1_000_000),
        "max_in_flight": _whole_number(1, 100_000),
        "single_user": _Field("true or false", _boolean),
        "overrides": _Field("true or false", _boolean),
    },
    refused=dict.fromkeys(("key", "secret", "token", "api_key", "password"), _PLAIN_KEY),
    may_hold_secrets=True,
)
_DISCOVERY = _Table(
    DiscoveryConfig,
    {
        "enabled": _Field("true or false", _boolean),
        "types": _list(
            _one_of(*DiscoveryConfig().types), "a list of CHATFLOW, AGENTFLOW, MULTIAGENT, ASSISTANT"
        ),
        "refresh_seconds": _number(1, 86400),
        "ids": _one_of("name", "uuid"),
    },
)
_TASKS = _Table(TasksConfig, {"model": _text(MODEL_ID.pattern, "builtin, flow or a model id")})
_ROOT = _mapping(
    _Table(
        ProxyConfig,
        {
            "models": _list(_mapping(_MODEL), "a list of models", may_be_empty=True),
            "keys": _list(_mapping(_KEY), "a list of keys", may_be_empty=True),
            "discovery": _mapping(_DISCOVERY, may_be_empty=True),
            "tasks": _mapping(_TASKS, may_be_empty=True),
        },
    )
)
