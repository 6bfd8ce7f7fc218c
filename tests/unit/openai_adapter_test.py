"""Requests into turns and events into OpenAI's wire, held by golden files in `tests/wire/openai`.

`pytest --update-wire` writes the golden files anew; they are reviewed as a diff.
"""

from __future__ import annotations

import json
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from flowise_gateway.flow.errors import BadRequest
from flowise_gateway.flow.events import (
    ArtifactMade,
    HumanInputRequested,
    ReasoningDelta,
    StepStarted,
    ToolUsed,
)
from flowise_gateway.flow.model import Model
from flowise_gateway.flow.transcript import Transcript
from flowise_gateway.openai.model_list import model_body
from flowise_gateway.openai.request import ParsedRequest
from flowise_gateway.openai.schema import new_id
from flowise_gateway.openai.sse import DONE, Frame, stream_bytes
from openai_adapter import MAX_CHOICES, ChatRenderer, CompletionRenderer, parse_chat, parse_completion
from tests.support.chat_cases import (
    AGENT,
    BROKEN,
    CASES,
    CHAT,
    CREATED,
    PROMPT,
    USAGE,
    Case,
    alone,
    chunks,
    ids,
)
from tests.support.flow_events import ACTION, END, Events
from tests.support.openai_check import GOLDEN, Golden, valid

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("case", [*CASES, *BROKEN], ids=ids)
def test_a_stream_is_the_golden_one(case: Case, golden: Golden) -> None:
    golden(f"{case.name}.sse", case.stream())


@pytest.mark.parametrize("case", CASES, ids=ids)
def test_a_body_is_the_golden_one(case: Case, golden: Golden) -> None:
    golden(f"{case.name}.json", orjson.dumps(orjson.loads(case.whole()), option=orjson.OPT_INDENT_2) + b"\n")


def test_every_golden_file_is_still_used() -> None:
    names = {f"{case.name}.sse" for case in [*CASES, *BROKEN]} | {f"{case.name}.json" for case in CASES}
    assert {path.name for path in GOLDEN.iterdir() if not path.name.startswith("response-")} == names


@pytest.mark.parametrize("case", CASES, ids=ids)
def test_a_stream_is_valid_by_openais_schema_and_the_rules_of_clients(case: Case) -> None:
    if case.is_chat:
        valid("chat.stream", case.stream())
    else:
        # OpenAI's service sends `usage: null` here as its text says; its schema of completions has no null.
        valid("completion.stream", case.stream().replace(b',"usage":null}', b"}"))


@pytest.mark.parametrize("case", CASES, ids=ids)
def test_a_body_is_valid_by_openais_schema(case: Case) -> None:
    valid("chat.response" if case.is_chat else "completion.response", case.whole())


@pytest.mark.parametrize("case", BROKEN, ids=ids)
def test_a_broken_stream_is_valid_but_has_no_finish_reason(case: Case) -> None:
    valid("chat.stream" if case.is_chat else "completion.stream", case.stream(), strict=False)
    *rest, last = chunks(case.stream())
    valid("error", last)
    assert not any(choice["finish_reason"] for chunk in rest for choice in chunk["choices"])


@pytest.mark.parametrize("case", CASES, ids=ids)
def test_a_stream_says_the_same_as_the_body(case: Case) -> None:
    body = json.loads(case.whole())
    texts = [""] * len(body["choices"])
    thoughts, finishes = [""] * len(texts), [""] * len(texts)
    for chunk in chunks(case.stream()):
        assert (chunk["id"], chunk["model"], chunk["created"]) == (body["id"], body["model"], CREATED)
        for choice in chunk["choices"]:
            delta = choice["delta"] if case.is_chat else {"content": choice["text"]}
            texts[choice["index"]] += delta.get("content") or ""
            thoughts[choice["index"]] += delta.get("reasoning_content") or ""
            finishes[choice["index"]] += choice["finish_reason"] or ""
        if usage := chunk.get("usage"):
            assert usage == body["usage"]
        if "flowise" in chunk:
            assert chunk["flowise"] == body["flowise"]
    assert finishes == [choice["finish_reason"] for choice in body["choices"]]
    if case.is_chat:
        messages = [choice["message"] for choice in body["choices"]]
        assert texts == [message["content"] or "" for message in messages]
        assert thoughts == [message.get("reasoning_content", "") for message in messages]
    else:
        assert texts == [choice["text"] for choice in body["choices"]]


def test_calls_are_streamed_as_openai_streams_them() -> None:
    case = next(case for case in CASES if case.name == "chat-calls")
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks(case.stream()) if chunk["choices"]]
    calls = [delta["tool_calls"][0] for delta in deltas if "tool_calls" in delta]
    assert [(call["index"], call.get("id"), call.get("type")) for call in calls] == [
        (0, "call_1", "function"),
        (0, None, None),
        (1, "call_2", "function"),
        (1, None, None),
    ]
    assert [call["function"] for call in calls] == [
        {"name": "get_weather", "arguments": ""},
        {"arguments": '{"city": "Zürich"}'},
        {"name": "get_time", "arguments": ""},
        {"arguments": "{}"},
    ]
    [choice] = json.loads(case.whole())["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == (None, "tool_calls")
    assert [call["id"] for call in choice["message"]["tool_calls"]] == ["call_1", "call_2"]


def test_a_call_beside_text_leaves_the_text() -> None:
    case = next(case for case in CASES if case.name == "chat-text-and-call")
    first, second = json.loads(case.whole())["choices"]
    assert first["message"]["content"] == "Let me see. "
    assert len(first["message"]["tool_calls"]) == 1
    assert (first["finish_reason"], second["finish_reason"]) == ("tool_calls", "stop")
    assert "tool_calls" not in second["message"]


def test_functions_are_called_in_their_own_older_form() -> None:
    case = next(case for case in CASES if case.name == "chat-function-call")
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks(case.stream())]
    assert [delta["function_call"] for delta in deltas if "function_call" in delta] == [
        {"name": "get_weather", "arguments": ""},
        {"arguments": '{"city": "Zürich"}'},
    ]
    [choice] = json.loads(case.whole())["choices"]
    assert choice["finish_reason"] == "function_call"
    assert choice["message"]["function_call"] == {"name": "get_weather", "arguments": '{"city": "Zürich"}'}
    assert "tool_calls" not in choice["message"]


def test_a_warning_is_told_once() -> None:
    case = next(case for case in CASES if case.name == "chat-warned")
    assert json.loads(case.whole())["flowise"]["warnings"] == ["Look out."]


@pytest.mark.parametrize("case", CASES, ids=ids)
def test_usage_is_streamed_once_and_last_only_when_asked(case: Case) -> None:
    found = chunks(case.stream())
    if case.request.include_usage or case.style.usage:
        assert [chunk["usage"] for chunk in found[:-1]] == [None] * (len(found) - 1)
        assert found[-1]["choices"] == []
        assert found[-1]["usage"]["total_tokens"] > 0
    else:
        assert not any("usage" in chunk for chunk in found)


@pytest.mark.parametrize("case", CASES, ids=ids)
def test_the_vendor_key_comes_once_with_the_last_finish(case: Case) -> None:
    carrying = [chunk for chunk in chunks(case.stream()) if "flowise" in chunk]
    assert len(carrying) == 1
    assert carrying[0]["choices"][0]["index"] == len(case.request.turns) - 1
    assert carrying[0]["choices"][0]["finish_reason"]


@pytest.mark.parametrize(("character", "length"), [("y", 500), ("\U0001f600", 50)])
def test_long_details_are_streamed_with_shorter_texts_and_no_entry_less(character: str, length: int) -> None:
    """With the shortest texts at last, even if all names together still make more than 48 kB."""
    tools = [ToolUsed(character * 200, "q", character * 2000)] * 50
    case = Case("a", CHAT, alone([*tools, *END]))
    [details] = [chunk["flowise"] for chunk in chunks(case.stream()) if "flowise" in chunk]
    assert len(details["used_tools"]) == 50
    assert {tool["name"] for tool in details["used_tools"]} == {character * 200}
    assert {len(tool["output"].rstrip("\u2026")) for tool in details["used_tools"]} == {length}
    assert json.loads(case.whole())["flowise"]["used_tools"][0]["output"] == character * 2000


def test_the_vendor_key_holds_ids_prompts_and_the_action_without_its_insides() -> None:
    agent = json.loads(Case("a", CHAT, alone(AGENT)).whole())["flowise"]
    assert agent == {
        "chat_id": "chat-0",
        "session_id": "session-1",
        "chat_message_id": "msg-1",
        "execution_id": "exec-1",
        "memory_type": "Buffer Memory",
        "execution_time_seconds": 0.0,
        "nodes": [{"name": "Agent", "state": "FINISHED"}],
        "used_tools": [
            {"name": "calculator", "input": {"input": "6*7"}, "output": "42"},
            {"name": "search", "input": "q", "output": None, "error": "it\n  broke"},
        ],
        "source_documents": [{"pageContent": "p", "metadata": {"source": "a.pdf"}}],
        "follow_up_prompts": ["And 7*8?"],
        "warnings": ["The tool search failed."],
    }
    asked = json.loads(Case("a", CHAT, alone(ACTION)).whole())["flowise"]
    assert asked["action"] == {"id": "act-1", "choices": ["Proceed", "Reject"]}
    assert asked["usage_estimated"] is True
    assert not {"warnings", "nodes", "used_tools", "files"} & set(asked)
    nothing = json.loads(Case("a", CHAT, alone(END)).whole())["flowise"]
    assert nothing["warnings"] == ["The flow returned an empty answer."]


# --- requests ---


def test_a_chat_becomes_a_turn() -> None:
    messages = [
        {"role": "system", "content": "Be brief"},
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ]
    parsed = parse_chat({"model": "m", "messages": messages, "stop": ["X"], "temperature": 0.5, "tools": []})
    [turn] = parsed.turns
    assert (turn.flow, turn.question, turn.instructions) == ("m", "c", "Be brief")
    assert [(message.role, message.content) for message in turn.history] == [
        ("userMessage", "a"),
        ("apiMessage", "b"),
    ]
    assert (parsed.model, parsed.stop, parsed.parameters) == ("m", ("X",), {"temperature": 0.5, "tools": []})
    assert (parsed.stream, parsed.include_usage, turn.stream, parsed.prefixes) == (False, False, False, ())


@pytest.mark.parametrize(("parse", "body"), [(parse_chat, CHAT), (parse_completion, PROMPT)])
def test_streaming_and_usage_are_asked_for(parse: Callable[..., ParsedRequest], body: dict[str, Any]) -> None:
    for options, include_usage in (
        ({}, False),
        ({"stream_options": None}, False),
        ({"stream_options": {}}, False),
        ({"stream_options": {"include_usage": False}}, False),
        (USAGE, True),
    ):
        parsed = parse({**body, "stream": True, **options})
        assert (parsed.stream, parsed.turns[0].stream) == (True, True)
        assert parsed.include_usage is include_usage
    assert parse({**body, **USAGE}).include_usage is False


@pytest.mark.parametrize(("parse", "body"), [(parse_chat, CHAT), (parse_completion, PROMPT)])
def test_a_deployment_in_the_path_wins_over_the_model(
    parse: Callable[..., ParsedRequest], body: dict[str, Any]
) -> None:
    for sent in (body, {**body, "model": None}, {**body, "model": 5}):
        parsed = parse(sent, "mine")
        assert (parsed.model, parsed.turns[0].flow) == ("mine", "mine")


@pytest.mark.parametrize("count", [1, 2, MAX_CHOICES])
def test_each_choice_is_a_run_of_its_own(count: int) -> None:
    turns = parse_chat({**CHAT, "n": count}).turns
    assert len(turns) == len({turn.chat_id for turn in turns}) == count
    assert len({turn.question for turn in turns}) == 1


@pytest.mark.parametrize(
    ("more", "questions", "prefixes"),
    [
        ({}, ["Say hello"], ()),
        ({"prompt": ["a", "b"]}, ["a", "b"], ()),
        ({"prompt": ["a", "b"], "n": 2}, ["a", "a", "b", "b"], ()),
        ({"prompt": ["a", "b"], "echo": True}, ["a", "b"], ("a", "b")),
        ({"prompt": "", "echo": False}, [""], ()),
        ({"prompt": ["x"] * MAX_CHOICES}, ["x"] * MAX_CHOICES, ()),
    ],
)
def test_each_prompt_n_times_is_a_run(
    more: dict[str, Any], questions: list[str], prefixes: tuple[str, ...]
) -> None:
    parsed = parse_completion({**PROMPT, **more})
    assert [turn.question for turn in parsed.turns] == questions
    assert parsed.prefixes == prefixes
    assert len({turn.chat_id for turn in parsed.turns}) == len(questions)


@pytest.mark.parametrize(
    ("parse", "body", "param"),
    [
        (parse_chat, {"messages": CHAT["messages"]}, "model"),
        (parse_chat, {**CHAT, "model": 1}, "model"),
        (parse_chat, {"model": "m"}, "messages"),
        (parse_chat, {**CHAT, "stream": "yes"}, "stream"),
        (parse_chat, {**CHAT, "n": 0}, "n"),
        (parse_chat, {**CHAT, "n": MAX_CHOICES + 1}, "n"),
        (parse_chat, {**CHAT, "stop": 1}, "stop"),
        (parse_chat, {**CHAT, "stream": True, "stream_options": []}, "stream_options"),
        (
            parse_chat,
            {**CHAT, "stream": True, "stream_options": {"include_usage": 1}},
            "stream_options.include_usage",
        ),
        (parse_chat, {**CHAT, "temperature": "hot"}, "temperature"),
        (parse_completion, {"prompt": "x"}, "model"),
        (parse_completion, {"model": "m"}, "prompt"),
        (parse_completion, {**PROMPT, "prompt": 5}, "prompt"),
        (parse_completion, {**PROMPT, "prompt": []}, "prompt"),
        (parse_completion, {**PROMPT, "prompt": ["x"] * (MAX_CHOICES + 1)}, "prompt"),
        (parse_completion, {**PROMPT, "prompt": ["x"] * 3, "n": 3}, "prompt"),
        (parse_completion, {**PROMPT, "prompt": [1, 2]}, "prompt[0]"),
        (parse_completion, {**PROMPT, "prompt": ["a", [1]]}, "prompt[1]"),
        (parse_completion, {**PROMPT, "n": "2"}, "n"),
        (parse_completion, {**PROMPT, "echo": 1}, "echo"),
        (parse_completion, {**PROMPT, "suffix": 1}, "suffix"),
        (parse_completion, {**PROMPT, "stream": 1}, "stream"),
    ],
)
def test_a_bad_request_names_its_field(
    parse: Callable[..., ParsedRequest], body: dict[str, Any], param: str
) -> None:
    with pytest.raises(BadRequest) as caught:
        parse(body)
    assert caught.value.param == param


def test_a_bad_field_of_an_object_is_named_with_it() -> None:
    with pytest.raises(BadRequest) as caught:
        parse_chat({**CHAT, "stream": True, "stream_options": {"include_usage": 1}})
    assert caught.value.param == "stream_options.include_usage"


def test_run_as_a_program_it_converts_the_samples(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(ROOT / "openai_adapter.py"), run_name="__main__")
    printed = capsys.readouterr().out
    for path in (ROOT / "sample_payload").glob("*.json"):
        assert f"=== {path.name}" in printed


# --- what both surfaces share ---


def test_frames_become_bytes_with_line_feeds_alone() -> None:
    frames = [Frame(b'{"a":1}'), Frame(b"{}", "response.created"), DONE]
    assert stream_bytes(frames) == (b'data: {"a":1}\n\nevent: response.created\ndata: {}\n\ndata: [DONE]\n\n')
    assert stream_bytes([]) == b""


def test_ids_are_unguessable_and_tell_what_they_are_of() -> None:
    made = {new_id("chatcmpl-") for _ in range(1000)}
    assert len(made) == 1000
    assert all(ident.startswith("chatcmpl-") and len(ident) == 33 for ident in made)


def test_a_renderer_makes_its_own_id_and_takes_the_time() -> None:
    body = ChatRenderer(parse_chat(CHAT), count_tokens=len).body([Transcript("c")])
    assert body["id"].startswith("chatcmpl-")
    assert body["created"] > CREATED
    assert CompletionRenderer(parse_completion(PROMPT), count_tokens=len).body([Transcript("c")])["id"][
        :5
    ] == ("cmpl-")


def test_a_model_is_listed_as_openai_and_azure_list_one() -> None:
    body = model_body(Model("support", "f", "Support", CREATED))
    valid("model", body)
    valid("models", {"object": "list", "data": [body]})
    assert (body["id"], body["name"], body["created"]) == ("support", "Support", CREATED)
    assert body["capabilities"]["chat_completion"] is True
    assert body["flowise"] == {"override_inputs": None, "server": "default"}
    inputs = {"vars.a": "variable", "temperature": "chatOpenAI"}
    told = model_body(Model("support", "f", "Support", CREATED, inputs=inputs))
    assert told["flowise"]["override_inputs"] == ["temperature", "vars.a"]


STEPS_AND_QUESTION: Events = [
    ReasoningDelta("I think"),
    StepStarted("Agent"),
    ReasoningDelta("so."),
    ReasoningDelta(""),
    ToolUsed("t", 1, 2),
    StepStarted("Next"),
    HumanInputRequested({"id": "1"}, ("Yes", "No")),
    ArtifactMade({"type": "text", "data": "a"}),
    *END,
]


@pytest.mark.parametrize("body", [CHAT, PROMPT], ids=["chat", "completion"])
def test_a_step_has_a_line_of_its_own_and_a_question_begins_the_text(body: dict[str, Any]) -> None:
    case = Case("x", {**body, "stream": True}, alone(STEPS_AND_QUESTION))
    choices = [chunk["choices"][0] for chunk in chunks(case.stream()) if chunk.get("choices")]
    told = [choice.get("delta", choice) for choice in choices]
    asked = "(Waiting for your decision: Yes / No)\n\n```text\na\n```"
    assert "".join(each.get("content") or each.get("text") or "" for each in told) == asked
    [choice] = json.loads(case.whole())["choices"]
    assert choice.get("message", {}).get("content", choice.get("text")) == asked
    if body is CHAT:
        thoughts = "I think\n▸ Agent\nso.\n▸ t → 2\n▸ Next\n"
        assert "".join(each.get("reasoning_content") or "" for each in told) == thoughts
        assert choice["message"]["reasoning_content"] == thoughts
