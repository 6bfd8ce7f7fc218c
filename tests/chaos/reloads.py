"""Scenarios of reloads: nothing is refused, lost or cut while processes take over from each other."""

from __future__ import annotations

import asyncio
import os
import signal

from tests.chaos.faults import question
from tests.chaos.load import body_of, until
from tests.chaos.world import Row, Stage, World
from tests.support.steady_load import SteadyLoad

RELOADS, RATE, STREAMS = 10, 200, 100
BETWEEN_SECONDS = 3.0


def steady_load(url: str, *, rate: float, streams: int) -> SteadyLoad:
    """Short JSON answers at a rate, and streams of ten seconds."""
    return SteadyLoad(
        url,
        lambda n: _request(body_of(question(f"json{n}"), stream=False)),
        lambda n: _request(body_of(question(f"stream{n}", tokens=20, pause=0.5, at=-1))),
        rate=rate,
        streams=streams,
    )


def _request(body: bytes) -> bytes:
    return (
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
    )


async def reloaded(world: World) -> Row:
    """G1: SIGHUP under load, again and again."""
    row = Row("G1 SIGHUP under load: new workers take over from old ones", "0 refused, 0 lost, 0 streams cut")
    with world.stage(is_watched=False, WORKERS="2", PROXY_DRAIN_SECONDS="5") as stage:
        before = set(stage.pids())
        async with _load(world, stage) as load:
            for _ in range(world.count(RELOADS, 2)):
                await asyncio.sleep(BETWEEN_SECONDS)
                os.kill(stage.proxy.pid, signal.SIGHUP)
            await asyncio.sleep(BETWEEN_SECONDS)
        _judge(row, world, load)
        ended = await until(lambda: len(stage.pids()) == 2, 30)
        row.check("workers too many", int(not ended))
        row.check("workers of before the reloads", len(before & set(stage.pids())))
        await stage.settled(row)
    return row


def _load(world: World, stage: Stage) -> SteadyLoad:
    return steady_load(stage.url, rate=world.count(RATE, 50), streams=world.count(STREAMS, 20))


def _judge(row: Row, world: World, load: SteadyLoad) -> None:
    for what, count in load.failures.items():
        row.check(what, count)
    row.scale = f"{world.count(RELOADS, 2)} times, {load.rate:g} requests/s, {load.open_streams} streams"
    row.figure = f"{load.answers['ok']} answers and {load.streamed['ok']} streams whole; else: {load.failures or 'none'}"
