"""The store that the settings name, watched: what outlives a request."""

from __future__ import annotations

import hashlib
import hmac
import logging
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path

from flowise_gateway.storage.memory_store import MemoryStore
from flowise_gateway.storage.protocol import _T, Executor, Store, StoreError, run_inline
from flowise_gateway.storage.redis_store import RedisStore
from flowise_gateway.storage.sqlite_store import SqliteStore

log = logging.getLogger(__name__)


def open_store(address: str, run: Executor = run_inline) -> Store:
    """The store that PROXY_STORE names: `sqlite:///path`, `memory:` or `redis://…`."""
    if address == "memory:":
        return MemoryStore()
    if address.startswith("sqlite:///"):
        return SqliteStore(Path(address.removeprefix("sqlite:///")), run=run)
    return RedisStore(address)


class WatchedStore:
    """A store whose failures are told in `error` and cost what was stored, not the request.

    Reading from a failing store finds nothing, writing to it is in vain. Each value carries a seal made with
    our secret: one that is not ours, broken or put there by somebody else, is not found.
    """

    def __init__(
        self, store: Store, on_failure: Callable[[str], None] = lambda _reason: None, secret: bytes = b""
    ) -> None:
        """Watch over `store`; `on_failure` hears of the first of several failures in a row."""
        self._store = store
        self._on_failure = on_failure
        self._secret = secret
        self._own_secret = b""
        self._seals: tuple[bytes, bytes] = b"", b""
        self.error: str | None = None
        self.failures = 0

    @property
    def secret(self) -> bytes:
        """The secret given, else the one of all who share the store, made by the first to ask.

        One of our own while the store is lost; it becomes everybody's if there is none yet when it is back.
        """
        if not self._secret:
            self._own_secret = self._own_secret or os.urandom(_SECRET_BYTES)
            self._secret = self._tried(lambda: _kept_secret(self._store, self._own_secret), b"")
        return self._secret or self._own_secret

    def get(self, key: str) -> bytes | None:
        """Return the value."""
        return self._opened(key, self._tried(lambda: self._store.get(key), None))

    def take(self, key: str) -> bytes | None:
        """Return the value and delete it."""
        return self._opened(key, self._tried(lambda: self._store.take(key), None))

    def add(self, key: str, value: bytes, seconds: float, owner: str | None = "") -> bool:
        """Put a value where there is none; True for a failing store."""
        sealed = self._seal(key, value) + value
        return self._tried(lambda: self._store.add(key, sealed, seconds, self._named(owner)), fallback=True)

    def put(self, entries: Mapping[str, bytes], seconds: float, owner: str | None = "") -> None:
        """Put values."""
        sealed = {key: self._seal(key, value) + value for key, value in entries.items()}
        self._tried(lambda: self._store.put(sealed, seconds, self._named(owner)), None)

    def delete(self, *keys: str) -> bool:
        """Delete values."""
        return self._tried(lambda: self._store.delete(*keys), fallback=False)

    def _named(self, owner: str | None) -> str | None:
        """What stands for an owner in the store: a caller's name tells whose key it is."""
        return None if owner is None else self._seal("owner", owner.encode()).hex()

    def _seal(self, key: str, value: bytes | memoryview) -> bytes:
        secret = self.secret
        if self._seals[0] != secret:
            self._seals = secret, hashlib.sha256(secret).digest()  # of a length that can be a key here
        seal = hashlib.blake2b(key.encode() + b"\0", digest_size=_SEAL_BYTES, key=self._seals[1])
        seal.update(value)
        return seal.digest()

    def _opened(self, key: str, sealed: bytes | None) -> bytes | None:
        if sealed is None:
            return None
        value = memoryview(sealed)[_SEAL_BYTES:]
        return bytes(value) if hmac.compare_digest(self._seal(key, value), sealed[:_SEAL_BYTES]) else None

    def _tried(self, work: Callable[[], _T], fallback: _T) -> _T:
        try:
            result = work()
        except StoreError as error:
            if self.error is None:
                self._on_failure(str(error))
            self.error = str(error)
            self.failures += 1
            return fallback
        self.error = None
        return result


def _kept_secret(store: Store, proposed: bytes) -> bytes:
    """The secret in the store: the one proposed if there is none, or one that cannot be ours."""
    for attempt in range(3):
        kept = store.get("secret")
        if kept is not None and len(kept) == _SECRET_BYTES:
            return kept
        if attempt == 1:  # adding was in vain, and nobody was faster: something else has its place
            store.delete("secret")
        store.add("secret", proposed, math.inf, None)
    raise StoreError("PROXY_STORE does not keep what is put there")


_SECRET_BYTES = 32
_SEAL_BYTES = 16
