"""The store: the same promises over memory, a file and a real Redis, and what becomes of a lost one."""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import os
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import redis

from flowise_gateway.storage.memory_store import MemoryStore
from flowise_gateway.storage.protocol import Store, StoreError, fair_level
from flowise_gateway.storage.redis_store import (
    MAX_CONNECTIONS,
    REDIS_RETRY_SECONDS,
    RedisStore,
    sentinel_addresses,
)
from flowise_gateway.storage.sqlite_store import (
    CHECK_EVERY,
    LARGE_BYTES,
    SqliteStore,
    _Busy,
    _checkpoint,
    _restart_log,
)
from flowise_gateway.storage.store import WatchedStore, open_store
from tests.support.processes import wait_for
from tests.support.scripted_server import ScriptedServer


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
    store = MemoryStore(max_bytes=3 * 220)
    for name in "abcde":
        store.put({name: b"123456789"}, 60)
    assert [name for name in "abcde" if store.get(name)] == ["c", "d", "e"]


@pytest.mark.parametrize(
    ("sizes", "room", "level"),
    [([], 5, 0), ([3, 4], 7, 4), ([3, 4], 6, 3), ([1, 9, 5], 9, 4), ([10, 10], 0, 0), ([10, 10], -5, 0)],
)
def test_room_is_made_by_those_who_hold_the_most(sizes: list[int], room: int, level: int) -> None:
    assert fair_level(sizes, room) == level


def small(kind: str, path: Path) -> Store:
    """A store that soon is full."""
    return (
        MemoryStore(max_bytes=400_000) if kind == "memory" else SqliteStore(path / "s.db", max_bytes=400_000)
    )


@pytest.mark.parametrize("kind", ["memory", "sqlite"])
def test_nobody_pushes_out_what_others_have_and_nothing_what_must_live(kind: str, tmp_path: Path) -> None:
    store = small(kind, tmp_path)
    store.put({"secret": b"s" * 32}, math.inf, None)
    store.put({f"quiet{n}": bytes(1000) for n in range(20)}, 600, "quiet")
    for number in range(3 * CHECK_EVERY):
        store.put({f"loud{number}": bytes(1000)}, 600, "loud")
        if number == CHECK_EVERY:
            store.put({f"other{n}": bytes(1000) for n in range(20)}, 600, "other")
    assert wait_for(lambda: store.get("loud100") is None, 10)
    assert store.get("secret") == b"s" * 32
    for name in ("quiet", "other"):
        assert all(store.get(f"{name}{n}") for n in range(20)), name
    assert store.get(f"loud{3 * CHECK_EVERY - 1}") is not None, "the newest of the loud one stays"


def test_a_file_that_has_grown_to_many_times_its_bound_is_taken_back_from_those_who_hold_the_most(
    tmp_path: Path,
) -> None:
    large = SqliteStore(tmp_path / "s.db")
    large.put({f"quiet{n}": bytes(1000) for n in range(20)}, 600, "quiet")
    large.put({f"loud{n}": bytes(1000) for n in range(5000)}, 600, "loud")
    store = small("sqlite", tmp_path)
    store.put({f"other{n}": bytes(1) for n in range(CHECK_EVERY)}, 600, None)
    assert wait_for(lambda: store.get("loud1000") is None, 10)
    assert all(store.get(f"quiet{n}") for n in range(20))


def test_what_is_kept_for_good_does_not_expire_in_redis(redis_url: str, tmp_path: Path) -> None:
    store = RedisStore(redis_url, prefix=f"{tmp_path.name}:")
    store.add("secret", b"s", math.inf, None)
    store.put({"listing": b"l"}, 60, None)
    with redis.Redis.from_url(redis_url) as other:
        assert other.ttl(f"{tmp_path.name}:secret") == -1
        assert other.ttl(f"{tmp_path.name}:listing") > 0


def test_a_file_that_grows_too_large_loses_its_oldest_entries(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "s.db", max_bytes=400_000)
    for number in range(2 * CHECK_EVERY):
        store.put({f"k{number}": bytes(2000)}, 60)
    assert wait_for(lambda: store.get("k0") is None, 10)
    assert store.get(f"k{2 * CHECK_EVERY - 1}") is not None


def test_a_file_of_a_version_without_owners_keeps_its_secret_and_its_room_is_made_as_ever(
    tmp_path: Path,
) -> None:
    path = tmp_path / "s.db"
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as before:
        before.executescript(
            """PRAGMA journal_mode = WAL;
            CREATE TABLE entries (
                number INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, value BLOB NOT NULL, expires REAL NOT NULL
            );
            CREATE INDEX entries_by_expiry ON entries (expires);"""
        )
        later = time.time() + 600
        rows = [("secret", b"s" * 32, later), *((f"old{n}", bytes(2000), later) for n in range(100))]
        before.executemany("INSERT INTO entries (key, value, expires) VALUES (?, ?, ?)", rows)
    store = SqliteStore(path, max_bytes=400_000)
    assert WatchedStore(store).secret == b"s" * 32
    for number in range(2 * CHECK_EVERY):
        store.put({f"new{number}": bytes(1000)}, 600, "somebody")
    assert wait_for(lambda: store.get("new0") is None, 10)
    assert WatchedStore(SqliteStore(path)).secret == b"s" * 32
    assert store.get("old99"), "what nobody is known to own is an owner's share like any"


def test_what_has_expired_leaves_the_file(tmp_path: Path) -> None:
    now = [1000.0]
    store = SqliteStore(tmp_path / "s.db", clock=lambda: now[0])
    store.put({"old": b"x"}, 10)
    now[0] += 11
    store.put({f"k{n}": b"x" for n in range(CHECK_EVERY)}, 10)
    with contextlib.closing(sqlite3.connect(tmp_path / "s.db")) as other:
        count = "SELECT count(*) FROM entries WHERE key = 'old'"
        assert wait_for(lambda: other.execute(count).fetchone() == (0,), 10)


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


def _run_python(code: str, *arguments: object) -> None:
    subprocess.run([sys.executable, "-c", code, *map(str, arguments)], check=True, timeout=60)


def test_a_program_that_looks_into_the_file_and_leaves_takes_no_process_its_writes(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    store = SqliteStore(path)
    store.put({"a": b"1"}, 60)
    store.put({"b": bytes(LARGE_BYTES + 1)}, 60)
    look = (
        "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.execute('SELECT 1 FROM entries'); c.close()"
    )
    _run_python(look, path)
    assert (tmp_path / "s.db-wal").exists(), "the program took itself for the only one, and ended the log"
    write = (
        "import sys; from pathlib import Path; from flowise_gateway.storage.sqlite_store import SqliteStore;"
        "SqliteStore(Path(sys.argv[1])).put({'a': b'2'}, 60)"
    )
    _run_python(write, path)
    assert store.get("a") == b"2"
    store.put({"a": b"3"}, 60)
    assert SqliteStore(path).get("a") == b"3"


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
    secrets = {WatchedStore(SqliteStore(path)).secret for _ in range(3)}
    assert len(secrets) == 1
    assert len(secrets.pop()) == 32
    assert WatchedStore(SqliteStore(path), secret=b"given").secret == b"given"


def test_a_secret_made_while_the_store_was_lost_is_everybodys_once_it_is_back(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    path.write_bytes(b"no database at all" * 1000)
    one, other = WatchedStore(SqliteStore(path)), WatchedStore(SqliteStore(path))
    own = one.secret
    assert one.secret == own
    assert other.secret != own
    path.unlink()
    assert one.secret == own
    assert other.secret == own


def test_a_store_that_lost_its_data_is_given_the_secret_again() -> None:
    store, now = MemoryStore(), [0.0]
    one = WatchedStore(store, clock=lambda: now[0])
    made = one.secret
    store.delete("secret")
    now[0] = 31
    assert one.secret == made
    assert WatchedStore(store).secret == made


def test_processes_with_two_secrets_agree_on_the_stores(caplog: pytest.LogCaptureFixture) -> None:
    store, now = MemoryStore(), [0.0]
    one = WatchedStore(store, clock=lambda: now[0])
    first = one.secret
    store.delete("secret")
    second = WatchedStore(store).secret  # begun after the data was lost, and before the other one looked
    assert (first != second, one.secret) == (True, first)
    now[0] = 31
    assert one.secret == second
    assert "another secret" in caplog.text


def test_processes_with_two_secrets_are_told_until_some_minutes_after_they_agree(
    caplog: pytest.LogCaptureFixture,
) -> None:
    store, now = MemoryStore(clock=lambda: now[0]), [0.0]
    one = WatchedStore(store, secret=b"a secret that is given", clock=lambda: now[0])
    same = WatchedStore(store, secret=b"a secret that is given", clock=lambda: now[0])
    other = WatchedStore(store, clock=lambda: now[0])
    assert (one.secret_error, same.secret_error) == (None, None)
    assert other.secret_error is None, "before it has agreed on one with the store"
    assert "PROXY_SECRET" in str(other.secret_error)
    now[0] = 31
    assert "PROXY_SECRET" in str(one.secret_error)
    assert caplog.text.count("with a different PROXY_SECRET") == 2
    for now[0] in range(62, 1000, 31):
        one.get("a")
    assert (one.secret_error, same.secret_error) == (None, None)
    assert caplog.text.count("with a different PROXY_SECRET") == 2


def test_a_lost_store_is_no_reason_to_think_of_two_secrets() -> None:
    store = Losable()
    store.is_lost = True
    one = WatchedStore(store)
    assert (one.secret_error, one.secret_error) == (None, None)
    store.is_lost = False
    assert (one.get("a"), one.secret_error, one.secret_error) == (None, None, None)
    assert WatchedStore(store).secret_error is None


def test_more_calls_than_connections_wait_for_each_other(redis_url: str, tmp_path: Path) -> None:
    with redis.Redis.from_url(redis_url) as other:
        before = other.info("clients")["connected_clients"]  # those of other tests
    store = RedisStore(redis_url, prefix=f"{tmp_path.name}:")
    store.put({"a": b"1"}, 60)
    together = threading.Barrier(130)
    found: list[bytes | None] = []

    def read() -> None:
        together.wait(30)
        found.extend(store.get("a") for _ in range(2))

    threads = [threading.Thread(target=read) for _ in range(130)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [b"1"] * 260
    with redis.Redis.from_url(redis_url) as other:
        assert other.info("clients")["connected_clients"] <= before + MAX_CONNECTIONS


class Losable(MemoryStore):
    """A store that another machine has, and that may be out of reach."""

    is_lost = False

    def get(self, key: str) -> bytes | None:
        if self.is_lost:
            raise StoreError("lost")
        return super().get(key)


def test_a_store_that_can_be_read_and_not_written_says_so_until_a_write_succeeds() -> None:
    class Full(MemoryStore):
        is_full = True

        def put(self, entries: Mapping[str, bytes], seconds: float, owner: str | None = "") -> None:
            if self.is_full:
                raise StoreError("full")
            super().put(entries, seconds, owner)

    store = Full()
    watched = WatchedStore(store, secret=b"a secret that is given")
    watched.put({"a": b"1"}, 60)
    assert (watched.get("a"), watched.error) == (None, None), "reading is right"
    assert watched.is_failing
    assert watched.check() == "full"
    store.is_full = False
    assert watched.check() is None
    assert not watched.is_failing


def test_a_store_that_is_back_is_asked_for_its_secret_at_once() -> None:
    store = Losable()
    one = WatchedStore(store)
    made = one.secret
    store.is_lost = True
    assert (one.get("a"), one.secret) == (None, made)
    store.is_lost = False
    store.delete("secret")
    assert one.get("a") is None
    assert one.secret == made
    assert WatchedStore(store).secret == made


@pytest.mark.parametrize("value", [b"", b"short", b"x" * 33])
def test_a_secret_that_cannot_be_ours_is_replaced(store: Store, value: bytes) -> None:
    store.put({"secret": value}, 60)
    made = WatchedStore(store).secret
    assert len(made) == 32
    assert WatchedStore(store).secret == made


def test_a_value_that_is_not_ours_is_not_found(store: Store) -> None:
    ours = WatchedStore(store)
    ours.put({"a": b"mine", "b": b"other"}, 60)
    sealed = store.get("a") or b""
    assert sealed.endswith(b"mine")
    moved, cut, flipped = store.get("b") or b"", sealed[:-1], sealed[:-1] + b"!"
    for value in (b"", b"mine", b"\x00" * 40, moved, cut, flipped):
        store.put({"a": value}, 60)
        assert ours.get("a") is None
        store.put({"a": value}, 60)
        assert ours.take("a") is None
    store.put({"a": sealed}, 60)
    assert ours.get("a") == b"mine"
    assert WatchedStore(store, secret=b"another").get("a") is None
    assert ours.error is None


def test_values_of_another_kind_are_not_found(redis_url: str, tmp_path: Path) -> None:
    with redis.Redis.from_url(redis_url) as other:
        other.lpush("flowise-proxy:a", b"1")
        other.lpush("flowise-proxy:secret", b"1")
    for address in (redis_url, f"{redis_url}?decode_responses=true"):
        ours = WatchedStore(open_store(address))
        assert (ours.get("a"), ours.take("a"), ours.error) == (None, None, None)
        assert len(ours.secret) == 32
        ours.put({"text": b"\xff"}, 60)
        ours.get("text")
    path = tmp_path / "s.db"
    file = WatchedStore(SqliteStore(path))
    file.put(dict.fromkeys("ab", b"x"), 60)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as changed:
        changed.execute("UPDATE entries SET value = 'text' WHERE key = 'a'")
        changed.execute("UPDATE entries SET value = 5 WHERE key = 'b'")
    assert (file.get("a"), file.take("a"), file.get("b"), file.take("b")) == (None,) * 4


@contextlib.contextmanager
def locked(path: Path) -> Iterator[sqlite3.Connection]:
    """Another process, so to speak, that begins to write and does not end."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield other


def test_a_write_beside_another_one_waits_for_its_end(tmp_path: Path) -> None:
    threads: list[bool] = []

    def run(work: Callable[[], Any]) -> Any:
        threads.append(True)
        return work()

    store = SqliteStore(tmp_path / "proxy.db", run=run)
    store.put({"a": b"1"}, 60)
    threads.clear()
    store.put({"b": b"2"}, 60)
    with locked(tmp_path / "proxy.db") as other:
        store.put({}, 60)
        timer = threading.Timer(0.2, other.execute, ("ROLLBACK",))
        timer.start()
        store.put({"c": b"3"}, 60)
        timer.join()
    assert not threads, "a small write needs no thread, also not to wait"
    store.put({"d": bytes(LARGE_BYTES + 1)}, 60)
    assert len(threads) == 1
    assert [store.get(key) for key in "abc"] == [b"1", b"2", b"3"]


def test_a_file_that_stays_locked_delays_one_write_and_no_read(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "proxy.db")
    store.put({"a": b"1"}, 60)
    writes: list[Callable[[], object]] = [
        lambda: store.put({"b": b"2"}, 60),
        lambda: store.put({"b": bytes(LARGE_BYTES + 1)}, 60),
        lambda: store.add("c", b"3", 60),
        lambda: store.take("a"),
        lambda: store.delete("a"),
    ]
    with locked(tmp_path / "proxy.db") as other:
        began = time.monotonic()
        assert store.get("a") == b"1"
        assert time.monotonic() - began < 0.5
        with pytest.raises(StoreError, match="locked"):
            writes[0]()
        assert time.monotonic() - began < 2
        began = time.monotonic()
        for write in writes * 10:
            with pytest.raises(StoreError, match="locked"):
                write()
            assert store.get("a") == b"1"
        assert time.monotonic() - began < 0.5
        other.execute("ROLLBACK")
    store.put({"b": b"2"}, 60)
    assert store.get("b") == b"2"


def test_a_file_that_is_locked_at_the_start_is_read_all_the_same(tmp_path: Path) -> None:
    secret = WatchedStore(SqliteStore(tmp_path / "proxy.db")).secret
    with locked(tmp_path / "proxy.db"):
        assert WatchedStore(SqliteStore(tmp_path / "proxy.db")).secret == secret


def test_a_redis_that_says_nothing_delays_one_caller_a_second() -> None:
    now = [0.0]
    with ScriptedServer([], []) as silent:
        store = RedisStore(silent.url.replace("http", "redis"), clock=lambda: now[0])
        with pytest.raises(StoreError):
            store.get("a")
        began = time.monotonic()
        for _ in range(50):
            with pytest.raises(StoreError):
                store.put({"a": b"1"}, 60)
        assert time.monotonic() - began < 1
        now[0] += REDIS_RETRY_SECONDS + 3
        asking = threading.Thread(target=lambda: WatchedStore(store, secret=b"s").get("a"))
        asking.start()
        assert wait_for(lambda: silent.connection_count == 2, 5)
        began = time.monotonic()
        with pytest.raises(StoreError):
            store.get("b")
        assert time.monotonic() - began < 1
        asking.join()


def test_the_log_of_writes_is_taken_in(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "proxy.db")
    for number in range(3 * CHECK_EVERY):
        store.put({f"key{number % 50}": bytes(4000)}, 60)
        if number % CHECK_EVERY == CHECK_EVERY - 1:
            assert wait_for(lambda: not store._is_tidying, 20)
    assert (tmp_path / "proxy.db-wal").stat().st_size < CHECK_EVERY * 40_000
    assert (tmp_path / "proxy.db").stat().st_size > 50 * 4000


def test_a_log_is_begun_anew_although_somebody_wrote_since_it_was_taken_in(tmp_path: Path) -> None:
    path = tmp_path / "proxy.db"
    store = SqliteStore(path)

    def begun() -> bytes:
        return path.with_name("proxy.db-wal").read_bytes()[:32]  # its head tells how often it began

    store.put({"a": b"1"}, 60)
    before = begun()
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as reading:
        reading.execute("BEGIN")
        reading.execute("SELECT count(*) FROM entries").fetchone()
        store.put({"b": b"2"}, 60)
        assert store._slow.within(_checkpoint) > 0
        with pytest.raises(_Busy):
            store._slow.within(_restart_log)
    store.put({"c": b"3"}, 60)
    assert begun() == before, "what the reader held back was not taken in"
    store._slow.within(_restart_log)
    store.put({"d": b"4"}, 60)
    assert begun() != before


def test_the_sentinels_of_an_address() -> None:
    address = "redis+sentinel://user:pass%40@one:1,[::1]:2,three/service"
    assert sentinel_addresses(address) == [("one", 1), ("::1", 2), ("three", 26379)]
