"""A connection to Flowise in gevent's event loop, and the response parser."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping
from socket import IPPROTO_TCP, MSG_PEEK, SO_ERROR, SO_KEEPALIVE, SOCK_STREAM, SOL_SOCKET, TCP_NODELAY
from typing import Any

import gevent
from gevent import socket, ssl
from gevent.monkey import get_original
from geventhttpclient.response import HTTPParseError, HTTPResponse

READ, WRITE = 1, 2
"""The events to wait for on a connection; the numbers are those of gevent's loop."""

_READ_BYTES = 32768
_SHORTEST_SECONDS = 0.0005
_LATE_SECONDS = 0.001

Waits = Generator[int, None, None]
"""The steps of a call: each value is the event that the connection must wait for before the next step."""

OnReadable = Callable[[], bool]
"""Called in the event loop when data is readable; true if the reader need not be woken."""

# The socket never blocks, so it does not need the watchers that gevent's own sockets create.
_native_socket = get_original("socket", "socket")


class Connection:
    """A non-blocking connection to Flowise; other greenlets only run during `wait`."""

    __slots__ = ("_reading", "_socket", "pump", "usable_until")

    def __init__(self, family: int) -> None:
        self._socket: Any = _native_socket(family, SOCK_STREAM)
        self._socket.setblocking(False)
        self._reading: _Waiter | None = None
        self.usable_until = 0.0
        self.pump: OnReadable | None = None

    def connect(self, address: Any, until: float) -> Generator[int, None, bool]:
        """Connect; returns whether that succeeded before `until`. Raises OSError."""
        self._socket.setsockopt(IPPROTO_TCP, TCP_NODELAY, 1)
        # Keep-alive probes detect a host that is gone, since a run may be silent for a long time.
        self._socket.setsockopt(SOL_SOCKET, SO_KEEPALIVE, 1)
        try:
            self._socket.connect(address)
        except BlockingIOError:
            yield WRITE
            return time.monotonic() < until and not self._socket.getsockopt(SOL_SOCKET, SO_ERROR)
        return True

    def encrypt(self, context: Any, host: str, until: float) -> Waits:
        """Do the TLS handshake. Raises OSError."""
        bare = socket.socket(fileno=self._socket.detach())
        bare.settimeout(0.0)
        self._socket = context.wrap_socket(bare, server_hostname=host, do_handshake_on_connect=False)
        while time.monotonic() < until:
            try:
                self._socket.do_handshake()
            except ssl.SSLWantReadError:
                yield READ
            except ssl.SSLWantWriteError:
                yield WRITE
            else:
                return
        raise TimeoutError

    def send(self, data: memoryview) -> int:
        """Send as much of `data` as the socket accepts, and return the size. Raises OSError."""
        try:
            return int(self._socket.send(data))
        except BlockingIOError:
            return 0

    def receive(self) -> bytes | None:
        """Received data, `b""` at the end, None if there is none. Raises OSError."""
        try:
            return bytes(self._socket.recv(_READ_BYTES))
        except (BlockingIOError, ssl.SSLWantReadError):
            return None

    @property
    def is_ready(self) -> bool:
        """Whether there are decrypted bytes, for which the socket does not become readable."""
        return isinstance(self._socket, ssl.SSLSocket) and self._socket.pending() > 0

    def is_quiet(self) -> bool:
        try:
            if isinstance(self._socket, ssl.SSLSocket):
                socket.socket.recv(self._socket, 1, MSG_PEEK)
            else:
                self._socket.recv(1, MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def wait(self, events: int, seconds: float) -> bool:
        """Let other greenlets run until the connection is ready; returns whether it was within `seconds`."""
        if events == READ:
            if self._reading is None:
                self._reading = _Waiter(self._socket.fileno(), READ)
            return self._reading.wait(seconds, self.pump)
        writing = _Waiter(self._socket.fileno(), events)
        try:
            return writing.wait(seconds, None)
        finally:
            writing.close()

    def close(self) -> None:
        """Close the connection at any time, and drop the pump, which references the run."""
        self.pump = None
        if self._reading is not None:
            self._reading.close()
            self._reading = None
        self._socket.close()


class _Waiter:
    """Waits until a connection is ready, once per token, without a new timer for each wait.

    The watcher stays started between waits. The timer is not stopped when a wait ends; if it fires during a
    later wait, it is restarted for the remaining time. `socket.wait` with a timeout costs twice as much: it
    creates an exception for each wait.
    """

    __slots__ = ("_due", "_fires", "_hub", "_is_watching", "_pump", "_timer", "_waiting", "_watcher")

    def __init__(self, fileno: int, events: int) -> None:
        self._hub: Any = gevent.get_hub()
        self._watcher = self._hub.loop.io(fileno, events)
        self._timer: Any = None
        self._waiting: Any = None
        self._is_watching = False
        self._pump: OnReadable | None = None
        self._due = self._fires = 0.0

    def wait(self, seconds: float, pump: OnReadable | None) -> bool:
        """Let other greenlets run until the connection is ready; returns whether it was within `seconds`."""
        self._waiting = gevent.getcurrent()
        self._pump = pump
        self._due = time.monotonic() + seconds
        if self._timer is None or self._fires > self._due + _LATE_SECONDS:
            self._set_timer(seconds)
        if not self._is_watching:
            self._is_watching = True
            self._watcher.start(self._ready)
        try:
            return bool(self._hub.switch())
        finally:
            self._waiting = self._pump = None

    def close(self) -> None:
        self._watcher.close()
        if self._timer is not None:
            self._timer.close()
            self._timer = None

    def _set_timer(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.close()
        self._fires = time.monotonic() + seconds
        self._timer = self._hub.loop.timer(max(seconds, _SHORTEST_SECONDS))
        self._timer.start(self._fired)

    def _ready(self) -> None:
        if self._waiting is None:
            self._is_watching = False
            self._watcher.stop()
            return
        try:
            if self._pump is not None and self._pump():
                return
        except Exception as error:  # noqa: BLE001 - the loop would only print it
            self._waiting.throw(error)
        else:
            self._waiting.switch(True)

    def _fired(self) -> None:
        self._timer.close()
        self._timer = None
        if self._waiting is None:
            return
        left = self._due - time.monotonic()
        if left > 0:
            self._set_timer(left)
        else:
            self._waiting.switch(False)


class AnswerParser(HTTPResponse):
    """llhttp for one response; `body` is the received part that was not consumed yet."""

    def __init__(self) -> None:
        super().__init__()
        self.body = bytearray()
        # llhttp calls this for each chunk, possibly each token: a C function, so that no Python code runs.
        vars(self)["_on_body"] = self.body.extend
        self.is_whole = False

    @property
    def has_head(self) -> bool:
        """Whether the response headers have arrived; interim responses (1xx) do not count."""
        return self.headers_complete and self.get_code() >= 200

    def headers_by_name(self) -> Mapping[str, str]:
        """The headers, names in lower case, the values of a repeated one joined."""
        found: dict[str, str] = {}
        for name, value in self.items():
            lowered = name.lower()
            found[lowered] = f"{found[lowered]}, {value}" if lowered in found else value
        return found

    def _on_message_begin(self) -> None:
        if self.is_whole:
            raise HTTPParseError("more than one answer")
        super()._on_message_begin()

    def _on_message_complete(self) -> None:
        super()._on_message_complete()
        self.is_whole = self.has_head
