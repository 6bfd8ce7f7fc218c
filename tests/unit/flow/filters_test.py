"""Iterators around a run: stop sequences, several runs at once, the fold."""

from __future__ import annotations

import queue
import threading
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from flowise_gateway.flow.errors import BadRequest, FlowiseUnavailable, ProxyError, RateLimited, RunFailed
from flowise_gateway.flow.events import (
    ArtifactMade,
    Batch,
    Batches,
    FlowEvent,
    HumanInputRequested,
    KeepAlive,
    StepStarted,
    TextDelta,
    TurnEnded,
    UsageReported,
)
from flowise_gateway.flow.filters import complete_events, stop_at
from flowise_gateway.flow.parallel import _feed, cancellable_wait, only_choice, run_concurrently
from flowise_gateway.flow.transcript import Transcript
from tests.support.flow_events import events_of

PATIENCE_SECONDS = 20.0


class Run:
    """A scripted run that knows whether it was closed, and how far it was read."""

    def __init__(self, *batches: Batch, error: Exception | None = None) -> None:
        self.batches = list(batches)
        self.error = error
        self.given = 0
        self.closed = threading.Event()

    def __call__(self) -> Batches:
        try:
            for batch in self.batches:
                self.given += 1
                yield batch
            if self.error is not None:
                raise self.error
        finally:
            self.closed.set()


def texts(*deltas: str) -> list[Batch]:
    """A batch for each delta, and the end."""
    batches: list[Batch] = [[TextDelta(delta)] for delta in deltas]
    return [*batches, [TurnEnded("length")]]


def text_of(events: Sequence[FlowEvent]) -> str:
    """The text of a run."""
    return "".join(event.text for event in events if isinstance(event, TextDelta))


def cut(text: str, sequences: Sequence[str]) -> str:
    """What is left of a text that ends before the first of the sequences to be complete."""
    places = [(place + len(s), place) for s in sequences if (place := text.find(s)) >= 0]
    return text[: min(places)[1]] if places else text


LETTERS = "ab\n "
DELTAS = st.lists(st.text(LETTERS, max_size=6), max_size=12)


def check_stopped(deltas: list[str], sequences: list[str]) -> None:
    """Whatever the split, the answer is the text before the first sequence, and the end says so."""
    run = Run(*texts(*deltas))
    text = "".join(deltas)
    events = events_of(stop_at(run(), sequences))
    is_cut = any(sequence in text for sequence in sequences)
    assert text_of(events) == cut(text, sequences)
    assert events[-1] == (TurnEnded("stop", is_cut=True) if is_cut else TurnEnded("length"))
    assert sum(isinstance(event, TurnEnded) for event in events) == 1
    assert run.closed.is_set()


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(DELTAS, st.text(LETTERS, min_size=1, max_size=4))
@example(["a", "a", "b"], "aab")
@example(["aaab"], "aab")
@example(["aa", "b"], "ab")
def test_the_answer_ends_before_a_stop_sequence_however_it_is_split(deltas: list[str], stop: str) -> None:
    check_stopped(deltas, [stop])


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    DELTAS,
    st.integers(1, 4).flatmap(
        lambda size: st.lists(st.text(LETTERS, min_size=size, max_size=size), min_size=1, max_size=4)
    ),
)
def test_the_first_of_several_sequences_of_one_length_ends_the_answer(
    deltas: list[str], sequences: list[str]
) -> None:
    check_stopped(deltas, sequences)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(DELTAS, st.lists(st.text(LETTERS, min_size=1, max_size=4), min_size=1, max_size=4))
@example(["ab", "b"], ["abb", "b"])
def test_the_first_of_several_sequences_ends_the_answer_however_it_is_split(
    deltas: list[str], sequences: list[str]
) -> None:
    check_stopped(deltas, sequences)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.text(LETTERS, max_size=40), st.lists(st.text("xyz", min_size=1, max_size=5), min_size=1))
def test_a_text_without_a_stop_sequence_passes_whole(text: str, sequences: list[str]) -> None:
    assert text_of(events_of(stop_at(Run(*texts(*text))(), sequences))) == text


def test_what_may_begin_a_stop_sequence_is_held_back_until_it_is_known() -> None:
    stopped = stop_at(Run(*texts("one ST", "O", "RM", " STO"))(), ["STOP"])
    assert [batch for batch in stopped] == [  # noqa: C416 - batch by batch is what matters
        [TextDelta("one ")],
        [KeepAlive()],
        [TextDelta("STORM")],
        [TextDelta(" ")],
        [TextDelta("STO"), TurnEnded("length")],
    ]


def test_what_is_held_back_comes_before_the_end_and_after_what_stood_between() -> None:
    run = Run([TextDelta("S"), StepStarted("Agent")], [UsageReported(1, 2), TurnEnded()])
    assert events_of(stop_at(run(), ["STOP"])) == [
        StepStarted("Agent"),
        UsageReported(1, 2),
        TextDelta("S"),
        TurnEnded(),
    ]


def test_a_stop_at_the_very_beginning_leaves_only_the_end() -> None:
    assert events_of(stop_at(Run(*texts("STOP it"))(), ["STOP"])) == [TurnEnded("stop", is_cut=True)]


def test_a_stop_ends_the_run_at_once() -> None:
    run = Run(*texts("one STOP", "two", "three"))
    assert text_of(events_of(stop_at(run(), ["STOP"]))) == "one "
    assert run.given == 1
    assert run.closed.is_set()


def test_events_around_a_stop_keep_their_order() -> None:
    run = Run([StepStarted("a"), TextDelta("one STOP two"), StepStarted("never")])
    assert events_of(stop_at(run(), ["STOP"])) == [
        StepStarted("a"),
        TextDelta("one "),
        TurnEnded("stop", is_cut=True),
    ]


def test_a_failure_passes_through_a_stop_guard_and_closes_the_run() -> None:
    run = Run([TextDelta("a")], error=RunFailed("broken"))
    with pytest.raises(RunFailed, match="broken"):
        events_of(stop_at(run(), ["STOP"]))
    assert run.closed.is_set()


def test_a_guard_that_is_closed_closes_its_run() -> None:
    run = Run(*texts("one", "two"))
    guarded = stop_at(run(), ["STOP"])
    next(guarded)
    assert not run.closed.is_set()
    guarded.close()
    assert run.closed.is_set()
    assert run.given == 1


def test_a_single_run_is_choice_zero() -> None:
    run = Run([TextDelta("a")], [TurnEnded()])
    assert list(only_choice(run())) == [(0, [TextDelta("a")]), (0, [TurnEnded()])]
    assert run.closed.is_set()


def test_closing_a_single_choice_closes_its_run() -> None:
    run = Run(*texts("one", "two"))
    choice = only_choice(run())
    next(iter(choice))
    assert not run.closed.is_set()
    choice.close()
    assert run.closed.is_set()
    assert run.given == 1


def test_runs_side_by_side_each_keep_their_order() -> None:
    runs = [Run(*texts(*(f"{number}:{n} " for n in range(200)))) for number in range(3)]
    transcripts = [Transcript() for _ in runs]
    for number, batch in run_concurrently([run() for run in runs]):
        for event in batch:
            transcripts[number].add(event)
    for number, (run, transcript) in enumerate(zip(runs, transcripts, strict=True)):
        assert transcript.text == "".join(f"{number}:{n} " for n in range(200))
        assert transcript.finish_reason == "length"
        assert run.closed.wait(PATIENCE_SECONDS)


def test_runs_side_by_side_do_run_at_once() -> None:
    meeting = threading.Barrier(3, timeout=PATIENCE_SECONDS)

    def run() -> Batches:
        meeting.wait()
        yield [TurnEnded()]

    assert sorted(number for number, _ in run_concurrently([run(), run(), run()])) == [0, 1, 2]


class Endless(Run):
    """A run that says every moment that it lives, until it is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.is_well_ahead = threading.Event()

    def __call__(self) -> Batches:
        try:
            while True:
                self.given += 1
                if self.given >= 50:
                    self.is_well_ahead.set()
                yield [KeepAlive()]
        finally:
            self.closed.set()


@pytest.mark.parametrize(
    "error", [RunFailed("broken"), ZeroDivisionError()], ids=["foreseen", "not foreseen"]
)
def test_the_first_failure_of_runs_side_by_side_ends_all(error: Exception) -> None:
    endless, failing = Endless(), Run([TextDelta("a")], error=error)
    together = run_concurrently([endless(), failing()])
    with pytest.raises((ProxyError, ZeroDivisionError)) as caught:
        for _ in together:
            pass
    assert caught.value is error
    assert endless.closed.wait(PATIENCE_SECONDS)
    assert failing.closed.wait(PATIENCE_SECONDS)


def test_closing_runs_side_by_side_ends_their_threads() -> None:
    before = set(threading.enumerate())
    runs = [Endless(), Endless()]
    together = run_concurrently([run() for run in runs])
    next(together)
    threads = set(threading.enumerate()) - before
    assert len(threads) <= 2
    together.close()
    for run in runs:
        assert run.closed.wait(PATIENCE_SECONDS)
    for thread in threads:
        thread.join(PATIENCE_SECONDS)
        assert not thread.is_alive()


def test_a_reader_that_stands_still_holds_up_the_runs() -> None:
    run = Endless()
    together = run_concurrently([run()])
    next(together)
    assert run.is_well_ahead.wait(PATIENCE_SECONDS)
    together.close()
    assert run.closed.wait(PATIENCE_SECONDS)
    assert run.given < 100


@pytest.mark.parametrize(("wake", "expected"), [(15.0, 0.25), (0.1, 0.1), (0.0, 0.0)])
def test_a_wake_up_call_comes_no_later_than_asked(wake: float, expected: float) -> None:
    left = threading.Event()
    remaining = cancellable_wait(left, lambda: wake)
    assert remaining() == expected
    left.set()
    with pytest.raises(RunFailed):
        remaining()


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (FlowiseUnavailable("gone"), RunFailed),
        (RateLimited("slow"), RunFailed),
        (BadRequest("wrong"), BadRequest),
        (ZeroDivisionError(), ZeroDivisionError),
    ],
)
def test_a_failure_of_one_among_several_gives_no_leave_to_try_again(
    error: Exception, expected: type[Exception]
) -> None:
    with pytest.raises(expected):
        list(run_concurrently([failing(error)]))


def test_several_runs_that_nobody_ever_reads_do_not_begin() -> None:
    run = Run([TurnEnded()])
    together = run_concurrently([run()])
    together.close()
    assert run.given == 0


def failing(error: Exception, *batches: Batch) -> Batches:
    """A run that fails after these batches."""
    yield from batches
    raise error


def test_questions_and_files_are_completed() -> None:
    question, file = HumanInputRequested({}, ("Yes", "No")), ArtifactMade({}, "b.png")

    def complete(event: HumanInputRequested | ArtifactMade) -> FlowEvent:
        return (
            replace(event, reference="r")
            if isinstance(event, HumanInputRequested)
            else replace(event, url="u")
        )

    batch: Batch = [TextDelta("a"), question, file, TurnEnded()]
    complete_events(batch, complete)
    assert batch == [TextDelta("a"), replace(question, reference="r"), replace(file, url="u"), TurnEnded()]


def test_a_run_that_nobody_waits_for_does_not_begin() -> None:
    left, run = threading.Event(), Run([TurnEnded()])
    left.set()
    _feed(0, run(), queue.Queue(), left)
    assert run.given == 0
