"""Limits of keys, their users and models: requests per minute and in flight, daily budgets.

A request with several choices is a run for each, and counts once per choice in every limit. With a shared
store, limits apply to all workers together. Without one, each worker counts requests per minute and in flight
itself and admits its share: the limit divided by the number of workers.
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
MAX_USERS = 100_000
OTHER_USERS = "other"
_KINDS = ("key", "user", "model")
_WHAT = {"sockets": "WebSockets open", "readers": "streams of responses open"}


class Subject(NamedTuple):
    """The owner of limits; `name` is unique within its kind.

    `sockets` are the open WebSockets of a key, `readers` the streams of background responses that it reads,
    one slot each.
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
        """The name under which it is counted; names of keys contain no `|`."""
        return self.name if self.kind == "key" else f"{self.kind}|{self.name}"


class DayCounts(Protocol):
    """Daily counters shared by all processes."""

    def reserve(self, day: str, amounts: Mapping[str, int], limits: Mapping[str, int]) -> str | None:
        """Add all amounts, or none if one would exceed its limit; returns the name of that one.

        A limited name without an amount refuses once its limit is reached.
        """

    def add(self, day: str, amounts: Mapping[str, int]) -> None:
        """Add amounts, which may be negative."""


class Admission:
    """An admitted request. It ends once, by one of its methods; the others then do nothing.

    `headers` are the rate limit headers for the caller.
    """

    def __init__(self) -> None:
        self.headers: dict[str, str] = {}
        self._frees: list[Callable[[], None]] = []
        self._uncounts: list[Callable[[], None]] = []
        self._charges: list[Callable[[int, int], None]] = []

    def holds(self, free: Callable[[], None]) -> None:
        """Free slots at the end."""
        self._frees.append(free)

    def counted(self, uncount: Callable[[], None]) -> None:
        """Undo a count if the admission is undone."""
        self._uncounts.append(uncount)

    def reserved(self, charge: Callable[[int, int], None]) -> None:
        """Charge budgets at the end with the runs and tokens of the request."""
        self._charges.append(charge)

    def release(self) -> None:
        """Free its slots; the request still counts in rate and budgets as admitted."""
        while self._frees:
            self._frees.pop()()

    def settle(self, runs: int, tokens: int) -> None:
        """Free its slots, and charge these runs and tokens to its budgets."""
        self.release()
        while self._charges:
            self._charges.pop()(runs, tokens)

    def give_back(self) -> None:
        """Undo the admission completely."""
        self.settle(0, 0)
        while self._uncounts:
            self._uncounts.pop()()


class Limits:
    """The limits of all callers in this worker, or with a shared store in all workers together."""

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
        """Divide limits between the workers; `max_in_flight` applies to this worker.

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
        """The number of runs in flight in this worker."""
        return self._slots.count(None)

    def check_runs(self, caller: Caller, runs: int) -> None:
        """Refuse a request that could never be admitted, however long its caller waits. Raises BadRequest."""
        key = _subject(caller)
        if runs > self._max_in_flight < self._allowed(key):
            raise BadRequest(
                "Each choice is a separate run, and this server allows "
                f"{self._max_in_flight} at a time (PROXY_MAX_IN_FLIGHT).",
                code="invalid_value",
            )
        self._check_allowed(key, runs)

    def admit(self, caller: Caller, runs: int = 1, *, takes_slots: bool = True) -> Admission:
        """Admit a request; a refused one is not counted.

        Raises FlowiseUnavailable if the worker has too many requests in flight, RateLimited if the caller has
        too many in flight or per minute, QuotaExhausted if a budget is used up.
        """
        return self._admit([_subject(caller)], runs, takes_slots=takes_slots, is_first=True)

    def admit_further(self, subjects: Sequence[Subject], runs: int) -> Admission:
        """Admit a request once its user and model are known. Raises like `admit`, and BadRequest."""
        for subject in subjects:
            self._check_allowed(subject, runs)
        return self._admit(subjects, runs, takes_slots=True, is_first=False)

    def admit_socket(self, caller: Caller) -> Admission:
        """Admit a WebSocket, whose requests are then admitted one by one. Raises RateLimited."""
        sockets = Subject("sockets", caller.name, Allowance(max_in_flight=caller.max_websockets))
        return self._admit([sockets], 1, takes_slots=True, is_first=False)

    def admit_reader(self, caller: Caller) -> Admission:
        """Admit a reader of a background response's events; a key may have as many readers as runs.

        Readers count separately from runs, one of which is the one being read. Raises like `admit`.
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
        except BaseException:  # including a greenlet that is killed while it waits for the store
            admission.give_back()
            raise
        return admission

    def _allowed(self, subject: Subject) -> float:
        """The number of runs that a subject's limits allow in one request."""
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
        # Always counted here, too, so that the share is right if the slots can no longer be shared.
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
        """The state of a subject's rate after these runs, which are only counted if they are admitted."""
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
        """Count the runs in the daily budgets, unless one of them is used up."""
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


class Users:
    """The users of each key on one day, of which a client can invent as many as it likes.

    Those after the first 100,000 of a key share one name, and with it the limits of one user: each name is
    a number of the store for the rest of the day.
    """

    def __init__(self, max_users: int = MAX_USERS, clock: Callable[[], float] = time.time) -> None:
        self._max_users = max_users
        self._clock = clock
        self._day, self._known = "", dict[str, set[str]]()

    def name(self, key: str, user: str) -> str:
        """The name under which a user of a key is counted."""
        if (day := day_of(self._clock())) != self._day:
            self._day, self._known = day, {}
        known = self._known.setdefault(key, set())
        if user not in known and len(known) >= self._max_users:
            user = OTHER_USERS
        else:
            known.add(user)
        return f"{key}|{user}"


def day_of(time_seconds: float) -> str:
    """The day in UTC, such as `2026-11-28`."""
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
