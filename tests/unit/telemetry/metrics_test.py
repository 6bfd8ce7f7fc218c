"""What is counted, under which labels, and how it is told."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any
from uuid import uuid4

import pytest

from flowise_gateway.flow.events import FlowEvent, KeepAlive, StepStarted, TextDelta, TurnEnded
from flowise_gateway.flow.model import Model
from flowise_gateway.flow.request_summary import RequestSummary, TokenCount
from flowise_gateway.telemetry.metrics import KINDS, MAX_MODELS, MAX_ROWS, Metrics
from flowise_gateway.telemetry.shared_counts import Board
from tests.support.metrics_text import Scrape

MODEL = Model("support", "5518949f-3ebc-4082-af01-fa2a18623da6", "Support", type="CHATFLOW")
CHAT = "/v1/chat/completions"


class Clock:
    """A clock that stands."""

    now = 100.0

    def __call__(self) -> float:
        """Tell the time."""
        return self.now


def scrape(metrics: Metrics, **more: Any) -> Scrape:
    """What is told now."""
    return Scrape(metrics.text(**more).decode())


def asked(metrics: Metrics, rule: str = CHAT, seconds: float = 0.3, **fields: Any) -> None:
    """Count a request."""
    known = {"method": "POST", "path": "/secret/path", "status": 200, "outcome": "ok", "request_id": "req_1"}
    metrics.request(RequestSummary(rule=rule, started=100.0, ended=100.0 + seconds, **{**known, **fields}))


@pytest.fixture
def metrics() -> Metrics:
    """Metrics that know one model."""
    metrics = Metrics(clock=Clock())
    metrics.admit(MODEL)
    return metrics


@pytest.mark.parametrize(
    ("rule", "route"),
    [
        ("/v1/chat/completions", "/v1/chat/completions"),
        ("/chat/completions", "/v1/chat/completions"),
        ("/openai/v1/chat/completions", "/v1/chat/completions"),
        ("/openai/deployments/<path:deployment>/chat/completions", "/v1/chat/completions"),
        ("/openai/responses/<response_id>", "/v1/responses/{response_id}"),
        ("/openai/deployments", "/openai/deployments"),
        ("/models/<path:name>", "/v1/models/{name}"),
        ("/v1/flowise/files/<path:token>", "/v1/flowise/files/{token}"),
        ("", "none"),
    ],
)
def test_a_route_is_counted_under_one_template_for_all_its_prefixes(
    metrics: Metrics, rule: str, route: str
) -> None:
    asked(metrics, rule)
    assert scrape(metrics).sum("requests_total", route=route) == 1


@pytest.mark.parametrize("rule", ["/health", "/ready", "/metrics"])
def test_who_asks_for_ever_is_not_counted(metrics: Metrics, rule: str) -> None:
    asked(metrics, rule)
    assert scrape(metrics).sum("requests_total") == 0


def test_a_request_is_counted_with_what_its_line_says(metrics: Metrics) -> None:
    asked(metrics, model="support", stream=True)
    asked(metrics, model="unknown", status=404, outcome="model_not_found")
    asked(metrics, method="BREW")
    asked(metrics, status=None, outcome="client_gone", stream=False)
    found = scrape(metrics)
    names = {"route": CHAT, "method": "POST"}
    assert found.sum("requests_total", model="support", status="200", outcome="ok", **names) == 1
    assert found.sum("requests_total", model="other", status="404", outcome="model_not_found") == 1
    assert found.sum("requests_total", model="", method="other") == 1
    assert found.sum("requests_total", status="none", outcome="client_gone") == 1
    assert found.sum("request_duration_seconds_count", stream="true", route=CHAT) == 1
    assert found.sum("request_duration_seconds_sum", stream="true") == pytest.approx(0.3)


def test_the_buckets_of_a_histogram_add_up(metrics: Metrics) -> None:
    for seconds in (0.001, 0.005, 0.3, 10_000):
        asked(metrics, seconds=seconds)
    found = scrape(metrics)
    buckets = {
        has["le"]: value for name, has, value in found.samples if name == "request_duration_seconds_bucket"
    }
    assert (buckets["0.005"], buckets["0.25"], buckets["0.5"], buckets["600.0"], buckets["+Inf"]) == (
        2,
        2,
        3,
        3,
        4,
    )
    assert found.sum("request_duration_seconds_count") == 4


def test_a_connection_that_stays_has_no_duration(metrics: Metrics) -> None:
    asked(metrics, status=101)
    assert scrape(metrics).sum("requests_total", status="101") == 1
    assert scrape(metrics).sum("request_duration_seconds_count") == 0


def test_a_run_is_counted_with_its_first_token_and_its_end() -> None:
    clock = Clock()
    metrics = Metrics(clock=clock)
    metrics.admit(MODEL)
    summary = RequestSummary(started=99.0)
    run = metrics.run("support", summary, streams=True)
    events: list[FlowEvent] = [KeepAlive(), StepStarted("x"), TextDelta("a"), TextDelta("b"), TurnEnded()]
    for event in events:
        run.add([event])
        clock.now += 1
        assert scrape(metrics).sum("runs_open") == 1
    run.ended("ok")
    found = scrape(metrics)
    assert found.sum("runs_total", model="support", result="ok") == found.sum("runs_total") == 1
    assert found.sum("first_token_seconds_count") == 1
    assert found.sum("first_token_seconds_sum", model="support") == 2
    assert found.sum("run_duration_seconds_sum", model="support") == 5
    assert summary.first_token == 102
    assert found.sum("runs_open") == 0


def test_of_a_whole_answer_no_first_token_is_told(metrics: Metrics) -> None:
    run = metrics.run("support", RequestSummary(), streams=False)
    run.add([TextDelta("a")])
    run.ended("ok")
    assert scrape(metrics).sum("first_token_seconds_count") == 0


def test_tokens_are_counted_by_where_they_come_from(metrics: Metrics) -> None:
    asked(metrics, model="support", tokens=TokenCount(7, 5, "reported"))
    asked(metrics, model="support", tokens=TokenCount(8, 3, "estimated"), outcome="client_gone")
    found = scrape(metrics)
    assert found.sum("tokens_total", direction="input", source="reported", model="support") == 7
    assert found.sum("tokens_total", direction="output", source="reported") == 5
    assert found.sum("tokens_total", direction="input", source="estimated") == 8
    assert found.sum("tokens_total", direction="output", source="estimated") == 3


@pytest.mark.parametrize("kind", ["websocket_response", "background_response"])
def test_a_response_of_a_request_counts_its_tokens_alone(metrics: Metrics, kind: str) -> None:
    asked(metrics, model="support", kind=kind, tokens=TokenCount(7, 5, "reported"))
    found = scrape(metrics)
    assert found.sum("tokens_total") == 12
    assert found.sum("responses_total", kind=kind, model="support", outcome="ok") == 1
    assert found.sum("requests_total") == found.sum("request_duration_seconds_count") == 0


def test_streams_are_open_until_they_end(metrics: Metrics) -> None:
    ends = [metrics.stream(), metrics.stream()]
    ends[0]()
    assert scrape(metrics).sum("streams_open") == 1


def test_what_others_keep_is_read_when_asked_for() -> None:
    kept = {"retries": 5, "flight": 3}
    metrics = Metrics()
    metrics.watch("retries_total", lambda: kept["retries"], "default")
    metrics.watch("requests_in_flight", lambda: kept["flight"])
    metrics.watch("limit_refusals_total", lambda: 2, "max_in_flight")
    assert scrape(metrics).sum("retries_total") == 5
    kept.update(retries=7, flight=1)
    found = scrape(metrics)
    assert (found.sum("retries_total"), found.sum("requests_in_flight")) == (7, 1)
    assert found.sum("limit_refusals_total", limit="max_in_flight") == 2


def test_models_that_were_made_up_are_other_and_found_ones_have_a_name(metrics: Metrics) -> None:
    configured, listed, made_up = "gpt-4o", str(uuid4()), str(uuid4())
    metrics.admit(replace(MODEL, id=configured, type=""))
    metrics.admit(replace(MODEL, id=listed))
    metrics.admit(replace(MODEL, id=made_up, type=""))
    for model in (configured, listed, made_up):
        asked(metrics, model=model)
    assert scrape(metrics).labels("model") == {configured, listed, "other"}


def test_a_flow_of_which_nothing_is_known_but_that_it_answers_has_a_name(metrics: Metrics) -> None:
    unlisted = str(uuid4())
    for result in ("rate_limit_exceeded", "ok"):
        metrics.run(unlisted, RequestSummary(), streams=False).ended(result)
    found = scrape(metrics)
    assert found.sum("runs_total", model="other", result="rate_limit_exceeded") == 1
    assert found.sum("runs_total", model=unlisted, result="ok") == 1


def test_more_models_than_the_limit_are_other(metrics: Metrics) -> None:
    for number in range(5000):
        metrics.admit(replace(MODEL, id=f"model-{number}"))
        asked(metrics, model=f"model-{number}")
    found = scrape(metrics)
    assert len(found.labels("model") - {"other"}) == MAX_MODELS - 1, "one that was not asked has no row"
    assert found.sum("requests_total", model="other") == 5001 - MAX_MODELS


def test_rows_are_bounded_whatever_comes_together(metrics: Metrics) -> None:
    for number in range(MAX_MODELS):
        metrics.admit(replace(MODEL, id=f"model-{number}"))
        for outcome in range(50):
            asked(metrics, model=f"model-{number}", outcome=f"code_{outcome}")
    found = scrape(metrics)
    rows = [labels for name, labels, _ in found.samples if name == "requests_total"]
    assert len(rows) <= MAX_ROWS + 50
    assert found.sum("requests_total") == MAX_MODELS * 50


def test_models_that_a_caller_may_not_see_are_added_up_as_other(metrics: Metrics) -> None:
    metrics.admit(replace(MODEL, id="hidden"))
    for model in ("support", "hidden", "unknown"):
        asked(metrics, model=model)
    found = scrape(metrics, may_see=lambda model: model == "support")
    assert found.labels("model") == {"support", "other"}
    assert found.sum("requests_total", model="other") == 2


def test_workers_are_summed_also_when_one_has_ended() -> None:
    board, clock = Board(2), Clock()
    board.take({0})
    ended = Metrics(board, clock)
    ended.admit(MODEL)
    asked(ended, model="support")
    ended.stream()
    ended.beat(0.01)
    board.take(set())
    metrics = Metrics(board, clock)
    asked(metrics, model="support")
    both = scrape(metrics)
    assert both.sum("requests_total", model="other") + both.sum("requests_total", model="support") == 2
    assert (both.sum("workers"), both.sum("streams_open"), both.sum("event_loop_lag_seconds_count")) == (
        2,
        1,
        1,
    )
    board.leave(1)
    left = scrape(metrics)
    assert (left.sum("workers"), left.sum("streams_open"), left.sum("requests_total")) == (1, 0, 2)


def test_the_successor_of_a_worker_counts_on_and_knows_its_models() -> None:
    board = Board(1)
    board.take(set())
    first = Metrics(board)
    first.admit(MODEL)
    first.watch("retries_total", lambda: 4, "default")
    first.stream()
    asked(first, model="support")
    before = scrape(first)
    board.leave(0)
    second = Metrics(board)
    second.watch("retries_total", lambda: 1, "default")
    asked(second, model="support")
    after = scrape(second)
    assert before.sum("requests_total", model="support") == 1
    assert after.sum("requests_total", model="support") == 2
    assert (before.sum("retries_total"), after.sum("retries_total")) == (4, 5)
    assert (before.sum("streams_open"), after.sum("streams_open"), after.sum("workers")) == (1, 0, 1)


def test_the_others_are_shown_what_was_counted_once_a_second() -> None:
    board, clock = Board(2), Clock()
    board.take(set())
    metrics = Metrics(board, clock)
    metrics.beat(0.0)
    asked(metrics)
    clock.now += 0.9
    metrics.beat(0.0)
    assert not any(key[0] == "requests_total" for key in board.own())
    clock.now += 0.1
    metrics.beat(0.0)
    assert any(key[0] == "requests_total" for key in board.own())


def test_of_an_age_the_largest_is_told_not_the_sum() -> None:
    board = Board(2)

    def worker(slot: int, age: float) -> Metrics:
        board.take({1 - slot})
        metrics = Metrics(board)
        metrics.watch("catalog_age_seconds", lambda: age, "default")
        metrics.watch("flowise_up", lambda: 1, "default")
        metrics.show()
        return metrics

    worker(0, 7)
    found = scrape(worker(1, 5))
    assert found.sum("catalog_age_seconds", flowise="default") == 7
    assert found.sum("flowise_up", flowise="default") == 2


def test_what_no_object_keeps_is_counted_one_by_one(metrics: Metrics) -> None:
    metrics.count("file_links_made_total")
    metrics.count("file_links_made_total")
    assert scrape(metrics).sum("file_links_made_total") == 2


def test_names_and_help_keep_to_the_conventions_of_prometheus(metrics: Metrics) -> None:
    for name, kind in KINDS.items():
        assert re.fullmatch(r"[a-z]+(_[a-z]+)*", name)
        assert kind.help.endswith((".", "/metrics"))
        assert not kind.buckets or name.endswith("_seconds")
        assert list(kind.buckets) == sorted(kind.buckets)
        assert not set(kind.labels) & {"le", "job", "instance"}
    told = scrape(metrics).families
    assert all(family.documentation for family in told)
    types = {family.name: family.type for family in told}
    for name, kind in KINDS.items():
        expected = "histogram" if kind.buckets else "counter" if name.endswith("_total") else "gauge"
        assert types["flowise_proxy_" + name.removesuffix("_total")] == expected
