"""A store in the memory of one worker."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from flowise_gateway.storage.protocol import _ROOM_SHARE, _size, fair_level

MAX_MEMORY_BYTES = 256 * 1024**2


class _Entry(NamedTuple):
    value: bytes
    expires: float
    owner: str | None


@dataclass(slots=True)
class _Share:
    """What one owner has: keys, the oldest first, and the size of all."""

    keys: dict[str, None] = field(default_factory=dict)
    size: int = 0


class MemoryStore:
    """For one process; beyond `max_bytes` those who hold the most lose their oldest values."""

    def __init__(
        self, max_bytes: int = MAX_MEMORY_BYTES, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Begin empty."""
        self._max_bytes = max_bytes
        self._clock = clock
        self._values: dict[str, _Entry] = {}
        self._shares: dict[str | None, _Share] = {}
        self._size = 0
        self._lock = threading.Lock()

    def get(self, key: str) -> bytes | None:
        """Return the value."""
        entry = self._values.get(key)
        return entry.value if entry is not None and entry.expires > self._clock() else None

    def take(self, key: str) -> bytes | None:
        """Return the value and delete it."""
        with self._lock:
            value = self.get(key)
            self._forget(key)
        return value

    def add(self, key: str, value: bytes, seconds: float, owner: str | None = "") -> bool:
        """Put a value where there is none."""
        with self._lock:
            if self.get(key) is not None:
                return False
            self._put(key, value, seconds, owner)
        return True

    def put(self, entries: Mapping[str, bytes], seconds: float, owner: str | None = "") -> None:
        """Put values."""
        with self._lock:
            for key, value in entries.items():
                self._put(key, value, seconds, owner)

    def delete(self, *keys: str) -> bool:
        """Delete values."""
        with self._lock:
            forgotten = [self._forget(key) for key in keys]
        return any(forgotten)

    def _put(self, key: str, value: bytes, seconds: float, owner: str | None) -> None:
        self._forget(key)
        self._values[key] = _Entry(value, self._clock() + seconds, owner)
        share = self._shares.setdefault(owner, _Share())
        share.keys[key] = None
        share.size += _size(key, value)
        self._size += _size(key, value)
        if self._size > self._max_bytes:
            self._make_room()

    def _make_room(self) -> None:
        lasting = self._shares.get(None, _Share()).size
        owned = [share for owner, share in self._shares.items() if owner is not None]
        room = self._max_bytes - self._max_bytes // _ROOM_SHARE - lasting
        level = fair_level((share.size for share in owned), room)
        for share in owned:
            while share.size > level:
                self._forget(next(iter(share.keys)))

    def _forget(self, key: str) -> bool:
        entry = self._values.pop(key, None)
        if entry is None:
            return False
        share, size = self._shares[entry.owner], _size(key, entry.value)
        del share.keys[key]
        share.size -= size
        self._size -= size
        if not share.keys:
            del self._shares[entry.owner]
        return entry.expires > self._clock()
