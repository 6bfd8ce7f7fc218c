"""How much a Flowise in trouble is asked: the budget for retries, the breaker."""

from __future__ import annotations

import contextlib
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from flowise_client import FlowiseClient
from flowise_gateway.flow.errors import FlowiseUnavailable, ProxyError, RunFailed
from flowise_gateway.flow.turn import Turn
from flowise_gateway.flowise.retries import (
    BREAKER_FAILURES,
    BREAKER_PROBE_SECONDS,
    BREAKER_SECONDS,
    RETRYING_LEAST,
    FlowiseHealth,
)
from flowise_gateway.flowise.run import MAX_ANSWER_BYTES, Limits
from tests.support.processes import wait_for
from tests.support.scripted_server import ScriptedServer, Step, http

FLOW = "5518949f-3ebc-4082-af01-fa2a18623da6"


class Clock:
    """A clock that goes only when told to."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def down(clock: Clock) -> FlowiseHealth:
    """A Flowise that could not be reached so often that its breaker is open."""
    health = FlowiseHealth(clock)
    for _ in range(BREAKER_FAILURES):
        with health.call():
            health.not_reached()
        clock.now += BREAKER_SECONDS / 2
    return health


def test_the_breaker_opens_after_failures_in_a_row_only() -> None:
    health = FlowiseHealth()
    for _ in range(3):
        for _ in range(BREAKER_FAILURES - 1):
            health.not_reached()
        health.reached()
    assert not health.is_down
    with health.call():
        pass


def test_a_moment_without_flowise_does_not_open_the_breaker() -> None:
    clock = Clock()
    health = FlowiseHealth(clock)
    for _ in range(100):
        health.not_reached()
    clock.now += BREAKER_SECONDS / 2
    health.not_reached()
    assert not health.is_down
    clock.now += BREAKER_SECONDS
    health.not_reached()
    assert health.is_down


def test_an_open_breaker_refuses_at_once_and_lets_one_call_through_at_a_time() -> None:
    clock = Clock()
    health = down(clock)
    with pytest.raises(FlowiseUnavailable) as refused:
        health.call()
    assert (refused.value.retry_after_seconds or 0) >= 1
    clock.now += BREAKER_PROBE_SECONDS
    with health.call() as probe:
        assert not probe.may_retry()
        with pytest.raises(FlowiseUnavailable):
            health.call()
        health.reached()
    with health.call():
        pass


def test_a_few_calls_may_retry_and_of_many_a_fifth() -> None:
    health = FlowiseHealth()
    with contextlib.ExitStack() as held:
        calls = [held.enter_context(health.call()) for _ in range(10)]
        assert sum(call.may_retry() for call in calls) == RETRYING_LEAST
        calls += [held.enter_context(health.call()) for _ in range(90)]
        assert sum(call.may_retry() for call in calls) == 20
        assert sum(call.may_retry() for call in calls) == 20  # the same ones, again
    assert (health.calling, health.retrying) == (0, 0)


class _Busy(BaseHTTPRequestHandler):
    """Answers 503 to whatever is asked, and counts."""

    protocol_version = "HTTP/1.1"
    counted: list[str] = []  # noqa: RUF012 - a server's handlers share it

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.counted.append(self.path)
        self.send_response(503)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""


def test_retries_add_at_most_a_fifth_when_flowise_answers_503_to_all() -> None:
    _Busy.counted.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Busy)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    client = FlowiseClient(f"http://127.0.0.1:{server.server_port}", FLOW, limits=Limits(max_attempts=3))
    begin = threading.Barrier(64)

    def ask() -> None:
        begin.wait()
        for _ in range(5):
            with contextlib.suppress(ProxyError):
                client.predict("Hello")

    threads = [threading.Thread(target=ask) for _ in range(64)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    server.shutdown()
    server.server_close()
    assert 1 <= len(_Busy.counted) <= 1.2 * 64 * 5


def test_the_wait_that_a_503_asks_for_is_kept() -> None:
    busy = http("503 Unavailable", b"", "text/plain", "Retry-After: 1", "Connection: close")
    with ScriptedServer([busy], [http("200 OK", b'{"text":"Hi"}')]) as server:
        began = time.monotonic()
        assert str(FlowiseClient(server.url, FLOW).predict("Hello")) == "Hi"
        assert time.monotonic() - began >= 1


def test_a_503_that_asks_for_a_long_wait_is_passed_on_at_once() -> None:
    busy = http("503 Unavailable", b"", "text/plain", "Retry-After: 120")
    with ScriptedServer([busy], [http("200 OK", b'{"text":"Hi"}')]) as server:
        with pytest.raises(FlowiseUnavailable) as caught:
            FlowiseClient(server.url, FLOW).predict("Hello")
        assert caught.value.retry_after_seconds == 120
        assert len(server.requests) == 1


def test_a_compressed_answer_is_a_clear_failure() -> None:
    with ScriptedServer(
        [http("200 OK", b"\x1f\x8b", "application/json", "Content-Encoding: gzip")], []
    ) as server:
        with pytest.raises(RunFailed, match="compressed"):
            FlowiseClient(server.url, FLOW).predict("Hello")


@pytest.mark.parametrize(
    ("kind", "begin"), [("application/json", b'{"text":"'), ("text/event-stream", b"data: ")]
)
def test_an_answer_that_never_ends_is_cut_at_a_limit(kind: str, begin: bytes) -> None:
    head = f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nConnection: close\r\n\r\n".encode()
    pieces = [b"x" * 1024**2] * (MAX_ANSWER_BYTES // 1024**2 + 8)
    streams = http("200 OK", b'{"isStreaming":true}', "application/json", "Connection: close")
    scripts = (
        [[head + begin, *pieces], []] if kind.endswith("json") else [[streams], [head + begin, *pieces], []]
    )
    with ScriptedServer(*scripts) as server, pytest.raises(RunFailed, match="larger than 64 MiB"):
        FlowiseClient(server.url, FLOW).predict(Turn(FLOW, "Hello", stream=not kind.endswith("json")))


def test_an_abort_that_could_not_be_made_is_made_again() -> None:
    with ScriptedServer(
        [Step.RESET], [http("200 OK", b"{}", "application/json", "Connection: close")]
    ) as server:
        FlowiseClient(server.url, FLOW).abort("chat")
        assert wait_for(lambda: bool(server.requests), 5)
        assert server.requests[0].startswith(b"PUT ")
        assert b"/chatmessage/abort/" in server.requests[0]
