"""State of one HTTP request that the serving process and the application share."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

from flowise_gateway.flow.request_summary import RequestSummary

_ENVIRON_KEY = "flowise_gateway.request"


@dataclass(slots=True)
class RequestScope:
    """One HTTP request, from its headers to the end of its response.

    `summary` records the request for log and metrics; the `on_close` callbacks are called, last one first,
    when the response has ended. The serving process sets the other fields; their defaults work under any
    WSGI server. `connection` is the client's socket, `write_now` sends a chunk without blocking (false: the
    rest is sent with the next one), `watch_client` ends the request's greenlet when the client disconnects,
    `is_draining` means that the process is stopping, and `ended_with_runs` marks a block that it may end.
    """

    summary: RequestSummary = field(default_factory=RequestSummary)
    on_close: list[Callable[[], None]] = field(default_factory=list)
    connection: Any = None
    write_now: Callable[[bytes], bool] | None = None
    watch_client: Callable[[], None] = lambda: None
    is_draining: Callable[[], bool] = lambda: False
    ended_with_runs: Callable[[], AbstractContextManager[object]] = nullcontext

    def close(self) -> None:
        """Call the callbacks for the end of the response."""
        while self.on_close:
            self.on_close.pop()()


def request_scope(environ: MutableMapping[str, Any]) -> RequestScope:
    """The scope of a WSGI request, created by the first layer that needs it."""
    scope = environ.get(_ENVIRON_KEY)
    if scope is None:
        scope = environ[_ENVIRON_KEY] = RequestScope()
    return scope
