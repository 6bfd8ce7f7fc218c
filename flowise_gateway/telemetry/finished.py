"""Reports every finished request to log, metrics and usage."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from flowise_gateway.flow.request_summary import RequestSummary

log = logging.getLogger(__name__)

Observer = Callable[[RequestSummary], object]
"""Called for a finished request; it must neither block nor change the summary."""


class FinishedRequests:
    """Reports each finished request to all observers, so that their counts agree."""

    def __init__(self, *observers: Observer) -> None:
        """Start with these; more may be appended to `observers` before requests are served."""
        self.observers = list(observers)

    def add(self, summary: RequestSummary, outcome: str) -> None:
        """Report a request that ends now, with this outcome unless another is known."""
        summary.ended = time.monotonic()
        summary.outcome = summary.outcome or outcome
        for observe in self.observers:
            # A failing observer must not affect the others, nor a response that has been sent.
            try:
                observe(summary)
            except Exception:
                log.exception("a finished request could not be recorded completely")
