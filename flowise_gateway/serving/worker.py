"""Gunicorn's gevent worker, and how it ends: answers under way finish, idle connections are closed."""

from __future__ import annotations

import contextlib
import gc
import logging
import signal
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
from flowise_gateway.serving.client_socket import ClientSocket

log = logging.getLogger(__name__)
ENDING_SECONDS = 2.0
"""How long answers that were ended at the drain's limit may take to tell their clients."""

_STEP_SECONDS = 0.05
_BEAT_SECONDS = 0.2


class _Settings:
    """Gunicorn's settings, each looked up once: gunicorn reads some thirty of them for each request."""

    def __init__(self, settings: Any) -> None:
        self._settings = settings

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._settings, name)
        setattr(self, name, value)
        return value


class Worker(GeventWorker):  # type: ignore[misc]
    """Serves until a signal; then answers under way are finished, and new requests are refused."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._idle: set[Any] = set()
        self._busy = 0
        self._interrupts = 0

    def handle_quit(self, sig: int, frame: Any) -> None:
        """Let answers finish, as after SIGTERM; a person's second interrupt ends them at once."""
        self._interrupts += sig == signal.SIGINT
        if self._interrupts > 1:
            super().handle_quit(sig, frame)
        else:
            self.handle_exit(sig, frame)

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
        """Let answers finish until the limit, then end the rest with an error that their clients are told."""
        self.wsgi.is_draining = True
        for client in list(self._idle):
            with contextlib.suppress(OSError):
                client.shutdown(SHUT_RD)
        if self._busy:
            log.info("%s answers may finish within %s s", self._busy, self.app.drain_seconds)
        self._wait_while(self._is_busy, self.app.drain_seconds)
        if self._busy:
            self.log.warning("%s answers did not end within PROXY_DRAIN_SECONDS", self._busy)
            self.wsgi.end_runs()
            self._wait_while(self._is_busy, ENDING_SECONDS)
        self._wait_while(_is_aborting_runs, ENDING_SECONDS)

    def _is_busy(self) -> bool:
        return self._busy > 0

    def _wait_while(self, is_so: Callable[[], bool], seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while is_so() and time.monotonic() < deadline:
            self.notify()
            gevent.sleep(_STEP_SECONDS)

    def handle(self, listener: Any, client: Any, address: Any) -> None:
        """Serve a connection, request after request."""
        client = ClientSocket(fileno=client.detach())
        # A time limit for each write: a client that reads nothing must not hold a run for ever.
        client.settimeout(self.app.body_timeout_seconds)
        self._idle.add(client)
        try:
            # GeventWorker's own `handle` would take the time limit off again.
            super(GeventWorker, self).handle(listener, client, address)
        finally:
            self._idle.discard(client)
            client.begin_request(None)

    def handle_request(self, listener_name: Any, request: Any, client: Any, address: Any) -> None:
        """Serve a request; when the worker is ending, the connection ends with its answer."""
        self._idle.discard(client)
        client.begin_request(request)
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
        client.yield_to_others()


def _is_aborting_runs() -> bool:
    """Whether calls that abort runs in Flowise are still under way."""
    return any(thread.name.startswith(RUN_THREAD) for thread in threading.enumerate())
