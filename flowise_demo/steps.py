"""The steps of which a run of a demo flow consists, and what the flow's nodes see of a call."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from flowise_demo.flows import Flow, Json
from flowise_demo.model import Message
from flowise_demo.scripts import Script, Wait


class RunFailed(Exception):
    """The run ended with this text; the server adds Flowise's prefix."""


@dataclass(frozen=True, slots=True)
class Event:
    """One SSE message of the run; `duration` is a third key that only `thinking` has."""

    name: str
    data: Any
    duration: int | None = None


@dataclass(frozen=True, slots=True)
class Pause:
    """The run takes this long; nothing is sent."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Raw:
    """Bytes inside the stream that no Flowise 3.1.4 would send, or a heartbeat."""

    frame: bytes


@dataclass(frozen=True, slots=True)
class Fault:
    """The connection breaks in this way; the run goes on unheard."""

    name: str


@dataclass(frozen=True, slots=True)
class Answer:
    """The end of a run: what the JSON answer and the stored message are made of."""

    text: str
    extras: Json = field(default_factory=dict)
    entries: list[Json] = field(default_factory=list)
    action: Json | None = None


Step = Event | Pause | Wait | Raw | Fault | Answer
Steps = Iterator[Step]
HEARTBEAT = Raw(b":heartbeat\n\n")


@dataclass(slots=True)
class Execution:
    """A stopped agentflow run that waits for a person."""

    id: str
    entries: list[Json]


@dataclass(frozen=True, slots=True)
class Turn:
    """One call of a flow, as its nodes see it."""

    flow: Flow
    question: Any
    messages: list[Message]  # history, stored messages, question
    script: Script
    token_seconds: float
    human_input: Json | None = None
    execution: Execution | None = None

    @property
    def spoken(self) -> str:
        """The question if it is text, else nothing: what an agentflow's nodes take as input."""
        return self.question if isinstance(self.question, str) else ""
