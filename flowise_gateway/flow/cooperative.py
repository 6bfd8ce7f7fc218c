"""Long work in short turns: a worker is one thread, and others wait for whoever is at work in it. Leaf."""

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
"""After so long at work the others get their turn."""
LOOP_SLEEP_SECONDS = 1e-6
"""What to sleep so that the loop looks at its sockets: from `sleep(0)` it comes back fifty times before."""
LONG_TEXT = 2**20
"""Before one step over more characters or bytes, some milliseconds of work, the others get their turn."""
_REST_SECONDS = 0.005
_PACKED_AT_ONCE = 2**18


def yield_now() -> None:
    """Let all others run; of those whose next work is there already, one goes on in each turn of the loop."""
    with _ready_ones():
        time.sleep(LOOP_SLEEP_SECONDS)


@cache
def _ready_ones() -> threading.Lock:
    # Made late: the loop's own kind of lock is there once threads are patched.
    return threading.Lock()


def yield_between(items: Iterable[_T]) -> Iterator[_T]:
    """The items, with turns of others in between as far as the work on them takes long."""
    turn_ends = time.monotonic() + SLICE_SECONDS
    for item in items:
        if time.monotonic() > turn_ends:
            yield_now()
            turn_ends = time.monotonic() + SLICE_SECONDS
        yield item


def yield_before(size: int) -> None:
    """Let others do all that they have to before a step over a long text, which nothing can interrupt."""
    if size > LONG_TEXT:
        with _ready_ones():
            time.sleep(_REST_SECONDS)


def slices(text: _Text, size: int = LONG_TEXT) -> Iterator[_Text]:
    """A text or bytes in slices of this size, with turns of others in between."""
    for begin in range(0, len(text), size):
        if begin:
            yield_now()
        yield text[begin : begin + size]


def compressed(raw: bytes, level: int = 1) -> bytes:
    """Bytes packed in zlib's form."""
    packing = zlib.compressobj(level)
    return b"".join([*map(packing.compress, slices(raw, _PACKED_AT_ONCE)), packing.flush()])


def decompressed(packed: bytes, most: int | None = None) -> bytes:
    """What was packed. Raises zlib.error for what was not, or unpacks into more than `most` bytes."""
    unpacking, pieces, size = zlib.decompressobj(), list[bytes](), 0
    while not unpacking.eof:
        if pieces:
            yield_now()
        piece = unpacking.decompress(packed, LONG_TEXT)
        packed, size = unpacking.unconsumed_tail, size + len(piece)
        if not (piece or unpacking.eof) or (most is not None and size > most):
            raise zlib.error("cut off, or too large")
        pieces.append(piece)
    return b"".join(pieces)
