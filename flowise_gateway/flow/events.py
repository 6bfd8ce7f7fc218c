"""The events of a running flow."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

FinishReason = Literal["stop", "length", "content_filter", "tool_calls"]


@dataclass(frozen=True, slots=True)
class TextDelta:
    """Text of the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class ReasoningDelta:
    """Text of the model's reasoning."""

    text: str


@dataclass(frozen=True, slots=True)
class StepStarted:
    """A node or an agent of the flow has started."""

    label: str


@dataclass(frozen=True, slots=True)
class StepEnded:
    """A node or an agent of the flow ended with Flowise's state (FINISHED, STOPPED, ERROR, TERMINATED)."""

    label: str
    state: str
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class FlowToolCalled:
    """The flow's model called a tool of the flow."""

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
    """The flow called a tool of the client; `arguments` is JSON text."""

    call_id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class SourcesFound:
    """Source documents of the answer, each `{pageContent, metadata}` and reported once per run."""

    documents: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True, slots=True)
class ArtifactMade:
    """A file of the run: an artifact `{type, data}` or a file annotation `{filePath, fileName}`.

    `stored` is its name if Flowise stores it with the run, `url` the address for clients, if known.
    Files are reported after the text and the action, whenever they were generated.
    """

    artifact: Mapping[str, Any]
    stored: str = ""
    url: str = ""


@dataclass(frozen=True, slots=True)
class HumanInputRequested:
    """The flow stopped and waits until a person selects one of `choices`.

    `reference` is shown with the question; it identifies the run if the client sends no other id.
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
    """The ids under which Flowise stores the run, if it sends them, and the question that was run."""

    chat_message_id: str | None = None
    session_id: str | None = None
    execution_id: str | None = None
    memory_type: str | None = None
    follow_up_prompts: tuple[str, ...] = ()
    question: str | None = None


@dataclass(frozen=True, slots=True)
class Warned:
    """A warning that is returned with the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class KeepAlive:
    """A heartbeat from Flowise, or the time at which the consumer asked to be woken."""


@dataclass(frozen=True, slots=True)
class TurnEnded:
    """The run is complete; with `is_cut`, the gateway ended it, and Flowise may still be running."""

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
"""Events with parts of the answer; all others describe the run."""

TrailEvent = ReasoningDelta | StepStarted | FlowToolCalled | ToolUsed
"""Events that describe how an answer was produced."""

Batch = list[FlowEvent]
Batches = Generator[Batch, None, None]
