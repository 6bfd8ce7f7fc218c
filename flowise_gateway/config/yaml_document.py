"""YAML with positions: the values of a document, their lines, and dataclasses read from them.

Every error is one line with the file, the line, the field and the allowed values, never the value itself.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields, replace
from datetime import UTC, datetime
from difflib import get_close_matches
from types import MappingProxyType
from typing import Any, get_type_hints

import yaml

_MAX_NODES = 200_000
_MAX_DEPTH = 16
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""Without libyaml, the same but slower."""


class ConfigError(Exception):
    """An error in the file: one line with position, field and allowed values, never the value itself."""


def document(file: str, content: bytes) -> Spot | None:
    """The root of a document, None if it is empty. Raises ConfigError."""
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
    root = Spot(file, "", node)
    return None if node is None or root.is_empty else root


def _check_size(file: str, text: str) -> None:
    """Refuse excessive size and nesting before the document is built."""
    tally = _Tally()
    for event in yaml.parse(text, Loader=_LOADER):
        fault = tally.fault_of(event)
        if fault is not None:
            start: Any = event.start_mark
            raise ConfigError(f"{file}:{start.line + 1}: must {fault}")


class _Tally:
    """Counts the values of a file while it is parsed; an alias counts as all values it repeats."""

    def __init__(self) -> None:
        self._sizes = [0]
        self._anchors: list[str | None] = []
        self._complete: dict[str | None, int] = {}

    def fault_of(self, event: yaml.Event) -> str | None:
        """Count an event; returns the limit that is exceeded, if any."""
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
    # The end of a file without a trailing line break counts as a separate line.
    line = min(mark.line + 1, len(lines)) if mark else 1
    parts = [getattr(error, name, None) for name in ("context", "problem")]
    if lines[line - 1].lstrip(" ").startswith("\t"):
        reason = "a line must be indented with spaces, not with tabs"
    elif parts[0] == "while scanning an alias":
        reason = _ALIAS_HINT
    else:
        # The slower loader quotes names from the file.
        reason = re.sub(r" '[^'<]{2,}'", "", ", ".join(part for part in parts if part))
    return ConfigError(f"{file}:{line}: must be valid YAML: {reason}")


_LINE_END = re.compile("\r\n|[\n\r\x85\u2028\u2029]")


@dataclass(frozen=True, slots=True)
class Spot:
    """A value in the file, and its position for errors."""

    file: str
    path: str
    node: Any

    @property
    def line(self) -> int:
        """The line of the value, from 1."""
        return int(self.node.start_mark.line) + 1

    @property
    def is_empty(self) -> bool:
        """Whether the value is missing or null."""
        return bool(self.node.tag == "tag:yaml.org,2002:null")

    def error(self, text: str) -> ConfigError:
        """The error for this value."""
        named = f"{self.path}: " if self.path else ""
        return ConfigError(f"{self.file}:{self.line}: {named}{text}")

    def scalar(self, *types: str) -> str:
        """The text of a scalar of one of these YAML types. Raises ValueError."""
        if not (isinstance(self.node, yaml.ScalarNode) and _type(self.node) in types):
            raise ValueError
        return str(self.node.value)

    def items(self) -> list[Spot]:
        """The values of a list. Raises ValueError."""
        if not (isinstance(self.node, yaml.SequenceNode) and _type(self.node) == "seq"):
            raise ValueError
        return [Spot(self.file, f"{self.path}[{n}]", child) for n, child in enumerate(self.node.value)]

    def each(self) -> list[Spot]:
        """The values of a list, or the value itself."""
        return self.items() if isinstance(self.node, yaml.SequenceNode) else [self]

    def pairs(self) -> list[tuple[Spot, Spot]]:
        """The keys and values of a mapping. Raises ValueError."""
        if not (isinstance(self.node, yaml.MappingNode) and _type(self.node) == "map"):
            raise ValueError
        return [
            (replace(self, node=key), Spot(self.file, self.below(key.value), child))
            for key, child in self.node.value
        ]

    def below(self, name: str) -> str:
        """The path of a field of this mapping."""
        return f"{self.path}.{name}" if self.path else name

    def entries(self, name: str) -> list[dict[str, Spot]]:
        """The values by name of each mapping in the list of this name, of a valid file."""
        return [
            {key.node.value: value for key, value in entry.pairs()}
            for section, entries in self.pairs()
            if section.node.value == name and not entries.is_empty
            for entry in entries.items()
        ]


def _type(node: Any) -> str:
    return str(node.tag).removeprefix("tag:yaml.org,2002:")


@dataclass(frozen=True, slots=True)
class Field:
    """The allowed values, as a text to follow `must be`; `parse` raises ValueError for others."""

    allowed: str
    parse: Callable[[Spot], Any]
    may_be_empty: bool = False


def value_of(spot: Spot, field: Field) -> Any:
    """The value of a field. Raises ConfigError."""
    try:
        return field.parse(spot)
    except ValueError:
        raise spot.error(f"must be {field.allowed}") from None


@dataclass(frozen=True, slots=True)
class _Table:
    """Reads a mapping as a dataclass.

    With `may_hold_secrets`, errors do not quote unknown names, which may be misplaced keys.
    """

    build: type
    fields: Mapping[str, Field]
    required: tuple[str, ...]
    refused: Mapping[str, str]
    may_hold_secrets: bool

    def read(self, spot: Spot) -> Any:
        """Read the mapping. Raises ConfigError, and ValueError if it is not a mapping."""
        found: dict[str, Spot] = {}
        for key, value in spot.pairs():
            name = self._name(key, value)
            if name in found:
                raise replace(key, path=value.path).error(
                    f"is given twice (first on line {found[name].line})"
                )
            found[name] = value
        for name in self.required:
            if name not in found:
                text = f"is missing; it must be {self.fields[name].allowed}"
                raise replace(spot, path=spot.below(name)).error(text)
        return self.build(
            **{
                name: value_of(value, self.fields[name])
                for name, value in found.items()
                if not (value.is_empty and self.fields[name].may_be_empty)
            }
        )

    def _name(self, key: Spot, value: Spot) -> str:
        if not isinstance(key.node, yaml.ScalarNode):
            raise key.error("must have plain names as fields")
        name = str(key.node.value)
        at_key = replace(key, path=value.path)
        if name in self.refused:
            raise at_key.error(self.refused[name])
        if name not in self.fields:
            near = get_close_matches(name, self.fields, 1) if len(name) <= 32 else []
            known = f"known fields are {', '.join(self.fields)}"
            if near:
                raise at_key.error(f"is not a known field; did you mean {near[0]}?")
            if self.may_hold_secrets or not re.fullmatch("[a-z_]{1,32}", name):
                raise key.error(f"has a field that is not known; {known}")
            raise at_key.error(f"is not a known field; {known}")
        return name


def text_like(pattern: str, allowed: str, *, types: tuple[str, ...] = ("str",), lower: bool = False) -> Field:
    """A string that fully matches a pattern; with `lower`, converted to lower case."""
    matches = re.compile(pattern).fullmatch

    def parse(spot: Spot) -> str:
        text = spot.scalar(*types)
        if not matches(text):
            raise ValueError
        return text.lower() if lower else text

    return Field(allowed, parse)


def prose(max_length: int) -> Field:
    """Free text."""

    def parse(spot: Spot) -> str:
        text = spot.scalar("str")
        if len(text) > max_length or not all(c.isprintable() or c in "\n\t" for c in text):
            raise ValueError
        return text

    return Field(f"a string of at most {max_length} characters (quote a number)", parse)


def whole_number(low: int, high: int) -> Field:
    """A decimal integer."""

    def parse(spot: Spot) -> int:
        text = spot.scalar("int")
        # YAML reads 060 as 48 and 1:30 as 90, which is hardly ever intended.
        if not (re.fullmatch(r"[1-9][0-9]{0,9}", text) and low <= int(text) <= high):
            raise ValueError
        return int(text)

    return Field(f"a whole number from {low} to {high}", parse)


def number(low: float, high: float) -> Field:
    """A decimal number."""

    def parse(spot: Spot) -> float:
        text = spot.scalar("int", "float")
        if not (re.fullmatch(r"(0|[1-9][0-9]{0,9})?(\.[0-9]{0,9})?", text) and low <= float(text) <= high):
            raise ValueError
        return float(text)

    return Field(f"a number from {low:g} to {high:g}", parse)


def _boolean(spot: Spot) -> bool:
    text = spot.scalar("bool").lower()
    if text not in {"true", "false"}:  # YAML also accepts yes and on
        raise ValueError
    return text == "true"


BOOLEAN = Field("true or false", _boolean)


def one_of(*allowed: str) -> Field:
    """One of several words."""
    # In YAML, a bare `off` is a boolean.
    return text_like("|".join(allowed), f"one of {', '.join(allowed)}", types=("str", "bool"))


def moment() -> Field:
    """A day (its start) or a time, in UTC unless a zone is given; in seconds since 1970."""
    matches = re.compile(r"20\d\d-\d\d-\d\d([Tt ]\d\d:\d\d(:\d\d)?(Z|[+-]\d\d:\d\d)?)?").fullmatch

    def parse(spot: Spot) -> float:
        text = spot.scalar("str", "timestamp")
        if not matches(text):
            raise ValueError
        time = datetime.fromisoformat(text)
        return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()

    return Field("a day such as 2027-01-31, or a time such as 2027-01-31T18:00:00Z", parse)


def one_or_more(item: Field) -> Field:
    """A value, or a list of such values."""

    def parse(spot: Spot) -> Any:
        values = tuple(value_of(each, item) for each in spot.each())
        if not values:
            raise ValueError
        return values

    return Field(item.allowed, parse)


def list_of(item: Field, allowed: str, *, may_be_empty: bool = False) -> Field:
    """A list."""
    return Field(
        allowed,
        lambda spot: tuple(value_of(child, item) for child in spot.items()),
        may_be_empty=may_be_empty,
    )


def mapping(
    build: type,
    *,
    may_be_empty: bool = False,
    refused: Mapping[str, str] = MappingProxyType({}),
    may_hold_secrets: bool = False,
) -> Field:
    """A mapping as a dataclass, whose types are annotated with the Fields that read them."""
    hints = get_type_hints(build, include_extras=True)
    known = {name: hint.__metadata__[0] for name, hint in hints.items()}
    required = [each.name for each in fields(build) if each.default is each.default_factory is MISSING]
    table = _Table(build, known, tuple(required), refused, may_hold_secrets)
    return Field(f"a mapping with {', '.join(known)}", table.read, may_be_empty=may_be_empty)
