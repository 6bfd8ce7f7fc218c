"""A plain client for the demo Flowise, and the demo on a thread of the test's own process."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from flowise_demo.server import DEMO_FLOWS, DemoFlowise, DemoOptions, serve


@dataclass(frozen=True)
class Reply:
    status: int
    headers: list[tuple[str, str]]
    text: str

    @property
    def body(self) -> Any:
        return json.loads(self.text)

    @property
    def events(self) -> list[tuple[str, Any]]:
        return parsed_events(self.text)

    @property
    def names(self) -> list[str]:
        return collapsed(self.events)

    @property
    def said(self) -> str:
        return "".join(str(data) for name, data in self.events if name == "token")

    def header(self, name: str) -> str:
        return dict(self.headers).get(name, "")


def parsed_events(text: str) -> list[tuple[str, Any]]:
    lines = [line.removeprefix("data:") for line in text.split("\n") if line.startswith("data:")]
    return [(one["event"], one.get("data")) for one in map(json.loads, lines)]


def collapsed(events: list[tuple[str, Any]]) -> list[str]:
    """The names of the events in order, a run of tokens as one; `thinking` is left out."""
    names: list[str] = []
    for name, _ in events:
        if name != "thinking" and not (name == "token" and names[-1:] == ["token"]):
            names.append(name)
    return names


@dataclass
class Client:
    base_url: str
    key: str = ""
    open_sockets: list[socket.socket] = field(default_factory=list)

    @property
    def address(self) -> tuple[str, int]:
        parts = urlsplit(self.base_url)
        return (parts.hostname or "", parts.port or 0)

    def call(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Reply:
        connection = http.client.HTTPConnection(*self.address, timeout=10)
        content = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        typed = {} if body is None or isinstance(body, bytes) else {"Content-Type": "application/json"}
        with contextlib.closing(connection):
            connection.request(method, path, content, typed | (headers or {}))
            answer = connection.getresponse()
            return Reply(answer.status, answer.getheaders(), answer.read().decode())

    def ask(self, flow: str, question: Any, *, streaming: bool = True, **fields: Any) -> Reply:
        return self.call("POST", prediction(flow), {"question": question, "streaming": streaming, **fields})

    def open(self, flow: str, question: str, *, streaming: bool = True, **fields: Any) -> socket.socket:
        """Send a prediction and leave its answer unread."""
        body = json.dumps({"question": question, "streaming": streaming, **fields}).encode()
        return self.send(
            b"POST %b HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
            % (prediction(flow).encode(), len(body), body)
        )

    def send(self, request: bytes) -> socket.socket:
        connection = socket.create_connection(self.address, timeout=5)
        self.open_sockets.append(connection)
        connection.sendall(request)
        return connection

    def records(self) -> list[dict[str, Any]]:
        return list(self.call("GET", "/__demo/records").body["records"])

    def stats(self) -> dict[str, int]:
        return dict(self.call("GET", "/__demo/stats").body)

    def create(self, **fields: Any) -> str:
        return str(self.call("POST", "/__demo/flows", fields).body["id"])

    def abort(self, flow: str, chat_id: str) -> Reply:
        return self.call("PUT", f"/api/v1/chatmessage/abort/{DEMO_FLOWS.get(flow, flow)}/{chat_id}")


def prediction(flow: str) -> str:
    return f"/api/v1/prediction/{DEMO_FLOWS.get(flow, flow)}"


def read_until(connection: socket.socket, wanted: bytes) -> bytes:
    got = b""
    while wanted not in got:
        piece = connection.recv(65536)
        assert piece, got
        got += piece
    return got


def read_to_end(connection: socket.socket) -> bytes:
    got = b""
    while piece := connection.recv(65536):
        got += piece
    return got


def read_for(connection: socket.socket, seconds: float) -> tuple[bytes, bool]:
    """What comes within this time, and whether the connection has ended by then."""
    got, until = b"", time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        connection.settimeout(left)
        try:
            piece = connection.recv(65536)
        except TimeoutError:
            break
        if not piece:
            return got, True
        got += piece
    return got, False


def is_silent(connection: socket.socket, seconds: float = 0.1) -> bool:
    return read_for(connection, seconds) == (b"", False)


def wait_for(condition: Callable[[], bool]) -> None:
    for _ in range(500):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("it did not happen within five seconds")


@contextlib.contextmanager
def running(options: DemoOptions) -> Iterator[Client]:
    """The demo on a thread of this process, so that its coverage is seen."""
    ready: list[tuple[asyncio.AbstractEventLoop, asyncio.Event, str]] = []
    is_ready = threading.Event()

    async def run() -> None:
        stop = asyncio.Event()

        def announce(_demo: DemoFlowise, base_url: str) -> None:
            ready.append((asyncio.get_running_loop(), stop, base_url))
            is_ready.set()

        await serve(options, stop, announce)

    thread = threading.Thread(target=asyncio.run, args=(run(),))
    thread.start()
    assert is_ready.wait(5)
    loop, stop, base_url = ready[0]
    client = Client(base_url, options.key)
    try:
        yield client
    finally:
        for connection in client.open_sockets:
            connection.close()
        loop.call_soon_threadsafe(stop.set)
        thread.join(5)
