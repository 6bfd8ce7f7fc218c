"""A store in Redis, shared by many machines."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from flowise_gateway.storage.protocol import StoreError, T

REDIS_SECONDS = 2.0
REDIS_RETRY_SECONDS = 1.0
"""The interval between attempts to reach a lost Redis; other calls fail at once meanwhile."""


class RedisStore:
    """A Redis shared by many machines; its own `maxmemory` settings bound it and say what it evicts.

    Values that never expire have no expiry there, so that the policies `volatile-…` do not evict them. While
    Redis cannot be reached, one call a second tries to, and the others fail at once.
    """

    def __init__(
        self, url: str, prefix: str = "flowise-proxy:", clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Connect lazily; all keys begin with `prefix`."""
        import redis  # noqa: PLC0415 - a start without it must not pay for it

        self.prefix = prefix
        self._clock = clock
        self._redis: Any = redis.Redis.from_url(
            url, socket_timeout=REDIS_SECONDS, socket_connect_timeout=REDIS_SECONDS
        )
        self._failure: type[Exception] = redis.RedisError
        self._unreachable = (redis.ConnectionError, redis.TimeoutError)
        self._refused: type[Exception] = redis.ResponseError
        self._is_lost = False
        self._retry_at = -math.inf

    def get(self, key: str) -> bytes | None:
        return self._one(lambda: self._redis.get(self.prefix + key))

    def take(self, key: str) -> bytes | None:
        return self._one(lambda: self._redis.getdel(self.prefix + key))

    def add(self, key: str, value: bytes, seconds: float, owner: str | None = "") -> bool:  # noqa: ARG002
        with self._failures_translated():
            return bool(self._redis.set(self.prefix + key, value, nx=True, px=_milliseconds(seconds)))

    def put(self, entries: Mapping[str, bytes], seconds: float, owner: str | None = "") -> None:  # noqa: ARG002
        with self._failures_translated(), self._redis.pipeline(transaction=True) as pipeline:
            for key, value in entries.items():
                pipeline.set(self.prefix + key, value, px=_milliseconds(seconds))
            pipeline.execute()

    def delete(self, *keys: str) -> bool:
        with self._failures_translated():
            return bool(self._redis.delete(*(self.prefix + key for key in keys)))

    def call(self, work: Callable[[Any], T]) -> T:
        """Do with the client what the contract of a store does not hold. Raises StoreError."""
        with self._failures_translated():
            return work(self._redis)

    def _one(self, read: Callable[[], Any]) -> bytes | None:
        with self._failures_translated():
            try:
                value = read()
            except self._refused as error:
                if not str(error).startswith("WRONGTYPE"):
                    raise
                return None  # another program has a list or a set under this key
        return value if isinstance(value, bytes) else None

    @contextlib.contextmanager
    def _failures_translated(self) -> Iterator[None]:
        now = self._clock()
        if self._is_lost:
            if now < self._retry_at:
                raise StoreError("the Redis of PROXY_STORE cannot be reached")
            self._retry_at = now + REDIS_RETRY_SECONDS
        try:
            yield
        except (
            self._failure,
            ValueError,
        ) as error:  # a ValueError: the address may ask redis to decode values
            if isinstance(error, self._unreachable):
                self._is_lost, self._retry_at = True, self._clock() + REDIS_RETRY_SECONDS
            raise StoreError(f"the Redis of PROXY_STORE cannot be used ({type(error).__name__})") from error
        self._is_lost = False


def _milliseconds(seconds: float) -> int | None:
    return None if seconds == math.inf else max(1, int(seconds * 1000))
