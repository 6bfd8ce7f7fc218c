"""The demo Flowise remembers and streams as Flowise does, and its scripted flows fail as they are told to."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import date, datetime
from typing import Any, Literal
from uuid import UUID

import pytest
from pydantic import BaseModel, Field

from flowise_demo.__main__ import main
from flowise_demo.http import MAX_BODY_BYTES
from flowise_demo.scripts import SCRIPTS
from flowise_demo.server import DEMO_FLOWS, DemoOptions
from tests.support.demo_client import (
    Client,
    is_silent,
    parsed_events,
    prediction,
    read_for,
    read_to_end,
    read_until,
    running,
    wait_for,
)
from tests.support.demo_server import PROJECT, DemoServer

NAMES = "demo-assistant demo-agent demo-sources demo-json demo-approval demo-errors"
SCRIPTED = ("demo-errors", "demo-agent-errors")


@pytest.fixture(scope="module")
def shared_demo() -> Iterator[Client]:
    with running(DemoOptions(record=True, token_seconds=0.0, heartbeat_seconds=0.1)) as client:
        yield client


@pytest.fixture
def demo(shared_demo: Client) -> Client:
    """The demo without the records and scripts of an earlier test."""
    shared_demo.call("DELETE", "/__demo/records")
    shared_demo.call("POST", "/__demo/script", dict.fromkeys(("listing_status", "prediction_status")))
    return shared_demo


def seen(demo: Client) -> list[str]:
    """What the model of the last prediction saw, role and text."""
    return [f"{message['role']}: {message['content']}" for message in demo.records()[-1]["messages"]]


# ---------------------------------------------------------------------------------------- what the flows say
def test_the_assistant_repeats_the_question_and_counts_what_it_remembers(demo: Client) -> None:
    first = demo.ask("demo-assistant", "Hello there", chatId="counting").said
    second = demo.ask("demo-assistant", "And now?", chatId="counting").said
    assert first.startswith('You asked: "Hello there" This is the demo assistant;')
    assert "I remember 0 earlier messages" in first
    assert "I remember 2 earlier messages" in second


def test_a_long_question_is_not_repeated_in_full(demo: Client) -> None:
    assert len(demo.ask("demo-assistant", "x" * 5_000).said) < 600


def test_tokens_are_words_and_come_at_the_pace_that_was_set() -> None:
    with running(DemoOptions(token_seconds=0.01)) as client:
        started = time.monotonic()
        reply = client.ask("demo-assistant", "Hello there")
        tokens = [data for name, data in reply.events if name == "token"]
        assert tokens[:3] == ["You ", "asked: ", '"Hello ']
        assert time.monotonic() - started >= 0.01 * len(tokens)


def test_the_agent_thinks_uses_its_tool_and_reports_usage(demo: Client) -> None:
    reply = demo.ask("demo-agent", "What is 12 * 12?")
    thoughts = [one for one in reply.text.split("\n") if '"event":"thinking"' in one]
    assert thoughts[-1] == 'data:{"event":"thinking","data":"","duration":1}'
    used = [data for name, data in reply.events if name == "usedTools"]
    assert used == [[{"tool": "calculator", "toolInput": {"input": "12*12"}, "toolOutput": "144"}]]
    assert reply.said.startswith("The tool said 144. You asked:")


@pytest.mark.parametrize(
    ("asked", "result"), [("7 - 9", "-2"), ("1+1", "2"), ("3/2", "1.5"), ("1/0", "Infinity")]
)
def test_the_agents_calculator_calculates(demo: Client, asked: str, result: str) -> None:
    assert f"The tool said {result}. " in demo.ask("demo-agent", asked, streaming=False).body["text"]


def test_the_sources_are_pages_and_one_file_without_an_address(demo: Client) -> None:
    documents = demo.ask("demo-sources", "Where is the Nile?", streaming=False).body["sourceDocuments"]
    addresses = [document["metadata"]["source"] for document in documents]
    assert [address.startswith("https://") for address in addresses] == [True, True, False]


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


# -------------------------------------------------------------------------------------------------- memory
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


def test_the_session_wins_over_the_chat_for_memory(demo: Client) -> None:
    session: dict[str, Any] = {"overrideConfig": {"sessionId": "session-1"}}
    demo.ask("demo-assistant", "one", chatId="chat-1", **session)
    demo.ask("demo-assistant", "two", chatId="chat-2", **session)
    assert [line.partition(": ")[0] for line in seen(demo)] == ["user", "assistant", "user"]
    demo.ask("demo-assistant", "three", chatId="chat-1")
    assert seen(demo) == ["user: three"]


def test_history_goes_in_front_of_the_stored_messages_and_is_not_stored(demo: Client) -> None:
    history = [{"role": "userMessage", "content": "H-user"}, {"role": "apiMessage", "content": "H-api"}]
    for flow in ("demo-assistant", "demo-agent-errors"):
        demo.ask(flow, "first", chatId=f"history {flow}")
        demo.ask(flow, "second", chatId=f"history {flow}", history=history)
        with_history = seen(demo)
        assert with_history[:3] == ["user: H-user", "assistant: H-api", "user: first"]
        demo.ask(flow, "third", chatId=f"history {flow}")
        assert "user: H-user" not in seen(demo)


def test_a_chatflow_drops_roles_that_it_does_not_know(demo: Client) -> None:
    history = [{"role": "system", "content": "S"}, {"role": "user", "content": "U"}, 5]
    demo.ask("demo-assistant", "q", history=[*history, {"type": "userMessage", "message": "legacy"}])
    assert seen(demo) == ["user: ", "user: q"]
    demo.ask("demo-assistant", "q", history="text")
    assert seen(demo) == ["user: q"]


@pytest.mark.parametrize(
    "history", ["text", [5], [{"role": "user", "content": "U"}], [{"role": "apiMessage", "content": 5}]]
)
def test_an_agentflow_refuses_a_history_that_is_not_its_own(demo: Client, history: Any) -> None:
    reply = demo.ask("demo-agent", "q", streaming=False, history=history)
    assert reply.status == 500
    assert "Invalid history format." in reply.body["message"]
    assert demo.ask("demo-agent", "q", history=history).names == ["error", "end"]


def test_flows_without_memory_start_anew_each_time(demo: Client) -> None:
    history = [{"role": "userMessage", "content": "H"}]
    chain = demo.create(name="Chain", memory=False)
    agent = demo.create(name="Forgetful agent", type="AGENTFLOW", memory=False)
    for flow, expected in ((chain, ["user: q"]), (agent, ["user: H", "user: q"])):
        demo.ask(flow, "before", chatId="same")
        demo.ask(flow, "q", chatId="same", history=history)
        assert seen(demo) == expected


def test_a_run_goes_on_when_its_client_leaves_and_is_stored(demo: Client) -> None:
    left = demo.open("demo-errors", "stall0.1", chatId="left")
    read_until(left, b'"start"')
    left.close()
    wait_for(lambda: demo.records()[0]["outcome"] == "finished")
    stored = demo.call("GET", f"/api/v1/chatmessage/{DEMO_FLOWS['demo-errors']}?chatId=left").body
    assert (len(stored), stored[0]["content"]) == (2, "stall0.1")


def test_the_oldest_sessions_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowise_demo.memory.MAX_SESSIONS", 1)
    with running(DemoOptions(record=True, token_seconds=0.0)) as client:
        for chat, question in (("old", "one"), ("old", "two"), ("new", "three"), ("old", "four")):
            client.ask("demo-assistant", question, chatId=chat)
        assert [len(record["messages"]) for record in client.records()] == [1, 3, 1, 1]


def test_a_full_text_file_goes_in_front_of_the_question(demo: Client) -> None:
    upload = {"type": "file:full", "name": "a.txt", "mime": "text/plain", "data": "full text"}
    demo.ask("demo-assistant", "q", uploads=[upload])
    assert seen(demo) == ["user: <doc name='a.txt'>full text</doc>\n\n\n\nq"]


def test_an_upload_without_a_data_uri_fails(demo: Client) -> None:
    reply = demo.ask("demo-assistant", "q", uploads=[{"type": "file", "name": "a.png", "data": "iVBOR"}])
    assert "reading 'split'" in dict(reply.events)["error"]


SYSTEM = [{"name": "systemMessagePrompt", "enabled": True}, {"name": "llmMessages", "enabled": True}]


def test_an_enabled_override_becomes_the_system_message(demo: Client) -> None:
    enabled = json.dumps({"overrideConfig": {"status": True, "nodes": {"Conversation Chain": SYSTEM}}})
    chat = demo.create(name="Chat", apiConfig=enabled)
    agent = demo.create(name="Agent", type="AGENTFLOW", apiConfig=enabled)
    for flow, override, expected in (
        (chat, {"systemMessagePrompt": 'Say {{"a": 1}}'}, 'system: Say {"a": 1}'),
        (chat, {"systemMessagePrompt": {"conversationChain_0": "By node"}}, "system: By node"),
        (agent, {"llmMessages": [{"role": "system", "content": "{x}"}]}, "system: {x}"),
    ):
        demo.ask(flow, "q", overrideConfig=override)
        assert seen(demo) == [expected, "user: q"]
    braces = demo.ask(chat, "q", streaming=False, overrideConfig={"systemMessagePrompt": "json {x}"})
    assert "Missing value for input variable `x`" in braces.body["message"]
    demo.ask("demo-assistant", "q", overrideConfig={"systemMessagePrompt": "not enabled"})
    assert seen(demo) == ["user: q"]


def test_a_question_and_a_form_exclude_each_other(demo: Client) -> None:
    reply = demo.ask("demo-agent", "q", streaming=False, form={"city": "Paris"})
    assert "cannot be provided at the same time" in reply.body["message"]


@pytest.mark.parametrize("body", [{"overrideConfig": [1]}, {"uploads": [1]}, {"history": [{"role": [1]}]}])
def test_a_body_of_unexpected_types_is_a_failed_run_not_a_hang(demo: Client, body: dict[str, Any]) -> None:
    assert demo.ask("demo-assistant", "q", streaming=False, **body).status == 500


# ------------------------------------------------------------------------------- streams, clients and aborts
def test_a_second_stream_of_a_chat_takes_the_first_ones_place(demo: Client) -> None:
    first = demo.open("demo-errors", "stall0.4", chatId="shared")
    read_until(first, b'"start"')
    second = demo.ask("demo-agent-errors", "Second question", chatId="shared")
    assert second.names[-2:] == ["metadata", "end"]
    assert "Second question" in second.said
    wait_for(lambda: demo.records()[0]["outcome"] == "finished")
    rest, has_ended = read_for(first, 0.1)
    assert not has_ended
    assert b"token" not in rest
    assert b"end" not in rest


def test_the_run_that_ends_first_ends_the_stream_of_its_chat(demo: Client) -> None:
    first = demo.open("demo-errors", "stall0.1", chatId="mixed")
    read_until(first, b'"start"')
    second = demo.ask("demo-errors", "stall30", chatId="mixed")
    assert "stall0.1" in second.said
    assert second.names[-2:] == ["metadata", "end"]


def test_an_abort_leaves_a_chatflow_running(demo: Client) -> None:
    stream = demo.open("demo-errors", "stall0.2", chatId="unstoppable")
    got = read_until(stream, b'"start"')
    assert demo.abort("demo-errors", "unstoppable").body == {"status": 200, "message": "Chat message aborted"}
    got += read_until(stream, b'"end"')
    assert b'"metadata"' in got


def test_an_agentflow_is_aborted_once_and_counted(demo: Client) -> None:
    before = demo.stats()
    stream = demo.open("demo-agent-errors", "stall30", chatId="aborted")
    read_until(stream, b'"token"')
    assert demo.stats()["active_runs"] == before["active_runs"] + 1
    for _ in range(2):
        demo.abort("demo-agent-errors", "aborted")
    read_until(stream, b"This operation was aborted")
    after = demo.stats()
    assert after["runs_aborted"] == before["runs_aborted"] + 1
    assert after["aborts"] == before["aborts"] + 2
    assert after["active_runs"] == before["active_runs"]
    assert demo.records()[-1]["outcome"] == "aborted"


def test_the_agent_is_aborted_while_it_thinks(demo: Client) -> None:
    stream = demo.open("demo-agent", "Hello", chatId="thinking")
    read_until(stream, b'"thinking"')
    demo.abort("demo-agent", "thinking")
    text = read_until(stream, b"\r\n0\r\n\r\n").decode()
    names = [name for name, _ in parsed_events(text)]
    assert names[-5:] == ["nextAgentFlow", "agentFlowExecutedData", "agentFlowEvent", "error", "end"]
    assert "calledTools" not in names


def test_a_client_that_does_not_read_holds_up_its_own_run_only(demo: Client) -> None:
    stalled = demo.open("be7c5f10-4000-0000-0000-819200000000", "q")
    read_until(stalled, b'"token"')
    assert demo.ask("demo-assistant", "Hello").status == 200
    time.sleep(0.1)
    assert demo.records()[0]["outcome"] == "running"
    stalled.close()
    wait_for(lambda: demo.records()[0]["outcome"] == "finished")


# ------------------------------------------------------------------------------------------ scripted failures
@pytest.mark.parametrize("flow", SCRIPTED)
@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("failfilter", "content management policy"),
        ("failquota", "Predictions limit exceeded"),
        ("fail500", "500 "),
    ],
)
def test_a_refusal_is_an_error_in_the_stream_and_a_500_else(
    demo: Client, flow: str, word: str, said: str
) -> None:
    stream = demo.ask(flow, f"please {word}.")
    assert stream.names[-2:] == ["error", "end"]
    assert said in dict(stream.events)["error"]
    assert ("agentFlowEvent" in stream.names) == (flow == "demo-agent-errors" and word != "failquota")
    answer = demo.ask(flow, word, streaming=False)
    assert answer.status == 500
    assert said in answer.body["message"]


@pytest.mark.parametrize("streaming", [True, False])
@pytest.mark.parametrize(
    ("word", "status", "kind", "text"),
    [
        ("ratelimit", 429, "text/html", "Slow down please"),
        ("unavailable", 503, "text/plain", "Service Unavailable"),
        ("badgateway", 502, "text/html", "<html>"),
        ("gatewaytimeout", 504, "text/html", "<html>"),
        ("emptybody", 200, "application/json", ""),
        ("html", 200, "text/html", "<!DOCTYPE html>"),
        ("redirect", 302, "text/html", "Found."),
        ("badjson", 200, "application/json", '{"text":"This'),
    ],
)
def test_a_scripted_answer_is_given_whatever_was_asked(
    demo: Client, word: str, status: int, kind: str, text: str, streaming: bool
) -> None:
    reply = demo.ask("demo-errors", f"please {word} now", streaming=streaming)
    assert reply.status == status
    assert reply.header("Content-Type").startswith(kind)
    assert reply.text.startswith(text)
    assert demo.records()[0]["outcome"] == "refused"


def test_the_rate_limit_says_when_to_come_back(demo: Client) -> None:
    assert demo.ask("demo-errors", "ratelimit").header("Retry-After") == "1"
    assert demo.ask("demo-errors", "ratelimit7").header("Retry-After") == "7"


@pytest.mark.parametrize("flow", SCRIPTED)
@pytest.mark.parametrize(
    ("word", "ending"),
    [
        ("cut", b"\n\n\r\n0\r\n\r\n"),
        ("cutchunk", b"\n\n\r\n"),
        ("badchunk", b"zz\r\nno chunk size\r\n"),
        ("nolength", b"\n\n"),
    ],
)
def test_a_broken_stream_ends_after_its_tokens_and_never_says_end(
    demo: Client, flow: str, word: str, ending: bytes
) -> None:
    got = read_to_end(demo.open(flow, word))
    assert b'"token"' in got
    assert got.endswith(ending)
    assert b'"event":"end"' not in got
    assert (b"Transfer-Encoding" in got) == (word != "nolength")
    wait_for(lambda: demo.records()[-1]["outcome"] == "finished")


@pytest.mark.parametrize("streaming", [True, False])
def test_a_reset_connection_is_reset(demo: Client, streaming: bool) -> None:
    connection = demo.open("demo-errors", "reset", streaming=streaming)
    got = read_until(connection, b'"token"' if streaming else b'{"text"')
    with pytest.raises(ConnectionResetError):
        got += read_to_end(connection)


@pytest.mark.parametrize("word", ["cut", "cutchunk", "badchunk", "nolength"])
def test_a_broken_json_answer_ends_in_the_middle(demo: Client, word: str) -> None:
    got = read_to_end(demo.open("demo-errors", word, streaming=False))
    assert b'{"text":' in got
    assert b"sessionId" not in got
    assert (b"Content-Length" in got) == (word in ("cut", "cutchunk"))


@pytest.mark.parametrize("flow", SCRIPTED)
@pytest.mark.parametrize(
    ("word", "comes", "stays_away"),
    [
        ("noend", b'"token"', b'"event":"end"'),
        ("startonly", b"data:", b'"token"'),
        ("silent", b"\r\n\r\n", b"data:"),
        ("hang", b"", b"HTTP"),
    ],
)
def test_a_stream_without_an_end_stays_open(
    demo: Client, flow: str, word: str, comes: bytes, stays_away: bytes
) -> None:
    before = demo.stats()["active_runs"]
    stream, answer = demo.open(flow, word), demo.open(flow, word, streaming=False)
    got = read_until(stream, comes)
    rest, has_ended = read_for(stream, 0.06)
    assert not has_ended
    assert stays_away not in got + rest
    assert b'"event":"end"' not in got + rest
    assert is_silent(answer, 0.05)
    for connection in (stream, answer):
        connection.close()
    wait_for(lambda: demo.stats()["active_runs"] == before)


def test_heartbeats_come_for_ever(demo: Client) -> None:
    stream = demo.open("demo-errors", "heartbeats")
    got = read_until(stream, b":heartbeat\n\n\r\nc\r\n:heartbeat\n\n")
    assert b"data:" not in got


def test_a_waiting_stream_gets_heartbeats_of_the_common_timer(demo: Client) -> None:
    stream = demo.open("demo-errors", "noend")
    read_until(stream, b":heartbeat\n\n")
    stream.close()


def test_odd_frames_come_before_an_ordinary_answer(demo: Client) -> None:
    reply = demo.ask("demo-errors", "oddframes")
    assert reply.text.count("message\ndata:") == 1
    assert 'message:\r\ndata:{"event":"token","data":"crlf "}\r\n\r\n' in reply.text
    assert ("token", None) in parsed_events(reply.text.replace("\r", ""))
    assert reply.names[-1] == "end"


def test_the_old_framing_lacks_a_colon_before_error_and_end(demo: Client) -> None:
    assert "message\ndata:" + '{"event":"end"' in demo.ask("demo-errors", "oldframing").text
    assert 'message:\ndata:{"event":"end"' in demo.ask("demo-errors", "Hello").text


def test_long_answers_come_whole(demo: Client) -> None:
    assert demo.ask("demo-errors", "tokens1000").said == "".join(f"t{number} " for number in range(1000))
    assert len(demo.ask("demo-errors", "huge", streaming=False).body["text"]) == 2_000_000


def test_a_slow_answer_takes_its_time(demo: Client) -> None:
    stream = demo.open("demo-errors", "slow")
    started = time.monotonic()
    read_until(stream, b"word2 ")
    assert 0.4 < time.monotonic() - started < 1.5


def test_the_last_scripted_word_counts_and_parts_of_words_do_not(demo: Client) -> None:
    assert demo.ask("demo-errors", "empty, then unicode!").said.startswith("Grüße")
    assert demo.ask("demo-errors", "emptyish cutting").said.startswith("You asked")
    assert demo.ask("demo-assistant", "failmid").said.startswith("You asked")


def test_the_json_flow_only_obeys_the_words_of_failure(demo: Client) -> None:
    assert demo.ask("demo-json", "unicode").body["text"].startswith("You asked")
    assert demo.ask("demo-json", "failctx", streaming=False).status == 500
    assert is_silent(demo.open("demo-json", "failctx"))


def test_every_promised_word_has_a_script() -> None:
    promised = """
        fail500 fail401 fail429 failctx failfilter failquota failmid ratelimit unavailable badgateway
        gatewaytimeout cut cutchunk reset badchunk nolength empty emptybody html redirect badjson stall hang
        silent heartbeats slow huge unicode markdown think noend startonly oddframes oldframing tokens1000
    """
    assert set(promised.split()) == set(SCRIPTS)


# ---------------------------------------------------------------------------------------- listing and control
def test_the_listing_is_a_bare_array_or_a_page_with_the_total(demo: Client) -> None:
    rows = demo.call("GET", "/api/v1/chatflows").body
    assert {row["name"] for row in rows} >= set(NAMES.split())
    assert {row["id"] for row in rows} >= set(DEMO_FLOWS.values())
    page = demo.call("GET", "/api/v1/chatflows?page=2&limit=3").body
    assert page["total"] == len(rows)
    assert page["data"] == rows[3:6]
    assert len(demo.call("GET", "/api/v1/chatflows?page=x").body) == len(rows)


def test_a_row_has_all_fields_and_a_readable_canvas(demo: Client) -> None:
    row = demo.call("GET", f"/api/v1/chatflows/{DEMO_FLOWS['demo-assistant']}").body
    fields = """
        id name flowData deployed isPublic apikeyid chatbotConfig apiConfig analytic speechToText textToSpeech
        followUpPrompts category type createdDate updatedDate mcpServerConfig webhookSecretConfigured workspaceId
    """
    assert list(row) == fields.split()
    categories = [node["data"]["category"] for node in json.loads(row["flowData"])["nodes"]]
    assert categories == ["Chat Models", "Memory", "Chains"]


def test_the_listing_can_be_narrowed_to_a_type(demo: Client) -> None:
    agents = demo.call("GET", "/api/v1/chatflows?type=AGENTFLOW").body
    assert {row["type"] for row in agents} == {"AGENTFLOW"}
    everything = demo.call("GET", "/api/v1/chatflows?type=NONSENSE").body
    assert {row["type"] for row in everything} == {"AGENTFLOW", "CHATFLOW"}


def test_the_probes_say_what_a_flow_can_do(demo: Client) -> None:
    for name, streams in (("demo-assistant", True), ("demo-json", False)):
        probe = demo.call("GET", f"/api/v1/chatflows-streaming/{DEMO_FLOWS[name]}").body
        assert probe == {"isStreaming": streams}
    config = demo.call("GET", f"/api/v1/public-chatbotConfig/{DEMO_FLOWS['demo-agent']}").body
    assert config["uploads"]["isImageUploadAllowed"] is True
    assert json.loads(config["flowData"])["nodes"][0]["data"]["inputs"]["startInputType"] == "chatInput"


def test_flows_are_created_renamed_and_removed(demo: Client) -> None:
    row = demo.call("POST", "/__demo/flows", {"name": "New", "type": "AGENTFLOW", "category": "a;b"}).body
    assert (row["name"], row["type"], row["category"]) == ("New", "AGENTFLOW", "a;b")
    assert demo.call("GET", "/api/v1/chatflows").body[0]["id"] == row["id"]
    renamed = demo.call("PUT", f"/__demo/flows/{row['id']}", {"name": "Other", "isPublic": True}).body
    assert (renamed["name"], renamed["category"], renamed["isPublic"]) == ("Other", "a;b", True)
    assert "agentFlowEvent" in demo.ask(row["id"], "Hello").names
    demo.call("DELETE", f"/__demo/flows/{row['id']}")
    assert demo.ask(row["id"], "Hello", streaming=False).status == 404
    assert demo.call("POST", "/__demo/flows", {"id": []}).status == 500


def test_a_test_can_make_the_listing_fail_hang_or_recover(demo: Client) -> None:
    demo.call("POST", "/__demo/script", {"listing_status": 503})
    assert demo.call("GET", "/api/v1/chatflows").status == 503
    demo.call("POST", "/__demo/script", {"listing_status": "hang"})
    assert is_silent(demo.send(b"GET /api/v1/chatflows HTTP/1.1\r\nHost: x\r\n\r\n"))
    demo.call("POST", "/__demo/script", {"listing_status": None, "prediction_status": [429, None, 503]})
    assert demo.call("GET", "/api/v1/chatflows").status == 200
    before = demo.stats()["predictions"]
    statuses = [demo.ask("demo-assistant", "Hello").status for _ in range(5)]
    assert statuses == [429, 200, 503, 200, 200]
    assert demo.stats()["predictions"] == before + 5


def test_records_hold_body_headers_and_messages(demo: Client) -> None:
    headers = {"X-Request-Id": "r1", "Authorization": "Bearer k"}
    body = {"question": "Hello", "overrideConfig": {"sessionId": "s"}, "chatId": "c"}
    demo.call("POST", prediction("demo-assistant"), body, headers)
    record = demo.records()[0]
    assert record["flow"] == "demo-assistant"
    assert record["body"] == body
    assert record["headers"]["x-request-id"] == "r1"
    assert record["headers"]["authorization"] == "Bearer k"
    assert record["messages"] == [{"role": "user", "content": "Hello"}]
    assert (record["chat_id"], record["session_id"], record["outcome"]) == ("c", "s", "finished")


def test_without_record_there_are_no_control_routes() -> None:
    with running(DemoOptions()) as client:
        assert client.call("GET", "/__demo/records").text.startswith("<!DOCTYPE html>")
        assert client.call("POST", "/__demo/flows", {"name": "x"}).text.startswith("<!DOCTYPE html>")


def test_the_listing_is_open_without_a_key_and_counts_itself(demo: Client) -> None:
    before = demo.stats()["listings"]
    assert demo.call("GET", "/api/v1/chatflows", headers={"Authorization": "Bearer any"}).status == 200
    assert demo.stats()["listings"] == before + 1


def test_a_keyed_flow_takes_the_demo_key_if_no_other_is_set(demo: Client) -> None:
    headers = {"Authorization": "Bearer demo-key"}
    assert demo.ask("demo-keyed", "Hello", streaming=False).status == 500
    assert demo.call("POST", prediction("demo-keyed"), {"question": "Hello"}, headers).status == 200


# -------------------------------------------------------------------------------------------- load profiles
def test_a_load_profile_streams_its_tokens_with_the_clock_in_them(demo: Client) -> None:
    started = time.monotonic_ns() // 1000
    reply = demo.ask("be7c5f10-0005-0010-0020-003200000000", "q")
    tokens = [str(data) for name, data in reply.events if name == "token"]
    stamps = [int(token[1:17]) for token in tokens]
    assert [len(token) for token in tokens] == [32] * 5
    assert stamps == sorted(stamps)
    assert started + 20_000 <= stamps[0] < stamps[-1]
    assert reply.names == ["start", "token", "metadata", "end"]


def test_a_load_profile_without_pauses_sends_all_its_tokens(demo: Client) -> None:
    assert len(demo.ask("be7c5f10-0050-0000-0000-000800000000", "q").said) == 400


def test_a_load_profile_answers_json_of_the_size_asked_for(demo: Client) -> None:
    for profile, size in (
        ("be7c5f10-0001-0000-0000-000800000512", 512),
        ("be7c5f10-0004-0001-0001-000800000000", 32),
    ):
        assert len(demo.ask(profile, "q", streaming=False).body["text"]) == size


def test_a_load_profile_is_known_but_not_listed_and_ends_with_its_client(demo: Client) -> None:
    profile = "be7c5f10-9999-0020-0000-000800000000"
    assert demo.call("GET", f"/api/v1/chatflows-streaming/{profile}").body == {"isStreaming": True}
    assert profile not in demo.call("GET", "/api/v1/chatflows").text
    before = demo.stats()["active_runs"]
    stream = demo.open(profile, "q")
    read_until(stream, b'"token"')
    stream.close()
    wait_for(lambda: demo.stats()["active_runs"] == before)


def test_many_streams_are_held_at_once(demo: Client) -> None:
    streams = [demo.open("be7c5f10-0002-0200-0100-002000000000", "q") for _ in range(200)]
    for stream in streams:
        assert read_until(stream, b"\r\n0\r\n\r\n").count(b'"token"') == 2
        stream.close()


# ------------------------------------------------------------------------------------------------------ HTTP
def test_a_connection_serves_one_request_after_another(demo: Client) -> None:
    connection = http.client.HTTPConnection(*demo.address, timeout=5)
    with contextlib.closing(connection):
        for _ in range(3):
            connection.request("GET", "/api/v1/ping")
            assert connection.getresponse().read() == b"pong"


def test_requests_sent_at_once_are_answered_in_order(demo: Client) -> None:
    ping = b"GET /api/v1/ping HTTP/1.1\r\nHost: x\r\n\r\n"
    last = b"GET /api/v1/version HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    got = read_to_end(demo.send(ping + ping + last))
    assert got.count(b"pong") == 2
    assert got.endswith(b'{"version":"3.1.4"}')
    assert b"Connection: close" in got


def test_an_idle_connection_is_closed(demo: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowise_demo.http.KEEP_ALIVE_SECONDS", 0.05)
    connection = demo.send(b"GET /api/v1/ping HTTP/1.1\r\nHost: x\r\n\r\n")
    assert read_to_end(connection).endswith(b"pong")


def test_a_client_of_http_1_0_gets_a_stream_without_chunks(demo: Client) -> None:
    body = b'{"question":"Hello","streaming":true}'
    head = f"POST {prediction('demo-assistant')} HTTP/1.0\r\nContent-Type: application/json\r\n"
    got = read_to_end(demo.send(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body))
    assert b"Transfer-Encoding" not in got
    assert got.endswith(b'data:{"event":"end","data":"[DONE]"}\n\n')


def test_a_client_that_waits_for_the_100_gets_it(demo: Client) -> None:
    head = f"POST {prediction('demo-assistant')} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    connection = demo.send(f"{head}Content-Length: 2\r\nExpect: 100-continue\r\n\r\n".encode())
    assert read_until(connection, b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    connection.sendall(b"{}")
    read_until(connection, b"HTTP/1.1 200 OK")


def test_what_is_not_http_is_refused(demo: Client) -> None:
    assert read_to_end(demo.send(b"nonsense\r\n\r\n")).startswith(b"HTTP/1.1 400 Bad Request")


def test_a_body_that_is_too_large_is_refused(demo: Client) -> None:
    reply = demo.call("POST", prediction("demo-assistant"), b"x" * (MAX_BODY_BYTES + 1))
    assert reply.status == 413
    assert reply.body["message"] == "request entity too large"


def test_a_body_nested_too_deeply_is_refused(demo: Client) -> None:
    headers = {"Content-Type": "application/json"}
    assert demo.call("POST", prediction("demo-assistant"), b"[" * 100_000, headers).status == 400


def test_half_a_surrogate_pair_stays_an_escape(demo: Client) -> None:
    for streaming in (True, False):
        assert "\\ud83d" in demo.ask("demo-assistant", "\ud83d", streaming=streaming).text


def test_a_body_that_is_no_object_is_no_body(demo: Client) -> None:
    assert demo.call("POST", prediction("demo-assistant"), [1]).status == 200


def test_a_browser_may_ask_from_anywhere(demo: Client) -> None:
    reply = demo.call("OPTIONS", prediction("demo-assistant"), headers={"Origin": "https://any.example"})
    assert reply.status == 204
    assert reply.header("Access-Control-Allow-Origin") == "https://any.example"


# ------------------------------------------------------------------------------------------------ the process
def test_the_process_prints_one_line_and_ends_when_told(demo: Client) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "flowise_demo"], cwd=PROJECT, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        line = json.loads(process.stdout.readline())
        assert Client(line["base_url"]).ask("demo-assistant", "Hello", streaming=False).status == 200
        process.send_signal(signal.SIGTERM)
        assert process.stdout.read() == b""
    assert process.returncode == 0


def test_the_process_ends_with_its_parent() -> None:
    with DemoServer("--token-seconds", "0", "--key", "k") as server:
        client = Client(server.base_url)
        stream = client.open("demo-errors", "silent")
        read_until(stream, b"\r\n\r\n")
        assert client.call("GET", "/api/v1/chatflows").status == 401
        assert server.stats()["active_runs"] == 1
        assert [record["outcome"] for record in server.records()] == ["running"]
        server.clear()
        assert server.records() == []
        process = server._process
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(5) == 0
        stream.close()


def test_a_server_that_cannot_start_says_so() -> None:
    with pytest.raises(RuntimeError), DemoServer("--nonsense"):
        pass


def test_main_serves_until_its_input_ends(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ended = threading.Event()

    def read(_descriptor: int, _size: int) -> bytes:
        return b"" if ended.wait(0.05) else b"more"

    monkeypatch.setattr(os, "read", read)
    threading.Timer(0.1, ended.set).start()
    assert main(["--exit-with-stdin", "--token-seconds", "0"]) == 0
    assert json.loads(capsys.readouterr().out)["base_url"].startswith("http://127.0.0.1:")


# ------------------------------------------------------------------------------------------------ stored files
def test_a_run_leaves_files_that_are_fetched_by_flow_chat_and_name(demo: Client) -> None:
    flow = DEMO_FLOWS["demo-files"]
    made = demo.ask("demo-files", "Draw", streaming=False, chatId="drawn").body
    assert made["artifacts"][0] == {"type": "png", "data": "FILE-STORAGE::chart.png"}
    assert made["fileAnnotations"][0]["fileName"] == "report.pdf"
    path = f"/api/v1/get-upload-file?chatflowId={flow}&chatId=drawn&fileName=report.pdf"
    report = demo.call("GET", path)
    assert (report.status, report.text[:5]) == (200, "%PDF-")
    assert demo.call("GET", path.replace("drawn", "other")).status == 500
    assert demo.call("GET", path.replace("report.pdf", "other.pdf")).status == 500
    assert demo.call("GET", path.replace("fileName", "name")).status == 500
