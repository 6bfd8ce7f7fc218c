"""What becomes of messages in a conversation, whichever surface they came by."""

from __future__ import annotations

from typing import Any

import pytest

from flowise_gateway.flow.events import ClientToolCalled
from flowise_gateway.flow.turn import HistoryMessage
from flowise_gateway.openai.conversation_builder import LOOK, Conversation, answer_in_history
from flowise_gateway.openai.messages import conversation

TOOL = {"role": "tool", "tool_call_id": "c1", "content": "42"}
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}


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


def test_the_same_words_with_another_file_are_another_message() -> None:
    def history(url: str) -> tuple[HistoryMessage, ...]:
        picture = {"type": "image_url", "image_url": {"url": url}}
        return conversation([user(["Look", picture]), assistant("A cat."), user("And?")]).history

    data = "data:image/png;base64,"
    assert history(data + "AAAA") == history("data:image/PNG;name=x;base64,AA\nAA")
    assert history(data + "AAAA") != history(data + "AAAB")
    assert (
        history("https://a.b/c?sig=1") == history("https://a.b/c?sig=2#x") != history("https://a.b/d?sig=1")
    )
    assert history(data + "AAAA")[1] == answered("A cat.")


def test_a_file_alone_is_a_message_too() -> None:
    read = conversation([user([IMAGE]), assistant("A cat."), user([IMAGE])])
    assert [message.content for message in read.history] == [LOOK, "A cat."]
    assert read.user_text == read.question == LOOK
    assert [(each.position, each.is_newest) for each in read.attachments] == [(0, False), (2, True)]
    assert read.history[0].files == (read.attachments[0].digest,)


def test_only_the_users_last_message_is_the_newest() -> None:
    pictures = [user(["a", IMAGE]), user(["b", IMAGE]), {**TOOL, "content": [IMAGE]}]
    assert [each.is_newest for each in conversation(pictures).attachments] == [False, True, False]
    after = [user(["a", IMAGE]), assistant(tool_calls=[call("t")]), {**TOOL, "content": [IMAGE]}]
    assert [each.is_newest for each in conversation(after).attachments] == [False, False]


@pytest.mark.parametrize("calls", [(), (ClientToolCalled("call_1", "weather", '{"city":"Rome"}'),)])
@pytest.mark.parametrize(
    "text", ["", " ", "\n", "An answer.", "An answer.\n\n---\n**Sources**\n1. a.txt", "[a](b)\r\n\r\n* x"]
)
def test_an_answer_is_kept_as_its_client_sends_it_back(
    text: str, calls: tuple[ClientToolCalled, ...]
) -> None:
    told = [{"id": c.call_id, "function": {"name": c.name, "arguments": c.arguments}} for c in calls]
    sent_back = conversation([user("a"), assistant(text, tool_calls=told), user("b")]).history[1:]
    kept = answer_in_history(text, calls)
    assert sent_back == ((answered(kept),) if kept else ())


FILES = (
    '<attached_files>\n<file type="file" id="1" url="1" content_type="image/png" name="a > b.png"/>\n'
    '<file type="file" id="2" url="2" name="c.png"/>\n</attached_files>\n\n'
)
"""As Open WebUI writes it before a user's text, or behind the context that it found."""
PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (FILES + "What is it?", "What is it?"),
        (f"<context>\n…\n</context>\n\n{FILES}What is it?", "<context>\n…\n</context>\n\nWhat is it?"),
        ([{"type": "text", "text": FILES}, {"type": "text", "text": "What is it?"}, PICTURE], "What is it?"),
        ([{"type": "text", "text": FILES}, PICTURE], LOOK),
        (FILES, FILES),
        (f"Why does it say {FILES}", f"Why does it say {FILES}"),
        ("<attached_files>\nmine\n</attached_files>\n", "<attached_files>\nmine\n</attached_files>\n"),
        (FILES.replace("</attached_files>", ""), FILES.replace("</attached_files>", "")),
    ],
)
def test_the_list_of_attached_files_is_no_part_of_a_question(content: Any, expected: str) -> None:
    assert conversation([user(content)]).user_text == expected
    assert conversation([user(content), assistant("b"), user("c")]).history[0].content == expected


def test_an_answer_keeps_what_looks_like_attached_files() -> None:
    assert conversation([user("a"), assistant(FILES), user("b")]).history[1].content == FILES


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ([system("Be brief"), user("Hi")], Conversation("Hi", (), "Be brief")),
        ([{"role": "developer", "content": "Be brief"}, user("Hi")], Conversation("Hi", (), "Be brief")),
        (
            [system("a"), user("b"), assistant("c"), {"role": "developer", "content": "d"}, user("e")],
            Conversation("e", (asked("b"), answered("c")), "a\n\nd"),
        ),
        ([system(""), user("Hi")], Conversation("Hi")),
        ([system("Tell a joke")], Conversation("Tell a joke")),
        ([system("a"), {"role": "developer", "content": "b"}], Conversation("a\n\nb")),
        ([system("a"), user("")], Conversation("a")),
        ([system("a"), assistant("b")], Conversation("", (answered("b"),), "a")),
    ],
)
def test_system_texts_are_instructions_unless_there_is_nothing_else(
    messages: Any, expected: Conversation
) -> None:
    assert conversation(messages) == expected


@pytest.mark.parametrize(
    ("answer", "is_dropped"),
    [
        (assistant("<think>\n▸ Agent\nHm.\n\n</think>"), True),
        (assistant("\n<think></think>\n"), True),
        (assistant([{"type": "text", "text": "<think>Hm.</think>"}]), True),
        (assistant("<think>Hm.</think> Yes."), False),
        (assistant("<think>Hm."), False),
        (assistant("</think>"), False),
        (assistant("<think>"), False),
        (assistant("Hm.</think>"), False),
        (assistant("<think>a</think>b</think>"), False),
        (assistant("<think>Hm.</think>", tool_calls=[call("f")]), False),
    ],
)
def test_an_earlier_answer_that_is_nothing_but_our_reasoning_is_dropped(
    answer: dict[str, Any], is_dropped: bool
) -> None:
    chat = conversation([user("a"), answer, assistant("b"), user("c")])
    assert (chat == conversation([user("a"), assistant("b"), user("c")])) is is_dropped
