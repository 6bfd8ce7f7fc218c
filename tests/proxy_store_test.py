"""The store: the same promises over memory, a file and a real Redis, and what becomes of a lost one."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sqlite3
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from proxy_store import (
    CHECK_EVERY,
    LARGE_BYTES,
    MemoryStore,
    RedisStore,
    SqliteStore,
    Store,
    StoreError,
    WatchedStore,
    kept_secret,
    open_store,
)


@pytest.fixture(params=["memory", "sqlite", "redis"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """A store of each kind, empty."""
    if request.param == "memory":
        return open_store("memory:")
    if request.param == "sqlite":
        return open_store(f"sqlite:///{tmp_path}/deep/store.db")
    return RedisStore(request.getfixturevalue("redis_url"), prefix=f"{tmp_path.name}:")


def test_a_value_stays_until_it_is_replaced_or_deleted(store: Store) -> None:
    assert store.get("a") is None
    store.put({"a": b"1", "b": b"\x00\xff"}, 60)
    assert (store.get("a"), store.get("b")) == (b"1", b"\x00\xff")
    store.put({"a": b"2"}, 60)
    assert store.get("a") == b"2"
    assert store.delete("a", "nothing")
    assert not store.delete("a")
    assert (store.get("a"), store.get("b")) == (None, b"\x00\xff")


def test_a_value_is_taken_once(store: Store) -> None:
    store.put({"a": b"1"}, 60)
    assert (store.take("a"), store.take("a"), store.get("a")) == (b"1", None, None)


def test_of_many_that_take_at_once_one_alone_gets_it(store: Store) -> None:
    store.put({"a": b"1"}, 60)
    taken: list[bytes | None] = []
    threads = [threading.Thread(target=lambda: taken.append(store.take("a"))) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken, key=str) == [None] * 15 + [b"1"] or taken.count(b"1") == 1


def test_a_value_is_added_only_where_there_is_none(store: Store) -> None:
    assert store.add("a", b"1", 60)
    assert not store.add("a", b"2", 60)
    assert store.get("a") == b"1"


def test_a_value_expires(store: Store) -> None:
    store.put({"a": b"1"}, 0.001)
    deadline = time.monotonic() + 5
    while store.get("a") is not None:
        assert time.monotonic() < deadline
    assert store.take("a") is None
    assert store.add("a", b"2", 60)


def test_the_memory_forgets_the_oldest_first() -> None:
    store = MemoryStore(most_bytes=30)
    for name in "abcde":
        store.put({name: b"123456789"}, 60)
    assert [name for name in "abcde" if store.get(name)] == ["c", "d", "e"]


def test_a_file_that_grows_too_large_loses_its_oldest_entries(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "s.db", most_bytes=400_000)
    for number in range(2 * CHECK_EVERY):
        store.put({f"k{number}": bytes(2000)}, 60)
    assert store.get("k0") is None
    assert store.get(f"k{2 * CHECK_EVERY - 1}") is not None


def test_what_has_expired_leaves_the_file(tmp_path: Path) -> None:
    now = [1000.0]
    store = SqliteStore(tmp_path / "s.db", clock=lambda: now[0])
    store.put({"old": b"x"}, 10)
    now[0] += 11
    store.put({f"k{n}": b"x" for n in range(CHECK_EVERY)}, 10)
    now[0] -= 11
    assert store.get("old") is None


def test_only_the_owner_may_read_the_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "s.db"
    SqliteStore(path).put({"a": b"1"}, 60)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def _write_for_ever(path: Path) -> None:
    store = SqliteStore(path)
    number = 0
    while True:
        store.put({f"a{number}": bytes([number % 256]) * 5000, f"b{number}": bytes([number % 256])}, 600)
        with path.with_suffix(".log").open("a") as log:
            log.write(f"{number}\n")
        number += 1


def test_a_writer_that_is_killed_leaves_whole_entries_and_all_it_had_written(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    writer = multiprocessing.get_context("spawn").Process(target=_write_for_ever, args=(path,))
    writer.start()
    log = path.with_suffix(".log")
    deadline = time.monotonic() + 20
    while not log.exists() or log.read_text().count("\n") < 200:
        assert time.monotonic() < deadline
    assert writer.pid
    os.kill(writer.pid, signal.SIGKILL)
    writer.join()
    store = SqliteStore(path)
    done = [int(line) for line in log.read_text().splitlines()]
    for number in done:
        assert store.get(f"a{number}") == bytes([number % 256]) * 5000
        assert store.get(f"b{number}") == bytes([number % 256])
    after = (store.get(f"a{len(done)}"), store.get(f"b{len(done)}"))
    assert (after[0] is None) == (after[1] is None)


def test_two_processes_see_each_others_writes(tmp_path: Path) -> None:
    one, other = SqliteStore(tmp_path / "s.db"), SqliteStore(tmp_path / "s.db")
    one.put({"a": b"1"}, 60)
    assert other.take("a") == b"1"
    assert one.get("a") is None


@pytest.mark.parametrize("address", ["sqlite:////proc/nowhere/s.db", "redis://127.0.0.1:9/0"])
def test_a_lost_store_raises_one_error_that_tells_no_address(address: str) -> None:
    lost = open_store(address)
    for call in (
        lambda: lost.get("a"),
        lambda: lost.take("a"),
        lambda: lost.add("a", b"", 1),
        lambda: lost.put({"a": b""}, 1),
        lambda: lost.delete("a"),
    ):
        with pytest.raises(StoreError) as caught:
            call()
        assert "127" not in str(caught.value)
        assert "nowhere" not in str(caught.value)


def test_a_broken_file_is_a_lost_store_until_it_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    path.write_bytes(b"no database at all" * 1000)
    heard: list[str] = []
    watched = WatchedStore(SqliteStore(path), heard.append)
    watched.put({"a": b"1"}, 60)
    assert (watched.get("a"), watched.take("a"), watched.delete("a")) == (None, None, False)
    assert watched.add("a", b"1", 60)
    assert watched.error == heard[0]
    assert len(heard) == 1
    path.unlink()
    watched.put({"a": b"1"}, 60)
    assert watched.get("a") == b"1"
    assert watched.error is None


def test_the_secret_is_made_once_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    secrets = {kept_secret(WatchedStore(SqliteStore(path))) for _ in range(3)}
    assert len(secrets) == 1
    assert len(secrets.pop()) == 32
    lost: Any = WatchedStore(open_store("sqlite:////proc/nowhere/s.db"))
    assert kept_secret(lost) != kept_secret(lost)


def test_a_write_beside_another_one_waits_where_waiting_harms_nobody(tmp_path: Path) -> None:
    waited: list[bool] = []

    def run(work: Callable[[], Any]) -> Any:
        waited.append(True)
        return work()

    store = SqliteStore(tmp_path / "proxy.db", run=run)
    store.put({"a": b"1"}, 60)
    waited.clear()
    store.put({"b": b"2"}, 60)
    assert not waited
    path = tmp_path / "proxy.db"
    with contextlib.closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as other:
        other.execute("BEGIN IMMEDIATE")
        store.put({}, 60)
        assert not waited
        timer = threading.Timer(0.2, other.execute, ("ROLLBACK",))
        timer.start()
        store.put({"c": b"3"}, 60)
        timer.join()
    store.put({"d": bytes(LARGE_BYTES + 1)}, 60)
    assert len(waited) == 2
    assert [store.get(key) for key in "abc"] == [b"1", b"2", b"3"]


def test_the_log_of_writes_is_taken_in(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "proxy.db")
    for number in range(3 * CHECK_EVERY):
        store.put({f"key{number % 50}": bytes(4000)}, 60)
    assert (tmp_path / "proxy.db-wal").stat().st_size < CHECK_EVERY * 40_000
    assert (tmp_path / "proxy.db").stat().st_size > 50 * 4000
