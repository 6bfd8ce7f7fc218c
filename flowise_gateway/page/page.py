"""The files of the pages at `/` and `/docs`, with the headers that let nothing else run in them."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path
from typing import NamedTuple

import flask_swagger_ui  # type: ignore[import-untyped]

STATIC = Path(__file__).parent / "static"
INDEX, DOCS, OPENAPI = "index.html", "docs.html", "openapi.json"
RULE = "/page/<path:name>"
"""Where the files of the pages are; the pages themselves are at `/` and `/docs`."""

SWAGGER = Path(flask_swagger_ui.__file__).parent / "dist"
SWAGGER_FILES = ("swagger-ui-bundle.js", "swagger-ui.css")

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
DOCS_POLICY = "; ".join(rule for rule in _RULES if "trusted-types" not in rule)
"""For `/docs`: Swagger UI sets its own text as HTML, and shows nothing that came from a flow as such."""

_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".mjs": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}

Answer = tuple[bytes, int, dict[str, str]]


class PageFile(NamedTuple):
    """A file of the page as it is sent."""

    body: bytes
    content_type: str
    etag: str
    policy: str

    def answer(self, known: str | None) -> Answer:
        """Body, status and headers for a browser that may have the version `known` (its If-None-Match)."""
        headers = {
            "Content-Type": self.content_type,
            "Content-Security-Policy": self.policy,
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
def _places() -> dict[str, Path]:
    """Where each file is, by its name after `/page/`; no other name is ever looked for on the disk."""
    own = {path.relative_to(STATIC).as_posix(): path for path in STATIC.rglob("*") if path.suffix in _TYPES}
    return {**own, **{f"swagger-ui/{name}": SWAGGER / name for name in SWAGGER_FILES}}


def page_file(name: str) -> PageFile | None:
    """A file by its name after `/page/`, None if there is none; each is read when it is first asked for."""
    return _read(name) if name in _places() else None


@cache
def _read(name: str) -> PageFile:
    path = _places()[name]
    body = path.read_bytes()
    etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    return PageFile(body, _TYPES[path.suffix], etag, DOCS_POLICY if name == DOCS else POLICY)


def page_paths(*, has_page: bool) -> frozenset[str]:
    """The paths that need no key: a browser asks for them before it has one."""
    pages = ("/", "/docs", *(f"/page/{name}" for name in _places())) if has_page else ()
    return frozenset({f"/{OPENAPI}", *pages})
