"""What one request was and what became of it: the source of its log line, its counts and its usage."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Literal, Protocol

from flowise_gateway.flow.model import Model
from flowise_gateway.flow.spans import RunWatch
from flowise_gateway.flow.turn import Turn

RequestKind = Literal["request", "websocket_response", "background_response"]
TokenSource = Literal["reported", "estimated"]

_MAY_HAVE_RUN = ("", "ok", "client_gone", "cancelled", "server_shutting_down")
"""Outcomes of runs that may have begun although nothing came of them."""


@dataclass(frozen=True, slots=True)
class TokenCount:
    """The tokens of all runs of a request, as its answer's `usage` has them.

    They are `reported` if Flowise reported those of every run; a count of ours makes them `estimated`.
    """

    input: int
    output: int
    source: TokenSource
    reasoning: int = 0
    cached: int = 0


class RequestSpan(Protocol):
    """The span of a request, where it is traced; `trace_id` is that of its trace."""

    trace_id: str

    def run(self, watch: RunWatch, model: Model, turn: Turn) -> RunWatch:
        """Follow a run with what else follows it."""

    def response(self, kind: RequestKind) -> RequestSpan:
        """Begin one response of the request."""

    def ended(self, summary: RequestSummary) -> None:
        """End it with what became of the request."""


@dataclass(slots=True)
class RequestSummary:
    """One request: filled while it is served, and read by every observer once it has ended.

    An HTTP request has one, and so has each response over a WebSocket. The request for a background response
    ends when that is queued; its run has a summary of its own, the only one with its tokens.

    `rule` is the template of the request's route (empty: no route), `client` the address of who sent it,
    `caller` the name of its key, `outcome` ok, client_gone or an error's code, `status` that of the answer,
    also where no status line was sent.
    `chat_ids` are those of the runs, one for each choice, `tokens` is None if no flow ran. `conversation` and
    `user` are the client's own ids, which must not be logged; their hashes are keyed, and may. `prompt` and
    `answer` are there only where the operator has asked for them. `started`, `first_token` and `ended` are
    times of the monotonic clock.
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

    @property
    def seconds(self) -> float:
        """How long the request took."""
        return self.ended - self.started

    @property
    def runs(self) -> int:
        """How many runs its caller is charged for: not those that an error prevented.

        A client that leaves before the first token is charged: its runs have begun.
        """
        was_prevented = self.tokens is None and self.outcome not in _MAY_HAVE_RUN
        return 0 if was_prevented else len(self.chat_ids)

    def begin_response(self, kind: RequestKind) -> None:
        """Be from now on the summary of one response of this request, not of the request."""
        self.kind, self.started, self.status, self.outcome = kind, time.monotonic(), None, ""
        self.span = self.span and self.span.response(kind)
