"""Requests that chat UIs make for themselves are known by their prompts, and nothing else is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from openai_adapter import parse_chat
from openai_tasks import is_task

WIRE = Path(__file__).parent / "wire/librechat"
OPEN_WEBUI = "### Task:\nGenerate a concise, 3-5 word title.\n### Output:\n{}\n<chat_history>\nUSER: Hi\n</chat_history>"


def is_asked(text: str, *before: dict[str, str]) -> bool:
    """Whether a chat with this last message is a task."""
    messages = [*before, {"role": "user", "content": text}]
    return is_task(parse_chat({"model": "m", "messages": messages}).turns)


@pytest.mark.parametrize("path", sorted(WIRE.glob("*.json")), ids=lambda path: path.stem)
def test_librechats_titles_are_tasks_and_its_turns_are_not(path: Path) -> None:
    body = json.loads(path.read_text())["request"]["body"]
    assert is_task(parse_chat(body).turns) is ("title" in path.stem)


def test_open_webuis_prompts_are_tasks() -> None:
    assert is_asked(OPEN_WEBUI)
    assert is_asked(OPEN_WEBUI.replace("title", "list of tags"))


@pytest.mark.parametrize(
    "text",
    [
        "Provide a concise title for my essay.",
        "Please: Provide a concise, 5-word-or-less title for the conversation",
        "### Task:\nWrite a poem.",
        "Analyze this conversation and provide:\nA summary.",
    ],
)
def test_what_merely_looks_similar_is_no_task(text: str) -> None:
    assert not is_asked(text)


def test_a_prompt_within_a_conversation_is_no_task() -> None:
    assert not is_asked(OPEN_WEBUI, {"role": "user", "content": "a"}, {"role": "assistant", "content": "b"})
    assert not is_asked(OPEN_WEBUI, {"role": "system", "content": "a"})


def test_a_long_text_is_looked_at_in_its_beginning_alone() -> None:
    assert not is_asked("### Task:\n" + "x" * 1_000_000 + "<chat_history>")
