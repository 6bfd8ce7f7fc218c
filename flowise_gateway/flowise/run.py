"""Reads one run of a flow: response headers, then a stream or a JSON answer, with timeouts."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from flowise_gateway.flow.cooperative import yield_before
from flowise_gateway.flow.errors import ProxyError, RunFailed
from flowise_gateway.flow.events import (
    Batch,
    FlowEvent,
    FlowToolCalled,
    KeepAlive,
    StepStarted,
    TextDelta,
    TurnEnded,
)
from flowise_gateway.flow.lenient_json import lenient_json
from flowise_gateway.flow.turn import Turn
from flowise_gateway.flowise.answer import answer_events
from flowise_gateway.flowise.events import EventDecoder
from flowise_gateway.flowise.failures import unreachable
from flowise_gateway.flowise.queue_mode import AnswerText, QueueMode, stored_text
from flowise_gateway.flowise.servers import Server
from flowise_gateway.flowise.sse import SseDecoder, payloads
from flowise_gateway.flowise.transport.base import NotSent, Reply, ReplyHead

CLOSING_GRACE_SECONDS = 5.0
"""How long to wait for ids and `end` after the last text (Flowise issue 5346: some 10 s)."""

MAX_ANSWER_BYTES = 64 * 1024**2
"""The maximum size of a JSON answer or a single event, which must be held in memory."""

Stored = Callable[[str], Mapping[str, Any] | None]
"""Returns the message that Flowise stored under an id; None if it cannot be read."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Timeouts of a call in seconds, and the number of attempts. Errors name the setting of a limit."""

    request_timeout: float = 30
    stream_idle_timeout: float = 600
    run_timeout: float = 3600
    max_attempts: int = 3


@dataclass(slots=True)
class RunState:
    """Whether Flowise may have started the run: true once it is sent, false again if it was refused."""

    may_have_begun: bool = False


class Run:
    """One run: waits for the headers, for each chunk and for the end, each with its timeout."""

    def __init__(
        self, turn: Turn, limits: Limits, wake: Callable[[], float], pump: Callable[[str], bool] | None
    ) -> None:
        """Start the clock; for `wake` and `pump`, see `FlowiseClient.batches`."""
        self.turn = turn
        self.is_running = False
        self.state = RunState()
        self.server: Server | None = None
        self._limits = limits
        self._wake = wake
        self._pump = pump
        self._pumped_at = 0.0
        self._text = AnswerText()
        self._run_deadline = time.monotonic() + limits.run_timeout

    def check_cancelled(self) -> None:
        """Raise the error of the consumer's `wake` if nobody waits for the run, so that it is not sent."""
        self._wake()

    def wait_for_head(self, reply: Reply) -> Generator[Batch, None, ReplyHead]:
        """Wait for the response headers, yielding a KeepAlive whenever the consumer wants to be woken."""
        deadline = time.monotonic() + self._limits.request_timeout
        self.is_running = True
        try:
            while (head := reply.head(self._patience(deadline))) is None:
                self._check(deadline, "FLOWISE_REQUEST_TIMEOUT", self._limits.request_timeout)
                yield [KeepAlive()]
        except NotSent as error:
            self.is_running = False
            raise unreachable(error) from error
        return head

    @staticmethod
    def check_encoding(head: ReplyHead) -> None:
        """Refuse a response that is compressed although not requested: it could be a decompression bomb."""
        if head.headers.get("content-encoding", "identity") not in ("", "identity"):
            raise RunFailed(
                "Flowise, or a proxy in front of it, compressed its answer.", code="flowise_bad_answer"
            )

    def streamed(self, reply: Reply, mode: QueueMode, stored: Stored) -> Iterator[Batch]:
        """Yield the events of an event stream, complete only with Flowise's `end` (or all before it).

        Events lost in queue mode are completed from the `stored` message; otherwise the run fails.
        """
        sse, decoder = SseDecoder(), EventDecoder(self.turn.flow)
        if self._pump is not None:
            reply.pump(partial(self._pumped, self._pump, sse, decoder))
        while not decoder.has_ended:
            piece = yield from self._piece(reply, decoder)
            if not piece:
                break
            batch: Batch = []
            try:
                self._decode(sse.feed(piece), decoder, batch)
            except ProxyError:
                self.is_running = False
                yield batch
                raise
            self._note(batch)
            yield batch
            if sse.open_bytes > MAX_ANSWER_BYTES:
                raise _too_large("event")
        if not decoder.has_ended and not decoder.is_complete:
            raise RunFailed(
                "Flowise's stream ended before the answer was complete.", code="flowise_bad_answer"
            )
        self.is_running = False
        closing = [*self._missing(decoder, mode, stored), *decoder.closing()]
        if not decoder.has_ended and isinstance(closing[-1], TurnEnded):
            # Flowise may still have the stream of this chat id open, and may not have stored the answer yet.
            closing[-1] = replace(closing[-1], is_cut=True)
        yield closing

    def _note(self, batch: Batch) -> None:
        """Record the text of the answer, to compare it with the stored one."""
        for event in batch:
            if isinstance(event, TextDelta):
                self._text.add(event.text)
            elif isinstance(event, (StepStarted, FlowToolCalled)):
                self._text.start_step()

    def _missing(self, decoder: EventDecoder, mode: QueueMode, stored: Stored) -> Iterator[FlowEvent]:
        """Yield what a truncated stream lacks. Raises RunFailed if it cannot be completed."""
        must_be_whole = decoder.is_cut or mode.is_on
        if decoder.is_whole or not (must_be_whole or decoder.is_silent or mode.may_doubt()):
            return
        row = stored(decoder.message_id) or {}
        content = stored_text(row)
        rest = None if content is None else self._text.rest_of(content)
        if decoder.is_cut or rest:
            mode.find()
        if rest is not None:
            yield from decoder.complete(row, rest)
        elif must_be_whole:
            raise RunFailed(
                "Flowise, in queue mode, lost part of the answer, and its stored message does not help.",
                code="flowise_bad_answer",
            )

    def _pumped(
        self, pump: Callable[[str], bool], sse: SseDecoder, decoder: EventDecoder, arrived: bytearray
    ) -> bool:
        """Offer received data to the pump, if it is complete tokens; true: the consumer may keep waiting."""
        if sse.open_bytes or not arrived.endswith(b"\n\n"):
            return False
        text = decoder.tokens(bytes(arrived))
        if not text or not pump(text):
            return False
        arrived.clear()
        self._text.add(text)
        self._pumped_at = time.monotonic()
        return self._wake() > 0

    def _decode(self, events: bytes, decoder: EventDecoder, batch: Batch) -> None:
        """Add the events to `batch`, with adjacent tokens joined, since they are written together anyway."""
        if (all_tokens := decoder.tokens(events)) is not None:
            if all_tokens:
                batch.append(TextDelta(all_tokens))
            return
        texts: list[str] = []
        try:
            for payload in payloads(events):
                text = decoder.token(payload) if isinstance(payload, bytes) else None
                if text is not None:
                    texts.append(text)
                    continue
                _join(texts, batch)
                batch.extend(decoder.decode(payload) if isinstance(payload, bytes) else [KeepAlive()])
                if decoder.has_ended:
                    return
        finally:
            _join(texts, batch)

    def _piece(self, reply: Reply, decoder: EventDecoder) -> Generator[Batch, None, bytes]:
        limit = CLOSING_GRACE_SECONDS if decoder.is_complete else self._limits.stream_idle_timeout
        deadline = time.monotonic() + limit
        while (piece := reply.read_available(self._patience(deadline))) is None:
            deadline = max(deadline, self._pumped_at + limit)
            if decoder.is_complete and time.monotonic() >= deadline:
                return b""
            self._check(deadline, "FLOWISE_STREAM_IDLE_TIMEOUT", limit)
            yield [KeepAlive()]
        self._check(math.inf, "", 0)
        return piece

    def whole(self, reply: Reply) -> Iterator[Batch]:
        """Yield the events of a JSON answer."""
        deadline = time.monotonic() + self._limits.request_timeout
        pieces: list[bytes] = []
        size = 0
        while (piece := reply.read_available(self._patience(deadline))) != b"":
            if piece is None:
                self._check(deadline, "FLOWISE_REQUEST_TIMEOUT", self._limits.request_timeout)
                yield [KeepAlive()]
            else:
                pieces.append(piece)
                size += len(piece)
                if size > MAX_ANSWER_BYTES:
                    raise _too_large("answer")
        self.is_running = False
        text = b"".join(pieces)
        yield_before(len(text))
        answer = lenient_json(text)
        if answer is None and text.strip() not in (b"", b"null"):
            raise RunFailed("Flowise answered with invalid JSON.", code="flowise_bad_answer")
        yield_before(len(text))
        yield list(answer_events(answer, self.turn.human_input))

    def _patience(self, deadline: float) -> float:
        now = time.monotonic()
        return max(0.0, min(deadline - now, self._run_deadline - now, self._wake()))

    def _check(self, deadline: float, setting: str, seconds: float) -> None:
        now = time.monotonic()
        if now >= self._run_deadline:
            setting, seconds, deadline = "FLOWISE_RUN_TIMEOUT", self._limits.run_timeout, self._run_deadline
        if now >= deadline:
            raise RunFailed(
                f"The flow gave no answer within {seconds:g} s ({setting}). It may still be running.",
                code="flowise_timeout",
            )


def _join(texts: list[str], batch: Batch) -> None:
    if text := "".join(texts):
        batch.append(TextDelta(text))
    texts.clear()


def _too_large(what: str) -> RunFailed:
    size = f"{MAX_ANSWER_BYTES // 1024**2} MiB"
    return RunFailed(f"Flowise sent an {what} larger than {size}.", code="flowise_bad_answer")
