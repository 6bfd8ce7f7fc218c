"""Scenarios of reloads: nothing is refused, lost or cut while processes take over from each other."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from functools import partial
from pathlib import Path

from tests.chaos.faults import FaultServer, question
from tests.chaos.load import body_of, until
from tests.chaos.world import Row, World
from tests.support.activated import Activated
from tests.support.running_proxy import RunningProxy
from tests.support.steady_load import SteadyLoad

RELOADS, RATE, STREAMS = 10, 200, 100
BETWEEN_SECONDS = 3.0
# A machine that is too busy for the load must not look like a gap: the fake Flowise then accepts late.
PATIENT = {"FLOWISE_CONNECT_TIMEOUT": "30", "FLOWISE_REQUEST_TIMEOUT": "60"}


def steady_load(url: str, *, rate: float, streams: int) -> SteadyLoad:
    """Short JSON answers at a rate, and streams of five seconds."""
    return SteadyLoad(
        url,
        lambda n: _request(body_of(question(f"json{n}"), stream=False)),
        lambda n: _request(body_of(question(f"stream{n}", tokens=20, pause=0.25, at=-1))),
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
    with world.stage(is_watched=False, WORKERS="2", PROXY_DRAIN_SECONDS="5", **PATIENT) as stage:
        before = set(stage.pids())
        async with _load(world, stage.url) as load:
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


async def changed_over(world: World) -> Row:
    """G2: instances on one activated socket, each ended once the next one serves."""
    row = Row(
        "G2 a second instance on a socket of systemd's, the first one ends",
        "0 refused, 0 lost, 0 streams cut",
    )
    with FaultServer() as flowise, socket.create_server(("127.0.0.1", 0), backlog=2048) as listener:

        async def started() -> Activated:
            server = Activated(
                world.folder_for("instance"),
                listener,
                FLOWISE_BASE_URL=flowise.base_url,
                WORKERS="2",
                **PATIENT,
            )
            await asyncio.to_thread(server.wait_until_it_serves)
            return server

        server = await started()
        async with _load(world, f"http://127.0.0.1:{listener.getsockname()[1]}") as load:
            for _ in range(world.count(RELOADS, 2)):
                successor = await started()
                status = await asyncio.to_thread(server.end)
                row.check("instances that ended with a failure", int(status != 0))
                server = successor
            await asyncio.sleep(BETWEEN_SECONDS)
        await asyncio.to_thread(server.end)
        _judge(row, world, load)
    return row


async def released(world: World) -> Row:
    """G3: SIGUSR2 under load: a new master takes over the listening sockets of the old one."""
    row = Row(
        "G3 SIGUSR2 under load: a new process takes over the sockets", "0 refused, 0 lost, 0 streams cut"
    )
    folder = world.folder_for("releases")
    with (
        FaultServer() as flowise,
        RunningProxy(folder, FLOWISE_BASE_URL=flowise.base_url, WORKERS="2", **PATIENT) as first,
    ):
        await until(lambda: _serving_pid(folder) == first.pid)
        pid = first.pid
        try:
            async with _load(world, first.url) as load:
                for _ in range(world.count(RELOADS, 2)):
                    before = pid
                    os.kill(before, signal.SIGUSR2)
                    await until(lambda before=before: _serving_pid(folder) not in (0, before), 60)  # type: ignore[misc]
                    pid = _serving_pid(folder)
                    await until(partial(_has_ended, before), 60)
                    await asyncio.sleep(BETWEEN_SECONDS)
            _judge(row, world, load)
        finally:
            os.kill(pid, signal.SIGTERM)
            row.check("processes that did not end", int(not await until(partial(_has_ended, pid), 60)))
    return row


def _serving_pid(folder: Path) -> int:
    return next((int(file.read_text()) for file in (folder / "data").glob("*.pid")), 0)


def _has_ended(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def _load(world: World, url: str) -> SteadyLoad:
    return steady_load(url, rate=world.count(RATE, 50), streams=world.count(STREAMS, 20))


def _judge(row: Row, world: World, load: SteadyLoad) -> None:
    for what, count in load.failures.items():
        row.check(what, count)
    row.scale = f"{world.count(RELOADS, 2)} times, {load.rate:g} requests/s, {load.open_streams} streams"
    row.figure = f"{load.answers['ok']} answers ({load.answers['ok'] / load.seconds:.0f}/s) and {load.streamed['ok']} streams whole; else: {load.failures or 'none'}"
