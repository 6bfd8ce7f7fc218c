"""A server that writes exactly the bytes it is told to, for what no well-behaved one sends."""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Sequence
from enum import Enum
from types import TracebackType


class Step(Enum):
    """What a script does beside writing."""

    AWAIT_REQUEST = "wait for another request on the same connection"
    RESET = "break the connection off"


Script = Sequence[bytes | Step | Callable[[], object]]
"""Bytes to write, b"" at the end to close; a step; or a call to make, for example one that waits."""

_AT_ONCE = struct.pack("ii", 1, 0)


class ScriptedServer:
    """Answers each connection with the next script; an empty script says nothing and keeps it open."""

    def __init__(self, *scripts: Script, tls: ssl.SSLContext | None = None) -> None:
        self._scripts = scripts
        self._tls = tls
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._connections: list[socket.socket] = []
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self.requests: list[bytes] = []
        self.closed_by_client = threading.Event()
        self.closed_by_server = threading.Event()

    @property
    def url(self) -> str:
        """Where it listens."""
        scheme = "http" if self._tls is None else "https"
        return f"{scheme}://127.0.0.1:{self._listener.getsockname()[1]}"

    @property
    def connection_count(self) -> int:
        """How many connections were made."""
        return len(self._connections)

    def __enter__(self) -> ScriptedServer:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes whoever waits for a connection
        self._thread.join()
        self._listener.close()
        for connection in self._connections:
            connection.close()

    def drop_connections(self) -> None:
        """Close the connections made so far."""
        for connection in self._connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _serve(self) -> None:
        for script in self._scripts:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._connections.append(connection)
            threading.Thread(target=self._answer, args=(connection, script), daemon=True).start()

    def _answer(self, connection: socket.socket, script: Script) -> None:
        try:
            if self._tls is not None:
                connection = self._tls.wrap_socket(connection, server_side=True)
                self._connections.append(connection)
            self._play(connection, script)
        except OSError:
            self.closed_by_client.set()

    def _play(self, connection: socket.socket, script: Script) -> None:
        if not script or script[0] is not Step.RESET:
            self.requests.append(_request(connection))
        for step in script:
            self._take(step, connection)
        if script and script[-1] == b"":
            connection.shutdown(socket.SHUT_RDWR)
            self.closed_by_server.set()
        elif Step.RESET not in script:
            self._see_it_closed(connection)

    def _take(self, step: bytes | Step | Callable[[], object], connection: socket.socket) -> None:
        if isinstance(step, bytes):
            connection.sendall(step)
        elif step is Step.AWAIT_REQUEST:
            self.requests.append(_request(connection))
        elif step is Step.RESET:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
            connection.close()
            self.closed_by_server.set()
        elif callable(step):
            step()

    def _see_it_closed(self, connection: socket.socket) -> None:
        while connection.recv(65536):
            pass
        self.closed_by_client.set()


def _request(connection: socket.socket) -> bytes:
    received = connection.recv(65536)
    head, _, body = received.partition(b"\r\n\r\n")
    found = re.search(rb"(?i)\r\ncontent-length: (\d+)", head)
    while found and len(body) < int(found[1]) and (piece := connection.recv(65536)):
        received, body = received + piece, body + piece
    return received


def http(status: str, body: bytes = b"", kind: str = "application/json", *headers: str) -> bytes:
    """A whole HTTP answer."""
    lines = [f"HTTP/1.1 {status}", f"Content-Type: {kind}", f"Content-Length: {len(body)}", *headers]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body
