"""What happens in a run, as Flowise would tell it."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

from flowise_gateway.pipelines.run_output import RunCancelled, RunOutput, answer_text, as_json
from flowise_gateway.pipelines.sockets import Place, Wiring

WIRING = Wiring(answers=(Place("llm", "replies"),), speakers=("llm", "other"), sources=frozenset({"finder"}))


def chunk(content: str = "", **more: Any) -> Any:
    return SimpleNamespace(content=content, **more)


def events(sent: list[bytes]) -> list[tuple[str, Any]]:
    told = [json.loads(piece.split(b"data:", 1)[1]) for piece in sent]
    return [(one["event"], one["data"]) for one in told]


def test_steps_beside_the_one_that_speaks_do_not_part_its_text() -> None:
    sent: list[bytes] = []
    run = RunOutput({}, WIRING, sent.append)
    llm = run.component_begins("llm", "Generator")
    run.chunk("llm", chunk("a"))
    beside = run.component_begins("log", "Logger")
    run.component_ends(beside, {})
    run.chunk("llm", chunk("b"))
    run.component_ends(llm, {"replies": ["ab"]})
    assert run.ends({"llm": {"replies": ["ab"]}}) == b""
    names = [(event, data.get("nodeId") if isinstance(data, dict) else "") for event, data in events(sent)]
    assert names[:6] == [
        ("agentFlowEvent", ""),
        ("nextAgentFlow", "llm"),
        ("token", ""),
        ("token", ""),
        ("nextAgentFlow", "log"),
        ("nextAgentFlow", "log"),
    ]
    assert [event for event, _ in events(sent)].count("token") == 2


def test_of_two_that_could_answer_the_first_that_speaks_does() -> None:
    sent: list[bytes] = []
    run = RunOutput({}, WIRING, sent.append)
    for component, text in (("other", "x"), ("llm", "y"), ("other", "z")):
        run.chunk(component, chunk(text))
    assert [data for event, data in events(sent) if event == "token"] == ["x", "z"]


def test_a_run_that_nobody_waits_for_ends_at_its_next_step() -> None:
    run = RunOutput({}, WIRING, None)
    run.is_cancelled = True
    with pytest.raises(RunCancelled):
        run.chunk("llm", chunk("a"))
    with pytest.raises(RunCancelled):
        run.component_begins("llm", "Generator")


def test_a_tools_broken_input_and_an_error_are_told() -> None:
    sent: list[bytes] = []
    run = RunOutput({}, WIRING, sent.append)
    delta = SimpleNamespace(index=0, tool_name="t", arguments='{"a":')
    run.chunk("llm", chunk(tool_calls=[delta]))
    origin = SimpleNamespace(tool_name="t", arguments={})
    result = SimpleNamespace(result=[SimpleNamespace(text="gone")], origin=origin, error=True)
    run.chunk("llm", chunk(tool_call_result=result))
    assert events(sent)[1:] == [
        ("calledTools", [{"tool": "t", "toolInput": '{"a":', "toolOutput": ""}]),
        ("usedTools", [{"tool": "t", "toolInput": {}, "toolOutput": "gone", "error": "gone"}]),
    ]


def test_a_pipeline_that_ends_without_its_answer_fails() -> None:
    with pytest.raises(ValueError, match=r"without llm\.replies"):
        RunOutput({}, WIRING, None).ends({"llm": {}})


Document = type("Document", (SimpleNamespace,), {})


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a", "a"),
        ([], ""),
        (["a", "b"], "a"),
        (None, ""),
        (SimpleNamespace(text="a"), "a"),
        (SimpleNamespace(role="assistant", text=None), ""),
        ([SimpleNamespace(role="user", text="a"), SimpleNamespace(role="assistant", text="b")], "b"),
        ([SimpleNamespace(data="a")], "a"),
        ([Document(content="a"), Document(content=None)], "a\n\n"),
        ({"a": 1}, '{"a":1}'),
        (3, "3"),
    ],
)
def test_texts_of_answers(value: Any, text: str) -> None:
    assert answer_text(value) == text


def test_what_json_has_no_word_for_becomes_its_text() -> None:
    array = SimpleNamespace(tolist=lambda: [1, 2])
    assert (
        as_json({1: {"b"}, "c": array, "d": print})
        == b'{"1":["b"],"c":[1,2],"d":"<built-in function print>"}'
    )
