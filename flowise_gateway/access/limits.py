"""What a key may use, requests per minute and in flight, and what all may have in flight. Policy.

Without a shared store each worker keeps its own counts and admits its share, the limit over the number of
workers. Requests per minute are counted in a moving window: of the sixty seconds before any moment, none saw
more than the limit. A request that asks for several choices is a run of the flow for each, and counts as that
many everywhere.
"""

from __future__ import annotations

import logging
import math
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from threading import Lock
from typing import NamedTuple

from limits import RateLimitItemPerMinute
from limits.errors import ConfigurationError, StorageError
from limits.storage import MovingWindowSupport, Storage, storage_from_string
from limits.strategies import MovingWindowRateLimiter

from flowise_gateway.flow.errors import BadRequest, FlowiseUnavailable, RateLimited, SettingsError

log = logging.getLogger(__name__)
_IN_FLIGHT_RETRY_SECONDS = 1.0
_STORE_TIMEOUT_SECONDS = 1.0
_STORE_RETRY_SECONDS = 5.0
_STORE_MAX_CONNECTIONS = 1000
_MAX_WINDOWS = 10_000


@dataclass(slots=True, eq=False)
class Admission:
    """A request let in, which holds its places in flight until it is released or dropped."""

    _freed: deque[str]
    headers: dict[str, str] = field(default_factory=dict)
    _held: list[str] = field(default_factory=list)

    def release(self) -> None:
        """Give the places back; again does nothing."""
        # Atomic and without a lock: it may run in a garbage collection that interrupts `admit` itself.
        with suppress(IndexError):
            while True:
                self._freed.append(self._held.pop())

    def __enter__(self) -> Admission:
        """Hold the place for a `with` block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Give the place back."""
        self.release()

    def __del__(self) -> None:
        """Give the place back also where an answer was dropped before anybody could close it."""
        self.release()


class InFlight:
    """How many runs of all callers a worker has in hand; refused at once beyond that, never queued."""

    def __init__(self, most: int) -> None:
        """Let in at most so many."""
        self._most = most
        self.count = self.refusals = 0

    def enter(self, runs: int = 1) -> Callable[[], None]:
        """Let a request in; what is returned lets it out, once. Raises FlowiseUnavailable."""
        if self.count + runs > self._most:
            self.refusals += 1
            raise FlowiseUnavailable(
                "This server has as many requests in hand as it may (PROXY_MAX_IN_FLIGHT). Nothing has run; "
                "try again later.",
                retry_after_seconds=_IN_FLIGHT_RETRY_SECONDS,
            )
        self.count += runs
        held = [runs]

        def leave() -> None:
            while held:
                self.count -= held.pop()

        return leave


class KeyLimits:
    """The limits of all keys in this worker, or with a shared store the rates in all workers together."""

    def __init__(
        self, workers: int, storage_uri: str = "memory://", clock: Callable[[], float] = time.time
    ) -> None:
        """Share the limits between so many workers. Raises SettingsError if the store cannot be used."""
        self._workers = workers
        self._clock = clock
        self._own_rates = MovingWindowRateLimiter(MemoryWindows(clock))
        self._shared_rates = _shared_rates(storage_uri)
        self._shared_usable_at = -math.inf
        self._lock = Lock()
        self._in_flight: dict[str, int] = {}
        self._freed: deque[str] = deque()
        self.refusals = {"key_requests_per_minute": 0, "key_max_in_flight": 0}

    def check_runs(self, runs: int, requests_per_minute: int | None, max_in_flight: int | None) -> None:
        """Refuse what could never be let in, however long its caller waits. Raises BadRequest."""
        allowed = [] if max_in_flight is None else [self._share(max_in_flight)]
        if requests_per_minute is not None:
            is_shared = self._shared_rates is not None
            allowed.append(requests_per_minute if is_shared else self._share(requests_per_minute))
        if allowed and runs > min(allowed):
            raise BadRequest(
                f"Each choice is a run of its own, and this key's limits allow {min(allowed)} of them.",
                code="invalid_value",
            )

    def admit(
        self, caller_name: str, requests_per_minute: int | None, max_in_flight: int | None, *, runs: int = 1
    ) -> Admission:
        """Let a request in, its places to be released. Raises RateLimited, which then counts for nothing."""
        admission = Admission(self._freed)
        if max_in_flight is not None and not self._enter(admission, caller_name, max_in_flight, runs):
            raise self._too_many_in_flight(caller_name, requests_per_minute, max_in_flight)
        try:
            if requests_per_minute is not None:
                admission.headers = self._count(caller_name, requests_per_minute, runs)
        except BaseException:  # also the kill of a greenlet that waits for the store
            admission.release()
            raise
        return admission

    def _enter(self, admission: Admission, name: str, max_in_flight: int, runs: int) -> bool:
        with self._lock:
            while self._freed:
                self._leave(self._freed.popleft())
            count = self._in_flight.get(name, 0)
            if count + runs > self._share(max_in_flight):
                return False
            self._in_flight[name] = count + runs
            admission._held.extend([name] * runs)
            return True

    def _leave(self, name: str) -> None:
        self._in_flight[name] -= 1
        if not self._in_flight[name]:
            del self._in_flight[name]

    def _too_many_in_flight(
        self, name: str, requests_per_minute: int | None, max_in_flight: int
    ) -> RateLimited:
        self.refusals["key_max_in_flight"] += 1
        headers = {}
        if requests_per_minute is not None:
            headers = self._rate(name, requests_per_minute, runs=0).headers()
        limit = f"have {max_in_flight} requests in flight"
        return _refusal(limit + self._shares(max_in_flight), _IN_FLIGHT_RETRY_SECONDS, headers)

    def _count(self, name: str, requests_per_minute: int, runs: int) -> dict[str, str]:
        rate = self._rate(name, requests_per_minute, runs=runs)
        if rate.is_admitted:
            return rate.headers()
        self.refusals["key_requests_per_minute"] += 1
        limit = f"send {requests_per_minute} requests per minute"
        if rate.limit != requests_per_minute:
            limit += self._shares(requests_per_minute)
        # Room since the refusal, made meanwhile: again at once.
        raise _refusal(limit, 0.0 if rate.remaining >= runs else rate.reset_seconds, rate.headers())

    def _rate(self, name: str, requests_per_minute: int, *, runs: int) -> _Rate:
        """How a key stands after so many runs more, if they are let in; none are counted else."""
        shared = self._shared_rates
        if shared is not None and self._clock() >= self._shared_usable_at:
            try:
                return self._read(shared, name, requests_per_minute, runs)
            except StorageError as error:
                self._shared_usable_at = self._clock() + _STORE_RETRY_SECONDS
                kind = type(error.storage_error).__name__
                log.warning("the shared store of the limits failed (%s): each worker takes its share", kind)
        return self._read(self._own_rates, name, self._share(requests_per_minute), runs)

    def _read(self, rates: MovingWindowRateLimiter, name: str, limit: int, runs: int) -> _Rate:
        item = RateLimitItemPerMinute(limit)
        is_admitted = runs > 0 and rates.hit(item, name, cost=runs)
        frees_at, remaining = rates.get_window_stats(item, name)
        reset_seconds = 0.0 if remaining == limit else max(0.0, frees_at - self._clock())
        return _Rate(limit, is_admitted, remaining, reset_seconds)

    def _share(self, limit: int) -> int:
        return max(1, limit // self._workers)

    def _shares(self, limit: int) -> str:
        return "" if self._workers == 1 else f" ({self._share(limit)} in each of {self._workers} workers)"


class _Rate(NamedTuple):
    limit: int
    is_admitted: bool
    remaining: int
    reset_seconds: float

    def headers(self) -> dict[str, str]:
        return {
            "x-ratelimit-limit-requests": str(self.limit),
            "x-ratelimit-remaining-requests": str(self.remaining),
            "x-ratelimit-reset-requests": duration_text(self.reset_seconds),
        }


def _refusal(limit: str, retry_after_seconds: float, headers: dict[str, str]) -> RateLimited:
    wait = duration_text(retry_after_seconds)
    message = f"Rate limit reached: this key may {limit}; try again in {wait}."
    error = RateLimited(message, retry_after_seconds=retry_after_seconds)
    error.headers = headers
    return error


def duration_text(seconds: float) -> str:
    """A duration as OpenAI writes it, such as `17ms`, `1.5s` or `6m0s`; rounded up to the millisecond."""
    # A microsecond is forgiven, else the error of a difference of clock times shows as a millisecond.
    milliseconds = math.ceil(seconds * 1000 - 0.001)
    if 0 < milliseconds < 1000:
        return f"{milliseconds}ms"
    minutes, rest = divmod(milliseconds, 60_000)
    text = f"{rest // 1000}.{rest % 1000:03}".rstrip("0").rstrip(".")
    return f"{minutes}m{text}s" if minutes else f"{text}s"


def _shared_rates(storage_uri: str) -> MovingWindowRateLimiter | None:
    if storage_uri.startswith("memory:"):
        return None
    options = {
        "socket_timeout": _STORE_TIMEOUT_SECONDS,
        "socket_connect_timeout": _STORE_TIMEOUT_SECONDS,
        "max_connections": _STORE_MAX_CONNECTIONS,
    }
    try:
        return MovingWindowRateLimiter(storage_from_string(storage_uri, wrap_exceptions=True, **options))
    except (ConfigurationError, ValueError, NotImplementedError):
        # The reason given may hold the address, and that a password.
        raise SettingsError(
            f"PROXY_STORE={storage_uri.partition(':')[0]}:(hidden) cannot hold the limits: it must be an "
            "address such as redis://localhost:6379/0, and the package redis must be installed "
            "(pip install redis)"
        ) from None


class MemoryWindows(Storage, MovingWindowSupport):
    """Moving windows, all of one length, in the memory of a process; the 10,000 used last are kept.

    Instead of `limits`' own memory storage, which never forgets a name, looks through all of them in a
    thread every 10 ms, and takes no clock.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        """Begin empty."""
        super().__init__()
        self._clock = clock
        self._lock = Lock()
        # The name whose last request is the oldest comes first.
        self._windows: OrderedDict[str, deque[float]] = OrderedDict()

    def acquire_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        """Count so many requests if the window has room for all of them, else none."""
        with self._lock:
            now = self._clock()
            times = self._window(key, now, expiry)
            if len(times) + amount > limit:
                return False
            times.extend([now] * amount)
            self._windows[key] = times
            self._windows.move_to_end(key)
            self._forget(now, expiry)
            return True

    def get_moving_window(self, key: str, limit: int, expiry: int) -> tuple[float, int]:  # noqa: ARG002
        """The time of the oldest request in the window, and how many there are."""
        with self._lock:
            now = self._clock()
            times = self._window(key, now, expiry)
            return (times[0], len(times)) if times else (now, 0)

    def _window(self, key: str, now: float, expiry: int) -> deque[float]:
        times = self._windows.get(key)
        if times is None:
            return deque()
        while times and times[0] + expiry <= now:
            times.popleft()
        # After the clock was set back nobody waits until it is as late again.
        while times and times[-1] > now:
            times.pop()
        if not times:
            del self._windows[key]
        return times

    def _forget(self, now: float, expiry: int) -> None:
        while len(self._windows) > _MAX_WINDOWS or next(iter(self._windows.values()))[-1] + expiry <= now:
            self._windows.popitem(last=False)

    def clear(self, key: str) -> None:
        """Forget a window."""
        with self._lock:
            self._windows.pop(key, None)

    def reset(self) -> int:
        """Forget all windows; how many there were."""
        with self._lock:
            count = len(self._windows)
            self._windows.clear()
            return count

    def check(self) -> bool:
        """Memory is always there."""
        return True

    @property
    def base_exceptions(self) -> tuple[type[Exception], ...]:
        """Nothing fails."""
        return ()

    def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        """Refuse to count in a fixed window."""
        raise NotImplementedError

    def get(self, key: str) -> int:
        """Refuse to read a fixed window."""
        raise NotImplementedError

    def get_expiry(self, key: str) -> float:
        """Refuse to read a fixed window."""
        raise NotImplementedError
