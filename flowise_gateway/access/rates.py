"""Requests per minute, in moving windows: no sixty seconds, whenever they begin, see more than the limit."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from threading import Lock
from typing import Any, NamedTuple, Protocol, cast
from urllib.parse import unquote, urlsplit

from flowise_gateway.flow.errors import SettingsError
from flowise_gateway.flow.lru import LRU

_WINDOW_SECONDS = 60
_STORE_TIMEOUT_SECONDS = 1.0
_STORE_MAX_CONNECTIONS = 1000
_MAX_WINDOWS = 10_000
_ENTRIES_AT_ONCE = 1000


def nothing() -> None:
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
    give_back: Callable[[], None] = nothing

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
        give_back = partial(self._give_back, name, limit, runs, now) if is_admitted else nothing
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
        give_back = partial(self._give_back, key, runs, begin, end) if is_admitted else nothing
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
