"""Scenarios of one client that would have a worker to itself: how long all others wait meanwhile.

Each attack runs against one worker that holds paced streams; a process of its own asks for /health.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import math
import selectors
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import urlsplit

from tests.chaos.faults import FLOW, question
from tests.chaos.load import Outcome, ask, body_of, opened, request_of, until
from tests.chaos.streams import stamps_in
from tests.chaos.world import Row, Scenario, Stage, World, health_watched

TARGET_MS = 100.0
PAUSE_SECONDS = 0.1
_PIECE_BYTES = 262_144


@dataclass(frozen=True, slots=True)
class Attack:
    """What is sent on each of some connections: `opening` once, `repeated` without pause.

    `upgraded` goes out between them, once the server has answered: of a WebSocket nothing may be sent before.

    A connection that the server ends is opened anew, until the time is up.
    """

    promise: str
    opening: bytes
    repeated: bytes = b""
    connections: int = 1
    upgraded: bytes = b""


def _asked(messages: object, **more: object) -> bytes:
    return request_of(json.dumps({"model": FLOW, "messages": messages, **more}).encode())


def _said(*texts: str) -> bytes:
    roles = ("user", "assistant")
    return _asked([{"role": roles[n % 2], "content": text} for n, text in enumerate(texts)])


def _frame(opcode: int, payload: bytes = b"", *, is_last: bool = True) -> bytes:
    """A WebSocket client's frame with a mask of zeros."""
    return bytes([opcode | (0x80 if is_last else 0), 0x80 | len(payload)]) + bytes(4) + payload


UPGRADE = (
    b"GET /v1/responses HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
TITLE = (
    "Provide a concise, 5-word-or-less title for the conversation, using title case.\nConversation:\nUser: "
)
POST = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


def _head(headers: int) -> bytes:
    lines = [b"GET /v1/nothing HTTP/1.1", b"Host: localhost"]
    lines += [b"X-Padding-%d: %b" % (n, b"x" * 8_000) for n in range(headers)]
    return b"\r\n".join([*lines, b"", b""])


def _items() -> bytes:
    items = [{"role": "user", "content": "a"}] * 59_000
    return request_of(json.dumps({"model": FLOW, "input": items}).encode(), "/v1/responses")


def _file() -> bytes:
    data = base64.b64encode(b"All work and no play. " * 1_000_000).decode()
    file = {"filename": "notes.txt", "file_data": f"data:text/plain;base64,{data}"}
    return _asked([{"role": "user", "content": [{"type": "file", "file": file}]}])


def _fields() -> bytes:
    return request_of(json.dumps({"model": FLOW, **{f"field{n}": n for n in range(140_000)}}).encode())


ATTACKS: dict[str, Callable[[], Attack]] = {
    "A1": lambda: Attack(
        "A1 an answer of 16,000 decisions, then approve",
        _said("Hello", "(Waiting for your decision: " * 16_000, "approve"),
    ),
    "A2": lambda: Attack("A2 a title of 100,000 brackets", _said(TITLE + "[" * 100_000)),
    "A3": lambda: Attack("A3 WebSocket: pings without pause", UPGRADE, _frame(0x9) * 20_000),
    "A4": lambda: Attack(
        "A4 WebSocket: empty continuations without pause",
        UPGRADE,
        _frame(0x0, is_last=False) * 20_000,
        upgraded=_frame(0x1, b"{", is_last=False),
    ),
    "A5": lambda: Attack(
        "A5 WebSocket: one-byte continuations without pause",
        UPGRADE,
        _frame(0x0, b" ", is_last=False) * 20_000,
        upgraded=_frame(0x1, b"{", is_last=False),
    ),
    "A6": lambda: Attack("A6 pipelined heads of 90 headers of 8 KB", b"", _head(90), 8),
    "A7": lambda: Attack("A7 pipelined heads of 56 KB", b"", _head(7) * 8, 8),
    "A8": lambda: Attack("A8 pipelined requests", b"", _head(0) * 2_000, 8),
    "A9": lambda: Attack(
        "A9 bodies in one-byte chunks",
        POST + b"Transfer-Encoding: chunked\r\n\r\n",
        b"1\r\n \r\n" * 20_000,
        8,
    ),
    "A10": lambda: Attack("A10 59,000 items", _items()),
    "A11": lambda: Attack("A11 a text file of 30 MB in base64", _file()),
    "A12": lambda: Attack("A12 a body of 140,000 fields", _fields()),
    "A13": lambda: Attack("A13 59,000 messages", _said(*["a"] * 59_001)),
}


def scenario(name: str) -> Scenario:
    """The scenario of an attack."""

    async def play(world: World) -> Row:
        return await _played(world, ATTACKS[name]())

    return play


async def _played(world: World, attack: Attack) -> Row:
    row = Row(f"{attack.promise}: others do not wait", f"/health and tokens < {TARGET_MS:g} ms late")
    count, seconds = world.count(100, 30), world.count(5, 1)
    with world.stage(is_watched=False) as stage:
        await ask(stage.url, "warm")
        pids = stage.pids()
        tokens = round((seconds + 3) / PAUSE_SECONDS)
        scripts = [
            question(str(n), tokens=tokens, pause=PAUSE_SECONDS, stamp=True, at=-1) for n in range(count)
        ]
        clients = await opened(stage.url, [request_of(body_of(script)) for script in scripts])
        readers = [asyncio.ensure_future(client.read()) for client in clients]
        await until(lambda: stage.flowise.state()["runs"] > count, 20)
        with contextlib.ExitStack() as watches:
            before = watches.enter_context(health_watched(stage.url))
            await asyncio.sleep(1)
            await asyncio.to_thread(watches.close)
            began = time.monotonic()
            during = watches.enter_context(health_watched(stage.url))
            await asyncio.to_thread(attack_for, seconds, stage, attack)
            # Of what it has begun the last may still be in hand.
            await asyncio.sleep(0.5)
            await asyncio.to_thread(watches.close)
            ended = time.monotonic()
        outcomes = await asyncio.gather(*readers)
        row.check("workers that died", int(stage.pids() != pids))
        row.check("calls of /health that failed", before.failures + during.failures)
        row.check("streams not whole", sum(not _is_whole(outcome, tokens) for outcome in outcomes))
        await stage.settled(row)
    stamps = [stamp for outcome in outcomes for stamp in stamps_in(outcome)]
    late = [delay for moment, delay in stamps if began < moment - delay / 1000 < ended]
    latest = max(late, default=math.inf)
    worst = math.inf if during.failures else max(during.ms, default=math.inf)
    row.scale = f"{seconds} s, {attack.connections} connection(s), {count} streams"
    row.figure = f"/health {max(before.ms, default=0):.0f} -> {worst:.0f} ms at worst, tokens {latest:.0f} ms"
    row.is_met = worst < TARGET_MS and latest < TARGET_MS
    return row


def _is_whole(outcome: Outcome, tokens: int) -> bool:
    return outcome.finish == "stop" and len(stamps_in(outcome)) == tokens and outcome.is_framed


def attack_for(seconds: float, stage: Stage, attack: Attack) -> None:
    """Send as fast as the server takes it, and read what it answers."""
    until = time.monotonic() + seconds
    with contextlib.ExitStack() as open_ones, selectors.DefaultSelector() as ready:
        for _ in range(attack.connections):
            _connect(open_ones, ready, stage, attack)
        while time.monotonic() < until:
            for key, events in ready.select(0.1):
                connection, left = key.fileobj, key.data
                assert isinstance(connection, socket.socket)
                try:
                    if events & selectors.EVENT_READ and not connection.recv(_PIECE_BYTES):
                        raise ConnectionResetError
                    if events & selectors.EVENT_WRITE:
                        left = left[connection.send(left[:_PIECE_BYTES]) :] or memoryview(attack.repeated)
                        wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE if left else 0)
                        ready.modify(connection, wanted, left)
                except BlockingIOError:
                    continue
                except OSError:
                    ready.unregister(connection)
                    connection.close()
                    _connect(open_ones, ready, stage, attack)


def _connect(
    open_ones: contextlib.ExitStack, ready: selectors.BaseSelector, stage: Stage, attack: Attack
) -> None:
    address = urlsplit(stage.url)
    connection = socket.create_connection((address.hostname or "", address.port or 0), timeout=30)
    open_ones.callback(connection.close)
    first = memoryview(attack.opening or attack.repeated)
    if attack.upgraded:
        connection.sendall(first)
        connection.recv(_PIECE_BYTES)
        first = memoryview(attack.upgraded + attack.repeated)
    connection.setblocking(False)
    ready.register(connection, selectors.EVENT_READ | selectors.EVENT_WRITE, first)
