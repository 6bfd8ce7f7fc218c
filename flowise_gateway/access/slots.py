"""Slots for runs in flight, per process and shared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from threading import Lock
from typing import Any, Protocol


class SlotsFull(Exception):
    """A name, the first argument, has too few free slots."""


class Slots:
    """The number of runs in flight under each name; None stands for all callers together."""

    def __init__(self) -> None:
        self._counts = Counter[str | None]()
        self._lock = Lock()

    def count(self, name: str | None) -> int:
        return self._counts[name]

    def take(self, runs: int, limits: Mapping[str | None, int]) -> Callable[[], None]:
        """Take a slot per run under every name; returns a function that frees them. Raises SlotsFull."""
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
    """Slots shared by all processes."""

    def take(self, runs: int, limits: Mapping[str, int]) -> Any:
        """Take slots for the runs under each name. Returns a lease for `free`, or the name with too few.

        Returns None if the slots are currently not shared.
        """

    def free(self, lease: Any) -> None:
        """Free the slots of a lease."""
