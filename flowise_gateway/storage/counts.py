"""Daily counters shared by all processes, for budgets and the usage report."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

from flowise_gateway.storage.protocol import Store, StoreError
from flowise_gateway.storage.redis_counts import RedisCounts, RedisSlots
from flowise_gateway.storage.redis_store import RedisStore
from flowise_gateway.storage.sqlite_counts import SqliteCounts
from flowise_gateway.storage.sqlite_store import SqliteStore

log = logging.getLogger(__name__)


class Counts(Protocol):
    """Counters by day (`2026-11-28`) and name, initially 0. All methods may raise StoreError."""

    def reserve(self, day: str, amounts: Mapping[str, int], limits: Mapping[str, int]) -> str | None:
        """Add all amounts, or none if one would exceed its limit; returns the name of that one.

        A limited name whose amount is 0 or missing refuses once its limit is reached.
        """

    def add(self, day: str, amounts: Mapping[str, int]) -> None:
        """Add amounts without limits; they may be negative."""

    def read(self, first: str, last: str) -> Iterator[tuple[str, str, int]]:
        """Yield day, name and value of all counters of these days, in any order."""

    def forget_before(self, day: str) -> None:
        """Delete the counters of all earlier days."""


class MemoryCounts:
    """Counters in the memory of one process."""

    def __init__(self) -> None:
        self._days: dict[str, dict[str, int]] = {}
        self._lock = threading.Lock()

    def reserve(self, day: str, amounts: Mapping[str, int], limits: Mapping[str, int]) -> str | None:
        with self._lock:
            numbers = self._days.get(day, {})
            for name, limit in limits.items():
                if numbers.get(name, 0) + max(1, amounts.get(name, 0)) > limit:
                    return name
            self._add(day, amounts)
        return None

    def add(self, day: str, amounts: Mapping[str, int]) -> None:
        with self._lock:
            self._add(day, amounts)

    def _add(self, day: str, amounts: Mapping[str, int]) -> None:
        numbers = self._days.setdefault(day, {})
        for name, amount in amounts.items():
            numbers[name] = numbers.get(name, 0) + amount

    def read(self, first: str, last: str) -> Iterator[tuple[str, str, int]]:
        with self._lock:
            found = [(day, dict(numbers)) for day, numbers in self._days.items() if first <= day <= last]
        for day, numbers in found:
            for name, value in numbers.items():
                yield day, name, value

    def forget_before(self, day: str) -> None:
        with self._lock:
            self._days = {known: numbers for known, numbers in self._days.items() if known >= day}

    def take_all(self) -> dict[str, dict[str, int]]:
        """Return all counters, and reset them."""
        with self._lock:
            taken, self._days = self._days, {}
        return taken


def open_counts(store: Store) -> Counts:
    """The counters in a store."""
    if isinstance(store, SqliteStore):
        return SqliteCounts(store)
    return RedisCounts(store) if isinstance(store, RedisStore) else MemoryCounts()


def shared_calls(store: Store) -> Callable[[Callable[[Any], Any]], Any] | None:
    """A function that runs work with the Redis client, if the store is a Redis; it may raise StoreError."""
    return store.call if isinstance(store, RedisStore) else None


def shared_slots(store: Store) -> RedisSlots | None:
    """The slots shared by all processes on a store, if the store is a Redis."""
    return RedisSlots(store) if isinstance(store, RedisStore) else None


class WatchedCounts:
    """Counters that tolerate a failing store: the process counts itself, and adds the sums later."""

    def __init__(self, counts: Counts) -> None:
        self._counts = counts
        self._unsaved = MemoryCounts()
        self._is_lost = False

    def reserve(self, day: str, amounts: Mapping[str, int], limits: Mapping[str, int]) -> str | None:
        """Add all amounts, or none if one would exceed its limit; returns the name of that one."""
        try:
            self._save()
            return self._counts.reserve(day, amounts, limits)
        except StoreError as error:
            self._note(error)
            return self._unsaved.reserve(day, amounts, limits)

    def add(self, day: str, amounts: Mapping[str, int]) -> None:
        """Add amounts without limits."""
        try:
            self._save()
            self._counts.add(day, amounts)
        except StoreError as error:
            self._note(error)
            self._unsaved.add(day, amounts)

    def read(self, first: str, last: str) -> Iterator[tuple[str, str, int]]:
        """Yield all counters of these days. Raises StoreError."""
        return self._counts.read(first, last)

    def forget_before(self, day: str) -> None:
        """Delete the counters of all earlier days; after a failure, later."""
        try:
            self._counts.forget_before(day)
        except StoreError as error:
            self._note(error)

    def _save(self) -> None:
        if not self._is_lost:
            return
        unsaved = self._unsaved.take_all()
        while unsaved:
            day, amounts = unsaved.popitem()
            try:
                self._counts.add(day, amounts)
            except StoreError:
                for left, numbers in [(day, amounts), *unsaved.items()]:
                    self._unsaved.add(left, numbers)
                raise
        self._is_lost = False

    def _note(self, error: StoreError) -> None:
        if not self._is_lost:
            log.warning("budgets and usage are counted per process for now: %s", error)
        self._is_lost = True
