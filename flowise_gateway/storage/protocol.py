"""What is asked of a store."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol, TypeVar

_T = TypeVar("_T")

_ROOM_SHARE = 64
"""Making room frees a 64th of the store, so that it need not be made for each entry."""

_ENTRY_BYTES = 200
"""What an entry takes beside its key and value, roughly."""


class StoreError(Exception):
    """The store cannot be read or written; the text holds no address and no key."""


class Store(Protocol):
    """A key-value store shared by all workers."""

    def get(self, key: str) -> bytes | None:
        """Return the value, None if there is none or it has expired."""

    def take(self, key: str) -> bytes | None:
        """Return the value and delete it; of several that ask at once one alone gets it."""

    def add(self, key: str, value: bytes, seconds: float, owner: str | None = "") -> bool:
        """Put a value where there is none, and tell whether it was put."""

    def put(self, entries: Mapping[str, bytes], seconds: float, owner: str | None = "") -> None:
        """Put values, all or none, each replacing what was there; `math.inf` seconds keep them for good."""

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


def _size(key: str, value: bytes) -> int:
    return len(key) + len(value) + _ENTRY_BYTES


Executor = Callable[[Callable[[], Any]], Any]
"""Runs a function that may wait for a disk and returns what it returns; the serving stack brings its own."""


def run_inline(function: Callable[[], Any]) -> Any:
    """Run a function at once, in this thread."""
    return function()
