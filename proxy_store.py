"""What outlives a request: conversation links, stored responses, the last listing, our secret. Policy.

One small key-value protocol over SQLite, memory or Redis. Values are bytes, keys are text, times are seconds.
Every method raises `StoreError` and nothing else, so that a lost store costs continuity, never an answer.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar

_T = TypeVar("_T")

BUSY_SECONDS = 5.0
MOST_BYTES = 4 * 1024**3
MOST_MEMORY_BYTES = 256 * 1024**2
CHECK_EVERY = 1000
"""After so many entries, or pages of them, a SQLite store takes its log in and looks what has expired."""

LARGE_BYTES = 65_536
"""Writing more than that at once may take longer than a stream should wait."""


class StoreError(Exception):
    """The store cannot be read or written; the text holds no address and no key."""


class Store(Protocol):
    """A key-value store shared by all workers."""

    def get(self, key: str) -> bytes | None:
        """Return the value, None if there is none or it has expired."""

    def take(self, key: str) -> bytes | None:
        """Return the value and delete it; of several that ask at once one alone gets it."""

    def add(self, key: str, value: bytes, seconds: float) -> bool:
        """Put a value where there is none, and tell whether it was put."""

    def put(self, entries: Mapping[str, bytes], seconds: float) -> None:
        """Put values, all or none, each replacing what was there."""

    def delete(self, *keys: str) -> bool:
        """Delete values, and tell whether there was any."""


class MemoryStore:
    """For one process; the oldest values are forgotten beyond `most_bytes`."""

    def __init__(
        self, most_bytes: int = MOST_MEMORY_BYTES, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Begin empty."""
        self._most_bytes = most_bytes
        self._clock = clock
        self._values: OrderedDict[str, tuple[bytes, float]] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, key: str) -> bytes | None:
        """Return the value."""
        value, expires = self._values.get(key, (None, 0.0))
        return value if expires > self._clock() else None

    def take(self, key: str) -> bytes | None:
        """Return the value and delete it."""
        with self._lock:
            value = self.get(key)
            self._forget(key)
        return value

    def add(self, key: str, value: bytes, seconds: float) -> bool:
        """Put a value where there is none."""
        with self._lock:
            if self.get(key) is not None:
                return False
            self._put(key, value, seconds)
        return True

    def put(self, entries: Mapping[str, bytes], seconds: float) -> None:
        """Put values."""
        with self._lock:
            for key, value in entries.items():
                self._put(key, value, seconds)

    def delete(self, *keys: str) -> bool:
        """Delete values."""
        with self._lock:
            forgotten = [self._forget(key) for key in keys]
        return any(forgotten)

    def _put(self, key: str, value: bytes, seconds: float) -> None:
        self._forget(key)
        self._values[key] = value, self._clock() + seconds
        self._bytes += len(key) + len(value)
        while self._bytes > self._most_bytes and self._values:
            self._forget(next(iter(self._values)))

    def _forget(self, key: str) -> bool:
        value, expires = self._values.pop(key, (b"", 0.0))
        if expires:
            self._bytes -= len(key) + len(value)
        return expires > self._clock()


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
_SCHEMA = f"""
PRAGMA journal_mode = WAL;
{_SETTINGS}
CREATE TABLE IF NOT EXISTS entries (
    number INTEGER PRIMARY KEY,
    key TEXT NOT NULL UNIQUE,
    value BLOB NOT NULL,
    expires REAL NOT NULL
);
CREATE INDEX IF NOT EXISTS entries_by_expiry ON entries (expires);
"""


class SqliteStore:
    """A file shared by the processes of one machine; survives restarts, and workers that are killed.

    A write is there for every other process once the call returns. Beyond `most_bytes` the oldest entries go.
    """

    def __init__(
        self,
        path: Path,
        *,
        run: Run = run_here,
        most_bytes: int = MOST_BYTES,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Open nothing yet: a process that forks must not share a connection."""
        self._path = path
        self._run = run
        self._most_bytes = most_bytes
        self._clock = clock
        self._here = _Connection(path, 0.0)
        self._patient = _Connection(path, BUSY_SECONDS)
        self._writes = 0

    def get(self, key: str) -> bytes | None:
        """Return the value."""
        return self._one("SELECT value FROM entries WHERE key = ? AND expires > ?", key, self._clock())

    def take(self, key: str) -> bytes | None:
        """Return the value and delete it."""
        sql = "DELETE FROM entries WHERE key = ? AND expires > ? RETURNING value"
        return self._one(sql, key, self._clock())

    def add(self, key: str, value: bytes, seconds: float) -> bool:
        """Put a value where there is none."""
        now = self._clock()
        sql = """INSERT OR REPLACE INTO entries (key, value, expires) SELECT ?, ?, ?
            WHERE NOT EXISTS (SELECT 1 FROM entries WHERE key = ? AND expires > ?)"""
        row = (key, value, now + seconds, key, now)
        return self._within(lambda database: database.execute(sql, row).rowcount == 1)

    def put(self, entries: Mapping[str, bytes], seconds: float) -> None:
        """Put values."""
        if not entries:
            return
        now = self._clock()
        rows = [(key, value, now + seconds) for key, value in entries.items()]

        def written(database: sqlite3.Connection) -> None:
            with database:
                database.execute("BEGIN IMMEDIATE")
                sql = "INSERT OR REPLACE INTO entries (key, value, expires) VALUES (?, ?, ?)"
                database.executemany(sql, rows)

        size = sum(map(len, entries.values()))
        self._within(written, is_large=size > LARGE_BYTES)
        self._writes += len(rows) + size // 4096
        if self._writes >= CHECK_EVERY:
            self._writes = 0
            self._run(lambda: self._patient.within(lambda database: self._shrink(database, now)))
            self._run(self._patient.checkpoint)

    def delete(self, *keys: str) -> bool:
        """Delete values."""
        marks = ", ".join("?" * len(keys))
        sql = f"DELETE FROM entries WHERE key IN ({marks}) AND expires > ?"  # noqa: S608 - only marks
        return self._within(lambda database: database.execute(sql, (*keys, self._clock())).rowcount > 0)

    def _shrink(self, database: sqlite3.Connection, now: float) -> None:
        database.execute("DELETE FROM entries WHERE expires <= ?", (now,))
        numbers = [
            database.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("page_count", "freelist_count", "page_size")
        ]
        used = (numbers[0] - numbers[1]) * numbers[2]
        if used > self._most_bytes:
            count = database.execute("SELECT count(*) FROM entries").fetchone()[0]
            oldest = "SELECT number FROM entries ORDER BY number LIMIT ?"
            database.execute(
                f"DELETE FROM entries WHERE number IN ({oldest})",  # noqa: S608 - a constant
                (max(1, count // 10),),
            )

    def _one(self, sql: str, *values: Any) -> bytes | None:
        def found(database: sqlite3.Connection) -> bytes | None:
            rows = database.execute(sql, values).fetchall()
            return rows[0][0] if rows else None

        return self._within(found)

    def _within(self, work: Callable[[sqlite3.Connection], _T], *, is_large: bool = False) -> _T:
        """Do it here if that takes but a moment; what may take longer is done where waiting harms nobody.

        A small write waits for no disk: it goes into the log, which is brought to the disk by `checkpoint`.
        """
        if not self._patient.is_open:
            self._run(self._patient.opened)
        if not is_large:
            try:
                return self._here.within(work)
            except _Busy:
                pass
        result: _T = self._run(lambda: self._patient.within(work))
        return result


class _Busy(Exception):
    """Somebody else is writing."""


class _Connection:
    """A connection of this process to the file; a statement is a transaction, unless one is begun."""

    def __init__(self, path: Path, patience_seconds: float) -> None:
        """Wait for other writers as long as said; without any patience raise _Busy instead."""
        self._path = path
        self._patience_seconds = patience_seconds
        self._lock = threading.Lock()
        self._connection: tuple[int, sqlite3.Connection] | None = None

    @property
    def is_open(self) -> bool:
        """Whether this process has opened it."""
        return self._connection is not None and self._connection[0] == os.getpid()

    def within(self, work: Callable[[sqlite3.Connection], _T]) -> _T:
        """Do something. Raises _Busy, StoreError."""
        if not self._lock.acquire(blocking=self._patience_seconds > 0):
            raise _Busy
        try:
            return work(self._opened())
        except (sqlite3.Error, OSError) as error:
            raise self._failure(error) from error
        finally:
            self._lock.release()

    def opened(self) -> None:
        """Open it. Raises StoreError."""
        self.within(lambda _: None)

    def checkpoint(self) -> None:
        """Bring what was written from the log into the file and to the disk."""
        self.within(lambda database: database.execute("PRAGMA wal_checkpoint"))

    def _failure(self, error: Exception) -> Exception:
        if not self._patience_seconds and _is_busy(error):
            return _Busy()
        self._connection = None
        return StoreError(f"the file of PROXY_STORE cannot be used ({type(error).__name__})")

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None or self._connection[0] != os.getpid():
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            # It holds what people said to their flows.
            os.close(os.open(self._path, os.O_CREAT | os.O_RDWR, 0o600))
            database = sqlite3.connect(
                self._path, timeout=self._patience_seconds, check_same_thread=False, isolation_level=None
            )
            database.executescript(_SCHEMA if self._patience_seconds else _SETTINGS + _NO_CHECKPOINTS)
            self._connection = os.getpid(), database
        return self._connection[1]


def _is_busy(error: Exception) -> bool:
    code = getattr(error, "sqlite_errorcode", 0)
    return code & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


class RedisStore:
    """A Redis shared by many machines; how much it may hold is its own `maxmemory` setting."""

    def __init__(self, url: str, prefix: str = "flowise-proxy:") -> None:
        """Connect lazily; all keys begin with `prefix`."""
        import redis  # noqa: PLC0415 - a start without it must not pay for it

        self._prefix = prefix
        self._redis: Any = redis.Redis.from_url(url, socket_timeout=2, socket_connect_timeout=2)
        self._failure: type[Exception] = redis.RedisError

    def get(self, key: str) -> bytes | None:
        """Return the value."""
        with self._translated():
            value: bytes | None = self._redis.get(self._prefix + key)
        return value

    def take(self, key: str) -> bytes | None:
        """Return the value and delete it."""
        with self._translated():
            value: bytes | None = self._redis.getdel(self._prefix + key)
        return value

    def add(self, key: str, value: bytes, seconds: float) -> bool:
        """Put a value where there is none."""
        with self._translated():
            return bool(self._redis.set(self._prefix + key, value, nx=True, px=_milliseconds(seconds)))

    def put(self, entries: Mapping[str, bytes], seconds: float) -> None:
        """Put values."""
        with self._translated(), self._redis.pipeline(transaction=True) as pipeline:
            for key, value in entries.items():
                pipeline.set(self._prefix + key, value, px=_milliseconds(seconds))
            pipeline.execute()

    def delete(self, *keys: str) -> bool:
        """Delete values."""
        with self._translated():
            return bool(self._redis.delete(*(self._prefix + key for key in keys)))

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except self._failure as error:
            raise StoreError(f"the Redis of PROXY_STORE cannot be used ({type(error).__name__})") from error


def _milliseconds(seconds: float) -> int:
    return max(1, int(seconds * 1000))


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

    Reading from a failing store finds nothing, writing to it is in vain.
    """

    def __init__(self, store: Store, on_failure: Callable[[str], None] = lambda _reason: None) -> None:
        """Watch over `store`; `on_failure` hears of the first of several failures in a row."""
        self._store = store
        self._on_failure = on_failure
        self.error: str | None = None
        self.failures = 0

    def get(self, key: str) -> bytes | None:
        """Return the value."""
        return self._tried(lambda: self._store.get(key), None)

    def take(self, key: str) -> bytes | None:
        """Return the value and delete it."""
        return self._tried(lambda: self._store.take(key), None)

    def add(self, key: str, value: bytes, seconds: float) -> bool:
        """Put a value where there is none; True for a failing store."""
        return self._tried(lambda: self._store.add(key, value, seconds), fallback=True)

    def put(self, entries: Mapping[str, bytes], seconds: float) -> None:
        """Put values."""
        self._tried(lambda: self._store.put(entries, seconds), None)

    def delete(self, *keys: str) -> bool:
        """Delete values."""
        return self._tried(lambda: self._store.delete(*keys), fallback=False)

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


def kept_secret(store: WatchedStore) -> bytes:
    """The secret of all who share a store, made by the first to ask; one of our own if the store is lost."""
    store.add("secret", os.urandom(32), _FOR_EVER_SECONDS)
    return store.get("secret") or os.urandom(32)


_FOR_EVER_SECONDS = 100 * 365 * 86400.0
