"""The judges of the chaos suite judged: the misbehaving Flowise does as it is told, verdicts are right."""

from __future__ import annotations

import asyncio
import http.client
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.faults import FaultServer, question, text_of
from tests.chaos.fuzz import Fuzzer, fault_of
from tests.chaos.load import Outcome, ask, unchunked
from tests.chaos.report import page
from tests.chaos.world import Row, World

CHUNK = b'data: {"choices":[{"delta":{"content":"%b"},"finish_reason":%b}]}\n\n'
ERROR = b'data: {"error":{"message":"m","type":"upstream_error","param":null,"code":null}}\n\n'
DONE = b"data: [DONE]\n\n"


@pytest.fixture
def flowise() -> Iterator[FaultServer]:
    """A misbehaving Flowise."""
    with FaultServer() as server:
        yield server


def predict(flowise: FaultServer, *, streaming: bool = True, **script: object) -> bytes:
    """The body of one prediction; http.client raises for what is broken off."""
    port = int(flowise.base_url.rpartition(":")[2].partition("/")[0])
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        body = {"question": question("q", **script), "streaming": streaming, "chatId": "c"}
        connection.request("POST", "/api/v1/prediction/x", json.dumps(body))
        return connection.getresponse().read()
    finally:
        connection.close()


# (FIN within a head is not told apart from its end by http.client.)
@pytest.mark.parametrize(
    ("fault", "how"),
    [
        ("before_head", "rst"),
        ("before_head", "fin"),
        ("mid_head", "rst"),
        ("stream", "rst"),
        ("stream", "fin"),
    ],
)
def test_it_breaks_off_where_it_is_told_to(flowise: FaultServer, fault: str, how: str) -> None:
    with pytest.raises((OSError, http.client.HTTPException)):
        predict(flowise, fault=fault, how=how)
    state = flowise.state()
    assert (state["runs"], state["running"]) == (1, 0)


def test_a_body_breaks_off_within_its_length(flowise: FaultServer) -> None:
    with pytest.raises(http.client.IncompleteRead):
        predict(flowise, streaming=False, fault="mid_body", how="fin")


def test_a_bad_chunk_is_none(flowise: FaultServer) -> None:
    with pytest.raises(http.client.IncompleteRead):
        predict(flowise, fault="stream", how="bad_chunk")


def test_a_refusal_is_no_run_and_other_statuses_are(flowise: FaultServer) -> None:
    predict(flowise, fault="status", status=503, times=1)
    assert (flowise.state()["attempts"], flowise.state()["runs"]) == (1, 0)
    assert b'"0."' in predict(flowise)
    assert b"chaos 502" in predict(flowise, fault="status", status=502)
    state = flowise.state()
    assert (state["attempts"], state["runs"], state["doubled"]) == (3, 2, ["q"])


def test_a_run_goes_on_when_its_reader_leaves_and_ends_when_aborted(flowise: FaultServer) -> None:
    with pytest.raises(TimeoutError):
        silent(flowise)
    assert flowise.state()["running"] == 1
    port = int(flowise.base_url.rpartition(":")[2].partition("/")[0])
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("PUT", "/api/v1/chatmessage/abort/x/c")
    assert connection.getresponse().status == 200
    connection.close()
    assert (flowise.state()["running"], flowise.state()["aborts"]) == (0, 1)


def silent(flowise: FaultServer) -> None:
    """Ask and lose patience."""
    port = int(flowise.base_url.rpartition(":")[2].partition("/")[0])
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=0.3)
    try:
        connection.request("POST", "/p", json.dumps({}))
        connection.close()
        connection.request(
            "POST",
            "/api/v1/prediction/x",
            json.dumps({"question": question("q", fault="silent"), "chatId": "c"}),
        )
        connection.getresponse()
    finally:
        connection.close()


def test_it_refuses_connections_for_as_long_as_it_is_told_to(flowise: FaultServer) -> None:
    flowise.tell("listen", on=False, drop="all")
    with pytest.raises(ConnectionRefusedError):
        predict(flowise)
    flowise.tell("listen", on=True)
    assert b'"4."' in predict(flowise)


def streamed(body: bytes, *, is_framed: bool = True) -> Outcome:
    """An outcome of a stream."""
    return Outcome(200, {"content-type": "text/event-stream"}, body, is_framed)


@pytest.mark.parametrize(
    ("outcome", "verdict"),
    [
        (streamed(CHUNK % (b"0.1.", b'"stop"') + DONE), "whole"),
        (streamed(CHUNK % (b"0.", b'"stop"') + DONE), "fake stop"),
        (streamed(CHUNK % (b"0.", b"null") + ERROR + DONE), "told"),
        (streamed(CHUNK % (b"0.1.", b'"stop"') + ERROR + DONE), "fake stop"),
        (streamed(CHUNK % (b"0.1.", b"null") + DONE), "lost"),
        (streamed(CHUNK % (b"0.1.", b'"stop"')), "lost"),
        (streamed(CHUNK % (b"0.1.", b'"stop"') + DONE, is_framed=False), "cut"),
        (Outcome(503, {}, ERROR[6:], is_framed=True), "refused"),
        (Outcome(503, {}, b"<html>", is_framed=True), "lost"),
        (Outcome(), "cut"),
    ],
)
def test_a_verdict_is_what_the_client_would_say(outcome: Outcome, verdict: str) -> None:
    assert outcome.verdict(text_of(2)) == verdict


def test_a_body_without_its_last_chunk_has_no_end() -> None:
    assert unchunked(b"2\r\nab\r\n0\r\n\r\n") == (b"ab", True)
    assert unchunked(b"2\r\nab\r\n") == (b"ab", False)
    assert unchunked(b"2\r\na") == (b"", False)


def test_the_table_says_what_is_wrong() -> None:
    text = page([Row("p", "t", wrong=["flows run twice: 1"]), Row("q", "t", is_met=False)], is_short=True)
    assert "**WRONG**: flows run twice: 1" in text
    assert "| missed |" in text


def test_a_seed_repeats_its_requests() -> None:
    one, other = Fuzzer(3), Fuzzer(3)
    assert [one.request() for _ in range(50)] == [other.request() for _ in range(50)]


def test_a_stack_in_an_answer_is_a_fault() -> None:
    assert fault_of(Outcome(400, {}, ERROR[6:], is_framed=True)) == ""
    leaking = ERROR[6:].replace(b'"m"', b'"Traceback (most recent call last)"')
    assert "Traceback" in fault_of(Outcome(400, {}, leaking, is_framed=True))
    assert "500" in fault_of(Outcome(500, {}, ERROR[6:], is_framed=True))


def test_a_scenario_sees_runs_that_are_left_behind(folder: Path) -> None:
    with World(folder, is_short=True).stage(is_watched=False) as stage:
        assert asyncio.run(ask(stage.url, "a")).verdict() == "whole"
        with pytest.raises(TimeoutError):
            silent(stage.flowise)
        row = Row("p", "t")
        row.check("runs left behind", stage.flowise.state()["running"])
        assert row.wrong == ["runs left behind: 1"]
