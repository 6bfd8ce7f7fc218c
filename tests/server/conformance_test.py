"""The conformance kit holds this server to all it promises, and tells of another what it breaks."""

from __future__ import annotations

import contextlib
import gzip
import json
import socket
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import chain
from pathlib import Path
from threading import Thread

import pytest

from flowise_demo.flows import DEMO_FLOWS
from flowise_gateway.cli import main
from flowise_gateway.conformance.response_shapes import faults
from flowise_gateway.conformance.run import BROKEN, CASES, KEPT, NOT_OFFERED, NOT_TRIED, run
from flowise_gateway.conformance.target import Target
from tests.support.demo_server import DemoServer
from tests.support.openai_check import valid
from tests.support.running_proxy import RunningProxy
from tests.support.thread_server import ThreadServer

FILE = f"models: [{{id: prompted, flow: {DEMO_FLOWS['demo-agent']}, tools: prompt}}]\n"


@pytest.fixture(scope="module")
def server(demo: DemoServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningProxy]:
    """A server that asks for a key, with a model that takes tools and pictures."""
    folder = tmp_path_factory.mktemp("conformance")
    (folder / "proxy.yaml").write_text(FILE)
    with RunningProxy(folder, FLOWISE_BASE_URL=demo.base_url, PROXY_API_KEYS="key") as running:
        yield running


def test_this_server_keeps_all(server: RunningProxy) -> None:
    results = run(Target(server.url, "prompted", valid=valid))
    assert [result for result in results if result.outcome != KEPT] == []
    assert len(results) == len(CASES) > 45


def test_the_command_prints_sums_and_its_status_tells(
    server: RunningProxy, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["conformance", f"{server.url}/v1/", "--model", "prompted"]
    assert main(arguments) == 0
    told = capsys.readouterr().out
    assert "broken" not in told
    assert told.endswith(f"all: {len(CASES)} of {len(CASES)} kept\n")
    assert main([*arguments, "--key", "wrong", "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert {each["outcome"] for each in told} >= {BROKEN, KEPT}


class _Foreign(BaseHTTPRequestHandler):
    """A server that answers everything with the same thing."""

    answer = b""
    status = 200
    kind = "application/json"

    def _reply(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(self.status)
        self.send_header("Content-Type", self.kind)
        self.send_header("Content-Length", str(len(self.answer)))
        self.end_headers()
        self.wfile.write(self.answer)

    do_GET = do_POST = do_OPTIONS = _reply

    def log_message(self, *_: object) -> None:
        """Say nothing."""


FOREIGN = {
    "no JSON": (200, "application/json", b"<html>"),
    "an empty object": (200, "application/json", b"{}"),
    "a list": (200, "application/json", b"[]"),
    "nulls": (200, "application/json", b'{"choices":[null],"data":[null],"error":null,"object":"list"}'),
    "a page": (404, "text/html", b"<h1>Not found</h1>"),
    "a stream of nothing": (200, "text/event-stream", b"data: null\n\ndata: [DONE]\n\n"),
    "a failure": (500, "application/json", b'{"detail":"x"}'),
    "commands for a terminal": (500, "application/json", b'{"detail":"\x1b]0;mine\x07\xc2\x9b2J"}'),
    "JSON without end": (200, "application/json", b"[" * 100_000),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_of_a_server_that_answers_anything_else_each_case_is_broken_or_not_offered(name: str) -> None:
    status, kind, answer = FOREIGN[name]
    handler = type("Handler", (_Foreign,), {"status": status, "kind": kind, "answer": answer})
    with ThreadServer(ThreadingHTTPServer(("127.0.0.1", 0), handler)) as foreign:
        results = run(Target(f"http://127.0.0.1:{foreign.port}", "m"))
    assert len(results) == len(CASES)
    assert {result.outcome for result in results} <= {BROKEN, NOT_OFFERED}
    assert all(result.why for result in results if result.outcome == BROKEN)
    assert all(result.why.isprintable() for result in results)


def _first_bytes(listening: socket.socket, answer: bytes, seen: list[bytes]) -> None:
    """Answer each connection with the same bytes, whatever it asks, until the socket is closed."""
    with contextlib.suppress(OSError):
        while True:
            connection = listening.accept()[0]
            with connection:
                connection.settimeout(5)
                with contextlib.suppress(OSError):
                    seen.append(connection.recv(65_536))
                    connection.sendall(answer)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_what_speaks_no_http_breaks_each_case_and_gets_no_key_of_an_https_address(scheme: str) -> None:
    seen: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:
        Thread(target=_first_bytes, args=(listening, b"\0\xff no HTTP\r\n\r\n", seen), daemon=True).start()
        results = run(Target(f"{scheme}://127.0.0.1:{listening.getsockname()[1]}", "m", "sk-of-mine"))
        listening.shutdown(socket.SHUT_RDWR)
    assert {result.outcome for result in results} == {BROKEN}
    assert any(b"sk-of-mine" in piece for piece in seen) == (scheme == "http")


def test_nobody_there_breaks_each_case_and_says_why() -> None:
    results = run(Target("http://127.0.0.1:9", "m"))
    assert {result.outcome for result in results} == {BROKEN}
    assert all("Connection refused" in result.why for result in results)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://127.0.0.1:9/v1", "Connection refused"),
        ("127.0.0.1:8000", "begins with http"),
        ("http://127.0.0.1:port", "Port could not be cast"),
        ("http://nobody.invalid", "not known"),
    ],
)
def test_a_server_that_cannot_be_reached_is_told_in_one_line(
    url: str, why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["conformance", url, "--model", "m"]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert "cannot be reached" in told.err
    assert why in told.err
    assert told.err.count("\n") == 1


def test_a_certificate_that_nobody_signed_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        Thread(target=_first_bytes, args=(listening, b"HTTP/1.1 200 OK\r\n\r\n", []), daemon=True).start()
        url = f"https://127.0.0.1:{listening.getsockname()[1]}"
        assert main(["conformance", url, "--model", "m"]) == 2
        listening.shutdown(socket.SHUT_RDWR)
    assert "SSL" in capsys.readouterr().err


def _dripped(piece: bytes) -> Iterator[bytes]:
    while True:
        time.sleep(0.05)
        yield piece


def _many(piece: bytes) -> Iterator[bytes]:
    while True:
        yield piece * 10_000


_CHUNKED = b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\nTransfer-Encoding: chunked\r\n\r\n"
_HUGE = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1000000000\r\n%b\r\n"
_HANDSHAKE = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"
_BOMB = gzip.compress(b" " * 50_000_000)
HOSTILE: dict[str, Callable[[], Iterator[bytes]]] = {
    "silence": lambda: _dripped(b""),
    "a head without an end": lambda: chain([b"HTTP/1.1 200 OK\r\nA: "], _dripped(b"a")),
    "a stream without an end": lambda: chain(
        [_CHUNKED % b"text/event-stream"], _dripped(b'e\r\ndata: {"a":1}\n\n\r\n')
    ),
    "a stream of comments": lambda: chain([_CHUNKED % b"text/event-stream"], _many(b"3\r\n:\n\n\r\n")),
    "an answer of 1 GB": lambda: chain([_HUGE % b""], _many(b"[1,")),
    "a packed answer of 50 MB": lambda: iter([_HUGE % b"Content-Encoding: gzip\r\n", _BOMB]),
    "a redirect to itself": lambda: iter(
        [b"HTTP/1.1 307 Temporary Redirect\r\nLocation: /v1/models\r\nContent-Length: 0\r\n\r\n"]
    ),
    "a redirect elsewhere": lambda: iter(
        [b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:9/\r\nContent-Length: 0\r\n\r\n"]
    ),
    "another protocol": lambda: chain([_HANDSHAKE], _dripped(b"\x81\x02{}")),
    "half an answer": lambda: iter([_CHUNKED % b"application/json", b'5\r\n{"a"']),
}


@contextlib.contextmanager
def _hostile(script: Callable[[], Iterator[bytes]]) -> Iterator[str]:
    """A server that answers each connection by the script; at the end all are closed, the endless ones, too."""
    connections: list[socket.socket] = []

    def answer(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            connection.recv(65_536)
            for piece in script():
                connection.sendall(piece)

    def accept(listening: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                connections.append(listening.accept()[0])
                Thread(target=answer, args=(connections[-1],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        Thread(target=accept, args=(listening,), daemon=True).start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        listening.shutdown(socket.SHUT_RDWR)
    for connection in connections:
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
        connection.close()


@pytest.mark.parametrize("name", HOSTILE)
def test_no_server_holds_up_the_kit_or_is_taken_for_a_right_one(name: str) -> None:
    began = time.monotonic()
    with _hostile(HOSTILE[name]) as url:
        results = run(Target(url, "m"), seconds=0.5)
    assert time.monotonic() - began < 20
    assert len(results) == len(CASES)
    outcomes = {result.outcome for result in results}
    assert BROKEN in outcomes
    assert KEPT not in outcomes
    assert NOT_TRIED in outcomes or name != "silence"
    assert all(result.why for result in results if result.outcome != NOT_OFFERED)


def test_what_an_item_lacks_is_named() -> None:
    item = {"type": "message", "id": "m", "role": "assistant", "status": "completed"}
    text = {"type": "output_text", "text": "Hi"}
    [fault] = [
        fault
        for fault in faults("response", {"output": [{**item, "content": [text]}]})
        if "output" in fault and "annotations" in fault
    ]
    assert fault.endswith("$.output[0].content[0]: 'annotations' is a required property")


def test_a_phase_may_be_null() -> None:
    item: dict[str, object] = {
        "type": "message",
        "id": "m",
        "role": "assistant",
        "status": "completed",
        "content": [],
        "phase": None,
    }
    assert not [fault for fault in faults("response", {"output": [item]}) if "$.output" in fault]


def test_this_server_keeps_all_below_another_path(server: RunningProxy) -> None:
    results = run(Target(f"{server.url}/openai", "prompted"))
    assert [result for result in results if result.outcome != KEPT] == []


def test_this_server_keeps_all_of_what_it_offers_without_keys(demo: DemoServer, tmp_path: Path) -> None:
    (tmp_path / "proxy.yaml").write_text(FILE)
    with RunningProxy(tmp_path, FLOWISE_BASE_URL=demo.base_url) as running:
        results = run(Target(running.url, "prompted"))
    assert [result.promise for result in results if result.outcome != KEPT] == [
        "a wrong key is 401 invalid_api_key"
    ]
