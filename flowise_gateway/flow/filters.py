"""Iterators around a run's events: stop sequences, fallbacks, links.

All of them pass on batches (events that arrived together) and close what they read from when they are closed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Container, Generator, Iterable, Iterator, Sequence

from flowise_gateway.flow.errors import ProxyError
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
    Warned,
)
from flowise_gateway.flow.transcript import Transcript


def map_events(batches: Batches, change: Callable[[FlowEvent], Batch]) -> Batches:
    """Put in the place of each event what `change` makes of it, often nothing or the event itself."""
    with contextlib.closing(batches):
        for batch in batches:
            yield [each for event in batch for each in change(event)] or [KeepAlive()]


def stop_at(batches: Batches, sequences: Sequence[str]) -> Batches:
    """End the answer before the first of `sequences` to be complete, however it is split over events.

    What is left of the run is aborted. Calls before that stay calls.
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
    """How much of the end of `text` may be the beginning of a stop sequence."""
    sizes = range(min(len(text), longest), 0, -1)
    return next((size for size in sizes if text[-size:] in beginnings), 0)


def with_fallback(batches: Batches, other: Callable[[], Batches]) -> Batches:
    """Ask `other` if the run failed and it is certain that nothing has run."""
    if (yield from _until_begun(batches)) is not None:
        with contextlib.closing(other()) as batches:
            yield from batches


def with_undo(batches: Batches, undo: Callable[[], None]) -> Batches:
    """Call `undo` if the run failed and it is certain that nothing has run."""
    error = yield from _until_begun(batches)
    if error is not None:
        undo()
        raise error


def _until_begun(batches: Batches) -> Generator[Batch, None, ProxyError | None]:
    """Give the batches, and in the end the failure of a run of which it is certain that it did not begin."""
    with contextlib.closing(batches):
        try:
            for batch in batches:
                has_spoken = any(not isinstance(event, (KeepAlive, Warned)) for event in batch)
                yield batch
                if has_spoken:
                    break
        except ProxyError as error:
            if not error.nothing_ran:
                raise
            return error
        yield from batches
    return None


def with_file_links(
    batches: Batches, amend: Callable[[HumanInputRequested | ArtifactMade], FlowEvent]
) -> Batches:
    """Let `amend` complete what Flowise cannot know: a question's reference, a file's address."""
    with contextlib.closing(batches):
        for batch in batches:
            for place, event in enumerate(batch):
                if isinstance(event, (HumanInputRequested, ArtifactMade)):
                    batch[place] = amend(event)
            yield batch


def tag_choice(batches: Batches) -> Generator[tuple[int, Batch], None, None]:
    """The batches of a request's only run, as those of choice 0."""
    with contextlib.closing(batches):
        for batch in batches:
            yield 0, batch


def collect(batches: Iterable[tuple[int, Batch]], transcripts: Sequence[Transcript]) -> Iterator[None]:
    """Add all events up in `transcripts`, one for each run; a step for each batch."""
    for number, batch in batches:
        for event in batch:
            transcripts[number].add(event)
        yield
