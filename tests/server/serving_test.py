"""Streams that are silent, clients that leave, signals: what serving promises."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests

from tests.server.wire_test import chat
from tests.support.demo_server import DemoServer
from tests.support.openai_check import valid
from tests.support.processes import free_port, wait_for
from tests.support.running_proxy import RunningProxy


@pytest.fixture(scope="module")
def lively(demo: DemoServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningProxy]:
    """A server with a quick heartbeat."""
    settings = {"FLOWISE_BASE_URL": demo.base_url, "PROXY_HEARTBEAT_SECONDS": "0.3"}
    with RunningProxy(tmp_path_factory.mktemp("lively"), **settings) as server:
        yield server


SILENCE = b'"delta":{},"logprobs":null,"finish_reason":null'
TWENTY_TOKENS_IN_TWO_SECONDS = "be7c5f10-0020-0100-0000-000500000000"


@contextlib.contextmanager
def raw_chat(proxy: RunningProxy, model: str, text: str, *, stream: bool) -> Iterator[socket.socket]:
    """A chat completion on a bare socket, its answer unread."""
    address = urlsplit(proxy.url)
    body = json.dumps(
        {"model": model, "stream": stream, "messages": [{"role": "user", "content": text}]}
    ).encode()
    with socket.create_connection((address.hostname or "", address.port or 0), timeout=10) as raw:
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
        raw.sendall(head.encode() + body)
        yield raw


def test_a_silent_flow_is_kept_alive_before_and_after_the_first_word(lively: RunningProxy) -> None:
    arrivals = [time.monotonic()]
    body = {"model": "demo-errors", "messages": [{"role": "user", "content": "stall1.5"}], "stream": True}
    url = f"{lively.url}/v1/chat/completions"
    with requests.post(url, json=body, stream=True, timeout=30) as answer:
        received = b""
        for piece in answer.iter_content(None):
            arrivals.append(time.monotonic())
            received += piece
    assert received.count(SILENCE) >= 3
    valid("chat.stream", received)


def test_a_flow_that_cannot_stream_is_kept_alive_too(lively: RunningProxy, demo: DemoServer) -> None:
    flow = {"name": "late json", "streams": False, "scripts": "all"}
    row = demo.control("POST", "/__demo/flows", flow)
    answer = chat(lively, row["id"], "stall0.8", stream=True)
    assert SILENCE in answer.content
    valid("chat.stream", answer.content)


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "json"])
@pytest.mark.parametrize("word", ["hang", "silent", "slow"])
def test_a_client_that_leaves_frees_flowise(
    proxy: RunningProxy, demo: DemoServer, word: str, stream: bool
) -> None:
    before = demo.stats()
    with raw_chat(proxy, "demo-agent-errors", word, stream=stream):
        assert wait_for(lambda: demo.stats()["runs_started"] > before["runs_started"], 5)
    assert wait_for(lambda: demo.stats()["aborts"] > before["aborts"], 2)
    assert wait_for(lambda: demo.stats()["active_runs"] <= before["active_runs"], 2)


@pytest.mark.parametrize("choices", [1, 2])
def test_clients_that_leave_at_once_leave_nothing_behind(tmp_path: Path, choices: int) -> None:
    with (
        DemoServer("--token-seconds", "0.01") as own,
        RunningProxy(tmp_path, FLOWISE_BASE_URL=own.base_url) as server,
    ):
        assert chat(server, "demo-assistant").status_code == 200
        address = urlsplit(server.url)
        body = {
            "model": "demo-agent-errors",
            "stream": True,
            "n": choices,
            "messages": [{"role": "user", "content": "silent"}],
        }
        raw_body = json.dumps(body).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(raw_body)}\r\n\r\n"
        for _ in range(50):
            with socket.create_connection((address.hostname or "", address.port or 0), timeout=10) as raw:
                raw.sendall(head.encode() + raw_body)
        assert wait_for(lambda: server.log().count("client_gone") == 50, 30)
        assert wait_for(lambda: own.stats()["active_runs"] == 0, 5), own.stats()


def test_many_silent_streams_leave_room_for_others(proxy: RunningProxy, demo: DemoServer) -> None:
    before = demo.stats()["runs_started"]
    with contextlib.ExitStack() as open_streams:
        for _ in range(100):
            open_streams.enter_context(raw_chat(proxy, "demo-errors", "silent", stream=True))
        assert wait_for(lambda: demo.stats()["runs_started"] >= before + 100, 10)
        assert requests.get(f"{proxy.url}/health", timeout=2).status_code == 200
        assert chat(proxy, "demo-assistant").status_code == 200
    assert wait_for(lambda: demo.stats()["active_runs"] == 0, 10)


def test_two_requests_on_one_connection_are_both_answered(proxy: RunningProxy) -> None:
    with requests.Session() as session:
        for _ in range(3):
            body = {
                "model": "demo-assistant",
                "messages": [{"role": "user", "content": "Hi"}],
                "stream": True,
            }
            answer = session.post(f"{proxy.url}/v1/chat/completions", json=body, timeout=10)
            valid("chat.stream", answer.content)


def test_a_request_sent_ahead_does_not_end_the_one_before(proxy: RunningProxy) -> None:
    body = b'{"model":"demo-agent","messages":[{"role":"user","content":"Hi"}]}'
    one = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%b" % (
        len(body),
        body,
    )
    address = urlsplit(proxy.url)
    with socket.create_connection((address.hostname or "", address.port or 0), timeout=10) as raw:
        raw.sendall(one)
        raw.sendall(one.replace(b"Host: localhost", b"Host: localhost\r\nConnection: close"))
        answers = raw.makefile("rb").read()
    assert answers.count(b"HTTP/1.1 200 OK") == 2


def test_sigterm_lets_open_streams_finish(demo: DemoServer, tmp_path: Path) -> None:
    with RunningProxy(tmp_path, FLOWISE_BASE_URL=demo.base_url) as server:
        with raw_chat(server, TWENTY_TOKENS_IN_TWO_SECONDS, "Hello", stream=True) as raw:
            received = raw.recv(65536)
            server.terminate()
            while piece := raw.recv(65536):
                received += piece
        assert b'"finish_reason":"stop"' in received
        assert received.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")


def test_localhost_is_both_loopbacks_and_the_demo_answers_without_a_flowise(tmp_path: Path) -> None:
    port = free_port()
    with RunningProxy(tmp_path, HOST="localhost", PORT=str(port)) as server:
        hosts = ["127.0.0.1", *(["[::1]"] if _has_ipv6() else [])]
        for host in hosts:
            body = {
                "model": "5518949f-3ebc-4082-af01-fa2a18623da6",
                "messages": [{"role": "user", "content": "Hi"}],
            }
            answer = requests.post(f"http://{host}:{port}/v1/chat/completions", json=body, timeout=10)
            valid("chat.response", answer.content)
        assert "demo flows" in server.log()


def test_two_workers_serve(demo: DemoServer, tmp_path: Path) -> None:
    with RunningProxy(tmp_path, FLOWISE_BASE_URL=demo.base_url, WORKERS="2") as server:
        assert {chat(server, "demo-assistant").status_code for _ in range(8)} == {200}


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
            return True
    except OSError:
        return False
