"""Requests that chat UIs make for themselves are known by their prompts, and answered without a flow."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from openai_adapter import parse_chat
from openai_tasks import (
    TaskKind,
    as_schema,
    is_task,
    is_whole_json,
    prompt_text,
    task_answer,
    task_kind,
    title_of,
)

WIRE = Path(__file__).parent / "wire/librechat"
HISTORY = "### Chat History:\n<chat_history>\nUSER: Wie koche ich Reis?\nASSISTANT: So.\n</chat_history>"


def open_webui(key: str, task: str = "Generate something short for this chat.") -> str:
    """A prompt in the form of Open WebUI's: task, guidelines, the wanted JSON, the chat."""
    return f'### Task:\n{task}\n\n### Guidelines:\n- Be brief.\n\n### Output:\nJSON format: {{ "{key}": … }}\n\n{HISTORY}'


KNOWN = ["title", "tags", "follow_ups", "queries", "text", "prompt"]
EMOJI = (
    "Your task is to reflect the speaker's likely facial expression through a fitting emoji.\n\nMessage: Hi"
)
AUTOCOMPLETE = (
    "### Task:\nYou are an autocompletion system. Go on in JSON.  \n\n### **Output Rules**:\n- As JSON: "
    '`{ "text": "…" }`.\n\n---\n### Context:\n<chat_history>\nUSER: Hi\n</chat_history>\n'
    "<type>General</type>  \n<text>How do</text>  \n#### Output:\n"
)
"""As Open WebUI builds it: no heading `### Output:`, what is to be gone on with at the end."""

GROUNDED = (
    "### Task:\nRespond to the user query using the provided context.\n\n### Output:\nA direct answer.\n\n"
    '<context>\n{ "title": "x" }\n<chat_history>USER: a</chat_history></context>'
)


def kind_of(text: str, *before: dict[str, str]) -> TaskKind | None:
    """Which task a chat with this last message is."""
    messages = [*before, {"role": "user", "content": text}]
    return task_kind(parse_chat({"model": "m", "messages": messages}).turns)


@pytest.mark.parametrize("path", sorted(WIRE.glob("*.json")), ids=lambda path: path.stem)
def test_librechats_titles_are_tasks_and_its_turns_are_not(path: Path) -> None:
    body = json.loads(path.read_text())["request"]["body"]
    assert is_task(parse_chat(body).turns) is ("title" in path.stem)


@pytest.mark.parametrize("key", KNOWN)
def test_open_webuis_prompts_are_tasks(key: str) -> None:
    assert kind_of(open_webui(key)) == key


def test_open_webuis_autocompletion_is_a_task() -> None:
    assert kind_of(AUTOCOMPLETE) == "text"
    assert kind_of(AUTOCOMPLETE.replace("### Task:\n", "### Task:  \n")) == "text"
    assert json.loads(task_answer("text", AUTOCOMPLETE)) == {"text": ""}
    assert kind_of(AUTOCOMPLETE.replace("You are an", "Explain the")) is None


def test_open_webuis_emoji_prompt_is_a_task() -> None:
    assert kind_of(EMOJI) == "emoji"
    assert task_answer("emoji", EMOJI)


@pytest.mark.parametrize(
    "text",
    [
        "Provide a concise title for my essay.",
        "Please: Provide a concise, 5-word-or-less title for the conversation",
        "### Task:\nWrite a poem.",
        open_webui("colour"),
        open_webui("title").replace("### Output:", "### Result:"),
        "Analyze this conversation and provide:\nA summary.",
        GROUNDED,
    ],
)
def test_what_merely_looks_similar_is_no_task(text: str) -> None:
    assert kind_of(text) is None


def test_a_prompt_within_a_conversation_is_no_task() -> None:
    prompt = open_webui("title")
    assert not kind_of(prompt, {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"})
    assert not kind_of(prompt, {"role": "system", "content": "a"})


def test_a_long_text_is_looked_at_in_its_beginning_alone() -> None:
    assert not kind_of("### Task:\n" + "x" * 1_000_000 + open_webui("title"))


def recorded(name: str) -> tuple[str, Any]:
    """Prompt and response format of a recorded request."""
    body = json.loads((WIRE / f"{name}.json").read_text())["request"]["body"]
    return body["messages"][0]["content"], body.get("response_format")


def test_a_title_is_the_beginning_of_what_the_user_said() -> None:
    assert task_answer("title", *recorded("02-title-completion")) == "First question about cats"
    assert json.loads(task_answer("title", open_webui("title"))) == {"title": "Wie koche ich Reis"}


@pytest.mark.parametrize("name", ["16-title-structured", "17-title-functions"])
def test_a_title_that_is_to_be_json_is_bare_json_of_that_schema(name: str) -> None:
    prompt, response_format = recorded(name)
    answer = json.loads(task_answer("title", prompt, response_format))
    assert set(answer) == {"language", "title"}
    assert answer["title"].startswith("Hi ")


@pytest.mark.parametrize(
    ("response_format", "expected"),
    [
        (None, None),
        ({"type": "text"}, None),
        ({"type": "json_schema"}, {"title": "T"}),
        ({"type": "json_schema", "json_schema": {"schema": {"properties": {"a": {}}}}}, {"title": "T"}),
        (
            {"type": "json_schema", "json_schema": {"schema": {"properties": {"title": {}, "b": {}}}}},
            {"title": "T", "b": ""},
        ),
    ],
)
def test_a_title_takes_the_form_of_its_schema(response_format: Any, expected: Any) -> None:
    answer = as_schema("T", response_format)
    assert (json.loads(answer) if answer else None) == expected


@pytest.mark.parametrize(
    ("kind", "nothing"), [("tags", []), ("follow_ups", []), ("queries", []), ("text", "")]
)
def test_what_only_a_model_could_think_of_is_empty(kind: TaskKind, nothing: Any) -> None:
    assert json.loads(task_answer(kind, open_webui(kind))) == {kind: nothing}


def test_the_prompt_for_an_image_is_what_the_user_said() -> None:
    assert json.loads(task_answer("prompt", open_webui("prompt"))) == {"prompt": "Wie koche ich Reis?"}


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("how do I cook rice for ten people?", "How do I cook rice"),
        ("Hi! I have a question.", "Hi"),
        ("**Bold** [link](http://x.y) `code` https://a.b/c", "Bold link"),
        ("```python\nprint(1)\n``` explain this", "Explain this"),
        ("如何煮米饭?请告诉我", "如何煮米饭"),
        ("\n\n  Zürich — Wetter\nmorgen", "Zürich — Wetter morgen"),
        ("<b>x</b>", "X"),
        ("x" * 500, "X" + "x" * 47),
        ("", "New Chat"),
        ("???", "New Chat"),
    ],
)
def test_a_title_is_short_and_in_the_texts_own_words(text: str, title: str) -> None:
    assert title_of(text) == title


def test_the_users_words_are_found_in_either_uis_prompt() -> None:
    assert prompt_text("Conversation:\nUser: one\ntwo\nAI: three") == "one\ntwo"
    assert prompt_text(HISTORY) == "Wie koche ich Reis?"
    assert prompt_text("nothing quoted") == ""


def test_json_is_told_from_prose() -> None:
    assert is_whole_json('{"a": 1}')
    assert not is_whole_json("[1]")
    assert not is_whole_json("Sure: {}")
