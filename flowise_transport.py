"""The HTTP seam under the Flowise client: a request goes out, its reply is read as it comes. Upstream layer.

A reply never blocks longer than its reader allows, so that one loop can wait for Flowise, keep its own client
alive and obey every time limit. `RequestsTransport` works with any Python server, an outgoing proxy and
private certificates; it runs the call in a thread of its own (a greenlet where threads are patched), because
a time limit that fires inside a read of `requests` loses the stream without an error. Serving has its own in
`flowise_transport_gevent`.
"""

from __future__ import annotations

import contextlib
import ipaddress
import math
import queue
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from requests.exceptions import InvalidHeader, InvalidURL
from requests.utils import DEFAULT_CA_BUNDLE_PATH, select_proxy
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool, Retry
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError, NewConnectionError
from urllib3.exceptions import SSLError as PoolSSLError
from urllib3.exceptions import TimeoutError as PoolTimeoutError

from proxy_settings import SettingsError

_READ_BYTES = 65536
_PIECES_AHEAD = 32
_KEEP_ALIVE_SECONDS = 30.0
"""How long an idle connection is used again where the server does not tell."""


class NotSent(Exception):
    """The request did not reach Flowise: refused, name unknown, TLS failed, connecting timed out."""


class NotTrusted(NotSent):
    """Flowise's certificate is not trusted; the text says why."""


class ConnectionBroken(Exception):
    """The connection failed after the request went out: the flow may have run."""


@dataclass(frozen=True, slots=True)
class FlowiseRequest:
    """A request to Flowise; `url` is absolute, `headers` are all that is sent beside the transport's own."""

    method: str
    url: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None


@dataclass(frozen=True, slots=True)
class ReplyHead:
    """Status and headers (names in lower case) of a reply."""

    status: int
    headers: Mapping[str, str]


class Reply(Protocol):
    """A reply on its way. Every method raises NotSent or ConnectionBroken when the call fails."""

    def head(self, seconds: float) -> ReplyHead | None:
        """Return status and headers, or None when they did not come within `seconds`."""

    def read_available(self, seconds: float) -> bytes | None:
        """Return what has arrived, `b""` at the reply's proper end, None when nothing came in `seconds`."""

    def pump(self, take: Callable[[bytearray], bool]) -> None:
        """Have `take` called with what has arrived and was not read yet, while the reply is waited for.

        It is called in the loop, so it must not wait; what it leaves in is read as ever. True lets the reader
        wait on, false wakes it, with None if nothing is left in. Not every reply does this.
        """

    def close(self) -> None:
        """Let go of the connection at once, also while nothing has been answered."""


@dataclass(frozen=True, slots=True)
class EnvironmentSettings:
    """What the environment says about calls to an address, as `requests` reads it."""

    proxies: Mapping[str, str]
    ca_bundle: str

    def proxy(self, url: str) -> str | None:
        """The outgoing proxy for `url`, if there is one."""
        return select_proxy(url, self.proxies)


def environment_settings(base_url: str, ca_file: str = "") -> EnvironmentSettings:
    """The outgoing proxy, of which none is asked for on this machine, and the certificate authorities.

    These are the ones of `ca_file`, else of REQUESTS_CA_BUNDLE, CURL_CA_BUNDLE or SSL_CERT_FILE, else those
    that `requests` brings along. Raises SettingsError if they cannot be read.
    """
    with requests.Session() as session:
        found = session.merge_environment_settings(base_url, {}, None, None, None)
    proxies = {} if _is_loopback(base_url) else dict(found["proxies"])
    verify = found["verify"]
    ca_bundle = ca_file or (
        verify if isinstance(verify, str) else _openssl_ca_file() or DEFAULT_CA_BUNDLE_PATH
    )
    if base_url.startswith("https:"):
        _check_ca_bundle(ca_bundle)
    return EnvironmentSettings(proxies, ca_bundle)


def _openssl_ca_file() -> str | None:
    """The file that SSL_CERT_FILE names."""
    paths = ssl.get_default_verify_paths()
    return paths.cafile if paths.cafile != paths.openssl_cafile else None


def _check_ca_bundle(path: str) -> None:
    try:
        if not Path(path).is_dir():
            ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=path)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise SettingsError(
            f"the certificate authorities for Flowise cannot be read from {path!r} ({reason}): "
            "FLOWISE_CA_FILE, REQUESTS_CA_BUNDLE, CURL_CA_BUNDLE and SSL_CERT_FILE name a file of "
            "certificates (PEM)"
        ) from None


def not_trusted(error: ssl.SSLCertVerificationError) -> NotTrusted:
    """What a certificate lacks, without the names that it is about."""
    return NotTrusted(_CERTIFICATE_FAULTS.get(error.verify_code) or error.verify_message)


_CERTIFICATE_FAULTS = {
    18: "it is self-signed",
    19: "it is signed by an unknown authority",
    20: "it is signed by an unknown authority",
    62: "it is for another host name than that of FLOWISE_BASE_URL",
    64: "it is for another address than that of FLOWISE_BASE_URL",
}
"""By OpenSSL's number (X509_V_ERR_…); what it says itself of a name holds the name."""


def keep_alive_seconds(headers: Mapping[str, str]) -> float:
    """How long a kept-alive connection can be used again: a second less than the server told."""
    for part in headers.get("keep-alive", "").split(","):
        name, _, seconds = part.strip().partition("=")
        if name.lower() == "timeout" and seconds.isascii() and seconds.isdigit() and len(seconds) < 7:
            return max(0.0, int(seconds) - 1.0)
    return _KEEP_ALIVE_SECONDS


class Transport(Protocol):
    """Sends requests to one Flowise."""

    def send(self, request: FlowiseRequest) -> Reply:
        """Return a call's reply at once; the call is sure to go on only while the reply is waited for."""

    def close(self) -> None:
        """Close idle connections."""


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


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


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


def read_all(reply: Reply, seconds: float, limit_bytes: int = 64 * 1024**2) -> bytes | None:
    """Return a reply's whole body, or None when it did not come within `seconds` or is over the limit."""
    deadline = time.monotonic() + seconds
    pieces: list[bytes] = []
    size = 0
    while (left := deadline - time.monotonic()) > 0:
        piece = reply.read_available(left)
        if piece == b"":
            return b"".join(pieces)
        if piece:
            pieces.append(piece)
            size += len(piece)
            if size > limit_bytes:
                return None
    return None
