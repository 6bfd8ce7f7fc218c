"""Settings from the environment, `.env` and the files of secrets; the only reader of them."""

from __future__ import annotations

import contextlib
import difflib
import ipaddress
import logging
import os
import sys
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_type_hints
from urllib.parse import urlsplit

from dotenv import dotenv_values

from flowise_gateway.flow.errors import SettingsError

log = logging.getLogger(__name__)
_T = TypeVar("_T")
_TRUE, _FALSE = {"true", "1", "yes", "on"}, {"false", "0", "no", "off"}
_UNITS = {"kib": 1024, "mib": 1024**2, "gib": 1024**3, "kb": 1000, "mb": 1000**2, "gb": 1000**3}
_NEAR = 0.88
"""How alike a name and a setting are that are reported as nearly the same."""

PROGRAM = Path(__file__).resolve().parents[2]


def here_or_beside(name: str | Path) -> Path:
    """An operator's file: in the folder that the program was started in, else beside the program."""
    here, beside = Path(name), PROGRAM / name
    return beside if beside.exists() and not here.exists() else here


def is_loopback_host(host: str) -> bool:
    """Whether a host name or address means this machine alone."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def flowise_base_url(text: str) -> str:
    """The address of Flowise's API: a bare origin gets `/api/v1`, `/prediction` and what follows are cut."""
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
        raise ValueError("it must hold no user name, query or fragment; the key goes into FLOWISE_API_KEY")
    path = parts.path.rstrip("/").partition("/prediction")[0].rstrip("/")
    return f"{parts.scheme}://{parts.netloc}{path or '/api/v1'}"


def _base_url_setting(text: str) -> str:
    if any(c.isspace() for c in text):
        raise ValueError("it must be one address, without spaces")
    if "/prediction" in text:
        log.warning("FLOWISE_BASE_URL: /prediction is cut, with what follows: it is added for each call")
    return flowise_base_url(text)


def _number(low: float, high: float) -> Callable[[str], float]:
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


def _integer(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        complaint = f"it must be a whole number from {low} to {high}"
        if not (text.isascii() and text.isdigit() and len(text) < 19 and low <= int(text) <= high):
            raise ValueError(complaint)
        return int(text)

    return parse


def _size(text: str) -> int:
    lowered = text.lower().replace(" ", "")
    for unit, factor in _UNITS.items():
        if lowered.endswith(unit):
            return _integer(1, 10**9)(lowered.removesuffix(unit)) * factor
    return _integer(1024, 10**12)(lowered)


def _boolean(text: str) -> bool:
    if text.lower() in _TRUE:
        return True
    if text.lower() in _FALSE:
        return False
    raise ValueError("it must be true or false")


def _one_of(*allowed: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text.lower() not in allowed:
            raise ValueError(f"it must be one of {', '.join(allowed)}")
        return text.lower()

    return parse


def _header_text(text: str) -> str:
    if not (text.isascii() and text.isprintable()) or " " in text:
        raise ValueError("it must be printable ASCII without spaces, since it travels in a header")
    return text


def _list(item: Callable[[str], str]) -> Callable[[str], tuple[str, ...]]:
    def parse(text: str) -> tuple[str, ...]:
        return tuple(item(part.strip()) for part in text.split(",") if part.strip())

    return parse


def _origin(text: str) -> str:
    with contextlib.suppress(ValueError):
        parts = urlsplit(text)
        is_origin = parts.scheme and parts.netloc and not (parts.path or parts.query or parts.fragment)
        if text in ("*", "null") or is_origin:
            return text
    raise ValueError(
        "it must be *, null or origins such as https://chat.example.com or chrome-extension://…, "
        "comma-separated"
    )


def _secrets(text: str) -> tuple[str, ...]:
    secrets = tuple(part.strip() for part in text.split(","))
    if min(map(len, secrets)) < 16:
        raise ValueError(
            "it must have at least 16 characters, such as `openssl rand -hex 32` prints; "
            "after a comma may follow those that were used before"
        )
    return secrets


def _store(text: str) -> str:
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


def _public_url(text: str) -> str:
    with contextlib.suppress(ValueError):
        parts = urlsplit(text)
        is_plain = text.isascii() and text.isprintable() and not set(text) & set(' ()<>"\\@?#')
        if parts.scheme in {"http", "https"} and parts.hostname and is_plain:
            return text.rstrip("/")
    raise ValueError(
        "it must be the address by which clients reach this server, such as https://ai.example.com"
    )


def _network(text: str) -> str:
    try:
        return text if text == "*" else str(ipaddress.ip_network(text))
    except ValueError:
        raise ValueError("it must be addresses and networks such as 10.0.0.0/8, or *") from None


def _readable_file(text: str) -> str:
    try:
        with Path(text).open("rb"):
            return text
    except OSError as error:
        raise ValueError(f"it must be a file that can be read ({error.strerror})") from None


def _run_error_status(text: str) -> int:
    if text not in {"400", "500", "502"}:
        raise ValueError("it must be 400, 500 or 502")
    return int(text)


def _hostname(text: str) -> str:
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


MIN_KEY_CHARACTERS = 16
"""A shorter key can be guessed."""

_SECRET = {"flowise_api_key", "proxy_api_keys", "proxy_secret", "proxy_store", "proxy_pipelines_key"}
_MAX_SECRET_BYTES = 65_536


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings, each named like its variable in lower case, with what reads it; see `.env.example`."""

    flowise_base_url: Annotated[str, _base_url_setting] = ""
    flowise_api_key: Annotated[str, _header_text] = ""
    flowise_key_passthrough: Annotated[bool, _boolean] = False
    flowise_ca_file: Annotated[str, _readable_file] = ""
    flowise_connect_timeout: Annotated[float, _number(0.1, 600)] = 5
    flowise_request_timeout: Annotated[float, _number(0.1, 86400)] = 30
    flowise_stream_idle_timeout: Annotated[float, _number(0.1, 86400)] = 600
    flowise_run_timeout: Annotated[float, _number(0.1, 604800)] = 3600
    flowise_max_attempts: Annotated[int, _integer(1, 10)] = 3
    host: Annotated[str, _hostname] = "localhost"
    port: Annotated[int, _integer(0, 65535)] = 8000
    workers: Annotated[int, _integer(1, 256)] = 1
    proxy_trusted_proxies: Annotated[tuple[str, ...], _list(_network)] = ()
    proxy_api_keys: Annotated[tuple[str, ...], _list(_header_text)] = ()
    proxy_allow_anonymous: Annotated[bool, _boolean] = False
    proxy_config: Annotated[str, str] = ""
    proxy_store: Annotated[str, _store] = "sqlite:///data/proxy.sqlite3"
    proxy_secret: Annotated[tuple[str, ...], _secrets] = ()
    proxy_public_url: Annotated[str, _public_url] = ""
    proxy_response_ttl_days: Annotated[float, _number(0.01, 36500)] = 30
    proxy_usage_days: Annotated[int, _integer(0, 3650)] = 400
    proxy_cors_origins: Annotated[tuple[str, ...] | None, _list(_origin)] = None
    proxy_max_body_bytes: Annotated[int, _size] = 50 * 1024**2
    proxy_body_timeout: Annotated[float, _number(0.1, 3600)] = 30
    proxy_max_in_flight: Annotated[int, _integer(1, 1_000_000)] = 5000
    proxy_run_error_status: Annotated[int, _run_error_status] = 400
    proxy_heartbeat_seconds: Annotated[float, _number(0.05, 3600)] = 15
    proxy_drain_seconds: Annotated[float, _number(0, 3600)] = 30
    proxy_metrics: Annotated[str, _one_of("key", "open", "off")] = "key"
    proxy_page: Annotated[bool, _boolean] = True
    proxy_pipelines_url: Annotated[str, _base_url_setting] = ""
    proxy_pipelines_key: Annotated[str, _header_text] = ""
    proxy_log_format: Annotated[str, _one_of("auto", "text", "json")] = "auto"
    proxy_log_prompts: Annotated[bool, _boolean] = False
    log_level: Annotated[str, _one_of("debug", "info", "warning", "error")] = "info"

    def __repr__(self) -> str:
        """Name the settings without any secret."""
        shown = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in _SECRET}
        return f"Settings({shown})"

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the server."""
        return is_loopback_host(self.host)

    @property
    def is_anonymous(self) -> bool:
        """Whether any caller is let in, as far as the environment says."""
        return not self.proxy_api_keys and not self.flowise_key_passthrough

    @property
    def log_as_json(self) -> bool:
        """Whether log lines are JSON: as set, else unless standard error is a terminal."""
        if self.proxy_log_format == "auto":
            return not sys.stderr.isatty()
        return self.proxy_log_format == "json"

    @classmethod
    def from_env(
        cls, environ: Mapping[str, str] | None = None, dotenv: str | Path | None = ".env"
    ) -> Settings:
        """Read the environment, which beats the file `dotenv`. Raises SettingsError."""
        values = _values(os.environ if environ is None else environ, dotenv)
        parsers = get_type_hints(cls, include_extras=True)
        read: dict[str, Any] = {}
        for field in fields(cls):
            name = field.name.upper()
            text = values.get(name, "").strip()
            if text:
                read[field.name] = _parsed(name, text, parsers[field.name].__metadata__[0])
        settings = cls(**read)
        if settings.flowise_key_passthrough and settings.proxy_api_keys:
            raise SettingsError(
                "FLOWISE_KEY_PASSTHROUGH and PROXY_API_KEYS exclude each other: a caller sends one key"
            )
        if settings.proxy_store == "memory:" and settings.workers > 1:
            raise SettingsError(
                "PROXY_STORE='memory:' serves one worker only: set WORKERS=1, or a file or Redis"
            )
        return settings

    def check_admission(self, *, has_keys: bool) -> None:
        """Refuse to let other machines in without a key that cannot be guessed. Raises SettingsError."""
        if not self.is_loopback and any(len(key) < MIN_KEY_CHARACTERS for key in self.proxy_api_keys):
            raise SettingsError(
                f"HOST={self.host!r} lets other machines in, and a key of PROXY_API_KEYS can be guessed: "
                f"give each at least {MIN_KEY_CHARACTERS} characters (flowise-gateway keys new makes one)"
            )
        if self.is_loopback or not self.is_anonymous or has_keys or self.proxy_allow_anonymous:
            return
        raise SettingsError(
            f"HOST={self.host!r} lets other machines in, but no client key is set: set PROXY_API_KEYS, "
            "or PROXY_ALLOW_ANONYMOUS=true to let anybody run your flows"
        )


def secret_of(
    reference: str, environ: Mapping[str, str] | None = None, dotenv: str | Path | None = ".env"
) -> str:
    """The secret behind `env:NAME` (of the environment or `.env`) or `file:PATH`.

    Raises ValueError with a text that follows the field's name.
    """
    kind, _, name = reference.partition(":")
    if kind == "file":
        try:
            text = _content("", str(here_or_beside(name)))
        except SettingsError:
            raise ValueError("names a file that cannot be read, is empty or is too long") from None
    else:
        file = {} if dotenv is None else dotenv_values(here_or_beside(dotenv))
        own = os.environ if environ is None else environ
        text = (own.get(name) or file.get(name) or "").strip()
        if not text:
            raise ValueError("names an environment variable that is not set")
    try:
        return _header_text(text)
    except ValueError as error:
        raise ValueError(f"leads to a key that cannot be one: {error}") from None


def misspelt_settings(
    environ: Mapping[str, str] | None = None,
    dotenv: str | Path | None = ".env",
    *,
    used: Container[str] = (),
) -> list[str]:
    """A line for each name that is no setting, but nearly one; `used` are those that `proxy.yaml` names."""
    names = [field.name.upper() for field in fields(Settings)]
    values = _values(os.environ if environ is None else environ, dotenv)
    known = [*names, *(f"{name.upper()}_FILE" for name in _SECRET)]
    found = {
        name: difflib.get_close_matches(name, known, 1, _NEAR)
        for name in values
        if name not in known and name not in used
    }
    return [f"{name} is no setting: is {near[0]} meant?" for name, near in sorted(found.items()) if near]


def _values(environ: Mapping[str, str], dotenv: str | Path | None) -> dict[str, str]:
    file = {} if dotenv is None else dotenv_values(here_or_beside(dotenv))
    own = {name: text for name, text in file.items() if text is not None}
    return {**_with_secrets(own), **_with_secrets(environ)}


def _with_secrets(values: Mapping[str, str]) -> dict[str, str]:
    """The values of one source, with those whose files it names."""
    read = dict(values)
    for name in map(str.upper, _SECRET):
        if path := values.get(f"{name}_FILE", "").strip():
            if values.get(name, "").strip():
                raise SettingsError(f"{name} and {name}_FILE exclude each other: set one of them")
            read[name] = _content(name, path)
    return read


def _content(name: str, path: str) -> str:
    try:
        with Path(path).open("rb") as file:
            content = file.read(_MAX_SECRET_BYTES + 1)
        if not content.strip() or len(content) > _MAX_SECRET_BYTES:
            what = "is empty" if not content.strip() else f"has more than {_MAX_SECRET_BYTES} bytes"
            raise SettingsError(f"{name}_FILE={path!r} {what}")
        return content.decode().strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no UTF-8 text"
        raise SettingsError(f"{name}_FILE={path!r} cannot be read ({reason})") from None


def _parsed(name: str, text: str, parse: Callable[[str], _T]) -> _T:
    try:
        return parse(text)
    except ValueError as error:
        may_hold_key = name.lower() in _SECRET or "@" in text or "?" in text
        shown = "(hidden)" if may_hold_key else repr(text[:80])
        raise SettingsError(f"{name}={shown} is not allowed: {error}") from None
