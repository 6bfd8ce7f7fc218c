"""What a reverse proxy tells of the client: its address, and the address that it used for the gateway.

Werkzeug's ProxyFix counts proxies instead of knowing them, and replaces the Host header, on which the check
against DNS rebinding rests: a web page may send any X-Forwarded-Host to a server on its own machine.
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
    """The proxies whose X-Forwarded-* headers are believed: networks, or `*` for whoever connects."""

    def __init__(self, networks: Iterable[str]) -> None:
        """Trust these networks, as PROXY_TRUSTED_PROXIES has them."""
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
        if self._all:  # Each hop but the first may be a proxy.
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
        """Say once that a machine of this network, probably a reverse proxy, is not believed."""
        if not self._has_told and address and ipaddress.ip_address(address).is_private:
            self._has_told = True
            log.warning(
                "X-Forwarded-For from %s is ignored: if this is your reverse proxy, "
                "add it to PROXY_TRUSTED_PROXIES",
                address,
            )

    def address(self, environ: Mapping[str, Any]) -> str:
        """The address by which the caller reached the gateway; empty for one that no link may repeat."""
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
    """What the nearest proxy says; further ones may have been the client itself."""
    value: str = environ.get(f"HTTP_X_FORWARDED_{name}") or ""
    return value.rpartition(",")[2].strip()


def _plain(text: str) -> str:
    """An address without port and zone, IPv4 as such also where IPv6 carries it; empty for anything else."""
    # The cache keeps what it was asked for: long texts of clients would fill the memory.
    return _parsed(text) if len(text) <= _MAX_ADDRESS else ""


@lru_cache(maxsize=4096)
def _parsed(text: str) -> str:
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        # A zone (`fe80::1%eth0`) may be any text, and would stand in log lines and headers for Flowise.
        parsed = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return ""
    mapped = getattr(parsed, "ipv4_mapped", None)
    return str(mapped or parsed)
