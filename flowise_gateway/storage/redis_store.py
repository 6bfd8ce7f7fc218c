"""A store in Redis, shared by many machines."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

from flowise_gateway.storage.protocol import AddressError, StoreError, T

SENTINEL = "redis+sentinel"
SENTINEL_PORT = 26379
REDIS_SECONDS = 2.0
REDIS_RETRY_SECONDS = 1.0
"""The interval between attempts to reach a lost Redis; other calls fail at once meanwhile."""

MAX_CONNECTIONS = 50
"""Concurrent calls of a process; further ones wait, since a pool without free connections would fail."""


class RedisStore:
    """A Redis shared by several machines; its own `maxmemory` settings limit it.

    Permanent values have no expiry, so that `volatile-…` policies do not evict them. While Redis is
    unreachable, one call per second tries to connect, and the others fail at once.
    """

    def __init__(
        self, url: str, prefix: str = "flowise-proxy:", clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Connect lazily; all keys begin with `prefix`. Raises AddressError."""
        try:
            import redis  # noqa: PLC0415 - a start without it must not pay for it

            self._redis = _client(url)
            # Creating a connection, without opening it, detects options that redis does not know.
            pool = self._redis.connection_pool
            pool.connection_class(**pool.connection_kwargs)
        except (ImportError, ValueError, TypeError):
            # The message may contain the URL with a password.
            raise AddressError(
                f"{url.partition(':')[0]}:(hidden) cannot be opened: it must be an address such as "
                "redis://localhost:6379/0, with special characters percent-encoded (%2F), and the "
                "package redis must be installed (pip install redis)"
            ) from None
        self.prefix = prefix
        self._clock = clock
        self._slots = threading.BoundedSemaphore(
            min(MAX_CONNECTIONS, self._redis.connection_pool.max_connections)
        )
        self._failure: type[Exception] = redis.RedisError
        self._unreachable = (redis.ConnectionError, redis.TimeoutError)
        self._refused: type[Exception] = redis.ResponseError
        self._lost = ""
        self._retry_at = -math.inf

    def get(self, key: str) -> bytes | None:
        return self._one(lambda: self._redis.get(self.prefix + key))

    def take(self, key: str) -> bytes | None:
        return self._one(lambda: self._redis.getdel(self.prefix + key))

    def add(self, key: str, value: bytes, seconds: float, owner: str | None = "") -> bool:  # noqa: ARG002
        with self._failures_translated():
            return bool(self._redis.set(self.prefix + key, value, nx=True, px=_milliseconds(seconds)))

    def put(self, entries: Mapping[str, bytes], seconds: float, owner: str | None = "") -> None:  # noqa: ARG002
        is_transaction = len(entries) > 1
        with self._failures_translated(), self._redis.pipeline(is_transaction) as pipeline:
            for key, value in entries.items():
                pipeline.set(self.prefix + key, value, px=_milliseconds(seconds))
            pipeline.execute()

    def delete(self, *keys: str) -> bool:
        with self._failures_translated():
            return bool(self._redis.delete(*(self.prefix + key for key in keys)))

    def call(self, work: Callable[[Any], T]) -> T:
        """Use the client for operations that are not part of the store interface. Raises StoreError."""
        with self._failures_translated():
            return work(self._redis)

    def _one(self, read: Callable[[], Any]) -> bytes | None:
        with self._failures_translated():
            try:
                value = read()
            except self._refused as error:
                if not str(error).startswith("WRONGTYPE"):
                    raise
                return None  # another program stored a list or a set under this key
        return value if isinstance(value, bytes) else None

    @contextlib.contextmanager
    def _failures_translated(self) -> Iterator[None]:
        self._check_lost()
        if not self._slots.acquire(timeout=REDIS_SECONDS):
            raise StoreError("the Redis of PROXY_STORE answers too slowly")
        try:
            self._check_lost()  # Redis may have been lost while this call waited
            if self._lost:
                self._retry_at = self._clock() + REDIS_RETRY_SECONDS
            yield
        except (self._failure, ValueError) as error:
            # A ValueError: the URL may request that redis decodes values.
            reason = f"the Redis of PROXY_STORE cannot be used ({type(error).__name__})"
            if isinstance(error, self._unreachable):
                self._lost, self._retry_at = reason, self._clock() + REDIS_RETRY_SECONDS
            raise StoreError(reason) from error
        else:
            self._lost = ""
        finally:
            self._slots.release()

    def _check_lost(self) -> None:
        if self._lost and self._clock() < self._retry_at:
            raise StoreError(self._lost)


def _client(url: str) -> Any:
    import redis  # noqa: PLC0415 - as above
    from redis import sentinel  # noqa: PLC0415

    options = {
        "socket_timeout": REDIS_SECONDS,
        "socket_connect_timeout": REDIS_SECONDS,
        "socket_keepalive": True,
    }
    if not url.startswith(f"{SENTINEL}:"):
        return redis.Redis.from_url(url, **options)
    parts = urlsplit(url)
    login: dict[str, Any] = {"username": parts.username, "password": parts.password}
    login = {name: unquote(text) for name, text in login.items() if text}
    untyped: Any = sentinel.Sentinel
    sentinels = untyped(sentinel_addresses(url), sentinel_kwargs={**login, **options}, **login, **options)
    return sentinels.master_for(parts.path.strip("/"))


def sentinel_addresses(url: str) -> list[tuple[str, int]]:
    """The hosts and ports of `redis+sentinel://host:port,host:port/service`. Raises ValueError."""
    hosts = urlsplit(url).netloc.rpartition("@")[2].split(",")
    parts = [urlsplit(f"//{host}") for host in hosts]
    return [(part.hostname or "", part.port or SENTINEL_PORT) for part in parts]


def _milliseconds(seconds: float) -> int | None:
    return None if seconds == math.inf else max(1, int(seconds * 1000))
