"""A relay before another server, which keeps the bodies of the runs that it let through."""

from __future__ import annotations

import contextlib
import json
import socket
import socketserver
import threading
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from tests.support.thread_server import ThreadServer

PREDICTION = b" /api/v1/prediction/"
AWAY = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"
MAX_READ = 65536


class CountingRelay(ThreadServer["_Server"]):
    """Context manager: whoever leaves on one side of a connection leaves on the other, so that runs are aborted."""

    def __init__(self, base_url: str) -> None:
        address = urlsplit(base_url)
        assert address.hostname
        self.target = (address.hostname, address.port or 80)
        self.runs: list[dict[str, Any]] = []
        self.refusals = 0
        super().__init__(_Server(self))
        self.base_url = f"http://127.0.0.1:{self.port}{address.path}"

    def lets_through(self, body: bytes) -> bool:
        """Whether the server gets this run; what is refused has not run."""
        if self.refusals:
            self.refusals -= 1
            return False
        self.runs.append(json.loads(body))
        return True


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True

    def __init__(self, relay: CountingRelay) -> None:
        self.relay = relay
        super().__init__(("127.0.0.1", 0), _Connection)


class _Connection(socketserver.StreamRequestHandler):
    server: _Server

    def handle(self) -> None:
        relay = self.server.relay
        with socket.create_connection(relay.target) as upstream:
            answers = threading.Thread(target=_pass_on, args=(upstream, self.connection))
            answers.start()
            with contextlib.suppress(OSError):
                for head, body in self._requests():
                    if PREDICTION in head.partition(b"\r\n")[0] and not relay.lets_through(body):
                        self.connection.sendall(AWAY)
                    else:
                        upstream.sendall(head + body)
            _leave(upstream)
            answers.join()

    def _requests(self) -> Iterator[tuple[bytes, bytes]]:
        while head := self._head():
            fields = dict(line.lower().split(b": ", 1) for line in head.splitlines()[1:-1])
            assert b"transfer-encoding" not in fields, "requests to Flowise say their length"
            yield head, self.rfile.read(int(fields.get(b"content-length", 0)))

    def _head(self) -> bytes:
        """A request's lines until the empty one; nothing at the end of the connection."""
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            line = self.rfile.readline()
            if not line:
                return b""
            head += line
        return head


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(MAX_READ):
            target.sendall(data)
    _leave(target)


def _leave(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
