"""Budgets of a day, limits of users and models, and slots that all workers share."""

from __future__ import annotations

import pytest

from flowise_gateway.access.keys import Caller
from flowise_gateway.access.limits import Limits, Subject, Users
from flowise_gateway.config.schema import Allowance
from flowise_gateway.flow.errors import BadRequest, QuotaExhausted, RateLimited, error_headers
from flowise_gateway.storage.counts import MemoryCounts
from flowise_gateway.storage.redis_counts import RedisSlots
from flowise_gateway.storage.redis_store import RedisStore

LATE = 1_795_900_000.0  # 2026-11-28T21:06:40Z
DAY = "2026-11-28"


class Worker(Limits):
    """A worker of several that share their counts."""

    def __init__(
        self, counts: MemoryCounts | None = None, *, workers: int = 1, slots: RedisSlots | None = None
    ) -> None:
        self.now = LATE
        super().__init__(workers, 1000, clock=lambda: self.now, shared_slots=slots, counts=counts)


def key(**limits: int) -> Caller:
    """A key with these limits."""
    return Caller("sales", allowance=Allowance(**limits))


def numbers(counts: MemoryCounts) -> dict[str, int]:
    """What is counted on the day."""
    return {name: value for _, name, value in counts.read(DAY, DAY)}


def test_over_the_requests_of_a_day_a_key_is_told_when_the_next_begins() -> None:
    counts = MemoryCounts()
    one, two = Worker(counts, workers=2), Worker(counts, workers=2)
    caller = key(requests_per_day=3)
    for worker in (one, two, one):
        worker.admit(caller).settle(1, 100)
    with pytest.raises(QuotaExhausted) as caught:
        two.admit(caller)
    assert caught.value.message == (
        "The budget is used up: this key may use 3 requests per day; "
        "it is reset at 2026-11-29T00:00:00Z, in 173m20s."
    )
    assert (caught.value.status, caught.value.type) == (429, "insufficient_quota")
    assert error_headers(caught.value) == {"x-should-retry": "false"}
    assert two.refusals["key_requests_per_day"] == 1
    assert numbers(counts) == {"requests of sales": 3}
    two.now += 86_400
    two.admit(caller)


def test_tokens_of_a_day_are_charged_when_they_are_known() -> None:
    counts = MemoryCounts()
    worker = Worker(counts)
    caller = key(tokens_per_day=100)
    running = [worker.admit(caller), worker.admit(caller)]
    for admission in running:
        admission.settle(1, 60)
        admission.settle(1, 60)  # again does nothing
    assert numbers(counts) == {"tokens of sales": 120}
    with pytest.raises(QuotaExhausted, match="may use 100 tokens per day"):
        worker.admit(caller)
    assert worker.refusals["key_tokens_per_day"] == 1


def test_what_never_ran_costs_nothing() -> None:
    counts = MemoryCounts()
    worker = Worker(counts)
    caller = key(requests_per_day=2, max_in_flight=2)
    worker.admit(caller).settle(0, 0)
    worker.admit(caller, 2).give_back()
    admission = worker.admit(caller, 2)
    with pytest.raises(RateLimited):  # a slot is wanting, and the budget is not looked at
        worker.admit(caller)
    admission.settle(1, 10)
    assert numbers(counts) == {"requests of sales": 1}


def test_choices_that_pass_the_budget_together_are_refused_together() -> None:
    counts = MemoryCounts()
    worker = Worker(counts)
    caller = key(requests_per_day=5)
    worker.admit(caller, 3).settle(3, 0)
    with pytest.raises(QuotaExhausted):
        worker.admit(caller, 3)
    worker.admit(caller, 2)
    with pytest.raises(BadRequest, match="this key's limits allow 5"):
        worker.check_runs(caller, 6)


def user(name: str, **limits: int) -> Subject:
    return Subject("user", f"sales|{name}", Allowance(**limits))


def test_each_user_of_a_key_has_limits_of_its_own() -> None:
    counts = MemoryCounts()
    worker = Worker(counts)
    a, b = (user(name, requests_per_minute=2, tokens_per_day=50) for name in "ab")
    worker.admit_further([a], 1).settle(1, 50)
    with pytest.raises(QuotaExhausted, match=r"this user may use 50 tokens per day"):
        worker.admit_further([a], 1)
    worker.admit_further([b], 2).settle(2, 1)
    with pytest.raises(RateLimited, match="this user may send 2 requests per minute") as caught:
        worker.admit_further([b], 1)
    assert caught.value.headers["x-ratelimit-remaining-requests"] == "0"
    with pytest.raises(BadRequest, match="this user's limits allow 2"):
        worker.admit_further([b], 3)
    assert worker.refusals["user_tokens_per_day"] == worker.refusals["user_requests_per_minute"] == 1
    assert worker.in_flight == 0, "the request takes its place among all once only"


def test_a_refusal_for_the_model_leaves_nothing_counted_for_the_user() -> None:
    counts = MemoryCounts()
    worker = Worker(counts)
    someone = user("a", requests_per_minute=2, max_in_flight=1, requests_per_day=9)
    model = Subject("model", "support", Allowance(max_in_flight=1, requests_per_minute=1))
    first = worker.admit_further([model], 1)
    with pytest.raises(RateLimited, match="the model support may have 1 requests in flight"):
        worker.admit_further([someone, model], 1)
    first.settle(1, 0)
    with pytest.raises(RateLimited, match="the model support may send 1 requests per minute"):
        worker.admit_further([someone, model], 1)
    assert numbers(counts) == {}
    worker.admit_further([someone], 1).settle(1, 0)
    worker.admit_further([someone], 1).settle(1, 0)


def test_a_model_and_a_key_of_one_name_are_counted_apart() -> None:
    worker = Worker()
    held = worker.admit(key(max_in_flight=1))
    worker.admit_further([Subject("model", "sales", Allowance(max_in_flight=1))], 1).release()
    held.release()


def test_slots_over_a_redis_are_those_of_all_workers(redis_url: str) -> None:
    prefix = "budgets-test:"
    one, two = (Worker(workers=4, slots=RedisSlots(RedisStore(redis_url, prefix=prefix))) for _ in range(2))
    caller = key(max_in_flight=6)
    held = [one.admit(caller, 3), two.admit(caller, 3)]
    for worker in (one, two):
        with pytest.raises(RateLimited) as caught:
            worker.admit(caller)
        assert "6 requests in flight; try" in caught.value.message
        worker.check_runs(caller, 6)
    held[0].release()
    two.admit(caller, 3).release()
    held[1].release()
    one.admit(caller, 6).release()
    assert (one.in_flight, two.in_flight) == (0, 0)


def test_without_the_redis_each_worker_admits_its_share_of_the_slots() -> None:
    worker = Worker(workers=3, slots=RedisSlots(RedisStore("redis://127.0.0.1:9/0")))
    caller = key(max_in_flight=6)
    held = [worker.admit(caller), worker.admit(caller)]
    with pytest.raises(RateLimited, match=r"6 requests in flight \(2 in each of 3 workers\)"):
        worker.admit(caller)
    held[0].release()
    worker.admit(caller)
    assert worker.in_flight == 2


def test_a_key_has_only_so_many_websockets_open() -> None:
    worker = Worker()
    caller = Caller("sales", allowance=Allowance(max_in_flight=1), max_websockets=2)
    held = [worker.admit_socket(caller), worker.admit_socket(caller)]
    with pytest.raises(RateLimited, match="this key may have 2 WebSockets open"):
        worker.admit_socket(caller)
    worker.admit(caller).release()
    held[0].release()
    worker.admit_socket(caller)
    worker.admit_socket(Caller("hr"))
    assert worker.refusals["sockets_max_in_flight"] == 1


def test_users_that_a_client_makes_up_share_a_name_beyond_a_number() -> None:
    now = [1_700_000_000.0]
    users = Users(2, lambda: now[0])
    names = [users.name("sales", user) for user in ("ann", "bob", "ann", "eve", "joe", "bob")]
    assert names == ["sales|ann", "sales|bob", "sales|ann", "sales|other", "sales|other", "sales|bob"]
    assert users.name("hr", "eve") == "hr|eve"
    now[0] += 86_400
    assert users.name("sales", "eve") == "sales|eve"
