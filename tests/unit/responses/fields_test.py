"""The fields of a Responses request: what is echoed, obeyed, named as ignored, refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from flowise_gateway.flow.errors import (
    BadRequest,
)
from flowise_gateway.flow.transcript import Transcript
from flowise_gateway.openai.sse import stream_bytes
from flowise_gateway.responses.renderer import ResponsesRenderer
from flowise_gateway.responses.request import parse_response
from tests.support.flow_events import TEXT
from tests.support.openai_check import valid
from tests.support.response_cases import (
    CALLED,
    CREATED,
    HELLO,
    KEYS,
    OUTPUT,
    TOOLS,
    Case,
    message,
    parsed,
)

# --- fields ---


def test_what_a_request_leaves_out_is_filled_in() -> None:
    response = Case("d", TEXT).whole()
    assert {key: response[key] for key in KEYS - {"id", "output", "usage", "metadata"}} == {
        **dict.fromkeys(("error", "incomplete_details", "previous_response_id", "instructions", "reasoning")),
        **dict.fromkeys(("max_output_tokens", "max_tool_calls", "safety_identifier", "prompt_cache_key")),
        "object": "response",
        "created_at": CREATED,
        "completed_at": CREATED,
        "status": "completed",
        "model": "support",
        "tools": [],
        "tool_choice": "auto",
        "truncation": "disabled",
        "parallel_tool_calls": True,
        "text": {"format": {"type": "text"}},
        "temperature": 1,
        "top_p": 1,
        "presence_penalty": 0,
        "frequency_penalty": 0,
        "top_logprobs": 0,
        "store": True,
        "background": False,
        "service_tier": "default",
    }


def test_null_is_as_good_as_silence() -> None:
    nulls = dict.fromkeys(KEYS | {"stream", "include", "conversation", "user"} - {"model", "output"})
    request = parse_response({**nulls, **HELLO})
    assert request.echo == parse_response(HELLO).echo
    assert request.parameters == {}


@pytest.mark.parametrize(
    ("name", "value", "echo"),
    [
        ("temperature", 0, 0),
        ("top_p", 0.5, 0.5),
        ("top_logprobs", 3, 3),
        ("max_output_tokens", 16, 16),
        ("max_tool_calls", 1, 1),
        ("parallel_tool_calls", False, False),
        ("tool_choice", "required", "required"),
        ("tools", [{"type": "web_search"}], [{"type": "web_search"}]),
        (
            "tools",
            [{"type": "function", "name": "f", "parameters": None, "strict": None}],
            [{"type": "function", "name": "f", "description": None, "parameters": None, "strict": None}],
        ),
        (
            "tool_choice",
            {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "f"}]},
            {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "f"}]},
        ),
        ("tool_choice", {"type": "web_search_preview"}, {"type": "web_search_preview"}),
        ("service_tier", "flex", "default"),
        ("text", {"format": {"type": "json_object"}}, {"format": {"type": "json_object"}}),
        ("text", {"verbosity": "low"}, {"format": {"type": "text"}, "verbosity": "low"}),
        (
            "text",
            {"format": {"type": "json_schema", "name": "n", "schema": {}, "description": "d"}},
            {
                "format": {
                    "type": "json_schema",
                    "name": "n",
                    "description": "d",
                    "schema": {},
                    "strict": False,
                }
            },
        ),
        ("truncation", "auto", "auto"),
        ("prompt_cache_key", "p" * 1000, "p" * 1000),
    ],
)
def test_what_no_flow_obeys_is_repeated_and_named(name: str, value: Any, echo: Any) -> None:
    request = parsed(**{name: value})
    assert (request.echo[name], list(request.parameters)) == (echo, [name])
    valid("response", Case("e", TEXT, {name: value}).whole())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("metadata", {"a": "b"}),
        ("safety_identifier", "s" * 128),
        ("store", False),
        ("background", True),
        ("instructions", "i"),
        ("text", {"format": {"type": "text"}}),
        ("truncation", "disabled"),
    ],
)
def test_what_can_be_obeyed_is_repeated_and_not_named(name: str, value: Any) -> None:
    request = parsed(**{name: value})
    assert (request.echo[name], request.parameters) == (value, {})


def test_only_what_cannot_be_included_is_named() -> None:
    assert parse_response({**HELLO, **TOOLS}).parameters == {}
    assert parsed(include=["reasoning.encrypted_content"]).parameters == {
        "include": ["reasoning.encrypted_content"]
    }
    assert parsed(stream_options={"include_obfuscation": False}).parameters == {}


def test_the_effort_alone_of_reasoning_needs_a_flow_that_takes_it() -> None:
    both = parsed(reasoning={"effort": "low", "summary": "auto"})
    assert both.echo["reasoning"] == {"effort": "low", "summary": "auto"}
    assert both.parameters == {"reasoning_effort": "low"}
    for reasoning in ({"mode": "standard", "context": "auto"}, {"generate_summary": "concise"}):
        as_ever = parsed(reasoning=reasoning)
        assert as_ever.echo["reasoning"] == {"effort": None, "summary": None, **reasoning}
        assert as_ever.parameters == {}
    more = parsed(reasoning={"mode": "pro", "context": "all_turns"})
    assert more.echo["reasoning"] == {
        "effort": None,
        "summary": None,
        "mode": "pro",
        "context": "all_turns",
    }
    assert list(more.parameters) == ["reasoning.mode", "reasoning.context"]
    assert parsed(reasoning={"summary": "auto"}).parameters == {}


def test_who_asks_and_in_which_conversation_is_read() -> None:
    own = parse_response(
        {**HELLO, "conversation": "conv_1", "user": "ann", "chat_id": "c", "session_id": "s"}
    )
    assert (own.conversation, own.conversation_id, own.user, own.resends) == (
        "conv_1",
        "conv_1",
        "ann",
        False,
    )
    other = parse_response({**HELLO, "chat_id": "c", "overrideConfig": {"a": 1}})
    assert (other.conversation, other.conversation_id, other.resends) == ("c", "", True)
    assert (other.passed, other.is_conversation) == ({"overrideConfig": {"a": 1}}, True)


@pytest.mark.parametrize("ahead", [{"generate": False}, {"prompt_cache_options": {"prewarm": True}}])
def test_a_request_sent_ahead_is_answered_without_any_output(ahead: dict[str, Any]) -> None:
    for said in ({"input": "Hello"}, {"input": None}, {"input": [], "instructions": "Be brief"}):
        request = parse_response({**HELLO, **ahead, **said})
        assert not request.generates
        renderer = ResponsesRenderer(replace(request, store=True), count_tokens=len, clock=lambda: CREATED)
        frames = [*renderer.opening(), *renderer.closing([Transcript("chat")])]
        response = renderer.body([Transcript("chat")])
        assert [frame.event for frame in frames] == [
            *("response.created", "response.in_progress", "response.completed"),
            None,
        ]
        assert (response["status"], response["output"], response["metadata"]) == ("completed", [], {})
        assert response["usage"] is not None
        assert response["usage"]["output_tokens"] == 0
        valid("response", response)
        valid("response.stream", stream_bytes(frames))


def test_only_what_is_sent_ahead_is_not_run() -> None:
    for body in ({}, {"generate": None}, {"generate": True}, {"prompt_cache_options": {"prewarm": False}}):
        assert parse_response({**HELLO, **body}).generates
    # OpenAI: prewarm wins.
    assert not parse_response(
        {**HELLO, "generate": True, "prompt_cache_options": {"prewarm": True}}
    ).generates


SCHEMA = {"type": "json_schema", "name": "n", "schema": {}}
WRONG: list[tuple[dict[str, Any], str]] = [
    ({"model": None}, "model"),
    ({"input": None}, "input"),
    ({"input": 5}, "input"),
    ({"input": []}, "input"),
    ({"input": ""}, "input"),
    ({"input": "x" * (10 * 2**20 + 1)}, "input"),
    ({"input": ["a"]}, "input[0]"),
    ({"input": [{}]}, "input[0].id"),
    ({"input": [{"id": 5}]}, "input[0].id"),
    ({"input": [{"type": 5}]}, "input[0].type"),
    ({"input": [{"type": "a b"}]}, "input[0].type"),
    ({"input": [{"type": ""}]}, "input[0].type"),
    ({"input": [{"type": "x" * 65}]}, "input[0].type"),
    ({"input": [{"type": "web_search_call"}]}, "input"),
    ({"input": [{"role": "user", "content": "a", "id": 5}]}, "input[0].id"),
    ({"input": [{"content": "a"}]}, "input[0].role"),
    ({"input": [{"role": "tool", "content": "a"}]}, "input[0].role"),
    ({"input": [{"role": "user"}]}, "input[0].content"),
    ({"input": [{"role": "user", "content": 5}]}, "input[0].content"),
    ({"input": [{"role": "user", "content": "x" * (10 * 2**20 + 1)}]}, "input[0].content"),
    ({"input": [{"role": "assistant", "content": "a", "phase": "x"}]}, "input[0].phase"),
    (message(), "input"),
    (message("a"), "input[0].content[0]"),
    (message({}), "input[0].content[0].type"),
    (message({"type": "input_text"}), "input[0].content[0].text"),
    (message({"type": "input_audio"}), "input[0].content[0].input_audio"),
    (message({"type": "input_audio", "input_audio": "a"}), "input[0].content[0].input_audio"),
    (
        message({"type": "input_audio", "input_audio": {"data": "AA==", "format": "mp3"}}),
        "input[0].content[0].input_audio.format",
    ),
    (
        message({"type": "input_audio", "input_audio": {"data": "@", "format": "ogg"}}),
        "input[0].content[0].input_audio.data",
    ),
    (message({"type": "refusal", "refusal": "a"}), "input[0].content[0].type"),
    (message({"type": "refusal"}, role="assistant"), "input[0].content[0].refusal"),
    (message({"type": "input_image", "image_url": "a"}, role="assistant"), "input[0].content[0].type"),
    (message({"type": "input_image"}), "input[0].content[0].image_url"),
    (message({"type": "input_image", "file_id": "f"}), "input[0].content[0].file_id"),
    (message({"type": "input_image", "image_url": "a", "detail": "x"}), "input[0].content[0].detail"),
    (message({"type": "input_file"}), "input[0].content[0].file_data"),
    (message({"type": "input_file", "file_id": "f"}), "input[0].content[0].file_id"),
    (message({"type": "input_file", "file_url": "f"}), "input[0].content[0].file_url"),
    (message({"type": "input_file", "file_url": 5}), "input[0].content[0].file_url"),
    (
        message({"type": "input_file", "file_url": "https://a.example/b.pdf"}),
        "input[0].content[0].file_url",
    ),
    (message({"type": "input_file", "file_url": "https://[/b.png"}), "input[0].content[0].file_url"),
    (message({"type": "input_file", "file_url": "file:///b.png"}), "input[0].content[0].file_url"),
    (message({"type": "input_file", "file_data": "a", "filename": 5}), "input[0].content[0].filename"),
    ({"input": [{**CALLED, "name": ""}]}, "input[0].name"),
    ({"input": [{**CALLED, "call_id": ""}]}, "input[0].call_id"),
    ({"input": [CALLED, {**OUTPUT, "call_id": ""}]}, "input[1].call_id"),
    ({"input": [CALLED, {**OUTPUT, "call_id": 5}]}, "input[1].call_id"),
    ({"input": [{**OUTPUT, "call_id": None, "name": 5}]}, "input[0].name"),
    ({"input": [{**CALLED, "arguments": {}}]}, "input[0].arguments"),
    ({"input": [CALLED, {k: v for k, v in OUTPUT.items() if k != "output"}]}, "input[1].output"),
    ({"input": [CALLED, {**OUTPUT, "output": [{"type": "x"}]}]}, "input[1].output[0].type"),
    ({"input": [OUTPUT, CALLED]}, "input[0].call_id"),
    ({"input": [{"type": "reasoning"}]}, "input[0].summary"),
    ({"input": [{"type": "reasoning", "summary": "a"}]}, "input[0].summary"),
    ({"input": [{"type": "reasoning", "summary": ["a"]}]}, "input[0].summary[0]"),
    ({"input": [{"type": "reasoning", "summary": [{}]}]}, "input[0].summary[0].text"),
    ({"stream": "yes"}, "stream"),
    ({"generate": 0}, "generate"),
    ({"prompt_cache_options": "x"}, "prompt_cache_options"),
    ({"prompt_cache_options": {"prewarm": 1}}, "prompt_cache_options.prewarm"),
    ({"stream_options": {"include_obfuscation": 1}}, "stream_options.include_obfuscation"),
    ({"store": 1}, "store"),
    ({"background": 1}, "background"),
    ({"background": True, "store": False}, "background"),
    ({"instructions": ["a"]}, "instructions"),
    ({"previous_response_id": 5}, "previous_response_id"),
    ({"previous_response_id": "a", "conversation": "b"}, "previous_response_id"),
    ({"conversation": 5}, "conversation"),
    ({"conversation": {}}, "conversation.id"),
    ({"include": "a"}, "include"),
    ({"include": [5]}, "include[0]"),
    ({"temperature": 3}, "temperature"),
    ({"top_p": "a"}, "top_p"),
    ({"top_logprobs": 21}, "top_logprobs"),
    ({"max_output_tokens": 15}, "max_output_tokens"),
    ({"max_tool_calls": 0}, "max_tool_calls"),
    ({"parallel_tool_calls": 1}, "parallel_tool_calls"),
    ({"truncation": "x"}, "truncation"),
    ({"service_tier": 5}, "service_tier"),
    ({"reasoning": "a"}, "reasoning"),
    ({"reasoning": {"effort": 5}}, "reasoning.effort"),
    ({"metadata": 5}, "metadata"),
    ({"metadata": {f"k{n}": "v" for n in range(17)}}, "metadata"),
    ({"metadata": {"k" * 65: "v"}}, "metadata"),
    ({"metadata": {"k": 5}}, "metadata.k"),
    ({"metadata": {"k": "v" * 513}}, "metadata.k"),
    ({"safety_identifier": "s" * 129}, "safety_identifier"),
    ({"prompt": "p"}, "prompt"),
    ({"context_management": {}}, "context_management"),
    ({"moderation": True}, "moderation"),
    ({"access_programs": []}, "access_programs"),
    ({"background_options": "2h"}, "background_options"),
    ({"image": 5}, "image"),
    ({"prompt_cache_retention": 24}, "prompt_cache_retention"),
    ({"reasoning": {"mode": 5}}, "reasoning.mode"),
    ({"reasoning": {"context": []}}, "reasoning.context"),
    ({"prompt_cache_key": 5}, "prompt_cache_key"),
    ({"text": 5}, "text"),
    ({"text": {"format": 5}}, "text.format"),
    ({"text": {"format": {}}}, "text.format.type"),
    ({"text": {"format": {"type": "x"}}}, "text.format.type"),
    ({"text": {"format": {**SCHEMA, "name": None}}}, "text.format.name"),
    ({"text": {"format": {**SCHEMA, "schema": None}}}, "text.format.schema"),
    ({"text": {"format": {**SCHEMA, "schema": "x"}}}, "text.format.schema"),
    ({"text": {"format": {**SCHEMA, "description": 5}}}, "text.format.description"),
    ({"text": {"format": {**SCHEMA, "strict": 5}}}, "text.format.strict"),
    ({"text": {"verbosity": 5}}, "text.verbosity"),
    ({"tools": {}}, "tools"),
    ({"tools": ["a"]}, "tools[0]"),
    ({"tools": [{}]}, "tools[0].type"),
    ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools[0].name"),
    ({"tools": [{"type": "function", "name": "f", "parameters": "x"}]}, "tools[0].parameters"),
    ({"tool_choice": "x"}, "tool_choice"),
    ({"tool_choice": 5}, "tool_choice"),
    ({"tool_choice": {}}, "tool_choice.type"),
    ({"tool_choice": {"type": "function"}}, "tool_choice.name"),
    ({"tool_choice": {"type": "allowed_tools", "mode": "x"}}, "tool_choice.mode"),
    ({"tool_choice": {"type": "allowed_tools", "mode": "auto"}}, "tool_choice.tools"),
    ({"tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": {}}}, "tool_choice.tools"),
]


@pytest.mark.parametrize(("body", "param"), WRONG, ids=[f"{n}-{param}" for n, (_, param) in enumerate(WRONG)])
def test_a_bad_request_names_its_place(body: dict[str, Any], param: str) -> None:
    with pytest.raises(BadRequest) as caught:
        parse_response({**HELLO, **body})
    assert caught.value.param == param
    assert caught.value.code
    assert "messages" not in caught.value.message


def test_no_limit_is_none_that_is_ignored() -> None:
    asked = parse_response({**HELLO, "max_output_tokens": -1})
    assert (asked.echo["max_output_tokens"], asked.parameters) == (None, {})
