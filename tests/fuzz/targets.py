"""What is fuzzed: each target takes any bytes, and raises when a promise is broken."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any

atheris: Any = importlib.import_module("atheris")

with atheris.instrument_imports():
    from flowise_gateway.flow.errors import ProxyError
    from flowise_gateway.flowise.events import EventDecoder
    from flowise_gateway.flowise.sse import SseDecoder, payloads
    from flowise_gateway.openai.json_body import json_object
    from flowise_gateway.openai.tool_calls import extract_tool_calls
    from flowise_gateway.openai.tools import ClientTool, ClientTools
    from flowise_gateway.responses.request import parse_response
    from openai_adapter import parse_chat, parse_completion
    from tests.support.flow_events import events_of, run_of, transcript_of

TOOLS = ClientTools((ClientTool("look_up"), ClientTool("get-time")))
MAX_PIECES = 12


def pieces(data: bytes) -> list[bytes]:
    """The rest of some bytes, split as the first one says."""
    if not data:
        return []
    size = max(1, len(data) // MAX_PIECES, data[0])
    return [data[at : at + size] for at in range(1, len(data), size)]


def sse(data: bytes) -> None:
    """However a stream is split, the same payloads come out."""
    decoder = SseDecoder()
    given = [payload for piece in pieces(data) for payload in payloads(decoder.feed(piece))]
    whole = SseDecoder()
    assert given == list(payloads(whole.feed(data[1:])))


def events(data: bytes) -> None:
    """Any payload is read as events, or as none."""
    decoder = EventDecoder()
    for payload in data[1:].split(b"\n"):
        transcript_of(decoder.decode(payload))
    transcript_of(decoder.closing())


def tool_calls(data: bytes) -> None:
    """However a text is split, the same text and the same calls come out."""
    text = data[1:].decode("utf-8", "replace")
    size = max(1, len(text) // MAX_PIECES, data[0] if data else 1)
    split = [text[at : at + size] for at in range(0, len(text), size)]
    seen = [
        transcript_of(events_of(extract_tool_calls(run_of(said), TOOLS, lambda _: "call")))
        for said in ([text], split)
    ]
    assert seen[0].text == seen[1].text
    assert seen[0].calls == seen[1].calls


def _parsed(parse: Callable[[Mapping[str, Any]], object], data: bytes) -> None:
    try:
        parse(json_object(data[1:]))
    except ProxyError as error:
        if not 400 <= error.status < 500:
            raise


def chat(data: bytes) -> None:
    """A chat completion is parsed, or refused with a 4xx."""
    _parsed(parse_chat, data)


def completion(data: bytes) -> None:
    """A completion is parsed, or refused with a 4xx."""
    _parsed(parse_completion, data)


def responses(data: bytes) -> None:
    """A response is parsed, or refused with a 4xx."""
    _parsed(parse_response, data)


TARGETS: dict[str, Callable[[bytes], None]] = {
    target.__name__: target for target in (sse, events, tool_calls, chat, completion, responses)
}

if __name__ == "__main__":
    name = sys.argv.pop(1)
    atheris.Setup(sys.argv, TARGETS[name])
    atheris.Fuzz()
