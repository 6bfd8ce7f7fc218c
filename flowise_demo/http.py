"""The demo's HTTP edge: requests in, whole answers, event streams and deliberately broken answers out.

`h11` parses; what goes out is written as bytes, since a fake must also be able to break the framing.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import http
import json
import re
import socket
import struct
import time
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import h11

KEEP_ALIVE_SECONDS = 5.0  # Node closes an idle connection after this
MAX_BODY_BYTES = 50 * 1024 * 1024
RESET_AFTER_SECONDS = 0.05  # a reset throws away what the client has not read yet
_BASE_HEAD = (
    "Vary: Origin\r\nContent-Security-Policy: frame-ancestors 'self'\r\nX-Frame-Options: SAMEORIGIN\r\n"
)
_STREAM_HEAD = (
    f"HTTP/1.1 200 OK\r\n{_BASE_HEAD}Content-Type: text/event-stream\r\nCache-Control: no-cache\r\n"
    "Connection: keep-alive\r\nX-Accel-Buffering: no\r\n"
)
_LAST_BYTES = {"cut": b"0\r\n\r\n", "badchunk": b"zz\r\nno chunk size\r\n"}


class HttpFailed(Exception):
    """The request is refused with this status and message, in the shape of Flowise's error middleware."""

    def __init__(self, status: int, message: str) -> None:
        """Keep what the answer is made of."""
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class Response:
    """One whole HTTP answer."""

    status: int
    body: bytes = b""
    content_type: str = "application/json; charset=utf-8"
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Request:
    """One parsed HTTP request."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    content: bytes
    connection: Connection

    def body(self) -> dict[str, Any]:
        """The body as Express parses it: JSON or form fields; anything else is no body."""
        kind = self.headers.get("content-type", "").partition(";")[0].strip()
        if kind == "application/x-www-form-urlencoded":
            return dict(urllib.parse.parse_qsl(self.content.decode(errors="replace")))
        if kind != "application/json" or not self.content:
            return {}
        try:
            body = json.loads(self.content)
        except (ValueError, RecursionError) as error:
            raise HttpFailed(400, f"Unexpected token in JSON: {error}") from error
        return body if isinstance(body, dict) else {}

    def files(self) -> list[tuple[str, str, bytes]]:
        """The files of a multipart body: name, type, content."""
        boundary = self.headers.get("content-type", "").partition("boundary=")[2].strip('"')
        found = []
        for part in self.content.split(f"--{boundary}".encode())[1:-1]:
            head, _, content = part[2:-2].partition(b"\r\n\r\n")
            name = re.search(r'filename="([^"]*)"', head.decode(errors="replace"))
            kind = re.search(r"(?i)content-type: *([^\s;]+)", head.decode(errors="replace"))
            if name:
                found.append((name[1], kind[1] if kind else "application/octet-stream", content))
        return found


class Connection(asyncio.Protocol):
    """One client of the demo; a request that comes before the last is answered waits."""

    def __init__(self, answer: Callable[[Request], None], connections: set[Connection]) -> None:
        """Wait for the first request; `connections` is the register that this one joins and leaves."""
        self._answer = answer
        self._connections = connections
        self._parser = h11.Connection(h11.SERVER)
        self._asked: h11.Request | None = None
        self._content, self._body_bytes = bytearray(), 0
        self._is_busy = self._closes = self._is_chunked = False
        self._idle: asyncio.TimerHandle | None = None
        self._gone, self._writable = asyncio.Event(), asyncio.Event()
        self._transport: asyncio.Transport
        self.old_framing = False  # the frames of Flowise 2.x to 3.1.1

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has come."""
        self._transport = transport  # type: ignore[assignment] # asyncio promises a Transport to stream protocols
        self._writable.set()
        self._connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the protocol's signature
        """The client has left; its run goes on."""
        self._connections.discard(self)
        self._writable.set()
        self._gone.set()
        self._stop_idling()

    def pause_writing(self) -> None:
        """The client reads too slowly."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """The client has caught up."""
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        """Bytes of a request."""
        self._stop_idling()
        self._parser.receive_data(data)
        self._advance()

    @property
    def is_closed(self) -> bool:
        """Whether nothing can be written any more."""
        return self._transport.is_closing()

    async def drained(self) -> None:
        """Wait until the client has read enough for more to be written, or has left."""
        if not self._writable.is_set():
            await self._writable.wait()

    async def is_gone_within(self, seconds: float | None) -> bool:
        """Whether the client leaves within these seconds; waits for ever if none are given."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._gone.wait()
        return self._gone.is_set()

    def abort(self) -> None:
        """Close at once, without a farewell."""
        self._transport.abort()

    # ------------------------------------------------------------------------------------------- requests
    def _stop_idling(self) -> None:
        if self._idle:
            self._idle.cancel()
            self._idle = None

    def _advance(self) -> None:
        """Take what is parsed until a whole request is there, and have it answered."""
        while not self._is_busy and not self.is_closed:
            try:
                event = self._parser.next_event()
            except h11.RemoteProtocolError:
                self._transport.write(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
                self._transport.close()
                return
            if isinstance(event, h11.EndOfMessage):
                self._is_busy = True
                self._take_request()
            elif isinstance(event, h11.Request | h11.Data):
                self._keep(event)
            else:
                return

    def _keep(self, event: h11.Request | h11.Data) -> None:
        if isinstance(event, h11.Request):
            self._asked = event
            if self._parser.they_are_waiting_for_100_continue:
                self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            return
        self._body_bytes += len(event.data)
        if self._body_bytes <= MAX_BODY_BYTES:
            self._content += event.data

    def _take_request(self) -> None:
        request = self._request()
        if self._body_bytes > MAX_BODY_BYTES:
            self.respond(error_response(413, "request entity too large"))
        else:
            self._answer(request)

    def _request(self) -> Request:
        asked = self._asked or h11.Request(method="GET", target="/", headers=[("host", "")])
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in asked.headers}
        self._closes = "close" in headers.get("connection", "").lower() or asked.http_version == b"1.0"
        path, _, query = asked.target.decode("latin-1").partition("?")
        parsed = dict(urllib.parse.parse_qsl(query))
        return Request(asked.method.decode(), path, parsed, headers, bytes(self._content), self)

    def _next_request(self) -> None:
        if self._closes:
            self._transport.close()
            return
        loop = asyncio.get_running_loop()
        self._idle = loop.call_later(KEEP_ALIVE_SECONDS, self._transport.close)
        trailing, _ = self._parser.trailing_data
        self._parser = h11.Connection(h11.SERVER)
        self._is_busy, self._asked, self.old_framing = False, None, False
        self._content, self._body_bytes = bytearray(), 0
        if trailing:
            loop.call_soon(self.data_received, trailing)

    # -------------------------------------------------------------------------------------------- answers
    def respond(self, response: Response) -> None:
        """Write a whole answer; the connection is then free for the next request."""
        if self.is_closed:
            return
        is_head = self._asked is not None and self._asked.method == b"HEAD"
        self._transport.write(self._head(response) + (b"" if is_head else response.body))
        self._next_request()

    def _head(self, response: Response, length: str = "Content-Length: {}") -> bytes:
        lines = [f"HTTP/1.1 {response.status} {http.HTTPStatus(response.status).phrase}", _BASE_HEAD.rstrip()]
        lines += [f"{name}: {value}" for name, value in response.headers]
        lines += [f"Content-Type: {response.content_type}", length.format(len(response.body))]
        lines += [f"ETag: {_etag(response.body)}", f"Date: {_http_date()}"]
        lines += (
            ["Connection: close"] if self._closes else ["Connection: keep-alive", "Keep-Alive: timeout=5"]
        )
        return ("\r\n".join(line for line in lines if line) + "\r\n\r\n").encode()

    def begin_stream(self, *, is_chunked: bool = True) -> None:
        """Write the head of an event stream; without chunks it ends with the connection."""
        self._is_chunked = is_chunked and not (self._asked and self._asked.http_version == b"1.0")
        self._closes = self._closes or not self._is_chunked
        transfer = "Transfer-Encoding: chunked\r\n" if self._is_chunked else ""
        self._transport.write(f"{_STREAM_HEAD}Date: {_http_date()}\r\n{transfer}\r\n".encode())

    def send(self, *frames: bytes) -> None:
        """Write frames of the stream in one go, each its own HTTP chunk; nothing if the client has left."""
        if not self.is_closed:
            parts = (
                [b"%x\r\n%b\r\n" % (len(frame), frame) for frame in frames] if self._is_chunked else frames
            )
            self._transport.write(b"".join(parts))

    def end_stream(self) -> None:
        """End the stream as HTTP wants it."""
        if not self.is_closed:
            self._transport.write(b"0\r\n\r\n" if self._is_chunked else b"")
            self._next_request()

    def break_stream(self, fault: str) -> None:
        """End the stream wrongly: cut, cutchunk, badchunk, nolength or reset; `mute` leaves it open."""
        if fault == "reset":
            asyncio.get_running_loop().call_later(RESET_AFTER_SECONDS, self._reset)
        elif fault != "mute":
            self._transport.write(_LAST_BYTES.get(fault, b""))
            self._transport.close()

    def break_answer(self, response: Response, fault: str) -> None:
        """Write half of an answer, then end it in this wrong way."""
        lengths = {"nolength": "", "badchunk": "Transfer-Encoding: chunked"}
        if fault != "mute":
            self._closes = True
            half = response.body[: len(response.body) // 2]
            self._transport.write(self._head(response, lengths.get(fault, "Content-Length: {}")))
            self._transport.write(b"%x\r\n%b\r\n" % (len(half), half) if fault == "badchunk" else half)
        self.break_stream("cutchunk" if fault == "cut" else fault)

    def _reset(self) -> None:
        raw = self._transport.get_extra_info("socket")
        if raw is not None and not self.is_closed:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._transport.abort()


def json_response(body: Any, status: int = 200) -> Response:
    """The value as `JSON.stringify` writes it."""
    return Response(status, encoded(body))


def error_response(status: int, message: str) -> Response:
    """The answer of Flowise's error middleware."""
    return json_response({"statusCode": status, "success": False, "message": message, "stack": {}}, status)


def compact(value: Any) -> str:
    """JSON without spaces and with its letters as they are."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def encoded(value: Any) -> bytes:
    """JSON in UTF-8; half a surrogate pair stays an escape, as in `JSON.stringify`."""
    return compact(value).encode(errors="backslashreplace")


def _etag(body: bytes) -> str:
    digest = base64.b64encode(hashlib.sha1(body, usedforsecurity=False).digest()).decode()
    return f'W/"{len(body):x}-{digest[:27]}"'


def _http_date() -> str:
    return time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime())
