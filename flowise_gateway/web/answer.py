"""One answer under way: the loop from its runs' events to its frames, the same for every surface.

A stream, a WebSocket and a background response write the frames; a JSON body needs the transcripts alone.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass

from flowise_gateway.flow.errors import RunFailed
from flowise_gateway.flow.events import Batch, FlowEvent
from flowise_gateway.flow.parallel import ChoiceBatches
from flowise_gateway.flow.transcript import Transcript
from flowise_gateway.openai.renderer import Renderer
from flowise_gateway.openai.sse import Frame
from flowise_gateway.web.pump import Pump


class Heartbeat:
    """When a client must be written to next; its `remaining` is what a run is asked to wake us by."""

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

    `record` is called once all runs are whole, before the client is told; `headers` are the answer's.
    `pump`, if there is one, is where the batches offer their tokens first.
    """

    batches: ChoiceBatches
    renderer: Renderer
    heartbeat: Heartbeat
    transcripts: Sequence[Transcript]
    record: Callable[[], None]
    headers: Mapping[str, str]
    pump: Pump | None = None

    def steps(self, *, renders: bool = True) -> Generator[tuple[Batch, list[Frame]], None, None]:
        """Run, and give each batch with its frames, often none, once its events are in the transcripts.

        Closing the generator ends the runs. Raises ProxyError.
        """
        transcripts, chunks = self.transcripts, self.renderer.chunks if renders else _no_frames
        with contextlib.closing(self.batches):
            for number, batch in self.batches:
                transcript, frames = transcripts[number], list[Frame]()
                for event in batch:
                    transcript.add(event)
                    frames += chunks(event, number)
                yield batch, frames

    def closing(self) -> list[Frame]:
        """Record the whole answer, then give the frames that end it. Raises ProxyError."""
        self.record()
        return self.renderer.closing(self.transcripts)


def _no_frames(_event: FlowEvent, _number: int) -> list[Frame]:
    return []


def refuse_empty(transcripts: Sequence[Transcript], *, may_be_cut: bool = False) -> None:
    """Raise for a stream without an answer: chat UIs show an empty message without a word.

    `may_be_cut` tells that the client gave a stop sequence, which may have cut all there was.
    """
    if all(one.is_empty and not (may_be_cut and one.is_cut) for one in transcripts):
        raise RunFailed("The flow ended without an answer.", code="empty_answer")
