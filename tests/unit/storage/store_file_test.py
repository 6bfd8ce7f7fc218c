"""The file of a SQLite store: who may read it, and a copy while it is in use."""

from __future__ import annotations

import contextlib
import sqlite3
import stat
import threading
from pathlib import Path

import pytest

from flowise_gateway.storage.protocol import StoreError
from flowise_gateway.storage.sqlite_store import SqliteStore
from flowise_gateway.storage.store import WatchedStore
from flowise_gateway.storage.store_file import back_up, open_to_others, store_file


def test_only_an_address_of_a_file_names_one() -> None:
    assert store_file("sqlite:///data/s.db") == Path("data/s.db")
    assert store_file("sqlite:////data/s.db") == Path("/data/s.db")
    assert store_file("memory:") is None
    assert store_file("redis://localhost/0") is None


def test_a_mode_that_lets_others_in_is_told(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    assert open_to_others(path) == ""
    SqliteStore(path).put({"a": b"1"}, 60)
    assert open_to_others(path) == ""
    path.chmod(0o640)
    assert open_to_others(path) == "640"


def test_a_copy_made_while_others_write_is_one_whole_file_of_one_moment(tmp_path: Path) -> None:
    source, target = tmp_path / "s.db", tmp_path / "copy.db"
    store = WatchedStore(SqliteStore(source))
    store.put({"a": b"1", "b": bytes(100_000)}, 600)
    is_over = threading.Event()

    def write() -> None:
        writer, number = SqliteStore(source), 0
        while not is_over.is_set():
            writer.put({"left": b"%d" % number, "right": b"%d" % number, f"k{number}": bytes(5000)}, 600)
            number += 1

    writing = threading.Thread(target=write)
    writing.start()
    try:
        entries = back_up(source, target)
    finally:
        is_over.set()
        writing.join()
    assert entries >= 3
    assert {path.name for path in tmp_path.glob("copy.db*")} == {"copy.db"}
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    copy = WatchedStore(SqliteStore(target))
    assert copy.secret == store.secret, "links and conversations go on with the copy"
    assert copy.get("a") == b"1"
    raw = SqliteStore(target)
    assert raw.get("left") == raw.get("right")


def test_a_copy_overwrites_nothing_and_a_failed_one_leaves_nothing(tmp_path: Path) -> None:
    source, target = tmp_path / "s.db", tmp_path / "copy.db"
    with pytest.raises(StoreError, match="no store"):
        back_up(source, target)
    SqliteStore(source).put({"a": b"1"}, 600)
    target.write_text("mine")
    with pytest.raises(FileExistsError):
        back_up(source, target)
    assert target.read_text() == "mine"
    (tmp_path / "broken.db").write_bytes(b"no database at all" * 1000)
    with pytest.raises(StoreError, match="could not be copied"):
        back_up(tmp_path / "broken.db", tmp_path / "other.db")
    with contextlib.closing(sqlite3.connect(tmp_path / "foreign.db")) as foreign:
        foreign.execute("CREATE TABLE others (a)")
    with pytest.raises(StoreError, match="no such table"):
        back_up(tmp_path / "foreign.db", tmp_path / "other.db")
    assert not (tmp_path / "other.db").exists()


def test_a_damaged_file_gives_no_copy(tmp_path: Path) -> None:
    source = tmp_path / "s.db"
    with contextlib.closing(sqlite3.connect(source)) as file:
        file.execute("CREATE TABLE entries (key TEXT, value BLOB)")
        file.execute("CREATE INDEX by_key ON entries (key)")
        file.executemany("INSERT INTO entries VALUES (?, ?)", [(f"k{n}", bytes(900)) for n in range(400)])
        file.commit()
    content = bytearray(source.read_bytes())
    content[len(content) // 2 :] = bytes(len(content) - len(content) // 2)
    source.write_bytes(content)
    with pytest.raises(StoreError):
        back_up(source, tmp_path / "copy.db")
    assert not (tmp_path / "copy.db").exists()
