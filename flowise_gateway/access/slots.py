"""Slots for runs in flight, in this process and in all of them together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from threading import Lock
from typing import Any, Protocol


class SlotsFull(Exception):
    """One of the names has no slots left for all runs: the first argument."""


class Slots:
    """How many runs are in flight under each name, None being all callers together."""

    def __init__(self) -> None:
        self._counts = Counter[str | None]()
        self._lock = Lock()

    def count(self, name: str | None) -> int:
        return self._counts[name]

    def take(self, runs: int, limits: Mapping[str | None, int]) -> Callable[[], None]:
        """Take a slot for each run under every name; what is returned frees them, once. Raises SlotsFull."""
        with self._lock:
            for name, limit in limits.items():
                if self._counts[name] + runs > limit:
                    raise SlotsFull(name)
            for name in limits:
                self._counts[name] += runs
        taken = [*limits]

        def free() -> None:
            with self._lock:
                while taken:
                    name = taken.pop()
                    self._counts[name] -= runs
                    if not self._counts[name]:
                        del self._counts[name]

        return free


class SharedSlots(Protocol):
    """Slots that the runs of all processes share."""

    def take(self, runs: int, limits: Mapping[str, int]) -> Any:
        """Slots for so many runs under each name: what `free` takes; the name that has too few left, as text.

        None where the slots cannot be shared just now.
        """

    def free(self, lease: Any) -> None:
        """Give slots back."""
