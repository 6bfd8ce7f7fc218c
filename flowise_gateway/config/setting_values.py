"""Parsers for the values of settings; their ValueErrors say what is allowed."""

from __future__ import annotations

import contextlib
import ipaddress
import logging
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

log = logging.getLogger(__name__)
_TRUE, _FALSE = {"true", "1", "yes", "on"}, {"false", "0", "no", "off"}
_UNITS = {"kib": 1024, "mib": 1024**2, "gib": 1024**3, "kb": 1000, "mb": 1000**2, "gb": 1000**3}


def is_loopback_host(host: str) -> bool:
    """Whether a host name or address is loopback."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def flowise_base_url(text: str) -> str:
    """The URL of Flowise's API: `/api/v1` is added to a bare origin, `/prediction…` is removed."""
    try:
        parts = urlsplit(text)
        host = parts.hostname
        _ = parts.port
    except ValueError:
        host = None
        parts = urlsplit("")
    if parts.scheme not in {"http", "https"} or not host:
        raise ValueError("it must be an http:// or https:// address such as https://flows.example.com/api/v1")
    if parts.username is not None or parts.query or parts.fragment:
        raise ValueError("it must not contain a user name, query or fragment; set the key in FLOWISE_API_KEY")
    path = parts.path.rstrip("/").partition("/prediction")[0].rstrip("/")
    return f"{parts.scheme}://{parts.netloc}{path or '/api/v1'}"


def base_url_setting(text: str) -> str:
    if any(c.isspace() for c in text):
        raise ValueError("it must be one address, without spaces")
    if "/prediction" in text:
        log.warning(
            "FLOWISE_BASE_URL: /prediction and what follows it are ignored; the gateway adds them itself"
        )
    return flowise_base_url(text)


def number_within(low: float, high: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        complaint = f"it must be a number from {low:g} to {high:g}"
        try:
            number = float(text)
        except ValueError:
            raise ValueError(complaint) from None
        if not low <= number <= high:
            raise ValueError(complaint)
        return number

    return parse


def integer_within(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        complaint = f"it must be a whole number from {low} to {high}"
        if not (text.isascii() and text.isdigit() and len(text) < 19 and low <= int(text) <= high):
            raise ValueError(complaint)
        return int(text)

    return parse


def size(text: str) -> int:
    lowered = text.lower().replace(" ", "")
    for unit, factor in _UNITS.items():
        if lowered.endswith(unit):
            return integer_within(1, 10**9)(lowered.removesuffix(unit)) * factor
    return integer_within(1024, 10**12)(lowered)


def boolean(text: str) -> bool:
    if text.lower() in _TRUE:
        return True
    if text.lower() in _FALSE:
        return False
    raise ValueError("it must be true or false")


def one_of(*allowed: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text.lower() not in allowed:
            raise ValueError(f"it must be one of {', '.join(allowed)}")
        return text.lower()

    return parse


def header_text(text: str) -> str:
    if not (text.isascii() and text.isprintable()) or " " in text:
        raise ValueError("it must be printable ASCII without spaces, since it is sent in a header")
    return text


def list_of(item: Callable[[str], str]) -> Callable[[str], tuple[str, ...]]:
    def parse(text: str) -> tuple[str, ...]:
        return tuple(item(part.strip()) for part in text.split(",") if part.strip())

    return parse


def origin(text: str) -> str:
    with contextlib.suppress(ValueError):
        parts = urlsplit(text)
        is_origin = parts.scheme and parts.netloc and not (parts.path or parts.query or parts.fragment)
        if text in ("*", "null") or is_origin:
            return text
    raise ValueError(
        "it must be *, null or origins such as https://chat.example.com or chrome-extension://…, "
        "comma-separated"
    )


def secrets(text: str) -> tuple[str, ...]:
    secrets = tuple(part.strip() for part in text.split(","))
    if min(map(len, secrets)) < 16:
        raise ValueError(
            "it must have at least 16 characters, such as `openssl rand -hex 32` prints; "
            "earlier secrets may follow, separated by commas"
        )
    return secrets


def store_address(text: str) -> str:
    scheme, _, rest = text.partition(":")
    if text == "memory:" or (scheme == "sqlite" and rest[:3] == "///" and rest[3:]):
        return text
    with contextlib.suppress(ValueError):
        if scheme in {"redis", "rediss"} and urlsplit(text).hostname:
            return text
        parts = urlsplit(text)
        if scheme == "redis+sentinel" and parts.netloc and parts.path.strip("/"):
            return text
    raise ValueError(
        "it must be sqlite:///path, memory:, redis://host:port/number, rediss:// for TLS, or "
        "redis+sentinel://host:port,host:port/service"
    )


def public_url(text: str) -> str:
    with contextlib.suppress(ValueError):
        parts = urlsplit(text)
        is_plain = text.isascii() and text.isprintable() and not set(text) & set(' ()<>"\\@?#')
        if parts.scheme in {"http", "https"} and parts.hostname and is_plain:
            return text.rstrip("/")
    raise ValueError("it must be the URL at which clients reach this server, such as https://ai.example.com")


def network(text: str) -> str:
    try:
        return text if text == "*" else str(ipaddress.ip_network(text))
    except ValueError:
        raise ValueError("it must be addresses and networks such as 10.0.0.0/8, or *") from None


def readable_file(text: str) -> str:
    try:
        with Path(text).open("rb"):
            return text
    except OSError as error:
        raise ValueError(f"it must be a file that can be read ({error.strerror})") from None


def run_error_status(text: str) -> int:
    if text not in {"400", "500", "502"}:
        raise ValueError("it must be 400, 500 or 502")
    return int(text)


def hostname(text: str) -> str:
    bare = text.strip("[]")
    has_port = ":" in bare and not _is_ipv6(bare)
    if not bare or has_port or any(c.isspace() or c in "/@?#" for c in bare):
        raise ValueError("it must be a host name or an address, such as localhost, 127.0.0.1 or ::")
    return bare


def _is_ipv6(text: str) -> bool:
    try:
        return ipaddress.ip_address(text.partition("%")[0]).version == 6
    except ValueError:
        return False
