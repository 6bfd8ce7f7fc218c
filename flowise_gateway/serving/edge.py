"""Around the application when served: the drain, clients that leave, bodies that come slowly."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import gevent
import orjson

from flowise_gateway.flow.errors import FlowiseUnavailable, ProxyError, RunFailed, error_body, error_headers
from flowise_gateway.flow.request_scope import request_scope
from flowise_gateway.serving.client_watcher import _ClientWatcher
from flowise_gateway.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

_SHUTTING_DOWN = "server_shutting_down"


class ServingEdge:
    """Around the application: a client that leaves ends its run, and what it did not read is not read."""

    def __init__(self, application: WSGIApplication, metrics: Metrics) -> None:
        """Wrap an application, which calls its request's `watch_client` once a run may begin."""
        self._application = application
        self.metrics = metrics
        self._runs: set[Any] = set()
        self.is_draining = False

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Serve one request; while draining only tell that the server lives."""
        if self.is_draining and environ["PATH_INFO"] != "/health":
            return _refusal(start_response)
        client = environ.get("gunicorn.socket")
        watcher = _ClientWatcher(client, self._runs)
        scope = request_scope(environ)
        scope.connection = client
        scope.watch_client = watcher.start
        if environ["SERVER_PROTOCOL"] == "HTTP/1.1":  # HTTP/1.0 knows no chunks
            scope.write_now = getattr(client, "write_chunk_now", None)
        scope.is_draining = lambda: self.is_draining
        scope.ended_with_runs = self._ended_with_runs
        try:
            body = self._application(environ, start_response)
        except BaseException:
            watcher.stop()
            raise
        if client is not None:
            client.answered()
        return _Watched(body, watcher)

    @contextlib.contextmanager
    def _ended_with_runs(self) -> Iterator[None]:
        """Have `end_runs` end the block too; its client is watched by nobody else."""
        serving = gevent.getcurrent()
        self._runs.add(serving)
        try:
            yield
        finally:
            self._runs.discard(serving)

    def end_runs(self) -> None:
        """End every run with an error that its client is told: the server waits no longer."""
        error = RunFailed(
            "The server is shutting down; the run was ended before its end.", code=_SHUTTING_DOWN
        )
        for serving in list(self._runs):
            gevent.kill(serving, error)


def _refusal(start_response: StartResponse) -> Iterable[bytes]:
    error: ProxyError = FlowiseUnavailable(
        "The server is shutting down. Nothing has run; try again.", code=_SHUTTING_DOWN, retry_after_seconds=1
    )
    body = orjson.dumps(error_body(error))
    headers = {"Content-Type": "application/json", "Content-Length": str(len(body)), **error_headers(error)}
    start_response("503 Service Unavailable", list(headers.items()))
    return [body]


class _Watched:
    """An answer's body; its end stops the watch."""

    def __init__(self, body: Iterable[bytes], watcher: _ClientWatcher) -> None:
        self._body = body
        self._watcher = watcher

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._body)

    def close(self) -> None:
        """End the watch, then the answer."""
        self._watcher.stop()
        close = getattr(self._body, "close", None)
        if close is not None:
            close()
