"""The record of one request, from which log, metrics and usage are written."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, Protocol

from flowise_gateway.flow.model import Model
from flowise_gateway.flow.spans import RunWatch
from flowise_gateway.flow.turn import Turn

RequestKind = Literal["request", "websocket_response", "background_response"]
TokenSource = Literal["reported", "estimated"]

_MAY_HAVE_RUN = ("", "ok", "client_gone", "cancelled", "server_shutting_down")
"""Outcomes of requests whose runs may have begun even if they produced nothing."""


@dataclass(frozen=True, slots=True)
class TokenCount:
    """The tokens of all runs of a request, as in the `usage` of the answer.

    They are `reported` if Flowise reported those of every run, otherwise `estimated`.
    """

    input: int
    output: int
    source: TokenSource
    reasoning: int = 0
    cached: int = 0


class RequestSpan(Protocol):
    """The span of a traced request; `trace_id` identifies its trace."""

    trace_id: str

    def run(self, watch: RunWatch, model: Model, turn: Turn) -> RunWatch:
        """Trace a run, in addition to the given watch."""

    def response(self, kind: RequestKind) -> RequestSpan:
        """Start the child span of one response of the request."""

    def ended(self, summary: RequestSummary) -> None:
        """End the span with the record of the request."""


@dataclass(slots=True)
class RequestSummary:
    """The record of one request: filled while it is processed, and read by all observers at its end.

    There is one for each HTTP request, and one for each response over a WebSocket. A request for a background
    response ends when the response is queued; the run has its own summary, the only one with its tokens.

    `rule` is the template of the request's route (empty: no route), `client` the address of the client,
    `caller` the name of its key, `outcome` ok, client_gone or an error code, `status` the HTTP status, even
    if no status line was sent.
    `chat_ids` has one id for each choice, `tokens` is None if no flow ran. `conversation` and `user` are the
    client's own ids, which must not be logged; their keyed hashes may be. `prompt` and `answer` are only set
    if the operator enabled them. `started`, `first_token` and `ended` are times of the monotonic clock.
    """

    kind: RequestKind = "request"
    method: str = ""
    path: str = ""
    rule: str = ""
    request_id: str = ""
    trace_id: str = ""
    client: str = ""
    user_agent: str = ""
    caller: str = ""
    model: str = ""
    flowise: str = ""
    flow: str = ""
    fallback: str = ""
    response_id: str = ""
    stream: bool | None = None
    status: int | None = None
    outcome: str = ""
    conversation: str = ""
    user: str = ""
    conversation_hash: str = ""
    user_hash: str = ""
    prompt: str | None = None
    answer: str = ""
    chat_ids: tuple[str, ...] = ()
    tokens: TokenCount | None = None
    started: float = field(default_factory=time.monotonic)
    first_token: float | None = None
    ended: float = 0.0
    span: RequestSpan | None = None
    charges: list[Callable[[int, int], object]] = field(default_factory=list)
    """What the fallbacks of the request take: each is told at the end of its runs and tokens."""

    @property
    def seconds(self) -> float:
        """The duration of the request."""
        return self.ended - self.started

    @property
    def runs(self) -> int:
        """The number of runs charged to the caller, without those that an error prevented.

        A client that disconnects before the first token is charged, since its runs have begun.
        """
        was_prevented = self.tokens is None and self.outcome not in _MAY_HAVE_RUN
        return 0 if was_prevented else len(self.chat_ids)

    def begin_response(self, kind: RequestKind) -> None:
        """Turn this into the summary of one response of the request."""
        self.kind, self.started, self.status, self.outcome = kind, time.monotonic(), None, ""
        self.span = self.span and self.span.response(kind)
