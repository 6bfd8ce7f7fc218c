"""Scenarios of a thousand connections that each do little, slowly: what it costs others, and when each is closed.

The swarm is a process of its own (`swarm.py`). A keyed stream and /health are timed before and beside it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.chaos.attacks import POST, UPGRADE
from tests.chaos.faults import question
from tests.chaos.load import body_of, opened, percentile, request_of
from tests.chaos.streams import stamps_in
from tests.chaos.world import Row, Scenario, World, health_watched

SWARM = Path(__file__).with_name("swarm.py")
LIMIT_SECONDS = 3.0
"""PROXY_BODY_TIMEOUT of the server under test: how long a client may keep it waiting."""

KEY = "sk-of-the-swarm-test"
PAUSE_SECONDS = 0.1
KEYED = f"Authorization: Bearer {KEY}"


@dataclass(frozen=True, slots=True)
class Swarm:
    """What each connection sends: `opening` once, `upgraded` when the server has answered, then `piece` for ever.

    Of so many connections one in `share` takes part, where each is much work.
    """

    promise: str
    opening: str
    piece: str = ""
    pause_seconds: float = 0.5
    reads: bool = True
    upgraded: str = ""
    share: int = 1
    is_closed_within: float = LIMIT_SECONDS + 6


def _keyed(request: bytes) -> str:
    head, _, body = request.partition(b"\r\n\r\n")
    return (head + f"\r\n{KEYED}\r\n\r\n".encode() + body).decode("latin-1")


_POST = f"{POST.decode()}{KEYED}\r\n"
_CHUNKED = f"{_POST}Transfer-Encoding: chunked\r\n\r\n"
SWARMS: dict[str, Callable[[], Swarm]] = {
    "N1": lambda: Swarm("N1 connections that say nothing", ""),
    "N2": lambda: Swarm("N2 heads that never end", "GET /health HTTP/1.1\r\nHost: localhost\r\nX-A: ", "a"),
    "N3": lambda: Swarm("N3 bodies that never end", f"{_POST}Content-Length: 99999\r\n\r\n", " "),
    "N4": lambda: Swarm("N4 bodies in tiny chunks", _CHUNKED, "1\r\n \r\n"),
    "N5": lambda: Swarm(
        "N5 WebSocket messages in tiny frames",
        _keyed(UPGRADE),
        "\x00\x81\0\0\0\0 ",
        upgraded="\x01\x81\0\0\0\0{",
        is_closed_within=LIMIT_SECONDS + 12,
    ),
    "N6": lambda: Swarm(
        "N6 streams that nobody reads",
        _keyed(request_of(body_of(question("reader", tokens=120, size=50_000, at=-1)))),
        reads=False,
        is_closed_within=LIMIT_SECONDS + 17,
        share=10,
    ),
}


def scenario(name: str) -> Scenario:
    """The scenario of a swarm."""

    async def play(world: World) -> Row:
        return await _played(world, SWARMS[name]())

    return play


async def _played(world: World, swarm: Swarm) -> Row:
    count = world.count(1000, 100) // swarm.share
    row = Row(
        f"{swarm.promise}: others hardly notice",
        f"/health and tokens p50 < 2 x before; all closed within {swarm.is_closed_within:g} s",
    )
    settings = {"PROXY_BODY_TIMEOUT": f"{LIMIT_SECONDS:g}", "PROXY_API_KEYS": KEY}
    with world.stage(is_watched=False, **settings) as stage:
        tokens = round((6 + swarm.is_closed_within) / PAUSE_SECONDS)
        script = question("paced", tokens=tokens, pause=PAUSE_SECONDS, stamp=True, at=-1)
        [client] = await opened(stage.url, [_keyed(request_of(body_of(script))).encode("latin-1")])
        reader = asyncio.ensure_future(client.read())
        with contextlib.ExitStack() as watches:
            before = watches.enter_context(health_watched(stage.url))
            await asyncio.sleep(2)
            await asyncio.to_thread(watches.close)
            began = time.monotonic()
            during = watches.enter_context(health_watched(stage.url))
            told = await asyncio.to_thread(_let_loose, stage.url, count, swarm)
            await asyncio.to_thread(watches.close)
            ended = time.monotonic()
        outcome = await reader
        row.check("calls of /health that failed", before.failures + during.failures)
        row.check("the keyed stream is not whole", int(outcome.finish != "stop"))
        row.check("attackers that were not closed in time", count - int(told["closed"]))
        await stage.settled(row)
    stamps = stamps_in(outcome)
    early = [delay for moment, delay in stamps if moment < began]
    late = [delay for moment, delay in stamps if began < moment < ended]
    health = (percentile(before.ms, 0.5), percentile(during.ms, 0.5))
    token = (percentile(early, 0.5), percentile(late, 0.5))
    row.scale = f"{count} sockets"
    row.figure = (
        f"/health p50 {health[0]:.1f} -> {health[1]:.1f} ms (worst {max(during.ms, default=0):.0f}), token p50 "
        f"{token[0]:.1f} -> {token[1]:.1f} ms; {told['closed']} closed, the last after {told['seconds']:.1f} s"
    )
    # A time of a millisecond is measured no finer than that.
    row.is_met = health[1] < 2 * max(health[0], 2) and token[1] < 2 * max(token[0], 2) and not row.wrong
    return row


def _let_loose(url: str, count: int, swarm: Swarm) -> dict[str, float]:
    """Run the swarm; how many of its connections the server closed, and when the last."""
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump({"url": url, "count": count, **asdict(swarm)}, file)
        file.flush()
        command = [sys.executable, str(SWARM), file.name]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=180)
    told: dict[str, float] = json.loads(done.stdout)
    return told
