"""Many clients at once over raw sockets, and the verdict on what each of them got."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar
from urllib.parse import urlsplit

from tests.chaos.faults import FLOW, question, text_of

PATIENCE_SECONDS = 90.0
_AT_ONCE = struct.pack("ii", 1, 0)
T = TypeVar("T")


@dataclass(slots=True)
class Outcome:
    """What one client got; `is_framed` says that HTTP itself ended as it should."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    is_framed: bool = False
    arrivals: list[tuple[float, bytes]] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def payloads(self) -> list[bytes]:
        """The `data:` of each event."""
        return [line[6:] for line in self.body.split(b"\n") if line.startswith(b"data: ")]

    @property
    def events(self) -> list[dict[str, Any]]:
        """The JSON of each event."""
        return [json.loads(payload) for payload in self.payloads if payload != b"[DONE]"]

    @property
    def text(self) -> str:
        """The answer's text as far as it came."""
        choices = [choice for event in self._objects for choice in event.get("choices", [])]
        parts = [choice.get("delta", choice.get("message", {})).get("content") for choice in choices]
        return "".join(part for part in parts if part)

    @property
    def finish(self) -> str | None:
        """The finish reason, if one was given."""
        reasons = [
            choice.get("finish_reason") for event in self._objects for choice in event.get("choices", [])
        ]
        return next((reason for reason in reasons if reason), None)

    @property
    def error(self) -> dict[str, Any] | None:
        """The error object, of the body or of the stream."""
        found = [event["error"] for event in self._objects if event.get("error")]
        return found[0] if found and is_openai_error(found[0]) else None

    @property
    def _objects(self) -> list[dict[str, Any]]:
        if self.headers.get("content-type", "").startswith("text/event-stream"):
            return self.events
        try:
            value = json.loads(self.body)
        except ValueError:
            return []
        return [value] if isinstance(value, dict) else []

    def verdict(self, expected: str = text_of()) -> str:
        """`whole`, `told` of an error, `refused` with a status; else what is wrong with it."""
        if not self.status or not self.is_framed:
            return "cut"
        if self.status != 200:
            return "refused" if self.error else "lost"
        is_stream = self.headers.get("content-type", "").startswith("text/event-stream")
        if is_stream and (not self.payloads or self.payloads[-1] != b"[DONE]"):
            return "lost"
        if self.finish:
            return "whole" if self.text == expected and not self.error else "fake stop"
        return "told" if self.error else "lost"


RIGHT = {"whole", "told", "refused"}


def is_openai_error(error: object) -> bool:
    """Whether it has OpenAI's four keys, of the right types."""
    return (
        isinstance(error, dict)
        and set(error) == {"message", "type", "param", "code"}
        and isinstance(error["message"], str)
        and isinstance(error["type"], str)
    )


def body_of(text: str, *, stream: bool = True, model: str = FLOW, **more: Any) -> bytes:
    """A chat completion's request."""
    request = {"model": model, "stream": stream, "messages": [{"role": "user", "content": text}], **more}
    return json.dumps(request).encode()


def request_of(body: bytes, path: str = "/v1/chat/completions", *headers: str) -> bytes:
    """The bytes of a request whose connection ends with it."""
    lines = [
        f"POST {path} HTTP/1.1",
        "Host: localhost",
        "Connection: close",
        "Content-Type: application/json",
    ]
    lines += [f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


class Client:
    """One connection with one request."""

    def __init__(self, url: str) -> None:
        address = urlsplit(url)
        self._address = (address.hostname or "", address.port or 0)
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def send(self, request: bytes) -> Client:
        """Connect and ask."""
        self._reader, self._writer = await asyncio.open_connection(*self._address)
        self._writer.write(request)
        await self._writer.drain()
        return self

    async def read(self, outcome: Outcome | None = None) -> Outcome:
        """Read to the end; what comes is seen in `outcome` while it comes."""
        outcome = outcome or Outcome()
        began = time.monotonic()
        assert self._reader is not None
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(PATIENCE_SECONDS):
                while piece := await self._reader.read(65536):
                    outcome.arrivals.append((time.monotonic(), piece))
        outcome.seconds = time.monotonic() - began
        self.leave()
        _parse(outcome)
        return outcome

    async def piece(self) -> bytes:
        """What comes next; nothing at the end, or when nothing has come for long."""
        assert self._reader is not None
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(PATIENCE_SECONDS / 3):
                return await self._reader.read(65536)
        return b""

    def leave(self, *, abruptly: bool = False) -> None:
        """Close the connection, with RST if `abruptly`."""
        if self._writer is None:
            return
        if abruptly:
            raw = self._writer.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
        self._writer.transport.abort() if abruptly else self._writer.close()


def _parse(outcome: Outcome) -> None:
    raw = b"".join(piece for _, piece in outcome.arrivals)
    head, found, rest = raw.partition(b"\r\n\r\n")
    if not found:
        return
    first, *lines = head.decode("latin-1").split("\r\n")
    outcome.status = int(first.split(" ")[1])
    outcome.headers = {
        name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)
    }
    if outcome.headers.get("transfer-encoding") == "chunked":
        outcome.body, outcome.is_framed = unchunked(rest)
    else:
        outcome.body = rest
        outcome.is_framed = len(rest) == int(outcome.headers.get("content-length", len(rest)))


def unchunked(rest: bytes) -> tuple[bytes, bool]:
    """The content of a chunked body, and whether it has an end."""
    pieces: list[bytes] = []
    while True:
        size, found, rest = rest.partition(b"\r\n")
        if not found or len(rest) < int(size, 16) + 2:
            return b"".join(pieces), False
        if not int(size, 16):
            return b"".join(pieces), rest == b"\r\n"
        pieces.append(rest[: int(size, 16)])
        rest = rest[int(size, 16) + 2 :]


async def ask(url: str, name: str, *, stream: bool = True, **script: Any) -> Outcome:
    """Ask one question of the misbehaving Flowise through the proxy."""
    return await asked(url, request_of(body_of(question(name, **script), stream=stream)))


async def asked(url: str, request: bytes) -> Outcome:
    """Send one request and read all of its answer; no connection is status 0."""
    client = Client(url)
    began = time.monotonic()
    try:
        await client.send(request)
    except OSError:
        client.leave(abruptly=True)
        return Outcome(seconds=time.monotonic() - began)
    outcome = await client.read()
    outcome.seconds = time.monotonic() - began
    return outcome


async def at_most(limit: int, calls: Iterable[Callable[[], Awaitable[T]]]) -> list[T]:
    """Make all calls, so many at once, and return what they gave, in order."""
    queue = list(enumerate(calls))[::-1]
    results: dict[int, T] = {}

    async def work() -> None:
        while queue:
            number, call = queue.pop()
            results[number] = await call()

    await asyncio.gather(*(work() for _ in range(limit)))
    return [results[number] for number in sorted(results)]


async def opened(url: str, requests: Iterable[bytes], at_once: int = 64) -> list[Client]:
    """Clients that have asked and read nothing."""
    return await at_most(at_once, [partial(Client(url).send, request) for request in requests])


async def until(condition: Callable[[], bool], seconds: float = 30) -> bool:
    """Whether the condition came true in time."""
    deadline = time.monotonic() + seconds
    while not (is_so := condition()) and time.monotonic() < deadline:
        await asyncio.sleep(0.05)
    return is_so


def verdicts(outcomes: Iterable[Outcome], expected: str = text_of()) -> Counter[str]:
    """How many got what."""
    return Counter(outcome.verdict(expected) for outcome in outcomes)


def wrong(counts: Counter[str]) -> int:
    """How many got what nobody should get."""
    return sum(count for verdict, count in counts.items() if verdict not in RIGHT)


def percentile(values: Iterable[float], share: float) -> float:
    """The value that this share of all do not exceed; 0 for none."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0
