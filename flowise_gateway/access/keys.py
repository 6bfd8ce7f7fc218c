"""Client keys: authentication of callers, and their permissions."""

from __future__ import annotations

import hashlib
import hmac
import logging
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from flowise_gateway.access.wrong_keys import WrongKeys
from flowise_gateway.config.schema import NO_LIMITS, Allowance, KeyConfig
from flowise_gateway.config.settings import MIN_KEY_CHARACTERS, Settings
from flowise_gateway.flow.errors import NotAuthenticated
from flowise_gateway.flow.model import FLOW_ID

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Caller:
    """The sender of a request and its permissions; the name may be logged, since it does not reveal the key.

    `allowance` are the limits of the key, `per_user` those of each user it names. `single_user`: one person
    has the key. `overrides`: the caller may set Flowise's own fields. `flowises` are the names of the
    Flowises whose flows it may use, empty for all. `flowise_key` is the caller's own key for Flowise if keys
    are passed through. `scope` distinguishes callers with the same name, and must not be logged. `is_admin`:
    the caller may see the usage of others.
    """

    name: str
    models: tuple[str, ...] = ("*",)
    allowance: Allowance = NO_LIMITS
    per_user: Allowance | None = None
    max_websockets: int | None = None
    stored_bytes_per_day: int | None = None
    single_user: bool = False
    overrides: bool = False
    flowise_key: str = ""
    scope: str = ""
    is_admin: bool = False
    flowises: tuple[str, ...] = ()

    def may_use_flowise(self, name: str) -> bool:
        """Whether the caller may use the flows of this Flowise."""
        return not self.flowises or name in self.flowises

    def may_use(self, names: Iterable[str]) -> bool:
        """Whether the caller may use a model with these names."""
        # A flow's id is in lower case among a model's names, but a pattern may have it in upper case.
        return any(
            fnmatchcase(name, pattern.lower() if FLOW_ID.fullmatch(name) else pattern)
            for pattern in self.models
            for name in names
        )


ANONYMOUS = Caller("anonymous")
LOCAL = Caller("anonymous", single_user=True, overrides=True, is_admin=True)
"""The caller of a loopback server without keys: its owner."""


class Keys:
    """The digests of client keys; with pass-through, any key is accepted, and Flowise decides."""

    def __init__(
        self,
        keys: Iterable[str] = (),
        named: Iterable[KeyConfig] = (),
        *,
        passes_through: bool = False,
        anonymous: Caller = LOCAL,
        wrong_keys: WrongKeys | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Use the keys of the settings and of the file; without any, every caller is admitted."""
        self._passes_through = passes_through
        self._anonymous = anonymous
        self._wrong_keys = wrong_keys or WrongKeys()
        self._clock = clock
        self._callers = {_digest(key): (Caller(f"key-{_digest(key).hex()[:8]}"), math.inf) for key in keys}
        for key in named:
            caller = _named_caller(key)
            for digest in key.sha256:
                self._callers[bytes.fromhex(digest)] = caller, key.expires
        self._short: set[str] = set()

    @property
    def is_open(self) -> bool:
        """Whether every caller is admitted."""
        return not self._callers and not self._passes_through

    def caller(self, header: Callable[[str], str | None], address: str = "") -> Caller:
        """Authenticate a caller at an address by `Authorization: Bearer` or `api-key`.

        Raises the same NotAuthenticated for a missing and a wrong key, and TooManyWrongKeys.
        """
        offered = _offered(header)
        if self._passes_through and offered:
            # The scope is the whole digest: a key whose digest has the same beginning can be found.
            whole = _digest(offered[0]).hex()
            return Caller(f"flowise-{whole[:8]}", flowise_key=offered[0], scope=whole)
        if self.is_open:
            return self._anonymous
        for key in offered:
            digest = _digest(key)
            # Every key is compared, so that the time reveals nothing.
            matches = [c for known, c in self._callers.items() if hmac.compare_digest(known, digest)]
            if matches:
                return self._current(key, *matches[0])
        if offered:
            self._wrong_keys.add(address)
        raise NotAuthenticated(_WRONG_KEY)

    def _current(self, key: str, caller: Caller, expires: float) -> Caller:
        if self._clock() >= expires:
            raise NotAuthenticated("This API key has expired: ask for a new one.", code="api_key_expired")
        if len(key) < MIN_KEY_CHARACTERS and caller.name not in self._short:
            self._short.add(caller.name)
            log.warning(
                "the key %s is too short: it has fewer than %s characters", caller.name, MIN_KEY_CHARACTERS
            )
        return caller


def _named_caller(key: KeyConfig) -> Caller:
    return Caller(
        key.name,
        key.models,
        key.allowance,
        key.per_user,
        key.max_websockets,
        key.stored_bytes_per_day,
        key.single_user,
        key.overrides,
        is_admin=key.admin,
        flowises=key.flowises,
    )


_WRONG_KEY = "Incorrect API key provided: send a client key of this server."


def check_known(caller: Caller, settings: Settings) -> None:
    """Refuse a passed-through key, which only Flowise can verify, unless it is the configured one."""
    known = settings.flowise_api_key.encode()
    if caller.flowise_key and not hmac.compare_digest(caller.flowise_key.encode(), known):
        raise NotAuthenticated(_WRONG_KEY)


def _offered(header: Callable[[str], str | None]) -> list[str]:
    scheme, _, token = (header("Authorization") or "").partition(" ")
    keys = [(header("api-key") or "").strip(), token.strip() if scheme.lower() == "bearer" else ""]
    return [key for key in keys if key]


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
