"""Who may call: client keys, and web pages of other origins. Policy."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from urllib.parse import urlsplit

from flow_turn import FLOW_ID
from proxy_config import KeyConfig
from proxy_errors import BadRequest, HostNotAllowed, NotAuthenticated, OriginNotAllowed
from proxy_settings import Settings, is_loopback_host


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sent a request, and what it may; the name may be logged, it tells nothing of the key.

    `single_user` tells that one person alone holds the key, `overrides` that it may set Flowise's own fields;
    `flowise_key` is the caller's own key for Flowise, where keys are passed through. `scope` tells callers
    apart where the name does not, and is not for logs.
    """

    name: str
    models: tuple[str, ...] = ("*",)
    requests_per_minute: int | None = None
    max_in_flight: int | None = None
    single_user: bool = False
    overrides: bool = False
    flowise_key: str = ""
    scope: str = ""

    def may_use(self, names: Iterable[str]) -> bool:
        """Whether one of a model's names is among those that the caller may use."""
        return any(_is_like(name, pattern) for pattern in self.models for name in names)


def _is_like(name: str, pattern: str) -> bool:
    # A flow's id is the same in capitals, and stands in small letters among a model's names.
    return fnmatchcase(name, pattern.lower() if FLOW_ID.fullmatch(name) else pattern)


ANONYMOUS = Caller("anonymous")
LOCAL = Caller("anonymous", single_user=True, overrides=True)
"""Whoever asks a server that needs no key and listens on loopback alone: its owner."""


class Keys:
    """The client keys, kept as digests; with pass-through any key, which is then Flowise's to judge."""

    def __init__(
        self,
        keys: Iterable[str] = (),
        named: Iterable[KeyConfig] = (),
        *,
        passes_through: bool = False,
        anonymous: Caller = LOCAL,
    ) -> None:
        """Take the keys of the settings and those of the file; none at all lets everybody in."""
        self._passes_through = passes_through
        self._anonymous = anonymous
        self._callers = {_digest(key): Caller(f"key-{_digest(key).hex()[:8]}") for key in keys}
        for key in named:
            self._callers[bytes.fromhex(key.sha256)] = Caller(
                key.name,
                key.models,
                key.requests_per_minute,
                key.max_in_flight,
                key.single_user,
                key.overrides,
            )

    @property
    def is_open(self) -> bool:
        """Whether anybody is let in."""
        return not self._callers and not self._passes_through

    def caller(self, header: Callable[[str], str | None]) -> Caller:
        """The caller behind `Authorization: Bearer` or `api-key`. Raises NotAuthenticated, always alike."""
        offered = _offered(header)
        if self._passes_through and offered:
            # Anybody can make up a key whose digest begins like another's.
            whole = _digest(offered[0]).hex()
            return Caller(f"flowise-{whole[:8]}", flowise_key=offered[0], scope=whole)
        if self.is_open:
            return self._anonymous
        for key in offered:
            digest = _digest(key)
            # Every key is compared, so that time tells nothing.
            matches = [c for known, c in self._callers.items() if hmac.compare_digest(known, digest)]
            if matches:
                return matches[0]
        raise NotAuthenticated(_WRONG_KEY)


_WRONG_KEY = "Incorrect API key provided: send a client key of this server."


def check_known(caller: Caller, settings: Settings) -> None:
    """Refuse a key that is not ours but Flowise's to judge, unless it is the one of the settings."""
    known = settings.flowise_api_key.encode()
    if caller.flowise_key and not hmac.compare_digest(caller.flowise_key.encode(), known):
        raise NotAuthenticated(_WRONG_KEY)


def _offered(header: Callable[[str], str | None]) -> list[str]:
    scheme, _, token = (header("Authorization") or "").partition(" ")
    keys = [(header("api-key") or "").strip(), token.strip() if scheme.lower() == "bearer" else ""]
    return [key for key in keys if key]


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


def is_origin_allowed(origin: str, settings: Settings, *, is_open: bool) -> bool:
    """Whether a page of this origin may read answers: as set, else any if keys protect us, else local."""
    if settings.proxy_cors_origins is not None:
        return "*" in settings.proxy_cors_origins or origin in settings.proxy_cors_origins
    return not is_open or _is_local_origin(origin)


def check_origin(origin: str | None, settings: Settings, *, is_open: bool) -> None:
    """Refuse other origins where no key protects us: CORS alone stops no `text/plain` POST of a web page."""
    if origin and is_open and not is_origin_allowed(origin, settings, is_open=is_open):
        raise OriginNotAllowed(
            "This server has no client keys and therefore takes no requests of web pages of other origins; "
            "set PROXY_API_KEYS or PROXY_CORS_ORIGINS."
        )


def check_host(host: str | None, protocol: str, settings: Settings, *, is_open: bool) -> None:
    """Refuse names that are not ours where no key protects us: a page may have had its own lead here."""
    if host is None:
        if protocol == "HTTP/1.1":
            raise BadRequest("The request has no Host header, which HTTP/1.1 requires.")
        return  # no browser sends that
    if is_open and settings.is_loopback and not _is_own_name(_name_in(f"//{host}"), settings):
        raise HostNotAllowed(
            "This server has no client keys and therefore answers only to names of this machine, such as "
            "localhost; set PROXY_PUBLIC_URL to the address by which it is reached, or PROXY_API_KEYS."
        )


def _is_own_name(name: str, settings: Settings) -> bool:
    is_public = name != "" and name == _name_in(settings.proxy_public_url)
    return is_public or _is_this_machine(name) or name in _FROM_CONTAINERS


def _is_this_machine(name: str) -> bool:
    return is_loopback_host(name) or name.endswith(".localhost")  # reserved, RFC 6761


_LONGEST_ADDRESS = 2000


def _name_in(address: str) -> str:
    try:
        # To split a long one takes time: letters beyond ASCII are normalised.
        return (urlsplit(address if len(address) <= _LONGEST_ADDRESS else "").hostname or "").rstrip(".")
    except ValueError:
        return ""


_FROM_CONTAINERS = ("host.docker.internal", "gateway.docker.internal", "host.containers.internal")
"""How programs in containers on a desktop reach its loopback; nobody can register these."""

_DESKTOP_SCHEMES = ("app", "tauri", "capacitor", "ionic", "vscode-webview", "vscode-file")
"""Of pages that come with a desktop program; no web page has them."""


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
        # The Fetch standard lets `*` not cover Authorization, so the names are given back.
        headers["Access-Control-Allow-Headers"] = asked_headers or _ALLOWED_HEADERS
        headers["Access-Control-Allow-Private-Network"] = "true"
        headers["Access-Control-Max-Age"] = "600"
    return headers
