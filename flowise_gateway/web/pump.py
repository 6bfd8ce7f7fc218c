"""The event pump: tokens go from Flowise to the client inside the event loop's callback.

Waking the greenlet that serves a stream, and the generators it is in, costs more than rendering a token. So
while the greenlet waits for Flowise, tokens are written without it; everything else (other events, half an
event, an end, a failure, a client that is behind) wakes it, and goes through the loop of `PendingAnswer`.
"""

from __future__ import annotations

from collections.abc import Callable

from flowise_gateway.flow.events import FlowEvent, TextDelta
from flowise_gateway.flow.transcript import Transcript
from flowise_gateway.openai.sse import Frame, stream_bytes
from flowise_gateway.web.heartbeat import Heartbeat

Chunks = Callable[[FlowEvent, int], list[Frame]]
"""Gives the frames of one event of a choice, as a renderer does."""
WriteNow = Callable[[bytes], bool]
"""Writes a piece of the answer without waiting; false if a rest of it must go out before the next piece."""


class Pump:
    """One stream's way past its greenlet, shut until its first text has gone through the greenlet."""

    __slots__ = ("_chunks", "_heartbeat", "_transcript", "_write_now")

    def __init__(self, write_now: WriteNow, heartbeat: Heartbeat) -> None:
        self._write_now, self._heartbeat = write_now, heartbeat
        self._transcript: Transcript | None = None
        self._chunks: Chunks | None = None

    def open(self, transcript: Transcript, chunks: Chunks) -> None:
        """Let tokens pass from now on: the answer's head is out, and so is all that came before."""
        self._transcript, self._chunks = transcript, chunks

    def take(self, text: str) -> bool:
        """Write the text of some tokens, if the pump is open; a text that was taken must not be passed on."""
        if self._transcript is None or self._chunks is None:
            return False
        event = TextDelta(text)
        self._transcript.add(event)
        if self._write_now(stream_bytes(self._chunks(event, 0))):
            self._heartbeat.reset()
        else:
            # The greenlet can wait for the client; its heartbeat makes the rest go out.
            self._heartbeat.due_within(0)
        return True
