"""The contract of a store, and what its kinds share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol, TypeVar

T = TypeVar("T")

ROOM_SHARE = 64
"""Making room frees a 64th of the store, so that it need not be made for each entry."""

_ENTRY_BYTES = 200
"""Roughly what an entry takes beside its key and value."""


class StoreError(Exception):
    """The store cannot be read or written; the text holds no address and no key."""


class AddressError(StoreError):
    """No store can be opened at an address, however often that is tried."""


class Store(Protocol):
    """A key-value store shared by all workers.

    A full store deletes the oldest values of the owners who hold the most, and none whose owner is None.
    """

    def get(self, key: str) -> bytes | None:
        """Return the value, None if there is none or it has expired."""

    def take(self, key: str) -> bytes | None:
        """Return the value and delete it; of several callers at once one alone gets it."""

    def add(self, key: str, value: bytes, seconds: float, owner: str | None = "") -> bool:
        """Put a value where there is none, and tell whether it was put."""

    def put(self, entries: Mapping[str, bytes], seconds: float, owner: str | None = "") -> None:
        """Put values, all or none, each replacing what was there; after `math.inf` seconds none expires."""

    def delete(self, *keys: str) -> bool:
        """Delete values, and tell whether there was any."""


def fair_level(sizes: Iterable[int], room: int) -> int:
    """How much each may hold at most, so that all of these sizes together fit into the room."""
    ordered = sorted(sizes)
    for number, size in enumerate(ordered):
        level = max(0, room) // (len(ordered) - number)
        if size > level:
            return level
        room -= size
    return max(ordered, default=0)


def entry_size(key: str, value: bytes) -> int:
    return len(key) + len(value) + _ENTRY_BYTES


Executor = Callable[[Callable[[], Any]], Any]
"""Runs a function that may wait for a disk and returns what it returns; the serving stack brings its own."""


def run_inline(function: Callable[[], Any]) -> Any:
    """Run a function at once, in this thread."""
    return function()
