"""The messages between the host and a pipeline's process: kind, run number, payload."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from enum import IntEnum

_HEAD = struct.Struct("!BII")


class Kind(IntEnum):
    """The kind of a message; the first two are sent to the process, the others by it."""

    RUN = 1  # payload: the prediction's body
    CANCEL = 2  # nobody waits for the run any more
    READY = 3  # payload: the PipelineProfile; the pipeline is loaded
    BROKEN = 4  # payload: why it cannot be loaded
    PIECE = 5  # payload: bytes of the run's event stream
    ANSWER = 6  # the run has ended; payload: the whole JSON answer, nothing for a stream
    FAILED = 7  # the run has failed; payload: the text of its error


def packed(kind: Kind, run: int, payload: bytes = b"") -> bytes:
    """Serialize a message."""
    return _HEAD.pack(kind, run, len(payload)) + payload


class Unpacker:
    """Splits the bytes of a channel into messages."""

    def __init__(self) -> None:
        """Start at the beginning of a channel."""
        self._arrived = bytearray()

    def feed(self, piece: bytes) -> Iterator[tuple[Kind, int, bytes]]:
        """Yield the messages that `piece` completes. Raises ValueError for invalid ones."""
        arrived = self._arrived
        arrived += piece
        at = 0
        while len(arrived) - at >= _HEAD.size:
            kind, run, length = _HEAD.unpack_from(arrived, at)
            end = at + _HEAD.size + length
            if end > len(arrived):
                break
            yield Kind(kind), run, bytes(arrived[at + _HEAD.size : end])
            at = end
        del arrived[:at]
