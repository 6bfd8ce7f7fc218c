"""What a flow reports while it runs: one class for each thing that a client may see."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

FinishReason = Literal["stop", "length", "content_filter", "tool_calls"]


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
class FlowToolCalled:
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
class ClientToolCalled:
    """The flow wants a function of the client's to be run; `arguments` is JSON text."""

    call_id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class SourcesFound:
    """Documents the answer rests on, `{pageContent, metadata}` each, each reported once in a run."""

    documents: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True, slots=True)
class ArtifactMade:
    """A file of the run: an artifact `{type, data}` or a file annotation `{filePath, fileName}`.

    `stored` is its name if Flowise keeps it beside the run, `url` where a client can get it, if known.
    Files are reported after the text and the action, whenever they were made.
    """

    artifact: Mapping[str, Any]
    stored: str = ""
    url: str = ""


@dataclass(frozen=True, slots=True)
class HumanInputRequested:
    """The flow stopped and waits for a person's decision between `choices`.

    `reference` is shown with the question, to find the run again where nothing else tells whose it is.
    """

    action: Mapping[str, Any]
    choices: tuple[str, ...]
    reference: str = ""


@dataclass(frozen=True, slots=True)
class UsageReported:
    """Tokens of the run so far; a later event replaces an earlier one."""

    input_tokens: int
    output_tokens: int
    reasoning_tokens: int = 0
    cached_tokens: int = 0


@dataclass(frozen=True, slots=True)
class TurnIdentified:
    """The ids under which Flowise stores the run, as far as it sends them, and the question as it ran."""

    chat_message_id: str | None = None
    session_id: str | None = None
    execution_id: str | None = None
    memory_type: str | None = None
    follow_up_prompts: tuple[str, ...] = ()
    question: str | None = None


@dataclass(frozen=True, slots=True)
class Warned:
    """A warning for the reader of the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class KeepAlive:
    """Nothing new: Flowise's heartbeat, or the time at which the consumer asked to be woken."""


@dataclass(frozen=True, slots=True)
class TurnEnded:
    """The run is over and whole; with `is_cut` the gateway ended it, and Flowise may still be running."""

    reason: FinishReason = "stop"
    is_cut: bool = False


FlowEvent = (
    TextDelta
    | ReasoningDelta
    | StepStarted
    | StepEnded
    | FlowToolCalled
    | ToolUsed
    | ClientToolCalled
    | SourcesFound
    | ArtifactMade
    | HumanInputRequested
    | UsageReported
    | TurnIdentified
    | Warned
    | KeepAlive
    | TurnEnded
)

SUBSTANCE = (TextDelta, ReasoningDelta, ClientToolCalled, HumanInputRequested, ArtifactMade)
"""What an answer consists of; all other events tell about its run."""

TrailEvent = ReasoningDelta | StepStarted | FlowToolCalled | ToolUsed
"""Events that tell how an answer came about."""

Batch = list[FlowEvent]
Batches = Generator[Batch, None, None]
