"""The transport with `requests`, one thread per call: for direct use, outgoing proxies, any server."""

from __future__ import annotations

import contextlib
import queue
import socket
import ssl
import threading
from collections.abc import Callable
from http.client import HTTPException
from typing import Any, cast

import requests
from requests.adapters import HTTPAdapter
from urllib3 import HTTPConnectionPool, HTTPResponse
from urllib3.exceptions import ConnectTimeoutError, HTTPError, NewConnectionError
from urllib3.exceptions import SSLError as PoolSSLError

from flowise_gateway.flowise.transport.base import (
    ConnectionBroken,
    EnvironmentSettings,
    FlowiseRequest,
    IdleConnections,
    NotSent,
    Reply,
    ReplyHead,
    environment_settings,
    keep_alive_seconds,
    not_trusted,
)

_READ_BYTES = 65536
_PIECES_AHEAD = 32


class RequestsTransport:
    """The transport over `requests`, with the environment's outgoing proxy and CA bundle."""

    def __init__(
        self, base_url: str, *, connect_timeout_seconds: float = 5, max_idle: int = 256, ca_file: str = ""
    ) -> None:
        """Use the API at `base_url`; proxy and CA settings are read here. Raises SettingsError."""
        self.connect_timeout_seconds = connect_timeout_seconds
        self._settings = environment_settings(base_url, ca_file)
        self.idle: IdleConnections[_Line] = IdleConnections(max_idle)

    def send(self, request: FlowiseRequest) -> Reply:
        return _RequestsReply(self, request)

    def close(self) -> None:
        self.idle.close()

    def line(self, request: requests.PreparedRequest) -> _Line:
        """An idle connection, or a new one. Raises NotSent."""
        line = self.idle.take()
        if line is None:
            line = _Line(request, self._settings)
            line.connect(self.connect_timeout_seconds)
        return line


class _Line:
    """One connection, for one call at a time; `requests` configures proxy and certificate authorities.

    It is not in a pool of urllib3, which does not expose a connection before the response has started: a
    caller that stops waiting must be able to close it earlier.
    """

    def __init__(self, request: requests.PreparedRequest, settings: EnvironmentSettings) -> None:
        self._adapter, self._proxies = HTTPAdapter(), dict(settings.proxies)
        pool = self._adapter.get_connection_with_tls_context(request, settings.ca_bundle, self._proxies)
        self._pool = cast("HTTPConnectionPool", pool)
        self._connection: Any = self._pool._new_conn()
        self._is_tunnel = self._pool.proxy is not None and self._pool.scheme == "https"
        self._proxy_headers = {} if self._is_tunnel else self._pool.proxy_headers or {}
        self._socket: socket.socket | None = None
        self.usable_until = 0.0

    def connect(self, timeout_seconds: float) -> None:
        """Connect, through the outgoing proxy if there is one. Raises NotSent."""
        self._connection.timeout = timeout_seconds
        try:
            if self._is_tunnel:
                self._pool._prepare_proxy(self._connection)
            else:
                self._connection.connect()
        except (OSError, HTTPError) as error:
            self.close()
            raise _not_sent(error, has_proxy=self._pool.proxy is not None) from None
        # The timeout was for connecting; a large body may take longer to send.
        self._connection.timeout = None
        self._connection.sock.settimeout(None)
        self._socket = self._connection.sock

    def send(self, request: requests.PreparedRequest) -> HTTPResponse:
        """Send a request and wait for the response headers."""
        headers = {**request.headers, **self._proxy_headers}
        target = self._adapter.request_url(request, self._proxies)
        self._connection.request(request.method, target, request.body, headers, preload_content=False)
        response: HTTPResponse = self._connection.getresponse()
        return response

    def is_quiet(self) -> bool:
        return bool(self._connection.is_connected)

    def cut(self) -> None:
        """Close the connection while a thread is reading from it."""
        # `connection.sock` cannot be used: http.client drops it for a response that ends with its connection.
        # TLS inside the TLS of an outgoing proxy has no `shutdown`; the socket below it has one.
        connection: Any = getattr(self._socket, "socket", self._socket)
        if connection is not None:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._connection.close()


class _RequestsReply:
    """One call in its own thread, read through a bounded queue, so that a slow reader slows Flowise down."""

    def __init__(self, transport: RequestsTransport, request: FlowiseRequest) -> None:
        self._is_closed = False
        self._line: _Line | None = None
        self._lock = threading.Lock()
        self._head: ReplyHead | None = None
        self._pieces: queue.Queue[ReplyHead | bytes | Exception] = queue.Queue(_PIECES_AHEAD)
        try:
            threading.Thread(target=self._run, args=(transport, request), daemon=True).start()
        except BaseException:
            # Starting waits for the thread; a caller that is killed meanwhile could never close this reply.
            self.close()
            raise

    def head(self, seconds: float) -> ReplyHead | None:
        if self._head is None:
            piece = self._next(seconds)
            if isinstance(piece, ReplyHead):
                self._head = piece
        return self._head

    def read_available(self, seconds: float) -> bytes | None:
        piece = self._next(seconds)
        return piece if isinstance(piece, bytes) else None

    def pump(self, take: Callable[[bytearray], bool]) -> None:
        """Ignore `take`, since data arrives in another thread."""

    def close(self) -> None:
        self._is_closed = True
        line = self._let_go()
        if line is not None:
            line.cut()
        with contextlib.suppress(queue.Empty):
            while True:
                self._pieces.get_nowait()

    def _let_go(self) -> _Line | None:
        """The line in use, returned once: either the thread returns it to the pool, or the caller cuts it."""
        with self._lock:
            line, self._line = self._line, None
            return line

    def _next(self, seconds: float) -> ReplyHead | bytes | None:
        try:
            piece = self._pieces.get(timeout=max(seconds, 0.0005))
        except queue.Empty:
            return None
        if isinstance(piece, Exception):
            raise piece
        return piece

    def _run(self, transport: RequestsTransport, request: FlowiseRequest) -> None:
        try:
            prepared = _prepared(request)
            self._line = line = transport.line(prepared)
        except NotSent as error:
            self._put(error)
            return
        except (requests.RequestException, ValueError):
            self._put(NotSent("the address or a header is malformed"))
            return
        end: bytes | Exception = b""
        usable_seconds = 0.0
        try:
            if not self._is_closed:
                with line.send(prepared) as response:
                    usable_seconds = self._pass_on(response)
        except (HTTPError, HTTPException, OSError, ValueError, AttributeError):
            # http.client raises an AttributeError if close() cuts the socket during a read.
            end = ConnectionBroken("the connection broke before the answer was complete")
        if self._let_go() is not None and usable_seconds:
            transport.idle.give_back(line, usable_seconds)
        else:
            line.close()
        self._put(end)

    def _pass_on(self, response: HTTPResponse) -> float:
        """Pass a response to its reader; returns how long the connection can be reused."""
        if response.status < 200:
            # An early hint: the final response follows on this connection, which must not be reused.
            raise ConnectionResetError("an interim answer")
        headers = {name.lower(): value for name, value in response.headers.items()}
        self._put(ReplyHead(response.status, headers))
        while not self._is_closed:
            piece = response.read1(_READ_BYTES, decode_content=False)
            if not piece:
                return keep_alive_seconds(headers)
            self._put(piece)
        return 0.0

    def _put(self, piece: ReplyHead | bytes | Exception) -> None:
        while not self._is_closed:
            with contextlib.suppress(queue.Full):
                self._pieces.put(piece, timeout=1)
                return


def _not_sent(error: Exception, *, has_proxy: bool) -> NotSent:
    """The reason why no connection could be made, without addresses."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return not_trusted(error)
    if isinstance(error, (ssl.SSLError, PoolSSLError)):
        return NotSent("the TLS connection could not be made")
    # A TLS handshake counts as connecting; in urllib3, a refusal is a kind of ConnectTimeoutError.
    if isinstance(error, (TimeoutError, ConnectTimeoutError)) and not isinstance(error, NewConnectionError):
        return NotSent("connecting timed out")
    refused = "the connection was refused or the name is unknown"
    return NotSent("the outgoing proxy refused" if has_proxy else refused)


def _prepared(request: FlowiseRequest) -> requests.PreparedRequest:
    prepared = requests.PreparedRequest()
    # Compression would delay tokens, and a response could be a decompression bomb.
    headers = {"Accept-Encoding": "identity", **request.headers}
    prepared.prepare(method=request.method, url=request.url, headers=headers, data=request.body)
    return prepared
