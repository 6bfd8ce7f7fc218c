"""Usage by day: requests and tokens of each key, user and model, for billing and reports.

A finished request is added up in memory; the sums are written once a second in a separate thread, so that no
answer waits for it.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Protocol

import orjson

from flowise_gateway.flow.request_summary import RequestSummary

log = logging.getLogger(__name__)

WRITE_SECONDS = 1.0
MAX_USERS = 1000
"""The number of users of a key that a worker distinguishes per day; the others are `other`."""

OTHER = "other"
FIGURES = ("requests", "input_tokens", "output_tokens")


class UsageCounts(Protocol):
    """Daily counters shared by all processes."""

    def add(self, day: str, amounts: Mapping[str, int]) -> None:
        """Add amounts."""

    def forget_before(self, day: str) -> None:
        """Delete the counters of all earlier days."""


class Usage:
    """An observer of finished requests that writes their usage to the store."""

    def __init__(self, counts: UsageCounts, keep_days: int, clock: Callable[[], float] = time.time) -> None:
        """Keep usage for this many days; with 0, only delete the budgets of past days."""
        self._counts = counts
        self._keep_days = keep_days
        self._clock = clock
        self._amounts: dict[str, dict[str, int]] = {}
        self._users: dict[str, set[str]] = {}
        self._day = ""
        self._lock = threading.Lock()
        self._writing_in = 0

    def add(self, summary: RequestSummary) -> None:
        """Count a request that had runs."""
        if not summary.runs:
            return
        if self._keep_days:
            self._count(summary)
        self._keep_writing()

    def _count(self, summary: RequestSummary) -> None:
        tokens = summary.tokens
        figures = (summary.runs, tokens.input if tokens else 0, tokens.output if tokens else 0)
        with self._lock:
            day = _day(self._clock() - summary.seconds)
            if day > self._day:
                self._day, self._users = day, {}
            dimensions = [summary.caller, self._user(summary), summary.model]
            amounts = self._amounts.setdefault(day, {})
            for figure, amount in zip(FIGURES, figures, strict=True):
                name = _name(dimensions, figure)
                amounts[name] = amounts.get(name, 0) + amount

    def add_number(self, name: str, amount: int) -> None:
        """Add to another counter of today."""
        with self._lock:
            amounts = self._amounts.setdefault(_day(self._clock()), {})
            amounts[name] = amounts.get(name, 0) + amount
        self._keep_writing()

    def _user(self, summary: RequestSummary) -> str:
        """The hash of the user; their number is limited, since clients can invent users."""
        if not summary.user_hash:
            return ""
        users = self._users.setdefault(summary.caller, set())
        if summary.user_hash not in users and len(users) >= MAX_USERS:
            return OTHER
        users.add(summary.user_hash)
        return summary.user_hash

    def write(self) -> None:
        """Write the pending sums; also called when the worker exits."""
        with self._lock:
            amounts, self._amounts = self._amounts, {}
        for day, numbers in amounts.items():
            self._counts.add(day, numbers)

    def _keep_writing(self) -> None:
        if self._writing_in != os.getpid():
            self._writing_in = os.getpid()
            threading.Thread(target=self._write_for_ever, name="usage", daemon=True).start()

    def _write_for_ever(self) -> None:
        forgotten = ""
        while True:
            time.sleep(WRITE_SECONDS)
            try:
                self.write()
                oldest = _day(self._clock() - self._keep_days * 86_400)
                if oldest != forgotten:
                    self._counts.forget_before(oldest)
                    forgotten = oldest
            except Exception:  # else nothing would be written until a restart
                log.exception("usage was not written")


def _day(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).date().isoformat()


def _name(dimensions: Sequence[str], figure: str) -> str:
    return orjson.dumps(["usage", *dimensions, figure]).decode()
