"""Tools of a request: read from both forms, refused by name, told to the flow in words."""

from __future__ import annotations

import json
from typing import Any

import pytest

from flowise_gateway.flow.errors import BadRequest
from flowise_gateway.openai.tools import (
    MAX_TOOLS,
    ClientTool,
    ClientTools,
    call_text,
    parse_tools,
    tool_instructions,
)

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
HEADING = "Available tools, one JSON object a line:"


def nested(name: Any, **more: Any) -> dict[str, Any]:
    """A tool as chat completions have it."""
    return {"type": "function", "function": {"name": name, **more}}


def flat(name: Any, **more: Any) -> dict[str, Any]:
    """A tool as Responses have it."""
    return {"type": "function", "name": name, **more}


WEATHER = ClientTool("get_weather", "The weather", SCHEMA)
TIME = ClientTool("get-time")
BOTH = [nested("get_weather", description="The weather", parameters=SCHEMA, strict=True), nested("get-time")]
FLAT = [flat("get_weather", description="The weather", parameters=SCHEMA, strict=None), flat("get-time")]
ONLY_TIME = {"type": "function", "function": {"name": "get-time"}}


def allowed(mode: Any, tools: Any) -> dict[str, Any]:
    """A choice of some tools, as chat completions have it."""
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": tools}}


@pytest.mark.parametrize("tools", [BOTH, FLAT])
def test_tools_are_read_in_both_forms(tools: Any) -> None:
    read = parse_tools({"tools": tools})
    assert read == ClientTools((WEATHER, TIME))
    assert read.names == {"get_weather", "get-time"}
    assert read.fields == ("tools", "tool_choice", "parallel_tool_calls")


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"tool_choice": None, "parallel_tool_calls": None}, ClientTools((WEATHER, TIME))),
        ({"tool_choice": "auto", "parallel_tool_calls": True}, ClientTools((WEATHER, TIME))),
        ({"parallel_tool_calls": False}, ClientTools((WEATHER, TIME), is_parallel=False)),
        ({"tool_choice": "required"}, ClientTools((WEATHER, TIME), "required")),
        ({"tool_choice": "none"}, ClientTools((), "none")),
        ({"tool_choice": ONLY_TIME}, ClientTools((TIME,), "required")),
        ({"tool_choice": {"type": "function", "name": "get-time"}}, ClientTools((TIME,), "required")),
        ({"tool_choice": allowed("auto", [ONLY_TIME])}, ClientTools((TIME,), "auto")),
        ({"tool_choice": allowed("required", [ONLY_TIME])}, ClientTools((TIME,), "required")),
        ({"tool_choice": allowed("auto", [{"type": "mcp"}])}, ClientTools((), "none")),
        (
            {"tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [flat("get_weather")]}},
            ClientTools((WEATHER,)),
        ),
        ({"tool_choice": {"type": "web_search"}}, ClientTools((WEATHER, TIME), ignored=("tool_choice",))),
        ({"functions": [{"name": "old"}]}, ClientTools((WEATHER, TIME))),
    ],
)
def test_what_may_be_called_is_what_the_choice_leaves(more: dict[str, Any], expected: ClientTools) -> None:
    assert parse_tools({"tools": BOTH, **more}) == expected


def test_tools_of_other_types_are_named_as_ignored() -> None:
    custom = {"type": "custom", "custom": {"name": "sh"}}
    read = parse_tools({"tools": [{"type": "web_search"}, nested("get-time"), custom]})
    assert read == ClientTools((TIME,), ignored=("tools[0]", "tools[2]"))


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"tools": None, "functions": None},
        {"tools": [], "functions": []},
        {"tools": [{"type": "web_search"}], "tool_choice": {"type": "web_search"}},
        {"tool_choice": "required"},
    ],
)
def test_without_functions_there_are_no_tools(body: dict[str, Any]) -> None:
    assert parse_tools(body) is None


@pytest.mark.parametrize(
    ("call", "tools", "choice"),
    [
        (None, (WEATHER, TIME), "auto"),
        ("auto", (WEATHER, TIME), "auto"),
        ("none", (), "none"),
        ({"name": "get-time"}, (TIME,), "required"),
    ],
)
def test_functions_are_the_older_form(call: Any, tools: Any, choice: Any) -> None:
    given = [
        {"name": "get_weather", "description": "The weather", "parameters": SCHEMA},
        {"name": "get-time"},
    ]
    read = parse_tools({"functions": given, "function_call": call})
    assert read == ClientTools(tools, choice, is_parallel=False, is_legacy=True)
    assert read.fields == ("functions", "function_call")


BAD: list[tuple[dict[str, Any], str, str]] = [
    ({"tools": "x"}, "tools", "invalid_type"),
    ({"tools": {"type": "function"}}, "tools", "invalid_type"),
    ({"tools": [nested(f"f{n}") for n in range(MAX_TOOLS + 1)]}, "tools", "invalid_value"),
    ({"tools": [5]}, "tools[0]", "invalid_type"),
    ({"tools": [{}]}, "tools[0].type", "missing_required_parameter"),
    ({"tools": [nested("a"), {"type": 5}]}, "tools[1].type", "invalid_type"),
    ({"tools": [{"type": "function"}]}, "tools[0].function", "missing_required_parameter"),
    ({"tools": [{"type": "function", "function": "f"}]}, "tools[0].function", "invalid_type"),
    (
        {"tools": [{"type": "function", "function": {}}]},
        "tools[0].function.name",
        "missing_required_parameter",
    ),
    ({"tools": [nested(5)]}, "tools[0].function.name", "invalid_type"),
    ({"tools": [nested("")]}, "tools[0].function.name", "invalid_value"),
    ({"tools": [nested("a b")]}, "tools[0].function.name", "invalid_value"),
    ({"tools": [nested("ü")]}, "tools[0].function.name", "invalid_value"),
    ({"tools": [nested("a\n")]}, "tools[0].function.name", "invalid_value"),
    ({"tools": [nested("x" * 65)]}, "tools[0].function.name", "invalid_value"),
    ({"tools": [flat("a.b")]}, "tools[0].name", "invalid_value"),
    ({"tools": [nested("a"), nested("a")]}, "tools[1].function.name", "invalid_value"),
    ({"tools": [nested("a"), flat("a")]}, "tools[1].name", "invalid_value"),
    ({"tools": [nested("a", parameters=[])]}, "tools[0].function.parameters", "invalid_type"),
    ({"tools": [nested("a", parameters="{}")]}, "tools[0].function.parameters", "invalid_type"),
    ({"tools": [nested("a", description=5)]}, "tools[0].function.description", "invalid_type"),
    ({"tools": [nested("a", strict="yes")]}, "tools[0].function.strict", "invalid_type"),
    ({"tools": BOTH, "parallel_tool_calls": "no"}, "parallel_tool_calls", "invalid_type"),
    ({"tools": BOTH, "tool_choice": "any"}, "tool_choice", "invalid_value"),
    ({"tools": BOTH, "tool_choice": 5}, "tool_choice", "invalid_type"),
    ({"tools": BOTH, "tool_choice": {}}, "tool_choice.type", "missing_required_parameter"),
    (
        {"tools": BOTH, "tool_choice": {"type": "function"}},
        "tool_choice.function",
        "missing_required_parameter",
    ),
    (
        {"tools": BOTH, "tool_choice": {"type": "function", "function": "get-time"}},
        "tool_choice.function",
        "invalid_type",
    ),
    ({"tools": BOTH, "tool_choice": nested("other")}, "tool_choice.function.name", "invalid_value"),
    ({"tools": BOTH, "tool_choice": flat("other")}, "tool_choice.name", "invalid_value"),
    (
        {"tools": BOTH, "tool_choice": {"type": "allowed_tools", "allowed_tools": 5}},
        "tool_choice.allowed_tools",
        "invalid_type",
    ),
    (
        {"tools": BOTH, "tool_choice": allowed("x", [])},
        "tool_choice.allowed_tools.mode",
        "invalid_value",
    ),
    (
        {"tools": BOTH, "tool_choice": allowed("auto", None)},
        "tool_choice.allowed_tools.tools",
        "missing_required_parameter",
    ),
    ({"tools": BOTH, "tool_choice": allowed("auto", {})}, "tool_choice.allowed_tools.tools", "invalid_type"),
    (
        {"tools": BOTH, "tool_choice": allowed("auto", [5])},
        "tool_choice.allowed_tools.tools[0]",
        "invalid_type",
    ),
    (
        {"tools": BOTH, "tool_choice": allowed("auto", [nested("other")])},
        "tool_choice.allowed_tools.tools[0].function.name",
        "invalid_value",
    ),
    ({"functions": {}}, "functions", "invalid_type"),
    ({"functions": [5]}, "functions[0]", "invalid_type"),
    ({"functions": [{}]}, "functions[0].name", "missing_required_parameter"),
    ({"functions": [{"name": "a"}], "function_call": "required"}, "function_call", "invalid_value"),
    ({"functions": [{"name": "a"}], "function_call": 5}, "function_call", "invalid_type"),
    ({"functions": [{"name": "a"}], "function_call": {}}, "function_call.name", "missing_required_parameter"),
    ({"functions": [{"name": "a"}], "function_call": {"name": "b"}}, "function_call.name", "invalid_value"),
]


@pytest.mark.parametrize(("body", "param", "code"), BAD)
def test_a_bad_tool_names_its_place(body: dict[str, Any], param: str, code: str) -> None:
    with pytest.raises(BadRequest) as caught:
        parse_tools(body)
    assert (caught.value.param, caught.value.code) == (param, code)
    assert len(caught.value.message) < 200


def lines(tools: ClientTools) -> list[str]:
    """The lines of what the flow is told."""
    return tool_instructions(tools).splitlines()


def test_the_flow_is_told_of_each_tool_on_a_line() -> None:
    told = lines(ClientTools((WEATHER, TIME)))
    assert told[0] == HEADING
    assert json.loads(told[1]) == {
        "name": "get_weather",
        "description": "The weather",
        "parameters": SCHEMA,
    }
    assert json.loads(told[2]) == {
        "name": "get-time",
        "description": "",
        "parameters": {"type": "object", "properties": {}},
    }
    assert told[3] == ""
    assert '<tool_call>{"name": ' in tool_instructions(ClientTools((TIME,)))


def test_a_description_of_several_lines_stays_on_one() -> None:
    told = lines(ClientTools((ClientTool("a", "one\ntwo\r\nthree"),)))
    assert json.loads(told[1])["description"] == "one\ntwo\r\nthree"


def test_a_line_of_the_words_is_never_taken_for_a_result() -> None:
    assert not any(line.startswith("Tool result") for line in lines(ClientTools((WEATHER, TIME))))


def test_the_flow_is_told_how_many_calls_it_may_make_and_whether_it_must() -> None:
    auto = tool_instructions(ClientTools((WEATHER, TIME)))
    assert "several tools at once" in auto
    assert "only where it is needed" in auto
    one = tool_instructions(ClientTools((WEATHER, TIME), is_parallel=False))
    assert "at most one tool" in one
    assert "several tools at once" not in one
    assert "must be a call of one of these" in tool_instructions(ClientTools((WEATHER, TIME), "required"))
    assert "must be a call of the tool get-time" in tool_instructions(ClientTools((TIME,), "required"))


def test_where_nothing_may_be_called_no_tool_is_named() -> None:
    told = tool_instructions(ClientTools((), "none"))
    assert told.startswith("Call no tool")
    assert HEADING not in told


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ('{"q": 1}', '{"q":1}'),
        (' {"q":\n"\\u00fc"} ', '{"q":"ü"}'),
        ("", "{}"),
        ("  ", '"  "'),
        ("ls -l", '"ls -l"'),
        ("[1]", '"[1]"'),
        ('{"q": ü', '"{\\"q\\": ü"'),
    ],
)
def test_a_past_call_is_told_in_the_form_that_is_asked_for(arguments: str, told: str) -> None:
    assert call_text("a", arguments) == f'<tool_call>{{"name":"a","arguments":{told}}}</tool_call>'


def test_the_id_that_n8n_adds_to_a_past_call_is_none_of_its_arguments() -> None:
    assert '"arguments":{"q":1}}' in call_text("a", '{"q":1,"id":"call_1"}', "call_1")
    assert '"arguments":{"q":1,"id":"call_1"}}' in call_text("a", '{"q":1,"id":"call_1"}', "call_2")
