"""Scenarios of runs: none twice, few retries, the breaker, the limits of every wait."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import Any

from tests.chaos.faults import question, text_of
from tests.chaos.load import (
    Client,
    Outcome,
    ask,
    asked,
    at_most,
    body_of,
    percentile,
    request_of,
    verdicts,
    wrong,
)
from tests.chaos.world import Row, Stage, World

RESENT_BY_CLIENTS = {408, 409, 422, 429, *range(500, 600)}
"""What OpenAI's SDKs and LibreChat send again: no flow may have run then."""

FAULTS: tuple[dict[str, Any], ...] = (
    {"fault": "before_head", "how": "rst"},
    {"fault": "before_head", "how": "fin"},
    {"fault": "mid_head", "how": "rst"},
    {"fault": "mid_head", "how": "fin"},
    {"fault": "mid_body", "how": "rst"},
    {"fault": "mid_body", "how": "fin"},
    *(
        {"fault": "stream", "how": how, "at": at}
        for how in ("rst", "fin", "bad_chunk", "no_length")
        for at in (0, 3)
    ),
    *({"fault": "status", "status": status} for status in (429, 500, 502, 503, 504)),
    {"fault": "status", "status": 503, "retry_after": 0, "times": 1},
    {"fault": "status", "status": 429, "retry_after": 1, "times": 1},
    {"fault": "status", "status": 503, "times": 1},
    {"fault": "html", "body": "<html>Bad gateway</html>"},
    {"fault": "silent", "seconds": 6},
    {"fault": "error", "at": 0},
    {"fault": "error"},
    {"fault": "empty"},
)


async def no_run_twice(world: World) -> Row:
    """R4: many requests, a tenth with a fault in every phase, connections refused and reset beside that."""
    count = world.count(10_000, 1_500)
    row = Row(
        "R4 no flow runs twice, whatever breaks in whatever phase",
        "0 twice; 0 statuses that make clients resend a run",
    )
    chance = random.Random(4)
    with world.stage(FLOWISE_REQUEST_TIMEOUT="3") as stage:
        stage.flowise.tell("reset_share", share=0.01)
        scripts = [dict(chance.choice(FAULTS)) if chance.random() < 0.1 else {} for _ in range(count)]
        streams = [chance.random() < 0.5 for _ in range(count)]
        outage = asyncio.ensure_future(_short_outages(stage))
        outcomes = await at_most(
            64,
            [
                partial(ask, stage.url, str(n), stream=stream, **script)
                for n, (script, stream) in enumerate(zip(scripts, streams, strict=True))
            ],
        )
        outage.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await outage
        stage.flowise.tell("listen", on=True)
        await stage.settled(row)
        ran, state = stage.flowise.tell("ran"), stage.flowise.state()
        counts = verdicts(outcomes)
        unsafe = sum(o.status in RESENT_BY_CLIENTS and str(n) in ran for n, o in enumerate(outcomes))
        row.check("flows run twice", len(state["doubled"]))
        row.check("runs answered with a status that makes clients resend", unsafe)
        row.check("wrong answers", wrong(counts))
        faulty = sum(map(bool, scripts))
        unlucky = sum(
            not script and o.verdict() != "whole" for script, o in zip(scripts, outcomes, strict=True)
        )
        row.scale = f"{count} requests, {faulty} with a fault, {state['resets']} connections reset, refused 50 ms in each second"
        row.figure = (
            f"{len(state['doubled'])} twice, {unsafe} unsafe statuses; {counts['whole']} whole,"
            f" {counts['told'] + counts['refused']} told; without a fault of their own but not whole: {unlucky}"
        )
    return row


async def _short_outages(stage: Stage) -> None:
    """Refuse connections for a moment every second, and break off idle ones."""
    while True:
        await asyncio.sleep(0.95)
        stage.flowise.tell("listen", on=False, drop="idle")
        await asyncio.sleep(0.05)
        stage.flowise.tell("listen", on=True)


async def few_retries(world: World) -> Row:
    """R5: Flowise answers 503 to everything."""
    seconds = world.count(10, 4)
    row = Row("R5 Flowise answers 503 to all: it is not asked much more for that", "attempts/requests <= 1.2")
    ratios = []
    statuses: Counter[int] = Counter()
    for mood in ({"status": 503}, {"status": 503, "retry_after": 1}):
        with world.stage() as stage:
            await ask(stage.url, "warm")
            stage.flowise.tell("forget")
            stage.flowise.tell("mood", **mood)
            until = time.monotonic() + seconds / 2
            sent = 0

            async def client(stage: Stage = stage, until: float = until) -> None:
                nonlocal sent
                while time.monotonic() < until:
                    sent += 1
                    outcome = await ask(stage.url, f"{sent}")
                    statuses[outcome.status] += 1
                    await asyncio.sleep(0.05)

            await asyncio.gather(*(client() for _ in range(64)))
            state = stage.flowise.state()
            row.check("runs", state["runs"])
            ratios.append(state["attempts"] / sent)
    row.check("answers that are not 503", sum(n for status, n in statuses.items() if status != 503))
    row.scale = f"64 clients, {seconds} s, {sum(statuses.values())} requests"
    row.figure = f"attempts/requests {ratios[0]:.2f}, with Retry-After {ratios[1]:.2f} (the breaker opens)"
    row.is_met = max(ratios) <= 1.2
    return row


async def breaker(world: World) -> Row:
    """R6: Flowise is down for a while, then up again."""
    seconds = world.count(10, 4)
    row = Row(
        "R6 Flowise down: refused at once; back soon after it is up", "p99 < 5 ms while open; back within 3 s"
    )
    with world.stage() as stage:
        await ask(stage.url, "warm")
        stage.flowise.tell("listen", on=False, drop="all")
        await asyncio.sleep(0.1)  # what is sent while it goes down may have run, and is told so
        began, back = time.monotonic(), None
        down: list[Outcome] = []
        while time.monotonic() - began < seconds:
            down.append(await ask(stage.url, f"down{len(down)}"))
            await asyncio.sleep(0.02)
        stage.flowise.tell("listen", on=True)
        up = time.monotonic()
        while back is None and time.monotonic() - up < 15:
            outcome = await ask(stage.url, f"up{time.monotonic()}")
            back = time.monotonic() - up if outcome.verdict() == "whole" else None
            await asyncio.sleep(0.02)
        row.check("requests not answered with 503 while Flowise was down", sum(o.status != 503 for o in down))
        row.check("no recovery", int(back is None))
        row.check("flows run twice", len(stage.flowise.state()["doubled"]))
        times = [outcome.seconds * 1000 for outcome in down[10:]]
        row.scale = f"down {seconds} s, {len(down)} requests"
        row.figure = f"p50 {percentile(times, 0.5):.1f}, p99 {percentile(times, 0.99):.1f} ms; back after {back or -1:.2f} s"
        row.is_met = percentile(times, 0.99) < 5 and (back or 99) <= 3
    return row


async def limits(world: World) -> Row:
    """R10: each wait ends at its limit, with its own status."""
    row = Row("R10 every wait ends at its limit", "each within +10 % and 0.3 s")
    settings: dict[str, Any] = {
        "FLOWISE_REQUEST_TIMEOUT": "2",
        "FLOWISE_STREAM_IDLE_TIMEOUT": "2",
        "FLOWISE_RUN_TIMEOUT": "4",
        "PROXY_BODY_TIMEOUT": "2",
    }
    seen: list[tuple[str, float, float, Outcome, tuple[int, str]]] = []
    with world.stage(**settings) as stage:
        await ask(stage.url, "warm")
        calls = {
            "no first byte": (2, ask(stage.url, "a", fault="silent"), (400, "flowise_timeout")),
            "no answer": (2, ask(stage.url, "b", fault="silent", stream=False), (400, "flowise_timeout")),
            "idle mid-stream": (2, ask(stage.url, "c", fault="pause"), (200, "flowise_timeout")),
            "heartbeats only": (4, ask(stage.url, "d", fault="heartbeats"), (400, "flowise_timeout")),
            "run in all": (4, ask(stage.url, "e", tokens=1000, pause=0.1, at=-1), (200, "flowise_timeout")),
            "slow body": (2, asked(stage.url, request_of(b"x" * 9)[:-5]), (408, "request_timeout")),
        }
        outcomes = await asyncio.gather(*(call for _, call, _ in calls.values()))
        for (name, (limit, _, expected)), outcome in zip(calls.items(), outcomes, strict=True):
            seen.append((name, limit, outcome.seconds, outcome, expected))
        await stage.settled(row)
    with _black_hole() as port:
        own: dict[str, Any] = {
            "FLOWISE_BASE_URL": f"http://127.0.0.1:{port}/api/v1",
            "FLOWISE_CONNECT_TIMEOUT": "1",
        }
        with world.stage(FLOWISE_MAX_ATTEMPTS="1", **own) as stage:
            await asked(stage.url, b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
            outcome = await ask(stage.url, "f")
            seen.append(("connect", 1, outcome.seconds, outcome, (503, "flowise_unavailable")))
    for name, _, _, outcome, (status, code) in seen:
        is_right = (
            outcome.status == status and (outcome.error or {}).get("code") == code and outcome.is_framed
        )
        row.check(
            f"{name}: {outcome.status} {(outcome.error or {}).get('code')} instead of {status} {code}",
            int(not is_right),
        )
    row.scale = f"{len(seen)} limits"
    row.figure = "; ".join(f"{name} {took:.2f}/{limit} s" for name, limit, took, _, _ in seen)
    row.is_met = all(limit * 0.9 <= took <= limit * 1.1 + 0.3 for _, limit, took, _, _ in seen)
    return row


@contextlib.contextmanager
def _black_hole() -> Iterator[int]:
    """A port that takes no connection and refuses none: its queue is full."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                filler.connect(listener.getsockname())
        yield int(listener.getsockname()[1])


async def soak(world: World) -> Row:
    """R15: a mixed load for a while; memory and descriptors settle."""
    seconds = world.count(40, 8)
    row = Row("R15 mixed load leaves nothing behind", "memory flat, descriptors back at the start")
    chance = random.Random(15)
    with world.stage(FLOWISE_REQUEST_TIMEOUT="3") as stage:
        outcomes: list[Outcome] = []
        began = time.monotonic()
        samples: list[tuple[float, int]] = []

        async def client() -> None:
            while time.monotonic() - began < seconds:
                script = (
                    dict(chance.choice(FAULTS)) if chance.random() < 0.1 else {"tokens": 20, "pause": 0.005}
                )
                name = f"{len(outcomes)}-{chance.random()}"
                if chance.random() < 0.1:
                    leaver = await Client(stage.url).send(request_of(body_of(question(name, fault="silent"))))
                    await asyncio.sleep(0.1)
                    leaver.leave(abruptly=True)
                    continue
                outcomes.append(await ask(stage.url, name, stream=chance.random() < 0.5, **script))

        async def sampled() -> None:
            while time.monotonic() - began < seconds:
                await asyncio.sleep(seconds / 20)
                samples.append((time.monotonic() - began, stage.memory_kib()))

        await ask(stage.url, "warm")
        start = stage.descriptors()
        await asyncio.gather(sampled(), *(client() for _ in range(24)))
        await stage.settled(row)
        stage.flowise.tell("listen", on=True, drop="idle")
        await asyncio.sleep(1)
        end = stage.descriptors()
        counts = Counter(o.verdict(text_of(20) if o.text.count(".") > 5 else text_of()) for o in outcomes)
        row.check("wrong answers", counts["cut"] + counts["lost"] + counts["fake stop"])
        half = samples[len(samples) // 2 :]
        slope = (half[-1][1] - half[0][1]) / max(half[-1][0] - half[0][0], 1) * 60
        row.scale = f"{seconds} s, {len(outcomes)} requests"
        row.figure = f"{half[-1][1] / 1024:.0f} MiB, {slope:+.0f} KiB/min in the second half; descriptors {start} -> {end}"
        row.is_met = end <= start + 8 and slope < 2048
    return row
