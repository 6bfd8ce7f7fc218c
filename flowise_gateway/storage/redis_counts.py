"""Counters shared by machines through Redis: daily counters, and slots for runs in flight."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, timedelta
from itertools import count
from typing import Any

from flowise_gateway.storage.protocol import StoreError
from flowise_gateway.storage.redis_store import RedisStore

log = logging.getLogger(__name__)

LEASE_SECONDS = 30.0
"""The time after which the slots of a dead process are free again."""
RENEW_SECONDS = 10.0
_AT_ONCE = 1000
_MAX_FORGOTTEN = 1000
"""How many days before the oldest kept one are checked for deletion."""

_RESERVE = """
for i = 1, #ARGV, 3 do
  local limit = tonumber(ARGV[i + 2])
  if limit >= 0 then
    local value = tonumber(redis.call('HGET', KEYS[1], ARGV[i]) or '0') or 0
    if value + math.max(1, tonumber(ARGV[i + 1])) > limit then return ARGV[i] end
  end
end
for i = 1, #ARGV, 3 do
  if ARGV[i + 1] ~= '0' then redis.pcall('HINCRBY', KEYS[1], ARGV[i], ARGV[i + 1]) end
end
return false
"""
_ADD = """
for i = 1, #ARGV, 2 do redis.pcall('HINCRBY', KEYS[1], ARGV[i], ARGV[i + 1]) end
"""
"""A field that another program set to no number stays as it is (`pcall`): Redis would have added the others
when it tells of an error, and they would be added again.
"""
_TAKE = """
local now = redis.call('TIME')
local time = tonumber(now[1]) + tonumber(now[2]) / 1000000
local runs, seconds = tonumber(ARGV[2]), tonumber(ARGV[3])
for i, key in ipairs(KEYS) do
  redis.call('ZREMRANGEBYSCORE', key, '-inf', time)
  if redis.call('ZCARD', key) + runs > tonumber(ARGV[3 + i]) then return i end
end
for _, key in ipairs(KEYS) do
  for run = 1, runs do redis.call('ZADD', key, time + seconds, ARGV[1] .. ':' .. run) end
  redis.call('EXPIRE', key, math.ceil(seconds))
end
return 0
"""
_RENEW = """
local now = redis.call('TIME')
local time = tonumber(now[1]) + tonumber(now[2]) / 1000000 + tonumber(ARGV[1])
for i = 2, #ARGV do redis.call('ZADD', KEYS[1], time, ARGV[i]) end
redis.call('EXPIRE', KEYS[1], math.ceil(tonumber(ARGV[1])))
"""


class RedisCounts:
    """A hash per day. The hashes have no expiry, so that `volatile-…` policies do not evict them."""

    def __init__(self, store: RedisStore) -> None:
        self._store = store

    def reserve(self, day: str, amounts: Mapping[str, int], limits: Mapping[str, int]) -> str | None:
        arguments = [
            part
            for name in {**limits, **amounts}
            for part in (name, str(amounts.get(name, 0)), str(limits.get(name, -1)))
        ]
        refused = _run(self._store, _RESERVE, [self._key(day)], arguments)
        return _text(refused) if refused else None

    def add(self, day: str, amounts: Mapping[str, int]) -> None:
        _run(self._store, _ADD, [self._key(day)], [part for pair in amounts.items() for part in pair])

    def read(self, first: str, last: str) -> Iterator[tuple[str, str, int]]:
        day, end = date.fromisoformat(first), date.fromisoformat(last)
        while day <= end:
            for name, value in self._numbers(day.isoformat()).items():
                # What another program put there is no number of ours.
                with contextlib.suppress(ValueError):
                    yield day.isoformat(), _text(name), int(value)
            day += timedelta(days=1)

    def _numbers(self, day: str) -> dict[bytes, bytes]:
        numbers: dict[bytes, bytes] = {}  # a scan may return a field twice
        cursor, found = self._scan(day, 0)
        numbers.update(found)
        while cursor:
            cursor, found = self._scan(day, cursor)
            numbers.update(found)
        return numbers

    def _scan(self, day: str, cursor: int) -> tuple[int, dict[bytes, bytes]]:
        scanned: tuple[int, dict[bytes, bytes]] = self._store.call(
            lambda redis: redis.hscan(self._key(day), cursor, count=_AT_ONCE)
        )
        return scanned

    def forget_before(self, day: str) -> None:
        end = date.fromisoformat(day)
        keys = [self._key((end - timedelta(days=n)).isoformat()) for n in range(1, _MAX_FORGOTTEN)]
        self._store.call(lambda redis: redis.unlink(*keys))

    def _key(self, day: str) -> str:
        return f"{self._store.prefix}counts:{day}"


def _run(store: RedisStore, script: str, keys: Sequence[str], arguments: Sequence[Any]) -> Any:
    """Run a script, which is sent to Redis once and then called by its digest. Raises StoreError."""
    return store.call(lambda redis: redis.register_script(script)(keys, arguments))


def _text(found: bytes | str) -> str:
    return found.decode() if isinstance(found, bytes) else found


class Lease:
    """The slots of one request, under all of its names."""

    __slots__ = ("members", "names")

    def __init__(self, names: tuple[str, ...], members: tuple[str, ...]) -> None:
        self.names = names
        self.members = members


class RedisSlots:
    """Slots shared by all processes, each held by a lease that its process renews.

    A lease expires if it is not renewed, because its process died or Redis was unavailable at its end. After
    Redis lost its data, leases of living processes are restored. Redis' clock is used.
    """

    def __init__(
        self, store: RedisStore, lease_seconds: float = LEASE_SECONDS, renew_seconds: float = RENEW_SECONDS
    ) -> None:
        self._store = store
        self._lease_seconds, self._renew_seconds = lease_seconds, renew_seconds
        self._leases: dict[Lease, None] = {}
        self._process = os.urandom(8).hex()
        self._numbers = count()
        self._renewing_in = 0
        self._is_lost = False

    def take(self, runs: int, limits: Mapping[str, int]) -> Lease | str | None:
        """Take slots for the runs under each name, or return the name with too few; None without Redis."""
        names = tuple(limits)
        lease_id = f"{self._process}:{next(self._numbers)}"
        arguments = [lease_id, runs, self._lease_seconds, *limits.values()]
        keys = [self._key(name) for name in names]
        try:
            refused = int(_run(self._store, _TAKE, keys, arguments))
        except StoreError as error:
            if not self._is_lost:
                log.warning("runs in flight are counted per worker, each with its share: %s", error)
            self._is_lost = True
            return None
        self._is_lost = False
        if refused:
            return names[refused - 1]
        lease = Lease(names, tuple(f"{lease_id}:{run}" for run in range(1, runs + 1)))
        self._leases[lease] = None
        self._keep_renewing()
        return lease

    def free(self, lease: Lease) -> None:
        """Free slots; without Redis, they are freed when the lease expires."""
        self._leases.pop(lease, None)
        try:
            self._remove([lease])
        except StoreError:
            return

    def renew(self) -> None:
        """Renew all leases of this process. Raises StoreError."""
        members: dict[str, list[str]] = {}
        leases = list(self._leases)
        for lease in leases:
            for name in lease.names:
                members.setdefault(name, []).extend(lease.members)
        for name, all_members in members.items():
            for start in range(0, len(all_members), _AT_ONCE):
                self._renew(name, all_members[start : start + _AT_ONCE])
        # A lease that was freed meanwhile may just have been renewed.
        self._remove([lease for lease in leases if lease not in self._leases])

    def _renew(self, name: str, members: list[str]) -> None:
        _run(self._store, _RENEW, [self._key(name)], [self._lease_seconds, *members])

    def _remove(self, leases: list[Lease]) -> None:
        def removed(redis: Any) -> None:
            with redis.pipeline(transaction=False) as pipeline:
                for lease in leases:
                    for name in lease.names:
                        pipeline.zrem(self._key(name), *lease.members)
                pipeline.execute()

        if leases:
            self._store.call(removed)

    def _keep_renewing(self) -> None:
        """Start the renewal thread in this process, since threads are not inherited by a fork."""
        if self._renewing_in != os.getpid():
            self._renewing_in = os.getpid()
            threading.Thread(target=self._renew_for_ever, name="renewal of slots", daemon=True).start()

    def _renew_for_ever(self) -> None:
        while True:
            time.sleep(self._renew_seconds)
            try:
                self.renew()
            except StoreError:
                continue  # the next caller that takes slots reports the failure

    def _key(self, name: str) -> str:
        # The braces are a hash tag: a cluster requires all keys of a script in one slot.
        return f"{self._store.prefix}{{slots}}:{name}"
