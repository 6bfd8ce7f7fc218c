"""How much a Flowise in trouble is asked: a budget for retries, a breaker for calls. Upstream layer, pure."""

from __future__ import annotations

import time
from collections.abc import Callable

from proxy_errors import FlowiseUnavailable

RETRYING_SHARE = 0.2
RETRYING_LEAST = 3
BREAKER_FAILURES = 5
BREAKER_SECONDS = 0.5
"""Failures within less than this are one moment's: a connection's hiccup must not refuse all for seconds."""

BREAKER_PROBE_SECONDS = 2.0


class FlowiseHealth:
    """What all calls to one Flowise know of it together. Nothing here waits, so greenlets need no lock."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin with a Flowise that is well; `is_down` says whether the breaker is open."""
        self._clock = clock
        self._failures = 0
        self._failing_since = 0.0
        self._probe_at = 0.0
        self.is_down = False
        self.retries = 0
        self.calling = 0
        self.retrying = 0

    def call(self) -> Call:
        """Begin a call. Raises FlowiseUnavailable at once while the breaker is open.

        One call in BREAKER_PROBE_SECONDS is let through all the same; the first that can be made closes it.
        """
        now = self._clock()
        if self.is_down:
            if now < self._probe_at:
                raise FlowiseUnavailable(
                    "Flowise could not be reached lately. Nothing has run; try again later.",
                    retry_after_seconds=max(1.0, self._probe_at - now),
                )
            self._probe_at = now + BREAKER_PROBE_SECONDS
        return Call(self)

    def reached(self) -> None:
        """Note that Flowise answered, with whatever but 503."""
        self._failures = 0
        self.is_down = False

    def not_reached(self) -> None:
        """Note a call that could not be made, or was answered with 503; many in a row open the breaker."""
        now = self._clock()
        self._failures += 1
        if self._failures == 1:
            self._failing_since = now
        lasts = now - self._failing_since >= BREAKER_SECONDS
        if not self.is_down and self._failures >= BREAKER_FAILURES and lasts:
            self.is_down = True
            self._probe_at = now + BREAKER_PROBE_SECONDS


class Call:
    """A call while it is attempted; used with `with`."""

    __slots__ = ("_health", "_is_retrying")

    def __init__(self, health: FlowiseHealth) -> None:
        self._health = health
        self._is_retrying = False

    def __enter__(self) -> Call:
        """Count the call."""
        self._health.calling += 1
        return self

    def __exit__(self, *_: object) -> None:
        """Count it no more."""
        self._health.calling -= 1
        self._health.retrying -= self._is_retrying

    def may_retry(self) -> bool:
        """Whether one more attempt is within the budget: a fifth of the calls under way may, or a few."""
        health = self._health
        if not self._is_retrying:
            allowed = max(RETRYING_LEAST, health.calling * RETRYING_SHARE)
            self._is_retrying = not health.is_down and health.retrying < allowed
            health.retrying += self._is_retrying
        may = self._is_retrying and not health.is_down
        health.retries += may
        return may
