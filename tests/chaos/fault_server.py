"""A Flowise that misbehaves as each question asks, and counts what it was made to do. A program of its own.

It shares no code with the product and uses sockets alone; `fault_script` says what questions may ask.

One JSON object a line on standard input is a command, answered by a line on standard output; the end of the
input is the end of the program. The first line on standard output names the port.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import random
import socket
import struct
import sys
import termios
from collections import Counter
from dataclasses import dataclass
from typing import Any

from tests.chaos.fault_script import Broken, Prediction, refuse

FLOW = "c4a05000-0000-4000-8000-000000000001"
NOW = "2026-11-21T00:00:00.000Z"
BACKLOG = 4096
_AT_ONCE = struct.pack("ii", 1, 0)


@dataclass(frozen=True, slots=True)
class Request:
    """One request, fully arrived."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class Flowise:
    """What all connections share: the counts, and the moods that concern all of them."""

    def __init__(self) -> None:
        self.connections: set[Connection] = set()
        self.accepted = 0
        self.mood: dict[str, Any] = {}
        self.reset_share = 0.0
        self.random = random.Random(7)
        self.forget()

    def forget(self) -> None:
        """Count anew."""
        self.attempts: Counter[str] = Counter()
        self.runs: Counter[str] = Counter()
        self.paths: Counter[str] = Counter()
        self.running: set[str] = set()
        self.aborts = 0
        self.resets = 0

    def state(self) -> dict[str, Any]:
        """The counts; `running` are runs that neither ended nor were aborted."""
        return {
            "runs": sum(self.runs.values()),
            "doubled": sorted(name for name, count in self.runs.items() if count > 1),
            "attempts": sum(self.attempts.values()),
            "running": len(self.running),
            "aborts": self.aborts,
            "resets": self.resets,
            "accepted": self.accepted,
            "open": sum(connection.is_predicting for connection in self.connections),
            "paths": dict(self.paths),
        }


class Connection(asyncio.Protocol):
    """One connection, request after request."""

    def __init__(self, flowise: Flowise) -> None:
        self.flowise = flowise
        self.is_predicting = False
        self._received = b""
        self._task: asyncio.Task[None] | None = None
        self._transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Count it, or break it off before any request."""
        self._transport = transport
        raw = transport.get_extra_info("socket")
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.flowise.accepted += 1
        self.flowise.connections.add(self)
        if self.flowise.random.random() < self.flowise.reset_share:
            self.flowise.resets += 1
            self.reset()

    def data_received(self, data: bytes) -> None:
        """Begin with a request once it is whole."""
        self._received += data
        self._begin()

    def eof_received(self) -> bool:
        """Close too: whoever asks and half-closes is gone."""
        return False

    def connection_lost(self, error: Exception | None) -> None:
        """End what was being said to it."""
        self.flowise.connections.discard(self)
        self.is_predicting = False
        if self._task is not None:
            self._task.cancel()

    async def all_sent(self) -> None:
        """Wait until the other side's system has all that was written: a reset would throw the rest away."""
        raw = self._transport.get_extra_info("socket")
        for _ in range(1000):
            unsent = fcntl.ioctl(raw.fileno(), termios.TIOCOUTQ, b"\0\0\0\0")
            if not self._transport.get_write_buffer_size() and not any(unsent):
                return
            await asyncio.sleep(0.001)

    def reset(self) -> None:
        """Break the connection off with RST."""
        self._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
        self._transport.abort()

    def close(self) -> None:
        """Close the connection with FIN, what was written going out first."""
        self._transport.close()

    def write(self, data: bytes) -> None:
        """Write, unless the other side has left."""
        if not self._transport.is_closing():
            self._transport.write(data)

    def answer(self, status: int, body: bytes, kind: str = "application/json", *headers: str) -> None:
        """Answer as a whole."""
        lines = [f"HTTP/1.1 {status} X", f"Content-Type: {kind}", f"Content-Length: {len(body)}", *headers]
        self.write("\r\n".join([*lines, "", ""]).encode() + body)

    def _begin(self) -> None:
        if self._task is None and (found := _taken(self._received)) is not None:
            request, self._received = found
            self._task = asyncio.get_running_loop().create_task(self._serve(request))

    async def _serve(self, request: Request) -> None:
        try:
            if request.path.startswith("/api/v1/prediction/"):
                self.is_predicting = True
                await Prediction(self, json.loads(request.body)).answer()
            else:
                self._other(request)
        except Broken:
            return
        except ValueError as error:
            self.answer(500, json.dumps({"message": f"no script: {error}"}).encode())
        finally:
            self.is_predicting = False
            self._task = None
        self._begin()

    def _other(self, request: Request) -> None:
        path = request.path.partition("?")[0]
        self.flowise.paths[path.replace("/api/v1", "").split("/")[1]] += 1
        if "/chatmessage/abort/" in path:
            self.flowise.aborts += 1
            self.flowise.running.discard(path.rpartition("/")[2])
            self.answer(200, b'{"status":200,"message":"Chat message aborted"}')
        elif self.flowise.mood.get("status"):
            refuse(self, self.flowise.mood)
        elif path == f"/api/v1/chatflows-streaming/{FLOW}":
            self.answer(200, b'{"isStreaming":true}')
        elif path == "/api/v1/chatflows":
            row: dict[str, Any] = {
                "id": FLOW,
                "name": "Chaos",
                "type": "AGENTFLOW",
                "flowData": '{"nodes":[],"edges":[]}',
            }
            row |= {"deployed": False, "isPublic": True, "createdDate": NOW, "updatedDate": NOW}
            self.answer(200, json.dumps({"data": [row], "total": 1}).encode())
        elif path == "/api/v1/version":
            self.answer(200, b'{"version":"3.1.4"}')
        else:
            self.answer(404, b'{"statusCode":404,"success":false,"message":"Not Found","stack":{}}')


def _taken(received: bytes) -> tuple[Request, bytes] | None:
    head, found, rest = received.partition(b"\r\n\r\n")
    if not found:
        return None
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    length = int(headers.get("content-length", 0))
    if len(rest) < length:
        return None
    method, path, _ = first.split(" ")
    return Request(method, path, headers, rest[:length]), rest[length:]


class Control:
    """The commands, and the listening socket that they open and close."""

    def __init__(self) -> None:
        self._flowise = Flowise()
        self._port = 0
        self._server: asyncio.Server | None = None

    async def run(self) -> None:
        """Serve until standard input ends."""
        await self.listen({"on": True})
        _say({"port": self._port})
        loop = asyncio.get_running_loop()
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            command = json.loads(line)
            _say(await getattr(self, command["do"])(command))

    async def listen(self, command: dict[str, Any]) -> object:
        """Accept connections or refuse them; `drop` also breaks off the open ones, `idle` only idle ones."""
        if not command["on"] and self._server is not None:
            self._server.close()
            self._server = None
        if command["on"] and self._server is None:
            listener = socket.socket()
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("127.0.0.1", self._port))
            self._port = listener.getsockname()[1]
            loop = asyncio.get_running_loop()
            self._server = await loop.create_server(
                lambda: Connection(self._flowise), sock=listener, backlog=BACKLOG
            )
        if drop := command.get("drop"):
            for connection in list(self._flowise.connections):
                if drop == "all" or not connection.is_predicting:
                    connection.reset()
        return {}

    async def state(self, _: dict[str, Any]) -> object:
        """The counts."""
        return self._flowise.state()

    async def ran(self, _: dict[str, Any]) -> object:
        """How often each id ran."""
        return self._flowise.runs

    async def forget(self, _: dict[str, Any]) -> object:
        """Count anew."""
        self._flowise.forget()
        return {}

    async def mood(self, command: dict[str, Any]) -> object:
        """Answer everything with a status from now on; without one, nothing special."""
        self._flowise.mood = {name: value for name, value in command.items() if name != "do"}
        return {}

    async def reset_share(self, command: dict[str, Any]) -> object:
        """Break off this share of new connections before they can ask."""
        self._flowise.reset_share = command["share"]
        return {}


def _say(line: object) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(Control().run())
