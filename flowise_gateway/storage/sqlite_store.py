"""A store in one SQLite file, shared by all workers of a machine."""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from flowise_gateway.storage.protocol import (
    ROOM_SHARE,
    Executor,
    StoreError,
    T,
    entry_size,
    fair_level,
    run_inline,
)

log = logging.getLogger(__name__)

MAX_BYTES = 4 * 1024**3
CHECK_EVERY = 1000
"""After this many written entries or pages, the log is checkpointed and old entries are deleted."""

MAX_LOG_PAGES = 10 * CHECK_EVERY
LARGE_BYTES = 65_536
"""Larger writes would delay streams, and are done in another thread."""

BUSY_WAITS_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, *(0.1,) * 9)
"""The waits between attempts while another process is writing; after the last one the call fails."""

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
CREATE TABLE IF NOT EXISTS counts (
    day TEXT NOT NULL,
    name TEXT NOT NULL,
    value INTEGER NOT NULL,
    PRIMARY KEY (day, name)
) WITHOUT ROWID;
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
"""Migrates a file of a version without owners."""

_MAX_EXPIRED = 100
_MAX_EVICTED = 100
_MAX_EVICTED_BYTES = 1024**2
"""Limits of the deletions in one transaction, since other writers wait for it."""


class SqliteStore:
    """A file shared by the processes of one machine; survives restarts and killed workers.

    Other processes see a write once the call has returned. Beyond `max_bytes`, the owners with the most data
    lose their oldest entries. If another process has locked the file, a call retries for at most a second and
    lets other greenlets run meanwhile; until the lock is released, later calls fail at once.
    """

    def __init__(
        self,
        path: Path,
        *,
        run: Executor = run_inline,
        max_bytes: int = MAX_BYTES,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Do not open it yet, since forked processes must not share a connection; `run` uses a thread."""
        self._path = path
        self._run = run
        self._max_bytes = max_bytes
        self._clock = clock
        self._fast = _Connection(path, _SETTINGS + _NO_CHECKPOINTS)
        self._slow = _Connection(path)
        self._writes = 0
        self._is_locked = False
        self._is_tidying = False

    def get(self, key: str) -> bytes | None:
        sql = "SELECT value FROM entries WHERE key = ? AND expires > ?"
        return self._one(sql, key, self._clock(), writes=False)

    def take(self, key: str) -> bytes | None:
        sql = "DELETE FROM entries WHERE key = ? AND expires > ? RETURNING value"
        return self._one(sql, key, self._clock(), writes=True)

    def add(self, key: str, value: bytes, seconds: float, owner: str | None = "") -> bool:
        now = self._clock()
        sql = """INSERT OR REPLACE INTO entries (key, value, expires, owner, size) SELECT ?, ?, ?, ?, ?
            WHERE NOT EXISTS (SELECT 1 FROM entries WHERE key = ? AND expires > ?)"""
        row = (key, value, now + seconds, owner, entry_size(key, value), key, now)
        is_added = self._within(lambda database: database.execute(sql, row).rowcount == 1)
        self._count(1, len(value))
        return is_added

    def put(self, entries: Mapping[str, bytes], seconds: float, owner: str | None = "") -> None:
        if not entries:
            return
        expires = self._clock() + seconds
        rows = [(key, value, expires, owner, entry_size(key, value)) for key, value in entries.items()]

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
        marks = ", ".join("?" * len(keys))
        sql = f"DELETE FROM entries WHERE key IN ({marks}) AND expires > ?"  # noqa: S608 - only marks
        return self._within(lambda database: database.execute(sql, (*keys, self._clock())).rowcount > 0)

    def call(self, work: Callable[[sqlite3.Connection], T], *, is_large: bool = False) -> T:
        """Use the file for operations that are not part of the store interface. Raises StoreError."""
        result = self._within(work, is_large=is_large)
        self._count(1, 0)
        return result

    def _one(self, sql: str, *values: Any, writes: bool) -> bytes | None:
        def found(database: sqlite3.Connection) -> bytes | None:
            rows = database.execute(sql, values).fetchall()
            # Another program may have written a text or a number.
            return rows[0][0] if rows and isinstance(rows[0][0], bytes) else None

        return self._within(found, writes=writes)

    def _within(
        self, work: Callable[[sqlite3.Connection], T], *, is_large: bool = False, writes: bool = True
    ) -> T:
        """Do small work in this thread, and large work in another one, so that streams do not wait for it.

        A small write does not wait for the disk: it goes to the write-ahead log, which `_tidy` syncs.
        """
        for wait in (*BUSY_WAITS_SECONDS, None):
            try:
                if not self._slow.is_open:
                    self._run(self._slow.opened)
                result = self._run(lambda: self._slow.within(work)) if is_large else self._fast.within(work)
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
            # In a thread, so that the request with the last write does not wait for it.
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
            log.info("the cleanup of PROXY_STORE is postponed: %s", error)
        finally:
            self._is_tidying = False

    def _in_step(self, work: Callable[[sqlite3.Connection], T]) -> T:
        return self._within(work, is_large=True)

    def _delete_expired(self, database: sqlite3.Connection) -> bool:
        """Delete some expired entries; returns whether there may be more."""
        sql = f"""DELETE FROM entries WHERE number IN
            (SELECT number FROM entries WHERE expires <= ? LIMIT {_MAX_EXPIRED})"""  # noqa: S608 - a constant
        return database.execute(sql, (self._clock(),)).rowcount == _MAX_EXPIRED

    def _excesses(self, database: sqlite3.Connection) -> list[tuple[str, int]]:
        """The owners whose entries must be evicted, and how many bytes of each, if the file is too large."""
        pages, free, page_bytes = (
            database.execute(f"PRAGMA {name}").fetchone()[0]
            for name in ("page_count", "freelist_count", "page_size")
        )
        used = (pages - free) * page_bytes
        if used <= self._max_bytes:
            return []
        sql = "SELECT owner, sum(size) FROM entries GROUP BY owner"
        sizes: dict[str | None, int] = dict(database.execute(sql).fetchall())
        # The sizes are scaled to the limit: entries use more of the file than their size, so that subtracting
        # the excess of a file that is many times too large from the sizes would leave no room at all.
        room = sum(sizes.values()) * (self._max_bytes - self._max_bytes // ROOM_SHARE) // used
        room -= sizes.pop(None, 0)
        level = fair_level(sizes.values(), room)
        return [(owner, size - level) for owner, size in sizes.items() if owner is not None and size > level]

    def _shrink(self, owner: str, excess: int) -> None:
        """Delete an owner's oldest entries in small steps."""

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
    """Checkpoint the log into the file and sync it; returns the number of pages in the log."""
    pages: int = database.execute("PRAGMA wal_checkpoint").fetchone()[1]
    return pages


def _restart_log(database: sqlite3.Connection) -> None:
    """Make the next writer restart the log, which otherwise grows as long as some process is writing."""
    if database.execute("PRAGMA wal_checkpoint(RESTART)").fetchone()[0]:
        raise _Busy


class _Busy(Exception):
    """Another process is writing."""


class _Connection:
    """This process's connection to the file, in autocommit mode."""

    def __init__(self, path: Path, settings: str = "") -> None:
        """Do not open it yet; without `settings`, opening also creates the table."""
        self._path = path
        self._settings = settings
        self._lock = threading.Lock()
        self._connection: tuple[int, sqlite3.Connection] | None = None

    @property
    def is_open(self) -> bool:
        """Whether this process has opened it."""
        return self._connection is not None and self._connection[0] == os.getpid()

    def within(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run work without waiting for other processes. Raises _Busy, StoreError."""
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
            # Only readable by its owner, as the file contains conversations. An existing file is not opened
            # here: closing it would drop the locks of this process's other connection, so that the next
            # process that closes the file would assume to be the last one and delete the log.
            with contextlib.suppress(FileExistsError):
                os.close(os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
            database = sqlite3.connect(self._path, timeout=0, check_same_thread=False, isolation_level=None)
            database.executescript(self._settings or _TABLE)
            if not self._settings:
                _migrate(database)
            self._connection = os.getpid(), database
        return self._connection[1]


def _migrate(database: sqlite3.Connection) -> None:
    """Migrate the table of an earlier version."""
    if "owner" not in _columns(database):
        with database:
            database.execute("BEGIN IMMEDIATE")
            if "owner" not in _columns(database):  # another worker may have added them
                for sql in _OWNERS:
                    database.execute(sql)
    database.executescript(_INDEXES)


def _columns(database: sqlite3.Connection) -> set[str]:
    return {row[1] for row in database.execute("PRAGMA table_info(entries)")}


def _is_busy(error: Exception) -> bool:
    code = getattr(error, "sqlite_errorcode", 0)
    return code & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)
