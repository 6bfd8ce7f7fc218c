"""The request for one run of a flow: Flowise's prediction request, typed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal
from uuid import uuid4

HistoryRole = Literal["userMessage", "apiMessage"]


@dataclass(frozen=True, slots=True)
class HistoryMessage:
    """An earlier message as Flowise accepts it: only these two roles, and only string content.

    `files` are the digests of its attachments, so that the same text with another image is another message.
    `attached` precedes its content: documents as text, and notes about parts that were left out.
    """

    role: HistoryRole
    content: str
    files: tuple[str, ...] = ()
    attached: str = ""

    @property
    def text(self) -> str:
        """The whole text."""
        return with_attached(self.attached, self.content)


def with_attached(attached: str, content: str) -> str:
    """The text of a message, preceded by its attachments."""
    return f"{attached}\n\n{content}" if attached else content


@dataclass(frozen=True, slots=True)
class Upload:
    """A file of the turn, as an entry of Flowise's `uploads[]`."""

    type: Literal["file", "url", "audio", "file:full", "file:rag"]
    name: str
    mime: str
    data: str


@dataclass(frozen=True, slots=True)
class Attachment:
    """An upload of a client, its field in the request, and the number of history messages before it.

    `is_newest` means that it belongs to the user's last message, `digest` is a hash of its content.
    """

    upload: Upload
    param: str
    position: int = 0
    is_newest: bool = False
    digest: str = ""


@dataclass(frozen=True, slots=True)
class Turn:
    """The request for one run. `flow` is a flow id, `instructions` the system text.

    `rules` are instructions for the answer, appended to the system text: the client's tools, the format.
    `extra` are further fields of Flowise's request, sent unchanged. `server` names the replica that has the
    session; empty: any.

    Flowise keeps one event stream per `chat_id` for all flows, so concurrent runs must never share one. All
    runs of a session, one after the other, use the same one, since agentflows find its images there.
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
