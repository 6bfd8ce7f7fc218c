"""What a reload, and a successor, take over: nothing is refused, lost or cut."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests

from flowise_gateway.conformance.websocket_client import SocketClient
from tests.server.drain_test import ask, connected, rest_of
from tests.server.serving_test import TWENTY_TOKENS_IN_TWO_SECONDS, raw_chat
from tests.server.wire_test import chat
from tests.support.activated import Activated
from tests.support.demo_server import DemoServer
from tests.support.processes import clean_environment, wait_for
from tests.support.running_proxy import PROJECT, RunningProxy
from tests.support.steady_load import SteadyLoad

KEPT = b"Host: localhost\r\nContent-Type: application/json\r\n"


def chat_request(model: str, *, stream: bool) -> bytes:
    """A chat completion on a connection that is kept."""
    message = {"role": "user", "content": "Hello"}
    body = json.dumps({"model": model, "stream": stream, "messages": [message]}).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\n" + KEPT
    return head + b"Content-Length: %d\r\n\r\n%b" % (len(body), body)


def load_on(url: str) -> SteadyLoad:
    """Short answers, and streams of two seconds."""
    short = chat_request("demo-assistant", stream=False)
    long = chat_request(TWENTY_TOKENS_IN_TWO_SECONDS, stream=True)
    return SteadyLoad(url, lambda _: short, lambda _: long, rate=40, streams=10)


def reload(server: RunningProxy) -> None:
    """Reload, and wait until the old workers have closed their listening sockets."""
    before = set(listening(server))
    os.kill(server.pid, signal.SIGHUP)
    assert wait_for(lambda: bool(now := listening(server)) and not before & set(now), 30), server.log()


def listening(server: RunningProxy) -> list[int]:
    """The workers that hold a listening socket."""
    address = f"0100007F:{urlsplit(server.url).port:04X}"
    lines = map(str.split, Path("/proc/net/tcp").read_text().splitlines()[1:])
    sockets = {f"socket:[{line[9]}]" for line in lines if line[1] == address and line[3] == "0A"}
    return [pid for pid in workers(server) if sockets & set(files_of(pid))]


def workers(server: RunningProxy) -> list[int]:
    """The processes that the server has started."""
    return [int(pid) for pid in Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()]


def files_of(pid: int) -> Iterator[str]:
    """The names of what a process has open."""
    with contextlib.suppress(OSError):
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                yield str(entry.readlink())


@pytest.fixture
def brief(flowise: DemoServer, tmp_path: Path) -> Iterator[RunningProxy]:
    """A server that waits a second only for open answers when it ends."""
    with RunningProxy(tmp_path, FLOWISE_BASE_URL=flowise.base_url, PROXY_DRAIN_SECONDS="1") as server:
        yield server


def test_reloads_under_load_refuse_lose_and_cut_nothing(flowise: DemoServer, tmp_path: Path) -> None:
    async def play(server: RunningProxy) -> SteadyLoad:
        async with load_on(server.url) as load:
            for _ in range(3):
                await asyncio.sleep(1)
                await asyncio.to_thread(reload, server)
            await asyncio.sleep(1)
        return load

    with RunningProxy(
        tmp_path, FLOWISE_BASE_URL=flowise.base_url, WORKERS="2", PROXY_DRAIN_SECONDS="1"
    ) as server:
        load = asyncio.run(play(server))
    assert not load.failures
    assert load.answers["ok"] > 40
    assert load.streamed["ok"] >= 10


def test_a_retired_worker_answers_whoever_is_connected_and_then_ends(brief: RunningProxy) -> None:
    with (
        raw_chat(brief, TWENTY_TOKENS_IN_TWO_SECONDS, "Hello", stream=True) as raw,
        connected(brief) as kept,
    ):
        received = raw.recv(65536)
        assert b"connection: keep-alive" in ask(kept, "/health").lower()
        reload(brief)
        assert chat(brief, "demo-assistant").status_code == 200
        answer = ask(kept, "/ready")
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert b"Connection: close" in answer
        assert rest_of(kept) == b""
        # The stream takes longer than PROXY_DRAIN_SECONDS, which bound the server's end alone.
        assert b"data: [DONE]" in received + rest_of(raw)


def test_a_server_that_ends_ends_its_retired_workers_too(brief: RunningProxy) -> None:
    with raw_chat(brief, "demo-agent-errors", "stall600", stream=True) as raw:
        received = raw.recv(65536)
        reload(brief)
        brief.terminate()
        received += rest_of(raw)
    assert b'"code":"server_shutting_down"' in received
    assert brief.ended(15) == 0


def test_a_socket_ends_and_a_background_response_finishes_at_a_reload(brief: RunningProxy) -> None:
    body = {"model": TWENTY_TOKENS_IN_TWO_SECONDS, "input": "Hello", "background": True}
    began = requests.post(f"{brief.url}/v1/responses", json=body, timeout=10).json()
    place = f"{brief.url}/v1/responses/{began['id']}"
    with SocketClient(brief.url) as client:
        client.say({"type": "response.create", "model": TWENTY_TOKENS_IN_TWO_SECONDS, "input": "Hello"})
        assert client.event()["type"] == "response.created"
        reload(brief)
        assert client.answer()[-1]["type"] == "response.completed"
        assert client.closed().code == 1001
    assert wait_for(lambda: requests.get(place, timeout=5).json()["status"] == "completed", 10)


def test_a_background_response_fails_when_its_server_ends_before_it(
    flowise: DemoServer, tmp_path: Path
) -> None:
    settings = {"FLOWISE_BASE_URL": flowise.base_url, "PROXY_DRAIN_SECONDS": "1"}
    with RunningProxy(tmp_path, **settings) as server:
        body = {"model": "demo-agent-errors", "input": "stall600", "background": True}
        began = requests.post(f"{server.url}/v1/responses", json=body, timeout=10).json()
    with RunningProxy(tmp_path, **settings) as server:
        response = requests.get(f"{server.url}/v1/responses/{began['id']}", timeout=5).json()
    assert response["status"] == "failed"
    assert "shutting down" in response["error"]["message"]


def test_a_reload_takes_new_settings_and_keeps_the_old_ones_if_they_are_wrong(
    flowise: DemoServer, tmp_path: Path
) -> None:
    def status(server: RunningProxy) -> int:
        return requests.get(f"{server.url}/v1/models", timeout=5).status_code

    with RunningProxy(tmp_path, FLOWISE_BASE_URL=flowise.base_url) as server:
        assert status(server) == 200
        (tmp_path / ".env").write_text("PROXY_API_KEYS=sk-a-key-that-is-long-enough\n")
        reload(server)
        assert status(server) == 401
        (tmp_path / ".env").write_text("PROXY_DRAIN_SECONDS=soon\n")
        os.kill(server.pid, signal.SIGHUP)
        assert wait_for(lambda: "The reload was cancelled" in server.log(), 10)
        assert "PROXY_DRAIN_SECONDS" in server.log()
        assert status(server) == 401
        (tmp_path / ".env").write_text("PROXY_STORE=redis://:secret@localhost:port/0\n")
        os.kill(server.pid, signal.SIGHUP)
        assert wait_for(lambda: "PROXY_STORE=redis:(hidden) cannot be opened" in server.log(), 10)
        assert status(server) == 401
        assert "Traceback" not in server.log()


def test_behind_a_balancer_a_server_that_ends_refuses_connections_and_answers_those_it_has(
    flowise: DemoServer, tmp_path: Path
) -> None:
    def is_refused() -> bool:
        address = urlsplit(server.url)
        try:
            socket.create_connection((address.hostname or "", address.port or 0), timeout=5).close()
        except ConnectionRefusedError:
            return True
        return False

    with RunningProxy(tmp_path, FLOWISE_BASE_URL=flowise.base_url) as server:
        headers = {"X-Forwarded-For": "192.0.2.1"}
        assert requests.get(f"{server.url}/health", headers=headers, timeout=5).ok
        with (
            raw_chat(server, TWENTY_TOKENS_IN_TWO_SECONDS, "Hello", stream=True) as raw,
            connected(server) as kept,
            connected(server) as ready,
        ):
            received = raw.recv(65536)
            assert ask(kept, "/health").startswith(b"HTTP/1.1 200 ")
            assert ask(ready, "/health").startswith(b"HTTP/1.1 200 ")
            server.terminate()
            assert wait_for(is_refused, 5)
            assert ask(ready, "/ready").startswith(b"HTTP/1.1 503 ")
            kept.sendall(chat_request("demo-assistant", stream=False))
            answer = rest_of(kept)
            assert answer.startswith(b"HTTP/1.1 200 ")
            assert b"Connection: close" in answer
            assert b"data: [DONE]" in received + rest_of(raw)
        assert server.ended(15) == 0


def master_of(folder: Path, server: RunningProxy) -> int:
    """The process that `flowise-gateway reload` finds."""
    [file] = (folder / "data").glob("flowise-gateway-*.pid")
    assert file.name == f"flowise-gateway-{urlsplit(server.url).port}.pid"
    return int(file.read_text())


def gateway(folder: Path, server: RunningProxy, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command in the server's folder."""
    return subprocess.run(
        [sys.executable, "-m", "flowise_gateway", *arguments],
        cwd=folder,
        env={**clean_environment(folder, PORT=str(urlsplit(server.url).port)), "PYTHONPATH": str(PROJECT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_command_reloads_the_server_of_its_folder_and_port(brief: RunningProxy, tmp_path: Path) -> None:
    assert wait_for(lambda: bool(list((tmp_path / "data").glob("*.pid"))), 10)
    before = set(workers(brief))
    done = gateway(tmp_path, brief, "reload")
    assert (done.returncode, str(brief.pid) in done.stdout) == (0, True), done.stderr
    assert wait_for(lambda: not before & set(workers(brief)), 30)
    brief.terminate()
    assert brief.ended(15) == 0
    done = gateway(tmp_path, brief, "reload")
    assert done.returncode == 1
    assert "No running server" in done.stderr


def test_a_number_left_by_a_process_that_was_killed_is_not_believed(
    brief: RunningProxy, tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir(exist_ok=True)
    port = urlsplit(brief.url).port
    assert wait_for(lambda: bool(list((tmp_path / "data").glob("*.pid"))), 10)
    (tmp_path / "data" / f"flowise-gateway-{port}.pid").unlink()
    (tmp_path / "data" / f"flowise-gateway-{port}.pid").write_text(f"{os.getpid()}\n")
    assert gateway(tmp_path, brief, "reload").returncode == 1


def test_a_release_takes_over_from_the_one_before_and_nothing_is_lost(
    flowise: DemoServer, tmp_path: Path
) -> None:
    async def play(server: RunningProxy) -> SteadyLoad:
        async with load_on(server.url) as load:
            await asyncio.sleep(1)
            done = await asyncio.to_thread(gateway, tmp_path, server, "reload", "--release")
            assert done.returncode == 0, done.stderr
            assert await asyncio.to_thread(server.ended, 60) == 0
            await asyncio.sleep(1)
        return load

    with RunningProxy(
        tmp_path, FLOWISE_BASE_URL=flowise.base_url, WORKERS="2", PROXY_DRAIN_SECONDS="5"
    ) as server:
        assert wait_for(lambda: bool(list((tmp_path / "data").glob("*.pid"))), 10)
        load = asyncio.run(play(server))
        successor = master_of(tmp_path, server)
        assert successor != server.pid
        os.kill(successor, signal.SIGTERM)
        assert wait_for(lambda: not Path(f"/proc/{successor}/cmdline").exists(), 30)
    assert not load.failures
    assert load.answers["ok"] > 40
    assert load.streamed["ok"] >= 10


def test_a_release_that_does_not_start_leaves_the_one_before(brief: RunningProxy, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("PROXY_STORE=nowhere\n")
    os.kill(brief.pid, signal.SIGUSR2)
    assert wait_for(lambda: "PROXY_STORE" in brief.log(), 30)
    assert chat(brief, "demo-assistant").status_code == 200


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """A listening socket, as systemd opens it."""
    with socket.create_server(("127.0.0.1", 0), backlog=2048) as opened:
        yield opened


def test_two_instances_on_an_activated_socket_change_over_and_nothing_is_lost(
    flowise: DemoServer, tmp_path: Path, listener: socket.socket
) -> None:
    folders = [tmp_path / name for name in ("a", "b", "c")]
    for folder in folders:
        folder.mkdir()

    def start(folder: Path) -> Activated:
        server = Activated(folder, listener, FLOWISE_BASE_URL=flowise.base_url)
        server.wait_until_it_serves()
        return server

    async def play(server: Activated) -> SteadyLoad:
        async with load_on(f"http://127.0.0.1:{listener.getsockname()[1]}") as load:
            for folder in folders[1:]:
                successor = await asyncio.to_thread(start, folder)
                assert await asyncio.to_thread(server.end) == 0
                server = successor
            await asyncio.sleep(1)
        assert await asyncio.to_thread(server.end) == 0
        return load

    load = asyncio.run(play(start(folders[0])))
    assert not load.failures
    assert load.answers["ok"] > 40
    assert load.streamed["ok"] >= 10


def test_an_activated_socket_that_others_reach_needs_a_key(flowise: DemoServer, tmp_path: Path) -> None:
    with socket.create_server(("0.0.0.0", 0)) as reached:
        server = Activated(tmp_path, reached, FLOWISE_BASE_URL=flowise.base_url, HOST="localhost")
        assert wait_for(lambda: "no client key is set" in (tmp_path / "server.out").read_text(), 30)
        assert server.ended() == 2
