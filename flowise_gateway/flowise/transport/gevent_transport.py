"""The transport for serving: keep-alive connections in gevent's event loop.

No thread or greenlet is started for a call: the reader of a reply waits on the socket, and no data is lost if
it stops waiting. HTTP is parsed by `geventhttpclient` (llhttp).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator
from functools import partial
from pathlib import Path
from socket import SOCK_STREAM
from typing import Any
from urllib.parse import SplitResult, urlsplit

import gevent
from gevent import socket, ssl
from geventhttpclient.response import HTTPParseError

from flowise_gateway.flowise.transport.base import (
    ConnectionBroken,
    FlowiseRequest,
    IdleConnections,
    NotSent,
    Reply,
    ReplyHead,
    environment_settings,
    keep_alive_seconds,
    not_trusted,
)
from flowise_gateway.flowise.transport.connection import READ, WRITE, AnswerParser, Connection, Waits

_MAX_HEAD_BYTES = 256 * 1024
_ADDRESSES_SECONDS = 10.0


class GeventTransport:
    """The gevent transport to one origin; for outgoing proxies, `RequestsTransport` is used."""

    def __init__(
        self, base_url: str, *, connect_timeout_seconds: float = 5, max_idle: int = 1024, ca_file: str = ""
    ) -> None:
        """Prepare for calls under `base_url`; the CA bundle is read once, here. Raises SettingsError."""
        parts = urlsplit(base_url)
        self.connect_timeout_seconds = connect_timeout_seconds
        self.host = (parts.hostname or "").encode("idna").decode()
        self.tls = _tls_context(base_url, ca_file) if parts.scheme == "https" else None
        self._port = parts.port or (80 if self.tls is None else 443)
        self._origin = f"{parts.scheme}://{parts.netloc}"
        self._fixed_head = _fixed_head(parts, self.host)
        self.idle: IdleConnections[Connection] = IdleConnections(max_idle)
        self._addresses: list[Any] = []
        self._addresses_until = -math.inf

    def send(self, request: FlowiseRequest) -> Reply:
        return _GeventReply(self, request)

    def close(self) -> None:
        self.idle.close()

    def request_bytes(self, request: FlowiseRequest) -> bytes:
        """The serialized request. Raises NotSent if its URL or a header is malformed."""
        path = request.url.removeprefix(self._origin) or "/"
        lines = [f"{request.method} {path} HTTP/1.1", *self._fixed_head]
        lines += [f"{name}: {value}" for name, value in request.headers.items()]
        body = request.body or b""
        if body or request.method not in ("GET", "HEAD"):
            lines.append(f"Content-Length: {len(body)}")
        head = "\r\n".join(lines)
        if (
            not path.startswith("/")
            or " " in path
            or head.count("\r") + head.count("\n") != 2 * len(lines) - 2
        ):
            raise NotSent("the address or a header is malformed")
        return f"{head}\r\n\r\n".encode("latin-1", "replace") + body

    def forget_addresses(self) -> None:
        """Resolve the name again for the next call, since none of its addresses could be reached."""
        self._addresses_until = -math.inf

    def addresses(self) -> list[Any]:
        """The origin's addresses, resolved every ten seconds. Raises NotSent."""
        if time.monotonic() >= self._addresses_until:
            try:
                with gevent.Timeout(self.connect_timeout_seconds, NotSent("looking up the name timed out")):
                    self._addresses = socket.getaddrinfo(self.host, self._port, 0, SOCK_STREAM)
            except OSError:
                raise NotSent("the name is unknown") from None
            self._addresses_until = time.monotonic() + _ADDRESSES_SECONDS
        return self._addresses


def _fixed_head(parts: SplitResult, host: str) -> list[str]:
    name = f"[{host}]" if ":" in host else host
    port = "" if parts.port is None else f":{parts.port}"
    # Compression would delay tokens, and a response could be a decompression bomb.
    return [f"Host: {name}{port}", "User-Agent: openai-compatible-server", "Accept-Encoding: identity"]


def _tls_context(base_url: str, ca_file: str) -> Any:
    bundle = Path(environment_settings(base_url, ca_file).ca_bundle)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if bundle.is_dir():
        context.load_verify_locations(capath=str(bundle))
    else:
        context.load_verify_locations(cafile=str(bundle))
    return context


class _GeventReply:
    """One call, which proceeds while its reader waits and pauses whenever its connection is not ready."""

    __slots__ = (
        *("_connect_until", "_connection", "_failure", "_head", "_head_bytes", "_needs", "_parser"),
        *("_steps", "_transport"),
    )

    def __init__(self, transport: GeventTransport, request: FlowiseRequest) -> None:
        self._transport = transport
        self._parser = AnswerParser()
        self._connection: Connection | None = None
        self._connect_until = math.inf
        self._steps = self._exchange(request)
        self._needs = 0
        self._head: ReplyHead | None = None
        self._head_bytes = 0
        self._failure: Exception | None = None

    def head(self, seconds: float) -> ReplyHead | None:
        deadline = time.monotonic() + seconds
        try:
            while self._head is None:
                if self._needs and not self._may_go_on(deadline):
                    return None
                self._needs = next(self._steps, 0)
        except (OSError, HTTPParseError) as error:
            self.close()
            raise ConnectionBroken("the connection broke before the answer began") from error
        except NotSent:
            self.close()
            raise
        return self._head

    def read_available(self, seconds: float) -> bytes | None:
        parser = self._parser
        body = parser.body
        if not body and not parser.is_whole:
            self._read(seconds)
        if body:
            piece = bytes(body)
            body.clear()
            return piece
        if parser.is_whole:
            self._let_go()
            return b""
        if self._failure is not None:
            self.close()
            raise ConnectionBroken("the connection broke before the answer was complete") from self._failure
        return None

    def pump(self, take: Callable[[bytearray], bool]) -> None:
        if self._connection is not None:
            self._connection.pump = partial(self._pumped, self._connection, take)

    def _pumped(self, connection: Connection, take: Callable[[bytearray], bool]) -> bool:
        self._receive(connection)
        body = self._parser.body
        if not body or not take(body):
            return False
        return not (self._parser.is_whole or self._failure or connection.is_ready)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _let_go(self) -> None:
        """Return the connection to the pool, unless the response ends it."""
        connection, head = self._connection, self._head
        if connection is not None and head is not None and not self._parser.should_close():
            self._connection = connection.pump = None
            self._transport.idle.give_back(connection, keep_alive_seconds(head.headers))
        self.close()

    def _may_go_on(self, deadline: float) -> bool:
        """Wait for the event the call needs; False at the deadline, True also if connecting timed out."""
        connection = self._connection
        if connection is None:
            raise ConnectionAbortedError("closed by its reader")
        until = min(deadline, self._connect_until)
        while not connection.wait(self._needs, until - time.monotonic()):
            # The event loop's timers may fire slightly early.
            if time.monotonic() >= until:
                # If the loop was blocked, the timer and timely data are due together: the data wins.
                is_there = self._needs == READ and not connection.is_quiet()
                return is_there or until == self._connect_until
        return True

    def _exchange(self, request: FlowiseRequest) -> Waits:
        """Connect, send, and read until the headers are complete."""
        data = self._transport.request_bytes(request)
        self._connection = connection = self._transport.idle.take()
        if connection is None or not (yield from self._was_sent(connection, data)):
            self.close()
            connection = yield from self._connected()
            if not (yield from self._was_sent(connection, data)):
                raise NotSent("the connection was closed before the request was complete")
        while not self._parser.has_head:
            yield READ
            self._receive(connection)
            if self._failure is not None and not self._parser.has_head:
                raise self._failure
        self._head = ReplyHead(self._parser.get_code(), self._parser.headers_by_name())

    def _connected(self) -> Generator[int, None, Connection]:
        addresses = self._transport.addresses()
        until = time.monotonic() + self._transport.connect_timeout_seconds
        for number, (family, _, _, _, address) in enumerate(addresses):
            now = time.monotonic()
            # Each address gets a share of the time, so that an unresponsive one leaves some for the next.
            self._connect_until = now + (until - now) / (len(addresses) - number)
            if (yield from self._has_connected(family, address)):
                self._connect_until = math.inf
                assert self._connection is not None  # noqa: S101 - it has just been connected
                return self._connection
            self.close()
        self._transport.forget_addresses()
        timed_out = time.monotonic() >= self._connect_until
        raise NotSent("connecting timed out" if timed_out else "the connection was refused")

    def _has_connected(self, family: int, address: Any) -> Generator[int, None, bool]:
        tls, until = self._transport.tls, self._connect_until
        try:
            connection = self._connection = Connection(family)
            if not (yield from connection.connect(address, until)):
                return False
        except OSError:
            return False
        if tls is not None:
            try:
                yield from connection.encrypt(tls, self._transport.host, until)
            except ssl.SSLCertVerificationError as error:
                raise not_trusted(error) from None
            except OSError:
                raise NotSent("the TLS connection could not be made") from None
        return True

    def _was_sent(self, connection: Connection, data: bytes) -> Generator[int, None, bool]:
        """Send all of `data`; an incomplete request cannot have run, unless there is a response."""
        left = memoryview(data)
        try:
            while left:
                sent = connection.send(left)
                left = left[sent:]
                if not sent:
                    yield WRITE
        except OSError:
            self._receive(connection)
            return self._parser.headers_complete
        return True

    def _read(self, seconds: float) -> None:
        """Wait for data, the end of the body or a failure."""
        connection, parser = self._connection, self._parser
        deadline: float | None = None
        while connection is not None and not (parser.body or parser.is_whole or self._failure):
            deadline = deadline or time.monotonic() + seconds
            if not connection.is_ready:
                if connection.wait(READ, deadline - time.monotonic()):
                    if connection.pump is not None:
                        return  # the pump has received all data
                elif connection.is_quiet():
                    return
            self._receive(connection)

    def _receive(self, connection: Connection) -> None:
        """Parse received data; a failure is raised only after all data before it has been read."""
        try:
            data = connection.receive()
            if data is None:
                return
            self._parser.feed(data)
            if self._head is None and not self._parser.has_head:
                self._head_bytes += len(data)
            if self._head_bytes > _MAX_HEAD_BYTES or not (data or self._parser.is_whole):
                raise ConnectionResetError("no whole answer")
        except (OSError, HTTPParseError) as error:
            self._failure = error
