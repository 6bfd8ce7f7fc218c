"""What outlives a request: conversation links, stored responses, the last listing, our secret. Policy.

One small key-value protocol over SQLite, memory or Redis. Values are bytes, keys are text, times are seconds.
Every method raises `StoreError` and nothing else, so that a lost store costs continuity, never an answer.

An entry has an owner, the caller it was made for. A full store takes from those who hold the most, their
oldest entries first, so that nobody can push out what others have. What has no owner (None) is never evicted.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import logging
import math
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

log = logging.getLogger(__name__)

_T = TypeVar("_T")

MAX_BYTES = 4 * 1024**3
MAX_MEMORY_BYTES = 256 * 1024**2
CHECK_EVERY = 1000
"""After so many entries, or pages of them, a SQLite store takes its log in and looks what has to go."""

MAX_LOG_PAGES = 10 * CHECK_EVERY
LARGE_BYTES = 65_536
"""Writing more than that at once may take longer than a stream should wait."""

BUSY_WAITS_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, *(0.1,) * 9)
"""Between attempts to write while another process does; past them it has kept us waiting long enough."""

REDIS_SECONDS = 2.0
REDIS_RETRY_SECONDS = 1.0
"""How often a Redis that cannot be reached is asked again; all others do without it meanwhile."""

_ROOM_SHARE = 64
"""Making room frees a 64th of the store, so that it need not be made for each entry."""

_ENTRY_BYTES = 200
"""What an entry takes beside its key and value, roughly."""


class StoreError(Exception):
    """The store cannot be read or written; the text holds no address and no key."""


class Store(Protocol):
    """A key-value store shared by all workers."""

    def get(self, key: str) -> bytes | None:
        """Return the value, None if there is none or it has expired."""

    def take(self, key: str) -> bytes | None:
        """Return the value and delete it; of several that ask at once one alone gets it."""

    def add(self, key: str, value: bytes, seconds: float, owner: str | None = "") -> bool:
        """Put a value where there is none, and tell whether it was put."""

    def put(self, entries: Mapping[str, bytes], seconds: float, owner: str | None = "") -> None:
        """Put values, all or none, each replacing what was there; `math.inf` seconds keep them for good."""

    def delete(self, *keys: str) -> bool:
        """Delete values, and tell whether there was any."""


def fair_level(sizes: Iterable[int], room: int) -> int:
    """How much each may hold at most, so that all of these sizes together fit into the room."""
    ordered = sorted(sizes)
    for number, size in enumerate(ordered):
        level = max(0, room) // (len(ordered) - number)
        if size > level:
            return level
        room -= size
    return max(ordered, default=0)


def _size(key: str, value: bytes) -> int:
    return len(key) + len(value) + _ENTRY_BYTES


class _Entry(NamedTuple):
    value: bytes
    expires: float
    owner: str | None


@dataclass(slots=True)
class _Share:
    """What one owner has: keys, the oldest first, and the size of all."""

    keys: dict[str, None] = field(default_factory=dict)
    size: int = 0


class MemoryStore:
    """For one process; beyond `max_bytes` those who hold the most lose their oldest values."""

    def __init__(
        self, max_bytes: int = MAX_MEMORY_BYTES, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Begin empty."""
        self._max_bytes = max_bytes
        self._clock = clock
        self._values: dict[str, _Entry] = {}
        self._shares: dict[str | None, _Share] = {}
        self._size = 0
        self._lock = threading.Lock()

    def get(self, key: str) -> bytes | None:
        """Return the value."""
        entry = self._values.get(key)
        return entry.value if entry is not None and entry.expires > self._clock() else None

    def take(self, key: str) -> bytes | None:
        """Return the value and delete it."""
        with self._lock:
            value = self.get(key)
            self._forget(key)
        return value

    def add(self, key: str, value: bytes, seconds: float, owner: str | None = "") -> bool:
        """Put a value where there is none."""
        with self._lock:
            if self.get(key) is not None:
                return False
            self._put(key, value, seconds, owner)
        return True

    def put(self, entries: Mapping[str, bytes], seconds: float, owner: str | None = "") -> None:
        """Put values."""
        with self._lock:
            for key, value in entries.items():
                self._put(key, value, seconds, owner)

    def delete(self, *keys: str) -> bool:
        """Delete values."""
        with self._lock:
            forgotten = [self._forget(key) for key in keys]
        return any(forgotten)

    def _put(self, key: str, value: bytes, seconds: float, owner: str | None) -> None:
        self._forget(key)
        self._values[key] = _Entry(value, self._clock() + seconds, owner)
        share = self._shares.setdefault(owner, _Share())
        share.keys[key] = None
        share.size += _size(key, value)
        self._size += _size(key, value)
        if self._size > self._max_bytes:
            self._make_room()

    def _make_room(self) -> None:
        lasting = self._shares.get(None, _Share()).size
        owned = [share for owner, share in self._shares.items() if owner is not None]
        room = self._max_bytes - self._max_bytes // _ROOM_SHARE - lasting
        level = fair_level((share.size for share in owned), room)
        for share in owned:
            while share.size > level:
                self._forget(next(iter(share.keys)))

    def _forget(self, key: str) -> bool:
        entry = self._values.pop(key, None)
        if entry is None:
            return False
        share, size = self._shares[entry.owner], _size(key, entry.value)
        del share.keys[key]
        share.size -= size
        self._size -= size
        if not share.keys:
            del self._shares[entry.owner]
        return entry.expires > self._clock()


Run = Callable[[Callable[[], Any]], Any]
"""Runs a function that may wait for a disk and returns what it returns; the serving stack brings its own."""


def run_here(function: Callable[[], Any]) -> Any:
    """Run a function at once, in this thread."""
    return function()


_SETTINGS = """
PRAGMA synchronous = NORMAL;
PRAGMA secure_delete = ON;
"""
_NO_CHECKPOINTS = "PRAGMA wal_autocheckpoint = 0;"
_TABLE = f"""
PRAGMA journal_mode = WAL;
{_SETTINGS}
CREATE TABLE IF NOT EXISTS entries (
    number INTEGER PRIMARY KEY,
    key TEXT NOT NULL UNIQUE,
    value BLOB NOT NULL,
    expires REAL NOT NULL,
    owner TEXT DEFAULT '',
    size INTEGER NOT NULL DEFAULT 4096
);
"""
_INDEXES = """
CREATE INDEX IF NOT EXISTS entries_by_expiry ON entries (expires);
CREATE INDEX IF NOT EXISTS entries_by_owner ON entries (owner, number, size);
"""
_OWNERS = (
    "ALTER TABLE entries ADD COLUMN owner TEXT DEFAULT ''",
    "ALTER TABLE entries ADD COLUMN size INTEGER NOT NULL DEFAULT 4096",
    "UPDATE entries SET owner = NULL WHERE key = 'secret'",
)
"""For a file of a version that knew no owners."""

_MAX_EXPIRED = 100
_MAX_EVICTED = 100
_MAX_EVICTED_BYTES = 1024**2
"""What one transaction deletes: others wait for the whole of it."""


class SqliteStore:
    """A file shared by the processes of one machine; survives restarts, and workers that are killed.

    A write is there for every other process once the call returns. Beyond `max_bytes` those who hold the most
    lose their oldest entries. A writer that finds the file locked waits in `time.sleep`, where gevent lets
    others run, for at most a second; while it stays locked, nobody else waits at all.
    """

    def __init__(
        self,
        path: Path,
        *,
        run: Run = run_here,
        max_bytes: int = MAX_BYTES,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Open nothing yet: a process that forks must not share a connection."""
        self._path = path
        self._run = run
        self._max_bytes = max_bytes
        self._clock = clock
        self._here = _Connection(path, _SETTINGS + _NO_CHECKPOINTS)
        self._slow = _Connection(path)
        self._writes = 0
        self._is_locked = False
        self._is_tidying = False

    def get(self, key: str) -> bytes | None:
        """Return the value."""
        sql = "SELECT value FROM entries WHERE key = ? AND expires > ?"
        return self._one(sql, key, self._clock(), writes=False)

    def take(self, key: str) -> bytes | None:
        """Return the value and delete it."""
        sql = "DELETE FROM entries WHERE key = ? AND expires > ? RETURNING value"
        return self._one(sql, key, self._clock(), writes=True)

    def add(self, key: str, value: bytes, seconds: float, owner: str | None = "") -> bool:
        """Put a value where there is none."""
        now = self._clock()
        sql = """INSERT OR REPLACE INTO entries (key, value, expires, owner, size) SELECT ?, ?, ?, ?, ?
            WHERE NOT EXISTS (SELECT 1 FROM entries WHERE key = ? AND expires > ?)"""
        row = (key, value, now + seconds, owner, _size(key, value), key, now)
        is_added = self._within(lambda database: database.execute(sql, row).rowcount == 1)
        self._count(1, len(value))
        return is_added

    def put(self, entries: Mapping[str, bytes], seconds: float, owner: str | None = "") -> None:
        """Put values."""
        if not entries:
            return
        expires = self._clock() + seconds
        rows = [(key, value, expires, owner, _size(key, value)) for key, value in entries.items()]

        def written(database: sqlite3.Connection) -> None:
            with database:
                database.execute("BEGIN IMMEDIATE")
                sql = """INSERT OR REPLACE INTO entries (key, value, expires, owner, size)
                    VALUES (?, ?, ?, ?, ?)"""
                database.executemany(sql, rows)

        size = sum(map(len, entries.values()))
        self._within(written, is_large=size > LARGE_BYTES)
        self._count(len(rows), size)

    def delete(self, *keys: str) -> bool:
        """Delete values."""
        marks = ", ".join("?" * len(keys))
        sql = f"DELETE FROM entries WHERE key IN ({marks}) AND expires > ?"  # noqa: S608 - only marks
        return self._within(lambda database: database.execute(sql, (*keys, self._clock())).rowcount > 0)

    def _one(self, sql: str, *values: Any, writes: bool) -> bytes | None:
        def found(database: sqlite3.Connection) -> bytes | None:
            rows = database.execute(sql, values).fetchall()
            # Whoever can write into the file can have put a text or a number there.
            return rows[0][0] if rows and isinstance(rows[0][0], bytes) else None

        return self._within(found, writes=writes)

    def _within(
        self, work: Callable[[sqlite3.Connection], _T], *, is_large: bool = False, writes: bool = True
    ) -> _T:
        """Do it here if that takes but a moment; what may take longer is done where waiting harms nobody.

        A small write waits for no disk: it goes into the log, which is brought to the disk by `_tidy`.
        """
        for wait in (*BUSY_WAITS_SECONDS, None):
            try:
                if not self._slow.is_open:
                    self._run(self._slow.opened)
                result = self._run(lambda: self._slow.within(work)) if is_large else self._here.within(work)
            except _Busy:
                if wait is None or self._is_locked:
                    self._is_locked = True
                    break
                time.sleep(wait)
            else:
                self._is_locked = self._is_locked and not writes
                return result
        raise StoreError("another process keeps the file of PROXY_STORE locked")

    def _count(self, entries: int, size: int) -> None:
        self._writes += entries + size // 4096
        if self._writes < CHECK_EVERY or self._is_tidying:
            return
        self._writes, self._is_tidying = 0, True
        try:
            # Whoever happened to write the last of them does not wait for it.
            threading.Thread(target=self._tidy, daemon=True).start()
        except RuntimeError:
            self._is_tidying = False

    def _tidy(self) -> None:
        try:
            while self._in_step(self._delete_expired):
                pass
            for owner, excess in self._in_step(self._excesses):
                self._shrink(owner, excess)
            if self._in_step(_checkpoint) > MAX_LOG_PAGES:
                self._in_step(_restart_log)
        except StoreError as error:
            log.info("PROXY_STORE is tidied up later: %s", error)
        finally:
            self._is_tidying = False

    def _in_step(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        return self._within(work, is_large=True)

    def _delete_expired(self, database: sqlite3.Connection) -> bool:
        """Delete some; whether there may be more."""
        sql = f"""DELETE FROM entries WHERE number IN
            (SELECT number FROM entries WHERE expires <= ? LIMIT {_MAX_EXPIRED})"""  # noqa: S608 - a constant
        return database.execute(sql, (self._clock(),)).rowcount == _MAX_EXPIRED

    def _excesses(self, database: sqlite3.Connection) -> list[tuple[str, int]]:
        """How much which owners have to give up, if the file has grown too large."""
        pages, free, page_bytes = (
            database.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("page_count", "freelist_count", "page_size")
        )
        used = (pages - free) * page_bytes
        if used <= self._max_bytes:
            return []
        sql = "SELECT owner, sum(size) FROM entries GROUP BY owner"
        sizes: dict[str | None, int] = dict(database.execute(sql).fetchall())
        # What an entry takes of the file is more than its size: a file that has grown to many times its bound
        # would leave no room at all if one were taken from the other.
        room = sum(sizes.values()) * (self._max_bytes - self._max_bytes // _ROOM_SHARE) // used
        room -= sizes.pop(None, 0)
        level = fair_level(sizes.values(), room)
        return [(owner, size - level) for owner, size in sizes.items() if owner is not None and size > level]

    def _shrink(self, owner: str, excess: int) -> None:
        """Delete the oldest of an owner's entries in small steps."""

        def step(database: sqlite3.Connection) -> int:
            sql = "SELECT number, size FROM entries WHERE owner = ? ORDER BY number LIMIT ?"
            freed = last = 0
            for number, size in database.execute(sql, (owner, _MAX_EVICTED)).fetchall():
                freed, last = freed + size, number
                if freed >= min(excess, _MAX_EVICTED_BYTES):
                    break
            database.execute("DELETE FROM entries WHERE owner = ? AND number <= ?", (owner, last))
            return freed

        while excess > 0 and (freed := self._in_step(step)):
            excess -= freed


def _checkpoint(database: sqlite3.Connection) -> int:
    """Bring what was written from the log into the file and to the disk; how many pages the log has."""
    pages: int = database.execute("PRAGMA wal_checkpoint").fetchone()[1]
    return pages


def _restart_log(database: sqlite3.Connection) -> None:
    """Have the log begin anew, which it does not by itself while there is always somebody writing."""
    if database.execute("PRAGMA wal_checkpoint(RESTART)").fetchone()[0]:
        raise _Busy


class _Busy(Exception):
    """Somebody else is writing."""


class _Connection:
    """A connection of this process to the file; a statement is a transaction, unless one is begun."""

    def __init__(self, path: Path, settings: str = "") -> None:
        """With `settings` use the table, without them make it, too."""
        self._path = path
        self._settings = settings
        self._lock = threading.Lock()
        self._connection: tuple[int, sqlite3.Connection] | None = None

    @property
    def is_open(self) -> bool:
        """Whether this process has opened it."""
        return self._connection is not None and self._connection[0] == os.getpid()

    def within(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        """Do something; it waits for no other process. Raises _Busy, StoreError."""
        with self._lock:
            try:
                return work(self._opened())
            except (sqlite3.Error, OSError) as error:
                if _is_busy(error):
                    raise _Busy from None
                self._connection = None
                raise StoreError(
                    f"the file of PROXY_STORE cannot be used ({type(error).__name__})"
                ) from error

    def opened(self) -> None:
        """Open it. Raises _Busy, StoreError."""
        self.within(lambda _: None)

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None or self._connection[0] != os.getpid():
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            # It holds what people said to their flows.
            os.close(os.open(self._path, os.O_CREAT | os.O_RDWR, 0o600))
            database = sqlite3.connect(self._path, timeout=0, check_same_thread=False, isolation_level=None)
            database.executescript(self._settings or _TABLE)
            if not self._settings:
                _take_over(database)
            self._connection = os.getpid(), database
        return self._connection[1]


def _take_over(database: sqlite3.Connection) -> None:
    """Bring the table of an earlier version into today's form."""
    if "owner" not in _columns(database):
        with database:
            database.execute("BEGIN IMMEDIATE")
            if "owner" not in _columns(database):  # another worker may have been faster
                for sql in _OWNERS:
                    database.execute(sql)
    database.executescript(_INDEXES)


def _columns(database: sqlite3.Connection) -> set[str]:
    return {row[1] for row in database.execute("PRAGMA table_info(entries)")}


def _is_busy(error: Exception) -> bool:
    code = getattr(error, "sqlite_errorcode", 0)
    return code & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


class RedisStore:
    """A Redis shared by many machines; how much it may hold is its own `maxmemory` setting.

    What it evicts then is its own choice, too. What is kept for good has no expiry, so that the policies
    `volatile-…` leave it alone. One that cannot be reached delays one request a second, not all.
    """

    def __init__(
        self, url: str, prefix: str = "flowise-proxy:", clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Connect lazily; all keys begin with `prefix`."""
        import redis  # noqa: PLC0415 - a start without it must not pay for it

        self._prefix = prefix
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
        """Return the value."""
        return self._one(lambda: self._redis.get(self._prefix + key))

    def take(self, key: str) -> bytes | None:
        """Return the value and delete it."""
        return self._one(lambda: self._redis.getdel(self._prefix + key))

    def add(self, key: str, value: bytes, seconds: float, owner: str | None = "") -> bool:  # noqa: ARG002
        """Put a value where there is none."""
        with self._translated():
            return bool(self._redis.set(self._prefix + key, value, nx=True, px=_milliseconds(seconds)))

    def put(self, entries: Mapping[str, bytes], seconds: float, owner: str | None = "") -> None:  # noqa: ARG002
        """Put values."""
        with self._translated(), self._redis.pipeline(transaction=True) as pipeline:
            for key, value in entries.items():
                pipeline.set(self._prefix + key, value, px=_milliseconds(seconds))
            pipeline.execute()

    def delete(self, *keys: str) -> bool:
        """Delete values."""
        with self._translated():
            return bool(self._redis.delete(*(self._prefix + key for key in keys)))

    def _one(self, read: Callable[[], Any]) -> bytes | None:
        with self._translated():
            try:
                value = read()
            except self._refused as error:
                if not str(error).startswith("WRONGTYPE"):
                    raise
                return None  # a list or a set that somebody else keeps under this name
        return value if isinstance(value, bytes) else None

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        now = self._clock()
        if self._is_lost:
            if now < self._retry_at:
                raise StoreError("the Redis of PROXY_STORE cannot be reached")
            self._retry_at = now + REDIS_RETRY_SECONDS
        try:
            yield
        except (self._failure, ValueError) as error:  # a ValueError is text that is none
            if isinstance(error, self._unreachable):
                self._is_lost, self._retry_at = True, self._clock() + REDIS_RETRY_SECONDS
            raise StoreError(f"the Redis of PROXY_STORE cannot be used ({type(error).__name__})") from error
        self._is_lost = False


def _milliseconds(seconds: float) -> int | None:
    return None if seconds == math.inf else max(1, int(seconds * 1000))


def open_store(address: str, run: Run = run_here) -> Store:
    """The store that PROXY_STORE names: `sqlite:///path`, `memory:` or `redis://…`."""
    if address == "memory:":
        return MemoryStore()
    if address.startswith("sqlite:///"):
        return SqliteStore(Path(address.removeprefix("sqlite:///")), run=run)
    return RedisStore(address)


def shared_limits(address: str) -> str:
    """Where keys' limits are counted, in the words of the library `limits`: the same Redis, if any."""
    return address if address.startswith(("redis://", "rediss://")) else "memory://"


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
