"""Responses that are kept: what was asked, what was answered, all that went before. Policy.

A response belongs to the caller that asked for it; to all others its id names nothing. Each is kept whole,
with the conversation before it, so that it can be gone on from whatever becomes of the others.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import orjson

from flowise_gateway.flow.cooperative import compressed, decompressed
from flowise_gateway.flow.errors import BadRequest
from flowise_gateway.storage.store import WatchedStore

Item = Mapping[str, Any]

MAX_BYTES = 16 * 2**20
"""A conversation that is larger is answered, but no longer kept."""
MAX_REFERENCES = 1000
ALIVE_SECONDS = 20.0
"""A run in the background whose worker has not been heard of for so long is dead."""

_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")
_OVER = ("completed", "failed", "incomplete", "cancelled")
_DEAD = {"code": "server_error", "message": "The server that ran this response has ended."}


@dataclass(frozen=True, slots=True)
class Record:
    """A response with its own input and the items before that, told or answered in earlier ones.

    `blocks` counts the pieces in which the events of a background response are kept, `size` the bytes of all.
    """

    response: Mapping[str, Any]
    input_items: Sequence[Item] = ()
    before: Sequence[Item] = ()
    blocks: int = 0
    size: int = 0

    @property
    def context(self) -> list[Item]:
        """What a response that goes on from this one begins with."""
        return [*self.before, *self.input_items, *self.response["output"]]

    @property
    def is_over(self) -> bool:
        """Whether nothing will be added."""
        return self.response["status"] in _OVER

    def written(self) -> bytes:
        """The record as bytes."""
        return _packed([self.response, list(self.input_items), list(self.before), self.blocks])

    @classmethod
    def read(cls, packed: bytes) -> Record:
        """The record of its bytes."""
        raw = decompressed(packed)
        response, input_items, before, blocks = orjson.loads(raw)
        return cls(response, input_items, before, blocks, len(raw))


def _raw(value: Any) -> bytes:
    try:
        return orjson.dumps(value)
    except TypeError:  # deeper or larger numbers than orjson writes, though it reads them
        return json.dumps(value).encode()


def _packed(value: Any) -> bytes:
    return compressed(_raw(value))


class StoredResponses:
    """The responses of all callers, over a store that all workers share."""

    def __init__(self, store: WatchedStore, secret: bytes, ttl_seconds: float) -> None:
        """Derive keys with `secret`: whoever reads the store's keys learns no id."""
        self.store = store
        self.ttl_seconds = ttl_seconds
        self._secret = secret

    def of(self, scope: str, response_id: str) -> StoredResponse:
        """Where a caller's response is kept, or is to be."""
        return StoredResponse(self, scope, response_id)

    def item(self, scope: str, item_id: str) -> Item | None:
        """An item that was answered to this caller."""
        packed = self.store.get(self.key("item", scope, item_id)) if _ID.fullmatch(item_id) else None
        item: Item | None = orjson.loads(decompressed(packed)) if packed else None
        return item

    def key(self, kind: str, *parts: str) -> str:
        """The key of what a caller has under a name."""
        return f"{kind}:{hmac.new(self._secret, orjson.dumps([kind, *parts]), hashlib.sha256).hexdigest()}"


class StoredResponse:
    """One response in the store. What is said of its run is for runs in the background."""

    def __init__(self, responses: StoredResponses, scope: str, response_id: str) -> None:
        """Name a response; there need not be one."""
        self._responses, self._store = responses, responses.store
        self._scope, self.id = scope, response_id

    def record(self) -> Record | None:
        """The record; one whose run died reads as failed."""
        packed = self._store.get(self._key("resp")) if _ID.fullmatch(self.id) else None
        if packed is None:
            return None
        record = Record.read(packed)
        if record.is_over or self._store.get(self._key("alive")):
            return record
        return replace(record, response={**record.response, "status": "failed", "error": _DEAD})

    def keep(self, record: Record, events: Mapping[int, bytes] | None = None) -> bool:
        """Keep a record, each item of its output under its own id, and pieces of its events; all or none."""
        entries = {self._key("resp"): record.written()}
        for item in record.response["output"]:
            entries[self._responses.key("item", self._scope, item["id"])] = _packed(item)
        entries.update(self._packed_events(events or {}))
        return self._put(entries)

    def forget(self) -> bool:
        """Delete all that is kept, end the run, and tell whether there was anything."""
        record = self.record()
        if record is None:
            return False
        if not record.is_over:
            self.ask_to_end("forget")
        self._store.delete(*self._keys_of(record))
        return True

    def forget_events(self, blocks: int) -> None:
        """Delete so many pieces of events, left by a run that was deleted while it went on."""
        self._store.delete(self._key("resp"), *(self._key("events", str(n)) for n in range(blocks)))

    def keep_events(self, number: int, events: bytes) -> None:
        """Keep a piece of the events of a run that goes on."""
        self._put(self._packed_events({number: events}))

    def events(self, number: int) -> bytes | None:
        """A piece of the events."""
        packed = self._store.get(self._key("events", str(number)))
        return decompressed(packed) if packed else None

    def show_life(self) -> bool:
        """Tell that the run goes on."""
        return self._put({self._key("alive"): b"1"}, ALIVE_SECONDS)

    def ask_to_end(self, why: str) -> None:
        """Ask the run to end, whichever worker has it."""
        self._put({self._key("end"): why.encode()}, 2 * ALIVE_SECONDS)

    def asked_to_end(self) -> str:
        """Why the run is to end; empty if it may go on."""
        return (self._store.get(self._key("end")) or b"").decode()

    def _packed_events(self, events: Mapping[int, bytes]) -> dict[str, bytes]:
        return {self._key("events", str(n)): compressed(raw) for n, raw in events.items()}

    def _keys_of(self, record: Record) -> list[str]:
        items = [self._responses.key("item", self._scope, item["id"]) for item in record.response["output"]]
        blocks = [self._key("events", str(number)) for number in range(record.blocks)]
        return [self._key("resp"), *items, *blocks]

    def _put(self, entries: Mapping[str, bytes], seconds: float | None = None) -> bool:
        self._store.put(entries, seconds or self._responses.ttl_seconds, self._scope)
        return self._store.error is None

    def _key(self, kind: str, *more: str) -> str:
        return self._responses.key(kind, self._scope, self.id, *more)


class Context:
    """What one request refers to, looked up for its parser; `before` is then what it goes on from.

    `own` are conversations that only this connection knows.
    """

    def __init__(
        self, responses: StoredResponses, scope: str, own: Mapping[str, Sequence[Item]] | None = None
    ) -> None:
        """Look up for the caller of this scope."""
        self._responses, self._scope, self._own = responses, scope, own or {}
        self._references = 0
        self.before: Sequence[Item] = ()
        self.size = 0

    def earlier(self, response_id: str) -> Sequence[Item] | None:
        """The items of a response and of all before it. Raises BadRequest for one that is not over."""
        if response_id in self._own:
            self.before = self._own[response_id]
            return self.before
        record = self._responses.of(self._scope, response_id).record()
        if record is None:
            return None
        if not record.is_over:
            raise BadRequest(
                f"Previous response with id '{response_id[:100]}' is still in progress.",
                param="previous_response_id",
                code="previous_response_not_completed",
            )
        self.before, self.size = record.context, record.size
        return self.before

    def resolve(self, item_id: str) -> Item | None:
        """The item that a reference names."""
        self._references += 1
        return self._responses.item(self._scope, item_id) if self._references <= MAX_REFERENCES else None

    def fits(self, items: Sequence[Item]) -> bool:
        """Whether the conversation with these items may still be kept."""
        return self.size + len(_raw(items)) <= MAX_BYTES


def page(
    items: Sequence[Item], *, order: str = "desc", limit: int = 20, after: str | None = None
) -> dict[str, Any]:
    """A page of a list of items. Raises BadRequest for an item that is not in it."""
    ordered = list(items) if order == "asc" else list(reversed(items))
    first = 0
    if after:
        places = [place for place, item in enumerate(ordered) if item["id"] == after]
        if not places:
            raise BadRequest(f"No item of this response has the id '{after[:100]}'.", param="after")
        first = places[0] + 1
    data = ordered[first : first + limit]
    return {
        "object": "list",
        "data": data,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
        "has_more": first + limit < len(ordered),
    }
