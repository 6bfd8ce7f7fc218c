"""Requests that chat UIs make for themselves are known by their prompts, and answered without a flow."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from flowise_gateway.flow.events import HumanInputRequested
from flowise_gateway.openai.answer_text import answer_text
from flowise_gateway.openai.request import ParsedRequest
from flowise_gateway.openai.ui_tasks import (
    TaskKind,
    as_schema,
    prompt_text,
    task_answer,
    task_kind,
    title_of,
)
from flowise_gateway.responses.request import parse_response
from openai_adapter import parse_chat

WIRE = Path(__file__).parents[2] / "wire"
LIBRECHAT, OPEN_WEBUI, N8N, OPENCODE = (
    sorted((WIRE / name).glob("*.json")) for name in ("librechat", "openwebui", "n8n", "opencode")
)
HISTORY = "### Chat History:\n<chat_history>\nUSER: Wie koche ich Reis?\nASSISTANT: So.\n</chat_history>"


def open_webui(key: str, task: str = "Generate something short for this chat.") -> str:
    """A prompt in the form of Open WebUI's: task, guidelines, the wanted JSON, the chat."""
    return f'### Task:\n{task}\n\n### Guidelines:\n- Be brief.\n\n### Output:\nJSON format: {{ "{key}": … }}\n\n{HISTORY}'


KNOWN = ["title", "tags", "follow_ups", "queries", "prompt"]
RECORDED: dict[str, TaskKind] = {
    "02-title": "title",
    "04-follow-ups": "follow_ups",
    "05-tags": "tags",
    "15-approval-follow-ups": "follow_ups",
    "26-retrieval-queries": "queries",
    "35-emoji": "emoji",
    "36-queries-web-search": "queries",
    "37-image-prompt": "prompt",
    "45-responses-title": "title",
    "47-responses-follow-ups": "follow_ups",
    "54-autocomplete": "text",
}
"""All of Open WebUI's own requests; its others are for the flow: its merged answers and its choice of tools."""


def body_of(path: Path) -> Any:
    """The body of a recorded request."""
    recorded = json.loads(path.read_text())
    return recorded.get("request", recorded)["body"]


def prompt_of(name: str) -> str:
    """The prompt of one of Open WebUI's recorded requests."""
    body = body_of(WIRE / f"openwebui/{name}.json")
    return str(
        body["messages"][0]["content"] if "messages" in body else body["input"][0]["content"][0]["text"]
    )


def requests_of(paths: list[Path]) -> list[Path]:
    """Those that ask for an answer."""
    return [path for path in paths if body_of(path)]


EMOJI = prompt_of("35-emoji")
AUTOCOMPLETE = prompt_of("54-autocomplete")
GROUNDED = prompt_of("27-rag-first-turn")


def kind_of(text: str, *before: dict[str, str]) -> TaskKind | None:
    """Which task a chat with this last message is."""
    messages = [*before, {"role": "user", "content": text}]
    return task_kind(parse_chat({"model": "m", "messages": messages}).turns)


def parsed(path: Path) -> ParsedRequest:
    """A recorded request as its surface reads it."""
    body = body_of(path)
    return parse_chat(body) if "messages" in body else parse_response(body)


@pytest.mark.parametrize("path", requests_of(LIBRECHAT), ids=lambda path: path.stem)
def test_librechats_titles_are_tasks_and_its_turns_are_not(path: Path) -> None:
    assert (task_kind(parsed(path).turns) is not None) is ("title" in path.stem)


@pytest.mark.parametrize("path", requests_of(OPEN_WEBUI), ids=lambda path: path.stem)
def test_open_webuis_own_requests_are_tasks_and_its_turns_are_not(path: Path) -> None:
    assert task_kind(parsed(path).turns) == RECORDED.get(path.stem)


@pytest.mark.parametrize("path", requests_of(N8N), ids=lambda path: path.stem)
def test_n8n_has_no_requests_of_its_own(path: Path) -> None:
    assert task_kind(parsed(path).turns) is None


@pytest.mark.parametrize("path", OPENCODE, ids=lambda path: path.stem)
def test_opencodes_titles_are_tasks_and_its_turns_subagents_and_compactions_are_not(path: Path) -> None:
    assert task_kind(parsed(path).turns) == ("title" if "title" in path.stem else None)


@pytest.mark.parametrize("key", KNOWN)
def test_open_webuis_prompts_are_tasks_in_other_words_too(key: str) -> None:
    assert kind_of(open_webui(key)) == key


def test_open_webuis_autocompletion_is_a_task() -> None:
    assert kind_of(AUTOCOMPLETE.replace("### Task:\n", "### Task:  \n")) == "text"
    assert json.loads(task_answer("text", AUTOCOMPLETE)) == {"text": ""}
    assert kind_of(AUTOCOMPLETE.replace("You are an", "Explain the")) is None
    assert kind_of(AUTOCOMPLETE + "\nAnd now you.") is None


def test_open_webuis_emoji_prompt_is_a_task() -> None:
    assert task_answer("emoji", EMOJI)
    assert kind_of(EMOJI.replace("\n\nMessage: ", "\n")) is None


@pytest.mark.parametrize(
    "text",
    [
        "Provide a concise title for my essay.",
        "Please: Provide a concise, 5-word-or-less title for the conversation",
        "### Task:\nWrite a poem.",
        open_webui("colour"),
        open_webui("title").replace("### Output:", "### Result:"),
        "Analyze this conversation and provide:\nA summary.",
        "Provide a concise, 5-word-or-less title for the conversation, using title case conventions.",
        '### Task:\nSum up.\n### Output:\nAs { "text": "" }, in Latin.\n<poem>\nArma virumque cano\n</poem>',
        '### Task:\nSum up.\n### Output:\nAs { "title": "" }.\n<chat_history>\nUSER: a\n</chat_history>',
        GROUNDED,
        open_webui("text"),
        open_webui("title") + "\nMake it rhyme.",
        open_webui("title").replace("### Chat History:", "### Chat:"),
    ],
)
def test_what_merely_looks_similar_is_no_task(text: str) -> None:
    assert kind_of(text) is None


def test_a_prompt_within_a_conversation_is_no_task() -> None:
    prompt = open_webui("title")
    assert not kind_of(prompt, {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"})
    assert not kind_of(prompt, {"role": "system", "content": "a"})


TITLES_SYSTEM = str(body_of(WIRE / "opencode/01-title.json")["messages"][0]["content"])
TITLES_USER = "Generate a title for this conversation:\n"


@pytest.mark.parametrize(
    ("system", "text"),
    [
        ("", TITLES_USER),
        ("You are a pirate.", TITLES_USER),
        (f"You are a pirate.\n{TITLES_SYSTEM}", TITLES_USER),
        ("You are a title generator.", TITLES_USER),
        (TITLES_SYSTEM, "Generate a title for this essay:\n"),
        (TITLES_SYSTEM, f"Please: {TITLES_USER}"),
    ],
)
def test_either_half_of_opencodes_prompt_alone_is_no_task(system: str, text: str) -> None:
    assert kind_of("Rice", {"role": "system", "content": system}, {"role": "user", "content": text}) is None


def test_opencodes_prompt_is_no_task_further_on_in_a_conversation() -> None:
    before = ("system", TITLES_SYSTEM), ("user", "a"), ("assistant", "b")
    assert not kind_of(TITLES_USER, *({"role": role, "content": text} for role, text in before))


def test_a_long_text_is_looked_at_in_its_beginning_alone() -> None:
    assert not kind_of("### Task:\n" + "x" * 1_000_000 + open_webui("title"))


def recorded(name: str) -> tuple[str, Any]:
    """Prompt and response format of a recorded request."""
    body = body_of(WIRE / f"librechat/{name}.json")
    return body["messages"][0]["content"], body.get("response_format")


def test_a_title_is_the_beginning_of_what_the_user_said() -> None:
    assert task_answer("title", *recorded("02-title-completion")) == "First question about cats"
    assert json.loads(task_answer("title", open_webui("title"))) == {"title": "Wie koche ich Reis?"}
    assert json.loads(task_answer("title", prompt_of("02-title"))) == {"title": "What is 6*7?"}


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("01-title", "How do I cook rice for ten people?"),
        ("04-title-file", 'Sum up @notes.txt please, with a "quote" second…'),
        ("06-title-plan-mode", "Plan a thing"),
        ("10-title-after-command", "What did it print?"),
        ("13-responses-title", "How do I cook rice?"),
    ],
)
def test_opencodes_title_is_of_the_users_own_words(name: str, title: str) -> None:
    assert task_answer("title", parsed(WIRE / f"opencode/{name}.json").user_text) == title


READ = 'Called the Read tool with the following input: {"filePath":"/a"}'


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("cook rice", "Cook rice"),
        ('"', '"'),
        ('Who said "no"', 'Who said "no"'),
        (f"What is in @a\n{READ}\n<path>/a</path>", "What is in @a"),
        (f"{READ}\n<path>/a</path>\n<type>directory</type>\n<entries>\nb\n</entries>\nList it", "List it"),
        (f"{READ}\nRead tool failed to read /a", "New Chat"),
        ("", "New Chat"),
    ],
)
def test_what_opencode_adds_to_the_users_words_is_in_no_title(text: str, title: str) -> None:
    assert task_answer("title", f"{TITLES_USER}\n\n{text}") == title


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
    prompt = open_webui("prompt").replace("So.\n", "So.\nUSER: Draw\nan otter\nASSISTANT: ")
    assert json.loads(task_answer("prompt", prompt)) == {"prompt": "Draw\nan otter"}
    assert json.loads(task_answer("prompt", "nothing quoted")) == {"prompt": ""}


def asked(chat: str) -> Any:
    """The follow-ups for a chat."""
    prompt = open_webui("follow_ups").replace("USER: Wie koche ich Reis?\nASSISTANT: So.", chat)
    return json.loads(task_answer("follow_ups", prompt))["follow_ups"]


def test_what_may_follow_a_question_for_a_decision_are_its_choices() -> None:
    answer = task_answer("follow_ups", prompt_of("15-approval-follow-ups"))
    assert json.loads(answer) == {"follow_ups": ["Proceed", "Reject"]}
    said = answer_text(HumanInputRequested({}, ("Ja, los", "Nein", "Später"), "0123456789abcdef"))
    assert asked(f"USER: a\nASSISTANT: Soll ich?{said}") == ["Ja, los", "Nein", "Später"]
    assert asked(f"USER: a\nASSISTANT: Soll ich?{said}\nUSER: b\nASSISTANT: c") == []
    assert asked("ASSISTANT: (Waiting for your decision: a\nb)") == []


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("What is 6*7?", "What is 6*7?"),
        ("What is 6*7? Please tell me.", "What is 6*7?"),
        ("Why is 2**3 not 2 * 3?", "Why is 2**3 not 2 * 3?"),
        ("how do I cook rice for ten people?", "How do I cook rice for ten people?"),
        (
            "Please tell me in detail how to cook rice for ten people",
            "Please tell me in detail how to cook rice for…",
        ),
        (
            "Please tell me in detail how to cook red rice at sea",
            "Please tell me in detail how to cook red rice…",
        ),
        ("Hi! I have a question.", "Hi"),
        ("Explain f(x), please:", "Explain f(x), please"),
        ("**Bold** [link](http://x.y) `code` https://a.b/c", "Bold link code"),
        ("## Heading\n> a *quoted* snake_case\n- _item_", "Heading a quoted snake_case item"),
        ("```python\nprint(1)\n``` explain this", "Explain this"),
        ("如何煮米饭？请告诉我", "如何煮米饭？"),
        ("如何煮米饭。请告诉我", "如何煮米饭"),
        ("\n\n  Zürich — Wetter\nmorgen", "Zürich — Wetter morgen"),
        ("<b>x</b>", "X"),
        ("x" * 500, "X" + "x" * 46 + "…"),
        ("a " + "b" * 80, "A " + "b" * 45 + "…"),
        ("", "New Chat"),
        ("???", "New Chat"),
    ],
)
def test_a_title_is_short_and_in_the_texts_own_words(text: str, title: str) -> None:
    assert title_of(text) == title


def test_the_users_words_are_found_in_either_uis_prompt() -> None:
    assert prompt_text("Conversation:\nUser: one\ntwo\nAI: three") == "one\ntwo"
    assert prompt_text(HISTORY) == "Wie koche ich Reis?"
    assert prompt_text(prompt_of("26-retrieval-queries")) == "When is the launch of Falcon?"
    assert prompt_text("nothing quoted") == ""
