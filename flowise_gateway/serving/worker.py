"""Gunicorn's gevent worker, with draining: open connections are answered, new ones go elsewhere."""

from __future__ import annotations

import gc
import logging
import math
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import gevent
from gevent.pool import Pool
from gevent.server import StreamServer
from gunicorn.workers.ggevent import GeventWorker  # type: ignore[import-untyped]

from flowise_gateway.flow.parallel import RUN_THREAD
from flowise_gateway.serving.client_socket import ClientSocket
from flowise_gateway.serving.stray_errors import log_hub_errors
from flowise_gateway.telemetry.log import repeats

log = logging.getLogger(__name__)
ENDING_SECONDS = 2.0
"""How long answers ended at the drain limit may take to send their error."""

BACKLOG = 2048
"""How many connections may wait to be accepted; gunicorn's own default."""

MAX_ACCEPTED_AT_ONCE = 8
"""Of a worker that has no siblings, to which connections could be left; gevent's own default is 100."""

_STEP_SECONDS = 0.05
_BEAT_SECONDS = 0.2


class _Settings:
    """Caches gunicorn's settings, since gunicorn reads some thirty of them per request."""

    def __init__(self, settings: Any) -> None:
        self._settings = settings

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._settings, name)
        setattr(self, name, value)
        return value


class _Listener:
    """The name of a listening socket, for connections that outlive the socket."""

    def __init__(self, listener: Any) -> None:
        self._name = listener.getsockname()

    def getsockname(self) -> Any:
        return self._name


class Worker(GeventWorker):  # type: ignore[misc]
    """Serves until a signal, then drains.

    SIGHUP retires it: other workers serve, so it closes its listening socket and finishes its answers,
    however long that takes. SIGTERM stops it: answers that exceed PROXY_DRAIN_SECONDS end with an error. Its
    listening socket is closed at once if other servers exist; otherwise new requests are refused.
    """

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.is_retired = False
        self._last_update = self.tmp.last_update()
        self._idle: set[Any] = set()
        self._busy: set[Any] = set()
        self._deadline = math.inf
        self._ends_idle = False
        self._interrupts = 0

    @property
    def has_started(self) -> bool:
        """Whether the worker has started to serve, for the master."""
        return bool(self.tmp.last_update() != self._last_update)

    def init_signals(self) -> None:
        """Also handle SIGHUP, which would otherwise kill the worker."""
        super().init_signals()
        signal.signal(signal.SIGHUP, self.handle_retirement)

    def handle_retirement(self, _sig: int, _frame: Any) -> None:
        """Stop accepting and finish, without a timeout."""
        self.is_retired = True
        self.alive = False

    def handle_exit(self, sig: int, frame: Any) -> None:
        """Finish within PROXY_DRAIN_SECONDS, even if already retired."""
        self._deadline = min(self._deadline, time.monotonic() + self.app.drain_seconds)
        super().handle_exit(sig, frame)

    def handle_quit(self, sig: int, frame: Any) -> None:
        """Let answers finish, as after SIGTERM; a second interrupt ends them at once."""
        self._interrupts += sig == signal.SIGINT
        if self._interrupts > 1:
            super().handle_quit(sig, frame)
        else:
            self.handle_exit(sig, frame)

    def run(self) -> None:
        """Serve until a signal, then drain."""
        self.cfg: Any = _Settings(self.cfg)
        log_hub_errors()
        gc.freeze()
        gc.set_threshold(10_000, 20, 50)
        servers = [self._server(listener) for listener in self.sockets]
        while self.alive:
            self.notify()
            due = time.monotonic() + _BEAT_SECONDS
            gevent.sleep(_BEAT_SECONDS)
            self.wsgi.metrics.beat(max(0.0, time.monotonic() - due))
            repeats.flush()
        self._drain(servers)
        self.wsgi.metrics.show()
        self.wsgi.at_end()
        for server in servers:
            server.stop(timeout=0)

    def _server(self, listener: Any) -> Any:
        listener.setblocking(1)
        pool, named = Pool(self.worker_connections), _Listener(listener)
        server = StreamServer(
            listener, handle=lambda client, address: self.handle(named, client, address), spawn=pool
        )
        # What is accepted at once is worked on in one turn of the loop, in which no stream gets its tokens.
        server.max_accept = 1 if self.cfg.workers > 1 else MAX_ACCEPTED_AT_ONCE
        server.start()
        return server

    def _drain(self, servers: list[Any]) -> None:
        """Let answers finish until the limit, then end the others with an error."""
        if self.is_retired or self.app.others_serve():
            self._leave(servers)
        else:
            self._refuse()
        for client in self._busy:
            client.announce_end()
        if self._busy and not self.is_retired:
            log.info("%s answers may finish within %s s", len(self._busy), self.app.drain_seconds)
        self._wait_while(self._is_needed)
        if self._busy or self.wsgi.has_runs:
            self.log.warning("%s answers did not end within PROXY_DRAIN_SECONDS", len(self._busy))
            self.wsgi.end_runs()
            self._wait_while(self._has_answers, ENDING_SECONDS)
        self._wait_while(_is_aborting_runs, ENDING_SECONDS)

    def _leave(self, servers: list[Any]) -> None:
        """Stop accepting, and answer requests on open connections.

        A request that is sent while its idle connection is being closed is lost, and clients only retry some
        of them. So idle connections are closed as usual after gunicorn's `keepalive`, and each response has
        `Connection: close`.
        """
        refused = () if self.is_retired else ("/ready",)
        self.wsgi.drain(lambda path: path in refused)
        for server in servers:
            if not (self.is_retired or self.app.shares_sockets):
                _accept_waiting(server)
            server.close()

    def _refuse(self) -> None:
        """Refuse new requests, since no other server would answer them."""
        self.wsgi.drain(lambda path: path != "/health")
        self._ends_idle = True
        for client in list(self._idle):
            client.end_reading()

    def _is_needed(self) -> bool:
        return self._has_answers() or bool(self._idle and not self._ends_idle)

    def _has_answers(self) -> bool:
        return bool(self._busy or self.wsgi.has_runs)

    def _wait_while(self, is_so: Callable[[], bool], seconds: float = math.inf) -> None:
        """Wait for at most `seconds`, or until the deadline set by SIGTERM."""
        limit = time.monotonic() + seconds
        while is_so() and time.monotonic() < (limit if seconds < math.inf else self._deadline):
            self.notify()
            gevent.sleep(_STEP_SECONDS)

    def handle(self, listener: Any, client: Any, address: Any) -> None:
        """Serve the requests of a connection."""
        client = ClientSocket(fileno=client.detach())
        # A timeout for each write, so that a client that does not read cannot hold a run forever.
        client.settimeout(self.app.body_timeout_seconds)
        self._idle.add(client)
        try:
            # GeventWorker's own `handle` would remove the timeout.
            super(GeventWorker, self).handle(listener, client, address)
        finally:
            self._idle.discard(client)
            client.begin_request(None)

    def handle_request(self, listener_name: Any, request: Any, client: Any, address: Any) -> None:
        """Serve a request; if the worker is stopping, the connection is closed after it."""
        self._idle.discard(client)
        client.begin_request(request)
        self._busy.add(client)
        is_last = False
        try:
            super().handle_request(listener_name, request, client, address)
        except StopIteration:
            is_last = True
        finally:
            self._busy.discard(client)
            self._idle.add(client)
        client.flush()
        if is_last or self._ends_idle:
            if request.body.left:
                client.linger()
            raise StopIteration
        client.yield_to_others()


def _accept_waiting(server: Any) -> None:
    """Accept pending connections, which the kernel resets when the last holder closes the socket.

    If other processes hold the socket, they are left to them, since accepting all at once would be a burst.
    """
    server.stop_accepting()
    for _ in range(BACKLOG):
        accepted = server.do_read()
        if not accepted:
            return
        server.do_handle(*accepted)


def _is_aborting_runs() -> bool:
    """Whether calls that abort runs in Flowise are still active."""
    return any(thread.name.startswith(RUN_THREAD) for thread in threading.enumerate())
