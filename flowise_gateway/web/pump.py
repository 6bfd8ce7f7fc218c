"""The event pump: forwards tokens from Flowise to the client inside an event loop callback.

Waking the greenlet that serves a stream, and its generators, costs more than rendering a token. So while the
greenlet waits for Flowise, tokens are written without it. Everything else (other or incomplete events, the
end, failures, a slow client) wakes it, and goes through the loop of `PendingAnswer`.
"""

from __future__ import annotations

from collections.abc import Callable

from flowise_gateway.flow.events import FlowEvent, TextDelta
from flowise_gateway.flow.transcript import Transcript
from flowise_gateway.openai.sse import Frame, stream_bytes
from flowise_gateway.web.heartbeat import Heartbeat

Chunks = Callable[[FlowEvent, int], list[Frame]]
"""Renders the frames of one event of a choice."""
WriteNow = Callable[[bytes], bool]
"""Writes a chunk without blocking; false if part of it must be sent before the next one."""


class Pump:
    """The bypass of one stream around its greenlet; closed until the greenlet has sent the first text."""

    __slots__ = ("_chunks", "_heartbeat", "_transcript", "_write_now")

    def __init__(self, write_now: WriteNow, heartbeat: Heartbeat) -> None:
        self._write_now, self._heartbeat = write_now, heartbeat
        self._transcript: Transcript | None = None
        self._chunks: Chunks | None = None

    def open(self, transcript: Transcript, chunks: Chunks) -> None:
        """Open the pump, after the response headers and everything before have been sent."""
        self._transcript, self._chunks = transcript, chunks

    def take(self, text: str) -> bool:
        """Write the text of tokens if the pump is open; true if it was written and must not be yielded."""
        if self._transcript is None or self._chunks is None:
            return False
        event = TextDelta(text)
        self._transcript.add(event)
        if self._write_now(stream_bytes(self._chunks(event, 0))):
            self._heartbeat.reset()
        else:
            # The greenlet can wait for the client; its heartbeat sends the rest.
            self._heartbeat.due_within(0)
        return True
