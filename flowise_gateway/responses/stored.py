"""Stored responses: each with its input items, its output and the conversation before it.

A response belongs to its caller; for all others, its id does not exist. Each is stored with the whole
conversation before it, so that it can be continued after earlier responses were deleted.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypedDict

import orjson

from flowise_gateway.flow.cooperative import TooLarge, compressed, decompressed, yield_between
from flowise_gateway.flow.errors import BadRequest, StoreUnavailable
from flowise_gateway.flow.lru import LRU
from flowise_gateway.flow.readable import readable
from flowise_gateway.responses.input_items import too_large_context
from flowise_gateway.responses.items import Item
from flowise_gateway.storage.store import WatchedStore

MAX_BYTES = 16 * 2**20
"""The maximum size of a conversation; a larger one is answered, but not stored."""
MAX_OWN = 8
MAX_OWN_BYTES = 4 * MAX_BYTES
"""The limits of the unstored conversations that a connection remembers, latest first."""
MAX_REFERENCES = 1000
MAX_REFERENCED_BYTES = 32 * 2**20
"""The maximum size of all items that one request refers to."""
STORE_RETRY_SECONDS = 2.0
ALIVE_SECONDS = 20.0
"""A background run without a sign of life from its worker for this long is dead."""
DOUBT_SECONDS = 2.0
"""The time after which a run without a sign of life is checked again."""

_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")
_OVER = ("completed", "failed", "incomplete", "cancelled")
_DEAD = {"code": "server_error", "message": "The server that ran this response was stopped."}


@dataclass(frozen=True, slots=True)
class Record:
    """A response with the items of its own input and the items of the conversation before that.

    `blocks` is the number of stored event blocks of a background response, `size` the bytes of the record.
    """

    response: Mapping[str, Any]
    input_items: Sequence[Item] = ()
    before: Sequence[Item] = ()
    blocks: int = 0
    size: int = 0

    @property
    def context(self) -> list[Item]:
        """The items with which a response that continues this one begins."""
        return [*self.before, *self.input_items, *self.response["output"]]

    @property
    def is_over(self) -> bool:
        return self.response["status"] in _OVER

    def to_bytes(self) -> bytes:
        """Serialize the record for `from_bytes`."""
        return _packed([self.response, list(self.input_items), list(self.before), self.blocks])

    @classmethod
    def from_bytes(cls, packed: bytes) -> Record:
        raw = decompressed(packed)
        response, input_items, before, blocks = orjson.loads(raw)
        if not {"status", "output", "background"} <= set(response):
            raise ValueError("it was written by another version")
        return cls(response, input_items, before, blocks, len(raw))


def _raw(value: Any) -> bytes:
    try:
        return orjson.dumps(value)
    except TypeError:  # deeper or larger numbers than orjson writes, though it reads them
        return json.dumps(value).encode()


def _packed(value: Any) -> bytes:
    return compressed(_raw(value))


class StoredResponses:
    """The responses of all callers, in a store that all workers share."""

    def __init__(self, store: WatchedStore, secret: bytes, ttl_seconds: float) -> None:
        """Derive keys with `secret`, so that the store's keys do not reveal ids.

        What was stored under an old secret of the store is found, too.
        """
        self.store = store
        self.ttl_seconds = ttl_seconds
        self._secret = secret

    def of(self, scope: str, response_id: str) -> StoredResponse:
        """The place of a response in the store, which may not exist."""
        return StoredResponse(self, scope, response_id)

    def item(self, scope: str, item_id: str, max_bytes: int | None = None) -> bytes | None:
        """An output item of a response of this caller, as JSON. Raises TooLarge."""
        packed = self.read("item", scope, item_id) if _ID.fullmatch(item_id) else None
        try:
            return decompressed(packed, max_bytes) if packed else None
        except TooLarge:
            raise
        except zlib.error:
            return None

    def read(self, kind: str, *parts: str) -> bytes | None:
        """Read a value. Raises StoreUnavailable if it may exist but cannot be read."""
        found = (self.store.get(key) for key in self.keys(kind, *parts))
        value = next((value for value in found if value is not None), None)
        if value is None and self.store.error is not None:
            raise StoreUnavailable(
                "Responses are in the store, which is currently unavailable.",
                retry_after_seconds=STORE_RETRY_SECONDS,
            )
        return value

    def key(self, kind: str, *parts: str) -> str:
        """The key under which a value is stored."""
        return self.keys(kind, *parts)[0]

    def keys(self, kind: str, *parts: str) -> list[str]:
        """The key of a value, and those under which it may have been stored before a rotation."""
        name = orjson.dumps([kind, *parts])
        secrets = (self._secret, *self.store.old_secrets)
        return [f"{kind}:{hmac.new(secret, name, hashlib.sha256).hexdigest()}" for secret in secrets]


class StoredResponse:
    """The place of one response in the store, and messages between workers about its background run."""

    def __init__(self, responses: StoredResponses, scope: str, response_id: str) -> None:
        self._responses, self._store = responses, responses.store
        self._scope, self.id = scope, response_id

    @property
    def store_failures(self) -> int:
        """The number of store failures in this process; data stored before one may be lost."""
        return self._store.failures

    def record(self) -> Record | None:
        """The record, which is failed if its worker died. Raises StoreUnavailable."""
        record = self._record()
        if record is None or record.is_over or self._is_alive():
            return record
        # A store that was unavailable may have lost the sign of life, which the run soon renews.
        time.sleep(DOUBT_SECONDS)
        record = self._record()
        if record is None or record.is_over or self._is_alive():
            return record
        return replace(record, response={**record.response, "status": "failed", "error": _DEAD})

    def _record(self) -> Record | None:
        packed = self._read("resp") if _ID.fullmatch(self.id) else None
        return readable(Record.from_bytes, packed)

    def _is_alive(self) -> bool:
        return self._read("alive") is not None

    def save(self, record: Record, events: Mapping[int, bytes] | None = None) -> bool:
        """Store a record, its output items under their own ids, and event blocks; all or none."""
        entries = {self._key("resp"): record.to_bytes()}
        for item in record.response["output"]:
            entries[self._responses.key("item", self._scope, item["id"])] = _packed(item)
        entries.update(self._packed_events(events or {}))
        return self._put(entries)

    def delete(self) -> bool:
        """Delete the response and abort its run; returns whether there was a response."""
        record = self.record()
        if record is None:
            return False
        if not record.is_over:
            self.request_abort("delete")
        items = [item["id"] for item in record.response["output"]]
        keys = [key for item in items for key in self._responses.keys("item", self._scope, item)]
        self._store.delete(*keys, *self._keys("resp"), *self._event_keys(record.blocks))
        return True

    def delete_events(self, blocks: int) -> None:
        """Delete the event blocks that a run stored after its response was deleted."""
        self._store.delete(*self._keys("resp"), *self._event_keys(blocks))

    def save_events(self, events: Mapping[int, bytes]) -> bool:
        """Store event blocks of a run, all or none."""
        return self._put(self._packed_events(events))

    def events(self, number: int) -> bytes | None:
        """One event block of a run. Raises StoreUnavailable."""
        return readable(decompressed, self._read("events", str(number)))

    def show_alive(self) -> bool:
        """Give other workers a sign of life of the run."""
        return self._put({self._key("alive"): b"1"}, ALIVE_SECONDS)

    def request_abort(self, why: str) -> None:
        """Ask the worker of the run to abort it."""
        self._put({self._key("end"): why.encode()}, 2 * ALIVE_SECONDS)

    def abort_reason(self) -> str:
        """The reason why the run must be aborted; empty if there is none."""
        return (self._store.get(self._key("end")) or b"").decode(errors="replace")

    def _packed_events(self, events: Mapping[int, bytes]) -> dict[str, bytes]:
        return {self._key("events", str(n)): compressed(raw) for n, raw in events.items()}

    def _event_keys(self, blocks: int) -> list[str]:
        return [key for number in range(blocks) for key in self._keys("events", str(number))]

    def _put(self, entries: Mapping[str, bytes], seconds: float | None = None) -> bool:
        self._store.put(entries, seconds or self._responses.ttl_seconds, self._scope)
        return self._store.error is None

    def _read(self, kind: str, *more: str) -> bytes | None:
        return self._responses.read(kind, self._scope, self.id, *more)

    def _key(self, kind: str, *more: str) -> str:
        return self._responses.key(kind, self._scope, self.id, *more)

    def _keys(self, kind: str, *more: str) -> list[str]:
        return self._responses.keys(kind, self._scope, self.id, *more)


class OwnConversations:
    """The latest unstored conversations of one connection."""

    def __init__(self) -> None:
        self._conversations: LRU[str, tuple[Sequence[Item], int]] = LRU(MAX_OWN)

    def remember(self, response_id: str, items: Sequence[Item], size: int) -> None:
        """Remember a conversation of `size` bytes; one that is too large for the store is not remembered."""
        if size > MAX_BYTES:
            return
        self._conversations[response_id] = items, size
        while sum(size for _, size in self._conversations.values()) > MAX_OWN_BYTES:
            self._conversations.popitem(last=False)

    def find(self, response_id: str) -> tuple[Sequence[Item], int] | None:
        """The items of a conversation and their bytes."""
        return self._conversations.get(response_id)

    def forget(self, response_id: str) -> None:
        self._conversations.pop(response_id, None)


class Context:
    """Resolves the references of one request; `before` is then the conversation that it continues.

    `own` are the conversations of its connection, `size` the bytes of the conversation before, `may_store`
    says whether its caller may store more today.
    """

    def __init__(
        self,
        responses: StoredResponses,
        scope: str,
        own: OwnConversations | None = None,
        may_store: Callable[[], bool] = lambda: True,
    ) -> None:
        self._responses, self._scope, self._own = responses, scope, own or OwnConversations()
        self.may_store = may_store
        self._references = 0
        self._bytes_left = MAX_REFERENCED_BYTES
        self.before: Sequence[Item] = ()
        self.size = 0

    def earlier(self, response_id: str) -> Sequence[Item] | None:
        """The items of a response and of all its predecessors. Raises BadRequest if it is in progress."""
        if found := self._own.find(response_id):
            self.before, self.size = found
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
        """The item for a reference. Raises BadRequest if all items together are too large."""
        self._references += 1
        if self._references > MAX_REFERENCES:
            return None
        try:
            raw = self._responses.item(self._scope, item_id, self._bytes_left)
        except TooLarge:
            raise too_large_context("input") from None
        if raw is None:
            return None
        self._bytes_left -= len(raw)
        item = readable(orjson.loads, raw)
        return item if isinstance(item, dict) else None

    def fits(self, items: Sequence[Item]) -> bool:
        """Whether the conversation with these items is small enough, and its caller may store it."""
        return self.size_with(items) <= MAX_BYTES and self.may_store()

    def size_with(self, items: Sequence[Item]) -> int:
        """The bytes of the conversation with these items."""
        return self.size + sum(len(_raw(item)) + 1 for item in yield_between(items))


class ItemPage(TypedDict):
    """A page of the input items of a response."""

    object: Literal["list"]
    data: list[Item]
    first_id: str | None
    last_id: str | None
    has_more: bool


def page(
    items: Sequence[Item], *, order: str = "desc", limit: int = 20, after: str | None = None
) -> ItemPage:
    """A page of a list of items. Raises BadRequest for an `after` that is not in it."""
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
