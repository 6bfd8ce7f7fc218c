"""Opens the store in PROXY_STORE, handles its failures, and authenticates its values."""

from __future__ import annotations

import hashlib
import hmac
import logging
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence

from flowise_gateway.storage.memory_store import MemoryStore
from flowise_gateway.storage.protocol import Executor, Store, StoreError, T, entry_size, run_inline
from flowise_gateway.storage.redis_store import RedisStore
from flowise_gateway.storage.sqlite_store import SqliteStore
from flowise_gateway.storage.store_file import store_file

log = logging.getLogger(__name__)


def open_store(address: str, run: Executor = run_inline) -> Store:
    """The store for a PROXY_STORE: `sqlite:///path`, `memory:` or `redis://…`."""
    if address == "memory:":
        return MemoryStore()
    if file := store_file(address):
        return SqliteStore(file, run=run)
    return RedisStore(address)


class WatchedStore:
    """A store whose failures fail no request: reads find nothing, writes do nothing, `error` says why.

    Each value is stored with a seal made with the secret. One whose seal is wrong, since it is damaged or
    another program put it there, is not found. A seal made with one of `old_secrets`, which are still named
    after a rotation, is right too.
    """

    def __init__(
        self,
        store: Store,
        on_failure: Callable[[str], None] = lambda _reason: None,
        secret: bytes = b"",
        clock: Callable[[], float] = time.monotonic,
        old_secrets: Sequence[bytes] = (),
    ) -> None:
        """Wrap `store`; `on_failure` is called for the first of consecutive failures."""
        self.old_secrets = old_secrets
        self._store = store
        self._on_failure = on_failure
        self._clock = clock
        self._given_secret = secret
        self._agreed_secret = self._own_secret = b""
        self._agree_at = -math.inf
        self._seals: tuple[bytes, bytes] = b"", b""
        self._compare_at = self._differed_at = -math.inf
        self.error: str | None = None
        self._write_error: str | None = None
        self.failures = 0
        self.charge: Callable[[str, int], object] = lambda _owner, _size: None
        """Called with the bytes stored for an owner."""

    @property
    def is_failing(self) -> bool:
        """Whether the last access or the last write failed, since a full disk can still be read."""
        return bool(self.error or self._write_error)

    def check(self) -> str | None:
        """The reason why it cannot be read or written, if any; retries a write if the last one failed."""
        if self._write_error:
            self._compare(self.secret)
        return self.error or self._write_error

    @property
    def secret_error(self) -> str | None:
        """Set if another process uses, or recently used, another secret for this store."""
        _ = self.secret
        return _TWO_SECRETS if self._clock() < self._differed_at + _DIFFERED_SECONDS else None

    def _compare(self, secret: bytes) -> None:
        """Store a mark of the own secret, and check the one that others stored."""
        self._compare_at = self._clock() + _AGREE_SECONDS
        mark = _mark(secret)
        found = self._attempt(lambda: self._store.get("mark"), None)
        if self.error is not None:
            return
        # The mark of a rotated secret may be this server's own, from before its restart.
        if found is not None and found not in (mark, *map(_mark, self.old_secrets)):
            if self._clock() >= self._differed_at + _DIFFERED_SECONDS:
                log.warning("%s", _TWO_SECRETS)
            self._differed_at = self._clock()
        # Stored each time, so that each of two processes with different secrets finds the other's mark.
        self._attempt(lambda: self._store.put({"mark": mark}, _DIFFERED_SECONDS, None), None, writes=True)

    @property
    def secret(self) -> bytes:
        """The configured secret, otherwise the one in the store, which the first process creates.

        While the store is unavailable, the last known one or a temporary one is used. Later, it is stored if
        the store has none, or replaced by the stored one, so that all processes agree on one secret.
        """
        if not self._given_secret and self._clock() >= self._agree_at:
            return self._agreed()
        secret = self._given_secret or self._agreed_secret
        if self._clock() >= self._compare_at:
            self._compare(secret)
        return secret

    def _agreed(self) -> bytes:
        known = self._agreed_secret
        if known:  # other requests use it while this one calls the store
            self._agree_at = self._clock() + _AGREE_SECONDS
        self._own_secret = known or self._own_secret or os.urandom(_SECRET_BYTES)
        found = self._attempt(lambda: _agree(self._store, self._own_secret), b"")
        if not found:
            self._agree_at = -math.inf
            return self._own_secret
        if known and found != known:
            log.warning(
                "PROXY_STORE contains another secret: responses and links of the previous one are lost"
            )
        self._agreed_secret, self._agree_at = found, self._clock() + _AGREE_SECONDS
        return found

    def get(self, key: str) -> bytes | None:
        return self._unsealed(key, self._attempt(lambda: self._store.get(key), None))

    def take(self, key: str) -> bytes | None:
        return self._unsealed(key, self._attempt(lambda: self._store.take(key), None))

    def add(self, key: str, value: bytes, seconds: float, owner: str | None = "") -> bool:
        """Store a value unless there is one; a failing store reports success."""
        sealed = self._seal(key, value) + value
        self._charge(owner, {key: sealed})
        return self._attempt(
            lambda: self._store.add(key, sealed, seconds, self._hidden(owner)), fallback=True, writes=True
        )

    def put(self, entries: Mapping[str, bytes], seconds: float, owner: str | None = "") -> None:
        sealed = {key: self._seal(key, value) + value for key, value in entries.items()}
        self._charge(owner, sealed)
        self._attempt(lambda: self._store.put(sealed, seconds, self._hidden(owner)), None, writes=True)

    def _charge(self, owner: str | None, entries: Mapping[str, bytes]) -> None:
        if owner:
            self.charge(owner, sum(entry_size(key, value) for key, value in entries.items()))

    def delete(self, *keys: str) -> bool:
        return self._attempt(lambda: self._store.delete(*keys), fallback=False)

    def _hidden(self, owner: str | None) -> str | None:
        """The hashed owner for the store, since the caller's name would reveal the owner of a key."""
        return None if owner is None else self._seal("owner", owner.encode()).hex()

    def _seal(self, key: str, value: bytes | memoryview) -> bytes:
        secret = self.secret
        if self._seals[0] != secret:
            self._seals = secret, hashlib.sha256(secret).digest()  # of a length that is valid as a key
        return _sealed(self._seals[1], key, value)

    def _unsealed(self, key: str, sealed: bytes | None) -> bytes | None:
        if sealed is None:
            return None
        seal, value = sealed[:_SEAL_BYTES], memoryview(sealed)[_SEAL_BYTES:]
        is_ours = hmac.compare_digest(self._seal(key, value), seal) or any(
            hmac.compare_digest(_sealed(hashlib.sha256(old).digest(), key, value), seal)
            for old in self.old_secrets
        )
        return bytes(value) if is_ours else None

    def _attempt(self, work: Callable[[], T], fallback: T, *, writes: bool = False) -> T:
        try:
            result = work()
        except StoreError as error:
            if self.error is None:
                self._on_failure(str(error))
            self.error = str(error)
            self._write_error = self.error if writes else self._write_error
            self.failures += 1
            return fallback
        if writes:
            self._write_error = None
        if self.error is not None:  # the store may have lost its data, including the secret
            self.error, self._agree_at = None, -math.inf
        return result


def _mark(secret: bytes) -> bytes:
    return hashlib.blake2b(b"mark" + secret, digest_size=_SEAL_BYTES).digest()


def _sealed(digest: bytes, key: str, value: bytes | memoryview) -> bytes:
    seal = hashlib.blake2b(key.encode() + b"\0", digest_size=_SEAL_BYTES, key=digest)
    seal.update(value)
    return seal.digest()


def _agree(store: Store, proposed: bytes) -> bytes:
    """The secret in the store; the proposed one is stored if there is none, or one of another length."""
    for attempt in range(3):
        found = store.get("secret")
        if found is not None and len(found) == _SECRET_BYTES:
            return found
        if attempt == 1:  # no process's secret was stored: something else has its key
            store.delete("secret")
        store.add("secret", proposed, math.inf, None)
    raise StoreError("PROXY_STORE does not keep the data written to it")


_TWO_SECRETS = (
    "another process uses PROXY_STORE with a different PROXY_SECRET, or did some minutes ago: neither finds "
    "the responses and links of the other; set the same secret everywhere"
)
_DIFFERED_SECONDS = 300.0
_AGREE_SECONDS = 30.0
"""How often a process checks that its secret is still the one in the store."""
_SECRET_BYTES = 32
_SEAL_BYTES = 16
