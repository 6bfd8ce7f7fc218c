"""The event pump: tokens go from Flowise to the client inside the loop's callback. Policy.

Waking the greenlet that serves a stream, and the generators it is in, costs more than rendering a token. So
while it waits for Flowise, tokens are written past it; everything else (other events, half an event, an end,
a failure, a client that is behind) wakes it, and is its to handle, just as without the pump.
"""

from __future__ import annotations

from collections.abc import Callable

from flowise_gateway.flow.events import TextDelta
from flowise_gateway.flow.transcript import Transcript
from flowise_gateway.openai.renderer import Renderer
from flowise_gateway.openai.sse import stream_bytes

WriteNow = Callable[[bytes], bool]
"""Writes a piece of the answer without waiting; false if some of it goes before the next piece instead."""


class Pump:
    """One stream's way past its greenlet, shut until that has told the first words."""

    __slots__ = ("_fell_behind", "_renderer", "_transcript", "_write_now", "_written")

    def __init__(
        self, write_now: WriteNow, written: Callable[[], None], fell_behind: Callable[[], None]
    ) -> None:
        """Write with `write_now`, then call one of the others: `fell_behind` if some is left to write."""
        self._write_now = write_now
        self._written, self._fell_behind = written, fell_behind
        self._renderer: Renderer | None = None
        self._transcript: Transcript | None = None

    def open(self, renderer: Renderer, transcript: Transcript) -> None:
        """Let tokens pass from now on: the answer's head is out, and so is all that came before."""
        self._renderer, self._transcript = renderer, transcript

    def take(self, text: str) -> bool:
        """Write the text of some tokens, if the pump is open; whoever is told so must not pass it on."""
        if self._renderer is None or self._transcript is None:
            return False
        event = TextDelta(text)
        self._transcript.add(event)
        is_written = self._write_now(stream_bytes(self._renderer.chunks(event)))
        (self._written if is_written else self._fell_behind)()
        return True
