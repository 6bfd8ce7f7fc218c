"""Slots that many processes share over a real Redis: exact, and back when a process dies."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable
from uuid import uuid4

import pytest

from flowise_gateway.storage.redis_counts import Lease, RedisCounts, RedisSlots
from flowise_gateway.storage.redis_store import RedisStore
from tests.support.running_proxy import PROJECT


@pytest.fixture
def machine(redis_url: str) -> Callable[..., RedisSlots]:
    """Makes the slots of one more process, over the same Redis."""
    prefix = f"{uuid4()}:"
    return lambda *seconds: RedisSlots(RedisStore(redis_url, prefix=prefix), *seconds)


def taken(slots: RedisSlots, limit: int = 3, runs: int = 1) -> Lease:
    """A lease that must be got."""
    lease = slots.take(runs, {"key": limit})
    assert isinstance(lease, Lease)
    return lease


def test_two_machines_share_the_slots(machine: Callable[..., RedisSlots]) -> None:
    one, two = machine(), machine()
    first, second = taken(one), taken(two)
    taken(two)
    assert [slots.take(1, {"key": 3}) for slots in (one, two)] == ["key", "key"]
    one.free(first)
    assert one.take(2, {"key": 3}) == "key"
    third = taken(one)
    for slots, lease in ((two, second), (one, third), (one, third)):
        slots.free(lease)
    taken(two, runs=2)


def test_slots_of_several_names_are_taken_together_or_not_at_all(machine: Callable[..., RedisSlots]) -> None:
    one = machine()
    lease = one.take(2, {"key": 3, "model": 2})
    assert isinstance(lease, Lease)
    assert one.take(1, {"key": 3, "model": 2}) == "model"
    taken(one)  # the refused one holds nothing of the key
    one.free(lease)
    assert isinstance(one.take(1, {"key": 3, "model": 1}), Lease)


def test_slots_of_a_dead_process_come_back_and_those_of_a_living_one_stay(
    machine: Callable[..., RedisSlots],
) -> None:
    dead, alive, other = machine(1.0, 1000.0), machine(1.0, 0.2), machine()
    taken(dead)
    taken(alive)
    assert other.take(2, {"key": 3}) == "key"
    deadline = time.monotonic() + 20
    while (lease := other.take(2, {"key": 3})) == "key":
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert isinstance(lease, Lease)
    time.sleep(1.2)
    assert other.take(1, {"key": 3}) == "key", "the living one has been renewed"


def test_renewal_brings_back_what_redis_lost_and_nothing_that_was_freed(
    machine: Callable[..., RedisSlots],
) -> None:
    one, two = machine(), machine()
    lease, freed = taken(one), taken(one)
    one._store.call(lambda redis: redis.flushdb())
    one.free(freed)
    one.renew()
    assert two.take(3, {"key": 3}) == "key"
    assert isinstance(two.take(2, {"key": 3}), Lease)
    one.free(lease)
    one.renew()


def test_what_is_freed_while_it_is_renewed_stays_free(
    machine: Callable[..., RedisSlots], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = machine(), machine()
    leases = [taken(one, 10) for _ in range(10)]
    renew = one._renew

    def slow(name: str, members: list[str]) -> None:
        for lease in leases:
            one.free(lease)
        renew(name, members)

    monkeypatch.setattr(one, "_renew", slow)
    one.renew()
    assert isinstance(two.take(10, {"key": 10}), Lease)


def test_threads_of_two_machines_never_hold_more_than_the_limit(machine: Callable[..., RedisSlots]) -> None:
    lock, held, most = threading.Lock(), 0, 0

    def work(slots: RedisSlots) -> None:
        nonlocal held, most
        for _ in range(40):
            lease = slots.take(1, {"key": 5})
            if not isinstance(lease, Lease):
                continue
            with lock:
                held += 1
                most = max(most, held)
            time.sleep(0.001)
            with lock:
                held -= 1
            slots.free(lease)

    machines = [machine(), machine()]
    threads = [threading.Thread(target=work, args=(machines[n % 2],)) for n in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 1 <= most <= 5
    assert isinstance(machines[0].take(5, {"key": 5}), Lease), "none leaked"


def test_without_redis_slots_cannot_be_shared_and_this_is_told_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    slots = RedisSlots(RedisStore("redis://:secret@127.0.0.1:9/0"))
    with caplog.at_level(logging.WARNING):
        assert [slots.take(1, {"key": 3}) for _ in range(3)] == [None] * 3
    (line,) = caplog.messages
    assert line.startswith("runs in flight are counted per worker, each with its share: ")
    assert "secret" not in line
    slots.free(Lease(("key",), ("x",)))


def test_the_rights_that_the_documentation_names_are_enough(redis_url: str) -> None:
    rights = re.search(r"rights `(.*?)` are enough", (PROJECT / "docs/deploying.md").read_text())
    assert rights
    owner = RedisStore(redis_url)
    owner.call(lambda redis: redis.execute_command("ACL", "SETUSER", "few", "on", ">pw", *rights[1].split()))
    store = RedisStore(redis_url.replace("//", "//few:pw@"))
    slots, counts = RedisSlots(store), RedisCounts(store)
    lease = taken(slots)
    slots.renew()
    slots.free(lease)
    assert counts.reserve("2026-11-28", {"a": 1}, {"a": 1}) is None
    counts.add("2026-11-28", {"a": 1})
    assert list(counts.read("2026-11-28", "2026-11-28")) == [("2026-11-28", "a", 2)]
    counts.forget_before("2026-11-29")
