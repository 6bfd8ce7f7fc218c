"""Requests that chat UIs make for themselves (titles, tags, follow-up questions), answered without a flow.

They are recognized by their prompts, as recorded in `tests/wire/librechat`, `tests/wire/openwebui` and
`tests/wire/opencode`: by fixed phrases or a structure that nobody writes by hand. A prompt that is only
similar runs the flow.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Literal, get_args

import orjson

from flowise_gateway.flow.turn import Turn
from flowise_gateway.openai.answer_text import DECISION
from flowise_gateway.openai.conversation_builder import TOOL_RESULT, without_attached_files

TaskKind = Literal["title", "tags", "follow_ups", "queries", "text", "prompt", "emoji"]

_LOOKED_AT = 20_000
_LIBRECHAT_TITLES = (
    "Provide a concise, 5-word-or-less title for the conversation, using title case conventions.",
    "Analyze this conversation and provide:\n1. The detected language of the conversation\n2. A concise",
)
_OPENCODE_SYSTEM = "You are a title generator. You output ONLY a thread title."
_OPENCODE_TITLE = "Generate a title for this conversation:\n"
_OPENCODE_READ = "Called the Read tool with the following input: "
_OPENCODE_ADDS = re.compile(r"^(?:<system-reminder>|Called the Read tool with )", re.MULTILINE)
_OPEN_WEBUI = "### Task:"
_OPEN_WEBUI_OUTPUT = "\n### Output:"
_OPEN_WEBUI_CHAT = "\n### Chat History:\n<chat_history>\n"
_OPEN_WEBUI_EMOJI = "Your task is to reflect the speaker's likely facial expression through a fitting emoji."
_OPEN_WEBUI_AUTOCOMPLETION = re.compile(r"### Task:\s+You are an autocompletion system\b")
_CHAT_END = "</chat_history>"
_KEY = re.compile(r"[{`\s]\"(title|tags|follow_ups|queries|prompt)\"\s*:")
_USER_SAYS = re.compile(r"^(?:USER|User):[ \t]*", re.MULTILINE)
_OTHERS_SAY = re.compile(r"^(?:(?:ASSISTANT|AI|Assistant):|</chat_history>)", re.MULTILINE)
_REFERENCE = re.compile(r" · [0-9a-f]{16}\Z")

_NOISE = re.compile(
    r"(?s:```.*?(?:```|\Z))|`([^`]*)`|https?://\S+|!?\[([^\[\]]*)\]\([^()]*\)|</?[A-Za-z][^<>\n]{0,80}>"
    r"|^[ \t]*(?:[#>*+-]+[ \t]+)+",  # of headings, quotations and lists
    re.MULTILINE,
)
_EMPHASIS = re.compile(r"(?<![\w*_~])[*_~]++(?=\S)|(?<=[^\s*_~])[*_~]++(?!\w)")
"""Markdown's marks around words; the asterisk in `6*7` is not one."""
_SENTENCE_END = re.compile(r"(?<=[.!?])\s|(?<=[。！？])")
_ENDS = " .,;:!-–—。！"
_MAX_TITLE = 48
_NOTHING_SAID = "New Chat"


def task_kind(turns: Sequence[Turn]) -> TaskKind | None:
    """The kind of a chat UI's own request: one user message that is one of the known prompts; else None.

    opencode's also has a system message, and the beginning of the conversation after the prompt.
    """
    turn = turns[0]
    if turn.history or turn.instructions:
        return "title" if _is_title_of_opencode(turn) else None
    text = turn.question
    if text.startswith(_LIBRECHAT_TITLES):
        return "title" if "\n\nUser: " in text or "\n\nConversation:\nUser: " in text else None
    if text.startswith(_OPEN_WEBUI_EMOJI):
        return "emoji" if "\n\nMessage: " in text else None
    if not text.startswith(_OPEN_WEBUI):
        return None
    if _OPEN_WEBUI_AUTOCOMPLETION.match(text):
        return "text" if text.endswith("#### Output:", 0, len(text.rstrip())) else None
    return _framed_kind(text)


def _is_title_of_opencode(turn: Turn) -> bool:
    if not turn.instructions.startswith(_OPENCODE_SYSTEM):
        return False
    # A command that the user ran before the first question appears as an answer in the history.
    first = turn.history[0].content if turn.history else turn.question
    return first.startswith(_OPENCODE_TITLE)


def _framed_kind(text: str) -> TaskKind | None:
    """The task whose JSON is requested under `### Output:`, if the prompt ends with a chat history."""
    chat = text.find(_OPEN_WEBUI_CHAT, 0, _LOOKED_AT)
    if chat < 0 or not text.endswith(_CHAT_END, 0, len(text.rstrip())):
        return None
    output = text.find(_OPEN_WEBUI_OUTPUT, 0, chat)
    key = _KEY.search(text, output, chat) if output >= 0 else None
    return next((kind for kind in get_args(TaskKind) if key and kind == key[1]), None)


def task_answer(kind: TaskKind, prompt: str, response_format: Any = None) -> str:
    """The answer to a task, derived from its own text, in the format that the prompt requests.

    A title is the beginning of the user's text; tags and search queries, which only a model could find, are
    empty. Follow-ups of an approval request are its choices, which the UI shows as buttons.
    """
    if kind == "emoji":
        return "💬"
    if kind == "title":
        is_quoted = prompt.startswith((*_LIBRECHAT_TITLES, _OPEN_WEBUI))
        title = title_of(prompt_text(prompt) if is_quoted else _opencode_text(prompt))
        return as_schema(title, response_format) or (
            orjson.dumps({"title": title}).decode() if prompt.startswith(_OPEN_WEBUI) else title
        )
    answer: Any = [] if kind in ("tags", "queries") else ""
    if kind == "prompt":
        answer = prompt_text(prompt, is_newest=True)
    elif kind == "follow_ups":
        answer = choices_of_decision(prompt)
    return orjson.dumps({kind: answer}).decode()


def choices_of_decision(prompt: str) -> list[str]:
    """The choices of the approval request at the end of the chat in a prompt."""
    chat = prompt.rstrip().removesuffix(_CHAT_END).rstrip()
    start = chat.rfind(DECISION)
    choices = chat[start + len(DECISION) : -1]
    if start < 0 or not chat.endswith(")") or "\n" in choices:
        return []
    return _REFERENCE.sub("", choices).split(" / ")


def as_schema(title: str, response_format: Any) -> str | None:
    """A title as bare JSON if a `json_schema` requests it, with other fields empty; otherwise None."""
    if not isinstance(response_format, Mapping) or response_format.get("type") != "json_schema":
        return None
    schema = response_format.get("json_schema")
    schema = schema.get("schema") if isinstance(schema, Mapping) else None
    properties = schema.get("properties") if isinstance(schema, Mapping) else None
    names = list(properties) if isinstance(properties, Mapping) and "title" in properties else ["title"]
    return orjson.dumps({name: title if name == "title" else "" for name in names}).decode()


def prompt_text(prompt: str, *, is_newest: bool = False) -> str:
    """The user's first, or newest, message in the conversation that a prompt quotes."""
    says = deque(_USER_SAYS.finditer(prompt, max(0, len(prompt) - _LOOKED_AT)) if is_newest else (), 1)
    found = says[0] if says else _USER_SAYS.search(prompt)
    if not found:
        return ""
    begin = found.end()
    end = _OTHERS_SAY.search(prompt, begin)
    return without_attached_files(prompt[begin : end.start() if end else None]).strip()


def _opencode_text(prompt: str) -> str:
    """The user's text in opencode's prompt, without the files it read and its reminders to the model."""
    text = prompt.removeprefix(_OPENCODE_TITLE).strip()
    if text.startswith(TOOL_RESULT):
        # The output of a command may have paragraphs, too: only the last one is certainly the user's.
        text = text.rpartition("\n\n")[2]
    if text.startswith(_OPENCODE_READ):
        end = max(text.rfind(tag) for tag in ("\n</content>\n", "\n</entries>\n"))
        text = text[end + len("\n</content>\n") :] if end >= 0 else ""
    added = _OPENCODE_ADDS.search(text)
    text = (text[: added.start()] if added else text).strip()
    # `opencode run` quotes an argument of several words.
    is_argument = len(text) > 1 and text[0] == text[-1] == '"'
    return text[1:-1].replace('\\"', '"') if is_argument else text


def title_of(text: str) -> str:
    """A short title taken from the text: its first sentence, or as many of its words as fit."""
    words = _NOISE.sub(lambda found: found[1] or found[2] or " ", text[:_LOOKED_AT])
    plain = " ".join(_EMPHASIS.sub("", words).split())
    sentence = _SENTENCE_END.split(plain, maxsplit=1)[0].strip(_ENDS)
    if not sentence.strip("?？"):
        return _NOTHING_SAID
    title = sentence[:1].upper() + sentence[1:]
    if len(title) <= _MAX_TITLE:
        return title
    cut = title[: _MAX_TITLE - 1]
    words = cut if title[len(cut)] == " " else cut.rpartition(" ")[0]
    return (words if len(words) > len(cut) // 2 else cut).rstrip(_ENDS) + "…"
