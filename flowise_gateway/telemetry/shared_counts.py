"""The rows of a worker's metrics, and the shared memory through which workers exchange them.

A row's key is a metric and its labels. It holds one number, or for a histogram the number of observations in
each bucket, then their sum. Nothing here blocks, so greenlets need no lock.
"""

from __future__ import annotations

import mmap
from collections.abc import Collection, Iterable, Iterator
from operator import add

import orjson

Key = tuple[str, ...]
Rows = dict[Key, list[float]]

HALF_BYTES = 2 * 1024**2
"""The maximum size of a worker's rows as JSON; only used pages take memory."""

_SLOT_BYTES = 2 * HALF_BYTES + mmap.PAGESIZE
_LENGTH_BYTES = 4
_MARK, _IS_ALIVE, _HEAD = 0, 1, mmap.PAGESIZE


class Board:
    """Anonymous shared memory, created before workers are forked, with a slot for each.

    A slot has two halves that are written alternately, and a byte that says which one is valid, as a worker
    may be killed while it writes. Its successor takes the slot and continues the counts, so that totals never
    decrease.
    """

    def __init__(self, slots: int) -> None:
        """Create slots for this many concurrent workers."""
        self._slots = range(slots)
        self._memory = mmap.mmap(-1, slots * _SLOT_BYTES)
        self.slot: int | None = None

    def take(self, taken: Collection[int | None]) -> int | None:
        """Take a slot for this process and a worker forked from it; None if all are taken."""
        self.slot = next((slot for slot in self._slots if slot not in taken), None)
        return self.slot

    def leave(self, slot: int | None) -> None:
        """Record that a slot's worker has exited: its totals remain, its gauges no longer count."""
        if slot is not None:
            self._memory[slot * _SLOT_BYTES + _IS_ALIVE] = 0

    def show(self, rows: Rows) -> None:
        """Publish this worker's rows, unless there are too many."""
        text = orjson.dumps(list(rows.items()))
        if self.slot is None or len(text) + _LENGTH_BYTES > HALF_BYTES:
            return
        start = self.slot * _SLOT_BYTES
        mark = (self._memory[start + _MARK] + 1) % 256
        half = _half(start, mark)
        self._memory[half : half + _LENGTH_BYTES + len(text)] = (
            len(text).to_bytes(_LENGTH_BYTES, "big") + text
        )
        self._memory[start + _MARK] = mark
        self._memory[start + _IS_ALIVE] = 1

    def own(self) -> Rows:
        """The rows of the previous worker in this slot."""
        return {} if self.slot is None else self._rows(self.slot)

    def others(self) -> Iterator[tuple[Rows, bool]]:
        """The rows of all other slots, and whether their worker is alive."""
        for slot in self._slots:
            if slot != self.slot:
                yield self._rows(slot), bool(self._memory[slot * _SLOT_BYTES + _IS_ALIVE])

    def _rows(self, slot: int) -> Rows:
        text = self._text(slot * _SLOT_BYTES)
        return {tuple(key): values for key, values in orjson.loads(text or b"[]")}

    def _text(self, start: int) -> bytes:
        while True:
            mark = self._memory[start + _MARK]
            half = _half(start, mark)
            length = int.from_bytes(self._memory[half : half + _LENGTH_BYTES], "big")
            text = self._memory[half + _LENGTH_BYTES : half + _LENGTH_BYTES + length]
            # A changed mark means that the slot's worker has started to overwrite the half that was read.
            if self._memory[start + _MARK] == mark:
                return text


def _half(start: int, mark: int) -> int:
    return start + _HEAD + mark % 2 * HALF_BYTES


def add_up(
    rows: Rows, more: Iterable[tuple[Key, list[float]]], largest: Collection[str] = frozenset()
) -> None:
    """Add further rows to `rows`; for metrics in `largest`, keep the maximum."""
    for key, values in more:
        known = rows.get(key)
        if known is None:
            rows[key] = list(values)
        else:
            merge = max if key[0] in largest else add
            rows[key] = [merge(a, b) for a, b in zip(known, values, strict=True)]
