"""What a store in trouble costs: continuity, never an answer, and nobody's time."""

from __future__ import annotations

import contextlib
import secrets
import sqlite3
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests

from flowise_gateway.storage.sqlite_store import SqliteStore
from flowise_gateway.storage.store import WatchedStore
from tests.support.demo_server import DemoServer
from tests.support.processes import wait_for
from tests.support.running_proxy import RunningProxy

FLOW = "5518949f-3ebc-4082-af01-fa2a18623da6"


@pytest.fixture
def server(flowise: DemoServer, tmp_path: Path) -> Iterator[RunningProxy]:
    """A server with a file of its own."""
    with RunningProxy(tmp_path, FLOWISE_BASE_URL=flowise.base_url) as running:
        yield running


def post(server: RunningProxy, path: str, **body: Any) -> requests.Response:
    """POST anonymously."""
    return requests.post(f"{server.url}{path}", json={"model": FLOW, **body}, timeout=60)


def chat(server: RunningProxy, conversation: str, text: str = "Hello") -> requests.Response:
    """Ask in a conversation."""
    messages = [{"role": "user", "content": text}]
    return post(server, "/v1/chat/completions", messages=messages, conversation_id=conversation)


def database(folder: Path) -> contextlib.closing[sqlite3.Connection]:
    """The server's file, as another program opens it."""
    return contextlib.closing(sqlite3.connect(folder / "data" / "proxy.sqlite3", isolation_level=None))


def test_a_locked_file_delays_nobody(server: RunningProxy, tmp_path: Path) -> None:
    assert chat(server, "before").status_code == 200

    def timed(number: int) -> float:
        began = time.monotonic()
        assert chat(server, f"c{number}").status_code == 200
        return time.monotonic() - began

    with database(tmp_path) as other, ThreadPoolExecutor(8) as threads:
        other.execute("BEGIN IMMEDIATE")
        first = list(threads.map(timed, range(8)))
        began = time.monotonic()
        assert requests.get(f"{server.url}/health", timeout=5).ok
        assert time.monotonic() - began < 0.5
        later = list(threads.map(timed, range(8, 24)))
        # Written by the store's thread, whose failure is expected: nothing but a line of ours tells of it.
        assert chat(server, "large", secrets.token_hex(90_000)).status_code == 200
        state = requests.get(f"{server.url}/ready", timeout=5).json()
        other.execute("ROLLBACK")
    assert max(first) < 4, "those who met the lock first, with what this machine takes for eight answers"
    assert max(later) < 1.5
    assert "Traceback" not in server.log()
    assert "locked" in state["store_error"]
    assert chat(server, "after").status_code == 200
    assert requests.get(f"{server.url}/ready", timeout=5).json()["store_error"] is None


UNREADABLE = [b"", b"garbage", b"{}", b"[]", b"[1,2,3,4]", b"x\x9c" + bytes(30)]


@pytest.mark.parametrize("value", [*UNREADABLE, "a text", 5])
def test_values_that_are_not_ours_are_404_and_never_500(
    server: RunningProxy, tmp_path: Path, value: Any
) -> None:
    def replace_all() -> int:
        with database(tmp_path) as other:
            return other.execute("UPDATE entries SET value = ? WHERE key <> 'secret'", (value,)).rowcount

    check_unreadable(server, replace_all)


@pytest.mark.parametrize("value", [*UNREADABLE, zlib.compress(b"{}"), zlib.compress(b"[{},[],[],0]")])
def test_values_that_another_version_of_ours_wrote_are_404_and_never_500(
    flowise: DemoServer, tmp_path: Path, value: bytes
) -> None:
    secret = "the-secret-of-two-versions"

    def replace_all() -> int:
        with database(tmp_path) as other:
            keys = [key for (key,) in other.execute("SELECT key FROM entries WHERE key <> 'secret'")]
        store = WatchedStore(SqliteStore(tmp_path / "data" / "proxy.sqlite3"), secret=secret.encode())
        store.put(dict.fromkeys(keys, value), 600)
        assert store.error is None
        return len(keys)

    with RunningProxy(tmp_path, FLOWISE_BASE_URL=flowise.base_url, PROXY_SECRET=secret) as server:
        check_unreadable(server, replace_all)


def check_unreadable(server: RunningProxy, replace_all: Callable[[], int]) -> None:
    """All that reads a value finds none once every value was replaced."""
    answer = post(server, "/v1/responses", input="Hello").json()
    background = post(server, "/v1/responses", input="Hello", background=True).json()
    url = f"{server.url}/v1/responses/{background['id']}"
    assert wait_for(lambda: requests.get(url, timeout=5).json()["status"] == "completed", 10)
    assert chat(server, "mine").status_code == 200
    assert replace_all() > 5
    for kept in (answer, background):
        url = f"{server.url}/v1/responses/{kept['id']}"
        for found in (
            requests.get(url, timeout=5),
            requests.get(f"{url}?stream=true", timeout=5),
            requests.get(f"{url}/input_items", timeout=5),
            requests.post(f"{url}/cancel", timeout=5),
            requests.delete(url, timeout=5),
        ):
            assert found.status_code == 404, found.text
    item = answer["output"][-1]["id"]
    refused = [
        post(server, "/v1/responses", input="On", previous_response_id=answer["id"]),
        post(server, "/v1/responses", input=[{"type": "item_reference", "id": item}]),
    ]
    assert all(400 <= one.status_code < 500 for one in refused)
    assert chat(server, "mine", "And on").status_code == 200
    resent = [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Of another version"},
        {"role": "user", "content": "On"},
    ]
    assert post(server, "/v1/chat/completions", messages=resent, conversation_id="mine").ok
    assert "Traceback" not in server.log()


def test_what_may_be_stored_is_not_said_to_be_missing_while_the_store_is_away(
    flowise: DemoServer, tmp_path: Path
) -> None:
    with RunningProxy(
        tmp_path, FLOWISE_BASE_URL=flowise.base_url, PROXY_STORE="redis://127.0.0.1:9/0"
    ) as server:
        made = post(server, "/v1/responses", input="Hello").json()
        assert made["status"] == "completed"
        assert made["store"] is False
        assert "not stored" in made["metadata"]["flowise_warnings"]
        address = f"{server.url}/v1/responses/{made['id']}"
        answers = [
            requests.get(address, timeout=10),
            requests.delete(address, timeout=10),
            requests.get(f"{address}/input_items", timeout=10),
            requests.post(f"{address}/cancel", timeout=10),
            post(server, "/v1/responses", input="Hello", previous_response_id=made["id"]),
            post(server, "/v1/responses", input=[{"type": "item_reference", "id": "msg_1"}]),
            post(server, "/v1/responses", input="Hello", background=True),
        ]
        assert [answer.status_code for answer in answers] == [503] * len(answers)
        assert {answer.json()["error"]["code"] for answer in answers} == {"store_unavailable"}
        assert all(float(answer.headers["Retry-After"]) > 0 for answer in answers)


def test_a_file_that_others_may_read_is_told_at_the_start(flowise: DemoServer, tmp_path: Path) -> None:
    path = tmp_path / "data" / "proxy.sqlite3"
    with RunningProxy(tmp_path, FLOWISE_BASE_URL=flowise.base_url) as server:
        assert chat(server, "first").ok
        assert "other users" not in server.log()
    path.chmod(0o644)
    with RunningProxy(tmp_path, FLOWISE_BASE_URL=flowise.base_url) as server:
        assert "other users of this machine may read data/proxy.sqlite3 (mode 644)" in server.log()
