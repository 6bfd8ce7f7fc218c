"""Settings from the environment, `.env` and secret files; nothing else reads them."""

from __future__ import annotations

import difflib
import logging
import os
import sys
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_type_hints

from dotenv import dotenv_values

from flowise_gateway.config.setting_values import (
    base_url_setting,
    boolean,
    header_text,
    hostname,
    integer_within,
    is_loopback_host,
    list_of,
    network,
    number_within,
    one_of,
    origin,
    public_url,
    readable_file,
    run_error_status,
    secrets,
    size,
    store_address,
)
from flowise_gateway.flow.errors import SettingsError

log = logging.getLogger(__name__)
_T = TypeVar("_T")
_NEAR = 0.88
"""The similarity from which a name is reported as a misspelt setting."""

PROGRAM = Path(__file__).resolve().parents[2]


def here_or_beside(name: str | Path) -> Path:
    """A configuration file: in the current directory, otherwise next to the program."""
    here, beside = Path(name), PROGRAM / name
    return beside if beside.exists() and not here.exists() else here


MIN_KEY_CHARACTERS = 16
"""Shorter keys can be guessed."""

_SECRET = {"flowise_api_key", "proxy_api_keys", "proxy_secret", "proxy_store", "proxy_pipelines_key"}
_MAX_SECRET_BYTES = 65_536


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings, named like their variables in lower case, with their parsers; see `.env.example`."""

    flowise_base_url: Annotated[str, base_url_setting] = ""
    flowise_api_key: Annotated[str, header_text] = ""
    flowise_key_passthrough: Annotated[bool, boolean] = False
    flowise_ca_file: Annotated[str, readable_file] = ""
    flowise_connect_timeout: Annotated[float, number_within(0.1, 600)] = 5
    flowise_request_timeout: Annotated[float, number_within(0.1, 86400)] = 30
    flowise_stream_idle_timeout: Annotated[float, number_within(0.1, 86400)] = 600
    flowise_run_timeout: Annotated[float, number_within(0.1, 604800)] = 3600
    flowise_max_attempts: Annotated[int, integer_within(1, 10)] = 3
    host: Annotated[str, hostname] = "localhost"
    port: Annotated[int, integer_within(0, 65535)] = 8000
    workers: Annotated[int, integer_within(1, 256)] = 1
    proxy_trusted_proxies: Annotated[tuple[str, ...], list_of(network)] = ()
    proxy_api_keys: Annotated[tuple[str, ...], list_of(header_text)] = ()
    proxy_allow_anonymous: Annotated[bool, boolean] = False
    proxy_config: Annotated[str, str] = ""
    proxy_store: Annotated[str, store_address] = "sqlite:///data/proxy.sqlite3"
    proxy_secret: Annotated[tuple[str, ...], secrets] = ()
    proxy_public_url: Annotated[str, public_url] = ""
    proxy_response_ttl_days: Annotated[float, number_within(0.01, 36500)] = 30
    proxy_usage_days: Annotated[int, integer_within(0, 3650)] = 400
    proxy_cors_origins: Annotated[tuple[str, ...] | None, list_of(origin)] = None
    proxy_max_body_bytes: Annotated[int, size] = 50 * 1024**2
    proxy_body_timeout: Annotated[float, number_within(0.1, 3600)] = 30
    proxy_max_in_flight: Annotated[int, integer_within(1, 1_000_000)] = 5000
    proxy_run_error_status: Annotated[int, run_error_status] = 400
    proxy_heartbeat_seconds: Annotated[float, number_within(0.05, 3600)] = 15
    proxy_drain_seconds: Annotated[float, number_within(0, 3600)] = 30
    proxy_metrics: Annotated[str, one_of("key", "open", "off")] = "key"
    proxy_page: Annotated[bool, boolean] = True
    proxy_pipelines_url: Annotated[str, base_url_setting] = ""
    proxy_pipelines_key: Annotated[str, header_text] = ""
    proxy_log_format: Annotated[str, one_of("auto", "text", "json")] = "auto"
    proxy_log_prompts: Annotated[bool, boolean] = False
    log_level: Annotated[str, one_of("debug", "info", "warning", "error")] = "info"

    def __repr__(self) -> str:
        """Show the settings without secrets."""
        shown = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in _SECRET}
        return f"Settings({shown})"

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the server."""
        return is_loopback_host(self.host)

    @property
    def is_anonymous(self) -> bool:
        """Whether any caller is admitted, according to the environment."""
        return not self.proxy_api_keys and not self.flowise_key_passthrough

    @property
    def log_as_json(self) -> bool:
        """Whether log lines are JSON: as configured, otherwise unless standard error is a terminal."""
        if self.proxy_log_format == "auto":
            return not sys.stderr.isatty()
        return self.proxy_log_format == "json"

    @classmethod
    def from_env(
        cls, environ: Mapping[str, str] | None = None, dotenv: str | Path | None = ".env"
    ) -> Settings:
        """Read the environment, which takes precedence over the file `dotenv`. Raises SettingsError."""
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
                "FLOWISE_KEY_PASSTHROUGH and PROXY_API_KEYS cannot be combined: a caller sends one key"
            )
        if settings.proxy_store == "memory:" and settings.workers > 1:
            raise SettingsError(
                "PROXY_STORE='memory:' supports one worker only: set WORKERS=1, or use a file or Redis"
            )
        return settings

    def check_admission(self, *, has_keys: bool) -> None:
        """Refuse to accept other machines without a sufficiently long key. Raises SettingsError."""
        if not self.is_loopback and any(len(key) < MIN_KEY_CHARACTERS for key in self.proxy_api_keys):
            raise SettingsError(
                f"HOST={self.host!r} accepts other machines, and a key in PROXY_API_KEYS is too short: "
                f"use at least {MIN_KEY_CHARACTERS} characters (flowise-gateway keys new generates one)"
            )
        if self.is_loopback or not self.is_anonymous or has_keys or self.proxy_allow_anonymous:
            return
        raise SettingsError(
            f"HOST={self.host!r} accepts other machines, but no client key is set: set PROXY_API_KEYS, "
            "or PROXY_ALLOW_ANONYMOUS=true to let anybody run your flows"
        )


def secret_of(
    reference: str, environ: Mapping[str, str] | None = None, dotenv: str | Path | None = ".env"
) -> str:
    """The secret for `env:NAME` (from the environment or `.env`) or `file:PATH`.

    Raises ValueError with a text to follow the field's name.
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
        return header_text(text)
    except ValueError as error:
        raise ValueError(f"refers to an invalid key: {error}") from None


def misspelt_settings(
    environ: Mapping[str, str] | None = None,
    dotenv: str | Path | None = ".env",
    *,
    used: Container[str] = (),
) -> list[str]:
    """A line for each misspelt setting; `used` are variables that `proxy.yaml` refers to."""
    names = [field.name.upper() for field in fields(Settings)]
    values = _values(os.environ if environ is None else environ, dotenv)
    known = [*names, *(f"{name.upper()}_FILE" for name in _SECRET)]
    found = {
        name: difflib.get_close_matches(name, known, 1, _NEAR)
        for name in values
        if name not in known and name not in used
    }
    return [
        f"{name} is not a setting: did you mean {near[0]}?" for name, near in sorted(found.items()) if near
    ]


def _values(environ: Mapping[str, str], dotenv: str | Path | None) -> dict[str, str]:
    file = {} if dotenv is None else dotenv_values(here_or_beside(dotenv))
    own = {name: text for name, text in file.items() if text is not None}
    return {**_with_secrets(own), **_with_secrets(environ)}


def _with_secrets(values: Mapping[str, str]) -> dict[str, str]:
    """The values of one source, including those from files that it names."""
    read = dict(values)
    for name in map(str.upper, _SECRET):
        if path := values.get(f"{name}_FILE", "").strip():
            if values.get(name, "").strip():
                raise SettingsError(f"{name} and {name}_FILE cannot be combined: set one of them")
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
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise SettingsError(f"{name}_FILE={path!r} cannot be read ({reason})") from None


def _parsed(name: str, text: str, parse: Callable[[str], _T]) -> _T:
    try:
        return parse(text)
    except ValueError as error:
        may_hold_key = name.lower() in _SECRET or "@" in text or "?" in text
        shown = "(hidden)" if may_hold_key else repr(text[:80])
        raise SettingsError(f"{name}={shown} is not allowed: {error}") from None
