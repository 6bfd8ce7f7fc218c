"""Who may call: client keys, and web pages of other origins. Policy."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

from proxy_errors import NotAuthenticated, OriginNotAllowed
from proxy_settings import Settings, is_loopback_host


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sent a request; the name may be logged, it tells nothing of the key."""

    name: str


ANONYMOUS = Caller("anonymous")


class Keys:
    """The client keys, kept as digests."""

    def __init__(self, keys: Iterable[str]) -> None:
        """Take the keys of the settings; none at all lets everybody in."""
        self._callers = {_digest(key): Caller(f"key-{_digest(key).hex()[:8]}") for key in keys}

    def caller(self, header: Callable[[str], str | None]) -> Caller:
        """The caller behind `Authorization: Bearer` or `api-key`. Raises NotAuthenticated, always alike."""
        if not self._callers:
            return ANONYMOUS
        scheme, _, token = (header("Authorization") or "").partition(" ")
        offered = [(header("api-key") or "").strip()]
        if scheme.lower() == "bearer":
            offered.append(token.strip())
        for key in filter(None, offered):
            digest = _digest(key)
            # Every key is compared, so that time tells nothing.
            matches = [c for known, c in self._callers.items() if hmac.compare_digest(known, digest)]
            if matches:
                return matches[0]
        raise NotAuthenticated("Incorrect API key provided: send a client key of this server.")


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


def is_origin_allowed(origin: str, settings: Settings) -> bool:
    """Whether a page of this origin may read answers: as set, else any if keys protect us, else loopback."""
    if settings.proxy_cors_origins is not None:
        return "*" in settings.proxy_cors_origins or origin in settings.proxy_cors_origins
    return not settings.is_anonymous or _is_loopback_origin(origin)


def check_origin(origin: str | None, settings: Settings) -> None:
    """Refuse other origins where no key protects us: CORS alone stops no `text/plain` POST of a web page."""
    if origin and settings.is_anonymous and not is_origin_allowed(origin, settings):
        raise OriginNotAllowed(
            "This server has no client keys and therefore takes no requests of web pages of other origins; "
            "set PROXY_API_KEYS or PROXY_CORS_ORIGINS."
        )


def _is_loopback_origin(origin: str) -> bool:
    try:
        parts = urlsplit(origin)
        return parts.scheme in ("http", "https") and is_loopback_host(parts.hostname or "")
    except ValueError:
        return False


_ALLOWED_HEADERS = (
    "authorization, api-key, content-type, openai-organization, openai-project, openai-beta, x-request-id, "
    "x-client-request-id, "
    + ", ".join(
        f"x-stainless-{name}"
        for name in (
            *("lang", "package-version", "os", "arch", "runtime", "runtime-version", "retry-count"),
            *("timeout", "async", "read-timeout", "helper-method"),
        )
    )
)
_EXPOSED_HEADERS = (
    "x-request-id, retry-after, retry-after-ms, x-should-retry, x-flowise-chat-id, x-flowise-ignored-params"
)


def cors_headers(origin: str | None, asked_headers: str | None, settings: Settings) -> dict[str, str]:
    """The headers that let an allowed page read an answer; never with credentials."""
    if not origin or not is_origin_allowed(origin, settings):
        return {}
    allows_all = settings.proxy_cors_origins is None or "*" in settings.proxy_cors_origins
    headers = {
        "Access-Control-Allow-Origin": "*" if allows_all and not settings.is_anonymous else origin,
        "Access-Control-Expose-Headers": _EXPOSED_HEADERS,
        "Vary": "Origin",
    }
    if asked_headers is not None:
        headers["Access-Control-Allow-Methods"] = "GET, POST, DELETE, OPTIONS"
        # The Fetch standard lets `*` not cover Authorization, so the names are given back.
        headers["Access-Control-Allow-Headers"] = asked_headers or _ALLOWED_HEADERS
        headers["Access-Control-Max-Age"] = "600"
    return headers
