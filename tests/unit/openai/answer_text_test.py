"""The lines in which a run's steps and tools become thoughts, and what is added to the text."""

from __future__ import annotations

import json
from typing import Any

import pytest

from flowise_gateway.flow.events import (
    ArtifactMade,
    FlowEvent,
    FlowToolCalled,
    HumanInputRequested,
    ReasoningDelta,
    SourcesFound,
    StepEnded,
    StepStarted,
    TextDelta,
    ToolUsed,
)
from flowise_gateway.flow.transcript import Transcript
from flowise_gateway.openai.answer_text import reasoning_text, whole_reasoning, whole_text


@pytest.mark.parametrize(
    ("event", "text"),
    [
        (ReasoningDelta(" as it\n is "), " as it\n is "),
        (StepStarted("An\n Agent "), "▸ An Agent\n"),
        (StepStarted(""), ""),
        (FlowToolCalled("t", {"a": [1, None]}), '▸ t: {"a":[1,null]}\n'),
        (FlowToolCalled("t", "x  y"), "▸ t: x y\n"),
        (ToolUsed("t", 1, "out\nput"), "▸ t → out put\n"),
        (ToolUsed("t", 1, None), "▸ t → null\n"),
        (ToolUsed("t", 1, "out", "it\nbroke"), "▸ t → failed: it broke\n"),
        (ToolUsed("t", 1, "x" * 301), "▸ t → " + "x" * 300 + "…\n"),
        (ToolUsed("t", 1, "x" * 300), "▸ t → " + "x" * 300 + "\n"),
        (StepEnded("a", "FINISHED"), ""),
        (SourcesFound(({},)), ""),
        (ArtifactMade({}), ""),
        (TextDelta("a"), ""),
    ],
)
def test_how_an_answer_came_about_is_told_in_lines(event: FlowEvent, text: str) -> None:
    assert reasoning_text(event) == text
    assert reasoning_text(event, steps=False) == (text if isinstance(event, ReasoningDelta) else "")


@pytest.mark.parametrize("value", [json.loads("[" * 300 + "]" * 300), 2**70], ids=["nested 300 deep", "huge"])
def test_a_tools_input_may_be_anything(value: Any) -> None:
    assert reasoning_text(FlowToolCalled("t", value)).startswith("▸ t: ")


def test_an_action_without_choices_adds_nothing_to_the_text() -> None:
    transcript = Transcript(texts=["Go on?"], action=HumanInputRequested({}, ()))
    assert whole_text(transcript) == "Go on?"
    assert whole_reasoning(transcript) == ""
