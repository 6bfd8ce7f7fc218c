"""What keys, their users and models may use: requests per minute and in flight, budgets of a day.

A request that asks for several choices is a run of the flow for each, and counts as that many everywhere.
With a shared store the limits are those of all workers together. Without one, each worker counts requests per
minute and in flight for itself and admits its share: the limit divided by the number of workers.
"""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Literal, NamedTuple, Protocol

from flowise_gateway.access.keys import Caller
from flowise_gateway.access.rates import MemoryRates, Rate, Rates, RatesLost, duration_text
from flowise_gateway.access.slots import SharedSlots, Slots, SlotsFull
from flowise_gateway.config.schema import Allowance
from flowise_gateway.flow.errors import (
    BadRequest,
    FlowiseUnavailable,
    ProxyError,
    QuotaExhausted,
    RateLimited,
)

log = logging.getLogger(__name__)
_IN_FLIGHT_RETRY_SECONDS = 1.0
_KINDS = ("key", "user", "model")
_WHAT = {"sockets": "WebSockets open", "readers": "streams of responses open"}


class Subject(NamedTuple):
    """Whose limits they are; `name` tells it apart from others of its kind.

    The `sockets` of a key are what it has open as WebSockets, its `readers` the streams of background
    responses that it reads, one slot each.
    """

    kind: Literal["key", "user", "model", "sockets", "readers"]
    name: str
    allowance: Allowance

    @property
    def shown(self) -> str:
        """The subject in the text of a refusal; a user's name is not repeated."""
        if self.kind == "model":
            return f"the model {self.name}"
        return "this user" if self.kind == "user" else "this key"

    @property
    def id(self) -> str:
        """The name under which it is counted; no key's name has such a stroke."""
        return self.name if self.kind == "key" else f"{self.kind}|{self.name}"


class DayCounts(Protocol):
    """Numbers of a day that all processes add to."""

    def reserve(self, day: str, amounts: Mapping[str, int], limits: Mapping[str, int]) -> str | None:
        """Add all amounts, or none if one would pass its limit: then the name of that one.

        A limited name without an amount refuses once it has reached its limit.
        """

    def add(self, day: str, amounts: Mapping[str, int]) -> None:
        """Add amounts, which may be negative."""


class Admission:
    """A request let in. It ends once, by one of its methods: the others then do nothing.

    `headers` tell its caller of the rate.
    """

    def __init__(self) -> None:
        self.headers: dict[str, str] = {}
        self._frees: list[Callable[[], None]] = []
        self._uncounts: list[Callable[[], None]] = []
        self._charges: list[Callable[[int, int], None]] = []

    def holds(self, free: Callable[[], None]) -> None:
        """Have slots freed at the end."""
        self._frees.append(free)

    def counted(self, uncount: Callable[[], None]) -> None:
        """Have a count taken back if the request is given back."""
        self._uncounts.append(uncount)

    def reserved(self, charge: Callable[[int, int], None]) -> None:
        """Have budgets told at the end of the runs and tokens that the request came to."""
        self._charges.append(charge)

    def release(self) -> None:
        """Free its slots; it counts in the rate, and in the budgets as it was let in."""
        while self._frees:
            self._frees.pop()()

    def settle(self, runs: int, tokens: int) -> None:
        """Free its slots, and charge so many runs and tokens to its budgets."""
        self.release()
        while self._charges:
            self._charges.pop()(runs, tokens)

    def give_back(self) -> None:
        """Be as if it had never been let in."""
        self.settle(0, 0)
        while self._uncounts:
            self._uncounts.pop()()


class Limits:
    """The limits of everybody in this worker, or with a shared store in all workers together."""

    def __init__(
        self,
        workers: int,
        max_in_flight: int,
        shared_rates: Rates | None = None,
        clock: Callable[[], float] = time.time,
        *,
        shared_slots: SharedSlots | None = None,
        counts: DayCounts | None = None,
    ) -> None:
        """Share limits between so many workers; `max_in_flight` is this worker's alone.

        Budgets are counted in `counts`; without it there are none.
        """
        self._workers = workers
        self._max_in_flight = max_in_flight
        self._clock = clock
        self._own_rates = MemoryRates(clock)
        self._shared_rates = shared_rates
        self._has_lost_rates = False
        self._slots, self._shared_slots = Slots(), shared_slots
        self._counts = counts
        totals = ("max_in_flight", "sockets_max_in_flight", "readers_max_in_flight")
        self.refusals = dict.fromkeys(totals, 0) | {
            f"{kind}_{limit}": 0 for kind in _KINDS for limit in Allowance.__dataclass_fields__
        }

    @property
    def in_flight(self) -> int:
        """How many runs this worker has in flight."""
        return self._slots.count(None)

    def check_runs(self, caller: Caller, runs: int) -> None:
        """Refuse what could never be let in, however long its caller waits. Raises BadRequest."""
        key = _subject(caller)
        if runs > self._max_in_flight < self._allowed(key):
            raise BadRequest(
                "Each choice is a separate run, and this server allows "
                f"{self._max_in_flight} at a time (PROXY_MAX_IN_FLIGHT).",
                code="invalid_value",
            )
        self._check_allowed(key, runs)

    def admit(self, caller: Caller, runs: int = 1, *, takes_slots: bool = True) -> Admission:
        """Let a request in; one that is refused counts for nothing.

        Raises FlowiseUnavailable if all callers together, RateLimited if this one has too much in flight or
        sent too much, QuotaExhausted if it has used up a budget.
        """
        return self._admit([_subject(caller)], runs, takes_slots=takes_slots, is_first=True)

    def admit_further(self, subjects: Sequence[Subject], runs: int) -> Admission:
        """Let a request in, now that its user and its model are known. Raises as `admit` does, BadRequest."""
        for subject in subjects:
            self._check_allowed(subject, runs)
        return self._admit(subjects, runs, takes_slots=True, is_first=False)

    def admit_socket(self, caller: Caller) -> Admission:
        """Let a WebSocket of a key be opened, whose requests are admitted one by one. Raises RateLimited."""
        sockets = Subject("sockets", caller.name, Allowance(max_in_flight=caller.max_websockets))
        return self._admit([sockets], 1, takes_slots=True, is_first=False)

    def admit_reader(self, caller: Caller) -> Admission:
        """Let the events of a background response be read; a key reads as many at once as it may run.

        They count beside its runs, one of which is the one that is read. Raises as `admit` does.
        """
        limit = Allowance(max_in_flight=caller.allowance.max_in_flight)
        return self._admit([Subject("readers", caller.name, limit)], 1, takes_slots=True, is_first=True)

    def _admit(
        self, subjects: Sequence[Subject], runs: int, *, takes_slots: bool, is_first: bool
    ) -> Admission:
        admission = Admission()
        try:
            if takes_slots:
                self._take_slots(admission, subjects, runs, is_first=is_first)
            for subject in subjects:
                if subject.allowance.requests_per_minute is not None:
                    self._count(admission, subject, subject.allowance.requests_per_minute, runs)
            self._reserve(admission, subjects, runs)
        except BaseException:  # also the kill of a greenlet that waits for the store
            admission.give_back()
            raise
        return admission

    def _allowed(self, subject: Subject) -> float:
        """How many runs one request may have, by the limits of a subject."""
        allowance = subject.allowance
        allowed = [math.inf]
        if (limit := allowance.max_in_flight) is not None:
            allowed.append(self._share(limit) if self._shared_slots is None else limit)
        if (limit := allowance.requests_per_minute) is not None:
            allowed.append(self._share(limit) if self._shared_rates is None else limit)
        if (limit := allowance.requests_per_day) is not None:
            allowed.append(limit)
        return min(allowed)

    def _check_allowed(self, subject: Subject, runs: int) -> None:
        if runs > (allowed := self._allowed(subject)):
            whose = f"{subject.shown}'s"
            raise BadRequest(
                f"Each choice is a separate run, and {whose} limits allow {allowed}.",
                code="invalid_value",
            )

    # Slots

    def _take_slots(
        self, admission: Admission, subjects: Sequence[Subject], runs: int, *, is_first: bool
    ) -> None:
        limited = {s.id: limit for s in subjects if (limit := s.allowance.max_in_flight) is not None}
        shared = self._shared_slots if limited else None
        # Counted here in any case, so that the share is right once the slots cannot be shared any more.
        own: dict[str | None, int] = {None: self._max_in_flight} if is_first else {}
        own |= {
            name: self._share(limit) if shared is None else sys.maxsize for name, limit in limited.items()
        }
        try:
            admission.holds(self._slots.take(runs, own))
        except SlotsFull as full:
            raise self._too_many_in_flight(subjects, full.args[0], is_share=True) from None
        if shared is None:
            return
        lease = shared.take(runs, limited)
        if isinstance(lease, str):
            raise self._too_many_in_flight(subjects, lease)
        if lease is not None:
            admission.holds(partial(shared.free, lease))
            return
        for name, limit in limited.items():
            if self._slots.count(name) > self._share(limit):
                raise self._too_many_in_flight(subjects, name, is_share=True)

    def _too_many_in_flight(
        self, subjects: Sequence[Subject], name: str | None, *, is_share: bool = False
    ) -> ProxyError:
        subject = next((subject for subject in subjects if subject.id == name), None)
        if subject is None or subject.allowance.max_in_flight is None:
            self.refusals["max_in_flight"] += 1
            return FlowiseUnavailable(
                "The server handles as many requests as it may (PROXY_MAX_IN_FLIGHT). Nothing has run; "
                "try again later.",
                retry_after_seconds=_IN_FLIGHT_RETRY_SECONDS,
            )
        self.refusals[f"{subject.kind}_max_in_flight"] += 1
        headers = {}
        if subject.allowance.requests_per_minute is not None:
            headers = self._rate(subject, subject.allowance.requests_per_minute, runs=0).headers()
        limit = subject.allowance.max_in_flight
        text = f"have {limit} {_WHAT.get(subject.kind, 'requests in flight')}" + (
            self._shares(limit) if is_share else ""
        )
        return _refusal(subject, text, _IN_FLIGHT_RETRY_SECONDS, headers)

    # Requests per minute

    def _count(self, admission: Admission, subject: Subject, requests_per_minute: int, runs: int) -> None:
        rate = self._rate(subject, requests_per_minute, runs=runs)
        if not rate.is_admitted:
            self.refusals[f"{subject.kind}_requests_per_minute"] += 1
            limit = f"send {requests_per_minute} requests per minute"
            if rate.limit != requests_per_minute:
                limit += self._shares(requests_per_minute)
            raise _refusal(subject, limit, rate.wait_seconds, rate.headers())
        admission.counted(rate.give_back)
        if subject.kind == "key":
            admission.headers = rate.headers()

    def _rate(self, subject: Subject, requests_per_minute: int, *, runs: int) -> Rate:
        """How a subject stands after so many runs more, if they are let in; else none is counted."""
        if self._shared_rates is not None:
            try:
                rate = self._shared_rates.count(subject.id, requests_per_minute, runs)
            except RatesLost as error:
                if not self._has_lost_rates:
                    log.warning("rate limits are counted per worker, each with its share: %s", error)
                self._has_lost_rates = True
            else:
                self._has_lost_rates = False
                return rate
        return self._own_rates.count(subject.id, self._share(requests_per_minute), runs)

    def _share(self, limit: int) -> int:
        return max(1, limit // self._workers)

    def _shares(self, limit: int) -> str:
        return "" if self._workers == 1 else f" ({self._share(limit)} in each of {self._workers} workers)"

    # Budgets

    def _reserve(self, admission: Admission, subjects: Sequence[Subject], runs: int) -> None:
        """Count the runs in the budgets of the day, unless one of them is used up."""
        requests, tokens = dict[str, Subject](), dict[str, Subject]()
        limits: dict[str, int] = {}
        for subject in subjects:
            if (limit := subject.allowance.requests_per_day) is not None:
                name = f"requests of {subject.id}"
                requests[name], limits[name] = subject, limit
            if (limit := subject.allowance.tokens_per_day) is not None:
                name = f"tokens of {subject.id}"
                tokens[name], limits[name] = subject, limit
        if not limits or self._counts is None:
            return
        counts, day = self._counts, day_of(self._clock())
        refused = counts.reserve(day, dict.fromkeys(requests, runs), limits)
        if refused in requests:
            raise self._used_up(requests[refused], "requests", limits[refused])
        if refused is not None:
            raise self._used_up(tokens[refused], "tokens", limits[refused])

        def charge(charged_runs: int, charged_tokens: int) -> None:
            amounts = dict.fromkeys(requests, charged_runs - runs) | dict.fromkeys(tokens, charged_tokens)
            if amounts := {name: amount for name, amount in amounts.items() if amount}:
                counts.add(day, amounts)

        admission.reserved(charge)

    def _used_up(self, subject: Subject, what: str, limit: int) -> QuotaExhausted:
        self.refusals[f"{subject.kind}_{what}_per_day"] += 1
        now = datetime.fromtimestamp(self._clock(), UTC)
        begins = (now + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)
        return QuotaExhausted(
            f"The budget is used up: {subject.shown} may use {limit} {what} per day; "
            f"it is reset at {begins:%Y-%m-%dT%H:%M:%SZ}, in {duration_text((begins - now).seconds)}."
        )


def day_of(time_seconds: float) -> str:
    """The day of a moment in UTC, such as `2026-11-28`."""
    return datetime.fromtimestamp(time_seconds, UTC).date().isoformat()


def _subject(caller: Caller) -> Subject:
    return Subject("key", caller.name, caller.allowance)


def _refusal(
    subject: Subject, limit: str, retry_after_seconds: float, headers: dict[str, str]
) -> RateLimited:
    wait = duration_text(retry_after_seconds)
    message = f"Rate limit reached: {subject.shown} may {limit}; try again in {wait}."
    error = RateLimited(message, retry_after_seconds=retry_after_seconds)
    error.headers = headers
    return error
