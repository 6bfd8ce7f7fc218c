"""Requests per minute in sliding windows: no interval of sixty seconds contains more than the limit."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from threading import Lock
from typing import Any, NamedTuple, Protocol

from flowise_gateway.flow.lru import LRU

_WINDOW_SECONDS = 60
_MAX_WINDOWS = 10_000
_ENTRIES_AT_ONCE = 1000


def nothing() -> None:
    """Undo nothing, because nothing was counted."""


class Rate(NamedTuple):
    """The state of a window; after `reset_seconds`, its oldest request no longer counts.

    After `wait_seconds`, there is room for the refused runs; `give_back` removes the counted ones.
    """

    limit: int
    is_admitted: bool
    remaining: int
    reset_seconds: float
    wait_seconds: float = 0.0
    give_back: Callable[[], None] = nothing

    def headers(self) -> dict[str, str]:
        return {
            "x-ratelimit-limit-requests": str(self.limit),
            "x-ratelimit-remaining-requests": str(self.remaining),
            "x-ratelimit-reset-requests": duration_text(self.reset_seconds),
        }


class Rates(Protocol):
    """Sliding windows of a minute, one for each name and limit."""

    def count(self, name: str, limit: int, runs: int) -> Rate:
        """Count the runs if the window has room for all of them, otherwise none. Raises RatesLost."""


class RatesLost(Exception):
    """Shared windows cannot be read or written; the text is the kind of failure, without the address."""


def duration_text(seconds: float) -> str:
    """A duration as OpenAI writes it, such as `17ms`, `1.5s` or `6m0s`; rounded up to the millisecond."""
    # A microsecond is tolerated; otherwise rounding errors of clock times would add a millisecond.
    milliseconds = math.ceil(seconds * 1000 - 0.001)
    if 0 < milliseconds < 1000:
        return f"{milliseconds}ms"
    minutes, rest = divmod(milliseconds, 60_000)
    text = f"{rest // 1000}.{rest % 1000:03}".rstrip("0").rstrip(".")
    return f"{minutes}m{text}s" if minutes else f"{text}s"


_Windows = LRU[tuple[str, int], deque[float]]


class MemoryRates:
    """Windows in memory; for each owner, the 10,000 most recently used are kept.

    The owner is the part of a name before its last `|`, so that a client that invents users of its key
    (`user|key|…`) only evicts windows of that key's users.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = Lock()
        self._owners: dict[str, _Windows] = {}

    def count(self, name: str, limit: int, runs: int) -> Rate:
        with self._lock:
            now = self._clock()
            windows = self._owners.setdefault(_owner(name), LRU(_MAX_WINDOWS))
            times = windows.get((name, limit), deque())
            while times and times[0] + _WINDOW_SECONDS <= now:
                times.popleft()
            # Future times are dropped; otherwise, after the clock was set back, the key would be refused
            # until it has caught up.
            while times and times[-1] > now:
                times.pop()
            is_admitted = 0 < runs <= limit - len(times)
            if is_admitted:
                times.extend([now] * runs)
                windows[name, limit] = times
            reset_seconds = times[0] + _WINDOW_SECONDS - now if times else 0.0
            wait_seconds = 0.0
            if not is_admitted and times and (too_many := len(times) + runs - limit) > 0:
                wait_seconds = times[min(too_many, len(times)) - 1] + _WINDOW_SECONDS - now
            _drop_ended(windows, now)
        give_back = partial(self._give_back, name, limit, runs, now) if is_admitted else nothing
        return Rate(limit, is_admitted, limit - len(times), reset_seconds, wait_seconds, give_back)

    def _give_back(self, name: str, limit: int, runs: int, counted_at: float) -> None:
        with self._lock, suppress(ValueError):  # the window may have moved past them
            times = self._owners[_owner(name)].get((name, limit), deque())
            for _ in range(runs):
                times.remove(counted_at)


def _owner(name: str) -> str:
    return name.rpartition("|")[0]


def _drop_ended(windows: _Windows, now: float) -> None:
    """Drop the windows, least recently used first, whose requests are all older than a minute."""
    while windows:
        times = next(iter(windows.values()))
        if times and times[-1] + _WINDOW_SECONDS > now:
            return
        windows.popitem(last=False)


class RedisRates:
    """Windows in a Redis that all workers share, implemented by the library `limits`.

    They use the client and connections of the store, so that an unresponsive Redis is detected only once, and
    a burst of requests waits for one of a few connections instead of opening a thousand.
    """

    def __init__(
        self,
        call: Callable[[Callable[[Any], Any]], Any],
        lost: type[Exception],
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Use the Redis client through `call`, which raises `lost` if Redis is unavailable."""
        from limits import RateLimitItemPerMinute  # noqa: PLC0415 - a start without Redis must not pay for it
        from limits.storage import RedisStorage  # noqa: PLC0415
        from limits.strategies import MovingWindowRateLimiter  # noqa: PLC0415

        self._call, self._lost = call, lost
        self._clock = clock
        self._item = RateLimitItemPerMinute
        self._storage: Any = call(
            lambda redis: RedisStorage("redis://", connection_pool=redis.connection_pool)
        )
        self._windows = MovingWindowRateLimiter(self._storage)

    def count(self, name: str, limit: int, runs: int) -> Rate:
        item = self._item(limit)
        key = self._storage.prefixed_key(item.key_for(name))
        begin = time.time()

        def counted(redis: Any) -> tuple[bool, float, float, int, float]:
            is_admitted = runs > 0 and self._windows.hit(item, name, cost=runs)
            end = time.time()
            frees_at, remaining = self._windows.get_window_stats(item, name)
            # Room may have appeared in the window between the refusal and the reading of its state.
            is_full = not is_admitted and 0 < runs <= limit and remaining < runs
            blocking = redis.lindex(key, limit - runs) if is_full else None
            return is_admitted, end, frees_at, remaining, float(blocking or 0)

        try:
            is_admitted, end, frees_at, remaining, blocking = self._call(counted)
        except self._lost as error:
            raise RatesLost(str(error)) from error
        now = self._clock()
        reset_seconds = 0.0 if remaining == limit else max(0.0, frees_at - now)
        wait_seconds = max(0.0, blocking + _WINDOW_SECONDS - now) if blocking else 0.0
        give_back = partial(self._give_back, key, runs, begin, end) if is_admitted else nothing
        return Rate(limit, is_admitted, remaining, reset_seconds, wait_seconds, give_back)

    def _give_back(self, key: str, runs: int, begin: float, end: float) -> None:
        """Remove runs from a window that were counted between `begin` and `end`."""

        def given_back(redis: Any) -> None:
            start, entries = 0, redis.lrange(key, 0, _ENTRIES_AT_ONCE - 1)
            while entries:
                entry = next((entry for entry in entries if float(entry) <= end), None)  # newest first
                if entry is not None:
                    if float(entry) >= begin:
                        redis.lrem(key, runs, entry)
                    return
                start += _ENTRIES_AT_ONCE
                entries = redis.lrange(key, start, start + _ENTRIES_AT_ONCE - 1)

        # If Redis is unavailable, the runs leave the window after a minute.
        with suppress(self._lost):
            self._call(given_back)
