"""What the server around the application and the application itself share of one HTTP request."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

from flowise_gateway.flow.request_summary import RequestSummary

_ENVIRON_KEY = "flowise_gateway.request"


@dataclass(slots=True)
class RequestScope:
    """One HTTP request, from its head to the end of its answer.

    `summary` says what the request was and became, and `on_close` is called, last first, when the answer has
    ended. The other fields are the serving process's; their defaults serve under any other WSGI server.
    `connection` is the client's socket, `write_now` sends a piece of a chunked answer without waiting (false:
    the rest goes out with the next piece), `watch_client` ends the request's greenlet once the client leaves,
    `is_draining` tells that the process wants to end, and `ended_with_runs` is a block that it may end.
    """

    summary: RequestSummary = field(default_factory=RequestSummary)
    on_close: list[Callable[[], None]] = field(default_factory=list)
    connection: Any = None
    write_now: Callable[[bytes], bool] | None = None
    watch_client: Callable[[], None] = lambda: None
    is_draining: Callable[[], bool] = lambda: False
    ended_with_runs: Callable[[], AbstractContextManager[object]] = nullcontext

    def close(self) -> None:
        """Call what waits for the end of the answer."""
        while self.on_close:
            self.on_close.pop()()


def request_scope(environ: MutableMapping[str, Any]) -> RequestScope:
    """The scope of a WSGI request; the outermost layer that asks for it makes it."""
    scope = environ.get(_ENVIRON_KEY)
    if scope is None:
        scope = environ[_ENVIRON_KEY] = RequestScope()
    return scope
