"""Recorded answers of a real Flowise, messages as it sends them, and the events that they become."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from flowise_gateway.flow.events import (
    FlowEvent,
    TextDelta,
    ToolUsed,
)
from flowise_gateway.flow.transcript import Transcript
from flowise_gateway.flowise.answer import answer_events
from flowise_gateway.flowise.events import EventDecoder
from flowise_gateway.flowise.sse import SseDecoder
from flowise_gateway.flowise.sse import payloads as payloads_of
from tests.support.flow_events import transcript_of

RECORDINGS = Path(__file__).resolve().parents[1] / "wire/flowise-3.1.4"


def recorded(name: str) -> tuple[str, bytes]:
    """Content type and body of a recorded answer."""
    head, _, body = (RECORDINGS / f"{name}.http").read_bytes().partition(b"\r\n\r\n")
    kind = next((x for x in head.decode().split("\r\n") if x.lower().startswith("content-type:")), "")
    return kind.partition(":")[2].strip(), body


STREAMS = sorted(
    path.stem for path in RECORDINGS.glob("*.http") if recorded(path.stem)[0] == "text/event-stream"
)
RAW = {name for name in STREAMS if name.endswith("rawchunks")}


def payloads(*pieces: bytes) -> list[bytes | object]:
    """What the line decoder gives for a stream that comes in these pieces."""
    decoder = SseDecoder()
    return [payload for piece in pieces for payload in payloads_of(decoder.feed(piece))]


def decoded(stream: Iterable[bytes | object]) -> Iterator[FlowEvent]:
    """The events of a whole run; what the error raises comes after those before it."""
    decoder = EventDecoder()
    for payload in stream:
        if isinstance(payload, bytes):
            yield from decoder.decode(payload)
    yield from decoder.closing()


def told(*messages: tuple[str, Any], closed: bool = True) -> list[FlowEvent]:
    """The events of a run that sends these messages."""
    decoder = EventDecoder()
    events = [
        event
        for name, data in messages
        for event in decoder.decode(json.dumps({"event": name, "data": data}).encode())
    ]
    return [*events, *decoder.closing()] if closed else events


def of_recording(name: str) -> Transcript:
    """A recorded run added up, whether it is a stream or a JSON answer."""
    kind, body = recorded(name)
    return transcript_of(
        decoded(payloads(body)) if "event-stream" in kind else answer_events(json.loads(body))
    )


def tool(name: str, output: str = "") -> dict[str, Any]:
    """A tool as Flowise reports it."""
    return {"tool": name, "toolInput": {"q": name}, "toolOutput": output}


def used(name: str, output: str = "") -> ToolUsed:
    """The event of a tool that has run."""
    return ToolUsed(name, {"q": name}, output)


def node(label: str, status: str, node_id: str = "agentAgentflow_0") -> tuple[str, Any]:
    """A node of an agentflow that begins or ends."""
    return "nextAgentFlow", {"nodeId": node_id, "nodeLabel": label, "status": status}


def executed(*outputs: Any, label: str = "Agent") -> list[Any]:
    """The list of executed nodes with these outputs."""
    return [{"nodeId": f"n_{n}", "nodeLabel": label, "data": {"output": o}} for n, o in enumerate(outputs)]


def agent(name: str, **found: Any) -> dict[str, Any]:
    """An agent's step as a sequential flow reports it."""
    return {"agentName": name, "messages": ["m"], **found}


def read_at_once(events: bytes) -> Iterator[FlowEvent]:
    """The events of a run as they are read together: tokens go the short way."""
    decoder = EventDecoder()
    for payload in payloads_of(events):
        assert isinstance(payload, bytes)
        text = decoder.token(payload)
        yield from decoder.decode(payload) if text is None else [TextDelta(text)]
    yield from decoder.closing()


CALL_IDS = {"ok-af_agent_human": "the text holds the id of the tool call, which is another in each run"}


def pairs() -> list[str]:
    """Names of flows that were recorded both ways and answered."""
    names = [path.stem.removesuffix("-json") for path in RECORDINGS.glob("*-json.http")]
    answered = []
    for name in sorted(names):
        is_answer = (RECORDINGS / f"{name}-json.http").read_bytes().startswith(b"HTTP/1.1 200")
        other = RECORDINGS / f"{name}-stream.http"
        if is_answer and other.exists() and other.stat().st_size:
            answered.append(name)
    return answered


ACTION_DATA = {
    "id": "a1",
    "elements": [{"type": "x", "label": "Proceed"}, {"label": ""}, {"label": 1}, 5, {"label": "Reject"}],
}
