"""Random and mutated requests against the server: `python -m tests.chaos.fuzz [--seconds N] [--count N] [--seed S]`.

Whatever comes, by HTTP on every route or as a WebSocket's messages, the server answers with a status of its list and
an error in OpenAI's shape that holds no stack and no inner address, and calls of Flowise nothing but what
docs/security.md lists; afterwards it is well and no larger than it may be. The seed is printed and repeats a run.
"""

from __future__ import annotations

import argparse
import asyncio
import copy
import json
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from tests.chaos.faults import FLOW, question
from tests.chaos.frames import leak_in
from tests.chaos.fuzz_socket import SocketFuzzer
from tests.chaos.load import Outcome, asked
from tests.chaos.world import Stage, World
from tests.support.processes import ended_in_order

SAMPLES = Path(__file__).parents[2] / "sample_payload"
STATUSES = {200, 204, 400, 403, 404, 405, 408, 413, 415, 429}
MAX_GROWTH_KIB = 64 * 1024
SOCKETS = 8
PATHS = (
    *("/v1/chat/completions", "/v1/completions", "/v1/responses", "/chat/completions"),
    *("/v1/responses/input_tokens", "/v1/responses/compact", "/v1/responses/resp_0123456789abcdef/cancel"),
    *(f"/openai/deployments/{FLOW}/chat/completions", f"/openai/deployments/{FLOW}/completions"),
    *("/openai/responses", "/openai/v1/responses", "/openai/v1/chat/completions"),
)
UPSTREAM = {
    *("prediction", "chatmessage", "chatflows", "chatflows-streaming", "chatflows-uploads"),
    *("public-chatbotConfig", "attachments", "get-upload-file", "version"),
}
"""What of Flowise's API may be called: docs/security.md."""
ODD_PATHS = (
    "/v1/models/%2e%2e",
    "/v1/../health",
    "//v1//models",
    "/v1/chat/completions/x",
    "/%00",
    "/openai/deployments//chat/completions",
)
ODD_VALUES: tuple[Any, ...] = (
    *(
        None,
        True,
        False,
        0,
        -1,
        1e308,
        2**63,
        -(2**70),
        "",
        " ",
        "\x00",
        "\ud800",
        "a" * 5000,
        "../../etc/passwd",
    ),
    *(
        [],
        {},
        [[]],
        [{}],
        [None],
        {"": ""},
        {"type": "text"},
        "data:image/png;base64,@@",
        "http://a.example:1/x",
    ),
    *(
        {"url": "data:image/png;base64,AAAA"},
        [{"type": "image_url", "image_url": {"url": 7}}],
        "\u202e\r\nX: y",
    ),
)
DEEP = b'{"a":' * 300 + b"1" + b"}" * 300
ODD_NUMBERS = (
    b"NaN",
    b"Infinity",
    b"1e999",
    b"-0",
    b"9" * 5000,
    b"[" * 3000,
    DEEP,
    b'"\\ud800"',
    b"\xff\xfe",
)
ODD_HEADERS = (
    *("Content-Type: text/plain", "Content-Type: application/json; charset=utf-16", "Content-Encoding: br"),
    *(
        "X-Request-Id: \x7f\xe9\xff",
        "X-Conversation-Id: " + "é" * 300,
        "X-Session-Id: ../../x",
        "Origin: http://evil.example",
    ),
    *(
        "Authorization: Bearer ",
        "Authorization: Basic AAAA",
        "api-key: \xff",
        "Host: 10.1.2.3:99",
        "traceparent: 00-x",
    ),
    *(
        "X-Forwarded-For: 1.2.3.4, evil",
        "Range: bytes=0-1",
        "Cookie: a=b",
        "User-Agent: " + "x" * 4000,
        "X-OpenWebUI-Chat-Id: \t",
    ),
)


class Fuzzer:
    """Requests made from right ones by a seeded chance."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)
        texts = [path.read_text() for path in sorted(SAMPLES.glob("*.json"))]
        self._bodies = [body for body in map(json.loads, texts) if isinstance(body, dict)]

    def request(self) -> bytes:
        """One request, as bytes of HTTP that is right but for its odd headers."""
        chance = self._chance
        body = self.body()
        path = chance.choice(ODD_PATHS) if chance.random() < 0.05 else chance.choice(PATHS)
        method = (
            chance.choice(("GET", "PUT", "DELETE", "HEAD", "OPTIONS")) if chance.random() < 0.05 else "POST"
        )
        lines = [f"{method} {path} HTTP/1.1", "Connection: close", f"Content-Length: {len(body)}"]
        headers = {"Host": "localhost", "Content-Type": "application/json"}
        for header in chance.sample(ODD_HEADERS, chance.choice((0, 0, 1, 3))):
            name, _, value = header.partition(": ")
            headers[name] = value
        lines += [f"{name}: {value}" for name, value in headers.items()]
        return "\r\n".join([*lines, "", ""]).encode("latin-1") + (b"" if method == "HEAD" else body)

    def body(self) -> bytes:
        """A body made from a right one, as JSON or broken."""
        chance = self._chance
        body = copy.deepcopy(chance.choice(self._bodies))
        body["model"] = FLOW
        if chance.random() < 0.3:  # the words of the Responses API
            body["input"] = body.pop("messages", "Hello")
        for _ in range(chance.choice((0, 1, 1, 2, 5))):
            self._mutate(body)
        raw = json.dumps(body).encode()
        return self._broken(raw) if chance.random() < 0.25 else raw

    def _mutate(self, body: dict[str, Any]) -> None:
        chance, place = self._chance, self._place(body)
        if isinstance(place, dict):
            name = chance.choice(
                [*place, chance.choice(("n", "stop", "stream", "user", "tools", "metadata", "form"))]
            )
            place[name] = (
                copy.deepcopy(chance.choice(ODD_VALUES)) if chance.random() < 0.8 else chance.random()
            )
        elif place:
            index = chance.randrange(len(place))
            if chance.random() < 0.5:
                place[index] = copy.deepcopy(chance.choice(ODD_VALUES))
            else:
                place.extend(copy.deepcopy(place[index]) for _ in range(chance.choice((1, 40))))

    def _place(self, place: Any) -> dict[str, Any] | list[Any]:
        while True:
            values = place.values() if isinstance(place, dict) else place
            inner = [value for value in values if isinstance(value, dict | list) and value]
            if not inner or self._chance.random() < 0.4:
                return place  # type: ignore[no-any-return]
            place = self._chance.choice(inner)

    def _broken(self, raw: bytes) -> bytes:
        chance, at = self._chance, self._chance.randrange(len(raw))
        odd = chance.choice(ODD_NUMBERS)
        return chance.choice(
            (
                raw[:at],
                raw[:at] + odd + raw[at:],
                raw.replace(b"true", odd, 1),
                odd,
                b"",
                raw.decode().encode("utf-16"),
            )
        )


def fault_of(outcome: Outcome) -> str:
    """What the server must not have answered; empty if all is well."""
    if not outcome.status or not outcome.is_framed:
        return "no whole answer"
    if outcome.status not in STATUSES:
        return f"status {outcome.status}: {outcome.body[:200]!r}"
    is_stream = outcome.headers.get("content-type", "").startswith("text/event-stream")
    if outcome.status >= 400 and outcome.body and not outcome.error:
        return f"no OpenAI error: {outcome.status} {outcome.body[:200]!r}"
    if is_stream and outcome.body and b"event: " not in outcome.body and outcome.payloads[-1:] != [b"[DONE]"]:
        return "a stream without [DONE]"
    if (outcome.error or {}).get("type") == "server_error":
        return f"server_error: {outcome.body[:200]!r}"
    # What a flow says may hold anything; what an error says may not.
    return leak_in(json.dumps(outcome.error).encode()) if outcome.error else ""


async def fuzzed(stage: Stage, seconds: float, count: int, seed: int) -> tuple[Counter[int], list[str]]:
    """Send for so long, at most so many; the statuses, and what was wrong."""
    fuzzer, statuses, faults = Fuzzer(seed), Counter[int](), list[str]()
    end = time.monotonic() + seconds
    left = iter(range(count))

    async def client() -> None:
        while time.monotonic() < end and len(faults) < 20 and next(left, None) is not None:
            request = fuzzer.request()
            outcome = await asked(stage.url, request)
            statuses[outcome.status] += 1
            # A HEAD has no body, whatever length it tells.
            if not request.startswith(b"HEAD") and (fault := fault_of(outcome)):
                faults.append(f"{fault}\n    {request[:600]!r}")

    await asyncio.gather(*(client() for _ in range(8)))
    return statuses, faults


async def fuzzed_sockets(
    stage: Stage, seconds: float, count: int, seed: int
) -> tuple[Counter[str], list[str]]:
    """The same over WebSockets; how the messages were answered, and what was wrong."""
    fuzzers = [SocketFuzzer(stage.url, seed + n, Fuzzer(seed + n).body) for n in range(SOCKETS)]
    until = time.monotonic() + seconds
    each = -(-count // SOCKETS)
    await asyncio.gather(*(asyncio.to_thread(fuzzer.run, each, until) for fuzzer in fuzzers))
    statuses = sum((fuzzer.statuses for fuzzer in fuzzers), Counter[str]())
    return statuses, [fault for fuzzer in fuzzers for fault in fuzzer.faults]


async def play(world: World, seconds: float, count: int, seed: int) -> list[str]:
    """Fuzz one server and hold it to being well afterwards; what was wrong."""
    with world.stage(FLOWISE_REQUEST_TIMEOUT="3") as stage:
        warm, faults = await fuzzed(stage, min(2.0, seconds / 3), count, seed)
        before, pids = stage.memory_kib(), stage.pids()
        statuses, more = await fuzzed(stage, seconds, count, seed + 1)
        answers, others = await fuzzed_sockets(stage, seconds, count, seed + 2)
        faults += more + others
        if foreign := set(stage.flowise.state()["paths"]) - UPSTREAM:
            faults.append(f"Flowise was asked for {sorted(foreign)}")
        grown = stage.memory_kib() - before
        if stage.pids() != pids:
            faults.append("a worker has died")
        if grown > MAX_GROWTH_KIB:
            faults.append(f"grown by {grown / 1024:.0f} MiB")
        body = json.dumps(
            {"model": FLOW, "messages": [{"role": "user", "content": question("after")}]}
        ).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
        after = await asked(stage.url, head.encode() + body)
        if after.verdict() != "whole":
            faults.append(f"not well afterwards: {after.status} {after.body[:200]!r}")
        if errors := stage.errors():
            faults.append(f"{len(errors)} error lines in the log, the first: {errors[0][:1500]}")
    total = statuses + warm
    print(f"{sum(total.values())} requests, statuses {dict(sorted(total.items()))}")
    print(
        f"{sum(answers.values())} messages, answers {dict(sorted(answers.items()))}, {grown / 1024:+.1f} MiB"
    )
    return faults


def main() -> int:
    """Fuzz and print; 1 if anything was wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--count", type=int, default=10**9, help="requests, and messages, at most")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}")
    with ended_in_order(), tempfile.TemporaryDirectory() as folder:
        faults = asyncio.run(
            play(World(Path(folder), is_short=True), arguments.seconds, arguments.count, arguments.seed)
        )
    for fault in faults:
        print(f"WRONG: {fault}")
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
