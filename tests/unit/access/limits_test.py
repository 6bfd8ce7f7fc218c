"""What a key may use: exact rates, places in flight that always come back, and bounded memory."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from threading import Barrier, Lock, Thread

import gevent
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowise_gateway.access.keys import ANONYMOUS, Caller
from flowise_gateway.access.limits import Admission, Limits, Subject
from flowise_gateway.access.rates import MemoryRates, Rate, RatesLost, RedisRates, duration_text
from flowise_gateway.config.schema import Allowance
from flowise_gateway.flow.errors import (
    BadRequest,
    FlowiseUnavailable,
    RateLimited,
    error_headers,
)
from flowise_gateway.storage.protocol import StoreError
from flowise_gateway.storage.redis_store import (
    MAX_CONNECTIONS,
    REDIS_RETRY_SECONDS,
    REDIS_SECONDS,
    RedisStore,
)
from tests.support.redis_server import RedisServer
from tests.support.scripted_server import ScriptedServer

START = 1_700_000_000.0


class Clock:
    """A clock that stands until it is set."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> float:
        return self.now


class OneCallersLimits(Limits):
    """Limits in a worker that has room, for callers who have but a name and limits."""

    def __init__(
        self, workers: int, shared: CommonRates | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        super().__init__(workers, 1_000_000, shared, clock)

    def let_in(self, name: str, per_minute: int | None, in_flight: int | None, *, runs: int = 1) -> Admission:
        caller = Caller(name, allowance=Allowance(per_minute, in_flight))
        return self.admit(caller, runs)

    def check(self, runs: int, per_minute: int | None, in_flight: int | None) -> None:
        self.check_runs(Caller("key", allowance=Allowance(per_minute, in_flight)), runs)


class CommonRates:
    """Windows in place of Redis: one for all workers, and they can fail."""

    def __init__(self, clock: Clock) -> None:
        self._rates = MemoryRates(clock)
        self.failure: BaseException | None = None
        self.asked = 0

    def count(self, name: str, limit: int, runs: int) -> Rate:
        self.asked += 1
        if self.failure is not None:
            raise self.failure
        return self._rates.count(name, limit, runs)


@pytest.fixture
def clock() -> Clock:
    """A clock of the test's own."""
    return Clock()


@pytest.fixture
def common(clock: Clock) -> CommonRates:
    """Empty shared windows on the test's clock."""
    return CommonRates(clock)


@contextmanager
def holding(limits: OneCallersLimits, *limit: int | None, runs: int = 1) -> Iterator[Admission]:
    """A request let in, until the end of the block."""
    admission = limits.let_in("key", *limit, runs=runs)
    try:
        yield admission
    finally:
        admission.release()


def refused(limits: OneCallersLimits, *limit: int | None, name: str = "key") -> RateLimited:
    """The refusal of a request that must be refused."""
    with pytest.raises(RateLimited) as caught:
        limits.let_in(name, *limit)
    return caught.value


def admitted(limits: OneCallersLimits, *limit: int | None, name: str = "key") -> int:
    """How many requests are let in before one is refused; all slots stay taken until then."""
    held = []
    try:
        while True:
            held.append(limits.let_in(name, *limit))
    except RateLimited:
        return len(held)
    finally:
        for admission in held:
            admission.release()


def rate_headers(limit: int, remaining: int, reset: str) -> dict[str, str]:
    """The headers as OpenAI names them."""
    return {
        "x-ratelimit-limit-requests": str(limit),
        "x-ratelimit-remaining-requests": str(remaining),
        "x-ratelimit-reset-requests": reset,
    }


# Requests per minute


def test_sixty_a_minute_are_let_in_and_the_next_is_told_exactly_when_to_come(clock: Clock) -> None:
    limits = OneCallersLimits(1, clock=clock)
    for _ in range(60):
        limits.let_in("key", 60, None)
        clock.now += 0.5
    error = refused(limits, 60, None)
    assert error.retry_after_seconds == 30
    assert (error.status, error.code) == (429, "rate_limit_exceeded")
    assert error.message == (
        "Rate limit reached: this key may send 60 requests per minute; try again in 30s."
    )
    clock.now += 30 - 1 / 1024
    assert refused(limits, 60, None).retry_after_seconds == 1 / 1024
    clock.now += 1 / 1024
    limits.let_in("key", 60, None)
    assert refused(limits, 60, None).retry_after_seconds == 0.5


def test_refused_requests_do_not_count(clock: Clock) -> None:
    limits = OneCallersLimits(1, clock=clock)
    assert admitted(limits, 3, None) == 3
    for _ in range(100):
        clock.now += 0.5
        assert refused(limits, 3, None).retry_after_seconds == START + 60 - clock.now
    clock.now = START + 60
    assert admitted(limits, 3, None) == 3


@given(
    limit=st.integers(1, 5),
    gaps=st.lists(st.sampled_from([0, 1 / 1024, 7.25, 20, 59.5, 60, 200]), max_size=40),
)
def test_the_window_is_exact(limit: int, gaps: list[float]) -> None:
    clock = Clock()
    limits = OneCallersLimits(1, clock=clock)
    let_in: list[float] = []
    for gap in gaps:
        clock.now += gap
        recent = [moment for moment in let_in if moment > clock.now - 60]
        if len(recent) < limit:
            headers = limits.let_in("key", limit, None).headers
            assert headers["x-ratelimit-remaining-requests"] == str(limit - len(recent) - 1)
            let_in.append(clock.now)
        else:
            assert refused(limits, limit, None).retry_after_seconds == recent[0] + 60 - clock.now


def test_keys_do_not_share_a_limit(clock: Clock) -> None:
    limits = OneCallersLimits(1, clock=clock)
    assert [admitted(limits, 2, None, name=name) for name in "ab"] == [2, 2]


def test_a_clock_set_back_locks_nobody_out(clock: Clock) -> None:
    limits = OneCallersLimits(1, clock=clock)
    assert admitted(limits, 2, None) == 2
    clock.now -= 3600
    assert admitted(limits, 2, None) == 2


def test_the_default_clock_is_the_time() -> None:
    limits = OneCallersLimits(1)
    assert admitted(limits, 2, None) == 2
    wait = refused(limits, 2, None).retry_after_seconds
    assert wait is not None
    assert 50 < wait <= 60


# Headers


def test_headers_tell_limit_rest_and_when_the_next_place_comes(clock: Clock) -> None:
    limits = OneCallersLimits(1, clock=clock)
    assert limits.let_in("key", 3, None).headers == rate_headers(3, 2, "1m0s")
    clock.now += 0.25
    assert limits.let_in("key", 3, None).headers == rate_headers(3, 1, "59.75s")
    clock.now += 59
    assert limits.let_in("key", 3, None).headers == rate_headers(3, 0, "750ms")
    error = refused(limits, 3, None)
    assert error.headers == rate_headers(3, 0, "750ms")
    assert error_headers(error) == {
        **rate_headers(3, 0, "750ms"),
        "Retry-After": "1",
        "retry-after-ms": "750",
    }


def test_a_caller_without_a_limit_gets_no_headers(clock: Clock) -> None:
    limits = OneCallersLimits(1, clock=clock)
    assert limits.let_in("key", None, None).headers == {}
    held = limits.let_in("key", None, 1)
    assert held.headers == {}
    assert refused(limits, None, 1).headers == {}


def test_an_error_has_no_headers_of_its_own_unless_given() -> None:
    assert error_headers(BadRequest("x")) == {}


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (0.000_000_1, "0s"),
        (0.0002, "1ms"),
        (0.017, "17ms"),
        (0.9991, "1s"),
        (1, "1s"),
        (1.5, "1.5s"),
        (8.64, "8.64s"),
        (10, "10s"),
        (59.9991, "1m0s"),
        (60.000_000_2, "1m0s"),
        (61.05, "1m1.05s"),
        (360, "6m0s"),
        (600, "10m0s"),
    ],
)
def test_durations_are_written_as_openai_writes_them(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


# Shares


@pytest.mark.parametrize(("workers", "share"), [(1, 10), (2, 5), (3, 3), (4, 2), (5, 2)])
def test_each_worker_takes_its_share(workers: int, share: int, clock: Clock) -> None:
    for limits in [OneCallersLimits(workers, clock=clock) for _ in range(workers)]:
        assert admitted(limits, 10, None) == share
        assert admitted(limits, None, 10) == share
    assert share * workers <= 10


@pytest.mark.parametrize("workers", [1, 2, 3, 4, 5])
def test_each_worker_lets_one_in_at_least(workers: int, clock: Clock) -> None:
    limits = OneCallersLimits(workers, clock=clock)
    assert admitted(limits, 1, None) == 1
    assert admitted(limits, None, 1) == 1


def test_a_refusal_names_the_share(clock: Clock) -> None:
    limits = OneCallersLimits(4, clock=clock)
    admitted(limits, 120, None)
    error = refused(limits, 120, None)
    assert error.headers == rate_headers(30, 0, "1m0s")
    assert "120 requests per minute (30 in each of 4 workers); try again in 1m0s." in error.message
    held = [limits.let_in("key", None, 8) for _ in range(2)]
    assert (
        "8 requests in flight (2 in each of 4 workers); try again in 1s." in refused(limits, None, 8).message
    )
    del held


# In flight


def test_a_key_has_only_so_many_requests_in_flight(clock: Clock) -> None:
    limits = OneCallersLimits(1, clock=clock)
    first, _second = limits.let_in("key", None, 2), limits.let_in("key", None, 2)
    error = refused(limits, None, 2)
    assert error.retry_after_seconds == 1
    assert error.message == "Rate limit reached: this key may have 2 requests in flight; try again in 1s."
    limits.let_in("other", None, 2)
    first.release()
    _third = limits.let_in("key", None, 2)
    refused(limits, None, 2)


def test_a_second_release_does_nothing(clock: Clock) -> None:
    limits = OneCallersLimits(1, clock=clock)
    held = [limits.let_in("key", None, 2) for _ in range(2)]
    for _ in range(3):
        held[0].release()
    assert admitted(limits, None, 2) == 1


def with_block(limits: OneCallersLimits) -> None:
    with holding(limits, 60, 1):
        refused(limits, None, 1)


def failing_block(limits: OneCallersLimits) -> None:
    with pytest.raises(ZeroDivisionError), holding(limits, 60, 1):
        _ = 1 / 0


def answer(limits: OneCallersLimits) -> Generator[bytes, None, None]:
    with holding(limits, 60, 1):
        yield b"data"
        yield b"more"


def closed_answer(limits: OneCallersLimits) -> None:
    with closing(answer(limits)) as chunks:
        assert next(chunks) == b"data"
        refused(limits, None, 1)


def killed_greenlet(limits: OneCallersLimits) -> None:
    def hold() -> None:
        with holding(limits, 60, 1):
            gevent.sleep(60)

    greenlet = gevent.spawn(hold)
    gevent.sleep(0)
    refused(limits, None, 1)
    greenlet.kill()


@pytest.mark.parametrize(
    "use",
    [
        with_block,
        failing_block,
        closed_answer,
        killed_greenlet,
    ],
)
def test_a_place_comes_back(use: Callable[[OneCallersLimits], None], clock: Clock) -> None:
    limits = OneCallersLimits(1, clock=clock)
    use(limits)
    assert admitted(limits, None, 1) == 1


def test_a_request_refused_for_its_rate_takes_no_place(clock: Clock) -> None:
    limits = OneCallersLimits(1, clock=clock)
    limits.let_in("key", 1, 1).release()
    refused(limits, 1, 1)
    assert admitted(limits, None, 1) == 1


def test_a_request_refused_for_its_place_does_not_count_in_the_rate(clock: Clock) -> None:
    limits = OneCallersLimits(1, clock=clock)
    with holding(limits, 2, 1):
        for _ in range(10):
            assert refused(limits, 2, 1).headers == rate_headers(2, 1, "1m0s")
        clock.now += 61
        assert refused(limits, 2, 1).headers == rate_headers(2, 2, "0s")
    assert admitted(limits, 2, None) == 2


# Threads


@pytest.fixture
def hurried_threads() -> Iterator[None]:
    """Threads that are switched as often as possible."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def hammer(act: Callable[[], None]) -> None:
    """Let sixteen threads do the same at once."""
    barrier = Barrier(16)

    def run() -> None:
        barrier.wait()
        act()

    threads = [Thread(target=run) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@pytest.mark.usefixtures("hurried_threads")
def test_threads_never_get_more_than_the_rate(clock: Clock) -> None:
    limits = OneCallersLimits(1, clock=clock)
    let_in: list[str] = []

    def act() -> None:
        for _ in range(50):
            try:
                admission = limits.let_in("key", 100, None)
            except RateLimited:
                continue
            let_in.append(admission.headers["x-ratelimit-limit-requests"])

    hammer(act)
    assert let_in == ["100"] * 100


@pytest.mark.usefixtures("hurried_threads")
def test_threads_never_hold_more_than_the_places(clock: Clock) -> None:
    limits = OneCallersLimits(1, clock=clock)
    lock = Lock()
    holding = most = 0

    def act() -> None:
        nonlocal holding, most
        for _ in range(100):
            try:
                admission = limits.let_in("key", None, 5)
            except RateLimited:
                continue
            with lock:
                holding += 1
                most = max(most, holding)
            time.sleep(0)
            with lock:
                holding -= 1
            admission.release()

    hammer(act)
    assert 1 <= most <= 5
    assert admitted(limits, None, 5) == 5


# Memory


def kept(limits: OneCallersLimits) -> int:
    """How many names the limits remember, in either way."""
    windows = sum(map(len, limits._own_rates._owners.values()))
    return windows + len(limits._slots._counts.keys() - {None})


def test_a_hundred_thousand_names_at_once_take_bounded_memory(clock: Clock) -> None:
    limits = OneCallersLimits(1, clock=clock)
    for number in range(100_000):
        limits.let_in(f"key-{number}", 60, 5).release()
    assert kept(limits) == 10_000
    assert limits.let_in("key-99999", 60, None).headers["x-ratelimit-remaining-requests"] == "58"


def test_users_that_a_client_makes_up_lift_no_limit_of_a_key_or_a_model(clock: Clock) -> None:
    limits = Limits(1, 1_000_000, clock=clock)
    once = Allowance(requests_per_minute=1)
    honest, model = Caller("honest", allowance=once), Subject("model", "small", once)
    limits.admit(honest)
    limits.admit_further([model, Subject("user", "honest|anna", once)], 1)
    for number in range(20_000):
        limits.admit_further([Subject("user", f"flood|{number}", once)], 1)
    with pytest.raises(RateLimited):
        limits.admit(honest)
    for subject in (model, Subject("user", "honest|anna", once)):
        with pytest.raises(RateLimited):
            limits.admit_further([subject], 1)


def test_only_the_names_of_the_last_minute_are_kept(clock: Clock) -> None:
    limits = OneCallersLimits(1, clock=clock)
    for number in range(1000):
        clock.now += 1
        limits.let_in(f"key-{number}", 60, 5).release()
        limits.let_in("always", 60, None)
        assert kept(limits) <= 61
    clock.now += 60
    limits.let_in("key-0", 60, None)
    assert kept(limits) == 1


def test_a_flood_of_refused_requests_keeps_nothing(clock: Clock) -> None:
    limits = OneCallersLimits(1, clock=clock)
    held = [limits.let_in("key", 2, 2), limits.let_in("other", 1, None)]
    for _ in range(1000):
        refused(limits, 2, 1)
        refused(limits, 1, 1, name="other")
    assert kept(limits) == 3
    del held


# A shared store


def test_a_shared_rate_is_exact_over_all_workers(common: CommonRates, clock: Clock) -> None:
    workers = [OneCallersLimits(4, common, clock=clock) for _ in range(4)]
    for turn in range(10):
        assert workers[turn % 4].let_in("key", 10, None).headers == rate_headers(10, 9 - turn, "1m0s")
    for limits in workers:
        error = refused(limits, 10, None)
        assert error.headers == rate_headers(10, 0, "1m0s")
        assert "10 requests per minute; try again in 1m0s." in error.message


def test_places_are_shared_out_also_with_a_shared_store(common: CommonRates, clock: Clock) -> None:
    limits = OneCallersLimits(4, common, clock=clock)
    assert admitted(limits, None, 8) == 2


def test_when_the_shared_store_fails_each_worker_takes_its_share(
    common: CommonRates,
    clock: Clock,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    limits = OneCallersLimits(2, common, clock=clock)
    common.failure = RatesLost("OSError")
    with caplog.at_level(logging.WARNING):
        assert admitted(limits, 10, 100) == 5
    assert [record.getMessage() for record in caplog.records] == [
        "rate limits are counted per worker, each with its share: OSError"
    ]
    common.failure = None
    assert admitted(limits, 10, None) == 10


def test_a_greenlet_killed_while_it_waits_for_the_store_keeps_no_place(
    common: CommonRates, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = OneCallersLimits(1, common, clock=clock)
    common.failure = gevent.GreenletExit()
    with pytest.raises(gevent.GreenletExit):
        limits.let_in("key", 10, 1)
    assert admitted(limits, None, 1) == 1


def test_a_window_that_frees_while_it_is_read_lets_the_client_come_at_once(
    common: CommonRates, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = OneCallersLimits(1, common, clock=clock)
    assert admitted(limits, 1, None) == 1

    def late(*_: object) -> Rate:
        return Rate(1, is_admitted=False, remaining=1, reset_seconds=0)

    monkeypatch.setattr(common, "count", late)
    assert refused(limits, 1, None).retry_after_seconds == 0


def rates_in(url: str) -> RedisRates:
    """Windows over the client of a store."""
    return RedisRates(RedisStore(url).call, StoreError)


def test_rates_in_a_redis_are_those_in_memory(redis_url: str, tmp_path: Path) -> None:
    shared = rates_in(redis_url)
    name = str(tmp_path)  # a new one for each test
    for rates in (shared, MemoryRates(time.time)):
        first = rates.count(name, 3, 2)
        assert first[:3] == (3, True, 1)
        assert 55 < first.reset_seconds <= 60
        assert rates.count(name, 3, 2)[:3] == (3, False, 1), "several are counted together or not at all"
        assert rates.count(name, 3, 0)[:3] == (3, False, 1), "asking counts nothing"
        assert rates.count(name, 3, 1)[:3] == (3, True, 0)
        assert rates.count("other" + name, 3, 0)[:4] == (3, False, 3, 0.0)


def test_a_redis_that_cannot_be_reached_is_lost_and_not_named() -> None:
    rates = rates_in("redis://:secret@127.0.0.1:9/0")
    with pytest.raises(RatesLost, match=r"^the Redis of PROXY_STORE cannot be used \(ConnectionError\)$"):
        rates.count("key", 3, 1)


def test_a_burst_opens_a_few_connections_to_a_redis_and_is_counted_exactly(tmp_path: Path) -> None:
    with RedisServer(tmp_path) as server:
        rates = rates_in(server.url)
        together, admitted_runs = Barrier(200), []

        def act(_number: int) -> None:
            together.wait()
            admitted_runs.append(rates.count("key", 150, 1).is_admitted)

        with ThreadPoolExecutor(200) as callers:
            list(callers.map(act, range(200)))
        assert admitted_runs.count(True) == 150
        connected = RedisStore(server.url).call(lambda redis: redis.info("clients")["connected_clients"])
    assert connected <= MAX_CONNECTIONS + 1


def test_a_redis_that_says_nothing_holds_up_a_burst_once() -> None:
    now = [0.0]
    with ScriptedServer(*[[] for _ in range(2 * MAX_CONNECTIONS)]) as silent:
        store = RedisStore(silent.url.replace("http", "redis"), clock=lambda: now[0])
        limits = Limits(2, 1000, RedisRates(store.call, StoreError))
        caller = Caller("key", allowance=Allowance(1000))
        tried = 0
        for _ in range(2):  # it is lost, then tried again by one caller
            before, began = silent.connection_count, time.monotonic()
            with ThreadPoolExecutor(100) as callers:
                list(callers.map(lambda _: limits.admit(caller), range(100)))
            assert time.monotonic() - began < 3 * REDIS_SECONDS
            tried = silent.connection_count - before
            now[0] += REDIS_RETRY_SECONDS + 3
    assert tried == 1


def test_beyond_what_may_be_in_flight_requests_are_refused_at_once_and_let_in_once_one_has_left() -> None:
    limits = Limits(4, 2)
    first, _second = limits.admit(ANONYMOUS), limits.admit(ANONYMOUS)
    with pytest.raises(FlowiseUnavailable, match="PROXY_MAX_IN_FLIGHT") as refused:
        limits.admit(ANONYMOUS)
    assert error_headers(refused.value)["Retry-After"] == "1"
    limits.admit(ANONYMOUS, takes_slots=False)
    first.release()
    first.release()  # again does nothing
    limits.admit(ANONYMOUS)
    with pytest.raises(FlowiseUnavailable):
        limits.admit(ANONYMOUS)


def test_a_request_of_several_choices_counts_as_a_run_for_each(clock: Clock) -> None:
    limits = OneCallersLimits(1, clock=clock)
    with holding(limits, 10, 5, runs=3) as admission:
        assert admission.headers["x-ratelimit-remaining-requests"] == "7"
        refused_runs(limits, 3, 10, 5)
        limits.let_in("key", 10, 5, runs=2).release()
        limits.let_in("key", 10, 5, runs=2).release()
    limits.let_in("key", 10, 5, runs=3).release()
    error = refused_runs(limits, 1, 10, 5)
    assert error.retry_after_seconds == 60


def test_a_refusal_of_several_choices_counts_for_nothing_and_waits_until_the_oldest_is_gone(
    clock: Clock,
) -> None:
    limits = OneCallersLimits(1, clock=clock)
    limits.let_in("key", 8, None, runs=6).release()
    clock.now += 10
    error = refused_runs(limits, 4, 8, None)
    assert error.retry_after_seconds == 50, "although there is room for two"
    assert error.headers["x-ratelimit-remaining-requests"] == "2"
    limits.let_in("key", 8, None, runs=2).release()


def test_several_choices_wait_until_there_is_room_for_all(clock: Clock) -> None:
    limits = OneCallersLimits(1, clock=clock)
    for _ in range(4):
        limits.let_in("key", 8, None).release()
        clock.now += 10
    error = refused_runs(limits, 7, 8, None)
    assert error.retry_after_seconds == 40, "the third must be gone, 40 seconds from now"
    clock.now += 40
    assert limits.let_in("key", 8, None, runs=7).headers["x-ratelimit-remaining-requests"] == "0"


def test_what_is_given_back_counts_for_nothing(clock: Clock) -> None:
    limits = OneCallersLimits(1, clock=clock)
    limits.let_in("key", 8, 8, runs=2)
    clock.now += 1
    first = limits.let_in("key", 8, 8, runs=3)
    clock.now += 1
    limits.let_in("key", 8, 8)
    first.give_back()
    assert limits.in_flight == 3
    assert limits.let_in("key", 8, 8, runs=5).headers["x-ratelimit-remaining-requests"] == "0"
    clock.now += 100
    first.give_back()
    assert admitted(limits, 8, None) == 8


def test_what_is_given_back_to_a_redis_counts_for_nothing(redis_url: str, tmp_path: Path) -> None:
    shared = rates_in(redis_url)
    name = str(tmp_path)
    shared.count(name, 8000, 3)
    first = shared.count(name, 8000, 2)
    shared.count(name, 8000, 2500)
    first.give_back()
    assert shared.count(name, 8000, 0).remaining == 8000 - 2503
    first.give_back()
    assert shared.count(name, 8000, 0).remaining == 8000 - 2503, "once only"
    full = shared.count(name, 8000, 8000)
    assert not full.is_admitted
    assert 0 < full.reset_seconds <= full.wait_seconds <= 60
    rates_in("redis://127.0.0.1:9/0")._give_back("key", 1, 0.0, 1.0)


def refused_runs(limits: OneCallersLimits, runs: int, per_minute: int, in_flight: int | None) -> RateLimited:
    """The refusal of a request of several choices."""
    with pytest.raises(RateLimited) as caught:
        limits.let_in("key", per_minute, in_flight, runs=runs)
    return caught.value


@pytest.mark.parametrize(
    ("workers", "limit", "runs", "allowed"),
    [
        (1, (None, None), 8, None),
        (4, (None, None), 8, None),
        (1, (8, 8), 8, None),
        (1, (8, 7), 8, 7),
        (1, (7, None), 8, 7),
        (2, (None, 8), 5, 4),
        (2, (8, None), 5, 4),
    ],
)
def test_what_could_never_be_let_in_is_no_matter_of_waiting(
    workers: int, limit: tuple[int | None, int | None], runs: int, allowed: int | None
) -> None:
    limits = OneCallersLimits(workers)
    if allowed is None:
        limits.check(runs, *limit)
        return
    with pytest.raises(BadRequest, match=f"allow {allowed}"):
        limits.check(runs, *limit)


def test_more_choices_than_the_server_may_have_in_flight_could_never_be_let_in() -> None:
    limits = Limits(4, 4)
    limits.check_runs(ANONYMOUS, 4)
    with pytest.raises(BadRequest, match=r"server allows 4 at a time \(PROXY_MAX_IN_FLIGHT\)"):
        limits.check_runs(ANONYMOUS, 5)
    with pytest.raises(BadRequest, match="key's limits allow 2"):
        limits.check_runs(Caller("key", allowance=Allowance(8, 8)), 5)


def test_a_rate_that_is_shared_is_not_divided(common: CommonRates) -> None:
    OneCallersLimits(4, common).check(8, 8, None)


def test_a_worker_counts_runs() -> None:
    limits = Limits(1, 8)
    admission = limits.admit(ANONYMOUS, 7)
    with pytest.raises(FlowiseUnavailable):
        limits.admit(ANONYMOUS, 2)
    assert (limits.in_flight, limits.refusals["max_in_flight"]) == (7, 1)
    admission.release()
    admission.release()
    assert limits.in_flight == 0


def test_a_caller_that_is_refused_takes_nothing_of_the_workers_room() -> None:
    limits = OneCallersLimits(1)
    limits.let_in("key", None, 1)
    refused(limits, None, 1)
    assert limits.in_flight == 1
