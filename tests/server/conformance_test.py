"""The conformance kit holds this server to all it promises, and tells of another what it breaks."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from flowise_demo.flows import DEMO_FLOWS
from flowise_gateway.cli import main
from flowise_gateway.conformance.run import BROKEN, CASES, KEPT, NOT_OFFERED, run
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
    assert "broken" not in capsys.readouterr().out
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


def test_nobody_there_is_told_for_each_case(tmp_path: Path) -> None:
    results = run(Target("http://127.0.0.1:9", "m"))
    assert {result.outcome for result in results} == {BROKEN}
