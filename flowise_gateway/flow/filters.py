"""Filters on the events of a run: stop sequences, replaced events, links.

Each is an iterator over batches (events that arrived together) that closes its source when it is closed.
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
    """Replace each event by the events that `change` returns, often none or the event itself."""
    with contextlib.closing(batches):
        for batch in batches:
            yield [each for event in batch for each in change(event)] or [KeepAlive()]


def stop_at(batches: Batches, sequences: Sequence[str]) -> Batches:
    """End the answer before the first stop sequence, even if it is split over events.

    The rest of the run is aborted. Tool calls before the sequence are kept.
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
    """Set the fields that Flowise cannot know: the reference of a question, the URL of a file."""
    for place, event in enumerate(batch):
        if isinstance(event, (HumanInputRequested, ArtifactMade)):
            batch[place] = complete(event)
