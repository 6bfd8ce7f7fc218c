"""A run's events as a streamed answer: when the status goes out, what keeps it alive, how it ends. Policy."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass

from flowise_gateway.flow.errors import ProxyError, RunFailed, ServerFault
from flowise_gateway.flow.events import (
    ArtifactMade,
    Batch,
    ClientToolCalled,
    FlowEvent,
    HumanInputRequested,
    ReasoningDelta,
    StepStarted,
    TextDelta,
)
from flowise_gateway.flow.transcript import Transcript
from flowise_gateway.openai.renderer import Renderer
from flowise_gateway.openai.sse import Frame, stream_bytes
from flowise_gateway.web.pump import Pump

log = logging.getLogger(__name__)

EVENT_STREAM = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache",
    "X-Accel-Buffering": "no",
}
STEP_HOLD_SECONDS = 1.0
"""How long a first step may wait for an early failure before the status goes out with it."""

NumberedBatches = Generator[tuple[int, Batch], None, None]


class Heartbeat:
    """When a stream must be written to next; its `remaining` is what a run is asked to wake us by."""

    def __init__(self, heartbeat_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Start the first interval now."""
        self._heartbeat_seconds = heartbeat_seconds
        self._clock = clock
        self._due = clock() + heartbeat_seconds

    def reset(self) -> None:
        """Begin the interval anew."""
        self._due = self._clock() + self._heartbeat_seconds

    def due_within(self, seconds: float) -> None:
        """Be due in `seconds` at the latest."""
        self._due = min(self._due, self._clock() + seconds)

    def remaining(self) -> float:
        """Seconds until a write is due, never below zero."""
        return max(0.0, self._due - self._clock())


@dataclass(frozen=True, slots=True)
class PendingAnswer:
    """A request whose runs are ready to begin, and all that it takes to answer it.

    `record` is to be called once all runs are whole, before the client is told; `headers` are the answer's.
    `pump`, if there is one, is where the batches offer their tokens first.
    """

    batches: NumberedBatches
    renderer: Renderer
    heartbeat: Heartbeat
    transcripts: Sequence[Transcript]
    record: Callable[[], None]
    headers: Mapping[str, str]
    pump: Pump | None = None


class StreamedAnswer:
    """One answer on its way: the status line is held until it is known that there is something to say."""

    def __init__(self, begun: PendingAnswer) -> None:
        """Answer what has begun; what its `record` raises ends the stream."""
        self._batches = begun.batches
        self._renderer = begun.renderer
        self._heartbeat = begun.heartbeat
        self._transcripts = begun.transcripts
        self._record = begun.record
        self._pump = begun.pump

    def begin(self) -> Iterator[bytes]:
        """Wait for the first substance (or the time to show life), then give the stream's bytes.

        An error before that is raised here, so that it becomes an HTTP status.
        """
        try:
            opening = self._first_bytes()
        except BaseException:
            self._batches.close()
            raise
        return _Stream(self._bytes(opening), self._batches)

    def _first_bytes(self) -> bytes:
        frames = self._renderer.opening()
        hurried = False
        for number, batch in self._batches:
            frames.extend(self._rendered(number, batch))
            if any(map(_is_substance, batch)):
                return stream_bytes(frames)
            if not hurried and any(isinstance(event, StepStarted) for event in batch):
                hurried = True
                self._heartbeat.due_within(STEP_HOLD_SECONDS)
            if not self._heartbeat.remaining():
                return stream_bytes(frames) or self._renderer.heartbeat()
        return stream_bytes([*frames, *self._closing()])

    def _bytes(self, opening: bytes) -> Generator[bytes, None, None]:
        with contextlib.closing(self._batches):
            yield opening
            if opening.endswith(b"data: [DONE]\n\n"):
                return
            self._heartbeat.reset()
            try:
                yield from self._rest()
            except ProxyError as error:
                log.info("a stream ended with an error: %s", error.code)
                yield stream_bytes(self._renderer.failure(error))
            except Exception:
                log.exception("a stream failed")
                yield stream_bytes(self._renderer.failure(ServerFault("The server had an error.")))

    def _rest(self) -> Iterator[bytes]:
        self._open_pump()
        for number, batch in self._batches:
            piece = stream_bytes(self._rendered(number, batch))
            if not piece and not self._heartbeat.remaining():
                piece = self._renderer.heartbeat()
            if piece:
                yield piece
                self._heartbeat.reset()
                self._open_pump()
        # An answer's end is as much work as many tokens: those of others that are there go first.
        time.sleep(0)
        yield stream_bytes(self._closing())

    def _open_pump(self) -> None:
        """Have tokens written past us once the first has gone the usual way, where it is timed."""
        if self._pump is not None and self._transcripts[0].texts:
            self._pump.open(self._renderer, self._transcripts[0])
            self._pump = None

    def _rendered(self, number: int, batch: Batch) -> list[Frame]:
        frames: list[Frame] = []
        for event in batch:
            self._transcripts[number].add(event)
            frames.extend(self._renderer.chunks(event, number))
        return frames

    def _closing(self) -> list[Frame]:
        self._record()
        return self._renderer.closing(self._transcripts)


class _Stream:
    """The stream's bytes; closing it ends the run even if nobody ever read."""

    def __init__(self, pieces: Generator[bytes, None, None], batches: NumberedBatches) -> None:
        self._pieces = pieces
        self._batches = batches

    def __iter__(self) -> Iterator[bytes]:
        return self._pieces

    def __next__(self) -> bytes:
        return next(self._pieces)

    def close(self) -> None:
        """End the stream and its run."""
        self._pieces.close()
        self._batches.close()


def refuse_empty(transcripts: Sequence[Transcript], *, may_be_cut: bool = False) -> None:
    """Raise for a stream that said nothing: chat UIs show an empty message without a word.

    `may_be_cut` tells that the client gave a stop sequence, which may have cut all there was.
    """
    if all(one.is_empty and not (may_be_cut and one.is_cut) for one in transcripts):
        raise RunFailed("The flow ended without an answer.", code="empty_answer")


def _is_substance(event: FlowEvent) -> bool:
    return isinstance(event, (TextDelta, ReasoningDelta, ClientToolCalled, HumanInputRequested, ArtifactMade))
