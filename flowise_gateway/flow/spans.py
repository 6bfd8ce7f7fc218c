"""Interfaces for observing a run and its attempts: always by metrics, and by tracing if it is on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from flowise_gateway.flow.events import Batch


class AttemptSpan(Protocol):
    """One attempt to call Flowise; `headers` propagate the trace to Flowise."""

    headers: Mapping[str, str]

    def ended(self, status: int, error: str) -> None:
        """End it with the HTTP status, 0 if there was none, and the reason if it failed."""


class RunWatch(Protocol):
    """Observes one run of a flow; `begin_attempt`, if set, is called before each call to Flowise."""

    begin_attempt: Callable[[], AttemptSpan] | None

    def add(self, batch: Batch) -> None:
        """Record a batch of its events."""

    def ended(self, result: str) -> None:
        """End it with ok, an error code, or aborted; must be called exactly once."""


class AttemptHeaders(dict[str, str]):
    """Headers of a call to Flowise, with a span for each attempt."""

    def __init__(self, common: Mapping[str, str], begin: Callable[[], AttemptSpan]) -> None:
        """Take the headers of all attempts, and a function that starts the span of one."""
        super().__init__(common)
        self.begin = begin
