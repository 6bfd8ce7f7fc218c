"""What the stream decoders of Go and Rust clients require: the vectors of `tests/wire/decoders`, applied."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator, TypeChecker
from jsonschema.validators import extend

VECTORS = Path(__file__).resolve().parents[1] / "wire/decoders"
MAX_REASON = 200
LINE_ENDS = (b"\r", b"\x0b", b"\x0c")


def faults(kind: str, raw: bytes) -> list[str]:
    """Why a decoder would break off at a payload of that kind, or lose a part of it; empty if none would."""
    if kind.endswith(".stream"):
        return [*_line_faults(kind, raw), *_stream_faults(kind, raw)]
    return list(shape_faults(kind, json.loads(raw)))


@cache
def vectors(name: str) -> dict[str, Any]:
    """What one decoder requires, and where that was read."""
    read: dict[str, Any] = json.loads((VECTORS / f"{name}.json").read_text())
    return read


def events(raw: bytes) -> list[tuple[str, bytes]]:
    """The events of a stream as name and data, the way openai-go takes them apart.

    An event ends at an empty line and is none without data; what follows the last empty line is lost.
    """
    found, name, data = list[tuple[str, bytes]](), "", b""
    for line in raw.split(b"\n")[:-1]:
        field, colon, value = line.removesuffix(b"\r").partition(b":")
        value = value.removeprefix(b" ")
        if not field and not colon:
            if data:
                found.append((name, data.removesuffix(b"\n")))
            name, data = "", b""
        elif field == b"event":
            name = value.decode()
        elif field == b"data":
            data += value + b"\n"
    return found


def _line_faults(kind: str, raw: bytes) -> Iterator[str]:
    bounds = {"openai-go": vectors("openai-go")["max_line_bytes"]}
    if kind in vectors("langchaingo")["kinds"]:
        bounds["langchaingo"] = vectors("langchaingo")["max_line_bytes"]
    longest = max(len(line) for line in raw.split(b"\n"))
    for name, bound in bounds.items():
        if longest > bound:
            yield f"{name}: a line has {longest} bytes, more than {bound}"
    if not raw.endswith(b"\n\n"):
        yield "openai-go: the last event is lost, since no empty line ends it"
    if any(end in raw for end in LINE_ENDS):
        yield "a line ends otherwise than by LF"


def _stream_faults(kind: str, raw: bytes) -> Iterator[str]:
    *frames, last = events(raw) or [("", b"")]
    if last[1] != b"[DONE]":
        yield "the last event is not [DONE]"
    is_over, ids = False, set[str]()
    for number, (name, data) in enumerate(frames):
        if data.startswith(b"[DONE]"):
            yield f"event {number}: both end here, and more follows"
            continue
        where = f"event {number}: "
        try:
            value = json.loads(data)
        except ValueError:
            yield f"{where}it is no JSON"
            continue
        if not isinstance(value, dict):
            yield f"{where}openai-go: it is no object"
        elif is_over and value.get("type") != "response.failed":
            yield f"{where}openai-go ended at the error before it"
        elif vectors("openai-go")["ends_at_member"] in value:
            is_over = True
            yield from (f"{where}{fault}" for fault in shape_faults("error", value))
            if kind == "response.stream":
                yield from (f"{where}{fault}" for fault in event_faults(name, value))
        elif kind == "response.stream":
            yield from (f"{where}{fault}" for fault in event_faults(name, value))
        else:
            yield from (f"{where}{fault}" for fault in shape_faults(kind, value))
            yield from (f"{where}openai-go: {fault}" for fault in _accumulator_faults(value, ids))


def _accumulator_faults(chunk: dict[str, Any], ids: set[str]) -> Iterator[str]:
    """Why openai-go's accumulator would not take a chunk; `ids` are those of the chunks so far."""
    ids.add(str(chunk.get("id")))
    if len(ids) > 1:
        yield "the id is another one than before"
    choices = chunk.get("choices")
    indexes = [choice.get("index", 0) for choice in choices] if isinstance(choices, list) else []
    if any(index > vectors("openai-go")["max_choice_index"] for index in indexes):
        yield "there are too many choices"


def event_faults(name: str, value: dict[str, Any]) -> Iterator[str]:
    """Why a decoder would break off at an event of a response."""
    shapes: dict[str, str] = vectors("async-openai")["events"]
    kind = str(value.get("type"))
    if name != kind:
        yield f"its name is {name!r}, its type {kind!r}"
    if kind in shapes:
        yield from _schema_faults(shapes[kind], value)
    else:
        yield f"async-openai: {kind!r} is no event that is known to it"


def shape_faults(kind: str, value: Any) -> Iterator[str]:
    """Why async-openai would not take a body, or a chunk, of that kind."""
    shape = vectors("async-openai")["kinds"].get(kind)
    if shape is not None:
        yield from _schema_faults(shape, value)


def _schema_faults(shape: str, value: Any) -> Iterator[str]:
    for error in _validator(shape).iter_errors(value):
        yield f"async-openai: {error.json_path}: {error.message[:MAX_REASON]}"


@cache
def _validator(shape: str) -> Any:
    """A validator of one shape. Unlike JSON Schema's, serde's integers have no decimal point."""

    def is_integer(_checker: TypeChecker, value: object) -> bool:
        return isinstance(value, int) and not isinstance(value, bool)

    checker = Draft202012Validator.TYPE_CHECKER.redefine("integer", is_integer)
    schema = {"$ref": f"#/$defs/{shape}", "$defs": vectors("async-openai")["$defs"]}
    validator: Any = extend(Draft202012Validator, type_checker=checker)  # type: ignore[no-untyped-call]
    return validator(schema)
