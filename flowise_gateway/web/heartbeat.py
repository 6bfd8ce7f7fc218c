"""The time of the next heartbeat, so that clients do not give up on a silent answer."""

from __future__ import annotations

import time
from collections.abc import Callable


class Heartbeat:
    """The time of the next heartbeat; `remaining` is passed to the run as its `wake`."""

    def __init__(self, heartbeat_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Start the first interval now."""
        self._heartbeat_seconds = heartbeat_seconds
        self._clock = clock
        self._due = clock() + heartbeat_seconds

    def reset(self) -> None:
        """Restart the interval."""
        self._due = self._clock() + self._heartbeat_seconds

    def due_within(self, seconds: float) -> None:
        """Make the heartbeat due within `seconds`."""
        self._due = min(self._due, self._clock() + seconds)

    def remaining(self) -> float:
        """Seconds until a write is due, never below zero."""
        return max(0.0, self._due - self._clock())
