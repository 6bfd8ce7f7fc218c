"""Incremental parser for Flowise's event stream."""

from __future__ import annotations

from collections.abc import Iterator

HEARTBEAT = object()
"""Represents a comment line: a heartbeat of Flowise."""


FRAME = b"message:\ndata:"
TOKEN = b'{"event":"token","data":"'
TOKEN_TEXT = len(TOKEN) - 1
BETWEEN_TOKENS = b'"}\n\n' + FRAME + TOKEN
UNCLEAR_END = b'\\"}\n'


class SseDecoder:
    """Splits the bytes of an event stream into complete events. Lines may have any length.

    `open_bytes` is the size of the incomplete event at the end.
    """

    def __init__(self) -> None:
        """Start at the beginning of a stream."""
        self._open: list[bytes] = []
        self._seam = b""
        self.open_bytes = 0

    def feed(self, piece: bytes) -> bytes:
        """All events that `piece` completes, each with its empty line; `b""` for none."""
        if not self.open_bytes and piece.endswith(b"\n\n"):
            return piece
        seam = self._seam
        searched = seam + piece
        after_lf, after_crlf = searched.rfind(b"\n\n") + 2, searched.rfind(b"\n\r\n") + 3
        if after_lf == 1 and after_crlf == 2:
            self._open.append(piece)
            self._seam = searched[-2:]
            self.open_bytes += len(piece)
            return b""
        end = max(after_lf, after_crlf) - len(seam)
        self._open.append(piece[:end])
        events = b"".join(self._open)
        rest = piece[end:]
        self._open = [rest]
        self._seam = rest[-2:]
        self.open_bytes = len(rest)
        return events


def payloads(events: bytes) -> Iterator[bytes | object]:
    """The payload of each event, and HEARTBEAT for each comment.

    Only `data:` lines and comments matter: Flowise puts the event's name into the JSON, and before 3.1.2
    wrote `message` without a colon before some events.
    """
    data: list[bytes] = []
    for line in events.split(b"\n"):
        line = line.removesuffix(b"\r")  # noqa: PLW2901
        if line.startswith(b"data:"):
            data.append(line[5:].removeprefix(b" "))
        elif not line:
            if data:
                yield b"\n".join(data)
                data = []
        elif line.startswith(b":"):
            yield HEARTBEAT
