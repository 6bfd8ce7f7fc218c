"""The transport protocol of the Flowise client: a request is sent, and its reply read as it arrives."""

from __future__ import annotations

import contextlib
import ipaddress
import ssl
import time
import weakref
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, Protocol, TypeVar
from urllib.parse import urlsplit

import requests
from requests.utils import DEFAULT_CA_BUNDLE_PATH, select_proxy

from flowise_gateway.flow.errors import SettingsError

_KEEP_ALIVE_SECONDS = 30.0
"""How long an idle connection may be reused if the server sends no Keep-Alive header."""


class NotSent(Exception):
    """The request did not reach Flowise: connection refused or timed out, unknown name, TLS failure."""


class NotTrusted(NotSent):
    """Flowise's certificate is not trusted; the text says why."""


class ConnectionBroken(Exception):
    """The connection failed after the request was sent: the flow may have run."""


@dataclass(frozen=True, slots=True)
class FlowiseRequest:
    """A request to Flowise; `url` is absolute, `headers` are sent in addition to the transport's own."""

    method: str
    url: str
    # Key and prompt are left out, so that they never appear where a request is printed.
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: bytes | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class ReplyHead:
    """Status and headers (names in lower case) of a reply."""

    status: int
    headers: Mapping[str, str]


class Reply(Protocol):
    """A reply in progress. Every method raises NotSent or ConnectionBroken if the call fails."""

    def head(self, seconds: float) -> ReplyHead | None:
        """Return status and headers, or None if they do not arrive within `seconds`."""

    def read_available(self, seconds: float) -> bytes | None:
        """Return received data, `b""` at the reply's regular end, None if nothing arrives in `seconds`."""

    def pump(self, take: Callable[[bytearray], bool]) -> None:
        """Call `take` with received data that has not been read yet, while the reader waits.

        `take` runs in the event loop, so it must not block. Data that it leaves in its argument is read as
        usual. If it returns true, the reader keeps waiting; if false, the reader wakes up, and gets None if
        no data is left. A reply may ignore `take`.
        """

    def close(self) -> None:
        """Release the connection at once, even before a response has arrived."""


@dataclass(frozen=True, slots=True)
class EnvironmentSettings:
    """Proxy and CA settings from the environment for calls to a URL, as `requests` reads them."""

    proxies: Mapping[str, str]
    ca_bundle: str

    def proxy(self, url: str) -> str | None:
        """The outgoing proxy for `url`, if there is one."""
        return select_proxy(url, self.proxies)


def environment_settings(base_url: str, ca_file: str = "") -> EnvironmentSettings:
    """The outgoing proxy (none for a URL on this machine) and the certificate authorities.

    They come from `ca_file`, otherwise from REQUESTS_CA_BUNDLE, CURL_CA_BUNDLE or SSL_CERT_FILE, otherwise
    from `requests`. Raises SettingsError if they cannot be read.
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
    """The reason why a certificate is not trusted, without the host names in it."""
    return NotTrusted(_CERTIFICATE_FAULTS.get(error.verify_code) or error.verify_message)


_CERTIFICATE_FAULTS = {
    18: "it is self-signed",
    19: "it is signed by an unknown authority",
    20: "it is signed by an unknown authority",
    62: "it is for another host name than that of FLOWISE_BASE_URL",
    64: "it is for another address than that of FLOWISE_BASE_URL",
}
"""Texts by OpenSSL error number (X509_V_ERR_…), since OpenSSL's own messages contain host names."""


def keep_alive_seconds(headers: Mapping[str, str]) -> float:
    """How long an idle connection can be reused: a second less than the server keeps it open."""
    for part in headers.get("keep-alive", "").split(","):
        name, _, seconds = part.strip().partition("=")
        if name.lower() == "timeout" and seconds.isascii() and seconds.isdigit() and len(seconds) < 7:
            return max(0.0, int(seconds) - 1.0)
    return _KEEP_ALIVE_SECONDS


class IdleConnection(Protocol):
    """A connection whose last response was read completely."""

    usable_until: float

    def is_quiet(self) -> bool:
        """Whether it is still open: a readable one was closed, or has data that belongs to no request."""

    def close(self) -> None:
        """Close it."""


_C = TypeVar("_C", bound=IdleConnection)


class IdleConnections(Generic[_C]):
    """A pool of idle connections. Thread-safe."""

    def __init__(self, max_idle: int) -> None:
        self._max_idle = max_idle
        self._idle: deque[_C] = deque()
        # A client that is garbage-collected without being closed must not leak open sockets.
        weakref.finalize(self, _close_all, self._idle).atexit = False

    def take(self) -> _C | None:
        """The most recently used connection that can be reused."""
        with contextlib.suppress(IndexError):
            while True:
                connection = self._idle.pop()
                if connection.usable_until > time.monotonic() and connection.is_quiet():
                    return connection
                connection.close()
        return None

    def give_back(self, connection: _C, usable_seconds: float) -> None:
        """Return a connection to the pool; expired and excess ones are closed."""
        now = time.monotonic()
        connection.usable_until = now + usable_seconds
        self._idle.append(connection)
        with contextlib.suppress(IndexError):
            while len(self._idle) > self._max_idle or self._idle[0].usable_until < now:
                self._idle.popleft().close()

    def close(self) -> None:
        """Close all of them."""
        _close_all(self._idle)


def _close_all(connections: deque[_C]) -> None:
    with contextlib.suppress(IndexError):
        while True:
            connections.pop().close()


class Transport(Protocol):
    """Sends requests to one Flowise."""

    def send(self, request: FlowiseRequest) -> Reply:
        """Return the reply at once; the call is only guaranteed to proceed while its reader waits."""

    def close(self) -> None:
        """Close idle connections."""


def _is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def read_all(reply: Reply, seconds: float, limit_bytes: int = 64 * 1024**2) -> bytes | None:
    """Return a reply's whole body, or None if it does not arrive within `seconds` or exceeds the limit."""
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
