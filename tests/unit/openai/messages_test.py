"""Messages of a chat into question, history and system text."""

from __future__ import annotations

from typing import Any

import pytest

from flowise_gateway.flow.errors import BadRequest
from flowise_gateway.flow.turn import HistoryMessage
from flowise_gateway.openai.conversation_builder import Conversation
from flowise_gateway.openai.messages import ROLES, conversation


def user(content: Any) -> dict[str, Any]:
    """A user's message."""
    return {"role": "user", "content": content}


def assistant(content: Any = None, **more: Any) -> dict[str, Any]:
    """An answer."""
    return {"role": "assistant", "content": content, **more}


def system(content: Any) -> dict[str, Any]:
    """A system text."""
    return {"role": "system", "content": content}


def call(name: str, arguments: Any = "{}", ident: Any = "c1") -> dict[str, Any]:
    """A tool call of an answer."""
    return {"id": ident, "type": "function", "function": {"name": name, "arguments": arguments}}


def asked(text: str) -> HistoryMessage:
    """What a user said before."""
    return HistoryMessage("userMessage", text)


def answered(text: str) -> HistoryMessage:
    """What was answered before."""
    return HistoryMessage("apiMessage", text)


TOOL = {"role": "tool", "tool_call_id": "c1", "content": "42"}


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ([user("Hi")], Conversation("Hi")),
        ([user("a"), user("b")], Conversation("a\n\nb")),
        ([user("a"), assistant("b"), user("c")], Conversation("c", (asked("a"), answered("b")))),
        (
            [user("a"), user("b"), assistant("c"), assistant("d"), user("e"), user("f")],
            Conversation("e\n\nf", (asked("a\n\nb"), answered("c"), answered("d"))),
        ),
        ([assistant("Hello!"), user("Hi")], Conversation("Hi", (answered("Hello!"),))),
        ([user("a"), assistant("b")], Conversation("", (asked("a"), answered("b")))),
        ([assistant("b")], Conversation("", (answered("b"),))),
        ([user("a"), assistant(None)], Conversation("", (asked("a"),))),
        ([user("a"), {"role": "assistant"}], Conversation("", (asked("a"),))),
        ([user("a"), assistant(""), user("b")], Conversation("b", (asked("a"),))),
        ([user("a"), assistant([]), user("b")], Conversation("b", (asked("a"),))),
        ([user(""), user("b")], Conversation("b")),
        ([{**user("Hi"), "name": "Ann", "unheard": 1}], Conversation("Hi")),
    ],
)
def test_the_question_is_all_after_the_last_answer(messages: Any, expected: Conversation) -> None:
    assert conversation(messages) == expected


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ([{"type": "text", "text": "a"}], "a"),
        ([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "a\nb"),
        ([{"type": "input_text", "text": "a"}, {"type": "output_text", "text": "b"}], "a\nb"),
        ([{"type": "refusal", "refusal": "no"}], "no"),
        (["a", {"type": "text", "text": "b"}], "a\nb"),
    ],
)
@pytest.mark.parametrize("role", ["user", "system", "developer"])
def test_content_may_be_a_list_of_parts(role: str, content: Any, text: str) -> None:
    assert conversation([{"role": role, "content": content}]) == Conversation(text)


def test_an_answers_content_may_be_a_list_too() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "refusal", "refusal": "b"}]
    assert conversation([assistant(parts), user("c")]).history == (answered("a\nb"),)


@pytest.mark.parametrize(
    ("answer", "result", "history", "question"),
    [
        (
            assistant(None, tool_calls=[call("search", '{"q":1}')]),
            TOOL,
            '<tool_call>{"name":"search","arguments":{"q":1}}</tool_call>',
            "Tool result of search: 42",
        ),
        (
            assistant("Let me see", tool_calls=[call("search")]),
            TOOL,
            'Let me see\n<tool_call>{"name":"search","arguments":{}}</tool_call>',
            "Tool result of search: 42",
        ),
        (
            assistant(tool_calls=[call("a", ident="c0"), call("b", ident="c1")]),
            {**TOOL, "name": "wrong"},
            '<tool_call>{"name":"a","arguments":{}}</tool_call>\n<tool_call>{"name":"b","arguments":{}}</tool_call>',
            "Tool result of b: 42",
        ),
        (
            assistant(tool_calls=[call("a", ident="other")]),
            {**TOOL, "name": "named"},
            '<tool_call>{"name":"a","arguments":{}}</tool_call>',
            "Tool result of named: 42",
        ),
        (
            assistant(tool_calls=[call("a", ident=None)]),
            {**TOOL, "name": 5},
            '<tool_call>{"name":"a","arguments":{}}</tool_call>',
            "Tool result of the tool: 42",
        ),
        (
            assistant(tool_calls=[{"id": "c1", "type": "custom", "custom": {"name": "sh", "input": "ls"}}]),
            TOOL,
            '<tool_call>{"name":"sh","arguments":"ls"}</tool_call>',
            "Tool result of sh: 42",
        ),
        (
            assistant(tool_calls=[{"id": "c1", "function": {"name": "a"}}]),
            TOOL,
            '<tool_call>{"name":"a","arguments":{}}</tool_call>',
            "Tool result of a: 42",
        ),
        (
            assistant(function_call={"name": "old", "arguments": "{}"}),
            {"role": "function", "name": "old", "content": "42"},
            '<tool_call>{"name":"old","arguments":{}}</tool_call>',
            "Tool result of old: 42",
        ),
        (
            assistant("x", function_call=None, tool_calls=None),
            {"role": "function", "content": [{"type": "text", "text": "42"}]},
            "x",
            "Tool result of the tool: 42",
        ),
    ],
)
def test_tool_calls_are_history_and_their_results_labelled_questions(
    answer: Any, result: Any, history: str, question: str
) -> None:
    read = conversation([user("q"), answer, result])
    assert read == Conversation(question, (asked("q"), answered(history)))


def test_tool_results_before_a_later_answer_are_history() -> None:
    read = conversation(
        [user("q"), assistant(tool_calls=[call("t")]), TOOL, assistant("It is 42"), user("ok")]
    )
    assert read.user_text == "ok"
    assert read.history == (
        asked("q"),
        answered('<tool_call>{"name":"t","arguments":{}}</tool_call>'),
        asked("Tool result of t: 42"),
        answered("It is 42"),
    )


@pytest.mark.parametrize("role", ROLES)
def test_every_role_of_openai_is_taken(role: str) -> None:
    read = conversation([{"role": role, "content": "text", "tool_call_id": "c1", "name": "n"}])
    assert "text" in read.user_text + "".join(message.content for message in read.history)


@pytest.mark.parametrize(
    "messages",
    [
        [user("")],
        [user([])],
        [system("")],
        [assistant(None)],
        [assistant(""), {"role": "developer", "content": []}],
        [user([{"type": "text", "text": ""}])],
    ],
)
def test_messages_without_any_text_are_refused(messages: Any) -> None:
    with pytest.raises(BadRequest) as caught:
        conversation(messages)
    assert (caught.value.param, caught.value.code) == ("messages", "invalid_value")


TYPE, VALUE, MISSING = "invalid_type", "invalid_value", "missing_required_parameter"
OK = user("Hi")


@pytest.mark.parametrize(
    ("messages", "param", "code"),
    [
        (None, "messages", MISSING),
        ("Hi", "messages", TYPE),
        ({}, "messages", TYPE),
        (5, "messages", TYPE),
        ([], "messages", VALUE),
        ([OK] * 100_001, "messages", VALUE),
        (["Hi"], "messages[0]", TYPE),
        ([OK, None], "messages[1]", TYPE),
        ([OK, []], "messages[1]", TYPE),
        ([{}], "messages[0].role", MISSING),
        ([{"content": "Hi"}], "messages[0].role", MISSING),
        ([{"role": None, "content": "Hi"}], "messages[0].role", MISSING),
        ([{"role": 1, "content": "Hi"}], "messages[0].role", TYPE),
        ([{"role": "robot", "content": "Hi"}], "messages[0].role", VALUE),
        ([{"role": "User", "content": "Hi"}], "messages[0].role", VALUE),
        ([{"role": "user"}], "messages[0].content", MISSING),
        ([user(None)], "messages[0].content", MISSING),
        ([system(None)], "messages[0].content", MISSING),
        ([user(1)], "messages[0].content", TYPE),
        ([user({"type": "text"})], "messages[0].content", TYPE),
        ([assistant(False)], "messages[0].content", TYPE),
        ([user([1])], "messages[0].content[0]", TYPE),
        ([user([None])], "messages[0].content[0]", TYPE),
        ([user(["a", []])], "messages[0].content[1]", TYPE),
        ([user([{}])], "messages[0].content[0].type", MISSING),
        ([user([{"type": 1}])], "messages[0].content[0].type", TYPE),
        ([user([{"type": "smell"}])], "messages[0].content[0].type", VALUE),
        ([user([{"type": "text"}])], "messages[0].content[0].text", MISSING),
        ([user([{"type": "text", "text": 1}])], "messages[0].content[0].text", TYPE),
        ([user([{"type": "refusal", "text": "a"}])], "messages[0].content[0].refusal", MISSING),
        *(
            ([OK, user(["a", {"type": kind}])], f"messages[1].content[1].{kind}", MISSING)
            for kind in ("image_url", "input_audio", "file")
        ),
        ([assistant(tool_calls="x")], "messages[0].tool_calls", TYPE),
        ([assistant(tool_calls={"a": 1})], "messages[0].tool_calls", TYPE),
        ([assistant(tool_calls=["x"])], "messages[0].tool_calls[0]", TYPE),
        ([assistant(tool_calls=[call("a"), None])], "messages[0].tool_calls[1]", TYPE),
        ([assistant(tool_calls=[{}])], "messages[0].tool_calls[0].function", MISSING),
        ([assistant(tool_calls=[{"function": {}}])], "messages[0].tool_calls[0].function.name", MISSING),
        (
            [assistant(tool_calls=[{"function": {"arguments": ""}}])],
            "messages[0].tool_calls[0].function.name",
            MISSING,
        ),
        (
            [assistant(tool_calls=[{"function": {"name": 1}}])],
            "messages[0].tool_calls[0].function.name",
            TYPE,
        ),
        ([{"role": "tool", "content": "42"}], "messages[0].tool_call_id", MISSING),
        ([{**TOOL, "tool_call_id": 1}], "messages[0].tool_call_id", TYPE),
    ],
)
def test_a_bad_message_names_its_place(messages: Any, param: str, code: str) -> None:
    with pytest.raises(BadRequest) as caught:
        conversation(messages)
    assert (caught.value.param, caught.value.code) == (param, code)
    assert param in caught.value.message or code in ("unsupported_content", VALUE)


@pytest.mark.parametrize("value", ["x" * 10_000, "é\n" * 100])
def test_a_long_role_or_type_is_shown_in_short(value: str) -> None:
    for messages in ([{"role": value, "content": "a"}], [user([{"type": value}])]):
        with pytest.raises(BadRequest) as caught:
            conversation(messages)
        assert len(caught.value.message) < 200


def test_arguments_that_are_an_object_are_told_as_json() -> None:
    read = conversation([assistant(tool_calls=[call("a", {"on": True})]), user("x")])
    assert read.history[0].content == '<tool_call>{"name":"a","arguments":{"on":true}}</tool_call>'


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"tool_calls": ""}, "messages[0].tool_calls"),
        ({"tool_calls": {}}, "messages[0].tool_calls"),
        ({"tool_calls": False}, "messages[0].tool_calls"),
        ({"function_call": "x"}, "messages[0].function_call"),
        ({"function_call": {}}, "messages[0].function_call.name"),
        ({"function_call": {"name": 5}}, "messages[0].function_call.name"),
    ],
)
def test_a_bad_tool_call_is_refused_in_its_old_and_its_empty_forms_too(more: Any, param: str) -> None:
    with pytest.raises(BadRequest) as caught:
        conversation([assistant("a", **more)])
    assert caught.value.param == param
    read = conversation([assistant("a", **more), OK])
    assert read == Conversation("Hi", (answered("a\n[tool call left out]"),), left_out=("tool call",))


IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
BAD_PARTS: list[tuple[Any, str]] = [
    ({"type": "image_url", "image_url": {"url": "data:image/png;base64,?"}}, "image"),
    ({"type": "image_url", "image_url": {"url": "file:///etc/passwd"}}, "image"),
    ({"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}, "audio"),
    ({"type": "file", "file": {"file_id": "file-1"}}, "file"),
    ({"type": "file", "file": {"filename": "a.txt", "file_data": "data:text/plain;base64,/w=="}}, "file"),
    ({"type": "video_url", "video_url": {"url": "https://a.b/c.mp4"}}, "part"),
    ({"type": "text"}, "part"),
    ({"type": ["text"]}, "part"),
    ({}, "part"),
    (None, "part"),
    (5, "part"),
]


@pytest.mark.parametrize(("part", "kind"), BAD_PARTS, ids=str)
def test_what_cannot_be_read_of_an_earlier_message_is_a_note(part: Any, kind: str) -> None:
    with pytest.raises(BadRequest):
        conversation([user(["Look:", part])])
    note = f"Look:\n[{kind} left out]"
    # Refused before, it is sent again with every later message, with or without an answer between.
    for later in ([user("Go on without it")], [user("And?"), assistant("Hm."), user("Go on without it")]):
        read = conversation([user(["Look:", part]), *later])
        said = "\n\n".join([*(message.content for message in read.history), read.user_text])
        assert said.startswith(note)
        assert said.endswith("Go on without it")
        assert read.left_out == (kind,)
    agent = [user(["Look:", part]), assistant(tool_calls=[call("t")]), TOOL]
    assert conversation(agent).history[0] == asked(note)
    answer = [user("a"), assistant(["Look:", part]), user("b")]
    assert conversation(answer).history[1] == answered(note)


@pytest.mark.parametrize(
    "message",
    [
        None,
        "Hi",
        {},
        {"role": "robot", "content": "Hi"},
        {"content": "Hi"},
    ],
)
def test_an_earlier_message_that_is_none_is_left_out(message: Any) -> None:
    read = conversation([message, assistant("a"), OK])
    assert (read.history, read.user_text, read.left_out) == ((answered("a"),), "Hi", ("message",))


@pytest.mark.parametrize("message", [user(None), user([]), {"role": "user"}, {**TOOL, "content": None}])
def test_nothing_in_an_earlier_message_is_nothing(message: Any) -> None:
    read = conversation([user("a"), message, assistant("b"), OK])
    assert (read.user_text, read.left_out) == ("Hi", ())


def test_a_tool_may_give_nothing() -> None:
    read = conversation([user("q"), assistant(tool_calls=[call("t")]), {**TOOL, "content": None}])
    assert read.user_text == "Tool result of t: "


def test_an_earlier_tool_result_need_not_name_its_call() -> None:
    read = conversation([user("q"), assistant("x"), {"role": "tool", "content": "42"}, assistant("y"), OK])
    assert read.history[2] == asked("Tool result of the tool: 42")


@pytest.mark.parametrize("kind", ["thinking", "redacted_thinking", "reasoning", "think"])
def test_the_thoughts_of_another_model_are_no_part_of_its_answer(kind: str) -> None:
    read = conversation([user("q"), assistant([{"type": kind, kind: "Hm"}, "x"]), OK])
    assert (read.history[1], read.left_out) == (answered("x"), ())


def test_a_system_text_is_no_earlier_message() -> None:
    with pytest.raises(BadRequest):
        conversation([system([{"type": "smell"}]), user("a"), assistant("b"), OK])


@pytest.mark.parametrize("function", ["x", ["x"]])
def test_a_function_that_is_no_object_has_the_wrong_type(function: Any) -> None:
    with pytest.raises(BadRequest) as caught:
        conversation([assistant(tool_calls=[{"function": function}])])
    assert caught.value.code == TYPE


def test_a_refusal_without_content_is_an_answer() -> None:
    assert conversation([user("a"), assistant(None, refusal="No."), user("b")]).history[1:] == (
        answered("No."),
    )
