"""One answer in progress: the loop from the events of its runs to its frames, the same for every API.

Streams, WebSockets and background responses write the frames; a JSON body only needs the transcripts.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field

from flowise_gateway.flow.errors import ProxyError, RunFailed
from flowise_gateway.flow.events import Batch, FlowEvent
from flowise_gateway.flow.parallel import ChoiceBatches
from flowise_gateway.flow.request_summary import RequestSummary
from flowise_gateway.flow.transcript import Transcript
from flowise_gateway.openai.renderer import Renderer
from flowise_gateway.openai.sse import Frame
from flowise_gateway.openai.usage import token_count
from flowise_gateway.web.heartbeat import Heartbeat
from flowise_gateway.web.pump import Pump


@dataclass(frozen=True, slots=True)
class PendingAnswer:
    """A request whose runs are ready to start, with everything needed to answer it.

    `record` is called when all runs are complete, before the client is told; `headers` are the response's.
    `pump`, if set, may take tokens before they become batches. `summary` is that of the request.
    """

    batches: ChoiceBatches
    renderer: Renderer
    heartbeat: Heartbeat
    transcripts: Sequence[Transcript]
    record: Callable[[], None]
    headers: Mapping[str, str]
    pump: Pump | None = None
    summary: RequestSummary = field(default_factory=RequestSummary)

    def steps(self, *, renders: bool = True) -> Generator[tuple[Batch, list[Frame]], None, None]:
        """Run, and yield each batch with its frames, often none, after its events are in the transcripts.

        Closing the generator aborts the runs. Raises ProxyError.
        """
        transcripts, chunks = self.transcripts, self.renderer.chunks if renders else _no_frames
        is_whole = False
        try:
            with contextlib.closing(self.batches):
                for number, batch in self.batches:
                    transcript, frames = transcripts[number], list[Frame]()
                    for event in batch:
                        transcript.add(event)
                        frames += chunks(event, number)
                    yield batch, frames
                    if self.pump is not None and transcript.texts:
                        # The first text has been timed here and written.
                        self.pump.open(transcript, chunks)
            is_whole = True
        finally:
            # A run that produced nothing may not have started: the caller is not charged for it.
            if not is_whole and any(one.order or one.usage for one in transcripts):
                self._summarize()

    def _summarize(self) -> None:
        summary, transcripts = self.summary, self.transcripts
        if summary.chat_ids:
            summary.tokens = token_count(self.renderer.usage(transcripts), transcripts)
        if summary.prompt is not None:
            summary.answer = "\n".join(transcript.text for transcript in transcripts)

    def finish(self) -> None:
        """Record the complete answer. Raises ProxyError if it is empty."""
        self._summarize()
        self.record()

    def closing(self) -> list[Frame]:
        """Record the complete answer, and return the closing frames. Raises ProxyError."""
        self.finish()
        return self.renderer.closing(self.transcripts)

    def failure(self, error: ProxyError) -> list[Frame]:
        """Record why the answer failed, and return the frames that end it."""
        self.summary.outcome = self.summary.outcome or error.code or error.type
        return self.renderer.failure(error)


def _no_frames(_event: FlowEvent, _number: int) -> list[Frame]:
    return []


def refuse_empty(transcripts: Sequence[Transcript], *, may_be_cut: bool = False) -> None:
    """Raise for a stream without an answer, since chat UIs would silently show an empty message.

    `may_be_cut` means that a stop sequence may have removed the whole text.
    """
    if all(one.is_empty and not (may_be_cut and one.is_cut) for one in transcripts):
        raise RunFailed("The flow ended without an answer.", code="empty_answer")
