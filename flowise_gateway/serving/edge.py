"""WSGI middleware of the serving process: draining, and disconnected clients."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import gevent
import orjson

from flowise_gateway.flow.errors import FlowiseUnavailable, ProxyError, RunFailed, error_body, error_headers
from flowise_gateway.flow.request_scope import request_scope
from flowise_gateway.serving.client_watcher import ClientWatcher
from flowise_gateway.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

_SHUTTING_DOWN = "server_shutting_down"


class ServingEdge:
    """WSGI middleware: ends the runs of disconnected clients, and refuses requests while draining."""

    def __init__(
        self, application: WSGIApplication, metrics: Metrics, notice_proxy: Callable[[], None]
    ) -> None:
        """Wrap an application, which calls its request's `watch_client` once a run may start.

        `notice_proxy` is called when a request came through a proxy.
        """
        self._application = application
        self.metrics = metrics
        self._notice_proxy = notice_proxy
        self._has_proxy = False
        self.at_end: Callable[[], object] = lambda: None
        self._runs: set[Any] = set()
        self._refuses: Callable[[str], bool] | None = None

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Serve a request, unless its path is refused while draining."""
        if self._refuses and self._refuses(environ["PATH_INFO"]):
            return _refusal(start_response)
        if not self._has_proxy and "HTTP_X_FORWARDED_FOR" in environ:
            self._has_proxy = True
            self._notice_proxy()
        client = environ.get("gunicorn.socket")
        watcher = ClientWatcher(client, self._runs)
        scope = request_scope(environ)
        scope.connection = client
        scope.watch_client = watcher.start
        if environ["SERVER_PROTOCOL"] == "HTTP/1.1":  # HTTP/1.0 has no chunked encoding
            scope.write_now = getattr(client, "write_chunk_now", None)
        scope.is_draining = lambda: self._refuses is not None
        scope.ended_with_runs = self._ended_with_runs
        try:
            body = self._application(environ, start_response)
        except BaseException:
            watcher.stop()
            raise
        if client is not None:
            client.end_request()
        return _WatchedBody(body, watcher)

    def drain(self, refuses: Callable[[str], bool]) -> None:
        """Close connections after their current response, and refuse paths for which `refuses` is true."""
        self._refuses = refuses

    @property
    def has_runs(self) -> bool:
        """Whether runs are active, including those without a waiting client."""
        return bool(self._runs)

    @contextlib.contextmanager
    def _ended_with_runs(self) -> Iterator[None]:
        """Let `end_runs` also end this block; for connections whose client is not watched."""
        serving = gevent.getcurrent()
        self._runs.add(serving)
        try:
            yield
        finally:
            self._runs.discard(serving)

    def end_runs(self) -> None:
        """End every run with an error for its client; called at the end of the drain time."""
        error = RunFailed("The server is shutting down; the run was aborted.", code=_SHUTTING_DOWN)
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


class _WatchedBody:
    """A response body; closing it stops watching the client."""

    def __init__(self, body: Iterable[bytes], watcher: ClientWatcher) -> None:
        self._body = body
        self._watcher = watcher

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._body)

    def close(self) -> None:
        self._watcher.stop()
        close = getattr(self._body, "close", None)
        if close is not None:
            close()
