"""Around the application when served: clients that leave, bodies that come slowly, the drain. Composition."""

from __future__ import annotations

import contextlib
import math
import socket
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import gevent
import orjson
from gunicorn.http.errors import LimitRequestHeaders, ParseException  # type: ignore[import-untyped]
from gunicorn.http.message import Request  # type: ignore[import-untyped]

from proxy_errors import (
    BadRequest,
    BodyTooSlow,
    FlowiseUnavailable,
    ProxyError,
    RunFailed,
    error_body,
    error_headers,
)
from proxy_metrics import Metrics
from proxy_turns import LOOP_TURN, TURN_SECONDS, take_turn

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

MAX_HEAD_BYTES = 65_536
HEAD_STEP_BYTES = 8_192
"""What gunicorn reads at once while it looks for the head's end: so much may be of what follows."""

BODY_STEP_BYTES = 16_384
MAX_SMALL_CHUNKS, SMALL_CHUNK_BYTES = 65_536, 256
"""A body may come in so many pieces, and in one more for so many bytes: each costs as much as a large one."""

MOST_LEFT_BYTES = 131_072
"""Of a body that nobody wants, what is read so that its connection can be used again."""

_SHUTTING_DOWN = "server_shutting_down"


class ServingEdge:
    """Around the application: a client that leaves ends its run, and what it did not read is not read."""

    def __init__(self, application: WSGIApplication, metrics: Metrics) -> None:
        """Wrap an application; it calls `environ["proxy.watch_client"]` once its run may begin."""
        self._application = application
        self.metrics = metrics
        self._runs: set[Any] = set()
        self.is_draining = False

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Serve one request; while draining only tell that the server lives."""
        if self.is_draining and environ["PATH_INFO"] not in ("/health", "/v1/health"):
            return _refusal(start_response)
        client = environ.get("gunicorn.socket")
        watcher = _ClientWatcher(client, self._runs)
        environ["proxy.watch_client"] = watcher.start
        if environ["SERVER_PROTOCOL"] == "HTTP/1.1":  # before it there are no chunks
            environ["proxy.write_now"] = getattr(client, "write_chunk_now", None)
        environ["proxy.is_ending"] = lambda: self.is_draining
        environ["proxy.ended_with_runs"] = self._ended_with_runs
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


class BoundedHead(Request):  # type: ignore[misc]
    """A request whose head is small in all: gunicorn bounds a line and their number, which makes 800 KB.

    It looks through all that has come after each read, so that such a head keeps the worker for 0.2 s.
    """

    def parse(self, unreader: Any) -> bytes:
        """Read the head. Raises LimitRequestHeaders, which is answered with 431."""
        self.max_buffer_headers = MAX_HEAD_BYTES  # of the trailers, too
        self._read = 0
        rest: bytes = super().parse(unreader)
        self._check(self._read - len(rest))
        return rest

    def read_into(self, unreader: Any, buf: bytearray, stop: bool = False) -> None:
        """Read once more, as gunicorn's own method does."""
        before = len(buf)
        super().read_into(unreader, buf, stop)
        self._read += len(buf) - before
        self._check(self._read - HEAD_STEP_BYTES)
        if self._read > HEAD_STEP_BYTES:  # hardly any client's head
            take_turn()

    def _check(self, size: int) -> None:
        if size > MAX_HEAD_BYTES:
            raise LimitRequestHeaders(f"a head of more than {MAX_HEAD_BYTES} bytes")


def guard_body(worker: Any, request: Any) -> None:
    """Put limits on a request's body before anybody reads it; gunicorn reads what we leave unread."""
    reader = request.body.reader
    if hasattr(reader, "parser"):
        reader.parser = _paced(reader.parser)
    request.body = _TimedBody(request.body, worker.app.body_timeout_seconds)


def _paced(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """The pieces of a body in chunks, a turn of others in between. Raises BadRequest for tiny ones."""
    size, turn_ends = 0, time.monotonic() + TURN_SECONDS
    for count, piece in enumerate(chunks):
        size += len(piece)
        if count > MAX_SMALL_CHUNKS + size // SMALL_CHUNK_BYTES:
            raise BadRequest("The body comes in too many small chunks; send it in larger ones.")
        if time.monotonic() > turn_ends:
            take_turn()
            turn_ends = time.monotonic() + TURN_SECONDS
        yield piece


class _TimedBody:
    """A request's body, read in small steps that let others run, within a time from its first read on."""

    def __init__(self, body: Any, seconds: float) -> None:
        self._body = body
        self._seconds = seconds
        # In chunks nobody knows before the end.
        self.left: float = getattr(body.reader, "length", math.inf)
        self._deadline: float | None = None
        self._is_finished = False

    def read(self, size: int = -1) -> bytes:
        """Read as the body's own `read` does. Raises BodyTooSlow, BadRequest for a body that breaks off."""
        if self._is_finished:
            data: bytes = self._body.read(size)
            return data
        pieces: list[bytes] = []
        left = size if size >= 0 else sys.maxsize
        while left > 0 and (piece := self._step(min(left, BODY_STEP_BYTES))):
            pieces.append(piece)
            left -= len(piece)
        return b"".join(pieces)

    def finish(self) -> None:
        """Answered: what is read now is gunicorn's, on its way to the connection's next request."""
        self._is_finished = True

    def let_go(self) -> None:
        """Free what was read ahead: gunicorn's reader of chunks and its generator hold each other."""
        if chunks := getattr(self._body.reader, "parser", None):
            chunks.close()

    def _step(self, size: int) -> bytes:
        now = time.monotonic()
        if self._deadline is None:
            self._deadline = now + self._seconds
        else:
            # A body that has arrived already is read without ever waiting: others must get their turn.
            gevent.sleep(LOOP_TURN)
        left, self.left = self.left, math.inf  # of a body that breaks off nobody knows either
        try:
            with gevent.Timeout(max(self._deadline - now, 0.001), _TooSlow):
                piece: bytes = self._body.read(size)
            self.left = left - len(piece) if piece else 0
        except _TooSlow:
            limit = f"{self._seconds:g} s (PROXY_BODY_TIMEOUT)"
            raise BodyTooSlow(f"The body did not arrive within {limit}.") from None
        except (OSError, ParseException):
            raise BadRequest("The body broke off, or its chunks are malformed.") from None
        return piece


class _TooSlow(Exception):
    """The time for a body is up."""


class _ClientWatcher:
    """Watches the client's socket while its run is on; its end ends the greenlet that serves it."""

    __slots__ = ("_client", "_runs", "_serving", "_watch", "is_started")

    def __init__(self, client: Any, runs: set[Any]) -> None:
        self._client = client
        self._runs = runs
        self._serving: Any = None
        self._watch: Any = None
        self.is_started = False

    def start(self) -> None:
        """Watch from now on; the body must have been read."""
        if self._client is not None:
            self.is_started = True
            self._serving = gevent.getcurrent()
            self._runs.add(self._serving)
            self._watch = gevent.get_hub().loop.io(self._client.fileno(), 1)
            self._watch.start(self._readable)

    def stop(self) -> None:
        """Watch no more."""
        if self._watch is not None:
            self._runs.discard(self._serving)
            self._stop_watching()

    def _stop_watching(self) -> None:
        self._watch.stop()
        self._watch.close()

    def _readable(self) -> None:
        try:
            ahead = socket.socket.recv(self._client, 1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError:
            ahead = b""
        self._stop_watching()
        if not ahead:  # else it is the next request, sent ahead
            gevent.kill(self._serving)
