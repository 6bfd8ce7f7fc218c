"""Sends an answer as an event stream: status line, heartbeats, end."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Generator

from flowise_gateway.flow.errors import ProxyError, ServerFault
from flowise_gateway.flow.events import SUBSTANCE, Batch, StepStarted
from flowise_gateway.openai.sse import Frame, stream_bytes
from flowise_gateway.web.answer import PendingAnswer

log = logging.getLogger(__name__)

EVENT_STREAM = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache",
    "X-Accel-Buffering": "no",
}
STEP_HOLD_SECONDS = 1.0
"""How long the first step is held back, so that an early failure can still become a status."""

Steps = Generator[tuple[Batch, list[Frame]], None, None]


def event_stream(answer: PendingAnswer) -> Generator[bytes, None, None]:
    """Wait for the first content or the first heartbeat, then yield the bytes of the stream.

    An earlier error is raised here, so that it becomes an HTTP status. Closing the stream aborts the runs.
    """
    stream = _event_stream(answer)
    next(stream)
    return stream


def _event_stream(answer: PendingAnswer) -> Generator[bytes, None, None]:
    heartbeat, renderer = answer.heartbeat, answer.renderer
    with contextlib.closing(answer.steps()) as steps:
        opening, is_whole = _opening(answer, steps)
        # Started by `event_stream`: closing a generator that was never started would not abort its runs, and
        # the client may disconnect before the first byte is read.
        yield b""
        yield opening
        if is_whole:
            return
        heartbeat.reset()
        try:
            for _, frames in steps:
                piece = stream_bytes(frames) if frames else b""
                if not piece and not heartbeat.remaining():
                    piece = renderer.heartbeat()
                if piece:
                    yield piece
                    heartbeat.reset()
            # Yield, so that other streams' waiting tokens are sent before this answer's closing work.
            time.sleep(0)
            yield stream_bytes(answer.closing())
        except ProxyError as error:
            log.info("a stream ended with an error: %s", error.code)
            yield stream_bytes(answer.failure(error))
        except Exception:
            log.exception("a stream failed")
            yield stream_bytes(answer.failure(ServerFault("The server had an error.")))


def _opening(answer: PendingAnswer, steps: Steps) -> tuple[bytes, bool]:
    """The first bytes of the stream, and whether they are all of it."""
    frames = answer.renderer.opening()
    heartbeat, has_step = answer.heartbeat, False
    for batch, rendered in steps:
        frames += rendered
        if any(isinstance(event, SUBSTANCE) for event in batch):
            return stream_bytes(frames), False
        if not has_step and any(isinstance(event, StepStarted) for event in batch):
            has_step = True
            heartbeat.due_within(STEP_HOLD_SECONDS)
        if not heartbeat.remaining():
            return stream_bytes(frames) or answer.renderer.heartbeat(), False
    return stream_bytes([*frames, *answer.closing()]), True
