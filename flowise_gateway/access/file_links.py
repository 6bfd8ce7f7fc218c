"""Signed links to files that a flow made.

A link opens one file of one run until it expires, without a key, so that a browser can show it; nobody can
forge one.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from urllib.parse import quote, urlencode
from uuid import UUID

from flowise_gateway.flow.errors import FileNotFound
from flowise_gateway.flow.model import DEFAULT_FLOWISE

_CONTEXT = b"flowise file link 1\0"
_NAMED_CONTEXT = b"flowise file link 2\0"
"""Of a link that names its Flowise; one of the default Flowise is as it was when there was no other."""

_SIGNATURE_BYTES = 32
_HEAD_BYTES = 16 + 16 + 5
MAX_TOKEN = 1_500


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file that a Flowise stores with a run."""

    flow: str
    chat_id: str
    name: str
    flowise: str = DEFAULT_FLOWISE

    @property
    def path(self) -> str:
        """Its path in Flowise's API."""
        query = {"chatflowId": self.flow, "chatId": self.chat_id, "fileName": self.name}
        return f"/get-upload-file?{urlencode(query, quote_via=quote, safe='')}"


class FileLinks:
    """Makes and opens the tokens in links."""

    def __init__(
        self,
        secret: bytes,
        days: float,
        clock: Callable[[], float] = time.time,
        old_secrets: Sequence[bytes] = (),
    ) -> None:
        """Sign with `secret` for `days`; links that were signed with an old one open their files, too."""
        self._secret = secret
        self._old_secrets = old_secrets
        self._seconds = days * 86_400
        self._clock = clock

    def token(self, file: StoredFile) -> str:
        """A text for a URL's path that opens this file alone, until it expires."""
        expiry = int(self._clock() + self._seconds)
        ids = UUID(file.flow).bytes + UUID(file.chat_id).bytes
        is_default = file.flowise == DEFAULT_FLOWISE
        named = file.name if is_default else f"{file.flowise}\0{file.name}"
        content = ids + expiry.to_bytes(5, "big") + named.encode()
        signature = _signature(self._secret, _CONTEXT if is_default else _NAMED_CONTEXT, content)
        return base64.urlsafe_b64encode(content + signature).decode().rstrip("=")

    def opened(self, token: str) -> StoredFile:
        """The file of a token. Raises FileNotFound, the same for what is forged, damaged or too old."""
        if len(token) > MAX_TOKEN or not token.isascii():
            raise file_not_found()
        try:
            raw = base64.b64decode(token + "=" * (-len(token) % 4), b"-_", validate=True)
        except binascii.Error:
            raise file_not_found() from None
        if len(raw) <= _HEAD_BYTES + _SIGNATURE_BYTES:
            raise file_not_found()
        content, signature = raw[:-_SIGNATURE_BYTES], raw[-_SIGNATURE_BYTES:]
        is_default = self._has_signed(_CONTEXT, content, signature)
        if not is_default and not self._has_signed(_NAMED_CONTEXT, content, signature):
            raise file_not_found()
        if int.from_bytes(content[32:_HEAD_BYTES], "big") < self._clock():
            raise file_not_found()
        flow, chat_id = UUID(bytes=content[:16]), UUID(bytes=content[16:32])
        named = content[_HEAD_BYTES:].decode()
        flowise, _, name = (DEFAULT_FLOWISE, "", named) if is_default else named.partition("\0")
        return StoredFile(str(flow), str(chat_id), name, flowise)

    def _has_signed(self, context: bytes, content: bytes, signature: bytes) -> bool:
        secrets = (self._secret, *self._old_secrets)
        return any(hmac.compare_digest(signature, _signature(each, context, content)) for each in secrets)


def _signature(secret: bytes, context: bytes, content: bytes) -> bytes:
    return hmac.digest(secret, context + content, hashlib.sha256)


def file_not_found() -> FileNotFound:
    return FileNotFound("There is no such file, or its link has expired.")
