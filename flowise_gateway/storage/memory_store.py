"""A store in the memory of one worker."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from flowise_gateway.storage.protocol import ROOM_SHARE, entry_size, fair_level

MAX_MEMORY_BYTES = 256 * 1024**2


class _Entry(NamedTuple):
    value: bytes
    expires: float
    owner: str | None


@dataclass(slots=True)
class _Share:
    """The keys of one owner, oldest first, and the size of their entries."""

    keys: dict[str, None] = field(default_factory=dict)
    size: int = 0


class MemoryStore:
    """A store for one process; beyond `max_bytes`, the owners with the most data lose their oldest values."""

    def __init__(
        self, max_bytes: int = MAX_MEMORY_BYTES, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._max_bytes = max_bytes
        self._clock = clock
        self._values: dict[str, _Entry] = {}
        self._shares: dict[str | None, _Share] = {}
        self._size = 0
        self._lock = threading.Lock()

    def get(self, key: str) -> bytes | None:
        entry = self._values.get(key)
        return entry.value if entry is not None and entry.expires > self._clock() else None

    def take(self, key: str) -> bytes | None:
        with self._lock:
            value = self.get(key)
            self._delete(key)
        return value

    def add(self, key: str, value: bytes, seconds: float, owner: str | None = "") -> bool:
        with self._lock:
            if self.get(key) is not None:
                return False
            self._put(key, value, seconds, owner)
        return True

    def put(self, entries: Mapping[str, bytes], seconds: float, owner: str | None = "") -> None:
        with self._lock:
            for key, value in entries.items():
                self._put(key, value, seconds, owner)

    def delete(self, *keys: str) -> bool:
        with self._lock:
            deleted = [self._delete(key) for key in keys]
        return any(deleted)

    def _put(self, key: str, value: bytes, seconds: float, owner: str | None) -> None:
        self._delete(key)
        self._values[key] = _Entry(value, self._clock() + seconds, owner)
        share = self._shares.setdefault(owner, _Share())
        share.keys[key] = None
        share.size += entry_size(key, value)
        self._size += entry_size(key, value)
        if self._size > self._max_bytes:
            self._make_room()

    def _make_room(self) -> None:
        ownerless = self._shares.get(None, _Share()).size
        owned = [share for owner, share in self._shares.items() if owner is not None]
        room = self._max_bytes - self._max_bytes // ROOM_SHARE - ownerless
        level = fair_level((share.size for share in owned), room)
        for share in owned:
            while share.size > level:
                self._delete(next(iter(share.keys)))

    def _delete(self, key: str) -> bool:
        entry = self._values.pop(key, None)
        if entry is None:
            return False
        share, size = self._shares[entry.owner], entry_size(key, entry.value)
        del share.keys[key]
        share.size -= size
        self._size -= size
        if not share.keys:
            del self._shares[entry.owner]
        return entry.expires > self._clock()
