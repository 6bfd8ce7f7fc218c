"""Limits on request bodies: too slow ones, and ones with too many small chunks, are refused."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator
from typing import Any

import gevent
from gunicorn.http.errors import LimitRequestHeaders, ParseException  # type: ignore[import-untyped]
from gunicorn.http.message import Request  # type: ignore[import-untyped]

from flowise_gateway.flow.cooperative import LOOP_SLEEP_SECONDS, SLICE_SECONDS, yield_now
from flowise_gateway.flow.errors import BadRequest, BodyTooSlow

MAX_HEAD_BYTES = 65_536
HEAD_STEP_BYTES = 8_192
"""How much gunicorn reads at once while parsing headers; up to this much may belong to the body."""

BODY_STEP_BYTES = 16_384
MAX_SMALL_CHUNKS, SMALL_CHUNK_BYTES = 65_536, 256
"""A body may have this many chunks, plus one per this many bytes: small chunks cost as much as large."""

MAX_LEFT_BYTES = 131_072
"""How much of a refused body is read to reuse its connection; above it, the connection is closed."""


class BoundedHead(Request):  # type: ignore[misc]
    """A request with a limit on the total size of its headers.

    Gunicorn limits each line and the number of lines, 800 KB in all, and searches all of it again after each
    read, which can block the worker for 0.2 s.
    """

    def parse(self, unreader: Any) -> bytes:
        """Read the headers. Raises LimitRequestHeaders, which is answered with 431."""
        self.max_buffer_headers = MAX_HEAD_BYTES  # also limits trailers
        self._read = 0
        rest: bytes = super().parse(unreader)
        self._check(self._read - len(rest))
        return rest

    def read_into(self, unreader: Any, buf: bytearray, stop: bool = False) -> None:
        """Read once, like gunicorn's own method."""
        before = len(buf)
        super().read_into(unreader, buf, stop)
        self._read += len(buf) - before
        self._check(self._read - HEAD_STEP_BYTES)
        if self._read > HEAD_STEP_BYTES:  # rare
            yield_now()

    def _check(self, size: int) -> None:
        if size > MAX_HEAD_BYTES:
            raise LimitRequestHeaders(f"a request head of more than {MAX_HEAD_BYTES} bytes")


def guard_body(worker: Any, request: Any) -> None:
    """Set the limits of a body before it is read; gunicorn reads the part that the application leaves."""
    reader = request.body.reader
    if hasattr(reader, "parser"):
        reader.parser = _paced(reader.parser)
    request.body = _TimedBody(request.body, worker.app.body_timeout_seconds)


def _paced(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """The chunks of a body, with yields to other greenlets in between. Raises BadRequest for tiny chunks."""
    size, turn_ends = 0, time.monotonic() + SLICE_SECONDS
    for count, piece in enumerate(chunks):
        size += len(piece)
        if count > MAX_SMALL_CHUNKS + size // SMALL_CHUNK_BYTES:
            raise BadRequest("The body comes in too many small chunks; send it in larger ones.")
        if time.monotonic() > turn_ends:
            yield_now()
            turn_ends = time.monotonic() + SLICE_SECONDS
        yield piece


class _TimedBody:
    """A body that is read in small steps with yields, within a timeout from its first read."""

    def __init__(self, body: Any, seconds: float) -> None:
        self._body = body
        self._seconds = seconds
        # the length of a chunked body is unknown
        self.left: float = getattr(body.reader, "length", math.inf)
        self._deadline: float | None = None
        self._is_finished = False

    def read(self, size: int = -1) -> bytes:
        """Like the body's own `read`. Raises BodyTooSlow, BadRequest for an incomplete body."""
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
        """Called when the request is answered; after that, gunicorn reads up to the next request."""
        self._is_finished = True

    def free(self) -> None:
        """Free the buffer, since gunicorn's chunk reader and its generator reference each other."""
        if chunks := getattr(self._body.reader, "parser", None):
            chunks.close()

    def _step(self, size: int) -> bytes:
        now = time.monotonic()
        if self._deadline is None:
            self._deadline = now + self._seconds
        else:
            # Yield, since reading a body that has already arrived never blocks and would delay streams.
            gevent.sleep(LOOP_SLEEP_SECONDS)
        left, self.left = self.left, math.inf  # also unknown if the body ends here
        try:
            with gevent.Timeout(max(self._deadline - now, 0.001), _TooSlow):
                piece: bytes = self._body.read(size)
            self.left = left - len(piece) if piece else 0
        except _TooSlow:
            limit = f"{self._seconds:g} s (PROXY_BODY_TIMEOUT)"
            raise BodyTooSlow(f"The body did not arrive within {limit}.") from None
        except (OSError, ParseException):
            raise BadRequest("The body is incomplete, or its chunks are malformed.") from None
        return piece


class _TooSlow(Exception):
    """The timeout for a body has expired."""
