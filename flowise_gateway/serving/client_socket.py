"""A client connection that sends headers together with the body's first bytes, and has write timeouts."""

from __future__ import annotations

import contextlib
import os
import time
from fcntl import ioctl
from socket import SHUT_RD, SHUT_WR
from termios import FIONREAD
from typing import Any

import gevent
from gevent import socket

from flowise_gateway.flow.cooperative import LOOP_SLEEP_SECONDS, yield_now
from flowise_gateway.serving.request_body import MAX_LEFT_BYTES

LINGER_SECONDS = 30.0
LINGER_SILENT_SECONDS = 5.0
"""How long a client that was answered early may continue sending its body, and how long it may pause."""

WRITE_STEP_BYTES = 65_536
"""Large responses are written in steps with a timeout each, so that slow clients are not disconnected."""
_NOTHING = bytes(4)
# Without 1xx, which must be sent at once, since the client continues after it.
_HEADS = (b"HTTP/1.1 2", b"HTTP/1.1 3", b"HTTP/1.1 4", b"HTTP/1.1 5")


class ClientSocket(socket.socket):
    """A client connection; response headers are sent together with the first bytes of the body."""

    _head = b""
    _request: Any = None
    _is_answering = False

    def begin_request(self, request: Any) -> None:
        """Start the next request, if any, and free the buffered part of the last one's body."""
        if self._request is not None:
            self._request.body.free()
        self._request = request
        self._is_answering = False

    def end_reading(self) -> None:
        """Close an idle connection as if the client had; a request that has arrived is still read.

        gevent's own `shutdown` would interrupt the pending read with an error in the log.
        """
        with contextlib.suppress(OSError):
            self._sock.shutdown(SHUT_RD)  # type: ignore[attr-defined]  # gevent's stubs lack it

    def announce_end(self) -> None:
        """Add `Connection: close` to the current response, unless its headers have been sent."""
        if not self._is_answering:
            self._request.force_close()

    def end_request(self) -> None:
        """Close the connection after the response if too much of the request body is unread."""
        self._request.body.finish()
        if self._request.body.left > MAX_LEFT_BYTES:
            self._request.force_close()

    def yield_to_others(self) -> None:
        """Let other greenlets run before the next request, so that no client can block the worker."""
        gevent.sleep(LOOP_SLEEP_SECONDS)
        if self._has_sent_ahead():
            yield_now()

    def _has_sent_ahead(self) -> bool:
        unread = ioctl(self.fileno(), FIONREAD, _NOTHING)
        return unread != _NOTHING or self._request.unreader.buf.tell() > 0

    def linger(self) -> None:
        """End the response and discard data that the client still sends.

        Closing a socket with unread data resets it, and the client would lose the response (RFC 9112, 9.6).
        """
        deadline = time.monotonic() + LINGER_SECONDS
        with contextlib.suppress(OSError):
            self.shutdown(SHUT_WR)
            while (left := deadline - time.monotonic()) > 0:
                self.settimeout(min(left, LINGER_SILENT_SECONDS))
                if not self.recv(WRITE_STEP_BYTES):
                    return
                gevent.sleep(LOOP_SLEEP_SECONDS)

    def sendall(self, data: Any, flags: int = 0) -> None:
        """Send all data, each step within the timeout; headers are held until the next bytes."""
        if self._head:
            data, self._head = self._head + data, b""
        elif data.startswith(_HEADS) and data.endswith(b"\r\n\r\n"):
            self._head = data
            self._is_answering = True
            return
        sent = self.send(data, flags)
        if sent < len(data):
            left = memoryview(data)[sent:]
            for start in range(0, len(left), WRITE_STEP_BYTES):
                super().sendall(left[start : start + WRITE_STEP_BYTES], flags)

    def write_chunk_now(self, data: bytes) -> bool:
        """Send a chunk without blocking; false if the next `sendall` must send the rest of it."""
        chunk = b"%X\r\n%b\r\n" % (len(data), data)
        try:
            sent = os.write(self.fileno(), chunk)
        except OSError:  # The buffer is full, or the client is gone, which the next `sendall` detects.
            sent = 0
        self._head = chunk[sent:]
        return sent == len(chunk)

    def flush(self) -> None:
        """Send the headers of a response without a body."""
        if self._head:
            self.sendall(b"")
