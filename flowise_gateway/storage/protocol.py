"""The interface of a store, and shared helpers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol, TypeVar

T = TypeVar("T")

ROOM_SHARE = 64
"""Eviction frees a 64th of the store at a time, so that it does not run for each entry."""

_ENTRY_BYTES = 200
"""The approximate overhead of an entry."""


class StoreError(Exception):
    """The store cannot be read or written; the text contains no URL and no key."""


class AddressError(StoreError):
    """The URL of the store can never work."""


class Store(Protocol):
    """A key-value store shared by all workers.

    A full store evicts the oldest values of the owners with the most data, but none whose owner is None.
    """

    def get(self, key: str) -> bytes | None:
        """Return the value, None if there is none or it has expired."""

    def take(self, key: str) -> bytes | None:
        """Return the value and delete it; only one of several concurrent callers gets it."""

    def add(self, key: str, value: bytes, seconds: float, owner: str | None = "") -> bool:
        """Store a value unless there is one; returns whether it was stored."""

    def put(self, entries: Mapping[str, bytes], seconds: float, owner: str | None = "") -> None:
        """Store all values or none, replacing existing ones; with `math.inf` seconds they never expire."""

    def delete(self, *keys: str) -> bool:
        """Delete values; returns whether there were any."""


def fair_level(sizes: Iterable[int], room: int) -> int:
    """The maximum size per owner with which all of these sizes together fit into the room."""
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
"""Runs a function that may block on a disk, and returns its result; serving provides its own."""


def run_inline(function: Callable[[], Any]) -> Any:
    """Run a function at once, in this thread."""
    return function()
