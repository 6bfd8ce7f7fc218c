"""Retries: the attempts of one call, the retry budget, the circuit breaker."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt, wait_exponential_jitter

from flowise_gateway.flow.errors import FlowiseUnavailable, RateLimited
from flowise_gateway.flowise.transport.base import NotSent

MAX_RETRY_WAIT_SECONDS = 2.0
_FIRST_BACKOFF_SECONDS = 0.1
_backoff = wait_exponential_jitter(multiplier=0.2, max=MAX_RETRY_WAIT_SECONDS, jitter=0.1)


def attempts(
    call: Call, most: int, not_reached: Callable[[], None]
) -> Iterator[AbstractContextManager[object]]:
    """Attempts for a loop: the first has no overhead, retries are limited and wait.

    `not_reached` is called if no attempt reached Flowise; the last failure is raised.
    """
    first = _FirstAttempt()
    yield first
    if (error := first.error) is None:
        return
    try:
        if most == 1 or not _has_not_run(error) or not call.may_retry():
            raise error
        time.sleep(_wait_after(error, _FIRST_BACKOFF_SECONDS))
        yield from _further_attempts(call, most - 1)
    except FlowiseUnavailable:
        not_reached()
        raise


def _further_attempts(call: Call, most: int) -> Retrying:
    attempts_left = stop_after_attempt(most)

    def wait(state: RetryCallState) -> float:
        return _wait_after(state.outcome.exception() if state.outcome else None, _backoff(state))

    return Retrying(
        retry=retry_if_exception(_has_not_run),
        stop=lambda state: attempts_left(state) or not call.may_retry(),
        wait=wait,
        sleep=time.sleep,
        reraise=True,
    )


class _FirstAttempt:
    """The first attempt of a call, nearly always the only one; keeps a failure that can be retried."""

    error: FlowiseUnavailable | RateLimited | None = None

    def __enter__(self) -> None:
        """Start the attempt."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: object) -> bool:
        """Suppress and keep a failure after which nothing has run."""
        if isinstance(error, (FlowiseUnavailable, RateLimited)):
            self.error = error
        return self.error is not None


def _has_not_run(error: BaseException) -> bool:
    """Whether a call may be retried: not connected, or Flowise's 429 or 503 with a short wait."""
    if not isinstance(error, (FlowiseUnavailable, RateLimited)):
        return False
    return (error.retry_after_seconds or 0) <= MAX_RETRY_WAIT_SECONDS


def _wait_after(error: BaseException | None, backoff: float) -> float:
    """The longer of Flowise's Retry-After, if any, and the backoff."""
    if not isinstance(error, (FlowiseUnavailable, RateLimited)) or isinstance(error.__cause__, NotSent):
        return backoff
    return max(error.retry_after_seconds or 0.0, backoff)


RETRYING_SHARE = 0.2
RETRYING_LEAST = 3
BREAKER_FAILURES = 5
BREAKER_SECONDS = 0.5
"""How long failures must last before the breaker opens, so that a brief outage does not open it."""

BREAKER_PROBE_SECONDS = 2.0


class FlowiseHealth:
    """Health of one Flowise server, shared by all calls. Nothing here blocks, so greenlets need no lock."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Start healthy; `is_down` says whether the breaker is open."""
        self._clock = clock
        self._failures = 0
        self._failing_since = 0.0
        self._probe_at = 0.0
        self.is_down = False
        self.retries = 0
        self.calling = 0
        self.retrying = 0

    @property
    def is_failing(self) -> bool:
        """Whether the last call did not reach Flowise."""
        return self._failures > 0

    def call(self) -> Call:
        """Start a call. Raises FlowiseUnavailable at once while the breaker is open.

        One call per BREAKER_PROBE_SECONDS is allowed as a probe; the first success closes the breaker.
        """
        now = self._clock()
        if self.is_down:
            if now < self._probe_at:
                raise FlowiseUnavailable(
                    "Flowise could not be reached recently. Nothing has run; try again later.",
                    retry_after_seconds=max(1.0, self._probe_at - now),
                )
            self._probe_at = now + BREAKER_PROBE_SECONDS
        return Call(self)

    def reached(self) -> None:
        """Record a response with any status except 503."""
        self._failures = 0
        self.is_down = False

    def not_reached(self) -> None:
        """Record a failed connection or a 503; several in a row open the breaker."""
        now = self._clock()
        self._failures += 1
        if self._failures == 1:
            self._failing_since = now
        lasts = now - self._failing_since >= BREAKER_SECONDS
        if not self.is_down and self._failures >= BREAKER_FAILURES and lasts:
            self.is_down = True
            self._probe_at = now + BREAKER_PROBE_SECONDS


class Call:
    """A call in progress; a context manager."""

    __slots__ = ("_health", "_is_retrying")

    def __init__(self, health: FlowiseHealth) -> None:
        self._health = health
        self._is_retrying = False

    def __enter__(self) -> Call:
        """Count the call as active."""
        self._health.calling += 1
        return self

    def __exit__(self, *_: object) -> None:
        """Stop counting it."""
        self._health.calling -= 1
        self._health.retrying -= self._is_retrying

    def may_retry(self) -> bool:
        """Whether a retry is within the budget: a fifth of the active calls, and always a few."""
        health = self._health
        if not self._is_retrying:
            allowed = max(RETRYING_LEAST, health.calling * RETRYING_SHARE)
            self._is_retrying = not health.is_down and health.retrying < allowed
            health.retrying += self._is_retrying
        may = self._is_retrying and not health.is_down
        health.retries += may
        return may
