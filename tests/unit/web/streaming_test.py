"""A streamed answer: when its status goes out, what keeps it alive, how it ends."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterator
from typing import Any

import orjson
import pytest

from flowise_gateway.flow.errors import FlowiseUnavailable, ProxyError, RunFailed
from flowise_gateway.flow.events import (
    ArtifactMade,
    Batch,
    FlowEvent,
    FlowToolCalled,
    HumanInputRequested,
    KeepAlive,
    ReasoningDelta,
    SourcesFound,
    StepEnded,
    StepStarted,
    TextDelta,
    ToolUsed,
    TurnEnded,
    TurnIdentified,
    UsageReported,
)
from flowise_gateway.flow.parallel import ChoiceBatches
from flowise_gateway.flow.transcript import Transcript
from flowise_gateway.flow.turn import Turn
from flowise_gateway.openai.request import ParsedRequest
from flowise_gateway.web.answer import PendingAnswer, refuse_empty
from flowise_gateway.web.heartbeat import Heartbeat
from flowise_gateway.web.streaming import STEP_HOLD_SECONDS, event_stream
from openai_adapter import ChatRenderer

DONE = b"data: [DONE]\n\n"
Step = tuple[float, Batch]


class Clock:
    """A clock that goes only when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Stage:
    """A scripted run of `(seconds until it comes, batch)`, answered by the code under test."""

    def __init__(self, *script: Step, error: BaseException | None = None, choices: int = 1) -> None:
        self.clock = Clock()
        self.pace = Heartbeat(15, self.clock)
        self.script = script
        self.error = error
        self.taken = 0
        self.is_closed = False
        run = self._run()
        turns = tuple(Turn("f", "q", chat_id=f"c{n}") for n in range(choices))
        renderer = ChatRenderer(
            ParsedRequest("m", turns, stream=True),
            count_tokens=len,
            clock=lambda: 1_700_000_000,
            make_id=lambda prefix: prefix + "1",
        )
        self.transcripts = [Transcript(turn.chat_id) for turn in turns]
        batches = ChoiceBatches(run, run.close)
        self.answer = PendingAnswer(batches, renderer, self.pace, self.transcripts, self._ended, {})

    def begin(self) -> Generator[bytes, None, None]:
        """Answer with a stream."""
        return event_stream(self.answer)

    def _ended(self) -> None:
        refuse_empty(self.transcripts, may_be_cut=True)

    def _run(self) -> Generator[tuple[int, Batch], None, None]:
        try:
            for seconds, batch in self.script:
                self.clock.now += seconds
                self.taken += 1
                yield self.taken % len(self.transcripts), batch
            if self.error is not None:
                raise self.error
        finally:
            self.is_closed = True

    def seconds(self) -> float:
        """How long the run has taken."""
        return self.clock.now - 100.0


def kinds(stream: bytes) -> list[str]:
    """What is in a stream, in order: role, the texts, reasoning, finish, heartbeat, error, DONE."""
    shown = []
    for frame in stream.split(b"\n\n")[:-1]:
        if frame == DONE.strip():
            shown.append("DONE")
        else:
            shown.append(_kind(orjson.loads(frame.removeprefix(b"data: "))))
    return shown


def _kind(chunk: Any) -> str:
    if "error" in chunk:
        return f"error {chunk['error']['code'] or chunk['error']['type']}"
    [choice] = chunk["choices"]
    delta = choice["delta"]
    if choice["finish_reason"]:
        return f"finish {choice['finish_reason']}"
    if not delta:
        return "heartbeat"
    if "role" in delta:
        return "role"
    return f"({delta['reasoning_content'].strip()})" if "reasoning_content" in delta else delta["content"]


TEXT: Batch = [TextDelta("Hello")]
END: Batch = [TurnEnded()]
SILENCE: Batch = [KeepAlive()]
STEP: Batch = [StepStarted("Agent")]


@pytest.mark.parametrize(
    "event",
    [TextDelta("a"), ReasoningDelta("a"), HumanInputRequested({}, ("a",)), ArtifactMade({})],
    ids=lambda event: type(event).__name__,
)
def test_the_first_substance_lets_the_status_out_at_once(event: FlowEvent) -> None:
    stage = Stage((0.1, SILENCE), (0.1, [event]), (0, TEXT), (0, END))
    stage.begin()
    assert stage.taken == 2


@pytest.mark.parametrize(
    "event",
    [
        StepStarted("a"),
        StepEnded("a", "FINISHED"),
        FlowToolCalled("a", 1),
        ToolUsed("a", 1, 2),
        SourcesFound(({},)),
        UsageReported(1, 2),
        TurnIdentified("m"),
        KeepAlive(),
    ],
    ids=lambda event: type(event).__name__,
)
def test_anything_else_holds_the_status_back_so_that_a_failure_becomes_one(event: FlowEvent) -> None:
    stage = Stage((0.1, [event]), (0.1, [event]), error=RunFailed("broken"))
    with pytest.raises(RunFailed):
        stage.begin()
    assert stage.is_closed


def test_what_was_held_back_comes_before_the_first_text() -> None:
    stage = Stage((0.1, STEP), (0.1, [FlowToolCalled("t", 1)]), (0.1, TEXT), (0.1, END))
    stream = stage.begin()
    assert kinds(next(stream)) == ["role", "(▸ Agent)", "(▸ t: 1)", "Hello"]
    assert kinds(b"".join(stream)) == ["finish stop", "DONE"]


def test_a_step_holds_the_status_for_a_second_and_no_longer() -> None:
    stage = Stage((3, STEP), (0.6, SILENCE), (0.39, STEP), (0.02, SILENCE), (1, TEXT), (0, END))
    stream = stage.begin()
    assert stage.seconds() == pytest.approx(4.01)
    assert kinds(next(stream)) == ["role", "(▸ Agent)", "(▸ Agent)"]
    assert kinds(b"".join(stream)) == ["Hello", "finish stop", "DONE"]


def test_a_run_that_shows_a_step_is_asked_to_wake_us_in_time() -> None:
    stage = Stage((3, STEP), (0, TEXT))
    stage.begin()
    assert stage.pace.remaining() == STEP_HOLD_SECONDS


def test_a_failure_within_that_second_is_a_status() -> None:
    stage = Stage((3, STEP), (0.9, SILENCE), error=FlowiseUnavailable("down"))
    with pytest.raises(FlowiseUnavailable):
        stage.begin()


def test_a_silent_run_gets_its_status_when_the_heartbeat_is_due() -> None:
    stage = Stage((14.9, SILENCE), (0.2, SILENCE), (20, TEXT), (0, END))
    stream = stage.begin()
    assert stage.taken == 2
    assert kinds(next(stream)) == ["role"]
    assert kinds(next(stream)) == ["Hello"]


def test_heartbeats_come_when_due_and_only_in_silence() -> None:
    stage = Stage(
        *((0, TEXT), (14, SILENCE), (1, SILENCE), (14, SILENCE), (2, SILENCE), (14, TEXT), (14, SILENCE)),
        (2, [UsageReported(1, 2)]),
        (0, END),
    )
    assert kinds(b"".join(stage.begin())) == [
        *("role", "Hello", "heartbeat", "heartbeat", "Hello", "heartbeat", "finish stop", "DONE")
    ]


def test_heartbeats_of_flowise_are_no_heartbeats_of_ours() -> None:
    stage = Stage((0, TEXT), *((0.1, SILENCE),) * 50, (0, END))
    assert kinds(b"".join(stage.begin())) == ["role", "Hello", "finish stop", "DONE"]


def test_events_that_came_together_go_out_together() -> None:
    stage = Stage(
        (0, [TextDelta("a"), TextDelta("b")]), (0, [TextDelta("c"), StepStarted("x"), TextDelta("d")])
    )
    assert [kinds(piece) for piece in stage.begin()] == [
        ["role", "a", "b"],
        ["c", "(▸ x)", "d"],
        ["finish stop", "DONE"],
    ]


def test_an_answer_that_comes_whole_is_one_piece() -> None:
    stage = Stage((0, [*TEXT, *END]))
    assert [kinds(piece) for piece in stage.begin()] == [["role", "Hello"], ["finish stop", "DONE"]]
    assert stage.transcripts[0].text == "Hello"


@pytest.mark.parametrize(
    "error", [RunFailed("broken"), FlowiseUnavailable("down"), ZeroDivisionError("mine")]
)
@pytest.mark.parametrize("script", [[], [(0.1, SILENCE)], [(0.1, STEP)]], ids=["at once", "silent", "step"])
def test_an_error_before_the_first_byte_is_raised(error: Exception, script: list[Step]) -> None:
    stage = Stage(*script, error=error)
    with pytest.raises((ProxyError, ZeroDivisionError)) as caught:
        stage.begin()
    assert caught.value is error
    assert stage.is_closed


def test_an_error_after_it_is_a_frame_and_the_end_without_a_finish_reason() -> None:
    stage = Stage((0, TEXT), error=RunFailed("It broke", code="flowise_timeout"))
    stream = b"".join(stage.begin())
    assert kinds(stream) == ["role", "Hello", "error flowise_timeout", "DONE"]
    assert b'"finish_reason":"' not in stream
    assert b'"message":"It broke"' in stream


def test_an_error_after_a_heartbeat_is_a_frame_too() -> None:
    stage = Stage((15, SILENCE), error=RunFailed("It broke"))
    assert kinds(b"".join(stage.begin())) == ["role", "error flow_failed", "DONE"]


def test_an_error_nobody_foresaw_tells_nothing_of_itself(caplog: pytest.LogCaptureFixture) -> None:
    stage = Stage((0, TEXT), error=ZeroDivisionError("secret detail"))
    with caplog.at_level(logging.ERROR, "flowise_gateway.web.streaming"):
        stream = b"".join(stage.begin())
    assert kinds(stream) == ["role", "Hello", "error server_error", "DONE"]
    assert b"secret" not in stream
    assert [record.exc_info is not None for record in caplog.records] == [True]


@pytest.mark.parametrize("event", [TextDelta(" \n"), ReasoningDelta("hm")])
def test_an_answer_without_anything_to_see_ends_with_an_error(event: FlowEvent) -> None:
    stream = kinds(b"".join(Stage((0, [event, *END])).begin()))
    assert stream[-2:] == ["error empty_answer", "DONE"]
    assert not any(shown.startswith("finish") for shown in stream)


@pytest.mark.parametrize("batch", [END, [StepStarted("a"), *END], [ToolUsed("t", 1, 2), *END], []])
def test_a_run_that_only_took_steps_is_an_error(batch: Batch) -> None:
    with pytest.raises(RunFailed, match="without an answer"):
        Stage((0, batch)).begin()


def test_an_empty_answer_is_a_status_as_long_as_nothing_was_sent() -> None:
    with pytest.raises(RunFailed) as caught:
        Stage((0.1, SILENCE), (0.1, END)).begin()
    assert caught.value.code == "empty_answer"


def test_an_empty_answer_after_a_heartbeat_is_a_frame() -> None:
    stage = Stage((15, SILENCE), (0, END))
    assert kinds(b"".join(stage.begin())) == ["role", "error empty_answer", "DONE"]


def test_an_answer_that_a_stop_sequence_cut_to_nothing_is_whole() -> None:
    stage = Stage((0, [TurnEnded("stop", is_cut=True)]))
    assert [kinds(piece) for piece in stage.begin()] == [["role", "finish stop", "DONE"]]
    assert stage.is_closed


def test_one_choice_that_says_something_is_enough() -> None:
    refuse_empty([Transcript(), Transcript(texts=["a"])])
    with pytest.raises(RunFailed):
        refuse_empty([Transcript(), Transcript()])
    with pytest.raises(RunFailed):  # cut by nobody's wish
        refuse_empty([Transcript(is_cut=True)])


def test_each_choice_is_added_up_apart() -> None:
    stage = Stage((0, [TextDelta("one")]), (0, [TextDelta("zero")]), choices=2)
    stream = b"".join(stage.begin())
    assert [transcript.text for transcript in stage.transcripts] == ["zero", "one"]
    assert kinds(stream) == ["role", "role", "one", "zero", "finish stop", "finish stop", "DONE"]


def read(count: int) -> Callable[[Iterator[bytes]], None]:
    """A client that reads so many pieces."""

    def reading(stream: Iterator[bytes]) -> None:
        for _ in range(count):
            next(stream)

    return reading


@pytest.mark.parametrize("pieces", [0, 1, 2])
def test_a_client_that_leaves_ends_the_run(pieces: int) -> None:
    stage = Stage((0, TEXT), (0, TEXT), (0, TEXT), (0, END))
    stream = stage.begin()
    read(pieces)(stream)
    assert not stage.is_closed
    stream.close()
    assert stage.is_closed
    assert stage.taken <= 2


def test_a_run_is_closed_when_its_answer_has_ended() -> None:
    stage = Stage((0, TEXT), (0, END))
    read(2)(stage.begin())
    assert stage.is_closed


def test_whoever_waits_for_the_first_byte_and_is_stopped_ends_the_run() -> None:
    stage = Stage((0.1, SILENCE), error=SystemExit())
    with pytest.raises(SystemExit):
        stage.begin()
    assert stage.is_closed


def test_the_pace_counts_from_the_last_write() -> None:
    clock = Clock()
    pace = Heartbeat(15, clock)
    assert pace.remaining() == 15
    clock.now += 10
    assert pace.remaining() == 5
    clock.now += 10
    assert pace.remaining() == 0
    pace.reset()
    assert pace.remaining() == 15


def test_hurry_only_ever_shortens_the_wait() -> None:
    clock = Clock()
    pace = Heartbeat(15, clock)
    pace.due_within(20)
    assert pace.remaining() == 15
    pace.due_within(1)
    assert pace.remaining() == 1
    pace.due_within(3)
    assert pace.remaining() == 1
