"""The files of the page at `/`, read once, with the headers that let nothing else run in it."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import NamedTuple

STATIC = Path(__file__).parent / "static"
INDEX = "index.html"
RULE = "/page/<path:name>"
"""Where the files of the page are; the page itself is at `/`."""

_RULES = (
    "default-src 'none'",
    "script-src 'self'",
    "style-src 'self'",
    # What a person attaches is shown as data: or blob:; a flow's own files come from this server.
    "img-src 'self' data: blob:",
    "connect-src 'self'",
    "base-uri 'none'",
    "form-action 'none'",
    "frame-ancestors 'none'",
    # Only what DOMPurify has cleaned can become HTML.
    "require-trusted-types-for 'script'",
    "trusted-types dompurify",
)
POLICY = "; ".join(_RULES)
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}

Answer = tuple[bytes, int, dict[str, str]]


class PageFile(NamedTuple):
    """A file of the page as it is sent."""

    body: bytes
    content_type: str
    etag: str

    def answer(self, known: str | None) -> Answer:
        """Body, status and headers for a browser that may have the version `known` (its If-None-Match)."""
        headers = {
            "Content-Type": self.content_type,
            "Content-Security-Policy": POLICY,
            "X-Content-Type-Options": "nosniff",
            "X-Frame-Options": "DENY",
            "Referrer-Policy": "no-referrer",
            "Cross-Origin-Opener-Policy": "same-origin",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Cache-Control": "no-cache",
            "ETag": self.etag,
        }
        if self.etag in (known or ""):
            return b"", 304, headers
        return self.body, 200, headers


@cache
def page_files() -> dict[str, PageFile]:
    """All files by their names after `/page/`; no other name is ever looked for on the disk."""
    return {
        path.relative_to(STATIC).as_posix(): _read(path)
        for path in STATIC.rglob("*")
        if path.suffix in _TYPES
    }


def page_paths() -> frozenset[str]:
    """The paths that need no key: a browser asks for them before it has one."""
    return frozenset({"/", *(f"/page/{name}" for name in page_files())})


def _read(path: Path) -> PageFile:
    body = path.read_bytes()
    return PageFile(body, _TYPES[path.suffix], f'"{hashlib.sha256(body).hexdigest()[:32]}"')
