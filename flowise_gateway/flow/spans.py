"""What follows a run of a flow and its attempts: always what counts it, and tracing where that is on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from flowise_gateway.flow.events import Batch


class AttemptSpan(Protocol):
    """One attempt to call Flowise; `headers` join Flowise's own spans to it."""

    headers: Mapping[str, str]

    def ended(self, status: int, error: str) -> None:
        """End it with the status of the answer's head, 0 if there was none, and why it failed, if it did."""


class RunWatch(Protocol):
    """Follows one run of a flow; `begin_attempt`, if there is one, is called before each call of Flowise."""

    begin_attempt: Callable[[], AttemptSpan] | None

    def add(self, batch: Batch) -> None:
        """Take in a batch of its events."""

    def ended(self, result: str) -> None:
        """End it with ok, an error's code, or aborted; must be called once."""


class AttemptHeaders(dict[str, str]):
    """Headers of a call of Flowise, with a span for each attempt."""

    def __init__(self, common: Mapping[str, str], begin: Callable[[], AttemptSpan]) -> None:
        """Take the headers of all attempts, and what begins the span of one."""
        super().__init__(common)
        self.begin = begin
