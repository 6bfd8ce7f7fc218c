"""Scenarios of frames: split anywhere, odd, oversized; answers that are none."""

from __future__ import annotations

import base64
import json
from collections import Counter
from functools import partial
from typing import Any

from tests.chaos.faults import question
from tests.chaos.load import Outcome, ask, asked, at_most, body_of, unchunked, verdicts
from tests.chaos.world import Row, World

TEXT = "Grüße, 世界 👋 \n\n done"
CODES_OF_BAD_ANSWERS = {
    "flow_failed",
    "flowise_bad_answer",
    "empty_answer",
    "flowise_misconfigured",
    "flowise_timeout",
}


def _frame(event: str, data: object, *, ascii_only: bool = True) -> bytes:
    payload = json.dumps({"event": event, "data": data}, ensure_ascii=ascii_only).encode()
    return b"message:\ndata:" + payload + b"\n\n"


_TOKENS = [_frame("token", TEXT[n : n + 3], ascii_only=n % 2 == 0) for n in range(0, len(TEXT), 3)]
_ENDING = _frame("metadata", {"chatId": "c", "chatMessageId": "m"}) + _frame("end", "[DONE]")
RECORDED = _frame("start", "") + b"".join(_TOKENS[:4]) + b":heartbeat\n\n" + b"".join(_TOKENS[4:]) + _ENDING


def _pieces(*pieces: bytes) -> dict[str, Any]:
    return {"fault": "raw", "pieces": [base64.b64encode(piece).decode() for piece in pieces]}


async def split_anywhere(world: World) -> Row:
    """R11: the same bytes in every two writes, byte by byte, in one write."""
    step = world.count(1, 9)
    row = Row("R11 where Flowise's writes are split does not matter", "100 % the same")
    with world.stage() as stage:
        splits = [(RECORDED[:at], RECORDED[at:]) for at in range(1, len(RECORDED), step)]
        scripts = [_pieces(RECORDED), _pieces(*(RECORDED[at : at + 1] for at in range(len(RECORDED))))]
        scripts += [_pieces(*split) for split in splits]
        calls = [partial(ask, stage.url, str(n), **script) for n, script in enumerate(scripts)]
        outcomes = await at_most(16, calls)
        same = verdicts(outcomes, TEXT)["whole"]
        row.check("answers that differ", len(scripts) - same)
        await stage.settled(row)
    row.scale = f"{len(RECORDED)} bytes, {len(scripts)} splits"
    row.figure = f"{same}/{len(scripts)} the same"
    return row


_START, _END = _frame("start", ""), _frame("end", "[DONE]")
_HI = _frame("token", "hi")
ODD: dict[str, tuple[list[bytes], str]] = {
    "no `message:` line": ([_START, _HI.removeprefix(b"message:\n"), _END], "hi"),
    "CRLF": ([(_START + _HI + _END).replace(b"\n", b"\r\n")], "hi"),
    "data over two lines": ([_START, b'message:\ndata:{"event":"token",\ndata:"data":"hi"}\n\n', _END], "hi"),
    "unknown event": ([_START, _frame("neverHeardOf", {"a": 1}), _HI, _END], "hi"),
    "event without data": ([_START, b'message:\ndata:{"event":"usedTools"}\n\n', _HI, _END], "hi"),
    "JSON that is no object": ([_START, b"message:\ndata:[1,2]\n\n", _HI, _END], "hi"),
    "comments and blank lines": ([b"\n\n:x\n\n", _START, b": y\n\n\n\n", _HI, _END], "hi"),
    "broken JSON": ([_START, b'message:\ndata:{"event":"tok\n\n', _HI, _END], "?"),
    "error first": ([_START, _frame("error", "Error: bad"), _END], "!"),
    "error last": ([_START, _HI, _frame("error", "Error: bad"), _END], "!"),
    "nothing but end": ([_START, _END], "!"),
    "nothing at all": ([b""], "!"),
    "no end": ([_START, _HI], "!"),
    "one token of 1 MiB": ([_START, _frame("token", "x" * 2**20), _END], "x" * 2**20),
    "a character in two pieces": (
        [_START, 'message:\ndata:{"event":"token","data":"é'.encode()[:-1], b'\xa9"}\n\n', _END],
        "é",
    ),
    "ends with a frame half said": ([_START, _HI, b'message:\ndata:{"event":"tok'], "!"),
    "end twice, tokens after it": ([_START, _HI, _END, _frame("token", "more"), _END], "hi"),
}
"""What is sent, and the text that it means; `!` is an error, `?` either."""


async def odd_frames(world: World) -> Row:
    """R12: frames that Flowise may send, and some that it should not."""
    row = Row("R12 odd frames are read as they are meant, or told as an error", "as specified, 0 crashes")
    with world.stage() as stage:
        crashes = 0
        for name, (pieces, expected) in ODD.items():
            # Too large for a script in a question, so the misbehaving Flowise makes this one itself.
            is_large = sum(map(len, pieces)) > 100_000
            script = {"tokens": 1, "size": 2**20, "at": -1} if is_large else _pieces(*filter(None, pieces))
            outcome = await ask(stage.url, name, **script)
            verdict = outcome.verdict("0." * 2**19 if is_large else expected)
            is_right = verdict in {"!": ("told", "refused"), "?": ("told", "refused", "fake stop")}.get(
                expected, ("whole",)
            )
            row.check(f"{name}: {verdict} {outcome.text[:20]!r}", int(not is_right))
            crashes += (outcome.error or {}).get("type") == "server_error"
        row.check("crashes", crashes)
        row.check("error lines in the log", len(stage.errors()))
        await stage.settled(row)
    row.scale = f"{len(ODD)} kinds"
    row.figure = f"{len(ODD) - len(row.wrong)}/{len(ODD)} as specified, {crashes} crashes"
    return row


NO_ANSWERS: dict[str, dict[str, Any]] = {
    "truncated JSON": {"fault": "mid_body", "how": "fin"},
    "JSON cut, its length right": {
        "fault": "status",
        "status": 200,
        "kind": "application/json",
        "body": '{"text":"0.1.2',
    },
    "HTML page": {"fault": "html", "body": "<html><body>502 Bad Gateway http://10.1.2.3/</body></html>"},
    "empty body": {"fault": "status", "status": 200, "kind": "application/json", "body": ""},
    "wrong content type": {
        "fault": "status",
        "status": 200,
        "kind": "text/plain",
        "body": '{"text":"0.1.2.3.4."}',
    },
    "shorter than its length": {
        "fault": "status",
        "status": 200,
        "kind": "application/json",
        "body": "{}",
        "length": 99,
    },
    "redirect": {"fault": "status", "status": 302, "location": "/api/v1/elsewhere", "body": ""},
    "permanent redirect": {"fault": "status", "status": 308, "location": "/api/v1/elsewhere", "body": ""},
    "502 of a gateway": {
        "fault": "status",
        "status": 502,
        "kind": "text/html",
        "body": "<h1>502</h1> upstream http://10.1.2.3",
    },
    "504 of a gateway": {"fault": "status", "status": 504, "kind": "text/html", "body": "<h1>504</h1>"},
    "500 with a stack": {"fault": "status", "status": 500},
}


async def no_answers(world: World) -> Row:
    """R14: answers that are none, to a request with and without a stream."""
    row = Row(
        "R14 what is no answer is told as an error, and a redirect is not followed",
        "100 %, 0 followed, 0 leaks",
    )
    statuses: Counter[int] = Counter()
    with world.stage() as stage:
        for name, script in NO_ANSWERS.items():
            for stream in (False, True) if script["fault"] != "mid_body" else (False,):
                outcome = await ask(stage.url, f"{name}{stream}", stream=stream, **script)
                statuses[outcome.status] += 1
                row.check(f"{name}, {stream}: {_fault_of(outcome)}", int(bool(_fault_of(outcome))))
        state = stage.flowise.state()
        row.check("redirects followed", state["paths"].get("elsewhere", 0))
        row.check("flows run twice", len(state["doubled"]))
        await stage.settled(row)
    row.scale = f"{sum(statuses.values())} answers"
    row.figure = f"statuses {dict(statuses)}; {state['paths'].get('elsewhere', 0)} followed"
    return row


def _fault_of(outcome: Outcome) -> str:
    """What is wrong with an error that must be told before the first byte."""
    error = outcome.error
    is_empty = outcome.status == 200 and outcome.verdict("") == "whole"
    if is_empty:  # an empty answer of a request without a stream is one, with a warning
        return ""
    if error is None or outcome.status != 400:
        return f"{outcome.status} {outcome.body[:80]!r}"
    if error["code"] not in CODES_OF_BAD_ANSWERS:
        return f"code {error['code']}"
    return leak_in(outcome.body)


def leak_in(body: bytes) -> str:
    """What a public answer must not hold: addresses inside, stacks, files."""
    for sign in (b"10.1.2.3", b"127.0.0.1", b"Traceback", b".py", b"/app/", b"    at ", b'File \\"'):
        if sign in body:
            return f"{sign.decode()} in {body[:120]!r}"
    return ""


PLAIN = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


async def odd_http(world: World) -> Row:
    """L9: HTTP that is rare but right."""
    row = Row("L9 pipelining, half-close, HTTP/1.0, Expect, HEAD, OPTIONS, chunked bodies", "as specified")
    with world.stage() as stage:
        body = body_of(question("odd"), stream=False)
        sized = f"Content-Length: {len(body)}\r\n".encode()
        plain = PLAIN.encode()
        chunks = b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in (body[:7], body[7:])) + b"0\r\n\r\n"
        health = b"GET /health HTTP/1.1\r\nHost: localhost\r\n"
        close = b"Connection: close\r\n\r\n"
        cases: dict[str, tuple[bytes, list[int]]] = {
            "pipelined": (
                health + b"\r\n" + plain + sized + b"\r\n" + body + health + close,
                [200, 200, 200],
            ),
            "HTTP/1.0": (plain.replace(b"1.1", b"1.0") + sized + b"\r\n" + body, [200]),
            "HTTP/1.0 kept alive": (
                (health.replace(b"1.1", b"1.0") + b"Connection: keep-alive\r\n\r\n")
                + health.replace(b"1.1", b"1.0")
                + b"\r\n",
                [200, 200],
            ),
            "Expect": (plain + sized + b"Expect: 100-continue\r\n" + close + body, [100, 200]),
            "HEAD": (b"HEAD /health HTTP/1.1\r\nHost: localhost\r\n" + close, [200]),
            "OPTIONS": (b"OPTIONS /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n" + close, [204]),
            "chunked body": (plain + b"Transfer-Encoding: chunked\r\n" + close + chunks, [200]),
            "both lengths": (plain + sized + b"Transfer-Encoding: chunked\r\n" + close + chunks, [400]),
            "no HTTP": (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", [400]),
        }
        for name, (request, expected) in cases.items():
            outcome = await asked(stage.url, request)
            raw = b"".join(piece for _, piece in outcome.arrivals)
            statuses = [int(part[2:5]) for part in raw.split(b"HTTP/1.")[1:]]
            row.check(f"{name}: {statuses} instead of {expected}", int(statuses != expected))
        await stage.settled(row)
        assert unchunked(chunks) == (body, True)
    row.scale = f"{len(cases)} kinds"
    row.figure = f"{len(cases) - len(row.wrong)}/{len(cases)} as specified"
    return row
