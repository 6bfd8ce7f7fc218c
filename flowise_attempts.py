"""The attempts of one call to Flowise: what certainly has not run is tried again, seldom. Upstream layer."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt, wait_exponential_jitter

from flowise_health import Call
from flowise_transport import NotSent
from proxy_errors import FlowiseUnavailable, RateLimited

LONGEST_RETRY_WAIT_SECONDS = 2.0
_FIRST_BACKOFF_SECONDS = 0.1
_backoff = wait_exponential_jitter(multiplier=0.2, max=LONGEST_RETRY_WAIT_SECONDS, jitter=0.1)


def attempts(
    call: Call, most: int, not_reached: Callable[[], None]
) -> Iterator[AbstractContextManager[object]]:
    """Attempts for a loop: the first costs nothing, the others are few and wait.

    `not_reached` is called when all have failed to reach Flowise; the last failure is raised.
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
    """A call's only attempt nearly always; keeps the failure that another one may mend."""

    error: FlowiseUnavailable | RateLimited | None = None

    def __enter__(self) -> None:
        """Attempt."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: object) -> bool:
        """Keep a failure after which nothing has run."""
        if isinstance(error, (FlowiseUnavailable, RateLimited)):
            self.error = error
        return self.error is not None


def _has_not_run(error: BaseException) -> bool:
    """Whether a call may be sent again: not connected, or Flowise's own 429 or 503 with a short wait."""
    if not isinstance(error, (FlowiseUnavailable, RateLimited)):
        return False
    return (error.retry_after_seconds or 0) <= LONGEST_RETRY_WAIT_SECONDS


def _wait_after(error: BaseException | None, backoff: float) -> float:
    """What Flowise asked for, or ours if that is longer; one that was not reached asked for nothing."""
    if not isinstance(error, (FlowiseUnavailable, RateLimited)) or isinstance(error.__cause__, NotSent):
        return backoff
    return max(error.retry_after_seconds or 0.0, backoff)
