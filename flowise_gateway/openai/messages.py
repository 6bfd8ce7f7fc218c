"""Messages of a chat into Flowise's words: question, history, system text. Wire layer, pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from flowise_gateway.flow.cooperative import yield_between
from flowise_gateway.flow.errors import BadRequest
from flowise_gateway.flow.events import ClientToolCalled
from flowise_gateway.flow.lenient_json import json_text
from flowise_gateway.flow.turn import Attachment, HistoryMessage, HistoryRole
from flowise_gateway.openai.attachments import audio_part, file_part, image_part
from flowise_gateway.openai.citations import without_footer
from flowise_gateway.openai.fields import missing, string, wrong_type, wrong_value
from flowise_gateway.openai.tools import call_text

ROLES = ("developer", "system", "user", "assistant", "tool", "function")
GO_ON = "Go on."
LOOK = "See the attachment."
MAX_MESSAGES = 10_000
"""Of a chat, or items of a response and all before it."""
_ATTACHED_FILES = re.compile(r"^<attached_files>\n(?:<file [^\n]*/>\n)+</attached_files>\n*", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Conversation:
    """A chat as Flowise takes it: all up to the last answer is history, what follows is the question.

    `user_text` is what the users said, empty if nothing; `question` is then what to ask. The attachments
    are in order, those of the question at the position `len(history)`. `left_out` are the kinds of what
    could not be read of earlier messages, where a note stands instead.
    """

    user_text: str
    history: tuple[HistoryMessage, ...] = ()
    instructions: str = ""
    attachments: tuple[Attachment, ...] = ()
    left_out: tuple[str, ...] = ()

    @property
    def question(self) -> str:
        """The question, never empty."""
        return self.user_text or GO_ON


@dataclass(slots=True)
class _Reading:
    """What is read of a chat so far; `is_earlier` tells that the message under way is no reason to refuse."""

    instructions: list[str] = field(default_factory=list)
    history: list[HistoryMessage] = field(default_factory=list)
    question: list[str] = field(default_factory=list)
    tool_names: dict[str, str] = field(default_factory=dict)
    attachments: list[Attachment] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    is_earlier: bool = False
    is_newest: bool = False

    def attach(self, part: Mapping[str, Any], param: str) -> None:
        """Keep a part that is no text."""
        read = _READERS[part["type"]](part, param, len(self.attachments) + 1)
        self.files.append(read.digest)
        self.attachments.append(replace(read, position=len(self.history), is_newest=self.is_newest))

    def say(self, role: HistoryRole, text: str) -> None:
        """Add a message to the history, with the files that were attached since the one before."""
        if text or self.files:
            self.history.append(HistoryMessage(role, text or LOOK, tuple(self.files)))
            self.files.clear()

    def leave_out(self, kind: str, error: BadRequest) -> str:
        """The note for what cannot be read of an earlier message; raises the error for the newest one."""
        if not self.is_earlier:
            raise error
        self.left_out.append(kind)
        return left_out_note(kind)


_READERS = {"image_url": image_part, "input_audio": audio_part, "file": file_part}
_KINDS = {
    **dict.fromkeys(("image_url", "input_image", "image"), "image"),
    **dict.fromkeys(("input_audio", "audio"), "audio"),
    **dict.fromkeys(("file", "input_file", "document"), "file"),
}
_THOUGHTS = ("thinking", "redacted_thinking", "reasoning", "think")
"""Parts of other providers' answers that are no answer."""


def part_kind(part: Any) -> str:
    """What a part of a message is, in a word."""
    kind = part.get("type") if isinstance(part, Mapping) else None
    return _KINDS.get(kind, "part") if isinstance(kind, str) else "part"


def left_out_note(kind: str) -> str:
    """What stands in the place of something of an earlier message that the flow cannot be given."""
    return f"[{kind} left out]"


def conversation(messages: Any, *, may_be_silent: bool = False) -> Conversation:
    """Read `messages`. Raises BadRequest naming the part that is wrong, unless it is of an earlier message.

    A chat UI resends those for ever: what could be sent once must not make the chat unusable. One that may be
    silent says elsewhere what is to be run, in a form.
    """
    if messages is None and not may_be_silent:
        raise missing("messages")
    messages = [] if messages is None else messages
    if not isinstance(messages, list):
        raise wrong_type("messages", "an array", messages)
    if not (messages or may_be_silent) or len(messages) > MAX_MESSAGES:
        raise wrong_value("messages", f"it must hold 1 to {MAX_MESSAGES} messages")
    reading = _Reading()
    newest = newest_of([message.get("role") if isinstance(message, dict) else None for message in messages])
    for n, message in yield_between(_without_thoughts(messages)):
        role = message.get("role") if isinstance(message, dict) else None
        reading.is_earlier = n < newest and role not in ("system", "developer")
        reading.is_newest = n == newest and role == "user"
        try:
            _read(reading, message, f"messages[{n}]")
        except BadRequest as error:
            reading.leave_out("message", error)
    question = "\n\n".join(reading.question) or (LOOK if reading.files else "")
    instructions = "\n\n".join(reading.instructions)
    has_said = question or reading.history
    if not has_said:
        # Nothing but a system text: it is all that can be asked.
        question, instructions = instructions, ""
    if not (question or has_said or may_be_silent):
        raise BadRequest("The messages hold no text.", param="messages", code="invalid_value")
    return Conversation(
        question, tuple(reading.history), instructions, tuple(reading.attachments), tuple(reading.left_out)
    )


def newest_of(roles: Sequence[Any]) -> int:
    """The place of the user's last message, or of what follows the last answer if that comes after it."""
    last = len(roles) - 1
    for n in range(last, -1, -1):
        if roles[n] in ("user", "assistant"):
            return n if roles[n] == "user" else min(n + 1, last)
    return 0


def without_attached_files(text: str) -> str:
    """A user's text without the list of files that Open WebUI writes before it: their contents come apart."""
    return _ATTACHED_FILES.sub("", text) if "<attached_files>" in text else text


def _without_thoughts(messages: Sequence[Any]) -> Iterator[tuple[int, Any]]:
    """The messages with their places, but those that only repeat our reasoning: pydantic-ai resends it."""
    return ((n, message) for n, message in enumerate(messages) if not _is_thought(message))


def _is_thought(message: Any) -> bool:
    if not isinstance(message, dict) or message.get("role") != "assistant":
        return False
    content = message.get("content")
    if isinstance(content, list) and len(content) == 1 and isinstance(content[0], dict):
        content = content[0].get("text")
    if not isinstance(content, str) or message.get("tool_calls") or message.get("function_call"):
        return False
    text = content.strip()
    return text.startswith("<think>") and text.find("</think>") == len(text) - len("</think>") > 0


def answer_in_history(text: str, calls: Sequence[ClientToolCalled]) -> str:
    """An answer as it stands in the history once its client sends it back."""
    if not calls:  # nearly all
        return without_footer(text)
    told = [{"id": c.call_id, "function": {"name": c.name, "arguments": c.arguments}} for c in calls]
    history = conversation([{"role": "assistant", "content": text, "tool_calls": told}, _NOBODY]).history
    return history[-1].content if history else ""


_NOBODY = {"role": "user", "content": "-"}


def _read(reading: _Reading, message: Any, param: str) -> None:
    if not isinstance(message, dict):
        raise wrong_type(param, "an object", message)
    role = string(message, "role", f"{param}.role")
    if role not in ROLES:
        raise wrong_value(f"{param}.role", f"'{role[:40]}' is none of {', '.join(ROLES)}")
    if role == "assistant":
        reading.say("userMessage", "\n\n".join(reading.question))
        reading.question.clear()
    text = _content(reading, message.get("content"), param, role)
    if role == "assistant" and not text and isinstance(message.get("refusal"), str):
        text = message["refusal"]
    if role in ("system", "developer"):
        reading.instructions.extend([text] if text else [])
    elif role == "assistant":
        text = without_footer(text)
        calls = list(_tool_calls(reading, message, param))
        reading.say("apiMessage", "\n".join([text, *calls] if text else calls))
    elif role == "user":
        text = without_attached_files(text) or ("" if reading.attachments else text)
        reading.question.extend([text] if text else [])
    else:
        reading.question.append(_tool_result(reading, message, text, param))


def _tool_calls(reading: _Reading, message: Mapping[str, Any], param: str) -> Iterator[str]:
    calls = message.get("tool_calls")
    if calls is not None and not isinstance(calls, list):
        yield reading.leave_out("tool call", wrong_type(f"{param}.tool_calls", "an array", calls))
        calls = None
    for n, call in enumerate(yield_between(calls or ())):
        try:
            yield _tool_call(reading, call, f"{param}.tool_calls[{n}]")
        except BadRequest as error:
            yield reading.leave_out("tool call", error)
    if message.get("function_call") is not None:
        try:
            yield _called(message["function_call"], f"{param}.function_call")[1]
        except BadRequest as error:
            yield reading.leave_out("tool call", error)


def _tool_call(reading: _Reading, call: Any, param: str) -> str:
    if not isinstance(call, dict):
        raise wrong_type(param, "an object", call)
    kind = "custom" if call.get("type") == "custom" else "function"
    name, told = _called(call.get(kind), f"{param}.{kind}")
    if isinstance(call.get("id"), str):
        reading.tool_names[call["id"]] = name
    return told


def _called(function: Any, param: str) -> tuple[str, str]:
    if function is None:
        raise missing(param)
    if not isinstance(function, dict):
        raise wrong_type(param, "an object", function)
    name = string(function, "name", f"{param}.name")
    arguments = json_text(function.get("arguments", function.get("input", "")))
    return name, call_text(name, arguments)


def _tool_result(reading: _Reading, message: Mapping[str, Any], text: str, param: str) -> str:
    name = message.get("name")
    if message["role"] == "tool":
        try:
            name = reading.tool_names.get(string(message, "tool_call_id", f"{param}.tool_call_id"), name)
        except BadRequest:
            if not reading.is_earlier:
                raise
    return f"Tool result of {name if isinstance(name, str) else 'the tool'}: {text}"


def _content(reading: _Reading, content: Any, param: str, role: str) -> str:
    if isinstance(content, str):
        return content
    if content is None:
        # A tool may give nothing, an answer be calls alone.
        if role in ("assistant", "tool", "function") or reading.is_earlier:
            return ""
        raise missing(f"{param}.content")
    if not isinstance(content, list):
        error = wrong_type(f"{param}.content", "a string or an array of parts", content)
        return reading.leave_out("part", error)
    texts = [_part(reading, part, f"{param}.content[{n}]") for n, part in enumerate(yield_between(content))]
    return "\n".join(text for text in texts if text is not None)


def _part(reading: _Reading, part: Any, param: str) -> str | None:
    """The text of a part; None for one that is kept as an attachment, or is no part of what was said."""
    try:
        return _read_part(reading, part, param)
    except BadRequest as error:
        if reading.is_earlier and isinstance(part, dict) and part.get("type") in _THOUGHTS:
            return None
        return reading.leave_out(part_kind(part), error)


def _read_part(reading: _Reading, part: Any, param: str) -> str | None:
    if isinstance(part, str):
        return part
    if not isinstance(part, dict):
        raise wrong_type(param, "an object", part)
    kind = string(part, "type", f"{param}.type")
    if kind in ("text", "refusal", "input_text", "output_text"):
        name = "refusal" if kind == "refusal" else "text"
        return string(part, name, f"{param}.{name}")
    if kind in _READERS:
        reading.attach(part, param)
        return None
    raise wrong_value(
        f"{param}.type", f"'{kind[:40]}' is none of text, image_url, input_audio, file, refusal"
    )
