"""What a client demands of an answer: told to the flow, kept to on the way back."""

from __future__ import annotations

from typing import Any

import pytest

from flowise_gateway.flow.errors import BadRequest
from flowise_gateway.flow.events import ClientToolCalled, FlowEvent, TextDelta, TurnEnded
from flowise_gateway.openai.output_rules import enforce_output_rules, with_output_rules
from flowise_gateway.openai.request import ParsedRequest
from flowise_gateway.openai.response_format import format_instructions
from flowise_gateway.openai.tools import tool_instructions
from flowise_gateway.responses.request import parse_response
from openai_adapter import parse_chat
from tests.support.flow_events import events_of, run_of

TOOL = {"type": "function", "function": {"name": "look_up"}}
CHAT = {
    "model": "m",
    "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "q"}],
}
JSON = {"response_format": {"type": "json_object"}}
CALL = '<tool_call>{"name":"look_up","arguments":{}}</tool_call>'


def chat(mode: str, **more: Any) -> ParsedRequest:
    """A chat's request, ruled."""
    return with_output_rules(parse_chat({**CHAT, **more}), mode)


def response(mode: str, **more: Any) -> ParsedRequest:
    """A request for a response, ruled."""
    return with_output_rules(parse_response({"model": "m", "input": "q", **more}), mode)


def test_tools_are_told_beside_the_system_text() -> None:
    parsed = chat("prompt", tools=[TOOL], n=2)
    assert parsed.tools is not None
    for turn in parsed.turns:
        assert (turn.instructions, turn.rules) == ("Be brief.", tool_instructions(parsed.tools))
        assert turn.system_text == f"Be brief.\n\n{turn.rules}"


def test_tools_and_a_format_are_both_told() -> None:
    parsed = chat("prompt", tools=[TOOL], **JSON)
    assert parsed.tools is not None
    assert parsed.format is not None
    expected = f"{tool_instructions(parsed.tools)}\n\n{format_instructions(parsed.format)}"
    assert parsed.turns[0].rules == expected


def test_without_demands_nothing_is_told() -> None:
    parsed = chat("prompt")
    assert (parsed.turns[0].rules, parsed.tools, parsed.format) == ("", None, None)
    assert parsed.turns[0].system_text == "Be brief."


def test_what_is_obeyed_is_named_as_ignored_no_more() -> None:
    more: dict[str, Any] = {"tools": [TOOL], "tool_choice": "auto", "parallel_tool_calls": True}
    assert chat("prompt", **more, **JSON, seed=1).parameters == {"seed": 1}
    assert list(chat("report", **more, **JSON).parameters) == ["tools", "tool_choice", "parallel_tool_calls"]
    functions: dict[str, Any] = {"functions": [{"name": "f"}], "function_call": "auto"}
    assert chat("prompt", **functions).parameters == {}
    assert list(chat("prompt", **more, **functions).parameters) == ["functions", "function_call"]


@pytest.mark.parametrize(
    "names", [["a b"], ["web.search"], ["ü"], [""], ["x" * 65], ["f", "f"], [f"f{n}" for n in range(200)]]
)
def test_tools_that_cannot_be_told_are_refused_only_where_they_would_be(names: list[str]) -> None:
    tools = [{"type": "function", "function": {"name": name}} for name in names]
    flat = [{"type": "function", "name": name} for name in names]
    functions = [{"name": name} for name in names]
    for more in ({"tools": tools}, {"functions": functions}):
        assert list(chat("report", **more).parameters) == [*more]
        with pytest.raises(BadRequest):
            chat("prompt", **more)
    assert list(response("report", tools=flat).parameters) == ["tools"]
    with pytest.raises(BadRequest):
        response("prompt", tools=flat)
    with pytest.raises(BadRequest, match="not supported with this model"):
        chat("reject", tools=tools)


def test_what_stands_beside_the_functions_is_named() -> None:
    tools = [{"type": "web_search"}, TOOL]
    flat = [tools[0], {"type": "function", "name": "look_up"}]
    choice = {"type": "web_search"}
    assert list(chat("prompt", tools=tools).parameters) == ["tools[0]"]
    assert list(response("prompt", tools=flat, tool_choice=choice).parameters) == ["tools[0]", "tool_choice"]
    assert list(chat("prompt", tools=tools[:1]).parameters) == ["tools"]


@pytest.mark.parametrize("mode", ["report", "reject"])
def test_the_other_modes_tell_the_flow_nothing(mode: str) -> None:
    parsed = chat(mode, **({"tools": [TOOL]} if mode == "report" else {}))
    assert (parsed.tools, parsed.turns[0].rules) == (None, "")


@pytest.mark.parametrize(
    ("more", "param"), [({"tools": [TOOL]}, "tools"), ({"functions": [{"name": "f"}]}, "functions")]
)
def test_tools_are_rejected_where_the_model_says_so(more: dict[str, Any], param: str) -> None:
    with pytest.raises(BadRequest) as caught:
        chat("reject", **more)
    assert (caught.value.param, caught.value.code) == (param, "unsupported_parameter")


def test_an_empty_list_of_tools_is_nothing_to_reject() -> None:
    assert chat("reject", tools=[]).tools is None


def test_a_response_has_its_format_in_its_text() -> None:
    parsed = response("report", text={"format": {"type": "json_object"}, "verbosity": "low"})
    assert parsed.format is not None
    assert parsed.turns[0].rules == format_instructions(parsed.format)
    assert parsed.parameters == {"text.verbosity": "low"}
    assert response("report", text={"format": {"type": "json_object"}}).parameters == {}


def kept(parsed: ParsedRequest, *pieces: str) -> list[FlowEvent]:
    """The events of a run that says these pieces."""
    batches = enforce_output_rules(run_of(pieces), parsed, lambda prefix: prefix)
    return [event for event in events_of(batches) if event != TextDelta("")]


def test_calls_are_found_where_tools_were_told() -> None:
    called = [ClientToolCalled("call_", "look_up", "{}"), TurnEnded("tool_calls")]
    assert kept(chat("prompt", tools=[TOOL]), CALL) == called


@pytest.mark.parametrize(
    "parsed",
    [chat("report", tools=[TOOL]), chat("prompt"), chat("prompt", tools=[TOOL], tool_choice="none")],
    ids=["report", "no tools", "none allowed"],
)
def test_a_call_is_text_where_none_may_be_made(parsed: ParsedRequest) -> None:
    assert kept(parsed, CALL) == [TextDelta(CALL), TurnEnded()]


def test_calls_stop_sequences_and_json_go_together() -> None:
    parsed = chat("prompt", tools=[TOOL], stop="STOP", **JSON)
    assert kept(parsed, f"{CALL}STOP no") == [
        ClientToolCalled("call_", "look_up", "{}"),
        TurnEnded("tool_calls", is_cut=True),
    ]
    assert kept(parsed, "```json\n{}\n```STOP no") == [TextDelta("{}"), TurnEnded("stop", is_cut=True)]
    assert kept(chat("report", stop="STOP"), "a STOP b") == [
        TextDelta("a "),
        TurnEnded("stop", is_cut=True),
    ]
