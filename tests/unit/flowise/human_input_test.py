"""A person's decision about a stopped run, in their words and in Flowise's."""

from __future__ import annotations

from typing import Any

import pytest

from flowise_gateway.flow.events import HumanInputRequested
from flowise_gateway.flow.turn import HistoryMessage, Turn, Upload
from flowise_gateway.flowise.human_input import Decision, decision, resume_turn

V2: dict[str, Any] = {
    "id": "a1",
    "mapping": {"approve": "Proceed", "reject": "Reject"},
    "elements": [{"type": "agentflowv2-approve-button", "label": "Proceed"}],
    "data": {"nodeId": "humanInputAgentflow_0"},
}
V1: dict[str, Any] = {
    "id": "a1",
    "mapping": {"approve": "Yes", "reject": "No", "toolCalls": [{"id": "c1"}]},
    "elements": [{"type": "approve-button", "label": "Ja"}, {"type": "reject-button", "label": "Nein danke"}],
}
ASKED = HumanInputRequested(V2, ("Ja, bitte", "Nein danke"))
TURN = Turn(
    "flow", "yes", (HistoryMessage("userMessage", "a"),), "Be brief.",
    (Upload("file", "a.png", "image/png", "data:"),), "s1", chat_id="c1",
)  # fmt: skip


@pytest.mark.parametrize(
    "text", ["approve", " Yes! ", "y", "OK.", "**Proceed**", "Ja, bitte", "ja, bitte.", '"go ahead"']
)
def test_words_that_approve(text: str) -> None:
    assert decision(text, ASKED) == Decision("proceed")


@pytest.mark.parametrize(
    ("text", "feedback"),
    [
        ("reject", ""),
        ("Reject it is too dear", "it is too dear"),
        ("reject: too dear", "too dear"),
        ("Nein danke zu teuer", "zu teuer"),
        ("no", ""),
        ("No, too dear", "too dear"),
        ("cancel - wrong file", "wrong file"),
        ("STOP!", ""),
    ],
)
def test_words_that_reject_and_what_follows_is_the_reason(text: str, feedback: str) -> None:
    assert decision(text, ASKED) == Decision("reject", feedback)


def test_what_follows_an_approval_is_feedback() -> None:
    assert decision("yes, but hurry", ASKED) == Decision("proceed", "but hurry")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "what?",
        "no idea what this is",
        "yesterday",
        "I approve",
        "rejected offers only?",
        "okay so what",
        "notes",
    ],
)
def test_any_other_text_decides_nothing(text: str) -> None:
    assert decision(text, HumanInputRequested(V2, ())) is None


def test_a_label_that_nobody_types_is_not_looked_for() -> None:
    long = "l" * 201
    assert decision(long, HumanInputRequested(V2, (long, long))) is None
    assert decision(long[1:], HumanInputRequested(V2, (long[1:], "b"))) == Decision("proceed")


def test_an_agentflow_is_told_as_human_input() -> None:
    turn = resume_turn(TURN, Decision("reject", "too dear"), ASKED)
    assert turn.human_input == {
        "type": "reject",
        "startNodeId": "humanInputAgentflow_0",
        "feedback": "too dear",
    }
    assert (turn.question, turn.history, turn.instructions, turn.uploads) == ("", (), "", ())
    assert (turn.session_id, turn.chat_id, turn.extra) == ("s1", "c1", {})


@pytest.mark.parametrize("data", [None, {}, {"nodeId": 5}, "x"])
def test_without_a_node_flowise_finds_it_itself(data: Any) -> None:
    turn = resume_turn(TURN, Decision("proceed"), HumanInputRequested({**V2, "data": data}, ()))
    assert turn.human_input == {"type": "proceed"}


@pytest.mark.parametrize(("kind", "answer"), [("proceed", "Yes"), ("reject", "No")])
def test_a_sequential_agent_is_told_by_its_own_action(kind: Any, answer: str) -> None:
    turn = resume_turn(TURN, Decision(kind), HumanInputRequested(V1, ("Ja", "Nein danke")))
    assert (turn.question, turn.extra, turn.human_input) == (answer, {"action": V1}, None)


@pytest.mark.parametrize("mapping", ["x", {"approve": 5}, {"approve": ""}])
def test_an_action_without_words_of_its_own_is_told_ours(mapping: Any) -> None:
    turn = resume_turn(
        TURN, Decision("proceed"), HumanInputRequested({**V1, "mapping": mapping, "elements": None}, ())
    )
    assert turn.question == "proceed"


def test_an_action_without_mapping_is_an_agentflows() -> None:
    assert resume_turn(TURN, Decision("proceed"), HumanInputRequested({"elements": ["x"]}, ())).human_input
