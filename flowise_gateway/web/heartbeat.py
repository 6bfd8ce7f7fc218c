"""When a client must be written to next, so that a silent answer is not taken for dead."""

from __future__ import annotations

import time
from collections.abc import Callable


class Heartbeat:
    """When a client must be written to next; its `remaining` is what a run is asked to wake us by."""

    def __init__(self, heartbeat_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Start the first interval now."""
        self._heartbeat_seconds = heartbeat_seconds
        self._clock = clock
        self._due = clock() + heartbeat_seconds

    def reset(self) -> None:
        """Begin the interval anew."""
        self._due = self._clock() + self._heartbeat_seconds

    def due_within(self, seconds: float) -> None:
        """Be due in `seconds` at the latest."""
        self._due = min(self._due, self._clock() + seconds)

    def remaining(self) -> float:
        """Seconds until a write is due, never below zero."""
        return max(0.0, self._due - self._clock())
