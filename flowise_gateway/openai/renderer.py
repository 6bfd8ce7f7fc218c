"""The interface of renderers, which convert a run's events to the frames and bodies of one OpenAI API."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import orjson

from flowise_gateway.flow.errors import ProxyError
from flowise_gateway.flow.events import FlowEvent
from flowise_gateway.flow.transcript import Transcript
from flowise_gateway.openai.citations import sources_footer
from flowise_gateway.openai.client_quirks import Style
from flowise_gateway.openai.flowise_details import SHORTER, FlowiseDetails, flowise_details
from flowise_gateway.openai.request import ParsedRequest
from flowise_gateway.openai.schema import new_id
from flowise_gateway.openai.sse import MAX_DETAILS, Frame
from flowise_gateway.openai.usage import Usage, usage_of


class Renderer(Protocol):
    """Converts the events of a request, whose choices run concurrently, to one OpenAI API."""

    def opening(self) -> list[Frame]:
        """The frames at the start of a stream."""

    def chunks(self, event: FlowEvent, index: int = 0) -> list[Frame]:
        """The frames for one event of choice `index`, often none."""

    def heartbeat(self) -> bytes:
        """The bytes that keep a silent stream alive."""

    def closing(self, transcripts: Sequence[Transcript]) -> list[Frame]:
        """The frames at the end of a complete stream, from one transcript per choice."""

    def failure(self, error: ProxyError) -> list[Frame]:
        """The frames that end a failed stream."""

    def body(self, transcripts: Sequence[Transcript]) -> Mapping[str, Any]:
        """The body of a non-streamed answer."""

    def usage(self, transcripts: Sequence[Transcript]) -> Usage:
        """The token usage of the answer, counted on the first call, so that all reports agree."""


class BaseRenderer:
    """The common part of all renderers."""

    def __init__(
        self,
        request: ParsedRequest,
        *,
        count_tokens: Callable[[str], int],
        style: Style = Style(),  # noqa: B008 - frozen
        clock: Callable[[], float] = time.time,
        make_id: Callable[[str], str] = new_id,
    ) -> None:
        """Prepare for one answer; clock and id source are arguments so that tests can fix them."""
        self._request, self._style = request, style
        self._count_tokens, self._make_id = count_tokens, make_id
        self._clock, self._started = clock, clock()
        self._counted: Usage | None = None

    def _seconds(self) -> float:
        return max(0.0, self._clock() - self._started)

    def usage(self, transcripts: Sequence[Transcript]) -> Usage:
        """The token usage of the answer, counted on the first call."""
        if self._counted is None:
            self._counted = usage_of(self._request.turns, transcripts, self._count_tokens)
        return self._counted

    def _shown(self, error: ProxyError) -> ProxyError:
        """The failure as this client must be told of it in a stream."""
        wording = self._style.wording
        return error if wording is None else wording.reworded(error, in_stream=True)

    def _details(self, transcripts: Sequence[Transcript]) -> FlowiseDetails:
        return flowise_details(transcripts, self._seconds(), self._request.turns)

    def _short_details(self, transcripts: Sequence[Transcript]) -> bytes:
        """The details for a chunk: the longer all of them are, the less of each text they hold."""
        raw = b""
        for longest in SHORTER:
            raw = orjson.dumps(flowise_details(transcripts, self._seconds(), self._request.turns, longest))
            if len(raw) <= MAX_DETAILS:
                break
        return raw

    def _footer(self, transcript: Transcript) -> str:
        return sources_footer(transcript) if self._style.footer else ""
