"""Numbers of a day in every kind of store, alike, and what becomes of them while the store is away."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path
from uuid import uuid4

import pytest
import redis

from flowise_gateway.storage.counts import Counts, MemoryCounts, WatchedCounts, open_counts, shared_slots
from flowise_gateway.storage.memory_store import MemoryStore
from flowise_gateway.storage.protocol import StoreError
from flowise_gateway.storage.redis_store import RedisStore
from flowise_gateway.storage.sqlite_counts import SqliteCounts
from flowise_gateway.storage.sqlite_store import SqliteStore

DAY, NEXT = "2026-11-28", "2026-11-29"


@pytest.fixture(params=["memory", "sqlite", "redis"])
def counts(request: pytest.FixtureRequest, tmp_path: Path) -> Counts:
    """Empty numbers in one kind of store."""
    if request.param == "memory":
        return open_counts(MemoryStore())
    if request.param == "sqlite":
        return open_counts(SqliteStore(tmp_path / "proxy.db"))
    return open_counts(RedisStore(request.getfixturevalue("redis_url"), prefix=f"{uuid4()}:"))


def all_of(counts: Counts | WatchedCounts, first: str = DAY, last: str = NEXT) -> dict[tuple[str, str], int]:
    """The numbers of some days."""
    return {(day, name): value for day, name, value in counts.read(first, last)}


def test_amounts_add_up_by_day_and_name(counts: Counts) -> None:
    counts.add(DAY, {"a": 2, 'b ["x"]': 10_000_000_000})
    counts.add(DAY, {"a": 3})
    counts.add(NEXT, {"a": -1})
    assert all_of(counts) == {(DAY, "a"): 5, (DAY, 'b ["x"]'): 10_000_000_000, (NEXT, "a"): -1}
    assert all_of(counts, NEXT) == {(NEXT, "a"): -1}
    assert all_of(counts, "2026-11-01", DAY) == {(DAY, "a"): 5, (DAY, 'b ["x"]'): 10_000_000_000}


def test_all_is_reserved_or_nothing(counts: Counts) -> None:
    limits = {"requests": 3, "tokens": 100}
    assert counts.reserve(DAY, {"requests": 2}, limits) is None
    assert counts.reserve(DAY, {"requests": 2, "more": 1}, limits) == "requests"
    assert all_of(counts) == {(DAY, "requests"): 2}
    counts.add(DAY, {"tokens": 99})
    assert counts.reserve(DAY, {"requests": 1}, limits) is None
    counts.add(DAY, {"tokens": 50})
    assert counts.reserve(DAY, {}, {"tokens": 100}) == "tokens"
    assert counts.reserve(NEXT, {"requests": 3}, limits) is None, "each day begins anew"


def test_many_numbers_are_read_whole(counts: Counts) -> None:
    counts.add(DAY, {f"n{number:05}": number for number in range(2500)})
    counts.add(NEXT, {"n": 1})
    found = all_of(counts)
    assert len(found) == 2501
    assert found[DAY, "n02499"] == 2499


def test_days_are_forgotten(counts: Counts) -> None:
    for day in ("2025-01-01", DAY, NEXT):
        counts.add(day, {"a": 1})
    counts.forget_before(NEXT)
    assert all_of(counts, "2025-01-01") == {(NEXT, "a"): 1}


def _reserve(path: Path, times: int) -> int:
    counts = SqliteCounts(SqliteStore(path))
    return sum(counts.reserve(DAY, {"a": 1}, {"a": 100}) is None for _ in range(times))


def test_a_budget_in_a_file_is_exact_over_processes(tmp_path: Path) -> None:
    path = tmp_path / "proxy.db"
    _reserve(path, 1)
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        admitted = pool.starmap(_reserve, [(path, 60)] * 3)
    assert sum(admitted) == 99
    assert all_of(SqliteCounts(SqliteStore(path))) == {(DAY, "a"): 100}


class Fragile:
    """Numbers whose store can be away."""

    def __init__(self) -> None:
        self._counts = MemoryCounts()
        self.is_away = False

    def reserve(self, day: str, amounts: Mapping[str, int], limits: Mapping[str, int]) -> str | None:
        self._check()
        return self._counts.reserve(day, amounts, limits)

    def add(self, day: str, amounts: Mapping[str, int]) -> None:
        self._check()
        self._counts.add(day, amounts)

    def read(self, first: str, last: str) -> Iterator[tuple[str, str, int]]:
        return self._counts.read(first, last)

    def forget_before(self, day: str) -> None:
        self._check()
        self._counts.forget_before(day)

    def _check(self) -> None:
        if self.is_away:
            raise StoreError("away")


def test_a_process_counts_for_itself_while_the_store_is_away(caplog: pytest.LogCaptureFixture) -> None:
    store = Fragile()
    counts = WatchedCounts(store)
    assert counts.reserve(DAY, {"a": 2}, {"a": 3}) is None
    store.is_away = True
    with caplog.at_level(logging.WARNING):
        assert [counts.reserve(DAY, {"a": 1}, {"a": 3}) for _ in range(4)] == [None, None, None, "a"]
        counts.add(NEXT, {"b": 7})
        counts.forget_before(DAY)
    assert caplog.messages == ["budgets and usage are counted per process for now: away"]
    store.is_away = False
    assert counts.reserve(DAY, {"a": 1}, {"a": 5}) == "a", "what was counted meanwhile is there"
    assert all_of(counts) == {(DAY, "a"): 5, (NEXT, "b"): 7}
    store.is_away = True
    counts.add(DAY, {"a": 1})
    counts.add(DAY, {"a": 1})
    store.is_away = False
    counts.add(DAY, {"a": 1})
    assert all_of(counts)[DAY, "a"] == 8


def test_only_slots_in_a_redis_are_shared(tmp_path: Path) -> None:
    assert shared_slots(MemoryStore()) is None
    assert shared_slots(SqliteStore(tmp_path / "proxy.db")) is None
    assert shared_slots(RedisStore("redis://127.0.0.1:9/0")) is not None


def test_what_another_program_put_among_the_numbers_is_none(redis_url: str, tmp_path: Path) -> None:
    with redis.Redis.from_url(redis_url) as other:
        in_redis = RedisStore(redis_url, prefix=f"{uuid4()}:")
        counts: Counts = open_counts(in_redis)
        counts.add(DAY, {"a": 2})
        key = next(iter(other.scan_iter(f"{in_redis.prefix}*")))
        other.hset(key, mapping={"b": "garbage", b"\xff": "5", "c": "1.5"})
    assert all_of(counts) == {(DAY, "a"): 2}
    check_foreign_number_harms_no_other(counts)
    counts = open_counts(SqliteStore(tmp_path / "proxy.db"))
    counts.add(DAY, {"a": 2})
    with contextlib.closing(sqlite3.connect(tmp_path / "proxy.db", isolation_level=None)) as file:
        file.execute("INSERT INTO counts (day, name, value) VALUES (?, 'b', 'garbage')", (DAY,))
    assert all_of(counts) == {(DAY, "a"): 2}
    check_foreign_number_harms_no_other(counts)


def check_foreign_number_harms_no_other(counts: Counts) -> None:
    """The numbers beside `b`, which is none, are counted once each."""
    watched = WatchedCounts(counts)
    watched.add(DAY, {"a": 1, "b": 1, "z": 1})
    assert watched.reserve(DAY, {"a": 1, "b": 1}, {"a": 9, "b": 9}) is None
    watched.add(DAY, {"a": 1})
    found = all_of(counts)
    assert (found[DAY, "a"], found[DAY, "z"]) == (5, 1)
