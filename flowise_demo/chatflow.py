"""How the demo's chatflows run, and how the tokens of any model are paced and broken off."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from types import MappingProxyType

from flowise_demo.flows import Json
from flowise_demo.model import answer_text, words_of
from flowise_demo.scripts import Script
from flowise_demo.steps import HEARTBEAT, Answer, Event, Fault, Pause, Raw, RunFailed, Steps, Turn


def chatflow(turn: Turn) -> Steps:
    script, sources = turn.script, turn.flow.kind == "retrieval"
    if script.failure:
        raise RunFailed(script.failure)
    tokens = tokens_of(turn)
    yield Event("start", tokens[0] if sources and tokens else "")
    if script.fault_at == "start":
        yield Fault(script.fault)
    yield from silence(script)
    yield from speech(turn, tokens)
    if sources:
        yield Event("sourceDocuments", SOURCE_DOCUMENTS)
    extras = {"sourceDocuments": SOURCE_DOCUMENTS} if sources else {}
    if turn.flow.kind == "files":
        extras = FILES_MADE
        for name, made in extras.items():
            yield Event(name, made)
    if script.fault_at == "end":
        yield Fault(script.fault)
    yield Answer("".join(tokens), extras)


def tokens_of(turn: Turn) -> tuple[str, ...]:
    if turn.script.tokens is not None:
        return turn.script.tokens
    return words_of(answer_text(turn.flow, turn.messages))


def silence(script: Script) -> Steps:
    left, period = script.silence_seconds, script.heartbeat_seconds
    while left > period > 0:
        yield Pause(period)
        yield HEARTBEAT
        left -= period
    if left > 0:
        yield Pause(left)


def speech(turn: Turn, tokens: tuple[str, ...]) -> Steps:
    """The tokens at their pace, then the failure or fault that the script puts behind them."""
    script = turn.script
    for frame in script.frames:
        yield Raw(frame)
    seconds = turn.token_seconds if script.token_seconds is None else script.token_seconds
    pause = Pause(seconds)
    for token in tokens:
        yield Event("token", token)
        if seconds:
            yield pause
    if script.breaks_off:
        raise RunFailed(script.breaks_off)
    if script.fault and script.fault_at == "tokens":
        yield Fault(script.fault)


def _chart() -> bytes:
    """A bar chart of 120 by 80 pixels as PNG."""
    heights = (20, 45, 30, 70, 55)
    rows = []
    for y in range(80):
        row = bytearray(b"\xff" * 360)
        for bar, height in enumerate(heights):
            if 80 - y <= height:
                row[bar * 72 + 12 : bar * 72 + 60] = b"\x3b\x82\xf6" * 16
        rows.append(b"\0" + bytes(row))
    size = (120).to_bytes(4, "big") + (80).to_bytes(4, "big")
    parts = ((b"IHDR", size + b"\x08\x02\0\0\0"), (b"IDAT", zlib.compress(b"".join(rows))), (b"IEND", b""))
    chunks = (len(c).to_bytes(4, "big") + k + c + zlib.crc32(k + c).to_bytes(4, "big") for k, c in parts)
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


STORED_FILES: Mapping[str, bytes] = MappingProxyType(
    {
        "chart.png": _chart(),
        "report.pdf": b"%PDF-1.4\n%%EOF\n",
        "page.html": b"<script>document.title = 'run'</script>",
        "not really.png": b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>",
    }
)
"""What a run of the flow `demo-files` leaves in Flowise's storage."""
FILES_MADE: Json = {
    "usedTools": [{"tool": "make_chart", "toolInput": {"title": "Bars"}, "toolOutput": "chart.png"}],
    "artifacts": [
        {"type": "png", "data": "FILE-STORAGE::chart.png"},
        {"type": "html", "data": "<b>hi</b>"},
        {"type": "html", "data": "FILE-STORAGE::page.html"},
        {"type": "png", "data": "FILE-STORAGE::not really.png"},
    ],
    "fileAnnotations": [{"filePath": "FILE-STORAGE::report.pdf", "fileName": "report.pdf"}],
}
SOURCE_DOCUMENTS: list[Json] = [
    {
        "pageContent": "Flowise is an open source tool to build AI agents visually.",
        "metadata": {
            "source": "https://docs.flowiseai.com/",
            "title": "Introduction",
            "loc": {"lines": {"from": 1, "to": 4}},
        },
    },
    {
        "pageContent": "The Prediction API is the primary endpoint for your flows.",
        "metadata": {"source": "https://docs.flowiseai.com/using-flowise/prediction", "title": "Prediction"},
    },
    {
        "pageContent": "The Nile is a river in Africa.",
        "metadata": {"source": "blob", "blobType": "", "fileName": "rivers.txt", "loc": {"pageNumber": 3}},
    },
]
