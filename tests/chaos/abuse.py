"""Scenarios of load and abuse: many streams, shedding, slow clients, huge bodies, floods, too few descriptors."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import hashlib
import resource
import time
import uuid
from functools import partial

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

HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
GET_HEALTH = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


async def _health_p99(stage: Stage, seconds: float) -> float:
    """The 99th percentile of /health in ms while others do what they do."""
    times: list[float] = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        outcome = await asked(stage.url, GET_HEALTH)
        times.append(outcome.seconds * 1000 if outcome.status == 200 else 1e6)
        await asyncio.sleep(0.02)
    return percentile(times, 0.99)


def _has_open(stage: Stage, count: int) -> bool:
    return bool(stage.flowise.state()["open"] == count)


async def many_streams(world: World) -> Row:
    """L1: slow streams, more and more."""
    row = Row("L1 one worker holds many slow streams", "all held and whole, < 64 KiB each")
    figures, kib = [], 0.0
    for count in (world.count(2000, 100), world.count(5000, 500)):
        with world.stage(PROXY_MAX_IN_FLIGHT="6000") as stage:
            await ask(stage.url, "warm")
            before = stage.memory_kib()
            # The first token at once, then silence until all are there, then the rest.
            seconds = 4 + count / 200
            scripts = (question(str(n), fault="pause", at=1, seconds=seconds) for n in range(count))
            clients = await opened(stage.url, (request_of(body_of(script)) for script in scripts))
            readers = [asyncio.ensure_future(client.read()) for client in clients]
            held = await until(partial(_has_open, stage, count), 15)
            kib = (stage.memory_kib() - before) / count
            p99 = await _health_p99(stage, 1)
            counts = verdicts(await asyncio.gather(*readers))
            row.check(f"wrong answers of {count}", wrong(counts))
            others = "" if counts["whole"] == count else f", {dict(counts)}"
            row.is_met = row.is_met and not others and kib < 64
            await stage.settled(row)
            figures.append(
                f"{count}{'' if held else ' (not at once)'}: {kib:.0f} KiB each, /health p99 {p99:.0f} ms{others}"
            )
    row.scale = "2 sizes"
    row.figure = "; ".join(figures)
    return row


async def shedding(world: World) -> Row:
    """L2: four times as many clients as are let in."""
    limit = world.count(250, 50)
    row = Row(
        "L2 four times the admission limit: the rest is refused at once, the admitted are whole",
        "all 503 + Retry-After, no run",
    )
    with world.stage(PROXY_MAX_IN_FLIGHT=str(limit)) as stage:
        await ask(stage.url, "warm")
        calls = [partial(ask, stage.url, str(n), tokens=20, pause=0.3, at=-1) for n in range(4 * limit)]
        outcomes = await at_most(4 * limit, calls)
        ran = stage.flowise.tell("ran")
        refused = [(n, o) for n, o in enumerate(outcomes) if o.status != 200]
        row.check("wrong answers", wrong(verdicts(outcomes, text_of(20))))
        row.check(
            "refusals without 503 and Retry-After",
            sum(o.status != 503 or "retry-after" not in o.headers for _, o in refused),
        )
        row.check("refused requests that ran", sum(str(n) in ran for n, _ in refused))
        await stage.settled(row)
        times = [o.seconds * 1000 for _, o in refused]
        row.scale = f"{4 * limit} clients at once, limit {limit}"
        row.figure = f"{len(outcomes) - len(refused)} admitted, {len(refused)} refused, p99 {percentile(times, 0.99):.0f} ms (with connecting)"
        row.is_met = len(refused) == 3 * limit
    return row


async def slow_clients(world: World) -> Row:
    """L3: heads and bodies that never end, readers that never read."""
    count = world.count(1000, 150)
    row = Row(
        "L3 slow heads, slow bodies, slow readers do not hold others up",
        "closed in time; /health p99 < 3 x before",
    )
    with world.stage(PROXY_BODY_TIMEOUT="3") as stage:
        await ask(stage.url, "warm")
        before_ms, before_kib = await _health_p99(stage, 1), stage.memory_kib()
        body = body_of(question("slow"))
        slow_head = await opened(stage.url, [HEAD] * count)
        slow_body = await opened(stage.url, [HEAD + b"Content-Length: 999\r\n\r\n" + body[:20]] * count)
        script = question("reader", tokens=30, size=100_000, at=-1)
        slow_reader = await opened(stage.url, [request_of(body_of(script))] * (count // 10))
        during_ms, grown = await _health_p99(stage, 2), stage.memory_kib() - before_kib
        began = time.monotonic()
        ends = await asyncio.gather(
            *(asyncio.wait_for(client.read(), 40) for client in [*slow_head, *slow_body])
        )
        closed = time.monotonic() - began
        bodies = sum(outcome.status == 408 for outcome in ends[count:])
        whole = await asyncio.gather(*(client.read() for client in slow_reader))
        expected = "".join(f"{n}." * (100_000 // len(f"{n}.")) for n in range(30))
        row.check("slow readers whose answer is not whole", len(whole) - verdicts(whole, expected)["whole"])
        row.check("slow bodies not answered with 408", count - bodies)
        await stage.settled(row)
    row.scale = f"{count} heads, {count} bodies, {count // 10} readers of 3 MB"
    row.figure = f"/health p99 {before_ms:.0f} -> {during_ms:.0f} ms; all closed after {closed + 2:.1f} s; {grown / 1024:+.0f} MiB"
    row.is_met = during_ms < 3 * max(before_ms, 5)
    return row


async def huge_bodies(world: World) -> Row:
    """L4: more than is allowed, announced, not announced, compressed."""
    limit, count = 2_000_000, world.count(20, 5)
    row = Row("L4 oversized bodies are refused before they are read", "413 or 415, growth < 2 x the limit")
    with world.stage(PROXY_MAX_BODY_BYTES=str(limit)) as stage:
        await ask(stage.url, "warm")
        before = stage.memory_kib()
        announced = HEAD + b"Content-Length: 900000000\r\n\r\n" + b"x" * 10_000
        chunk = b"%x\r\n%b\r\n" % (2**20, b"x" * 2**20)
        unannounced = HEAD + b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n" + chunk * 3
        bomb = gzip.compress(b" " * 10**8)
        packed = (
            HEAD
            + b"Content-Encoding: gzip\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(bomb)
            + bomb
        )
        for name, request, status in (
            ("announced", announced, 413),
            ("chunked", unannounced, 413),
            ("gzip", packed, 415),
        ):
            outcomes = await at_most(5, [partial(_told_early, stage.url, request)] * count)
            row.check(f"{name}: not {status}", sum(o.status != status or not o.error for o in outcomes))
        grown = stage.memory_kib() - before
        row.check("runs", stage.flowise.state()["runs"] - 1)
    row.scale = f"3 x {count} bodies, limit 2 MB"
    row.figure = f"all {'refused' if not row.wrong else 'but some refused'}; {grown / 1024:+.1f} MiB"
    row.is_met = grown * 1024 < 2 * limit * 5
    return row


async def _told_early(url: str, request: bytes) -> Outcome:
    """What comes although the body is still being sent."""
    client = Client(url)
    with contextlib.suppress(OSError, TimeoutError):
        await asyncio.wait_for(client.send(request), 10)
    return await client.read()


async def stalls(world: World) -> Row:
    """L5: the worst bodies that are allowed, while others stream."""
    row = Row("L5 the largest allowed body does not stall other streams", "longest gap between tokens < 1 s")
    size = world.count(20_000_000, 4_000_000)
    with world.stage() as stage:
        scripts = [question(str(n), tokens=60, pause=0.1, at=-1) for n in range(world.count(100, 30))]
        clients = await opened(stage.url, [request_of(body_of(script)) for script in scripts])
        readers = [asyncio.ensure_future(client.read()) for client in clients]
        await until(lambda: stage.flowise.state()["runs"] == len(scripts), 20)
        numbers = b'{"model":"x","messages":[' + b"1," * (size // 2) + b"1]}"
        many = (
            b'{"model":"x","messages":['
            + b'{"role":"user","content":"a"},' * (size // 30)
            + b'{"role":"user","content":"a"}]}'
        )
        for body in (numbers, many, b"[" * size, b'{"a":' * (size // 5)):
            outcome = await asked(stage.url, request_of(body))
            row.check(
                f"a huge body answered with {outcome.status}",
                int(outcome.status not in (400, 404) or not outcome.error),
            )
        outcomes = await asyncio.gather(*readers)
        row.check("streams not whole", len(outcomes) - verdicts(outcomes, text_of(60))["whole"])
        await stage.settled(row)
        gaps = [b[0] - a[0] for o in outcomes for a, b in zip(o.arrivals, o.arrivals[1:], strict=False)]
    row.scale = f"{len(scripts)} streams, 4 bodies of {size // 10**6} MB"
    row.figure = f"longest gap {max(gaps, default=0):.2f} s at a token each 0.1 s"
    row.is_met = max(gaps, default=9) < 1
    return row


async def fairness(world: World) -> Row:
    """L6: one key floods, another asks now and then."""
    seconds = world.count(10, 4)
    row = Row("L6 a key that floods does not starve another", "p99 of the quiet key < 100 ms, all whole")
    folder = world.folder_for("keys")
    lines = [
        f"  - {{name: {name}, sha256: {hashlib.sha256(name.encode()).hexdigest()}, max_in_flight: 20}}"
        for name in ("flood", "quiet")
    ]
    file = folder / "proxy.yaml"
    file.write_text("\n".join(["keys:", *lines, ""]))
    with world.stage(PROXY_CONFIG=str(file)) as stage:

        def request(key: str, number: object) -> bytes:
            body = body_of(question(f"{key}{number}", tokens=5))
            return request_of(body, "/v1/chat/completions", f"Authorization: Bearer {key}")

        async def quiet(times: int) -> list[Outcome]:
            outcomes = []
            for n in range(times):
                outcomes.append(await asked(stage.url, request("quiet", f"{times}-{n}")))
                await asyncio.sleep(0.1)
            return outcomes

        end = time.monotonic() + seconds * 2
        alone = await quiet(seconds * 5)
        flooded: list[Outcome] = []

        async def flood() -> None:
            while time.monotonic() < end:
                flooded.append(await asked(stage.url, request("flood", len(flooded))))
                await asyncio.sleep(0.01)

        floods = [asyncio.ensure_future(flood()) for _ in range(40)]
        beside = await quiet(seconds * 5)
        await asyncio.gather(*floods)
        row.check(
            "answers of the quiet key not whole", sum(o.verdict() != "whole" for o in [*alone, *beside])
        )
        row.check("wrong answers of the other", wrong(verdicts(flooded)))
        p99 = [percentile([o.seconds * 1000 for o in outcomes], 0.99) for outcomes in (alone, beside)]
        limited = sum(o.status == 429 for o in flooded)
    row.scale = f"40 clients with one key ({len(flooded)} requests, {limited} refused), 1 with another"
    row.figure = f"p99 of the quiet key: alone {p99[0]:.0f}, beside the flood {p99[1]:.0f} ms"
    row.is_met = p99[1] < 100
    return row


async def few_descriptors(world: World) -> Row:
    """L7: the system allows 256 open files."""
    row = Row("L7 no descriptors left: no crash, and all is well afterwards", "0 faked, full recovery")
    count = 300
    with world.stage(is_watched=False) as stage:
        await ask(stage.url, "warm")
        pids = stage.pids()
        for pid in pids:
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (256, 256))
        calls = [partial(ask, stage.url, str(n), tokens=10, pause=0.2, at=-1) for n in range(count)]
        counts = verdicts(await at_most(count, calls), text_of(10))
        row.check("fake or lost answers", counts["fake stop"] + counts["lost"])
        row.check("workers that died", int(stage.pids() != pids))
        await stage.settled(row)
        after = verdicts(await at_most(50, [partial(ask, stage.url, f"after{n}") for n in range(50)]))
        row.check("not whole afterwards", 50 - after["whole"])
    row.scale = f"{count} clients"
    row.figure = f"during: {dict(counts)}; after: {after['whole']}/50 whole"
    return row


async def many_names(world: World) -> Row:
    """L8: models and keys that nobody has."""
    count = world.count(20_000, 2_000)
    row = Row("L8 random models and keys do not grow the server", "< 8 MiB, all 404")
    with world.stage() as stage:
        await ask(stage.url, "warm")

        async def one(n: int) -> int:
            name = str(uuid.uuid4()) if n % 2 else f"model-{n}-{uuid.uuid4().hex}"
            # A UUID that Flowise does not know is asked of it; a name is not.
            body = body_of("hello", model=name if not n % 20 else f"m{name}")
            headers = (f"Authorization: Bearer {uuid.uuid4().hex}", f"X-Conversation-Id: {uuid.uuid4()}")
            return (await asked(stage.url, request_of(body, "/v1/chat/completions", *headers))).status

        await at_most(32, [partial(one, n) for n in range(500)])
        before = stage.memory_kib()
        statuses = await at_most(32, [partial(one, n) for n in range(count)])
        grown = stage.memory_kib() - before
        row.check("not 404", sum(status != 404 for status in statuses))
        row.check("runs", stage.flowise.state()["runs"] - 1)
    row.scale = f"{count} requests"
    row.figure = f"{grown / 1024:+.1f} MiB"
    row.is_met = grown < 8 * 1024
    return row
