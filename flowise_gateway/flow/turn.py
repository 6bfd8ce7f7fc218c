"""One run of a flow as it is asked for: Flowise's own request, typed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal
from uuid import uuid4

HistoryRole = Literal["userMessage", "apiMessage"]


@dataclass(frozen=True, slots=True)
class HistoryMessage:
    """An earlier message as Flowise takes it: these two roles only, string content only.

    `files` are the digests of what its client attached to it: under another picture it is another message.
    `attached` is what goes before its content: documents as text, notes of what was left out.
    """

    role: HistoryRole
    content: str
    files: tuple[str, ...] = ()
    attached: str = ""

    @property
    def text(self) -> str:
        """All of it."""
        return with_attached(self.attached, self.content)


def with_attached(attached: str, content: str) -> str:
    """A message's text behind that of what was attached to it."""
    return f"{attached}\n\n{content}" if attached else content


@dataclass(frozen=True, slots=True)
class Upload:
    """A file of the turn as Flowise's `uploads[]` has it."""

    type: Literal["file", "url", "audio", "file:full", "file:rag"]
    name: str
    mime: str
    data: str


@dataclass(frozen=True, slots=True)
class Attachment:
    """An upload of a client, the field it came in, and how many messages of the history came before it.

    `is_newest` tells that it came in the last message of the user, `digest` stands for its content.
    """

    upload: Upload
    param: str
    position: int = 0
    is_newest: bool = False
    digest: str = ""


@dataclass(frozen=True, slots=True)
class Turn:
    """One run of a flow. `flow` is a flow id, `instructions` the system text.

    `rules` is what the answer must keep to, told behind the system text: the client's tools, its format.
    `extra` are further fields of Flowise's request, sent as they are. `server` is the name of the one server,
    of several equal ones, that has the session; empty: any.

    Flowise keeps one event stream per `chat_id` over all flows, so two runs at a time must never share one;
    agentflows look there for the pictures of a session, so all its runs have the same, one after the other.
    """

    flow: str
    question: str
    history: tuple[HistoryMessage, ...] = ()
    instructions: str = ""
    uploads: tuple[Upload, ...] = ()
    session_id: str | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)
    human_input: Mapping[str, Any] | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    rules: str = ""
    stream: bool = False
    chat_id: str = field(default_factory=lambda: str(uuid4()))
    server: str = ""

    @property
    def system_text(self) -> str:
        """The system text and the rules."""
        return "\n\n".join(filter(None, (self.instructions, self.rules)))
