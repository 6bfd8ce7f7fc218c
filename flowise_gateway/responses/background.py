"""Background responses: stored step by step, and read and cancelled from any worker.

All their state is in the store, so that workers need not call each other.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Literal, Protocol

from flowise_gateway.flow.errors import (
    ProxyError,
    RunFailed,
    ServerFault,
    StoreUnavailable,
    error_body,
)
from flowise_gateway.openai.renderer import Renderer
from flowise_gateway.openai.sse import COMMENT, DONE, Frame, failed_response, stream_bytes
from flowise_gateway.responses.stored import ALIVE_SECONDS, Record, StoredResponse
from flowise_gateway.web.answer import PendingAnswer

log = logging.getLogger(__name__)

STEP_SECONDS = 0.25
"""How often a run stores its events, and how often readers poll for new ones."""
CANCEL_SECONDS = 5.0
KEEP_TRYING_SECONDS = 600.0
"""How long a finished run retries an unavailable store; after that, its answer is lost."""
AWAY_SECONDS = 60.0
"""How long a reader of events waits for an unavailable store."""
_RETRY_SECONDS = 1.0
_HEARTBEAT_SECONDS = 15.0
_END = b"\n\n"


class _StopRequested(Exception):
    """A client has cancelled or deleted the response."""


class EarlyRenderer(Renderer, Protocol):
    """A renderer that can also show a response before its output, and a cancelled one."""

    def before_output(self, status: Literal["queued", "in_progress"]) -> Mapping[str, Any]:
        """The response before its output."""

    def cancelled(self) -> list[Frame]:
        """The frames that end a cancelled response."""


class BackgroundRun:
    """A run whose events are stored as they arrive; `run` returns at its end and never raises."""

    def __init__(
        self, place: StoredResponse, answer: PendingAnswer, record: Record, renderer: EarlyRenderer
    ) -> None:
        """Prepare to run an answer and store it as `record`, which has no response yet."""
        self._place, self._answer, self._record, self._renderer = place, answer, record, renderer
        self._frames: list[Frame] = []
        self._blocks = 0
        self._unsaved: dict[int, bytes] = {}
        self._alive_at = 0.0
        self._failures = place.store_failures

    def queue(self) -> bool:
        """Store the response as queued; false if it could not be stored."""
        return self._place.show_alive() and self._place.save(self._with("queued"))

    def run(self) -> None:
        """Run to the end."""
        try:
            self._place.save(self._with("in_progress"))
            self._follow()
        except _StopRequested:
            self._answer.summary.outcome = "cancelled"
            self._frames += self._renderer.cancelled()
        except ProxyError as error:
            log.info("a background run ended with an error: %s", error.code)
            self._frames += self._answer.failure(error)
        except Exception:
            log.exception("a background run failed")
            self._frames += self._answer.failure(ServerFault("The server had an error."))
        self._finish()

    def _follow(self) -> None:
        answer = self._answer
        self._frames += self._renderer.opening()
        with contextlib.closing(answer.steps()) as steps:
            for _, frames in steps:
                self._frames += frames
                if not answer.heartbeat.remaining():
                    self._step()
                    answer.heartbeat.reset()
        if self._place.abort_reason():
            raise _StopRequested
        self._frames += answer.closing()

    def _step(self) -> None:
        if self._place.abort_reason():
            raise _StopRequested
        self._show_alive()
        if self._frames:
            self._unsaved[self._blocks] = stream_bytes(self._frames)
            self._blocks += 1
            self._frames = []
        # A block keeps its number and content until it is stored: a reader may have it even if saving failed.
        if self._unsaved and self._place.save_events(self._unsaved):
            self._unsaved = {}

    def _show_alive(self) -> None:
        failures = self._place.store_failures
        was_away = failures != self._failures
        if time.monotonic() - self._alive_at <= ALIVE_SECONDS / 4 and not was_away:
            return
        if self._place.show_alive():
            self._alive_at, self._failures = time.monotonic(), failures
            if was_away:  # the store may have lost its data
                self._place.save(self._with("in_progress"))

    def _finish(self) -> None:
        ends = time.monotonic() + KEEP_TRYING_SECONDS
        response = self._renderer.body(self._answer.transcripts)
        record = replace(self._record, response=response, blocks=self._blocks + 1)
        events = {**self._unsaved, self._blocks: stream_bytes(self._frames)}
        while True:
            if self._place.abort_reason() == "delete":
                self._place.delete_events(self._blocks)
                return
            if self._place.save(record, events):
                return
            if time.monotonic() > ends:
                log.error("a background response is lost: the store was unavailable for too long")
                return
            time.sleep(_RETRY_SECONDS)
            self._show_alive()

    def _with(self, status: Literal["queued", "in_progress"]) -> Record:
        return replace(self._record, response=self._renderer.before_output(status))


def replayed(
    place: StoredResponse, after: int, sleep: Callable[[float], None] = time.sleep
) -> Iterator[bytes]:
    """The stored and future events after this number, until the end of the run."""
    seen, block, silent, away = -1, 0, 0.0, 0.0
    record: Record | None = None
    while True:
        piece = None
        try:
            # The record is read before the events, so that all events of a finished record are stored.
            record = place.record()
            piece = place.events(block)
            away = 0.0
        except StoreUnavailable as error:
            away += STEP_SECONDS
            if away > AWAY_SECONDS and record is not None:
                frames = failed_response(seen + 1, error_body(error)["error"], record.response)
                yield stream_bytes([*frames, DONE])
                return
        if piece is not None:
            pieces = piece.split(_END)[:-1]
            wanted = [frame for number, frame in enumerate(pieces, seen + 1) if number > after]
            seen, block, silent = seen + len(pieces), block + 1, 0.0
            if wanted:
                yield b"".join(frame + _END for frame in wanted)
        elif not away and (record is None or record.is_over):
            yield from _dead_end(record, block, seen + 1)
            return
        else:
            sleep(STEP_SECONDS)
            silent += STEP_SECONDS
            if silent >= _HEARTBEAT_SECONDS:
                silent = 0.0
                yield COMMENT


def _dead_end(record: Record | None, blocks: int, number: int) -> Iterator[bytes]:
    """The frames that end a stream whose run died or was deleted; none for a complete stream."""
    if record is None:
        yield stream_bytes([DONE])
    elif blocks < max(1, record.blocks) or not record.blocks:
        known = record.response["error"] or {"message": "The events of this response are no longer stored."}
        error = error_body(RunFailed(known["message"]))["error"]
        frames = failed_response(number, error, record.response)
        yield stream_bytes([*frames, DONE])


def cancelled(place: StoredResponse, sleep: Callable[[float], None] = time.sleep) -> Record | None:
    """Ask the run to end, wait for its end, and return the final record."""
    place.request_abort("cancel")
    waited = 0.0
    while (record := place.record()) and not record.is_over and waited < CANCEL_SECONDS:
        sleep(STEP_SECONDS / 2)
        waited += STEP_SECONDS / 2
    return record
