"""Which web pages may call the server, and the CORS headers of their answers."""

from __future__ import annotations

import contextlib
import ipaddress
from urllib.parse import urlsplit

from flowise_gateway.config.setting_values import is_loopback_host
from flowise_gateway.config.settings import Settings
from flowise_gateway.flow.errors import BadRequest, HostNotAllowed, OriginNotAllowed

_MAX_ADDRESS = 2000


def is_origin_allowed(origin: str, settings: Settings, *, is_open: bool) -> bool:
    """Whether a page from this origin may call: as configured, otherwise any with keys, else local ones."""
    if settings.proxy_cors_origins is not None:
        return "*" in settings.proxy_cors_origins or origin in settings.proxy_cors_origins
    return not is_open or _is_local_origin(origin)


def check_origin(origin: str | None, host: str | None, settings: Settings, *, is_open: bool) -> None:
    """Refuse foreign origins if there are no keys: CORS alone does not stop a `text/plain` POST of a page.

    `host` is the request's Host: a page served by this server is never foreign.
    """
    is_refused = origin and is_open and not is_origin_allowed(origin, settings, is_open=is_open)
    if is_refused and not _is_own_page(origin or "", host or "", settings):
        raise OriginNotAllowed(
            "This server has no client keys and therefore refuses web pages from other origins; "
            "set PROXY_API_KEYS or PROXY_CORS_ORIGINS."
        )


def check_host(host: str | None, protocol: str, settings: Settings, *, is_open: bool) -> None:
    """Refuse foreign host names if there are no keys (DNS rebinding)."""
    if host is None:
        if protocol == "HTTP/1.1":
            raise BadRequest("The request has no Host header, which HTTP/1.1 requires.")
        return  # HTTP/1.0, which no browser sends
    if is_open and settings.is_loopback and not _is_own_name(_name_in(f"//{host}"), settings):
        raise HostNotAllowed(
            "This server has no client keys and therefore only accepts host names of this machine, such "
            "as localhost; set PROXY_PUBLIC_URL to its public URL, or set PROXY_API_KEYS."
        )


def _is_own_name(name: str, settings: Settings) -> bool:
    is_public = name != "" and name == _name_in(settings.proxy_public_url)
    return is_public or _is_this_machine(name) or name in _FROM_CONTAINERS


def _is_own_page(origin: str, host: str, settings: Settings) -> bool:
    """Whether the page has this server's origin: that of PROXY_PUBLIC_URL, otherwise that of Host.

    Names that others can point to this server do not count (DNS rebinding).
    """
    if settings.proxy_public_url:
        parts = urlsplit(settings.proxy_public_url)
        if origin == f"{parts.scheme}://{parts.netloc}":
            return True
        if _name_in(f"//{host}") == parts.hostname:
            return False  # same name, but another scheme or port
    if origin.partition("://")[2] != host:
        return False
    name = _name_in(f"//{host}")
    return _is_own_name(name, settings) or _is_address(name)


def _is_address(name: str) -> bool:
    with contextlib.suppress(ValueError):
        return bool(ipaddress.ip_address(name))
    return False


def _is_this_machine(name: str) -> bool:
    return is_loopback_host(name) or name.endswith(".localhost")  # reserved, RFC 6761


def _name_in(address: str) -> str:
    try:
        # Long values are ignored: urlsplit normalises non-ASCII letters, which takes long.
        return (urlsplit(address if len(address) <= _MAX_ADDRESS else "").hostname or "").rstrip(".")
    except ValueError:
        return ""


_FROM_CONTAINERS = ("host.docker.internal", "gateway.docker.internal", "host.containers.internal")
"""Names by which containers reach the loopback of a desktop; nobody can register them."""

_DESKTOP_SCHEMES = ("app", "tauri", "capacitor", "ionic", "vscode-webview", "vscode-file")
"""The schemes of pages in desktop apps; no web page has them."""


def _is_local_origin(origin: str) -> bool:
    scheme, is_origin, _ = origin.partition("://")
    if scheme in ("http", "https"):
        return _is_this_machine(_name_in(origin))
    return scheme in _DESKTOP_SCHEMES and bool(is_origin)


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
    "x-ratelimit-limit-requests, x-ratelimit-remaining-requests, x-ratelimit-reset-requests, "
    "x-request-id, retry-after, retry-after-ms, x-should-retry, x-flowise-chat-id, x-flowise-ignored-params"
)


def cors_headers(
    origin: str | None, asked_headers: str | None, settings: Settings, *, is_open: bool
) -> dict[str, str]:
    """The headers that let an allowed page read an answer; never with credentials."""
    if not origin or not is_origin_allowed(origin, settings, is_open=is_open):
        return {}
    allows_all = settings.proxy_cors_origins is None or "*" in settings.proxy_cors_origins
    headers = {
        "Access-Control-Allow-Origin": "*" if allows_all and not is_open else origin,
        "Access-Control-Expose-Headers": _EXPOSED_HEADERS,
        "Vary": "Origin",
    }
    if asked_headers is not None:
        headers["Access-Control-Allow-Methods"] = "GET, POST, DELETE, OPTIONS"
        # In the Fetch standard, `*` does not cover Authorization, so the requested names are returned.
        headers["Access-Control-Allow-Headers"] = asked_headers or _ALLOWED_HEADERS
        headers["Access-Control-Allow-Private-Network"] = "true"
        headers["Access-Control-Max-Age"] = "600"
    return headers
