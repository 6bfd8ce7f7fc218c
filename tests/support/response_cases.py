"""Requests of the Responses API with what their runs report: what its golden files hold."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Callable, Mapping
from typing import Any

import orjson

from flowise_gateway.flow.errors import (
    ProxyError,
    RateLimited,
    RunFailed,
)
from flowise_gateway.flow.events import (
    ClientToolCalled,
    FlowToolCalled,
    KeepAlive,
    ReasoningDelta,
    SourcesFound,
    StepEnded,
    StepStarted,
    TextDelta,
    ToolUsed,
    TurnEnded,
    UsageReported,
)
from flowise_gateway.flow.transcript import Transcript
from flowise_gateway.openai.request import ParsedRequest
from flowise_gateway.openai.sse import stream_bytes
from flowise_gateway.responses.renderer import ResponsesRenderer
from flowise_gateway.responses.request import parse_response
from tests.support.flow_events import ACTION, END, IDENTIFIED, TEXT, USED, Events, transcript_of
from tests.support.openai_check import valid

CREATED = 1_700_000_000
HELLO: dict[str, Any] = {"model": "support", "input": "What is 6 times 7?"}
KEYS = {
    *("id", "object", "created_at", "completed_at", "status", "incomplete_details", "model", "output"),
    *("previous_response_id", "instructions", "error", "tools", "tool_choice", "truncation", "usage", "text"),
    *("parallel_tool_calls", "top_p", "presence_penalty", "frequency_penalty", "top_logprobs", "temperature"),
    *("reasoning", "max_output_tokens", "max_tool_calls", "store", "background", "service_tier", "metadata"),
    *("safety_identifier", "prompt_cache_key"),
}
AGENT: Events = [
    StepStarted("Agent"),
    ReasoningDelta("Let me "),
    ReasoningDelta("think.\n"),
    FlowToolCalled("calculator", {"input": "6*7"}),
    USED,
    ToolUsed("wéb search!", "q", None, "it\n  broke"),
    TextDelta("It is "),
    TextDelta("42."),
    StepEnded("Agent", "FINISHED"),
    StepStarted("Reply"),
    SourcesFound(({"pageContent": "p", "metadata": {"source": "https://a.example"}},)),
    UsageReported(42, 9, 2, 3),
    IDENTIFIED,
    TurnEnded(),
]
CALL = ClientToolCalled("call_1", "weather", '{"city":"Bonn"}')


@dataclasses.dataclass(frozen=True)
class Case:
    """A request and what its run reports."""

    name: str
    events: Events
    body: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    error: ProxyError | None = None

    @property
    def request(self) -> ParsedRequest:
        """The request, with ids that do not change."""
        parsed = parse_response({**HELLO, "stream": True, **self.body}, make_id=numbered_ids())
        [turn] = parsed.turns
        return dataclasses.replace(parsed, turns=(dataclasses.replace(turn, chat_id="chat-0"),))

    def renderer(self) -> ResponsesRenderer:
        """A renderer whose clock stands still."""
        return ResponsesRenderer(
            self.request,
            count_tokens=lambda text: len(text.split()),
            clock=lambda: CREATED + 0.9,
            make_id=numbered_ids(),
        )

    def transcript(self) -> Transcript:
        """The fold."""
        return transcript_of(self.events, "chat-0")

    def stream(self) -> bytes:
        """The whole stream."""
        renderer = self.renderer()
        frames = renderer.opening()
        for event in self.events:
            frames += renderer.chunks(event)
        frames += renderer.failure(self.error) if self.error else renderer.closing([self.transcript()])
        return stream_bytes(frames)

    def whole(self) -> dict[str, Any]:
        """The whole body, as a client reads it."""
        body: dict[str, Any] = orjson.loads(orjson.dumps(self.renderer().body([self.transcript()])))
        return body


def numbered_ids() -> Callable[[str], str]:
    """A source of ids that a golden file can hold."""
    numbers = itertools.count()
    return lambda prefix: f"{prefix}{next(numbers):024x}"


def sse_events(stream: bytes) -> list[dict[str, Any]]:
    """The events of a stream, whose frames are checked: name, one line of data, `[DONE]` last."""
    *frames, done, rest = stream.decode().split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    found = []
    for frame in frames:
        name, data = frame.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        found.append(event)
    return found


TOOLS = {"include": ["flowise.tool_calls"]}
ASKED: dict[str, Any] = {
    "instructions": "Be brief",
    "temperature": 0.5,
    "tools": [{"type": "function", "name": "weather", "parameters": {"type": "object"}}],
    "tool_choice": {"type": "function", "name": "weather"},
    "text": {"format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}, "strict": True}},
    "reasoning": {"effort": "low"},
    "metadata": {"mine": "1"},
    "conversation": {"id": "conv_1"},
    "store": False,
    "max_output_tokens": 100,
    "truncation": "auto",
}
CASES = [
    Case("response-plain", [StepEnded("x", "FINISHED"), KeepAlive(), *TEXT, UsageReported(7, 8, 2, 3), *END]),
    Case("response-estimated", [*TEXT, *END]),
    Case("response-agent", AGENT),
    Case("response-tools", AGENT, TOOLS),
    Case("response-asked", [*TEXT, *END], ASKED),
    Case("response-action", ACTION),
    Case("response-calls", [ReasoningDelta("Hm."), CALL, ClientToolCalled("call_2", "time", ""), *END]),
    Case("response-text-and-call", [TextDelta("Let me see."), CALL, TurnEnded("tool_calls")]),
    Case("response-length", [*TEXT, StepStarted("Late"), TurnEnded("length")]),
    Case("response-filtered", [*TEXT, TurnEnded("content_filter")]),
    Case("response-empty", [StepStarted("Agent"), *END]),
    Case("response-tool-alone", [USED, *END], TOOLS),
]
BROKEN = [
    Case("response-broken", [*AGENT[:8], StepStarted("x")], error=RunFailed("It broke.")),
    Case("response-broken-thinking", AGENT[:2], error=RateLimited("Too many.")),
    Case("response-broken-at-once", [], error=RunFailed("It broke.", code="empty_answer")),
]


def ids(case: Case) -> str:
    """A case's name."""
    return case.name


# --- requests ---


def parsed(**body: Any) -> ParsedRequest:
    """A request that OpenAI's schema knows, parsed."""
    valid("response.request", {**HELLO, **body})
    return parse_response({**HELLO, **body})


def message(*parts: Any, role: str = "user") -> dict[str, Any]:
    """A request with one message."""
    return {"input": [{"role": role, "content": list(parts)}]}


CALLED = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
OUTPUT = {"type": "function_call_output", "call_id": "c", "output": "x"}
