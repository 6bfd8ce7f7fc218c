"""Splits long work into slices: a worker is one thread, so one busy greenlet delays all its streams."""

from __future__ import annotations

import threading
import time
import zlib
from collections.abc import Iterable, Iterator
from functools import cache
from typing import TypeVar

_T = TypeVar("_T")
_Text = TypeVar("_Text", str, bytes)

SLICE_SECONDS = 0.002
"""How long a greenlet works before it yields to the others."""
LOOP_SLEEP_SECONDS = 1e-6
"""A sleep after which the event loop has polled its sockets; `sleep(0)` returns fifty times before that."""
LONG_TEXT = 2**20
"""Characters or bytes; a step over more takes some milliseconds, so other greenlets run before it."""
_REST_SECONDS = 0.005
_PACKED_AT_ONCE = 2**18


def yield_now() -> None:
    """Let all other greenlets run. Of those that yield here, one continues per iteration of the loop."""
    with _ready_ones():
        time.sleep(LOOP_SLEEP_SECONDS)


@cache
def _ready_ones() -> threading.Lock:
    # Created on first use: a lock made before gevent patches `threading` would block the loop.
    return threading.Lock()


def yield_between(items: Iterable[_T]) -> Iterator[_T]:
    """The items, with yields to other greenlets in between if the work on them takes long."""
    turn_ends = time.monotonic() + SLICE_SECONDS
    for item in items:
        if time.monotonic() > turn_ends:
            yield_now()
            turn_ends = time.monotonic() + SLICE_SECONDS
        yield item


def yield_before(size: int) -> None:
    """Let other greenlets finish their pending work before an uninterruptible step over a long text."""
    if size > LONG_TEXT:
        with _ready_ones():
            time.sleep(_REST_SECONDS)


def slices(text: _Text, size: int = LONG_TEXT) -> Iterator[_Text]:
    """A text or bytes in slices of this size, with a yield before each slice except the first."""
    for begin in range(0, len(text), size):
        if begin:
            yield_now()
        yield text[begin : begin + size]


class TooLarge(zlib.error):
    """The decompressed data exceeds the limit."""


def compressed(raw: bytes, level: int = 1) -> bytes:
    """Compress with zlib, with yields to other greenlets in between."""
    packing = zlib.compressobj(level)
    return b"".join([*map(packing.compress, slices(raw, _PACKED_AT_ONCE)), packing.flush()])


def decompressed(packed: bytes, most: int | None = None) -> bytes:
    """Undo `compressed`. Raises zlib.error for invalid data, TooLarge for more than `most` bytes."""
    unpacking, pieces, size = zlib.decompressobj(), list[bytes](), 0
    while not unpacking.eof:
        if pieces:
            yield_now()
        piece = unpacking.decompress(packed, LONG_TEXT)
        packed, size = unpacking.unconsumed_tail, size + len(piece)
        if most is not None and size > most:
            raise TooLarge
        if not (piece or unpacking.eof):
            raise zlib.error("cut off")
        pieces.append(piece)
    return b"".join(pieces)
