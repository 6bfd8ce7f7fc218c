"""A load of chat completions over kept-alive connections: what was answered, how soon, as a JSON object.

Run: `python -m benchmarks.load PORT PATH BODY CONNECTIONS SECONDS`.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import sys
import time
from dataclasses import dataclass, field

_STREAM_END, _CHUNK_END = b"0\r\n\r\n", b"\r\n\r\n"


@dataclass
class Tally:
    """What was counted over all connections."""

    until: float
    request: bytes
    marker: bytes
    answers: int = 0
    tokens: int = 0
    faults: int = 0
    firsts: list[float] = field(default_factory=list)
    wholes: list[float] = field(default_factory=list)


class _Client(asyncio.Protocol):
    """One connection, request after request until the time is up."""

    def __init__(self, tally: Tally, done: asyncio.Future[None]) -> None:
        self._tally, self._done = tally, done

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._ask()

    def connection_lost(self, _error: Exception | None) -> None:
        if not self._done.done():
            self._tally.faults += 1
            self._done.set_result(None)

    def _ask(self) -> None:
        self._received, self._began = b"", time.monotonic()
        self._tokens = 0
        self._transport.write(self._tally.request)

    def data_received(self, data: bytes) -> None:
        if not self._received:
            self._tally.firsts.append(time.monotonic() - self._began)
        self._tokens += data.count(self._tally.marker)
        self._received = self._received + data if len(self._received) < 2048 else self._received[:1024] + data
        if self._is_whole():
            self._end()

    def _is_whole(self) -> bool:
        head, found, body = self._received.partition(b"\r\n\r\n")
        place = head.lower().find(b"content-length:")
        if not found:
            return False
        return len(body) >= int(head[place + 15 :].split()[0]) if place >= 0 else body.endswith(_STREAM_END)

    def _end(self) -> None:
        tally = self._tally
        tally.wholes.append(time.monotonic() - self._began)
        tally.answers += 1
        tally.tokens += self._tokens
        tally.faults += not self._received.startswith(b"HTTP/1.1 200 ")
        if time.monotonic() < tally.until:
            self._ask()
        else:
            self._done.set_result(None)
            self._transport.close()


async def run(port: int, request: bytes, connections: int, seconds: float) -> Tally:
    """Keep so many connections busy for so long."""
    loop = asyncio.get_running_loop()
    tally = Tally(time.monotonic() + seconds, request, b"Hello")
    ends = [loop.create_future() for _ in range(connections)]
    for end in ends:
        await loop.create_connection(lambda end=end: _Client(tally, end), "127.0.0.1", port)  # type: ignore[misc]
    await asyncio.gather(*ends)
    return tally


def request_bytes(path: str, body: str) -> bytes:
    """A POST as it goes over the wire."""
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json"
    return f"{head}\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()


def main() -> None:
    """Run as the arguments say and print what was counted."""
    port, path, body, connections, seconds = sys.argv[1:]
    tally = asyncio.run(run(int(port), request_bytes(path, body), int(connections), float(seconds)))
    counted = {"answers": tally.answers, "tokens": tally.tokens, "faults": tally.faults}
    times = {"first": statistics.median(tally.firsts), "whole": statistics.median(tally.wholes)}
    print(json.dumps({**counted, **times}))


if __name__ == "__main__":
    main()
