"""Gunicorn's gevent worker, and how it ends: streams finish, idle connections do not hold it."""

from __future__ import annotations

import contextlib
import gc
import threading
import time
from collections.abc import Callable
from socket import SHUT_RD
from typing import Any

import gevent
from gevent.pool import Pool
from gevent.server import StreamServer
from gunicorn.workers.ggevent import GeventWorker  # type: ignore[import-untyped]

from flowise_gateway.flow.parallel import RUN_THREAD
from flowise_gateway.serving.client_socket import _Client

LAST_WORDS_SECONDS = 2.0
"""What the answers that were ended at the limit may take to say so."""

_STEP_SECONDS = 0.05
_BEAT_SECONDS = 0.2


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
