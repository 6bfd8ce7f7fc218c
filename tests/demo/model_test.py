"""What the demo's model says: calls of the tools described to it, and JSON that fits the schema it is shown."""

from __future__ import annotations

import json
import time
from datetime import date, datetime
from typing import Any, Literal
from uuid import UUID

import pytest
from pydantic import BaseModel, Field

from tests.support.demo_client import (
    Client,
)


def seen(demo: Client) -> list[str]:
    """What the model of the last prediction saw, role and text."""
    return [f"{message['role']}: {message['content']}" for message in demo.records()[-1]["messages"]]


TOOLS = [
    {"name": "get_time", "parameters": {"type": "object", "properties": {}}},
    {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string"},
                "days": {"type": "integer"},
                "exact": {"type": "boolean"},
                "unit": {"enum": ["C", "F"]},
                "tags": {"type": "array", "items": {"type": ["string", "null"]}},
                "near": {"properties": {"km": {"type": "number"}}},
                "nothing": {"type": "null"},
            },
            "required": ["city", "country"],
        },
    },
]
PREAMBLE = "\n".join(["Available tools, one JSON object a line:", *map(json.dumps, TOOLS), ""])


def test_a_described_tool_is_called_with_arguments_of_its_schema(demo: Client) -> None:
    said = demo.ask("demo-assistant", f"{PREAMBLE}\nUse get_weather for Paris").said
    call = json.loads(said.removeprefix("<tool_call>").removesuffix("</tool_call>"))
    assert call["name"] == "get_weather"
    expected = {"city": "Paris", "country": "Paris", "days": 42, "exact": True, "unit": "C", "nothing": None}
    assert call["arguments"] == expected | {"tags": ["Paris"], "near": {"km": 42}}


def test_the_first_described_tool_is_called_if_none_is_named(demo: Client) -> None:
    said = demo.ask("demo-agent", f"{PREAMBLE}\nWhat time is it?").said
    assert '<tool_call>{"name":"get_time","arguments":{}}</tool_call>' in said


def test_a_tools_result_is_told(demo: Client) -> None:
    after_the_call = f"{PREAMBLE}\nPlease\nTool result (get_weather): 21 °C\nand sunny\n\nGo on."
    assert demo.ask("demo-assistant", after_the_call).said == "The tool said: 21 °C\nand sunny"
    assert demo.ask("demo-assistant", "Tool result 42").said == "The tool said: 42"


def test_a_tool_described_anew_is_called_again(demo: Client) -> None:
    assert demo.ask("demo-assistant", f"Tool result: 1\n{PREAMBLE}\nget_time").said.startswith("<tool_call>")


def test_a_tool_described_earlier_is_still_there(demo: Client) -> None:
    session: dict[str, Any] = {"overrideConfig": {"sessionId": "tools"}}
    demo.ask("demo-assistant", f"{PREAMBLE}\nUse get_weather for Paris", **session)
    assert demo.ask("demo-assistant", "Tool result: 21", **session).said == "The tool said: 21"
    again = demo.ask("demo-assistant", "Use get_weather for Rome", **session).said
    assert json.loads(again[len("<tool_call>") : -len("</tool_call>")])["arguments"]["city"] == "Rome"


@pytest.mark.parametrize("line", ["no json", "[1]", "{}"])
def test_a_heading_without_tools_is_only_text(demo: Client, line: str) -> None:
    question = f"Available tools, one JSON object a line:\n{line}"
    assert demo.ask("demo-assistant", question).said.startswith("You asked: ")


class Place(BaseModel):
    """Of every kind that clients' schemas are made of."""

    name: str = Field(min_length=12)
    code: str = Field(max_length=3)
    kind: Literal["city", "town"]
    unit: Literal["km"]
    founded: date
    seen: datetime
    ident: UUID
    inhabitants: int = Field(ge=1000, multiple_of=50)
    share: float = Field(gt=0, lt=1)
    height: int = Field(le=7)
    mayor: str | None
    open: bool
    nothing: None
    near: list[Place] = Field(max_length=1)
    parts: tuple[int, str]
    tags: list[str] = Field(min_length=2)
    notes: dict[str, int]


RULE = 'Answer with nothing but JSON that fits the JSON Schema "x" below: no words before or after it.'
PLACE = json.dumps(Place.model_json_schema())


@pytest.mark.parametrize("flow", ["demo-assistant", "demo-json", "demo-agent", "demo-sources", "demo-errors"])
def test_a_model_that_is_shown_a_schema_answers_with_json_that_fits(demo: Client, flow: str) -> None:
    answer = demo.ask(flow, f"{RULE}\n{PLACE}\n\nTell me of Paris", streaming=flow != "demo-json")
    place = Place.model_validate_json(answer.said or answer.body["text"])
    assert (place.mayor, place.kind, place.inhabitants, place.height) == ("Paris", "city", 1000, 7)


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"properties": {"a": {"enum": [3, 4]}}, "required": ["b"]}, {"b": "Rome", "a": 3}),
        ({"allOf": [{"properties": {"a": {}}}, {"properties": {"b": {"const": 1}}}]}, {"a": "Rome", "b": 1}),
        ({"type": ["null", "array"], "items": {"examples": ["x"]}}, ["x"]),
        ({"type": "array", "prefixItems": [{"type": "null"}], "maxItems": 1}, [None]),
        ({"type": "array", "minItems": 10**9}, ["Rome"] * 10),
        ({"items": True}, ["Rome"]),
        ({"type": "string", "format": "email"}, "demo@example.com"),
        ({"type": "string", "minLength": 10**9, "maxLength": 6}, "Romexx"),
        ({"type": "integer", "minimum": 10**400, "maximum": 10}, 10),
        ({"type": "number", "exclusiveMinimum": 50}, 50.5),
        ({"oneOf": [{"type": "null"}, {"type": "integer"}]}, 42),
        ({"anyOf": "x", "enum": []}, "Rome"),
        ({"type": "object"}, {}),
        ({"$ref": "#/$defs/a~1b", "$defs": {"a/b": {"type": "boolean"}}}, True),
        ({"$ref": "#/nowhere"}, "Rome"),
        ({"$ref": "#"}, "Rome"),
    ],
)
def test_what_fits_is_as_plain_as_can_be(demo: Client, schema: Any, value: Any) -> None:
    question = f"{RULE}\n{json.dumps(schema, indent=2)}\n\nTell me of Rome"
    assert json.loads(demo.ask("demo-assistant", question).said) == value


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {"a": {"$ref": "#"}, "b": {"$ref": "#"}}, "required": ["a", "b"]},
        {"allOf": [{"$ref": "#"}, {"$ref": "#"}], "properties": {"a": {}}},
        {"type": "array", "minItems": 10, "items": {"$ref": "#"}},
        {"anyOf": [{"properties": {"a": {"$ref": "#"}}}, {"type": "null"}]},
    ],
)
def test_a_schema_that_never_ends_is_answered_soon(demo: Client, schema: Any) -> None:
    begun = time.monotonic()
    json.loads(demo.ask("demo-assistant", f"{RULE}\n{json.dumps(schema)}\n\nGo").said)
    assert time.monotonic() - begun < 2


def test_any_object_will_do_if_no_schema_is_shown(demo: Client) -> None:
    question = "Answer with nothing but one JSON object: no words before or after it.\n\nTell me of Rome"
    assert json.loads(demo.ask("demo-json", question, streaming=False).body["text"]) == {"answer": "Rome"}


def test_a_schema_holds_for_later_questions_if_a_client_demanded_it(demo: Client) -> None:
    session: dict[str, Any] = {"overrideConfig": {"sessionId": "schema"}}
    demo.ask("demo-assistant", f'{RULE}\n{{"properties": {{"a": {{}}}}}}\n\nTell me of Paris', **session)
    assert json.loads(demo.ask("demo-assistant", "And Rome", **session).said) == {"a": "Rome"}
    session = {"overrideConfig": {"sessionId": "a user's own"}}
    asked = 'As JSON of this schema:\n{"properties": {"a": {}}}'
    assert demo.ask("demo-assistant", asked, **session).said == '{"a": "schema"}'
    assert demo.ask("demo-assistant", "And Rome", **session).said.startswith("You asked: ")


def test_json_is_fenced_where_a_fence_is_asked_for(demo: Client) -> None:
    asked = 'Name a state\nHere is the JSON Schema. Include the enclosing markdown codeblock:\n```json\n{"type":"string"}\n```'
    assert demo.ask("demo-assistant", asked).said == '```json\n"state"\n```'


@pytest.mark.parametrize(
    "asked",
    [
        "{}",
        "A JSON schema of\n[1]",
        'A JSON schema is\n{"a": 1}',
        "JSON schema\n" + '{"a":\n' * 1000,
        "One {}",
    ],
)
def test_what_is_no_schema_is_only_text(demo: Client, asked: str) -> None:
    assert demo.ask("demo-assistant", asked).said.startswith("You asked: ")


def test_a_tool_is_called_before_its_answer_is_told_as_json(demo: Client) -> None:
    rules = f'{PREAMBLE}\n{RULE}\n{{"properties": {{"a": {{}}}}}}\n\n'
    assert demo.ask("demo-assistant", f"{rules}Use get_weather for Paris").said.startswith("<tool_call>")
    assert json.loads(demo.ask("demo-assistant", f"{rules}Tool result: mild").said) == {"a": "mild"}
