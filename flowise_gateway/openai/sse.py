"""Server-sent events in the form that OpenAI's clients parse."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import orjson

from flowise_gateway.flow.cooperative import yield_before
from flowise_gateway.flow.errors import ErrorObject, ProxyError, error_body


class Frame(NamedTuple):
    """One event of a stream before serialization; `data` is one line."""

    data: bytes
    event: str | None = None


DONE = Frame(b"[DONE]")
COMMENT = b": keep-alive\n"
"""A comment that keeps a silent stream alive. No empty line follows it: openai-go before 3.43 takes that for
an event without data, and ends the stream."""

MAX_DELTA = 8_000
"""Characters of a text in one chunk. Go's `bufio.Scanner`, with which langchaingo and many programs read a
stream, breaks off at a line over 64 KiB; a character takes up to 6 bytes of JSON."""
MAX_DETAILS = 48_000
"""Bytes of the vendor key `flowise` in a chunk, for the same reason."""


def in_pieces(text: str) -> list[str]:
    """A text in pieces, each fit for one chunk; none of an empty one."""
    return [text[at : at + MAX_DELTA] for at in range(0, len(text), MAX_DELTA)]


def stream_bytes(frames: Iterable[Frame]) -> bytes:
    """The bytes of frames: LF only, an event never split over two writes (docs/reference/responses.md)."""
    return on_one_line(
        b"".join(
            [
                b"data: %b\n\n" % data
                if event is None
                else b"event: %b\ndata: %b\n\n" % (event.encode(), data)
                for data, event in frames
            ]
        )
    )


def on_one_line(raw: bytes) -> bytes:
    """JSON with Unicode's line separators escaped in its strings.

    JSON allows them unescaped, but Python's line readers (httpx, requests) end a line there, so that a flow's
    text could forge events, even `[DONE]`.
    """
    if raw.isascii() or not (b"\xe2\x80" in raw or b"\xc2\x85" in raw):
        return raw
    return (
        raw.replace(b"\xe2\x80\xa8", b"\\u2028")
        .replace(b"\xe2\x80\xa9", b"\\u2029")
        .replace(b"\xc2\x85", b"\\u0085")
    )


def json_bytes(value: Any) -> bytes:
    """The JSON text of an answer."""
    raw = orjson.dumps(value)
    yield_before(len(raw))
    return on_one_line(raw)


def error_frame(error: ProxyError) -> Frame:
    """A failure in the middle of a stream, in the form that OpenAI SDKs raise: `data: {"error": {…}}`."""
    return Frame(orjson.dumps(error_body(error)))


def failed_response(number: int, error: ErrorObject, response: Mapping[str, Any]) -> list[Frame]:
    """The two events that end the stream of a failed response.

    LangChain and pydantic-ai treat `response.failed` as a success and only raise for `error`, whose fields
    are flat in OpenAI's specification and nested in Open Responses'.
    """
    flat = {name: error[name] for name in ("code", "message", "param")}
    events: list[dict[str, Any]] = [
        {"type": "error", "sequence_number": number, **flat, "error": error},
        {"type": "response.failed", "sequence_number": number + 1, "response": response},
    ]
    return [Frame(orjson.dumps(event), event["type"]) for event in events]
