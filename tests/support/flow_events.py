"""Events of a flow's run that several tests use, runs that give them, and what they add up to."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from flowise_gateway.flow.events import (
    Batches,
    FlowEvent,
    HumanInputRequested,
    TextDelta,
    ToolUsed,
    TurnEnded,
    TurnIdentified,
)
from flowise_gateway.flow.transcript import Transcript

Events = Sequence[FlowEvent]
TEXT: Events = [TextDelta("Hello"), TextDelta(", wörld 🙂\n"), TextDelta('"\u2028{}')]
END: Events = [TurnIdentified("msg-1", "session-1"), TurnEnded("stop")]
IDENTIFIED = TurnIdentified("msg-1", "session-1", "exec-1", "Buffer Memory", ("And 7*8?",))
USED = ToolUsed("calculator", {"input": "6*7"}, "42")
ACTION: Events = [
    TextDelta("Shall I go on?"),
    HumanInputRequested({"id": "act-1", "data": {"secret": 1}}, ("Proceed", "Reject")),
    *END,
]


def run_of(pieces: Iterable[str], end: TurnEnded | None = None) -> Batches:
    """A run that says these pieces, each in a batch of its own."""
    for piece in pieces:
        yield [TextDelta(piece)]
    yield [end or TurnEnded()]


def events_of(batches: Batches) -> list[FlowEvent]:
    """All events of a run."""
    return [event for batch in batches for event in batch]


def transcript_of(events: Iterable[FlowEvent], chat_id: str = "") -> Transcript:
    """What the events of a run add up to."""
    transcript = Transcript(chat_id)
    for event in events:
        transcript.add(event)
    return transcript
