"""Parses the JSON body of a request, within limits."""

from __future__ import annotations

import re
from typing import Any

import orjson

from flowise_gateway.flow.cooperative import slices, yield_before, yield_between
from flowise_gateway.flow.errors import BadRequest
from flowise_gateway.openai.fields import kind_of

MAX_VALUES = 300_000
"""The maximum number of values in a body: parsing more would delay all other requests. The commas, colons
and brackets are counted, including those within strings, since counting is cheaper than parsing."""
ESCAPES_PER_VALUE = 32
"""This many escaped characters take as long to parse, and to serialize again, as one value."""
MAX_DEPTH = 200
"""The maximum nesting. Parsed values are serialized again, in answers and for Flowise, within other values,
and orjson serializes only `_WRITABLE_DEPTH` levels."""
_WRITABLE_DEPTH = 254

_BOM = b"\xef\xbb\xbf"
"""Some clients send a byte order mark before UTF-8."""
_HALF_ESCAPE = re.compile(
    # Consecutive backslashes are read once: the last of an odd number starts the escape.
    rb"(\\(?<!\\\\)(?:\\\\)*+)u[dD]"
    rb"(?:[89abAB][0-9a-fA-F]{2}(\\u[dD][c-fC-F][0-9a-fA-F]{2})?|[c-fC-F][0-9a-fA-F]{2})"
)
_HALF_BYTES = re.compile(rb"\xed[\xa0-\xbf][\x80-\xbf]")
_MAX_ESCAPES = 500_000
"""The maximum number of escapes in a body with a lone surrogate: searching more would delay others."""


def json_object(raw: bytes) -> dict[str, Any]:
    """The JSON object in a request's body. Raises BadRequest."""
    if has_too_many_values(raw):
        raise BadRequest(
            f"The JSON body contains more than {MAX_VALUES} commas, colons and brackets: "
            "send long tables as files."
        )
    try:
        body = _parsed(raw.removeprefix(_BOM))
    except orjson.JSONDecodeError as error:
        if "depth" in str(error) or "recursion" in str(error).lower():
            raise BadRequest("The JSON body is nested too deeply.") from None
        raise BadRequest(
            "We could not parse the JSON body of your request: it must be UTF-8 encoded JSON "
            f"({str(error).split(':')[0]})."
        ) from None
    if is_too_deep(raw, body):
        raise BadRequest("The JSON body is nested too deeply.")
    if not isinstance(body, dict):
        raise BadRequest(f"The body must be a JSON object, but is {kind_of(body)}.")
    return body


def has_too_many_values(raw: bytes) -> bool:
    """Whether a JSON text contains more values than may be parsed."""
    return len(raw) > MAX_VALUES and value_count(raw) > MAX_VALUES


def value_count(raw: bytes) -> int:
    """The number of values in a JSON text, counted as for MAX_VALUES."""
    return _count(raw, b",", b":", b"[", b"{") + _count(raw, b"\\") // ESCAPES_PER_VALUE


def is_too_deep(raw: bytes, value: Any) -> bool:
    """Whether a value is nested too deeply to be serialized again; `raw` is the JSON text it came from."""
    if _count(raw, b"[", b"{") <= MAX_DEPTH:  # nearly all bodies
        return False
    yield_before(len(raw))
    for _ in range(_WRITABLE_DEPTH - MAX_DEPTH):
        value = [value]
    try:
        orjson.dumps(value)  # the fastest way to find out
    except orjson.JSONEncodeError:
        return True
    return False


def _count(raw: bytes, *marks: bytes) -> int:
    return sum(part.count(mark) for part in slices(raw) for mark in marks)


def _parsed(raw: bytes) -> Any:
    """Parse JSON, with U+FFFD for lone surrogates, which clients send when they truncate UTF-16 text."""
    yield_before(len(raw))
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        if "surrogate" not in str(error) or raw.count(b"\\") + raw.count(b"\xed") > _MAX_ESCAPES:
            raise
    pieces, at = list[bytes](), 0
    for half in yield_between(_HALF_ESCAPE.finditer(raw)):
        if not half[2]:
            pieces += (raw[at : half.start()], half[1], b"ufffd")
            at = half.end()
    raw = b"".join([*pieces, raw[at:]])
    yield_before(len(raw))
    return orjson.loads(_HALF_BYTES.sub("\ufffd".encode(), raw))
