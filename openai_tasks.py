"""Requests that chat UIs make for themselves (titles, tags, follow-up questions) and answers without a flow.

Their prompts are their mark: LibreChat's as recorded in `tests/wire/librechat`; Open WebUI's begin with
`### Task:` and name, under `### Output:`, the one key of the JSON they want. Wire layer, pure.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import orjson

from flow_turn import Turn

TaskKind = Literal["title", "tags", "follow_ups", "queries", "text", "prompt", "emoji"]

_LOOKED_AT = 20_000
_LIBRECHAT_TITLE = re.compile(
    r"\A(?:Provide a concise, 5-word-or-less title for the conversation\b"
    r"|Analyze this conversation and provide:\s+1\. The detected language\b)"
)
_OPEN_WEBUI = re.compile(
    r"\A### Task:\s.*?^### Output:(.*?)^(?:<|### Chat History)", re.DOTALL | re.MULTILINE
)
_OPEN_WEBUI_AUTOCOMPLETION = re.compile(r"\A### Task:\s+You are an autocompletion system\b")
_OPEN_WEBUI_EMOJI = re.compile(r"\AYour task is to reflect the speaker's likely facial expression through a ")
_KEY = re.compile(r"[{`\s]\"(title|tags|follow_ups|queries|text|prompt)\"\s*:")
_SAID = re.compile(
    r"^(?:USER|User):[ \t]*(.*?)(?=^(?:ASSISTANT|AI|Assistant):|^</chat_history>|\Z)",
    re.DOTALL | re.MULTILINE,
)
_NOISE = re.compile(
    r"```.*?(?:```|\Z)|`[^`]*`|https?://\S+|!?\[([^\]]*)\]\([^)]*\)|<[^>\n]{1,80}>|[*_#>|~]+", re.DOTALL
)
_MOST_WORDS = 5
_MOST_CHARACTERS = 48
_NOTHING_SAID = "New Chat"


def task_kind(turns: Sequence[Turn]) -> TaskKind | None:
    """Which of a chat UI's own requests this is: one user message that is one of their prompts; else None."""
    turn = turns[0]
    if turn.history or turn.instructions:
        return None
    text = turn.question[:_LOOKED_AT]
    if _LIBRECHAT_TITLE.match(text):
        return "title"
    if _OPEN_WEBUI_EMOJI.match(text):
        return "emoji"
    if _OPEN_WEBUI_AUTOCOMPLETION.match(text):
        return "text"
    wanted = _OPEN_WEBUI.match(text)
    key = _KEY.search(wanted[1]) if wanted else None
    return next((kind for kind in get_args(TaskKind) if key and kind == key[1]), None)


def is_task(turns: Sequence[Turn]) -> bool:
    """Whether a request is a chat UI's own."""
    return task_kind(turns) is not None


def task_answer(kind: TaskKind, prompt: str, response_format: Any = None) -> str:
    """The answer to a task from its own text, in the form that its prompt asks for.

    A title is the beginning of what the user said; of what only a model could think of there is nothing.
    """
    if kind == "emoji":
        return "💬"
    if kind != "title":
        nothing: Any = prompt_text(prompt) if kind == "prompt" else "" if kind == "text" else []
        return orjson.dumps({kind: nothing}).decode()
    title = title_of(prompt_text(prompt))
    return as_schema(title, response_format) or (
        orjson.dumps({"title": title}).decode() if prompt.startswith("### Task:") else title
    )


def as_schema(title: str, response_format: Any) -> str | None:
    """A title as bare JSON where a `json_schema` asks for it, else None; other fields of it stay empty."""
    if not isinstance(response_format, Mapping) or response_format.get("type") != "json_schema":
        return None
    schema = response_format.get("json_schema")
    schema = schema.get("schema") if isinstance(schema, Mapping) else None
    properties = schema.get("properties") if isinstance(schema, Mapping) else None
    names = list(properties) if isinstance(properties, Mapping) and "title" in properties else ["title"]
    return orjson.dumps({name: title if name == "title" else "" for name in names}).decode()


def is_whole_json(text: str) -> bool:
    """Whether a text is a JSON object and nothing else."""
    try:
        return isinstance(orjson.loads(text), dict)
    except orjson.JSONDecodeError:
        return False


def prompt_text(prompt: str) -> str:
    """What the user said, out of the conversation that a prompt quotes."""
    said = _SAID.search(prompt)
    return said[1].strip() if said else ""


def title_of(text: str) -> str:
    """A short title in the text's own words: the beginning of its first sentence."""
    plain = " ".join(_NOISE.sub(lambda found: found[1] or " ", text).split())
    sentence = re.split(r"(?<=[.!?。!?])\s|[\n。!?]", plain, maxsplit=1)[0]
    words = sentence.split()
    title = " ".join(words[:_MOST_WORDS])[:_MOST_CHARACTERS].strip(" .,;:!?-–—\"'()[]")
    return title[:1].upper() + title[1:] or _NOTHING_SAID
