"""A steady load over kept-alive and fresh connections beside open streams, and the count of what got lost."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any
from urllib.parse import urlsplit

KEPT_CONNECTIONS = 20
MAX_FRESH = 200
"""So many fresh connections wait at most: a machine that cannot keep the rate must not pile up requests."""
PATIENCE_SECONDS = 60.0
RequestOf = Callable[[int], bytes]
"""Gives the bytes of a request by its number; the connection is kept unless they say otherwise."""


class SteadyLoad:
    """Requests at a rate, half of them over kept-alive connections, and always so many open streams.

    A client sends a request once: what a real client's second attempt would hide is counted here. It does use
    another connection where the server has closed one before anything was sent.
    """

    def __init__(
        self, url: str, json_of: RequestOf, stream_of: RequestOf, *, rate: float, streams: int
    ) -> None:
        address = urlsplit(url)
        self._address = (address.hostname or "", address.port or 0)
        self._json_of, self._stream_of = json_of, stream_of
        self.rate, self.open_streams = rate, streams
        self._number = 0
        self._is_over = False
        self._began = time.monotonic()
        self.seconds = 0.0
        """How long the load took."""
        self._tasks: set[asyncio.Task[None]] = set()
        self.answers: Counter[str] = Counter()
        """JSON requests by their end: `ok`, `lost`, `later than a minute`, `no connection`, or a status."""
        self.streamed: Counter[str] = Counter()
        """Streams by their end, likewise."""

    async def __aenter__(self) -> SteadyLoad:
        for _ in range(KEPT_CONNECTIONS):
            self._start(self._keep_asking())
        self._start(self._ask_anew())
        for _ in range(self.open_streams):
            self._start(self._keep_streaming())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._is_over = True
        self.seconds = time.monotonic() - self._began
        await asyncio.gather(*self._tasks)

    @property
    def failures(self) -> dict[str, int]:
        """All that was no whole answer."""
        failed = Counter({f"answer {end}": count for end, count in self.answers.items() if end != "ok"})
        failed.update({f"stream {end}": count for end, count in self.streamed.items() if end != "ok"})
        return dict(failed)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _next(self) -> int:
        self._number += 1
        return self._number

    async def _keep_asking(self) -> None:
        pauses, connection = _Pauses(2 * KEPT_CONNECTIONS / self.rate), _Connection(self._address)
        while not self._is_over:
            await pauses.next()
            self.answers[await connection.ask(self._json_of(self._next()), b"}")] += 1
        connection.close()

    async def _ask_anew(self) -> None:
        async def ask() -> None:
            connection = _Connection(self._address)
            self.answers[await connection.ask(self._json_of(self._next()), b"}")] += 1
            connection.close()

        pauses = _Pauses(2 / self.rate)
        while not self._is_over:
            await pauses.next()
            if len(self._tasks) < KEPT_CONNECTIONS + self.open_streams + MAX_FRESH:
                self._start(ask())

    async def _keep_streaming(self) -> None:
        connection = _Connection(self._address)
        while not self._is_over:
            self.streamed[await connection.ask(self._stream_of(self._next()), b"data: [DONE]\n\n")] += 1
        connection.close()


class _Pauses:
    """Pauses of a length; one that took longer is made up for, so that a slow server gets no less load."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._due = time.monotonic()

    async def next(self) -> None:
        """Wait until the next one is over."""
        await asyncio.sleep(max(0.0, self._due - time.monotonic()))
        self._due += self._seconds


class _Connection:
    """One client's connection: kept while the server keeps it, opened again where it has closed it."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._address = address
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def ask(self, request: bytes, end: bytes) -> str:
        """Send a request once and read its answer, which must end so; the kind of its end."""
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                if self._reader is None or self._reader.at_eof():
                    self.close()
                    try:
                        self._reader, self._writer = await asyncio.open_connection(*self._address)
                    except OSError:
                        return "no connection"
                return await self._answered(request, end)
        except TimeoutError:
            self.close()
            return "later than a minute"
        except (OSError, EOFError, ValueError):
            self.close()
            return "lost"

    async def _answered(self, request: bytes, end: bytes) -> str:
        assert self._reader is not None
        assert self._writer is not None
        self._writer.write(request)
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        status, lines = head.split(" ", 2)[1], head.split("\r\n")
        if "transfer-encoding: chunked" in lines:
            body = await self._chunks()
        else:
            [length] = [line.partition(":")[2] for line in lines if line.startswith("content-length:")]
            body = await self._reader.readexactly(int(length))
        if "connection: close" in lines:
            self.close()
        if status != "200":
            return status
        return "ok" if body.endswith(end) and b'"error":{' not in body else "lost"

    async def _chunks(self) -> bytes:
        assert self._reader is not None
        pieces = []
        while size := int(await self._reader.readline(), 16):
            pieces.append(await self._reader.readexactly(size))
            await self._reader.readexactly(2)
        await self._reader.readexactly(2)
        return b"".join(pieces)

    def close(self) -> None:
        """Close the connection."""
        if self._writer is not None:
            with contextlib.suppress(OSError):
                self._writer.close()
        self._reader = self._writer = None
