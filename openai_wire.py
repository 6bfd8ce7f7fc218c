"""What the OpenAI surfaces share: frames of an event stream, the renderer's protocol, ids, usage. Leaf."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, NotRequired, Protocol, TypedDict

import orjson

from flow_turn import (
    ActionAsked,
    ArtifactMade,
    Attachment,
    FlowEvent,
    Model,
    ReasoningDelta,
    StepStarted,
    TextDelta,
    ToolCalled,
    ToolUsed,
    Transcript,
    Turn,
    json_text,
)
from openai_files import artifact_text
from openai_formats import JsonFormat
from openai_sources import Annotation
from openai_tools import ClientTools
from openai_vendor import FlowiseDetails
from proxy_errors import ErrorObject, ProxyError, error_body
from proxy_turns import turn_before


class Frame(NamedTuple):
    """One event of a server-sent stream before it is bytes; `data` is one line."""

    data: bytes
    event: str | None = None


DONE = Frame(b"[DONE]")
COMMENT = b": keep-alive\n"
"""A sign of life that is no event. No empty line follows: openai-go before 3.43 takes that for an event
without data, and ends the stream."""


def stream_bytes(frames: Iterable[Frame]) -> bytes:
    """The bytes of frames: LF only, an event never split over two writes (open-responses.md §4)."""
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
    """JSON with the line ends of Unicode escaped in its texts.

    JSON may hold them as they are, but Python's readers of lines (httpx, requests) end a line there: a flow's
    text could forge an event, `[DONE]` too.
    """
    if raw.isascii() or not (b"\xe2\x80" in raw or b"\xc2\x85" in raw):
        return raw
    return (
        raw.replace(b"\xe2\x80\xa8", b"\\u2028")
        .replace(b"\xe2\x80\xa9", b"\\u2029")
        .replace(b"\xc2\x85", b"\\u0085")
    )


def json_bytes(value: Any) -> bytes:
    """A body of ours."""
    raw = orjson.dumps(value)
    turn_before(len(raw))
    return on_one_line(raw)


def error_frame(error: ProxyError) -> Frame:
    """A failure in the middle of a stream, as the OpenAI SDKs raise it: `data: {"error": {…}}`."""
    return Frame(orjson.dumps(error_body(error)))


def failed_response(number: int, error: ErrorObject, response: Mapping[str, Any]) -> list[Frame]:
    """The two events that end the stream of a failed response.

    LangChain and pydantic-ai take `response.failed` for a success and raise at `error` alone, whose fields
    are flat in OpenAI's contract and nested in Open Responses'.
    """
    flat = {name: error[name] for name in ("code", "message", "param")}
    events: list[dict[str, Any]] = [
        {"type": "error", "sequence_number": number, **flat, "error": error},
        {"type": "response.failed", "sequence_number": number + 1, "response": response},
    ]
    return [Frame(orjson.dumps(event), event["type"]) for event in events]


def new_id(prefix: str) -> str:
    """An unguessable id such as `chatcmpl-9f86d081884c7d659a2feaa0`."""
    return prefix + os.urandom(12).hex()


@dataclass(frozen=True, slots=True)
class ParsedRequest:
    """A request of any surface: one turn for each choice to come, its `flow` still the model's name.

    `said` is the question as the client has it (the turns' own is never empty), `left_out` the kinds of what
    could not be read of earlier messages. `conversation` and `user` are the client's ids; `resends` tells
    that it always sends the whole conversation. `parameters` are OpenAI's fields that a flow may or may not
    obey, `passed` Flowise's own fields. `is_conversation` tells that another request may go on from the
    answer, `tools` and `format` what it must keep to.

    The last nine are of Responses alone: `input_items` is the input made whole, `echo` what the answer
    repeats of the request, `conversation_id` its field `conversation`, `response_id` the answer's own id, if
    it is to be known before. Where `generates` is false, the request is kept to be gone on from, and nothing
    runs.
    """

    model: str
    turns: tuple[Turn, ...]
    stream: bool = False
    include_usage: bool = False
    stop: tuple[str, ...] = ()
    prefixes: tuple[str, ...] = ()
    said: str = ""
    attachments: tuple[Attachment, ...] = ()
    left_out: tuple[str, ...] = ()
    conversation: str = ""
    user: str = ""
    resends: bool = False
    parameters: Mapping[str, Any] = field(default_factory=dict)
    passed: Mapping[str, Any] = field(default_factory=dict)
    is_conversation: bool = False
    tools: ClientTools | None = None
    format: JsonFormat | None = None
    previous_response_id: str = ""
    conversation_id: str = ""
    store: bool = False
    background: bool = False
    input_items: tuple[Mapping[str, Any], ...] = ()
    include: tuple[str, ...] = ()
    echo: Mapping[str, Any] = field(default_factory=dict)
    response_id: str = ""
    generates: bool = True


class TokensDetails(TypedDict):
    """Details of the completion's tokens."""

    reasoning_tokens: int


class PromptTokensDetails(TypedDict):
    """Details of the prompt's tokens."""

    cached_tokens: int


class Usage(TypedDict):
    """OpenAI's `CompletionUsage`."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: TokensDetails


class CalledFunction(TypedDict):
    """A function of the client's with its arguments, which are JSON text."""

    name: str
    arguments: str


class ToolCall(TypedDict):
    """A call of a client's tool."""

    id: str
    type: Literal["function"]
    function: CalledFunction


class ChatMessage(TypedDict):
    """The message of a choice; `function_call` is what `tool_calls` was before."""

    role: Literal["assistant"]
    content: str | None
    refusal: None
    tool_calls: NotRequired[list[ToolCall]]
    function_call: NotRequired[CalledFunction]
    reasoning_content: NotRequired[str]
    annotations: NotRequired[list[Annotation]]


class ChatChoice(TypedDict):
    """A choice of a chat completion."""

    index: int
    message: ChatMessage
    logprobs: None
    finish_reason: str


class ChatCompletion(TypedDict):
    """The body of a chat completion; with `conversation_id` a client may send only what is new."""

    conversation_id: NotRequired[str]
    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    metadata: dict[str, str]
    flowise: FlowiseDetails


class CompletionChoice(TypedDict):
    """A choice of a legacy completion."""

    text: str
    index: int
    logprobs: None
    finish_reason: str


class Completion(TypedDict):
    """The body of a legacy completion."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage
    flowise: FlowiseDetails


def model_body(model: Model) -> dict[str, Any]:
    """A model as OpenAI lists it, with the keys that Azure's clients read beside them."""
    return {
        "id": model.id,
        "object": "model",
        "created": model.created,
        "owned_by": "flowise",
        "permission": [],
        "root": model.id,
        "parent": None,
        "provider": "flowise",
        "name": model.name,
        "description": model.description,
        "type": model.type,
        "status": "succeeded",
        "created_at": model.created,
        "lifecycle_status": "generally-available",
        "capabilities": {
            "chat_completion": True,
            "completion": True,
            "embeddings": False,
            "inference": True,
            "streaming": model.streams,
            "vision": model.takes_images,
            "files": model.takes_files,
            "memory": model.has_memory,
        },
    }


def deployment_body(model: Model) -> dict[str, Any]:
    """A model as Azure's list of deployments has it (data plane, 2022-12-01)."""
    return {
        "object": "deployment",
        "id": model.id,
        "model": model.id,
        "status": "succeeded",
        "owner": "flowise",
        "created_at": model.created,
        "updated_at": model.created,
        "scale_settings": {"scale_type": "standard"},
    }


class Renderer(Protocol):
    """Turns events of one request, whose choices run side by side, into one surface's wire."""

    def opening(self) -> list[Frame]:
        """Give the frames that begin a stream."""

    def chunks(self, event: FlowEvent, index: int = 0) -> list[Frame]:
        """Give the frames that one event of choice `index` becomes, often none."""

    def heartbeat(self) -> bytes:
        """Give what shows a silent stream to be alive."""

    def closing(self, transcripts: Sequence[Transcript]) -> list[Frame]:
        """Give the frames that end a whole stream, one transcript for each choice."""

    def failure(self, error: ProxyError) -> list[Frame]:
        """Give the frames that end a broken stream."""

    def body(self, transcripts: Sequence[Transcript]) -> Mapping[str, Any]:
        """Give the body of an answer that is not streamed."""


def reasoning_text(event: FlowEvent, *, steps: bool = True, before: str = "") -> str:
    """What an event tells about how the answer came about: thoughts as they are, else one readable line.

    Without `steps` thoughts alone. `before` is what was told last: a thought ends anywhere in a line.
    """
    if isinstance(event, ReasoningDelta):
        return event.text
    line = _step_line(event) if steps else ""
    return f"\n{line}" if line and before and not before.endswith("\n") else line


def _step_line(event: FlowEvent) -> str:
    if isinstance(event, StepStarted):
        return f"▸ {_one_line(event.label)}\n" if event.label else ""
    if isinstance(event, ToolCalled):
        return f"▸ {_one_line(event.tool)}: {_one_line(event.tool_input)}\n"
    if isinstance(event, ToolUsed):
        outcome = f"failed: {_one_line(event.error)}" if event.error else _one_line(event.tool_output)
        return f"▸ {_one_line(event.tool)} → {outcome}\n"
    return ""


_DECISION = "(Waiting for your decision: "


def answer_text(event: FlowEvent, *, is_first: bool = False) -> str:
    """What an event adds to the answer a person reads: text, or a paragraph set apart unless it is first."""
    if isinstance(event, TextDelta):
        return event.text
    paragraph = ""
    if isinstance(event, ActionAsked) and event.choices:
        reference = f" · {event.reference}" if event.reference else ""
        paragraph = f"\n\n{_DECISION}{' / '.join(event.choices)}{reference})"
    elif isinstance(event, ArtifactMade):
        paragraph = artifact_text(event)
    return paragraph.removeprefix("\n\n") if is_first else paragraph


def without_decision(text: str) -> str:
    """An answer without the line that asks for a decision at its end."""
    return text.rpartition(_DECISION)[0].rstrip()


def whole_text(transcript: Transcript) -> str:
    """The answer a person reads; the same as the joined text of its stream."""
    texts = [text] if (text := transcript.text) else []
    told: list[FlowEvent] = [transcript.action] if transcript.action else []
    for event in [*told, *transcript.artifacts]:
        if more := answer_text(event, is_first=not texts):
            texts.append(more)
    return "".join(texts)


def whole_reasoning(transcript: Transcript, *, steps: bool = True) -> str:
    """All that was told about how the answer came about."""
    texts: list[str] = []
    for event in transcript.trail:
        if text := reasoning_text(event, steps=steps, before=texts[-1] if texts else ""):
            texts.append(text)
    return "".join(texts)


def usage_of(turns: Sequence[Turn], transcripts: Sequence[Transcript], count: Callable[[str], int]) -> Usage:
    """Tokens of all choices: Flowise's own figures where it reports any, else counted from the texts."""
    prompt = completion = reasoning = cached = 0
    for turn, transcript in zip(turns, transcripts, strict=True):
        reported = transcript.usage
        if reported is None:
            asked = (turn.system_text, *(m.content for m in turn.history), turn.question)
            turn_before(sum(map(len, asked)))
            prompt += count("\n".join(asked))
            called = [part for call in transcript.calls for part in (call.name, call.arguments)]
            completion += count("".join([transcript.text, *called]))
            thoughts = whole_reasoning(transcript, steps=False)
            thought = count(thoughts) if thoughts else 0
            completion += thought
            reasoning += thought
        else:
            prompt += reported.input_tokens
            completion += reported.output_tokens
            reasoning += reported.reasoning_tokens
            cached += reported.cached_tokens
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached},
        "completion_tokens_details": {"reasoning_tokens": reasoning},
    }


def _one_line(value: Any, limit: int = 300) -> str:
    text = " ".join(json_text(value).split())
    return text if len(text) <= limit else text[:limit] + "…"
