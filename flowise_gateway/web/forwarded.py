"""X-Forwarded-* headers of reverse proxies: the client's address, and the URL that it used.

Werkzeug's ProxyFix counts proxies instead of checking their addresses, and replaces the Host header, on which
the protection against DNS rebinding depends: a web page may send any X-Forwarded-Host to a local server.
"""

from __future__ import annotations

import ipaddress
import logging
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

log = logging.getLogger(__name__)

_Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_MAX_PROXIES = 32
_MAX_ADDRESS = 64
_HOST = re.compile(r"[A-Za-z0-9._:\[\]-]{1,255}")
_PREFIX = re.compile(r"(?:/[A-Za-z0-9._~-]{1,100}){1,10}")


class TrustedProxies:
    """The proxies whose X-Forwarded-* headers are trusted: networks, or `*` for every peer."""

    def __init__(self, networks: Iterable[str]) -> None:
        """Trust these networks, in the form of PROXY_TRUSTED_PROXIES."""
        given = tuple(networks)
        self._all = "*" in given
        self._networks: tuple[_Network, ...] = tuple(map(ipaddress.ip_network, set(given) - {"*"}))
        self._has_told = False
        self._trusts = lru_cache(maxsize=4096)(self._is_within)

    def _is_within(self, address: str) -> bool:
        try:
            parsed = ipaddress.ip_address(address)
        except ValueError:
            return False
        return any(parsed in network for network in self._networks)

    def trusts(self, address: str) -> bool:
        """Whether an address is one of the proxies."""
        return self._all or self._trusts(_plain(address))

    def client(self, environ: Mapping[str, Any]) -> str:
        """The address of the client: the last one in X-Forwarded-For that is not one of the proxies."""
        address = _plain(environ.get("REMOTE_ADDR") or "")
        chain = environ.get("HTTP_X_FORWARDED_FOR")
        if not chain:
            return address
        if not self.trusts(address):
            self._tell_of(address)
            return address
        if self._all:  # Every hop except the first may be a proxy.
            return _plain(chain.partition(",")[0]) or address
        for part in reversed(chain.rsplit(",", _MAX_PROXIES)[-_MAX_PROXIES:]):
            before = _plain(part)
            if not before:
                break
            address = before
            if not self._trusts(address):
                break
        return address

    def _tell_of(self, address: str) -> None:
        """Log once that a machine on the local network, probably a reverse proxy, is not trusted."""
        if not self._has_told and address and ipaddress.ip_address(address).is_private:
            self._has_told = True
            log.warning(
                "X-Forwarded-For from %s is ignored: if this is your reverse proxy, "
                "add it to PROXY_TRUSTED_PROXIES",
                address,
            )

    def address(self, environ: Mapping[str, Any]) -> str:
        """The base URL that the caller used; empty if links must not repeat it."""
        scheme, host, prefix = environ["wsgi.url_scheme"], environ.get("HTTP_HOST") or "", ""
        if self.trusts(environ.get("REMOTE_ADDR") or ""):
            scheme = _last(environ, "PROTO").lower() or scheme
            host = _last(environ, "HOST") or host
            prefix = _last(environ, "PREFIX").rstrip("/")
        is_known = scheme in ("http", "https") and _HOST.fullmatch(host)
        if not is_known or (prefix and not _PREFIX.fullmatch(prefix)):
            return ""
        return f"{scheme}://{host}{prefix}"


def _last(environ: Mapping[str, Any], name: str) -> str:
    """The value set by the nearest proxy; earlier ones may be from the client itself."""
    value: str = environ.get(f"HTTP_X_FORWARDED_{name}") or ""
    return value.rpartition(",")[2].strip()


def _plain(text: str) -> str:
    """An address without port and zone, IPv4-mapped IPv6 as IPv4; empty for anything else."""
    # The cache keeps its keys: long texts from clients would fill the memory.
    return _parsed(text) if len(text) <= _MAX_ADDRESS else ""


@lru_cache(maxsize=4096)
def _parsed(text: str) -> str:
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        # A zone (`fe80::1%eth0`) may be any text, and would appear in log lines and headers for Flowise.
        parsed = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return ""
    mapped = getattr(parsed, "ipv4_mapped", None)
    return str(mapped or parsed)
