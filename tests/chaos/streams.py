"""Scenarios of streams: clients that leave, a Flowise that dies, the drain, a worker that is killed."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import re
import signal
import time
from collections import Counter
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from tests.chaos.faults import question, text_of
from tests.chaos.load import (
    Client,
    Outcome,
    ask,
    asked,
    at_most,
    body_of,
    opened,
    percentile,
    request_of,
    until,
    verdicts,
    wrong,
)
from tests.chaos.world import Row, Stage, World

_STAMP = re.compile(rb"(\d{13,}) ")


def stamps_in(outcome: Outcome) -> list[tuple[float, float]]:
    """When each stamped token came, and how many ms after it was said."""
    seen, stamps = b"", []
    for moment, piece in outcome.arrivals:
        complete, end, seen = (seen + piece).rpartition(b"\n")
        stamps += [(moment, moment * 1000 - int(stamp) / 1e6) for stamp in _STAMP.findall(complete + end)]
    return stamps


HOWS = ("rst", "fin", "bad_chunk", "no_length")


async def silent_streams(world: World) -> Row:
    """R1: clients vanish while Flowise is silent in a stream."""
    row = Row("R1 clients vanish while Flowise is silent: their runs are aborted", "0 left after 1 s")
    return await _vanish(world, row, world.count(2000, 200), stream=True)


async def silent_json(world: World) -> Row:
    """R2: the same without streams."""
    row = Row("R2 the same for requests without a stream", "0 left after 1 s, 0 error lines")
    return await _vanish(world, row, world.count(300, 100), stream=False)


async def _vanish(world: World, row: Row, count: int, *, stream: bool) -> Row:
    with world.stage() as stage:
        requests = [
            request_of(body_of(question(str(n), fault="silent"), stream=stream)) for n in range(count)
        ]
        clients = await opened(stage.url, requests)
        await until(lambda: stage.flowise.state()["runs"] == count, 60)
        began, left = time.monotonic(), []
        for number, client in enumerate(clients):
            client.leave(abruptly=number % 2 == 0)
        for moment in (0.5, 1.0, 2.0):
            await asyncio.sleep(max(0.0, began + moment - time.monotonic()))
            state = stage.flowise.state()
            left.append((state["running"], state["open"]))
        row.check("runs that did not begin", count - stage.flowise.state()["runs"])
        await stage.settled(row)
        row.check("connections left", stage.flowise.state()["open"])
        errors = len(stage.errors())
        row.scale = f"{count} clients"
        figures = ", ".join(f"{runs}/{connections}" for runs, connections in left)
        row.figure = f"runs/connections left after 0.5, 1, 2 s: {figures}; {errors} error lines"
        row.is_met = left[1] == (0, 0) and not errors
    return row


async def killed_streams(world: World) -> Row:
    """R3: Flowise dies in the middle of streams, in four ways."""
    each = world.count(100, 25)
    row = Row(
        "R3 Flowise dies mid-stream: RST, FIN, bad chunk, no length",
        "all: every token, error, [DONE]; 0 fake stop",
    )
    with world.stage() as stage:
        calls = [(how, n % 20) for how in HOWS for n in range(each)]

        async def killed(how: str, at: int, n: int) -> Outcome:
            return await ask(stage.url, f"{how}{n}", fault="stream", how=how, at=at, tokens=20, pause=0.001)

        outcomes = await at_most(32, [partial(killed, how, at, n) for n, (how, at) in enumerate(calls)])
        told = lost = 0
        for (_, at), outcome in zip(calls, outcomes, strict=True):
            verdict = outcome.verdict(text_of(20))
            told += verdict == "told" or (verdict == "refused" and at == 0)
            lost += outcome.text != text_of(at)
        counts = verdicts(outcomes, text_of(20))
        row.check("wrong answers", wrong(counts) + len(calls) - told)
        row.check("answers with lost or doubled tokens", lost)
        row.check("flows run twice", len(stage.flowise.state()["doubled"]))
        await stage.settled(row)
        row.scale = f"4 x {each} streams"
        row.figure = f"{told}/{len(calls)} told with all their tokens; {counts['fake stop']} fake stop"
    return row


async def drained(world: World) -> Row:
    """R7: SIGTERM while streams run; some end within the drain, some do not."""
    count, seconds = world.count(1000, 200), 6
    row = Row(
        "R7 SIGTERM with streams open: they end with [DONE] or an error event",
        "100 %, exit 0, new ones refused",
    )
    with world.stage(is_watched=False, PROXY_DRAIN_SECONDS=str(seconds)) as stage:
        # Every other one ends within the drain; the others would go on for minutes.
        scripts = [question(str(n), tokens=20 if n % 2 else 2000, pause=0.2, at=-1) for n in range(count)]
        clients = await opened(stage.url, [request_of(body_of(script)) for script in scripts])
        readers = [asyncio.ensure_future(client.read()) for client in clients]
        await until(lambda: stage.flowise.state()["runs"] == count, 60)
        began = time.monotonic()
        stage.proxy.terminate()
        await asyncio.sleep(0.3)
        late = await asked(stage.url, request_of(body_of(question("late"))))
        outcomes = await asyncio.gather(*readers)
        seen = time.monotonic() - began
        short = verdicts(outcomes[1::2], text_of(20))
        long = verdicts(outcomes[::2], text_of(2000))
        row.check("streams cut, lost or faked", wrong(short) + wrong(long))
        has_ended = await until(partial(_has_ended, stage.proxy.pid), 10)
        row.check("servers that did not end", int(not has_ended))
        row.check("runs of a request during the drain", stage.flowise.tell("ran").get("late", 0))
        await stage.settled(row)
        refused = "no connection" if not late.status else str(late.status)
        row.scale = f"{count} streams, {seconds} s"
        row.figure = f"{short['whole']} whole, {short['told'] + long['told']} told in {seen:.1f} s; a new request: {refused}"
        row.is_met = not row.wrong and short["whole"] == count // 2 and late.status in (0, 503)
    return row


def _has_ended(pid: int) -> bool:
    """Whether the process has ended by itself; its status is looked at when the scenario is left."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


async def killed_worker(world: World) -> Row:
    """R8: SIGKILL one of two workers under load."""
    count = world.count(200, 60)
    row = Row(
        "R8 one of two workers is killed: the other one's streams are untouched", "0 fake stop; gap < 1 s"
    )
    with world.stage(is_watched=False, WORKERS="2") as stage:
        scripts = [question(str(n), tokens=30, pause=0.1, at=-1) for n in range(count)]
        clients = await opened(stage.url, [request_of(body_of(script)) for script in scripts], 8)
        readers = [asyncio.ensure_future(client.read()) for client in clients]
        await until(lambda: stage.flowise.state()["runs"] == count, 30)
        victim = stage.pids()[0]
        of_victim = _streams_of(stage, victim)
        os.kill(victim, signal.SIGKILL)
        gap = await _gap(stage)
        counts = verdicts(await asyncio.gather(*readers), text_of(30))
        restarted = await until(lambda: len(stage.pids()) == 2, 10)
        row.check("fake stops or lost answers", counts["fake stop"] + counts["lost"])
        row.check("streams of the other worker that were cut", counts["cut"] - of_victim)
        row.check("workers missing", int(not restarted))
        row.scale = f"{count} streams, {of_victim} of them the victim's"
        row.figure = (
            f"{counts['whole']} whole, {counts['cut']} cut without a false end; /health gap {gap:.2f} s"
        )
        row.is_met = gap < 1
    return row


def _streams_of(stage: Stage, pid: int) -> int:
    """How many connections of clients the worker holds: sockets at the server's port that are established."""
    port = f":{urlsplit(stage.url).port:04X}"
    inodes = set()
    for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[1].endswith(port) and fields[3] == "01":
            inodes.add(f"socket:[{fields[9]}]")
    held = 0
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            held += os.readlink(entry) in inodes  # noqa: PTH115
    return held


async def _gap(stage: Stage) -> float:
    """The seconds until ten connections in a row were answered again."""
    began = last = time.monotonic()
    in_a_row = 0
    while in_a_row < 10 and time.monotonic() - began < 15:
        outcome = await asked(
            stage.url, b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        )
        in_a_row = in_a_row + 1 if outcome.status == 200 else 0
        last = time.monotonic() if outcome.status != 200 else last
    return last - began


async def heartbeats(world: World) -> Row:
    """R9: silence before and after the first token."""
    count = world.count(50, 10)
    row = Row(
        "R9 a silent flow is kept alive, before and after its first token",
        "gap <= 1.1 s at an interval of 1 s",
    )
    with world.stage(PROXY_HEARTBEAT_SECONDS="1") as stage:
        calls = [
            partial(ask, stage.url, str(n), fault="pause", at=n % 2 * 2, seconds=3.3) for n in range(count)
        ]
        outcomes = await at_most(count, calls)
        gaps = []
        for outcome in outcomes:
            moments = [moment for moment, _ in outcome.arrivals]
            gaps += [after - before for before, after in itertools.pairwise(moments)]
        row.check("wrong answers", wrong(verdicts(outcomes)) + Counter(o.verdict() for o in outcomes)["told"])
        silences = [
            outcome.body.count(b'"delta":{},"logprobs":null,"finish_reason":null') for outcome in outcomes
        ]
        row.check("streams without a heartbeat", silences.count(0))
        await stage.settled(row)
        row.scale = f"{count} streams"
        row.figure = f"longest gap {max(gaps, default=0):.2f} s"
        row.is_met = max(gaps, default=9) <= 1.1
    return row


async def token_delay(world: World) -> Row:
    """R13: how long a token takes through the proxy, and without it."""
    count, tokens = world.count(100, 20), 50
    row = Row("R13 a token is passed on at once", "p99 < 10 ms more than without the proxy")
    with world.stage() as stage:
        direct_url = stage.flowise.base_url.removesuffix("/api/v1")
        delays = []
        for url in (direct_url, stage.url):
            is_direct = url == direct_url
            requests = []
            for n in range(count):
                script = question(f"{url}{n}", tokens=tokens, pause=0.04, stamp=True, at=-1)
                body = (
                    b'{"streaming":true,"question":%b}' % json.dumps(script).encode()
                    if is_direct
                    else body_of(script)
                )
                path = "/api/v1/prediction/x" if is_direct else "/v1/chat/completions"
                requests.append(request_of(body, path))
            delays.append(await _delays(url, requests, tokens))
        (d50, d99), (p50, p99) = ((percentile(d, 0.5), percentile(d, 0.99)) for d in delays)
        row.check("tokens lost", 2 * count * tokens - len(delays[0]) - len(delays[1]))
        row.scale = f"{count} streams of {tokens} tokens, 25 a second each"
        row.figure = f"p50 {p50:.1f}, p99 {p99:.1f} ms (without the proxy {d50:.1f}, {d99:.1f})"
        row.is_met = p99 - d99 < 10
    return row


async def _delays(url: str, requests: list[bytes], expected: int) -> list[float]:
    delays: list[float] = []

    async def follow(request: bytes) -> None:
        client = await Client(url).send(request)
        seen, came = b"", 0
        while came < expected and (piece := await client.piece()):
            now = time.monotonic_ns()
            seen += piece
            complete, _, seen = seen.rpartition(b"\n")
            stamps = _STAMP.findall(complete)
            came += len(stamps)
            delays.extend((now - int(stamp)) / 1e6 for stamp in stamps)
        client.leave()

    await asyncio.gather(*(follow(request) for request in requests))
    return delays
