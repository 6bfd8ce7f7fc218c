"""How serving ends: what has begun is finished or told, what is new is refused, nothing idle holds it up."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import orjson
import pytest
import requests

from flowise_gateway.conformance.websocket_client import SocketClient
from tests.server.serving_test import TWENTY_TOKENS_IN_TWO_SECONDS, raw_chat
from tests.server.wire_test import chat
from tests.support.demo_server import DemoServer
from tests.support.openai_check import valid
from tests.support.processes import wait_for
from tests.support.running_proxy import RunningProxy


def rest_of(raw: socket.socket) -> bytes:
    """All that comes until the server closes the connection."""
    received = b""
    while piece := raw.recv(65536):
        received += piece
    return received


def connected(proxy: RunningProxy) -> socket.socket:
    """A connection to the server."""
    address = urlsplit(proxy.url)
    return socket.create_connection((address.hostname or "", address.port or 0), timeout=10)


def ask(raw: socket.socket, path: str) -> bytes:
    """The head and the body of a GET, as far as they came with the first read."""
    raw.sendall(b"GET %b HTTP/1.1\r\nHost: localhost\r\n\r\n" % path.encode())
    return raw.recv(65536)


@pytest.fixture
def brief(demo: DemoServer, tmp_path: Path) -> Iterator[RunningProxy]:
    """A server that waits a second only for open answers."""
    with RunningProxy(tmp_path, FLOWISE_BASE_URL=demo.base_url, PROXY_DRAIN_SECONDS="1") as server:
        yield server


def test_a_stream_that_does_not_end_is_told_and_its_run_is_aborted(
    brief: RunningProxy, demo: DemoServer
) -> None:
    before = demo.stats()["aborts"]
    with raw_chat(brief, "demo-agent-errors", "stall600", stream=True) as raw:
        received = raw.recv(65536)
        brief.terminate()
        received += rest_of(raw)
    events = [line for line in received.split(b"\n") if line.startswith(b"data: ")]
    error = orjson.loads(events[-2].removeprefix(b"data: "))
    assert error["error"]["code"] == "server_shutting_down"
    assert events[-1] == b"data: [DONE]"
    assert received.endswith(b"0\r\n\r\n")
    assert b'"finish_reason":"stop"' not in received
    assert wait_for(lambda: demo.stats()["aborts"] == before + 1, 5)


@pytest.mark.parametrize("choices", [1, 2])
def test_an_answer_that_has_not_begun_gets_a_status_that_is_not_tried_again(
    brief: RunningProxy, demo: DemoServer, choices: int
) -> None:
    before = demo.stats()
    address = urlsplit(brief.url)
    body = b'{"model":"demo-agent-errors","n":%d,"messages":[{"role":"user","content":"hang"}]}' % choices
    with socket.create_connection((address.hostname or "", address.port or 0), timeout=10) as raw:
        head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(
            body
        )
        raw.sendall(head + body)
        assert wait_for(lambda: demo.stats()["runs_started"] == before["runs_started"] + choices, 5)
        brief.terminate()
        received = rest_of(raw)
    assert received.startswith(b"HTTP/1.1 400 ")
    assert b"x-should-retry: false" in received
    assert b'"code":"server_shutting_down"' in received
    assert wait_for(lambda: demo.stats()["aborts"] == before["aborts"] + choices, 5)


def test_while_a_stream_finishes_what_is_new_is_refused_and_idle_connections_end(
    demo: DemoServer, tmp_path: Path
) -> None:
    with RunningProxy(tmp_path, FLOWISE_BASE_URL=demo.base_url) as server:
        with (
            connected(server) as idle,
            raw_chat(server, TWENTY_TOKENS_IN_TWO_SECONDS, "Hello", stream=True) as raw,
        ):
            assert ask(idle, "/ready").startswith(b"HTTP/1.1 200 ")
            received = raw.recv(65536)
            server.terminate()
            rest_of(idle)  # returns once it is closed, while the stream goes on
            refused = requests.get(f"{server.url}/ready", timeout=5)
            assert refused.status_code == 503
            assert int(refused.headers["Retry-After"]) >= 1
            answer = chat(server, "demo-assistant")
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "server_shutting_down")
            assert requests.get(f"{server.url}/health", timeout=5).status_code == 200
            received += rest_of(raw)
        assert b'"finish_reason":"stop"' in received
        assert b"data: [DONE]" in received
        assert "cut off" not in server.log()
        valid("error", refused.content)  # Last: reading the schemas takes longer than the stream.


def test_a_kept_connection_ends_with_the_answer_that_was_open(demo: DemoServer, tmp_path: Path) -> None:
    with RunningProxy(tmp_path, FLOWISE_BASE_URL=demo.base_url) as server:
        with raw_chat(server, TWENTY_TOKENS_IN_TWO_SECONDS, "Hello", stream=True) as raw:
            received = raw.recv(65536)
            assert b"Connection: keep-alive" in received
            server.terminate()
            assert (received + rest_of(raw)).endswith(b"0\r\n\r\n")


def child_of(pid: int, program: str) -> int:
    """The process id of a child that runs this program."""
    found = subprocess.run(["pgrep", "-P", str(pid), "-f", program], check=True, capture_output=True)
    return int(found.stdout.split()[0])


def test_a_worker_that_is_killed_is_replaced(demo: DemoServer, tmp_path: Path) -> None:
    with RunningProxy(tmp_path, FLOWISE_BASE_URL=demo.base_url) as server:
        assert chat(server, "demo-assistant").status_code == 200
        os.kill(child_of(server.pid, "openai_compatible_server"), signal.SIGKILL)

        def serves() -> bool:
            try:
                return chat(server, "demo-assistant").status_code == 200
            except requests.ConnectionError:
                return False

        assert wait_for(serves, 20)


def test_an_embedded_demo_that_is_killed_is_started_again(tmp_path: Path) -> None:
    with RunningProxy(tmp_path) as server:
        model = "5518949f-3ebc-4082-af01-fa2a18623da6"
        assert chat(server, model).status_code == 200
        demo = child_of(child_of(server.pid, "flowise_demo"), "flowise_demo")
        os.kill(demo, signal.SIGKILL)
        assert wait_for(lambda: chat(server, model).status_code == 200, 20)


def test_a_client_that_takes_nothing_does_not_hold_its_run(demo: DemoServer, tmp_path: Path) -> None:
    flood = "be7c5f10-9999-0000-0000-999900000000"
    with RunningProxy(tmp_path, FLOWISE_BASE_URL=demo.base_url, PROXY_BODY_TIMEOUT="1") as server:
        before = demo.stats()["aborts"]
        with raw_chat(server, flood, "Hello", stream=True):
            assert wait_for(lambda: demo.stats()["aborts"] > before, 20)
        assert wait_for(lambda: "cut off: TimeoutError" in server.log(), 5)
        assert "Traceback" not in server.log()
        assert chat(server, "demo-assistant").status_code == 200


def test_beyond_the_limit_requests_are_refused_at_once_but_health_is_not(
    demo: DemoServer, tmp_path: Path
) -> None:
    with RunningProxy(tmp_path, FLOWISE_BASE_URL=demo.base_url, PROXY_MAX_IN_FLIGHT="1") as server:
        before = demo.stats()["runs_started"]
        with raw_chat(server, "demo-errors", "silent", stream=True):
            assert wait_for(lambda: demo.stats()["runs_started"] > before, 5)
            refused = chat(server, "demo-assistant")
            assert refused.status_code == 503
            assert refused.headers["Retry-After"] == "1"
            assert "PROXY_MAX_IN_FLIGHT" in refused.json()["error"]["message"]
            assert requests.get(f"{server.url}/health", timeout=5).status_code == 200
            assert requests.get(f"{server.url}/v1/models", timeout=5).status_code == 200
        assert wait_for(lambda: chat(server, "demo-assistant").status_code == 200, 10)


def test_a_response_over_a_socket_that_does_not_end_fails_before_the_close(
    brief: RunningProxy, demo: DemoServer
) -> None:
    before = demo.stats()["aborts"]
    with SocketClient(brief.url) as client:
        client.say({"type": "response.create", "model": "demo-agent-errors", "input": "slow"})
        assert client.event()["type"] == "response.created"
        brief.terminate()
        end = client.answer()[-1]
        assert client.closed().code == 1001
    assert end["type"] == "response.failed"
    assert "shutting down" in end["response"]["error"]["message"]
    assert wait_for(lambda: demo.stats()["aborts"] == before + 1, 5)


def test_a_response_over_a_socket_that_has_not_begun_is_an_error_before_the_close(
    brief: RunningProxy, demo: DemoServer
) -> None:
    before = demo.stats()
    with SocketClient(brief.url) as client:
        client.say({"type": "response.create", "model": "demo-agent-errors", "input": "hang"})
        assert wait_for(lambda: demo.stats()["runs_started"] == before["runs_started"] + 1, 5)
        brief.terminate()
        [error] = client.answer()
        assert client.closed().code == 1001
    assert (error["type"], error["error"]["code"]) == ("error", "server_shutting_down")
    assert wait_for(lambda: demo.stats()["aborts"] == before["aborts"] + 1, 5)


def test_an_idle_socket_is_closed_at_the_limit_at_the_latest(brief: RunningProxy) -> None:
    with SocketClient(brief.url) as client:
        brief.terminate()
        assert client.closed().code == 1001


def interrupt(server: RunningProxy) -> None:
    """What Ctrl-C does: the master and its workers get the signal."""
    os.killpg(server.pid, signal.SIGINT)


def test_an_interrupt_lets_answers_finish(demo: DemoServer, tmp_path: Path) -> None:
    with RunningProxy(tmp_path, FLOWISE_BASE_URL=demo.base_url) as server:
        with raw_chat(server, TWENTY_TOKENS_IN_TWO_SECONDS, "Hello", stream=True) as raw:
            received = raw.recv(65536)
            interrupt(server)
            received += rest_of(raw)
        assert b'"finish_reason":"stop"' in received
        assert received.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
        assert server.ended(10) == 0


def test_a_second_interrupt_ends_them_at_once(demo: DemoServer, tmp_path: Path) -> None:
    with RunningProxy(tmp_path, FLOWISE_BASE_URL=demo.base_url) as server:
        with raw_chat(server, "demo-agent-errors", "stall600", stream=True) as raw:
            raw.recv(65536)
            interrupt(server)
            assert wait_for(lambda: "may finish" in server.log(), 5)
            interrupt(server)
            rest_of(raw)
        assert server.ended(10) == 0
