"""Gunicorn's gevent worker, and how it ends: streams finish, idle connections do not hold it. Composition."""

from __future__ import annotations

import contextlib
import gc
import os
import threading
import time
from collections.abc import Callable
from fcntl import ioctl
from socket import SHUT_RD, SHUT_WR
from termios import FIONREAD
from typing import Any

import gevent
from gevent import socket
from gevent.pool import Pool
from gevent.server import StreamServer
from gunicorn.workers.ggevent import GeventWorker  # type: ignore[import-untyped]

from flow_guards import RUN_THREAD
from proxy_edge import MOST_LEFT_BYTES
from proxy_turns import LOOP_TURN, take_turn

LAST_WORDS_SECONDS = 2.0
"""What the answers that were ended at the limit may take to say so."""

LINGER_SECONDS = 30.0
LINGER_SILENT_SECONDS = 5.0
"""How long a client that was answered early may go on sending its body, and how long it may pause."""

WRITE_STEP_BYTES = 65_536
"""Each step has a time limit of its own, so that a slow client of a large answer is not taken for gone."""

_NOTHING = bytes(4)
_STEP_SECONDS = 0.05
_BEAT_SECONDS = 0.2
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
        if self._request.body.left > MOST_LEFT_BYTES:
            self._request.force_close()

    def rest(self) -> None:
        """Let others run before the next request: a client that asks on and on would never be waited for."""
        gevent.sleep(LOOP_TURN)
        if self._has_sent_ahead():
            take_turn()

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
                gevent.sleep(LOOP_TURN)

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


class _Settings:
    """Gunicorn's settings, each found once: it asks for some thirty of them a request."""

    def __init__(self, settings: Any) -> None:
        self._settings = settings

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._settings, name)
        setattr(self, name, value)
        return value


class Worker(GeventWorker):  # type: ignore[misc]
    """Serves until told to end; then what has begun is finished, and what is new is refused."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        """Take what gunicorn gives."""
        super().__init__(*arguments, **named)
        self._idle: set[Any] = set()
        self._busy = 0

    def run(self) -> None:
        """Serve until a signal, then drain."""
        self.cfg: Any = _Settings(self.cfg)
        gc.freeze()
        gc.set_threshold(10_000, 20, 50)
        servers = [self._server(listener) for listener in self.sockets]
        while self.alive:
            self.notify()
            due = time.monotonic() + _BEAT_SECONDS
            gevent.sleep(_BEAT_SECONDS)
            self.wsgi.metrics.beat(max(0.0, time.monotonic() - due))
        self._drain()
        self.wsgi.metrics.show()
        for server in servers:
            server.stop(timeout=0)

    def _server(self, listener: Any) -> Any:
        listener.setblocking(1)
        pool = Pool(self.worker_connections)
        server = StreamServer(
            listener, handle=lambda client, address: self.handle(listener, client, address), spawn=pool
        )
        if self.cfg.workers > 1:
            server.max_accept = 1
        server.start()
        return server

    def _drain(self) -> None:
        """Let answers finish until the limit, then have them say that they could not."""
        self.wsgi.is_draining = True
        for client in list(self._idle):
            with contextlib.suppress(OSError):
                client.shutdown(SHUT_RD)
        self._wait_while(self._is_busy, self.app.drain_seconds)
        if self._busy:
            self.log.warning("%s answers did not end within PROXY_DRAIN_SECONDS", self._busy)
            self.wsgi.end_runs()
            self._wait_while(self._is_busy, LAST_WORDS_SECONDS)
        self._wait_while(_has_runs_in_hand, LAST_WORDS_SECONDS)

    def _is_busy(self) -> bool:
        return self._busy > 0

    def _wait_while(self, is_so: Callable[[], bool], seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while is_so() and time.monotonic() < deadline:
            self.notify()
            gevent.sleep(_STEP_SECONDS)

    def handle(self, listener: Any, client: Any, address: Any) -> None:
        """Serve a connection, request after request."""
        client = _Client(fileno=client.detach())
        # Each write has that long: a client that takes nothing must not hold a run for ever.
        client.settimeout(self.app.body_timeout_seconds)
        self._idle.add(client)
        try:
            # Not gunicorn's own `handle`, which would take the time limit off again.
            super(GeventWorker, self).handle(listener, client, address)
        finally:
            self._idle.discard(client)
            client.serves(None)

    def handle_request(self, listener_name: Any, request: Any, client: Any, address: Any) -> None:
        """Serve a request; the last one of its connection when the worker is ending."""
        self._idle.discard(client)
        client.serves(request)
        self._busy += 1
        is_last = False
        try:
            super().handle_request(listener_name, request, client, address)
        except StopIteration:
            is_last = True
        finally:
            self._busy -= 1
            self._idle.add(client)
        client.flush()
        if is_last or not self.alive:
            if request.body.left:
                client.linger()
            raise StopIteration
        client.rest()


def _has_runs_in_hand() -> bool:
    """Whether Flowise is still being told of runs that were ended."""
    return any(thread.name.startswith(RUN_THREAD) for thread in threading.enumerate())
