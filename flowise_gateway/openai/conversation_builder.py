"""Builds question, history and system text for Flowise from the messages of a client.

Chat messages (`messages.py`) and Responses items (`responses/input_items.py`) are parsed by their own modules
and added here in order.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from flowise_gateway.flow.errors import BadRequest
from flowise_gateway.flow.events import ClientToolCalled
from flowise_gateway.flow.turn import Attachment, HistoryMessage, HistoryRole
from flowise_gateway.openai.citations import without_footer
from flowise_gateway.openai.tools import call_text

GO_ON = "Go on."
LOOK = "See the attachment."
TOOL_RESULT = "Tool result of "
MAX_MESSAGES = 10_000
"""The maximum number of messages of a chat, or of items of a response with all its predecessors."""
_ATTACHED_FILES = re.compile(r"^<attached_files>\n(?:<file [^\n]*/>\n)+</attached_files>\n*", re.MULTILINE)
_KINDS = {
    **dict.fromkeys(("image_url", "input_image", "image"), "image"),
    **dict.fromkeys(("input_audio", "audio"), "audio"),
    **dict.fromkeys(("file", "input_file", "document"), "file"),
}


@dataclass(frozen=True, slots=True)
class Conversation:
    """A chat for Flowise: everything up to the last answer is history, the rest is the question.

    `user_text` is what the user wrote, empty if nothing. The attachments are in order; those of the question
    have the position `len(history)`. `left_out` lists the kinds of parts of earlier messages that could not
    be read and were replaced by a note.
    """

    user_text: str
    history: tuple[HistoryMessage, ...] = ()
    instructions: str = ""
    attachments: tuple[Attachment, ...] = ()
    left_out: tuple[str, ...] = ()

    @property
    def question(self) -> str:
        """The question for the flow; never empty, since Flowise refuses an empty one."""
        return self.user_text or GO_ON

    @property
    def is_empty(self) -> bool:
        """Whether the conversation contains no question."""
        return not (self.user_text or self.history)


class ConversationBuilder:
    """Collects messages in order: `begin` starts a message, an `add_` method adds its text.

    A chat UI resends every earlier message with each request, so one that cannot be read must not make the
    chat unusable: `leave_out` replaces it by a note, and raises the error only for the newest message.
    """

    def __init__(self, roles: Sequence[Any]) -> None:
        """Take the roles of all messages in advance, None for a message without one."""
        self._newest = newest_of(roles)
        self._instructions: list[str] = []
        self._history: list[HistoryMessage] = []
        self._question: list[str] = []
        self._tool_names: dict[str, str] = {}
        self._attachments: list[Attachment] = []
        self._files: list[str] = []
        self._is_newest_of_user = False
        self.is_earlier = False
        self.left_out: list[str] = []

    def begin(self, number: int, role: Any) -> None:
        """Start a message; an answer turns the question before it into history."""
        self.is_earlier = number < self._newest and role not in ("system", "developer")
        self._is_newest_of_user = number == self._newest and role == "user"
        if role == "assistant":
            self._add_to_history("userMessage", "\n\n".join(self._question))
            self._question.clear()

    def add_system(self, text: str) -> None:
        """Add a system message."""
        self._instructions += [text] if text else []

    def add_user(self, text: str) -> None:
        """Add the text of a user message."""
        text = without_attached_files(text) or ("" if self._attachments else text)
        self._question += [text] if text else []

    def add_answer(self, text: str, calls: Iterable[str]) -> None:
        """Add the text of an answer and its tool calls, each as returned by `tool_call`."""
        self._add_to_history("apiMessage", _text_and_calls(text, calls))

    def tool_call(self, call_id: Any, name: str, arguments: str) -> str:
        """The text of a tool call; remembers the tool's name, since the result does not contain it."""
        if isinstance(call_id, str):
            self._tool_names[call_id] = name
        return call_text(name, arguments, call_id)

    def add_tool_result(self, call_id: Any, name: Any, text: str) -> None:
        """Add a tool's result, which is part of the question."""
        name = self._tool_names.get(call_id, name) if isinstance(call_id, str) else name
        self._question.append(f"{TOOL_RESULT}{name if isinstance(name, str) else 'the tool'}: {text}")

    @property
    def next_file_number(self) -> int:
        """The number of the next attachment, used in the name of unnamed files."""
        return len(self._attachments) + 1

    def attach(self, attachment: Attachment) -> None:
        """Add an image, a file or audio to the current message."""
        self._files.append(attachment.digest)
        position, is_newest = len(self._history), self._is_newest_of_user
        self._attachments.append(replace(attachment, position=position, is_newest=is_newest))

    def leave_out(self, kind: str, error: BadRequest) -> str:
        """The note for an unreadable part of an earlier message; raises the error for the newest message."""
        if not self.is_earlier:
            raise error
        self.left_out.append(kind)
        return left_out_note(kind)

    def build(self) -> Conversation:
        """Return the conversation."""
        question = "\n\n".join(self._question) or (LOOK if self._files else "")
        instructions = "\n\n".join(self._instructions)
        if not (question or self._history):  # if there is only a system message, it is the question
            question, instructions = instructions, ""
        attachments, left_out = tuple(self._attachments), tuple(self.left_out)
        return Conversation(question, tuple(self._history), instructions, attachments, left_out)

    def _add_to_history(self, role: HistoryRole, text: str) -> None:
        if text or self._files:
            self._history.append(HistoryMessage(role, text or LOOK, tuple(self._files)))
            self._files.clear()


def newest_of(roles: Sequence[Any]) -> int:
    """The index of the user's last message, or of the message after the last answer if that is later."""
    last = len(roles) - 1
    for n in range(last, -1, -1):
        if roles[n] in ("user", "assistant"):
            return n if roles[n] == "user" else min(n + 1, last)
    return 0


def part_kind(part: Any) -> str:
    """The kind of a message part, as one word."""
    kind = part.get("type") if isinstance(part, Mapping) else None
    return _KINDS.get(kind, "part") if isinstance(kind, str) else "part"


def left_out_note(kind: str) -> str:
    """The text that replaces a part of an earlier message that the flow cannot receive."""
    return f"[{kind} left out]"


def is_thought(text: str) -> bool:
    """Whether an answer only repeats the reasoning, which pydantic-ai resends as a separate answer."""
    text = text.strip()
    return text.startswith("<think>") and text.find("</think>") == len(text) - len("</think>") > 0


def without_attached_files(text: str) -> str:
    """A user's text without Open WebUI's list of attached files: their contents are parts of the message."""
    return _ATTACHED_FILES.sub("", text) if "<attached_files>" in text else text


def answer_in_history(text: str, calls: Sequence[ClientToolCalled]) -> str:
    """An answer in the form that it has in the history when the client sends it back."""
    return _text_and_calls(text, [call_text(call.name, call.arguments) for call in calls])


def _text_and_calls(text: str, calls: Iterable[str]) -> str:
    text = without_footer(text)
    return "\n".join([text, *calls] if text else calls)
