"""What a key may use, requests per minute and in flight, and what all may have in flight.

Without a shared store each worker counts for itself and admits its share: the limit divided by the number of
workers. Requests per minute are counted in a moving window: of the sixty seconds before any moment, none saw
more than the limit. A request that asks for several choices is a run of the flow for each, and counts as that
many everywhere.
"""

from __future__ import annotations

import logging
import math
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from threading import Lock
from typing import Any, NamedTuple, Protocol, cast
from urllib.parse import unquote, urlsplit

from flowise_gateway.access.keys import Caller
from flowise_gateway.flow.errors import (
    BadRequest,
    FlowiseUnavailable,
    ProxyError,
    RateLimited,
    SettingsError,
)
from flowise_gateway.flow.lru import LRU

log = logging.getLogger(__name__)
_WINDOW_SECONDS = 60
_IN_FLIGHT_RETRY_SECONDS = 1.0
_STORE_TIMEOUT_SECONDS = 1.0
_STORE_RETRY_SECONDS = 5.0
_STORE_MAX_CONNECTIONS = 1000
_MAX_WINDOWS = 10_000
_ENTRIES_AT_ONCE = 1000


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


class Admission(NamedTuple):
    """A request let in: the headers that tell its caller of the rate, and what frees its slots, once.

    `give_back` also takes the request out of the rate, as if it had never been let in.
    """

    headers: dict[str, str]
    release: Callable[[], None]
    give_back: Callable[[], None]


def _nothing() -> None:
    """Give nothing back, where nothing was counted."""


class Rate(NamedTuple):
    """How a key stands in its window; `reset_seconds` is when the oldest request in it no longer counts.

    `wait_seconds` is when there is room for all runs that were refused; `give_back` takes those that were
    counted out of the window.
    """

    limit: int
    is_admitted: bool
    remaining: int
    reset_seconds: float
    wait_seconds: float = 0.0
    give_back: Callable[[], None] = _nothing

    def headers(self) -> dict[str, str]:
        return {
            "x-ratelimit-limit-requests": str(self.limit),
            "x-ratelimit-remaining-requests": str(self.remaining),
            "x-ratelimit-reset-requests": duration_text(self.reset_seconds),
        }


class Rates(Protocol):
    """Moving windows of a minute, one for each name and limit."""

    def count(self, name: str, limit: int, runs: int) -> Rate:
        """Count so many runs if the window has room for all of them, else none. Raises RatesLost."""


class RatesLost(Exception):
    """Shared windows cannot be read or written; the text is the kind of failure, without the address."""


class Limits:
    """The limits of all callers in this worker, or with shared windows the rates in all workers together."""

    def __init__(
        self,
        workers: int,
        max_in_flight: int,
        shared_rates: Rates | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Share the keys' limits between so many workers; `max_in_flight` is this worker's alone."""
        self._workers = workers
        self._max_in_flight = max_in_flight
        self._clock = clock
        self._own_rates = MemoryRates(clock)
        self._shared_rates = shared_rates
        self._shared_usable_at = -math.inf
        self._slots = Slots()
        self.refusals = {"max_in_flight": 0, "key_requests_per_minute": 0, "key_max_in_flight": 0}

    @property
    def in_flight(self) -> int:
        """How many runs this worker has in flight."""
        return self._slots.count(None)

    def check_runs(self, caller: Caller, runs: int) -> None:
        """Refuse what could never be let in, however long its caller waits. Raises BadRequest."""
        allowed = [] if caller.max_in_flight is None else [self._share(caller.max_in_flight)]
        if (rate := caller.requests_per_minute) is not None:
            allowed.append(self._share(rate) if self._shared_rates is None else rate)
        if runs > self._max_in_flight < min(allowed, default=math.inf):
            raise BadRequest(
                "Each choice is a run of its own, and this server allows "
                f"{self._max_in_flight} of them at once (PROXY_MAX_IN_FLIGHT).",
                code="invalid_value",
            )
        if allowed and runs > min(allowed):
            raise BadRequest(
                f"Each choice is a run of its own, and this key's limits allow {min(allowed)} of them.",
                code="invalid_value",
            )

    def admit(self, caller: Caller, runs: int = 1, *, takes_slots: bool = True) -> Admission:
        """Let a request in, its slots to be released; one that is refused counts for nothing.

        Raises FlowiseUnavailable if all callers together, RateLimited if this one has too much in flight.
        """
        limits: dict[str | None, int] = {None: self._max_in_flight} if takes_slots else {}
        if takes_slots and caller.max_in_flight is not None:
            limits[caller.name] = self._share(caller.max_in_flight)
        try:
            release = self._slots.take(runs, limits)
        except SlotsFull as full:
            raise self._too_many_in_flight(caller, full.args[0]) from None
        if caller.requests_per_minute is None:
            return Admission({}, release, release)
        try:
            rate = self._count(caller.name, caller.requests_per_minute, runs)
        except BaseException:  # also the kill of a greenlet that waits for the store
            release()
            raise

        def give_back() -> None:
            release()
            rate.give_back()

        return Admission(rate.headers(), release, give_back)

    def _too_many_in_flight(self, caller: Caller, name: str | None) -> ProxyError:
        if name is None or caller.max_in_flight is None:
            self.refusals["max_in_flight"] += 1
            return FlowiseUnavailable(
                "This server has as many requests in hand as it may (PROXY_MAX_IN_FLIGHT). Nothing has run; "
                "try again later.",
                retry_after_seconds=_IN_FLIGHT_RETRY_SECONDS,
            )
        self.refusals["key_max_in_flight"] += 1
        headers = {}
        if caller.requests_per_minute is not None:
            headers = self._rate(name, caller.requests_per_minute, runs=0).headers()
        limit = f"have {caller.max_in_flight} requests in flight" + self._shares(caller.max_in_flight)
        return _refusal(limit, _IN_FLIGHT_RETRY_SECONDS, headers)

    def _count(self, name: str, requests_per_minute: int, runs: int) -> Rate:
        rate = self._rate(name, requests_per_minute, runs=runs)
        if rate.is_admitted:
            return rate
        self.refusals["key_requests_per_minute"] += 1
        limit = f"send {requests_per_minute} requests per minute"
        if rate.limit != requests_per_minute:
            limit += self._shares(requests_per_minute)
        raise _refusal(limit, rate.wait_seconds, rate.headers())

    def _rate(self, name: str, requests_per_minute: int, *, runs: int) -> Rate:
        """How a key stands after so many runs more, if they are let in; else none is counted."""
        if self._shared_rates is not None and self._clock() >= self._shared_usable_at:
            try:
                return self._shared_rates.count(name, requests_per_minute, runs)
            except RatesLost as error:
                self._shared_usable_at = self._clock() + _STORE_RETRY_SECONDS
                log.warning("the shared store of the limits failed (%s): each worker takes its share", error)
        return self._own_rates.count(name, self._share(requests_per_minute), runs)

    def _share(self, limit: int) -> int:
        return max(1, limit // self._workers)

    def _shares(self, limit: int) -> str:
        return "" if self._workers == 1 else f" ({self._share(limit)} in each of {self._workers} workers)"


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


class MemoryRates:
    """Windows in the memory of a process; the 10,000 counted in last are kept."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = Lock()
        self._windows: LRU[tuple[str, int], deque[float]] = LRU(_MAX_WINDOWS)

    def count(self, name: str, limit: int, runs: int) -> Rate:
        with self._lock:
            now = self._clock()
            times = self._windows.get((name, limit), deque())
            while times and times[0] + _WINDOW_SECONDS <= now:
                times.popleft()
            # Times after now are dropped, else a clock that was set back would refuse the key until it has
            # caught up.
            while times and times[-1] > now:
                times.pop()
            is_admitted = 0 < runs <= limit - len(times)
            if is_admitted:
                times.extend([now] * runs)
                self._windows[name, limit] = times
            reset_seconds = times[0] + _WINDOW_SECONDS - now if times else 0.0
            wait_seconds = 0.0
            if not is_admitted and times and (too_many := len(times) + runs - limit) > 0:
                wait_seconds = times[min(too_many, len(times)) - 1] + _WINDOW_SECONDS - now
            self._drop_ended(now)
        give_back = partial(self._give_back, name, limit, runs, now) if is_admitted else _nothing
        return Rate(limit, is_admitted, limit - len(times), reset_seconds, wait_seconds, give_back)

    def _give_back(self, name: str, limit: int, runs: int, counted_at: float) -> None:
        with self._lock, suppress(ValueError):  # by now the window may have passed them
            times = self._windows.get((name, limit), deque())
            for _ in range(runs):
                times.remove(counted_at)

    def _drop_ended(self, now: float) -> None:
        """Drop the windows, counted in longest ago first, whose every request is older than a minute."""
        while self._windows:
            times = next(iter(self._windows.values()))
            if times and times[-1] + _WINDOW_SECONDS > now:
                return
            self._windows.popitem(last=False)


def shared_rates(address: str, clock: Callable[[], float] = time.time) -> Rates | None:
    """The windows in the Redis of PROXY_STORE, if it is one. Raises SettingsError if it cannot be used."""
    if not address.startswith(("redis://", "rediss://", "redis+sentinel://")):
        return None
    from limits.errors import ConfigurationError  # noqa: PLC0415 - a start without Redis must not pay for it

    try:
        return _RedisRates(address, clock)
    except (ConfigurationError, ValueError):
        # The reason given may hold the address, and that a password.
        raise SettingsError(
            f"PROXY_STORE={address.partition(':')[0]}:(hidden) cannot hold the limits: it must be an "
            "address such as redis://localhost:6379/0, and the package redis must be installed "
            "(pip install redis)"
        ) from None


class _RedisRates:
    """Windows in a Redis that all workers share, counted by the library `limits`."""

    def __init__(self, address: str, clock: Callable[[], float]) -> None:
        from limits import RateLimitItemPerMinute  # noqa: PLC0415
        from limits.errors import StorageError  # noqa: PLC0415
        from limits.storage import storage_from_string  # noqa: PLC0415
        from limits.strategies import MovingWindowRateLimiter  # noqa: PLC0415

        self._clock = clock
        self._item = RateLimitItemPerMinute
        options: dict[str, Any] = {
            "socket_timeout": _STORE_TIMEOUT_SECONDS,
            "socket_connect_timeout": _STORE_TIMEOUT_SECONDS,
            "max_connections": _STORE_MAX_CONNECTIONS,
        }
        if address.startswith("redis+sentinel:"):
            parts = urlsplit(address)
            login = {"username": parts.username, "password": parts.password}
            # As they are, since the library leaves what is escaped in the address as it is.
            options |= {name: unquote(text) for name, text in login.items() if text}
            seconds = _STORE_TIMEOUT_SECONDS
            options["sentinel_kwargs"] = {"socket_timeout": seconds, "socket_connect_timeout": seconds}
            options["use_replicas"] = False  # a replica does not know the latest counts
        self._storage: Any = storage_from_string(address, wrap_exceptions=True, **options)
        self._windows = MovingWindowRateLimiter(self._storage)
        self._failures = (StorageError, cast("type[Exception]", self._storage.base_exceptions))

    def count(self, name: str, limit: int, runs: int) -> Rate:
        item = self._item(limit)
        key = self._storage.prefixed_key(item.key_for(name))
        begin = time.time()
        try:
            is_admitted = runs > 0 and self._windows.hit(item, name, cost=runs)
            end = time.time()
            frees_at, remaining = self._windows.get_window_stats(item, name)
            # The window may have got room between the refusal and the reading of its state.
            is_full = not is_admitted and 0 < runs <= limit and remaining < runs
            blocking = self._storage.storage.lindex(key, limit - runs) if is_full else None
        except self._failures as error:
            raise RatesLost(type(getattr(error, "storage_error", error)).__name__) from error
        now = self._clock()
        reset_seconds = 0.0 if remaining == limit else max(0.0, frees_at - now)
        wait_seconds = max(0.0, float(blocking) + _WINDOW_SECONDS - now) if blocking else 0.0
        give_back = partial(self._give_back, key, runs, begin, end) if is_admitted else _nothing
        return Rate(limit, is_admitted, remaining, reset_seconds, wait_seconds, give_back)

    def _give_back(self, key: str, runs: int, begin: float, end: float) -> None:
        """Take so many runs out of a window that were counted between `begin` and `end`."""
        redis = self._storage.storage
        # Where Redis cannot be reached, the runs leave the window with their minute.
        with suppress(*self._failures):
            start, entries = 0, redis.lrange(key, 0, _ENTRIES_AT_ONCE - 1)
            while entries:
                entry = next((entry for entry in entries if float(entry) <= end), None)  # the newest first
                if entry is not None:
                    if float(entry) >= begin:
                        redis.lrem(key, runs, entry)
                    return
                start += _ENTRIES_AT_ONCE
                entries = redis.lrange(key, start, start + _ENTRIES_AT_ONCE - 1)
