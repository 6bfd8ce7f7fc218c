"""Counts wrong client keys per address, to stop guessing."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import lru_cache
from ipaddress import IPv6Address, ip_address

from flowise_gateway.flow.errors import TooManyWrongKeys
from flowise_gateway.flow.lru import LRU

log = logging.getLogger(__name__)

MAX_WRONG_KEYS = 60
WINDOW_SECONDS = 60.0
"""An address may send this many wrong keys in this many seconds; counted per worker."""
MAX_ADDRESSES = 10_000


class WrongKeys:
    """The addresses that recently sent wrong keys; beyond the limit, further ones get a 429, which is logged.

    A valid key is always accepted: otherwise a client with a wrong key would lock out all others at the same
    address, which may be everyone behind a load balancer. The length of keys is what prevents guessing.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Start without addresses."""
        self._clock = clock
        self._wrong: LRU[str, tuple[float, int]] = LRU(MAX_ADDRESSES)
        self.refusals = 0

    def add(self, address: str) -> None:
        """Count a wrong key. Raises TooManyWrongKeys beyond the limit."""
        network, now = _network(address), self._clock()
        began, count = self._wrong.get(network, (now, 0))
        if now - began >= WINDOW_SECONDS:
            began, count = now, 0
        if count >= MAX_WRONG_KEYS:
            self.refusals += 1
            raise TooManyWrongKeys(
                "Too many wrong API keys from your address: correct the key, and try again later.",
                retry_after_seconds=began + WINDOW_SECONDS - now,
            )
        self._wrong[network] = began, count + 1
        if count + 1 == MAX_WRONG_KEYS:
            log.warning("%s wrong client keys from %s: further ones get a 429", count + 1, address)


@lru_cache(MAX_ADDRESSES)
def _network(address: str) -> str:
    """The address as it is counted: for IPv6 its network, since one household or machine has all of it."""
    if ":" not in address:
        return address
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if not isinstance(parsed, IPv6Address):
        return address
    return str(parsed.ipv4_mapped or IPv6Address(int(parsed) >> 64 << 64))
