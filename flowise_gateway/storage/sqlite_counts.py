"""Daily counters in a SQLite store, exact across all workers of a machine."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping

from flowise_gateway.storage.sqlite_store import SqliteStore

_ADD = """INSERT INTO counts (day, name, value) VALUES (?, ?, ?)
    ON CONFLICT (day, name) DO UPDATE SET value = value + excluded.value"""
_READ = "SELECT value FROM counts WHERE day = ? AND name = ? AND typeof(value) = 'integer'"
_ROWS_AT_ONCE = 1000


class SqliteCounts:
    """Counters in a separate table; a call writes to the write-ahead log without waiting for the disk."""

    def __init__(self, store: SqliteStore) -> None:
        self._store = store

    def reserve(self, day: str, amounts: Mapping[str, int], limits: Mapping[str, int]) -> str | None:
        def reserved(database: sqlite3.Connection) -> str | None:
            with database:
                database.execute("BEGIN IMMEDIATE")
                for name, limit in limits.items():
                    value = (database.execute(_READ, (day, name)).fetchone() or (0,))[0]
                    if value + max(1, amounts.get(name, 0)) > limit:
                        return name
                database.executemany(_ADD, [(day, name, amount) for name, amount in amounts.items()])
            return None

        return self._store.call(reserved)

    def add(self, day: str, amounts: Mapping[str, int]) -> None:
        rows = [(day, name, amount) for name, amount in amounts.items()]

        def added(database: sqlite3.Connection) -> None:
            with database:
                database.execute("BEGIN IMMEDIATE")
                database.executemany(_ADD, rows)

        self._store.call(added, is_large=len(rows) > _ROWS_AT_ONCE)

    def read(self, first: str, last: str) -> Iterator[tuple[str, str, int]]:
        after = first, ""
        while True:
            rows = self._rows(after, last)
            yield from rows
            if len(rows) < _ROWS_AT_ONCE:
                return
            after = rows[-1][:2]

    def _rows(self, after: tuple[str, str], last: str) -> list[tuple[str, str, int]]:
        sql = """SELECT day, name, value FROM counts WHERE (day, name) > (?, ?) AND day <= ?
            AND typeof(value) = 'integer'
            ORDER BY day, name LIMIT ?"""
        values = (*after, last, _ROWS_AT_ONCE)
        return self._store.call(lambda database: database.execute(sql, values).fetchall(), is_large=True)

    def forget_before(self, day: str) -> None:
        self._store.call(
            lambda database: database.execute("DELETE FROM counts WHERE day < ?", (day,)), is_large=True
        )
