"""A client's connection: heads wait for their first bytes, slow readers have a time limit."""

from __future__ import annotations

import contextlib
import os
import time
from fcntl import ioctl
from socket import SHUT_WR
from termios import FIONREAD
from typing import Any

import gevent
from gevent import socket

from flowise_gateway.flow.cooperative import LOOP_SLEEP_SECONDS, yield_now
from flowise_gateway.serving.request_body import MAX_LEFT_BYTES

LINGER_SECONDS = 30.0
LINGER_SILENT_SECONDS = 5.0
"""How long a client that was answered early may go on sending its body, and how long it may pause."""

WRITE_STEP_BYTES = 65_536
"""Each step has a time limit of its own, so that a slow client of a large answer is not taken for gone."""
_NOTHING = bytes(4)
# Not those of 1xx, after which the client is to speak.
_HEADS = (b"HTTP/1.1 2", b"HTTP/1.1 3", b"HTTP/1.1 4", b"HTTP/1.1 5")


class _Client(socket.socket):
    """A client's connection: an answer's head waits for its first bytes, and most writes are one call."""

    _head = b""
    _request: Any = None

    def serves(self, request: Any) -> None:
        """Take the next request, if any, and let go of the last one's body."""
        if self._request is not None:
            self._request.body.let_go()
        self._request = request

    def answered(self) -> None:
        """Have the connection end with its answer if too much of the request's body is left to read it."""
        self._request.body.finish()
        if self._request.body.left > MAX_LEFT_BYTES:
            self._request.force_close()

    def rest(self) -> None:
        """Let others run before the next request: a client that asks on and on would never be waited for."""
        gevent.sleep(LOOP_SLEEP_SECONDS)
        if self._has_sent_ahead():
            yield_now()

    def _has_sent_ahead(self) -> bool:
        unread = ioctl(self.fileno(), FIONREAD, _NOTHING)
        return unread != _NOTHING or self._request.unreader.buf.tell() > 0

    def linger(self) -> None:
        """End the answer and throw away what still comes: a close would take it back (RFC 9112, 9.6)."""
        deadline = time.monotonic() + LINGER_SECONDS
        with contextlib.suppress(OSError):
            self.shutdown(SHUT_WR)
            while (left := deadline - time.monotonic()) > 0:
                self.settimeout(min(left, LINGER_SILENT_SECONDS))
                if not self.recv(WRITE_STEP_BYTES):
                    return
                gevent.sleep(LOOP_SLEEP_SECONDS)

    def sendall(self, data: Any, flags: int = 0) -> None:
        """Send all, each step within the time limit, but keep a head back for what follows it."""
        if self._head:
            data, self._head = self._head + data, b""
        elif data.startswith(_HEADS) and data.endswith(b"\r\n\r\n"):
            self._head = data
            return
        sent = self.send(data, flags)
        if sent < len(data):
            left = memoryview(data)[sent:]
            for start in range(0, len(left), WRITE_STEP_BYTES):
                super().sendall(left[start : start + WRITE_STEP_BYTES], flags)

    def write_chunk_now(self, data: bytes) -> bool:
        """Send a chunk of an answer without waiting; false if some of it is kept for the next `sendall`."""
        chunk = b"%X\r\n%b\r\n" % (len(data), data)
        try:
            sent = os.write(self.fileno(), chunk)
        except OSError:  # no room, or the client is gone, which that `sendall` will find
            sent = 0
        self._head = chunk[sent:]
        return sent == len(chunk)

    def flush(self) -> None:
        """Send the head of an answer without a body."""
        if self._head:
            self.sendall(b"")
