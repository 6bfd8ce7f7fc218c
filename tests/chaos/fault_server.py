"""A Flowise that misbehaves as each question asks, and counts what it was made to do. A program of its own.

It shares no code with the product and uses sockets alone. A question holds `chaos {…}`, a script in JSON:

    id         whose runs are counted; a run begins when its request has fully arrived and is not refused
    tokens     how many tokens the answer has (5); token n is `n.`; `size` makes each that many bytes long
    pause      seconds before each token (0); `stamp` makes a token of the clock in nanoseconds
    fault      "" for none, "silent", "heartbeats", "late_end" (each for `seconds`), "early_end", "empty",
               "error", "doubled", "status", "html", "raw", or a `how` at a phase:
               "before_head", "mid_head", "mid_body" or "stream"
    how        "rst", "fin", "bad_chunk", "no_length": how it breaks off
    at         the token before which the fault happens (2)
    status     of "status", with `retry_after` if given, and `location`; 429 and 503 are refusals, no runs
    times      how many attempts meet the fault (all)
    pieces     of "raw": what is written, one after the other, in base64
    body       of "html" and "status": the body; `kind`: its type; `length`: the Content-Length it claims

One JSON object a line on standard input is a command, answered by a line on standard output; the end of the
input is the end of the program. The first line on standard output names the port.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import fcntl
import json
import random
import socket
import struct
import sys
import termios
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

FLOW = "c4a05000-0000-4000-8000-000000000001"
NOW = "2026-11-21T00:00:00.000Z"
BACKLOG = 4096
_AT_ONCE = struct.pack("ii", 1, 0)
_MARK = "chaos {"
_STREAM_HEAD = (
    "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\n"
    "Connection: keep-alive\r\nX-Accel-Buffering: no\r\n"
)
_REFUSALS = (429, 503)


@dataclass(frozen=True, slots=True)
class Request:
    """One request, fully arrived."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class Broken(Exception):
    """The script broke the connection off."""


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
        """Write."""
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
            _refuse(self, self.flowise.mood)
        elif path == f"/api/v1/chatflows-streaming/{FLOW}":
            self.answer(200, b'{"isStreaming":true}')
        elif path == "/api/v1/chatflows":
            row = {"id": FLOW, "name": "Chaos", "type": "AGENTFLOW", "flowData": '{"nodes":[],"edges":[]}'}
            row |= {"deployed": False, "isPublic": True, "createdDate": NOW, "updatedDate": NOW}
            self.answer(200, json.dumps({"data": [row], "total": 1}).encode())
        elif path == "/api/v1/version":
            self.answer(200, b'{"version":"3.1.4"}')
        else:
            self.answer(404, b'{"statusCode":404,"success":false,"message":"Not Found","stack":{}}')


class Prediction:
    """One prediction, answered as its script says."""

    def __init__(self, connection: Connection, body: dict[str, Any]) -> None:
        self._connection = connection
        self._flowise = connection.flowise
        self._body = body
        script = _script(str(body.get("question", "")))
        self._id = str(script.get("id", "?"))
        self._flowise.attempts[self._id] += 1
        if self._flowise.attempts[self._id] > script.get("times", sys.maxsize):
            script["fault"] = ""
        self._script = script
        self._chat = str(body.get("chatId", ""))
        self._fault = script.get("fault", "")
        self._at = int(script.get("at", 2))
        self._is_chunked = not (self._fault == "stream" and script.get("how") == "no_length")

    async def answer(self) -> None:
        """Refuse, or run: then the run ends with the script, or with its abort, but not with its reader."""
        refusal = self._script if self._fault == "status" else self._flowise.mood
        if refusal.get("status") in _REFUSALS:
            _refuse(self._connection, refusal)
            return
        chat = self._chat
        self._flowise.runs[self._id] += 1
        self._flowise.running.add(chat)
        try:
            await self._run()
        except Broken:
            self._flowise.running.discard(chat)
            raise
        self._flowise.running.discard(chat)

    async def _run(self) -> None:
        if self._fault == "silent":
            await asyncio.sleep(self._script.get("seconds", 3600))
        elif self._fault == "before_head":
            self._break_off()
        elif self._fault == "mid_head":
            self._connection.write(b"HTTP/1.1 200 OK\r\nContent-Ty")
            self._break_off()
        elif self._fault in ("status", "html"):
            _refuse(self._connection, {"status": 200, "kind": "text/html", **self._script})
            return
        if self._body.get("streaming") is True:
            await self._stream()
        else:
            self._whole()

    def _whole(self) -> None:
        text = "".join(self._token(n) for n in range(self._tokens))
        ids = {key: f"{key}-{self._id}" for key in ("chatMessageId", "executionId")}
        answer = {"text": text, "question": self._body.get("question"), "chatId": self._body.get("chatId")}
        body = json.dumps({**answer, **ids, "sessionId": self._body.get("chatId")}).encode()
        if self._fault != "mid_body":
            self._connection.answer(200, body)
            return
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        self._connection.write(head.encode() + body[: len(body) // 2])
        self._break_off()

    async def _stream(self) -> None:
        framing = "Transfer-Encoding: chunked\r\n\r\n" if self._is_chunked else "\r\n"
        self._connection.write((_STREAM_HEAD + framing).encode())
        if self._fault == "raw":
            await self._raw()
        else:
            self._say("start", "")
            if self._fault == "heartbeats":
                await self._heartbeats()
            await self._tokens_said()
            await self._ended()
        if not self._is_chunked:
            self._connection.close()
            raise Broken
        self._connection.write(b"0\r\n\r\n")

    async def _tokens_said(self) -> None:
        if self._fault == "empty":
            return
        for n in range(self._tokens + 1):
            if n == self._at:
                await self._fault_in_stream()
            if n == self._tokens:
                return
            if self._script.get("pause"):
                await asyncio.sleep(self._script["pause"])
            for _ in range(1 + (self._fault == "doubled" and n == self._at)):
                self._say("token", self._token(n))

    async def _fault_in_stream(self) -> None:
        if self._fault == "stream":
            await self._connection.all_sent()
            self._break_off()
        elif self._fault == "error":
            self._say(
                "error",
                "Error: chaos at http://10.1.2.3:3000/secret\n    at Object.<anonymous> (/app/a.js:1:1)",
            )
        elif self._fault == "pause":
            await asyncio.sleep(self._script.get("seconds", 3600))
        elif self._fault == "early_end":
            self._say("end", "[DONE]")

    async def _ended(self) -> None:
        if self._fault == "late_end":
            await asyncio.sleep(self._script.get("seconds", 2))
        ids = {"chatId": self._body.get("chatId"), "chatMessageId": f"m-{self._id}", "sessionId": "s"}
        if self._fault != "error":
            self._say("metadata", {**ids, "question": self._body.get("question")})
        self._say("end", "[DONE]")
        if self._fault == "doubled":
            self._say("end", "[DONE]")

    async def _heartbeats(self) -> None:
        until = time.monotonic() + self._script.get("seconds", 3600)
        while time.monotonic() < until:
            self._piece(b":heartbeat\n\n")
            await asyncio.sleep(0.2)

    async def _raw(self) -> None:
        said = b""
        for piece in map(base64.b64decode, self._script["pieces"]):
            self._piece(piece)
            said += piece
            if b'"end"' in said or b'"error"' in said:
                self._flowise.running.discard(self._chat)
            # Long enough for the other side to read what came before.
            await asyncio.sleep(self._script.get("pause", 0.002))

    @property
    def _tokens(self) -> int:
        return int(self._script.get("tokens", 5))

    def _token(self, n: int) -> str:
        if self._script.get("stamp"):
            return f"{time.monotonic_ns()} "
        return f"{n}." * (max(1, int(self._script.get("size", 0)) // len(f"{n}.")))

    def _say(self, event: str, data: Any) -> None:
        if event in ("end", "error"):  # its reader may leave now
            self._flowise.running.discard(self._chat)
        self._piece(b"message:\ndata:" + json.dumps({"event": event, "data": data}).encode() + b"\n\n")

    def _piece(self, data: bytes) -> None:
        self._connection.write(b"%x\r\n%b\r\n" % (len(data), data) if self._is_chunked else data)

    def _break_off(self) -> None:
        how = self._script.get("how", "rst")
        if how == "rst":
            self._connection.reset()
        elif how == "bad_chunk":
            self._connection.write(b"ZZZ\r\nno chunk\r\n")
            self._connection.close()
        else:
            self._connection.close()
        raise Broken


def _script(text: str) -> dict[str, Any]:
    at = text.find(_MARK)
    if at < 0:
        return {}
    script, _ = json.JSONDecoder().raw_decode(text, at + len(_MARK) - 1)
    return dict(script)


def _refuse(connection: Connection, how: dict[str, Any]) -> None:
    status = how["status"]
    headers = [f"Retry-After: {how['retry_after']}"] if how.get("retry_after") is not None else []
    headers += [f"Location: {how['location']}"] if how.get("location") else []
    body = how.get("body")
    if body is None:
        message = {
            "statusCode": status,
            "success": False,
            "message": f"chaos {status}",
            "stack": {"at": "/app/a.js"},
        }
        body = json.dumps(message)
    if (length := how.get("length")) is None:
        connection.answer(status, body.encode(), how.get("kind", "application/json"), *headers)
        return
    head = f"HTTP/1.1 {status} X\r\nContent-Type: {how.get('kind')}\r\nContent-Length: {length}\r\n\r\n"
    connection.write(head.encode() + body.encode())
    connection.close()
    raise Broken


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
