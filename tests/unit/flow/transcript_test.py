"""The turn and the fold of its events."""

from __future__ import annotations

import dataclasses
from typing import get_args

import pytest

from flowise_gateway.flow.events import (
    ArtifactMade,
    ClientToolCalled,
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
    Warned,
)
from flowise_gateway.flow.lenient_json import json_text
from flowise_gateway.flow.transcript import Transcript
from flowise_gateway.flow.turn import Turn
from tests.support.flow_events import transcript_of

ACTION = HumanInputRequested({"id": "a1"}, ("Proceed", "Reject"))
ONE_OF_EACH: list[FlowEvent] = [
    TextDelta("Hello"),
    ReasoningDelta("hm"),
    StepStarted("Agent"),
    StepEnded("Agent", "FINISHED"),
    FlowToolCalled("calculator", {"input": "6*7"}),
    ToolUsed("calculator", {"input": "6*7"}, "42"),
    ClientToolCalled("call_1", "look_up", '{"sku":"7"}'),
    SourcesFound(({"pageContent": "a"}, {"pageContent": "b"})),
    ArtifactMade({"type": "png", "data": "x"}),
    ACTION,
    UsageReported(1, 2),
    TurnIdentified("m1", "s1"),
    Warned("Look out."),
    KeepAlive(),
    TurnEnded("length"),
]


def folded(*events: FlowEvent) -> Transcript:
    """The transcript of these events."""
    return transcript_of(events, "c1")


def test_the_list_of_these_tests_holds_every_event() -> None:
    assert {type(event) for event in ONE_OF_EACH} == set(get_args(FlowEvent))


def test_steps_end_in_the_order_they_began_and_may_end_unannounced() -> None:
    transcript = folded(
        StepStarted("One"), StepStarted("One"), StepStarted("Two"), StepEnded("One", "FINISHED", 0.5)
    )
    assert transcript.steps == [StepEnded("One", "FINISHED", 0.5), StepEnded("One", ""), StepEnded("Two", "")]
    transcript.add(StepEnded("Three", "ERROR"))
    assert transcript.steps[-1] == StepEnded("Three", "ERROR")


def test_a_transcript_keeps_each_thing_in_its_place() -> None:
    transcript = folded(*ONE_OF_EACH)

    assert transcript.text == str(transcript) == "Hello"
    assert transcript.trail == [ONE_OF_EACH[1], ONE_OF_EACH[2], ONE_OF_EACH[4], ONE_OF_EACH[5]]
    assert transcript.steps == [StepEnded("Agent", "FINISHED")]
    assert transcript.sources == [{"pageContent": "a"}, {"pageContent": "b"}]
    assert transcript.artifacts == [ArtifactMade({"type": "png", "data": "x"})]
    assert transcript.action is ACTION
    assert transcript.usage == UsageReported(1, 2)
    assert transcript.warnings == ["Look out."]
    assert transcript.identity == TurnIdentified("m1", "s1")
    assert transcript.finish_reason == "length"
    assert transcript.chat_id == "c1"


def test_text_is_joined_in_order_without_anything_between() -> None:
    assert folded(TextDelta("a"), KeepAlive(), TextDelta(" b"), TextDelta("c")).text == "a bc"


def test_sources_add_up_and_usage_is_replaced() -> None:
    transcript = folded(
        SourcesFound(({"pageContent": "a"},)),
        SourcesFound(({"pageContent": "b"},)),
        UsageReported(1, 2),
        UsageReported(30, 40, 5, 6),
    )
    assert [source["pageContent"] for source in transcript.sources] == ["a", "b"]
    assert transcript.usage == UsageReported(30, 40, 5, 6)


def test_what_was_kept_can_be_told_again_in_its_order() -> None:
    events = [*ONE_OF_EACH[4:], TextDelta("b"), *ONE_OF_EACH[:4], TextDelta("c")]
    silent = (StepEnded, SourcesFound, UsageReported, TurnIdentified, Warned, KeepAlive, TurnEnded)
    told = list(folded(*events).events())
    assert told == [event for event in events if not isinstance(event, silent)]


def test_what_is_no_event_leaves_a_transcript_as_it_is() -> None:
    assert folded("Hello", None) == Transcript("c1")  # type: ignore[arg-type]


def test_a_run_without_its_end_has_no_finish_reason() -> None:
    assert folded(TextDelta("a")).finish_reason is None


@pytest.mark.parametrize(
    ("event", "is_empty"),
    [
        (TextDelta("a"), False),
        (TextDelta(" \n"), True),
        (ReasoningDelta("hm"), True),
        (ToolUsed("t", None, "42"), True),
        (SourcesFound(({"pageContent": "a"},)), True),
        (ArtifactMade({"type": "png"}), False),
        (HumanInputRequested({}, ()), False),
        (TurnEnded(), True),
    ],
)
def test_a_run_is_empty_when_it_gave_nothing_to_see(event: FlowEvent, is_empty: bool) -> None:
    assert folded(event).is_empty is is_empty


def test_an_untouched_transcript_is_empty_and_prints_nothing() -> None:
    assert Transcript().is_empty
    assert str(Transcript()) == ""


def test_no_two_turns_share_a_chat_id() -> None:
    assert len({Turn("f", "q").chat_id for _ in range(1000)}) == 1000


def test_two_turns_share_no_overrides() -> None:
    assert Turn("f", "q").overrides == {}
    assert Turn("f", "q").overrides is not Turn("f", "q").overrides


@pytest.mark.parametrize("value", [Turn("f", "q"), *ONE_OF_EACH], ids=lambda value: type(value).__name__)
def test_turns_and_events_cannot_be_changed(value: object) -> None:
    name = next((field.name for field in dataclasses.fields(value)), "anything")  # type: ignore[arg-type]
    with pytest.raises((dataclasses.FrozenInstanceError, TypeError, AttributeError)):
        setattr(value, name, "changed")


def test_a_foreign_value_is_text_whatever_it_holds() -> None:
    assert json_text("as it is") == "as it is"
    assert json_text({"a": [1, None]}) == '{"a":[1,null]}'
    assert json_text(2**70) == str(2**70)
    nested: list[object] = []
    for _ in range(100_000):
        nested = [nested]
    assert json_text(nested) == "…"
