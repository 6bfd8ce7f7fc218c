"""The gateway calls of Flowise what `deploy/nginx-flowise.conf` lets through, and nothing else gets through."""

from __future__ import annotations

import re
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests

from tests.support.demo_server import DemoServer
from tests.support.processes import Server, clean_environment, free_port, wait_for
from tests.support.running_proxy import RunningProxy

PROJECT = Path(__file__).resolve().parents[2]
CONFIG = (PROJECT / "deploy" / "nginx-flowise.conf").read_text()
ALLOWED = re.findall(r'^\s*"~\^(\w+) (\S+)\$" 1;', CONFIG, re.MULTILINE)
NOTES = "data:text/plain;base64,aGVsbG8gZmlsZQ=="
PDF = "data:application/pdf;base64,aGVsbG8gZmlsZQ=="

pytestmark = pytest.mark.clients


class Guarded:
    """nginx in front of the demo Flowise, and the gateway in front of nginx."""

    def __init__(self, stack: ExitStack, demo: DemoServer, folder: Path) -> None:
        self.port = free_port()
        inner = urlsplit(demo.base_url).netloc
        text = CONFIG.replace("flowise:3000", inner).replace("listen 3080;", f"listen 127.0.0.1:{self.port};")
        text = text.replace("/tmp/", f"{folder}/").replace(  # noqa: S108
            "worker_processes auto;", "worker_processes 1;\ndaemon off;"
        )
        (folder / "nginx.conf").write_text(text)
        program = str(shutil.which("nginx", path="/usr/sbin:/usr/bin"))
        command = [program, "-c", str(folder / "nginx.conf")]
        self.nginx = stack.enter_context(Server("nginx", command, clean_environment(folder), folder))
        self.nginx.wait_until(self._is_up, 20)
        base_url = f"http://127.0.0.1:{self.port}/api/v1"
        self.gateway = stack.enter_context(RunningProxy(folder, FLOWISE_BASE_URL=base_url))

    def _is_up(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def calls(self) -> set[tuple[str, str, str]]:
        """Method, path and status of each call that nginx got."""
        lines = self.nginx.output.read_text(errors="replace")
        found = re.findall(r'"(\w+) (/[^ ?]*)\S* HTTP/1.1" (\d{3})', lines)
        return set(found)

    def ask(self, model: str, content: Any, **more: Any) -> requests.Response:
        body = {"model": model, "messages": [{"role": "user", "content": content}], **more}
        return requests.post(f"{self.gateway.url}/v1/chat/completions", json=body, timeout=30)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    with ExitStack() as stack:
        demo = stack.enter_context(DemoServer("--token-seconds", "0.05"))
        yield Guarded(stack, demo, tmp_path_factory.mktemp("guarded"))


def test_all_that_the_gateway_calls_is_let_through(guarded: Guarded) -> None:
    assert requests.get(f"{guarded.gateway.url}/v1/models", timeout=10).json()["data"]
    assert requests.get(f"{guarded.gateway.url}/ready", timeout=10).json()["flowise"]["reachable"]
    assert guarded.ask("demo-assistant", "Hello", stream=True).text.endswith("data: [DONE]\n\n")
    file = {"type": "file", "file": {"filename": "a.pdf", "file_data": PDF}}
    guarded.ask("demo-agent", [file, {"type": "text", "text": "Read it"}])
    links = re.findall(r"\((\S+/v1/flowise/files/\S+)\)", guarded.ask("demo-files", "Draw", stream=True).text)
    assert requests.get(links[0], timeout=10).ok
    with socket.create_connection(urlsplit(guarded.gateway.url).netloc.split(":")) as leaving:  # type: ignore[arg-type]
        body = b'{"model":"demo-errors","stream":true,"messages":[{"role":"user","content":"slow"}]}'
        head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(
            body
        )
        leaving.sendall(head + body)
        leaving.recv(100)
        time.sleep(0.3)
    assert wait_for(lambda: any(method == "PUT" for method, _, _ in guarded.calls()), 10)
    calls = guarded.calls()
    assert [call for call in calls if call[2] == "403"] == []
    routes = {(method, re.sub(r"/[0-9a-f-]{36}", "/ID", path)) for method, path, _ in calls}
    assert {
        ("POST", "/api/v1/prediction/ID"),
        ("PUT", "/api/v1/chatmessage/abort/ID/ID"),
        ("GET", "/api/v1/chatflows"),
        ("GET", "/api/v1/chatflows-streaming/ID"),
        ("GET", "/api/v1/chatflows-uploads/ID"),
        ("GET", "/api/v1/get-upload-file"),
        ("GET", "/api/v1/version"),
    } <= routes


@pytest.mark.parametrize(
    "path",
    [
        *("/", "/api/v1/apikey", "/api/v1/credentials", "/api/v1/chatflows/x", "/api/v1/ping"),
        *("/api/v1/prediction/../credentials", "/api/v1/version/..%2fcredentials", "/api/v1//chatflows"),
        *("/api/v1/node-custom-function", "/api/v1/prediction/a/b", "/api/v1/chatflows%3f"),
    ],
)
def test_nothing_else_gets_through(guarded: Guarded, path: str) -> None:
    for method in ("GET", "POST", "DELETE"):
        with socket.create_connection(("127.0.0.1", guarded.port), timeout=10) as raw:
            raw.sendall(f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
            assert raw.recv(200).split()[1] in (b"403", b"400"), (method, path)


def test_the_paths_in_the_code_are_those_that_are_let_through_and_documented() -> None:
    """What no request of the first test needs is not forgotten either: the code's own words."""
    files = [PROJECT / "flowise_client.py", *(PROJECT / "flowise_gateway").glob("flowise/**/*.py")]
    files += [PROJECT / "flowise_gateway/access/file_links.py"]
    code = "".join(file.read_text() for file in files)
    paths = set(re.findall(r'f?"/([a-z][A-Za-z-]+(?:/[a-z]+)?)[/?"]', code))
    paths |= {*re.findall(r'_probed\("([\w-]+)"', code)}
    allowed = {re.sub(r"/\[.*", "", path.removeprefix("/api/v1/")) for _, path in ALLOWED}
    assert paths == allowed
    documented = (PROJECT / "docs" / "security.md").read_text()
    assert [path for path in allowed if f"/{path}" not in documented] == []
