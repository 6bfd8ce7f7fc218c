"""What the demo's model says when it is asked for JSON: values that fit the JSON Schema it is shown.

A schema is an object that begins on a line of its own, in a text that speaks of a JSON Schema; the newest
message's counts, else one of a system text or of the rules that clients' formats become.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

_RULE = "Answer with nothing but "
_ANY_OBJECT = _RULE + "one JSON object"
_FENCED = "enclosing markdown codeblock"
_BEGINNING = re.compile(r"^[ \t]*(?=\{)", re.MULTILINE)
_MARKS = frozenset({"properties", "$ref", "$defs", "anyOf", "oneOf", "allOf", "enum", "const", "items"})
_KINDS = ("object", "array", "string", "integer", "number", "boolean", "null")
_FIXED: Mapping[str, Any] = {"boolean": True, "null": None}
_MAX_FAILURES = 16  # of attempts to read an object
_MAX_DEPTH, _MAX_VALUES, _MAX_ITEMS, _MAX_LENGTH = 8, 1_000, 10, 1_000  # of a sample
_FORMATS: Mapping[str, str] = {
    "date": "2026-11-21",
    "date-time": "2026-11-21T03:03:59Z",
    "time": "03:03:59Z",
    "duration": "PT42S",
    "email": "demo@example.com",
    "hostname": "example.com",
    "ipv4": "192.0.2.42",
    "ipv6": "2001:db8::42",
    "uri": "https://example.com/",
    "uuid": "00000000-0000-4000-8000-000000000042",
}


def json_answer(messages: list[dict[str, Any]]) -> str | None:
    """The JSON that these messages ask for; None if they ask for none."""
    asking = [message for message in messages if message["role"] != "assistant"]
    for message in reversed(asking):
        text = str(message["content"])
        if message is not messages[-1] and message["role"] != "system" and _RULE not in text:
            continue
        schema, rest = _schema_in(text)
        if schema is None and _ANY_OBJECT in text:
            schema = {"properties": {"answer": {}}}
        if schema is None:
            continue
        said = rest if message is messages[-1] else str(messages[-1]["content"])
        words = re.findall(r"\w+", said) or ["something"]
        value = json.dumps(sample(schema, words[-1]), ensure_ascii=False)
        return f"```json\n{value}\n```" if _FENCED in text else value
    return None


def _schema_in(text: str) -> tuple[dict[str, Any] | None, str]:
    """The last JSON Schema of a text, and what is said behind it, or else before it."""
    lowered = text.lower()
    if "json" not in lowered or "schema" not in lowered:
        return None, text
    found, rest = None, text
    for value, begin, end in _objects_in(text):
        if _MARKS & value.keys() or (_kind_of(value) in _KINDS and "type" in value):
            found, rest = value, text[end:].strip(" \t\n`") or text[:begin].strip().partition("\n")[0]
    return found, rest


def _objects_in(text: str) -> Iterator[tuple[dict[str, Any], int, int]]:
    decoder, place, failures = json.JSONDecoder(), 0, 0
    while failures < _MAX_FAILURES and (begun := _BEGINNING.search(text, place)):
        try:
            value, place = decoder.raw_decode(text, begun.end())
            yield value, begun.end(), place
        except (ValueError, RecursionError):
            failures, place = failures + 1, begun.end() + 1


def sample(schema: Any, word: str) -> Any:
    """A value that fits the JSON Schema; strings are the word."""
    return _Sampler(schema, word).value(schema)


@dataclass(slots=True)
class _Sampler:
    """Values for the parts of one schema, as many as it may cost."""

    root: Any
    word: str
    count: int = 0

    def value(self, schema: Any, depth: int = 0) -> Any:
        schema = self._resolved(schema, depth)
        for name in ("enum", "examples"):
            if isinstance(schema.get(name), list) and schema[name]:
                return schema[name][0]
        kind = _kind_of(schema)
        if "const" in schema or kind in _FIXED:
            return schema.get("const", _FIXED.get(kind))
        if kind in ("integer", "number"):
            return _number(schema, is_whole=kind == "integer")
        read = {"object": self._object, "array": self._array}.get(kind, self._text)
        return read(schema, depth)

    def _resolved(self, schema: Any, depth: int) -> dict[str, Any]:
        """The schema itself, what it refers to, or one of its choices."""
        self.count += 1
        for _ in range(_MAX_DEPTH):
            if not isinstance(schema, dict) or depth >= 2 * _MAX_DEPTH or self.count >= 2 * _MAX_VALUES:
                break
            if isinstance(schema.get("$ref"), str):
                schema = _pointed_at(self.root, schema["$ref"])
            elif isinstance(schema.get("allOf"), list):
                rest = {name: value for name, value in schema.items() if name != "allOf"}
                return _merged([rest, *(self._resolved(part, depth + 1) for part in schema["allOf"])])
            elif choices := schema.get("anyOf") or schema.get("oneOf"):
                schema = self._chosen(choices, depth)
            else:
                return schema
        return {}

    def _chosen(self, choices: Any, depth: int) -> Any:
        known = (
            [choice for choice in choices if isinstance(choice, dict)] if isinstance(choices, list) else []
        )
        is_last = self._is_enough(depth)
        # Null ends a schema that refers to itself; before that it tells nothing.
        known.sort(key=lambda choice: (choice.get("type") == "null") is not is_last)
        return known[0] if known else {}

    def _is_enough(self, depth: int) -> bool:
        return depth >= _MAX_DEPTH or self.count >= _MAX_VALUES

    def _object(self, schema: dict[str, Any], depth: int) -> dict[str, Any]:
        required, properties = schema.get("required"), schema.get("properties")
        names = [name for name in required if isinstance(name, str)] if isinstance(required, list) else []
        parts = properties if isinstance(properties, dict) else {}
        wanted = dict.fromkeys(names if self._is_enough(depth) else [*names, *parts])
        return {name: self.value(parts.get(name), depth + 1) for name in wanted}

    def _array(self, schema: dict[str, Any], depth: int) -> list[Any]:
        first = schema.get("prefixItems")
        parts = first[:_MAX_ITEMS] if isinstance(first, list) else []
        least, most = (schema.get(name) for name in ("minItems", "maxItems"))
        wanted = max(least if isinstance(least, int) else not self._is_enough(depth), len(parts))
        wanted = min(wanted, most if isinstance(most, int) else _MAX_ITEMS, _MAX_ITEMS)
        parts = [*parts, *[schema.get("items")] * (wanted - len(parts))][: max(wanted, 0)]
        return [self.value(part, depth + 1) for part in parts]

    def _text(self, schema: dict[str, Any], _depth: int) -> str:
        text = _FORMATS.get(str(schema.get("format")), self.word)
        least, most = schema.get("minLength"), schema.get("maxLength")
        if isinstance(least, int):
            text = text.ljust(min(least, _MAX_LENGTH), "x")
        return text[: max(most, 0)] if isinstance(most, int) else text


def _kind_of(schema: Mapping[str, Any]) -> str:
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = next((one for one in kind if one != "null"), "null")
    if kind is None:
        kind = "object" if "properties" in schema else "array" if "items" in schema else "string"
    return str(kind)


def _number(schema: Mapping[str, Any], *, is_whole: bool) -> float:
    """42, or the nearest number that is allowed."""
    bounds = {
        name: float(schema[name])
        for name in ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf")
        if isinstance(schema.get(name), int | float) and abs(schema[name]) <= 2**53
    }
    step = bounds.get("multipleOf") or (1.0 if is_whole else 0.5)
    least = max(bounds.get("minimum", -math.inf), bounds.get("exclusiveMinimum", -math.inf) + step)
    most = min(bounds.get("maximum", math.inf), bounds.get("exclusiveMaximum", math.inf) - step)
    value = max(min(42.0, most), least)
    if "multipleOf" in bounds or is_whole:
        value = (math.floor if value < 42 else math.ceil)(value / step) * step
    return int(value) if value.is_integer() else value


def _pointed_at(root: Any, reference: str) -> Any:
    """The part of the schema that a local reference names."""
    for name in reference.removeprefix("#").strip("/").split("/"):
        if name:
            root = root.get(name.replace("~1", "/").replace("~0", "~")) if isinstance(root, dict) else None
    return root


def _merged(schemas: list[dict[str, Any]]) -> dict[str, Any]:
    """One schema that demands what all of them do."""
    whole: dict[str, Any] = {}
    for schema in schemas:
        for name, value in schema.items():
            kept = whole.get(name)
            whole[name] = kept | value if isinstance(kept, dict) and isinstance(value, dict) else value
    return whole
