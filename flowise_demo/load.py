"""Load profiles: flows that answer at the pace and in the sizes that their id names, for benchmarks.

A flow id `be7c5f10-TTTT-DDDD-FFFF-SSSSAAAAAAAA` is a load profile: T tokens, D ms apart, the first after F
ms, S bytes each, and A bytes of a JSON answer (0: the joined tokens).
"""

from __future__ import annotations

import asyncio
import re
import time
import uuid

from flowise_demo.flows import Flow
from flowise_demo.http import json_response
from flowise_demo.predictions import Run, answer_body, frame
from flowise_demo.steps import Answer, Event

_PROFILE = re.compile(r"be7c5f10-(\d{4})-(\d{4})-(\d{4})-(\d{4})(\d{8})")
_FILLER = "lorem ipsum dolor sit amet consectetur adipiscing elit sed do eiusmod tempor "
_BURST = 16  # tokens of a load profile without pauses that share one write


def load_flow(flow_id: str) -> Flow | None:
    """The flow of a load profile's id."""
    return Flow(flow_id, "load profile", "load", memory=False) if _PROFILE.fullmatch(flow_id) else None


async def run_load(run: Run) -> Answer | None:
    """Send tokens at the profile's pace; None if the answer is whole, or its client has left.

    A run whose client leaves ends, so that a benchmark leaves nothing behind.
    """
    found = _PROFILE.fullmatch(run.flow.id)
    count, gap, first, size, answer_bytes = map(int, found.groups()) if found else (0, 0, 0, 0, 0)
    if not run.is_streaming:
        await asyncio.sleep((first + count * gap) / 1000)
        text = _filler(answer_bytes) if answer_bytes else "".join(_stamped(size) for _ in range(count))
        run.connection.respond(json_response(answer_body(run, Answer(text), str(uuid.uuid4()))))
        return None
    await asyncio.sleep(first / 1000)
    run.connection.send(frame(Event("start", ""), run.connection))
    due, loop = time.monotonic(), asyncio.get_running_loop()
    at_once = 1 if gap else _BURST
    for sent in range(0, count, at_once):
        if run.connection.is_closed:
            return None
        run.connection.send(*(_token_frame(size) for _ in range(min(at_once, count - sent))))
        await run.connection.drained()
        due += gap / 1000
        await asyncio.sleep(max(0.0, due - loop.time()) if gap else 0)
    return Answer("")


def _token_frame(size: int) -> bytes:
    return b'message:\ndata:{"event":"token","data":"%b"}\n\n' % _stamped(size).encode()


def _stamped(size: int) -> str:
    """A token of this size; 18 bytes or more carry the monotonic clock in microseconds behind an `@`."""
    stamp = f"@{time.monotonic_ns() // 1000:016d} " if size >= 18 else ""
    return stamp + _filler(min(max(size, 1), 8192) - len(stamp))


def _filler(size: int) -> str:
    return (_FILLER * (size // len(_FILLER) + 1))[:size]
