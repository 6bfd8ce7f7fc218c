"""The pivot: one turn that goes into a flow, the events that come out, and their fold. Leaf, pure values.

A `Turn` is Flowise's own request, typed; a `FlowEvent` is one thing that Flowise reports; a `Transcript` is
what remains when all events of a run are added up. Errors are exceptions (`proxy_errors`), never events.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Literal
from uuid import uuid4

import orjson

HistoryRole = Literal["userMessage", "apiMessage"]
FinishReason = Literal["stop", "length", "content_filter", "tool_calls"]

FLOW_ID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
"""A flow's id in Flowise: a UUID. Nothing else ever stands in a path after `/prediction/`."""

MODEL_ID = re.compile(r"[A-Za-z0-9._:/@-]{1,128}")
"""What a name of a model may look like."""


@dataclass(frozen=True, slots=True)
class HistoryMessage:
    """An earlier message as Flowise takes it: these two roles only, string content only.

    `files` are the digests of what its client attached to it: under another picture it is another message.
    `attached` is what goes before its content: documents as text, notes of what was left out.
    """

    role: HistoryRole
    content: str
    files: tuple[str, ...] = ()
    attached: str = ""

    @property
    def text(self) -> str:
        """All of it."""
        return with_attached(self.attached, self.content)


def with_attached(attached: str, content: str) -> str:
    """A message's text behind that of what was attached to it."""
    return f"{attached}\n\n{content}" if attached else content


@dataclass(frozen=True, slots=True)
class Upload:
    """A file of the turn as Flowise's `uploads[]` has it."""

    type: Literal["file", "url", "audio", "file:full", "file:rag"]
    name: str
    mime: str
    data: str


@dataclass(frozen=True, slots=True)
class Attachment:
    """An upload of a client, the field it came in, and how many messages of the history came before it.

    `is_newest` tells that it came in the last message of the user, `digest` stands for its content.
    """

    upload: Upload
    param: str
    position: int = 0
    is_newest: bool = False
    digest: str = ""


@dataclass(frozen=True, slots=True)
class Turn:
    """One run of a flow. `flow` is a flow id, `instructions` the system text.

    `rules` is what the answer must keep to, told behind the system text: the client's tools, its format.
    `extra` are further fields of Flowise's request, sent as they are.

    Flowise keeps one event stream per `chat_id` over all flows, so two runs at a time must never share one;
    agentflows look there for the pictures of a session, so all its runs have the same, one after the other.
    """

    flow: str
    question: str
    history: tuple[HistoryMessage, ...] = ()
    instructions: str = ""
    uploads: tuple[Upload, ...] = ()
    session_id: str | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)
    human_input: Mapping[str, Any] | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    rules: str = ""
    stream: bool = False
    chat_id: str = field(default_factory=lambda: str(uuid4()))

    @property
    def system_text(self) -> str:
        """The system text and the rules."""
        return "\n\n".join(filter(None, (self.instructions, self.rules)))


@dataclass(frozen=True, slots=True)
class Model:
    """A flow as clients see it: `id` is what they send as model, `created` seconds since 1970.

    `names` are all names it goes by, `fallback` the model to ask if this one cannot be reached. `inputs` are
    the override inputs that the flow has enabled, each with the name of the node type that has it (several
    nodes: one of them), None where Flowise does not tell. `chains_models` tells that it runs several models
    one after the other. The last six are choices of `proxy.yaml`.
    """

    id: str
    flow: str
    name: str
    created: int = 0
    description: str = ""
    type: str = ""
    names: frozenset[str] = frozenset()
    streams: bool | None = None
    takes_images: bool | None = None
    takes_files: bool | None = None
    takes_audio: bool | None = None
    has_memory: bool | None = None
    chains_models: bool = False
    inputs: Mapping[str, str] | None = None
    request_timeout: float | None = None
    fallback: str | None = None
    history: str = "auto"
    system: str = "auto"
    steps: str = "reasoning"
    sources: str = "auto"
    usage: str = "auto"
    tools: str = "report"


@dataclass(frozen=True, slots=True)
class TextDelta:
    """A piece of the answer's text."""

    text: str


@dataclass(frozen=True, slots=True)
class ReasoningDelta:
    """A piece of the model's thinking."""

    text: str


@dataclass(frozen=True, slots=True)
class StepStarted:
    """A node or an agent of the flow began."""

    label: str


@dataclass(frozen=True, slots=True)
class StepEnded:
    """A node or an agent of the flow ended with Flowise's state (FINISHED, STOPPED, ERROR, TERMINATED)."""

    label: str
    state: str
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class ToolCalled:
    """The flow's model asked for a tool of the flow."""

    tool: str
    tool_input: Any


@dataclass(frozen=True, slots=True)
class ToolUsed:
    """A tool of the flow has run."""

    tool: str
    tool_input: Any
    tool_output: Any
    error: str | None = None


@dataclass(frozen=True, slots=True)
class FunctionCalled:
    """The flow wants a function of the client's to be run; `arguments` is JSON text."""

    call_id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class SourcesFound:
    """Documents the answer rests on, `{pageContent, metadata}` each, none told before in this run."""

    documents: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True, slots=True)
class ArtifactMade:
    """A file of the run: an artifact `{type, data}` or a file annotation `{filePath, fileName}`.

    `stored` is its name if Flowise keeps it beside the run, `url` where a client can get it, if known.
    Files are told after the text and the action, whenever they were made.
    """

    artifact: Mapping[str, Any]
    stored: str = ""
    url: str = ""


@dataclass(frozen=True, slots=True)
class ActionAsked:
    """The flow stopped and waits for a person's decision between `choices`.

    `reference` is shown with the question, to find the run again where nothing else tells whose it is.
    """

    action: Mapping[str, Any]
    choices: tuple[str, ...]
    reference: str = ""


@dataclass(frozen=True, slots=True)
class UsageReported:
    """Tokens of the run so far; a later report replaces an earlier one."""

    input_tokens: int
    output_tokens: int
    reasoning_tokens: int = 0
    cached_tokens: int = 0


@dataclass(frozen=True, slots=True)
class TurnIdentified:
    """The ids under which Flowise keeps the run, as far as it told them, and the question as it ran."""

    chat_message_id: str | None = None
    session_id: str | None = None
    execution_id: str | None = None
    memory_type: str | None = None
    follow_up_prompts: tuple[str, ...] = ()
    question: str | None = None


@dataclass(frozen=True, slots=True)
class Warned:
    """Something that whoever reads the answer should know of it."""

    text: str


@dataclass(frozen=True, slots=True)
class KeepAlive:
    """Nothing new: Flowise's heartbeat, or the moment the consumer asked to be woken at."""


@dataclass(frozen=True, slots=True)
class TurnEnded:
    """The run is over and whole; `is_cut` tells that it was ended here, and Flowise may have gone on."""

    reason: FinishReason = "stop"
    is_cut: bool = False


FlowEvent = (
    TextDelta
    | ReasoningDelta
    | StepStarted
    | StepEnded
    | ToolCalled
    | ToolUsed
    | FunctionCalled
    | SourcesFound
    | ArtifactMade
    | ActionAsked
    | UsageReported
    | TurnIdentified
    | Warned
    | KeepAlive
    | TurnEnded
)

TrailEvent = ReasoningDelta | StepStarted | ToolCalled | ToolUsed
"""What tells how an answer came about, in the order it happened."""


_LETTERS: Mapping[type[FlowEvent], bytes] = {
    **dict.fromkeys((ReasoningDelta, StepStarted, ToolCalled, ToolUsed), b"r"),
    FunctionCalled: b"c",
    ArtifactMade: b"a",
    ActionAsked: b"q",
}


@dataclass(slots=True)
class Transcript:
    """The fold of a run's events: the source of every whole body and of a stream's closing frames.

    It prints as the answer's text. `steps` are the nodes and agents that ran, with an empty state while
    Flowise has told no end. `order` has one letter for each event of the lists, as they came.
    """

    chat_id: str = ""
    texts: list[str] = field(default_factory=list)
    trail: list[TrailEvent] = field(default_factory=list)
    calls: list[FunctionCalled] = field(default_factory=list)
    steps: list[StepEnded] = field(default_factory=list)
    sources: list[Mapping[str, Any]] = field(default_factory=list)
    artifacts: list[ArtifactMade] = field(default_factory=list)
    action: ActionAsked | None = None
    usage: UsageReported | None = None
    identity: TurnIdentified = field(default_factory=TurnIdentified)
    warnings: list[str] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    is_cut: bool = False
    order: bytearray = field(default_factory=bytearray)

    def add(self, event: FlowEvent) -> None:  # noqa: C901, PLR0912, PLR0915 - a case for each event
        """Take one event in."""
        if isinstance(event, TextDelta):  # nearly all are
            self.order += b"t"
            self.texts.append(event.text)
            return
        if letter := _LETTERS.get(type(event)):
            self.order += letter
        match event:
            case ReasoningDelta() | ToolCalled() | ToolUsed():
                self.trail.append(event)
            case StepStarted(label):
                self.trail.append(event)
                self.steps.append(StepEnded(label, ""))
            case StepEnded():
                self._end_step(event)
            case FunctionCalled():
                self.calls.append(event)
            case SourcesFound(documents):
                self.sources.extend(documents)
            case ArtifactMade():
                self.artifacts.append(event)
            case ActionAsked():
                self.action = event
            case UsageReported():
                self.usage = event
            case TurnIdentified():
                self.identity = event
            case Warned(text):
                self.warnings.append(text)
            case TurnEnded(reason, is_cut):
                self.finish_reason, self.is_cut = reason, is_cut
            case KeepAlive():
                pass

    def _end_step(self, ended: StepEnded) -> None:
        begun = StepEnded(ended.label, "")
        if begun in self.steps:
            self.steps[self.steps.index(begun)] = ended
        else:
            self.steps.append(ended)

    def events(self) -> Iterator[FlowEvent]:
        """What was said, thought, called, made and asked, in the order it came."""
        kept: Mapping[int, Iterator[FlowEvent]] = {
            ord("t"): map(TextDelta, self.texts),
            ord("r"): iter(self.trail),
            ord("c"): iter(self.calls),
            ord("a"): iter(self.artifacts),
            ord("q"): iter([self.action] if self.action else []),
        }
        for letter in self.order:
            yield from islice(kept[letter], 1)

    @property
    def text(self) -> str:
        """The answer's whole text."""
        return "".join(self.texts)

    @property
    def is_empty(self) -> bool:
        """Whether the run gave nothing a person could see."""
        return not (self.action or self.artifacts or self.calls or any(text.strip() for text in self.texts))

    def __str__(self) -> str:
        """The answer's whole text."""
        return self.text


def json_text(value: Any) -> str:
    """A foreign JSON value as text, whatever it holds; strings as they are."""
    if isinstance(value, str):
        return value
    try:
        return orjson.dumps(value).decode()
    except TypeError:  # deeper or larger numbers than orjson writes, though it reads them
        try:
            return json.dumps(value, default=str)
        except (ValueError, RecursionError):
            return "…"
