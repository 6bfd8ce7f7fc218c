"""Signed links to files that a flow made, and the headers under which they may be shown. Policy.

A link opens one file of one run until it expires, without a key, so that a browser can show it; nobody can
make one up. What comes from a flow never becomes a page of our origin: only images are shown, and only if
their first bytes are those of an image; everything else is a download.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import hmac
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from urllib.parse import quote, urlencode
from uuid import UUID

from flowise_transport import ConnectionBroken, Reply
from proxy_errors import FileNotFound, FlowiseUnavailable

_CONTEXT = b"flowise file link 1\0"
_SIGNATURE_BYTES = 32
_HEAD_BYTES = 16 + 16 + 5
LONGEST_TOKEN = 1_500
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


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file that Flowise keeps beside a run."""

    flow: str
    chat_id: str
    name: str

    @property
    def path(self) -> str:
        """Where Flowise's API gives it."""
        query = {"chatflowId": self.flow, "chatId": self.chat_id, "fileName": self.name}
        return f"/get-upload-file?{urlencode(query, quote_via=quote, safe='')}"


class FileLinks:
    """Makes and opens the tokens that stand in links."""

    def __init__(self, secret: bytes, days: float, clock: Callable[[], float] = time.time) -> None:
        """Sign with `secret` for `days`."""
        self._secret = secret
        self._seconds = days * 86_400
        self._clock = clock

    def token(self, file: StoredFile) -> str:
        """A text for a URL's path that opens this file and no other, until it expires."""
        expiry = int(self._clock() + self._seconds)
        ids = UUID(file.flow).bytes + UUID(file.chat_id).bytes
        content = ids + expiry.to_bytes(5, "big") + file.name.encode()
        return base64.urlsafe_b64encode(content + self._signature(content)).decode().rstrip("=")

    def opened(self, token: str) -> StoredFile:
        """The file of a token. Raises FileNotFound, the same for what is forged, damaged or too old."""
        content, signature = self._taken_apart(token)
        if not hmac.compare_digest(signature, self._signature(content)):
            raise _not_found()
        if int.from_bytes(content[32:_HEAD_BYTES], "big") < self._clock():
            raise _not_found()
        flow, chat_id = UUID(bytes=content[:16]), UUID(bytes=content[16:32])
        return StoredFile(str(flow), str(chat_id), content[_HEAD_BYTES:].decode())

    def _signature(self, content: bytes) -> bytes:
        return hmac.digest(self._secret, _CONTEXT + content, hashlib.sha256)

    @staticmethod
    def _taken_apart(token: str) -> tuple[bytes, bytes]:
        if len(token) > LONGEST_TOKEN or not token.isascii():
            raise _not_found()
        try:
            raw = base64.b64decode(token + "=" * (-len(token) % 4), b"-_", validate=True)
        except binascii.Error:
            raise _not_found() from None
        if len(raw) <= _HEAD_BYTES + _SIGNATURE_BYTES:
            raise _not_found()
        return raw[:-_SIGNATURE_BYTES], raw[-_SIGNATURE_BYTES:]


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
    raise FlowiseUnavailable("Flowise broke off in the middle of a file.", retry_after_seconds=5)


def check_is_file(status: int, content_type: str) -> None:
    """Raise FileNotFound for what is no file: an error, a redirect, Flowise's page, a JSON answer.

    Flowise gives a file without any type, or as `application/octet-stream`.
    """
    kind = content_type.partition(";")[0].strip().lower()
    if status != 200 or kind in ("text/html", "application/json"):
        raise _not_found()


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


def _not_found() -> FileNotFound:
    return FileNotFound("There is no such file, or its link has expired.")
