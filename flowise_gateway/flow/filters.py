"""Changes to a run's events on their way: stop sequences, what replaces an event, links.

Iterators pass on batches (events that arrived together), and close what they read from when they are closed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Container, Sequence

from flowise_gateway.flow.events import (
    ArtifactMade,
    Batch,
    Batches,
    ClientToolCalled,
    FinishReason,
    FlowEvent,
    HumanInputRequested,
    KeepAlive,
    TextDelta,
    TurnEnded,
)


def map_events(batches: Batches, change: Callable[[FlowEvent], Batch]) -> Batches:
    """Put in the place of each event what `change` makes of it, often nothing or the event itself."""
    with contextlib.closing(batches):
        for batch in batches:
            yield [each for event in batch for each in change(event)] or [KeepAlive()]


def stop_at(batches: Batches, sequences: Sequence[str]) -> Batches:
    """End the answer before the first of `sequences` to be complete, however it is split over events.

    The rest of the run is aborted. Calls of tools before the sequence stay calls.
    """
    beginnings = frozenset(sequence[:size] for sequence in sequences for size in range(1, len(sequence)))
    longest = max(map(len, sequences)) - 1
    held = ""
    reason: FinishReason = "stop"
    with contextlib.closing(batches):
        for batch in batches:
            passed: Batch = []
            for event in batch:
                if isinstance(event, (ClientToolCalled, TurnEnded)):
                    passed.extend([TextDelta(held)] if held else [])
                    held, reason = "", "tool_calls"
                if not isinstance(event, TextDelta):
                    passed.append(event)
                    continue
                text = held + event.text
                end = _first_stop(text, sequences)
                if end is not None:
                    passed.extend([TextDelta(text[:end])] if end else [])
                    yield [*passed, TurnEnded(reason, is_cut=True)]
                    return
                kept = _kept_back(text, beginnings, longest)
                held = text[len(text) - kept :]
                if kept < len(text):
                    passed.append(TextDelta(text[: len(text) - kept]))
            yield passed or [KeepAlive()]


def _first_stop(text: str, sequences: Sequence[str]) -> int | None:
    found = [(place + len(sequence), place) for sequence in sequences if (place := text.find(sequence)) >= 0]
    return min(found)[1] if found else None


def _kept_back(text: str, beginnings: Container[str], longest: int) -> int:
    """How many characters at the end of `text` may begin a stop sequence."""
    sizes = range(min(len(text), longest), 0, -1)
    return next((size for size in sizes if text[-size:] in beginnings), 0)


def complete_events(
    batch: Batch, complete: Callable[[HumanInputRequested | ArtifactMade], FlowEvent]
) -> None:
    """Complete, in place, what Flowise cannot know: a question's reference, a file's address."""
    for place, event in enumerate(batch):
        if isinstance(event, (HumanInputRequested, ArtifactMade)):
            batch[place] = complete(event)
