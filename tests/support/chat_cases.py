"""Requests of chat completions and completions with what their runs report: what their golden files hold."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import orjson

from flowise_gateway.flow.errors import ProxyError, RunFailed
from flowise_gateway.flow.events import (
    ArtifactMade,
    ClientToolCalled,
    FlowEvent,
    FlowToolCalled,
    HumanInputRequested,
    KeepAlive,
    ReasoningDelta,
    SourcesFound,
    StepEnded,
    StepStarted,
    TextDelta,
    ToolUsed,
    TurnEnded,
    TurnIdentified,
    UsageReported,
    Warned,
)
from flowise_gateway.flow.transcript import Transcript
from flowise_gateway.openai.client_quirks import Style
from flowise_gateway.openai.request import ParsedRequest
from flowise_gateway.openai.sse import stream_bytes
from openai_adapter import ChatRenderer, CompletionRenderer, parse_chat, parse_completion
from tests.support.flow_events import ACTION, END, IDENTIFIED, TEXT, USED, Events

CREATED = 1_700_000_000
CHAT = {"model": "support", "messages": [{"role": "user", "content": "What is 6 times 7?"}]}
PROMPT = {"model": "support", "prompt": "Say hello"}
PLAIN: Events = [StepEnded("x", "FINISHED"), KeepAlive(), *TEXT, UsageReported(7, 8, 2, 3), *END]
AGENT: Events = [
    StepStarted("Agent"),
    ReasoningDelta("Let me "),
    ReasoningDelta("think.\n"),
    FlowToolCalled("calculator", {"input": "6*7"}),
    USED,
    ToolUsed("search", "q", None, "it\n  broke"),
    SourcesFound(({"pageContent": "p", "metadata": {"source": "a.pdf"}},)),
    StepEnded("Agent", "FINISHED"),
    TextDelta("It is 42."),
    UsageReported(42, 9),
    IDENTIFIED,
    TurnEnded(),
]
SOURCES: Events = [
    SourcesFound(
        (
            {"pageContent": "p", "metadata": {"source": "https://docs.example/one", "title": "One"}},
            {"pageContent": "q", "metadata": {"source": "/root/.flowise/two.pdf", "loc": {"pageNumber": 2}}},
            {"pageContent": "r", "metadata": {"source": "https://docs.example/three"}},
        )
    ),
    TextDelta("Wörld 🙂[1], see [3] and [2]."),
    *END,
]
FILES: Events = [
    TextDelta("Here."),
    HumanInputRequested({"id": "a"}, ("Yes", "No")),
    ArtifactMade({"type": "png"}, "chart.png", "https://ai.example.com/v1/flowise/files/" + "x" * 100),
    ArtifactMade({"type": "html", "data": "<b>hi</b>"}),
    ReasoningDelta("Thought out loud."),
    StepStarted("Agent"),
    *END,
]
TOOLS = [{"type": "function", "function": {"name": name}} for name in ("get_weather", "get_time")]
CALLS: Events = [
    ClientToolCalled("call_1", "get_weather", '{"city": "Zürich"}'),
    ClientToolCalled("call_2", "get_time", "{}"),
]
CALLED: Events = [TurnIdentified("msg-1", "session-1"), TurnEnded("tool_calls")]


@dataclasses.dataclass(frozen=True)
class Case:
    """A request and what its choices report, in the order it comes: `(choice, event)`."""

    name: str
    body: dict[str, Any]
    events: list[tuple[int, FlowEvent]]
    error: ProxyError | None = None
    style: Style = dataclasses.field(default_factory=Style)

    @property
    def is_chat(self) -> bool:
        """Whether the request is a chat completion's."""
        return "messages" in self.body

    @property
    def request(self) -> ParsedRequest:
        """The request, with ids that do not change."""
        parsed = (parse_chat if self.is_chat else parse_completion)(self.body)
        turns = tuple(dataclasses.replace(turn, chat_id=f"chat-{n}") for n, turn in enumerate(parsed.turns))
        return dataclasses.replace(parsed, turns=turns)

    def renderer(self) -> ChatRenderer | CompletionRenderer:
        """A renderer whose clock stands still."""
        kind = ChatRenderer if self.is_chat else CompletionRenderer
        return kind(
            self.request,
            count_tokens=lambda text: len(text.split()),
            style=self.style,
            clock=lambda: CREATED + 0.9,
            make_id=lambda prefix: prefix + "0123456789abcdef01234567",
        )

    def transcripts(self) -> list[Transcript]:
        """The fold of each choice."""
        transcripts = [Transcript(turn.chat_id) for turn in self.request.turns]
        for index, event in self.events:
            transcripts[index].add(event)
        return transcripts

    def stream(self) -> bytes:
        """The whole stream."""
        renderer = self.renderer()
        frames = renderer.opening()
        for index, event in self.events:
            frames += renderer.chunks(event, index)
        frames += renderer.failure(self.error) if self.error else renderer.closing(self.transcripts())
        return stream_bytes(frames)

    def whole(self) -> bytes:
        """The whole body."""
        return orjson.dumps(self.renderer().body(self.transcripts()))


def alone(events: Events) -> list[tuple[int, FlowEvent]]:
    """Events of a request with one choice."""
    return [(0, event) for event in events]


def saying(text: str) -> Events:
    """A run that says one thing."""
    return [TextDelta(text), TurnEnded()]


def mixed(*runs: Events) -> list[tuple[int, FlowEvent]]:
    """Events of several choices, one of each in turn."""
    longest = max(map(len, runs))
    return [(index, run[n]) for n in range(longest) for index, run in enumerate(runs) if n < len(run)]


USAGE = {"stream_options": {"include_usage": True}}
CASES = [
    Case("chat-plain", {**CHAT, "stream": True}, alone(PLAIN)),
    Case("chat-usage", {**CHAT, "stream": True, **USAGE}, alone(PLAIN)),
    Case("chat-usage-estimated", {**CHAT, "stream": True, **USAGE}, alone([*TEXT, *END])),
    Case("chat-agent", {**CHAT, "stream": True, **USAGE}, alone(AGENT)),
    Case("chat-action", {**CHAT, "stream": True}, alone(ACTION)),
    Case("chat-length", {**CHAT, "stream": True}, alone([*TEXT, TurnEnded("length")])),
    Case("chat-filtered", {**CHAT, "stream": True}, alone([*TEXT, TurnEnded("content_filter")])),
    Case("chat-empty", {**CHAT, "stream": True, "stop": "H"}, alone(END)),
    Case(
        "chat-two-choices",
        {**CHAT, "stream": True, "n": 2, **USAGE},
        mixed(PLAIN, [TextDelta("Bye"), UsageReported(1, 2), TurnEnded("length")]),
    ),
    Case("chat-sources", {**CHAT, "stream": True}, alone(SOURCES)),
    Case(
        "chat-sources-footer",
        {**CHAT, "stream": True},
        alone(SOURCES),
        style=Style(annotations=False, footer=True),
    ),
    Case(
        "chat-sources-two-choices",
        {**CHAT, "stream": True, "n": 2},
        mixed(SOURCES, PLAIN),
        style=Style(footer=True),
    ),
    Case("chat-sources-off", {**CHAT, "stream": True}, alone(SOURCES), style=Style(annotations=False)),
    Case("chat-files", {**CHAT, "stream": True}, alone(FILES), style=Style(steps=False, usage=True)),
    Case("completion-sources", {**PROMPT, "stream": True}, alone(SOURCES), style=Style(footer=True)),
    Case("chat-calls", {**CHAT, "stream": True, "tools": TOOLS, **USAGE}, alone([*CALLS, *CALLED])),
    Case(
        "chat-text-and-call",
        {**CHAT, "stream": True, "tools": TOOLS, "n": 2},
        mixed([TextDelta("Let me see. "), CALLS[0], *CALLED], [*TEXT, UsageReported(1, 2), *END]),
    ),
    Case(
        "chat-function-call",
        {**CHAT, "stream": True, "functions": [{"name": "get_weather"}]},
        alone([CALLS[0], *CALLED]),
    ),
    Case(
        "chat-warned",
        {**CHAT, "stream": True},
        alone([*TEXT, Warned("Look out."), Warned("Look out."), UsageReported(1, 2), *END]),
    ),
    Case("completion-plain", {**PROMPT, "stream": True}, alone(PLAIN)),
    Case("completion-usage", {**PROMPT, "stream": True, **USAGE}, alone(AGENT)),
    Case("completion-action", {**PROMPT, "stream": True}, alone(ACTION)),
    Case("completion-echo", {**PROMPT, "stream": True, "echo": True}, alone([*TEXT, TurnEnded("length")])),
    Case(
        "completion-prompts",
        {**PROMPT, "prompt": ["One", "Two"], "n": 2, "echo": True, "stream": True, **USAGE},
        mixed(*(saying(f" is {n}") for n in range(4))),
    ),
]
BROKEN = [
    Case("chat-broken", {**CHAT, "stream": True, **USAGE}, alone(TEXT), RunFailed("It broke.")),
    Case("chat-broken-at-once", {**CHAT, "stream": True}, [], RunFailed("It broke.", code="empty_answer")),
    Case("completion-broken", {**PROMPT, "stream": True}, alone(TEXT), RunFailed("It broke.")),
]


def chunks(stream: bytes) -> list[Any]:
    """The JSON values of a stream, without `[DONE]`."""
    frames = stream.decode().split("\n\n")
    assert frames[-2:] == ["data: [DONE]", ""]
    return [json.loads(frame.removeprefix("data: ")) for frame in frames[:-2]]


def ids(case: Case) -> str:
    """A case's name."""
    return case.name
