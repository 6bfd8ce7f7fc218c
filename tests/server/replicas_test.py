"""Two equal servers of one Flowise, each with a memory of its own: balance, sessions, and one that is killed."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from tests.support.conversations import Client, Json, assistant, key_lines, user
from tests.support.demo_server import DemoServer
from tests.support.metrics_text import counted, scraped
from tests.support.openai_check import valid
from tests.support.processes import free_port, wait_for
from tests.support.running_proxy import RunningProxy

KEYS = f"keys:\n{key_lines('one-person', 'single_user: true')}\ndiscovery: {{refresh_seconds: 1}}\n"


def file_for(*servers: DemoServer, more: str = "") -> str:
    """A file with these servers as one Flowise."""
    addresses = ", ".join(f"'{server.base_url}'" for server in servers)
    return f"flowises:\n  - name: pair\n    base_urls: [{addresses}]\n    max_attempts: 2\n{more}{KEYS}"


def demo(*, seconds: float = 0, port: int = 0) -> DemoServer:
    return DemoServer("--token-seconds", str(seconds), "--port", str(port))


@pytest.fixture
def pair() -> Iterator[tuple[DemoServer, DemoServer]]:
    """Two servers."""
    with demo() as one, demo() as two:
        yield one, two


def talk(proxy: RunningProxy, name: str, turns: int, before: list[Json] | None = None) -> list[Json]:
    """Go on with a conversation that the client sends as a whole each time."""
    messages = before or []
    client = Client(proxy, model="demo-agent")
    for _ in range(turns):
        question = [*messages, user(f"{name}, turn {len(messages) // 2}")]
        messages = [*question, assistant(client.text(question, headers={"X-OpenWebUI-Chat-Id": name}))]
    return messages


def sessions_of(server: DemoServer) -> list[str]:
    return [record["body"]["overrideConfig"]["sessionId"] for record in server.records()]


@pytest.mark.parametrize("workers", ["1", "2"])
def test_sessions_stay_where_they_began_and_the_load_is_even(
    workers: str, pair: tuple[DemoServer, DemoServer], tmp_path: Path
) -> None:
    one, two = pair
    (tmp_path / "proxy.yaml").write_text(file_for(*pair))
    settings = {"WORKERS": workers}
    with RunningProxy(tmp_path, **settings) as proxy, ThreadPoolExecutor(6) as threads:
        talks = list(threads.map(lambda n: talk(proxy, f"talk-{n}", 3), range(40)))
    found = [sessions_of(server) for server in pair]
    assert not set(found[0]) & set(found[1]), "a session is on both servers"
    # Each worker balances what it sees: over several the loads are a little less even.
    share = 0.1 if workers == "1" else 0.25
    assert [len(set(sessions)) for sessions in found] == pytest.approx([20, 20], rel=share)
    assert [len(sessions) for sessions in found] == pytest.approx([60, 60], rel=share)
    assert all(count == 3 for sessions in found for count in map(sessions.count, set(sessions)))
    assert not any(record["body"].get("history") for server in pair for record in server.records())
    before = [set(sessions) for sessions in found]
    one.clear()
    two.clear()
    with RunningProxy(tmp_path, **settings) as proxy, ThreadPoolExecutor(6) as threads:
        list(threads.map(lambda n: talk(proxy, f"talk-{n}", 1, talks[n]), range(40)))
    after = [set(sessions_of(server)) for server in pair]
    assert after == before, "a session has moved by a restart"


def test_without_stickiness_each_turn_goes_where_there_is_room(
    pair: tuple[DemoServer, DemoServer], tmp_path: Path
) -> None:
    (tmp_path / "proxy.yaml").write_text(file_for(*pair, more="    sticky: none\n"))
    with RunningProxy(tmp_path) as proxy:
        talk(proxy, "shared", 6)
    found = [sessions_of(server) for server in pair]
    assert [len(sessions) for sessions in found] == [3, 3]
    assert len({*found[0], *found[1]}) == 1


def test_one_that_is_killed_fails_its_own_runs_alone_and_its_conversations_go_on(tmp_path: Path) -> None:
    port = free_port()
    with contextlib.ExitStack() as running:
        stays = running.enter_context(demo(seconds=0.1))
        killed = demo(seconds=0.1, port=port)
        killed.__enter__()
        (tmp_path / "proxy.yaml").write_text(file_for(stays, killed))
        proxy = running.enter_context(RunningProxy(tmp_path))
        talks = {name: talk(proxy, name, 1) for name in ("a", "b")}
        asked = Client(proxy, model="demo-approval")
        open_questions: dict[str, list[Json]] = {}
        for name in ("c", "d"):
            question = [user("send it")]
            answer = assistant(asked.text(question, headers={"X-OpenWebUI-Chat-Id": name}))
            open_questions[name] = [*question, answer]
        homes = {
            record["body"]["question"][0]: server for server in (stays, killed) for record in server.records()
        }
        assert homes["a"] is not homes["b"]
        ends: list[tuple[int, str]] = []

        def stream(number: int) -> None:
            body = {"model": "demo-agent", "messages": [user(f"long {number}")], "stream": True}
            headers = {"Authorization": "Bearer one-person", "Connection": "close"}
            answer = requests.post(f"{proxy.url}/v1/chat/completions", json=body, headers=headers, timeout=60)
            ends.append((number, answer.text))

        threads = [threading.Thread(target=stream, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        assert wait_for(lambda: all(s.stats()["active_runs"] == 4 for s in (stays, killed)), 10)
        theirs = {record["body"]["question"] for record in killed.records()[-4:]}
        killed._process.kill()
        killed.__exit__(None, None, None)
        for thread in threads:
            thread.join()
        for number, text in ends:
            has_failed = '"error"' in text
            assert has_failed == (f"long {number}" in theirs), (number, text[-300:])
            assert ('"finish_reason":"stop"' in text) != has_failed, "a run that was cut must not look whole"
        # New conversations and those of the killed server go on at the other one, by their whole history.
        stays.clear()
        for name in ("a", "b", "e", "f"):
            talks[name] = talk(proxy, name, 1, talks.get(name))
        records = {record["body"]["question"][0]: record["body"] for record in stays.records()}
        assert set(records) == {"a", "b", "e", "f"}
        moved = next(name for name in ("a", "b") if homes[name] is killed)
        assert records[moved]["history"][0]["content"] == f"{moved}, turn 0"
        # An open question waits on the killed server alone: nothing else may answer it.
        outcomes = []
        for name, messages in open_questions.items():
            decided = asked.post([*messages, user("yes")], headers={"X-OpenWebUI-Chat-Id": name})
            outcomes.append(decided.status_code)
            if decided.status_code != 200:
                valid("error", decided.content)
        assert sorted(outcomes) == [200, 503]
        ready = requests.get(
            f"{proxy.url}/ready",
            headers={"Authorization": "Bearer one-person", "Connection": "close"},
            timeout=30,
        ).json()["flowises"]["pair"]
        assert (ready["reachable"], ready["servers"]) == (True, [True, False])
        # It comes back, and gets its share again; the open question is still there for it.
        with demo(port=port) as back:
            assert wait_for(lambda: "can be reached again" in proxy.log(), 20)
            for number in range(6):
                talk(proxy, f"later-{number}", 1)
            assert len(back.records()) == 3
            assert counted(proxy, "flowise_up", 2, "one-person", flowise="pair")


def test_a_server_that_is_taken_away_takes_no_conversation_along(
    pair: tuple[DemoServer, DemoServer], tmp_path: Path
) -> None:
    one, two = pair
    file = tmp_path / "proxy.yaml"
    file.write_text(file_for(one, two))
    with RunningProxy(tmp_path) as proxy:
        talks = {name: talk(proxy, name, 1) for name in ("a", "b")}
        file.write_text(file_for(one, one).replace(f", '{one.base_url}'", ""))
        assert wait_for(lambda: scraped(proxy, "one-person").sum("flowise_up") == 1, 10)
        one.clear()
        two.clear()
        for name, before in talks.items():
            talk(proxy, name, 1, before)
    assert two.records() == []
    assert len(one.records()) == 2


def test_files_come_from_the_server_that_has_them(
    pair: tuple[DemoServer, DemoServer], tmp_path: Path
) -> None:
    one, two = pair
    (tmp_path / "proxy.yaml").write_text(file_for(one, two))
    with RunningProxy(tmp_path) as proxy:
        answer = Client(proxy, model="demo-files").ask([user("a file")])
        links = {file["name"]: file["url"] for file in answer["flowise"]["files"]}
        for _ in range(4):  # a demo server has the files of its own runs alone
            got = requests.get(links["chart.png"], headers={"Connection": "close"}, timeout=30)
            assert got.content.startswith(b"\x89PNG")
            talk(proxy, "x", 1)
