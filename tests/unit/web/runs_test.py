"""The runs of a request: counted, completed, undone or answered by another model where nothing has run."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from flowise_gateway.access.keys import Caller
from flowise_gateway.access.models import Models
from flowise_gateway.conversation.planner import Plan
from flowise_gateway.conversation.sessions import ContinuedTurn
from flowise_gateway.flow.errors import FlowiseUnavailable, ModelNotFound, ProxyError, RunFailed
from flowise_gateway.flow.events import ArtifactMade, Batch, Batches, KeepAlive, TextDelta, TurnEnded, Warned
from flowise_gateway.flow.model import Model
from flowise_gateway.flow.request_summary import RequestSummary
from flowise_gateway.flow.transcript import Transcript
from flowise_gateway.flow.turn import Turn
from flowise_gateway.flowise.run import RunState
from flowise_gateway.openai.request import ParsedRequest
from flowise_gateway.telemetry.metrics import Metrics
from flowise_gateway.web.answer import PendingAnswer
from flowise_gateway.web.heartbeat import Heartbeat
from flowise_gateway.web.runs import Runs
from flowise_gateway.web.services import Services
from openai_adapter import ChatRenderer
from tests.support.metrics_text import Scrape

FIRST, SECOND = "5518949f-3ebc-4082-af01-fa2a18623da6", "5518949f-3ebc-4082-af01-fa2a18623da7"
MODEL = Model("first", FIRST, "First", type="CHATFLOW")
WITH_FALLBACK = replace(MODEL, fallback="second")
OTHER = Model("second", SECOND, "Second", type="CHATFLOW")
GONE = FlowiseUnavailable("gone")
CALLER = Caller("key")
ANSWER: Batch = [TextDelta("mine"), TurnEnded()]
Script = tuple[list[Batch], Exception | None]


class Stage:
    """Scripted flows, and what became of their runs."""

    def __init__(self, *, taken: bool = False, stop: tuple[str, ...] = (), **scripts: Script) -> None:
        self.scripts = {FIRST: scripts.get("first"), SECOND: scripts.get("second")}
        self.metrics = Metrics()
        self.summary = RequestSummary()
        self.undone: list[Plan] = []
        self.asked: list[Turn] = []
        self.closed: list[str] = []
        turn = Turn("first", "Hi", stream=True, chat_id="c")
        self.parsed = ParsedRequest("first", (turn,), stream=True, stop=stop)
        continued = cast("ContinuedTurn", SimpleNamespace(taken=taken)) if taken else None
        self.plan = Plan((turn,), continued=continued)
        self.services = cast(
            "Services",
            SimpleNamespace(
                metrics=self.metrics,
                planner=SimpleNamespace(rollback=self.undone.append, replan_for_fallback=self._replan),
                client=self._client,
                admit_fallback=lambda _model, _summary: None,
            ),
        )

    def _client(self, _model: Model, caller: Caller) -> Any:
        assert caller is CALLER
        return SimpleNamespace(batches=self._batches)

    def _batches(self, turn: Turn, *, wake: Callable[[], float], state: RunState, **_: Any) -> Batches:
        self.asked.append(turn)
        state.may_have_begun = True  # as a client notes when it sends the run
        script = self.scripts[turn.flow]
        assert script is not None
        try:
            for batch in script[0]:
                assert wake() >= 0
                yield list(batch)
            if script[1] is not None:
                state.may_have_begun = not getattr(script[1], "nothing_ran", False)
                raise script[1]
        finally:
            self.closed.append(turn.flow)

    @staticmethod
    def _replan(plan: Plan, turn: Turn, *_: Any) -> tuple[Turn, str]:
        return turn, "a file was left out"

    def _resolve(self, name: str) -> Model:
        if name != "second" or self.scripts[SECOND] is None:
            raise ModelNotFound(name)
        return OTHER

    def answer(self, model: Model) -> PendingAnswer:
        """An answer by the model, ready to begin."""
        models = cast("Models", SimpleNamespace(resolve=self._resolve))

        def resolver(model: Model, chat_id: str) -> Callable[[Any], Any]:
            return lambda event: replace(event, url=f"{model.flow}/{chat_id}")

        runs = Runs(self.parsed, self.plan, self.services, models, CALLER, {}, self.summary, resolver)
        heartbeat = Heartbeat(15)
        transcripts = [Transcript(turn.chat_id) for turn in self.plan.turns]
        renderer = ChatRenderer(self.parsed, count_tokens=len)
        batches = runs.batches(model, heartbeat)
        return PendingAnswer(batches, renderer, heartbeat, transcripts, lambda: None, {})

    def run(self, model: Model) -> Transcript:
        """The transcript of a whole answer."""
        answer = self.answer(model)
        for _ in answer.steps():
            pass
        return answer.transcripts[0]

    def counted(self, **labels: str) -> float:
        """How many runs ended so."""
        return Scrape(self.metrics.text().decode()).sum("runs_total", **labels)


@pytest.mark.parametrize("before", [[], [[KeepAlive()]], [[Warned("late")]]])
def test_another_model_answers_if_nothing_has_run(before: list[Batch]) -> None:
    stage = Stage(first=(before, GONE), second=([ANSWER], None), taken=True)
    transcript = stage.run(WITH_FALLBACK)
    assert transcript.text == "mine"
    assert transcript.warnings[-1] == "a file was left out"
    assert stage.closed == [FIRST, SECOND]
    assert stage.asked[0].chat_id == "c" != stage.asked[1].chat_id
    assert (stage.summary.fallback, stage.summary.outcome) == ("second", "")
    assert not stage.undone
    assert stage.counted(result="flowise_unavailable") == stage.counted(result="ok") == 1


@pytest.mark.parametrize(("error", "before"), [(RunFailed("broke"), []), (GONE, [[TextDelta("a")]])])
def test_no_other_model_answers_if_something_may_have_run(error: ProxyError, before: list[Batch]) -> None:
    stage = Stage(first=(before, error), second=([ANSWER], None), taken=True)
    with pytest.raises(type(error)):
        stage.run(WITH_FALLBACK)
    assert len(stage.asked) == 1
    assert (stage.summary.fallback, stage.summary.outcome) == ("", error.code or error.type)
    assert not stage.undone


def test_a_run_that_answers_needs_no_other() -> None:
    stage = Stage(first=([ANSWER], None))
    assert stage.run(WITH_FALLBACK).text == "mine"
    assert (stage.summary.fallback, stage.summary.outcome) == ("", "")


@pytest.mark.parametrize(
    ("error", "before", "undone"),
    [(GONE, [[KeepAlive()]], 1), (GONE, [[TextDelta("a")]], 0), (RunFailed("broke"), [], 0)],
)
def test_what_was_taken_is_put_back_if_nothing_has_run(
    error: ProxyError, before: list[Batch], undone: int
) -> None:
    stage = Stage(first=(before, error), taken=True)
    with pytest.raises(type(error)):
        stage.run(MODEL)
    assert len(stage.undone) == undone


def test_a_fallback_that_the_caller_may_not_use_changes_nothing_of_the_failure() -> None:
    stage = Stage(first=([], GONE), taken=True)
    with pytest.raises(type(GONE)):
        stage.run(WITH_FALLBACK)
    assert not stage.summary.fallback
    assert len(stage.undone) == 1


def test_a_run_is_counted_though_its_end_is_interrupted() -> None:
    class Interrupted(BaseException):
        """As gevent's kill is: no Exception."""

    stage = Stage(first=([ANSWER, ANSWER], None))
    answer = stage.answer(MODEL)
    steps = answer.steps()
    next(steps)

    def interrupted() -> None:
        raise Interrupted

    stage.closed = cast("list[str]", SimpleNamespace(append=lambda _flow: interrupted()))
    with pytest.raises(Interrupted):
        steps.close()
    assert stage.counted(result="aborted") == 1


def test_what_was_taken_is_put_back_if_the_fallback_does_not_run_either() -> None:
    stage = Stage(first=([], GONE), second=([[KeepAlive()]], GONE), taken=True)
    with pytest.raises(FlowiseUnavailable):
        stage.run(WITH_FALLBACK)
    assert stage.undone == [stage.plan]
    stage = Stage(first=([], GONE), taken=True)
    with pytest.raises(FlowiseUnavailable):
        stage.run(WITH_FALLBACK)
    assert stage.undone == [stage.plan]


def test_without_a_session_nothing_is_put_back() -> None:
    stage = Stage(first=([], GONE))
    with pytest.raises(FlowiseUnavailable):
        stage.run(MODEL)
    assert not stage.undone


def test_a_run_that_gives_only_signs_of_life_is_passed_on() -> None:
    stage = Stage(first=([[KeepAlive()]], None), taken=True)
    answer = stage.answer(MODEL)
    assert [batch for batch, _ in answer.steps()] == [[KeepAlive()]]
    assert not stage.undone


def test_files_of_a_run_get_the_links_of_its_flow_and_chat() -> None:
    stage = Stage(first=([[ArtifactMade({}, "b.png")], ANSWER], None))
    assert [made.url for made in stage.run(MODEL).artifacts] == [f"{FIRST}/c"]


def test_a_run_cut_by_a_stop_sequence_is_counted_as_aborted_and_closed() -> None:
    stage = Stage(first=([[TextDelta("one STOP")], ANSWER], None), stop=("STOP",))
    assert stage.run(MODEL).text == "one "
    assert stage.closed == [FIRST]
    assert stage.counted(result="aborted") == 1


@pytest.mark.parametrize("after", [1, 2])
def test_a_run_that_nobody_wants_any_more_is_closed_and_counted_as_aborted(after: int) -> None:
    stage = Stage(first=([[KeepAlive()], [TextDelta("a")], ANSWER], None), taken=True)
    steps = stage.answer(MODEL).steps()
    for _ in range(after):
        next(steps)
    steps.close()
    assert stage.closed == [FIRST]
    assert stage.counted(result="aborted") == 1
    assert not stage.undone


def test_a_run_that_was_never_begun_is_not_counted() -> None:
    stage = Stage(first=([ANSWER], None))
    stage.answer(MODEL).batches.close()
    assert not stage.asked
    assert stage.counted() == 0


def test_a_canned_answer_runs_nothing() -> None:
    stage = Stage()
    stage.plan = replace(stage.plan, canned_events=tuple(ANSWER))
    assert stage.run(MODEL).text == "mine"


def test_choices_run_at_once_and_each_has_its_number() -> None:
    stage = Stage(first=([[TextDelta("a")], [TurnEnded()]], None))
    stage.parsed = replace(stage.parsed, turns=stage.parsed.turns * 3)
    stage.plan = replace(stage.plan, turns=stage.plan.turns * 3)
    answer = stage.answer(MODEL)
    assert sum(len(frames) for _, frames in answer.steps()) == 3
    assert [transcript.text for transcript in answer.transcripts] == ["a"] * 3
    assert threading.active_count() >= 1
    assert stage.counted(result="ok") == 3


def test_a_body_needs_no_frames() -> None:
    answer = Stage(first=([ANSWER], None)).answer(MODEL)
    assert [frames for _, frames in answer.steps(renders=False)] == [[]]
    assert answer.transcripts[0].text == "mine"
