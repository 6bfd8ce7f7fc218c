"""Files that a flow made, passed on piece by piece under headers that make them harmless.

What comes from a flow never becomes a page of our origin: a file is shown only if its first bytes are those
of an image; any other file is a download.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from urllib.parse import quote

from flowise_gateway.access.file_links import file_not_found
from flowise_gateway.flow.errors import FlowiseUnavailable
from flowise_gateway.flowise.transport.base import ConnectionBroken, Reply

PIECE_SECONDS = 30.0
"""The longest silence in the middle of a file."""

_IMAGES = {
    "png": ("image/png", (b"\x89PNG\r\n\x1a\n",)),
    "jpg": ("image/jpeg", (b"\xff\xd8\xff",)),
    "jpeg": ("image/jpeg", (b"\xff\xd8\xff",)),
    "gif": ("image/gif", (b"GIF87a", b"GIF89a")),
    "webp": ("image/webp", (b"RIFF",)),
}
_DOWNLOADS = {"pdf": ("application/pdf", (b"%PDF-",))}


def first_piece(reply: Reply) -> bytes:
    """The beginning of a file, by which it is known what it is."""
    return _piece(reply)


def pieces(first: bytes, reply: Reply) -> Iterator[bytes]:
    """A file as it comes, never more of it in memory than has just arrived. Raises when it breaks off."""
    while first:
        yield first
        first = _piece(reply)


def _piece(reply: Reply) -> bytes:
    with contextlib.suppress(ConnectionBroken):
        piece = reply.read_available(PIECE_SECONDS)
        if piece is not None:
            return piece
    raise FlowiseUnavailable(
        "The connection to Flowise broke in the middle of a file.", retry_after_seconds=5
    )


def check_is_file(status: int, content_type: str) -> None:
    """Raise FileNotFound for what is no file: an error, a redirect, Flowise's page, a JSON answer.

    Flowise gives a file without any type, or as `application/octet-stream`.
    """
    kind = content_type.partition(";")[0].strip().lower()
    if status != 200 or kind in ("text/html", "application/json"):
        raise file_not_found()


def file_headers(name: str, beginning: bytes) -> dict[str, str]:
    """Headers for a file: shown if it is an image by its name and its first bytes, else a download."""
    ending = name.rpartition(".")[2].lower()
    kind, is_shown = "application/octet-stream", False
    for known, shown in ((_IMAGES, True), (_DOWNLOADS, False)):
        mime, magic = known.get(ending, ("", ()))
        if magic and beginning.startswith(magic):
            kind, is_shown = mime, shown
    disposition = "inline" if is_shown else "attachment"
    return {
        "Content-Type": kind,
        "Content-Disposition": f"{disposition}; filename*=UTF-8''{quote(name, safe='')}",
        "Content-Security-Policy": "sandbox; default-src 'none'",
        "X-Content-Type-Options": "nosniff",
        "Cross-Origin-Resource-Policy": "cross-origin",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "private, max-age=3600",
    }
