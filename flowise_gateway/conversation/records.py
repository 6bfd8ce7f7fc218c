"""Stored records of conversations: sessions, and texts for clients that only send new messages."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from flowise_gateway.flow.turn import HistoryMessage

History = tuple[HistoryMessage, ...]
_SHORT_BYTES = 1024


@dataclass(frozen=True, slots=True)
class SessionRecord:
    """A stored session: its chat id and server, its number of messages, its open question."""

    session: str
    chat: str
    conversation: str
    held: int
    action: Mapping[str, Any] | None = None
    choices: tuple[str, ...] = ()
    server: str = ""

    @classmethod
    def from_bytes(cls, raw: bytes) -> SessionRecord:
        return cls(**orjson.loads(raw))


@dataclass(frozen=True, slots=True)
class TranscriptRecord:
    """A stored conversation, for clients that only send new messages.

    `link` is the key of its session's record, `mark` the fingerprint of all texts, `system` that of the
    system text. A record for the id of an answer contains no texts, since the request contains them: its
    `flow` is the answer's flow, and `talk` the key of the conversation's texts, empty if the client has an id
    for them.
    """

    conversation: str
    history: History = ()
    instructions: str = ""
    link: str = ""
    mark: str = ""
    system: str = ""
    flow: str = ""
    talk: str = ""

    def to_bytes(self) -> bytes:
        raw = orjson.dumps(self)
        return zlib.compress(raw, 1) if len(raw) > _SHORT_BYTES else raw

    @classmethod
    def from_bytes(cls, raw: bytes) -> TranscriptRecord:
        value = orjson.loads(raw if raw.startswith(b"{") else zlib.decompress(raw))
        messages = (HistoryMessage(**{**m, "files": tuple(m["files"])}) for m in value["history"])
        return cls(**{**value, "history": tuple(messages)})
