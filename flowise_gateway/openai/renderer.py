"""What turns a run's events into the frames and bodies of one OpenAI surface."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from flowise_gateway.flow.errors import ProxyError
from flowise_gateway.flow.events import FlowEvent
from flowise_gateway.flow.transcript import Transcript
from flowise_gateway.openai.sse import Frame


class Renderer(Protocol):
    """Turns events of one request, whose choices run side by side, into one surface's wire."""

    def opening(self) -> list[Frame]:
        """Give the frames that begin a stream."""

    def chunks(self, event: FlowEvent, index: int = 0) -> list[Frame]:
        """Give the frames that one event of choice `index` becomes, often none."""

    def heartbeat(self) -> bytes:
        """Give what shows a silent stream to be alive."""

    def closing(self, transcripts: Sequence[Transcript]) -> list[Frame]:
        """Give the frames that end a whole stream, one transcript for each choice."""

    def failure(self, error: ProxyError) -> list[Frame]:
        """Give the frames that end a broken stream."""

    def body(self, transcripts: Sequence[Transcript]) -> Mapping[str, Any]:
        """Give the body of an answer that is not streamed."""
