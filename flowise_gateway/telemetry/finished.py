"""The one place that every finished request comes to: log, metrics and usage are told of it from here."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from flowise_gateway.flow.request_summary import RequestSummary

log = logging.getLogger(__name__)

Observer = Callable[[RequestSummary], object]
"""Is told of a request once it has ended; it must neither wait nor change the summary."""


class FinishedRequests:
    """Tells all observers of each finished request, so that what they count agrees."""

    def __init__(self, *observers: Observer) -> None:
        """Begin with these; more may be appended to `observers` until requests are served."""
        self.observers = list(observers)

    def add(self, summary: RequestSummary, outcome: str) -> None:
        """Take a request that ends now, with this outcome unless another is known."""
        summary.ended = time.monotonic()
        summary.outcome = summary.outcome or outcome
        for observe in self.observers:
            # A broken observer must not keep the others from counting, nor break an answer that is out.
            try:
                observe(summary)
            except Exception:
                log.exception("a finished request could not be recorded completely")
