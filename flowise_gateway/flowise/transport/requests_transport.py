"""The HTTP seam with `requests`: direct use, outgoing proxies, any server."""

from __future__ import annotations

import contextlib
import math
import queue
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from requests.exceptions import InvalidHeader, InvalidURL
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool, Retry
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError, NewConnectionError
from urllib3.exceptions import SSLError as PoolSSLError
from urllib3.exceptions import TimeoutError as PoolTimeoutError

from flowise_gateway.flowise.transport.base import (
    ConnectionBroken,
    FlowiseRequest,
    NotSent,
    Reply,
    ReplyHead,
    environment_settings,
    keep_alive_seconds,
    not_trusted,
)

_READ_BYTES = 65536
_PIECES_AHEAD = 32


_calls = threading.local()


class _Watched:
    """Mixed into urllib3's connections: lets a call cut the connection that it uses at the moment."""

    user: _RequestsReply | None = None
    usable_until = math.inf

    def connect(self) -> None:
        super().connect()  # type: ignore[misc]
        # The limit was for connecting; a large body may take longer to send.
        self.sock.settimeout(None)  # type: ignore[attr-defined]
        self._check_wanted()

    def _check_wanted(self) -> None:
        call: _RequestsReply | None = getattr(_calls, "current", None)
        if call is not None and call.closed:
            self.close()  # type: ignore[attr-defined]
            raise ConnectionAbortedError("the caller left before the request was sent")

    def request(self, *args: Any, **kwargs: Any) -> None:
        self._check_wanted()
        call: _RequestsReply | None = getattr(_calls, "current", None)
        self.user = call
        if call is not None:
            call.connection = self
        super().request(*args, **kwargs)  # type: ignore[misc]
        if call is not None:
            # http.client forgets the socket of an answer that ends with its connection, so it is kept here.
            call.socket = self.sock  # type: ignore[attr-defined]


class _WatchedHTTPConnection(_Watched, HTTPConnection):
    pass


class _WatchedHTTPSConnection(_Watched, HTTPSConnection):
    pass


class _TimedPool:
    """Mixed into urllib3's pools: no connection is used again once its server may be closing it."""

    def _get_conn(self, timeout: float | None = None) -> Any:
        connection = super()._get_conn(timeout)  # type: ignore[misc]
        if connection.usable_until <= time.monotonic():
            connection.close()
            connection.usable_until = math.inf
        return connection


class _HTTPPool(_TimedPool, HTTPConnectionPool):
    ConnectionCls = _WatchedHTTPConnection


class _HTTPSPool(_TimedPool, HTTPSConnectionPool):
    ConnectionCls = _WatchedHTTPSConnection


class _Adapter(HTTPAdapter):
    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {"http": _HTTPPool, "https": _HTTPSPool}


class RequestsTransport:
    """The seam over `requests`: kept-alive connections, the environment's outgoing proxy and CA bundle."""

    def __init__(
        self, base_url: str, *, connect_timeout_seconds: float = 5, pool_size: int = 256, ca_file: str = ""
    ) -> None:
        """Prepare for calls under `base_url`; raises SettingsError. Proxy and CA settings are read here."""
        self.connect_timeout_seconds = connect_timeout_seconds
        self._session = requests.Session()
        adapter = _Adapter(pool_connections=4, pool_maxsize=pool_size, max_retries=Retry(0, redirect=False))
        self._session.mount("http://", adapter)
        self._session.mount("https://", adapter)
        found = environment_settings(base_url, ca_file)
        self._settings = {"proxies": found.proxies, "verify": found.ca_bundle, "cert": None}
        # With trust_env a netrc entry could replace our Authorization header, at 150 µs a call.
        self._session.trust_env = False

    def send(self, request: FlowiseRequest) -> Reply:
        """Start the call and return its reply at once."""
        return _RequestsReply(self._session, request, self.connect_timeout_seconds, self._settings)

    def close(self) -> None:
        """Close idle connections."""
        self._session.close()


class _RequestsReply:
    """One call in its own thread, read through a bounded queue: a slow reader slows Flowise down."""

    def __init__(
        self,
        session: requests.Session,
        request: FlowiseRequest,
        connect_timeout_seconds: float,
        settings: Mapping[str, Any],
    ) -> None:
        self.closed = False
        self.connection: _Watched | None = None
        self.socket: socket.socket | None = None
        self._is_read = False
        self._head: ReplyHead | None = None
        self._pieces: queue.Queue[ReplyHead | bytes | Exception] = queue.Queue(_PIECES_AHEAD)
        arguments = (session, request, connect_timeout_seconds, settings)
        try:
            threading.Thread(target=self._run, args=arguments, daemon=True).start()
        except BaseException:
            # Starting waits for the thread; a caller that is ended meanwhile never gets this reply to close.
            self.close()
            raise

    def head(self, seconds: float) -> ReplyHead | None:
        """Return status and headers, or None when they did not come within `seconds`."""
        if self._head is None:
            piece = self._next(seconds)
            if isinstance(piece, ReplyHead):
                self._head = piece
        return self._head

    def read_available(self, seconds: float) -> bytes | None:
        """Return what has arrived, `b""` at the reply's proper end, None when nothing came in `seconds`."""
        piece = self._next(seconds)
        if not piece or isinstance(piece, ReplyHead):
            return piece if isinstance(piece, bytes) else None
        pieces = [piece]
        with contextlib.suppress(queue.Empty):
            while self._pieces.queue and isinstance(self._pieces.queue[0], bytes) and self._pieces.queue[0]:
                pieces.append(self._pieces.get_nowait())  # type: ignore[arg-type]
        return b"".join(pieces)

    def pump(self, take: Callable[[bytearray], bool]) -> None:
        """Read everything as ever: pieces arrive in another thread."""

    def close(self) -> None:
        """Let go of the connection at once, also while nothing has been answered."""
        self.closed = True
        if self.connection is not None and self.connection.user is self and not self._is_read:
            used = self.socket or getattr(self.connection, "sock", None)
            if used is not None:
                with contextlib.suppress(OSError):
                    used.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(queue.Empty):
            while True:
                self._pieces.get_nowait()

    def _next(self, seconds: float) -> ReplyHead | bytes | None:
        try:
            piece = self._pieces.get(timeout=max(seconds, 0.0005))
        except queue.Empty:
            return None
        if isinstance(piece, Exception):
            raise piece
        return piece

    def _run(
        self,
        session: requests.Session,
        request: FlowiseRequest,
        connect_timeout_seconds: float,
        settings: Mapping[str, Any],
    ) -> None:
        _calls.current = self
        try:
            prepared = _prepared(request)
            with session.send(
                prepared,
                stream=True,
                allow_redirects=False,
                timeout=(connect_timeout_seconds, None),
                **settings,
            ) as response:
                self._pass_on(response)
        except (requests.RequestException, HTTPError, OSError, ValueError, AttributeError) as error:
            # An AttributeError comes out of http.client when close() cuts the socket under a read.
            self._put(_translated(error))
        finally:
            _calls.current = None

    def _pass_on(self, response: requests.Response) -> None:
        if response.status_code < 200 and self.connection is not None:
            # An early hint: the answer proper is still to come on this connection, which nobody else may get.
            self.connection.close()  # type: ignore[attr-defined]
            raise ConnectionResetError("an interim answer")
        headers = {name.lower(): value for name, value in response.headers.items()}
        self._put(ReplyHead(response.status_code, headers))
        if self.connection is not None:
            self.connection.usable_until = time.monotonic() + keep_alive_seconds(headers)
        while not self.closed:
            piece = response.raw.read1(_READ_BYTES, decode_content=False)
            if not piece:
                self._is_read = True  # the connection is back in the pool and may serve another call
            self._put(piece)
            if not piece:
                return

    def _put(self, piece: ReplyHead | bytes | Exception) -> None:
        while not self.closed:
            with contextlib.suppress(queue.Full):
                self._pieces.put(piece, timeout=1)
                return


def _prepared(request: FlowiseRequest) -> requests.PreparedRequest:
    prepared = requests.PreparedRequest()
    # Compressed answers would be held back by the compressor and could blow up when unpacked.
    headers = {"Accept-Encoding": "identity", **request.headers}
    prepared.prepare(method=request.method, url=request.url, headers=headers, data=request.body)
    return prepared


def _translated(error: Exception) -> NotSent | ConnectionBroken:
    """Sort a failure by whether the request can have reached Flowise; keep no address in the text."""
    if isinstance(error, (InvalidHeader, InvalidURL)):
        return NotSent("the address or a header is malformed")
    reason = error.args[0] if error.args else error
    reason = getattr(reason, "reason", reason)
    if isinstance(error, requests.Timeout) or isinstance(reason, PoolTimeoutError):
        return NotSent("connecting timed out")  # a TLS handshake counts as that, and reading has no limit
    if isinstance(reason, NewConnectionError):
        return NotSent("the connection was refused or the name is unknown")
    if isinstance(error, requests.exceptions.SSLError) or isinstance(reason, PoolSSLError):
        return _tls_fault(reason)
    if isinstance(error, requests.exceptions.ProxyError):
        return NotSent("the outgoing proxy refused")
    return ConnectionBroken("the connection broke before the answer was whole")


def _tls_fault(error: Any) -> NotSent:
    cause = error.args[0] if error.args else None
    if isinstance(cause, ssl.SSLCertVerificationError):
        return not_trusted(cause)
    return NotSent("the TLS connection could not be made")
