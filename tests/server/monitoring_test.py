"""Every series of the dashboard and of the alert rules is one that a running server tells."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from flowise_gateway.conformance.websocket_client import SocketClient
from flowise_gateway.flow import errors
from flowise_gateway.telemetry.metrics import KINDS
from tests.server.wire_test import chat
from tests.support.demo_server import DemoServer
from tests.support.metrics_text import Scrape, counted, scraped
from tests.support.monitoring import FOLDER, Expression, alerts, panels
from tests.support.running_proxy import RunningProxy

EXPRESSIONS = [*panels(), *alerts()]


def has_asked_for_everything(proxy: RunningProxy, times: int = 1) -> None:
    """Send a request of each kind that something is counted of, as the time before the last of so many."""
    for model, text in (("demo-agent", "Hello"), ("demo-assistant", "Hello"), ("demo-files", "Hello")):
        assert chat(proxy, model, text).status_code == 200
        assert chat(proxy, model, text, stream=True).status_code == 200
    assert chat(proxy, "demo-errors", "fail500").status_code == 400
    with SocketClient(proxy.url) as client:
        client.ask()
    body = {"model": "demo-agent", "input": "Hello", "background": True}
    assert requests.post(f"{proxy.url}/v1/responses", json=body, timeout=30).ok
    assert counted(proxy, "responses_total", times, kind="background_response")


@pytest.fixture(scope="module")
def scrape(flowise: DemoServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scrape]:
    """What a server tells that has been asked for everything."""
    with RunningProxy(tmp_path_factory.mktemp("proxy"), FLOWISE_BASE_URL=flowise.base_url) as running:
        has_asked_for_everything(running)
        yield scraped(running)


@pytest.mark.parametrize("expression", EXPRESSIONS, ids=lambda one: one.place)
def test_its_series_exist_with_its_labels_and_values(expression: Expression, scrape: Scrape) -> None:
    assert expression.selectors, expression.text
    for name, matchers in expression.selectors:
        short = name.removeprefix("flowise_proxy_")
        found = [labels for told, labels, _ in scrape.samples if told == short]
        assert found, f"{name} is not told"
        for label, operator, value in matchers:
            assert all(label in labels for labels in found), f"{name} has no label {label}"
            told = {labels[label] for labels in found}
            if operator == "=" and label != "outcome":
                assert value in told, f"{name} has no {label}={value}"
            if operator == "=~":
                assert any(re.fullmatch(value, one) for one in told)
        assert expression.grouped_by <= set(found[0]), f"{name} cannot be grouped so"


def test_the_outcomes_that_are_named_are_outcomes() -> None:
    codes = {getattr(error, "code", None) for error in vars(errors).values() if isinstance(error, type)}
    known = {"ok", "client_gone", "aborted", "cancelled", "server_error", *codes}
    named = {
        one
        for expression in EXPRESSIONS
        for _, matchers in expression.selectors
        for label, _, value in matchers
        if label in ("outcome", "result")
        for one in value.split("|")
    }
    assert named - known == set()


def test_the_dashboard_or_an_alert_shows_every_metric() -> None:
    shown = {name for expression in EXPRESSIONS for name, _ in expression.selectors}
    endings = ("", "_bucket", "_sum", "_count")
    assert [name for name in KINDS if not any(f"flowise_proxy_{name}{end}" in shown for end in endings)] == []


def test_every_metric_is_documented() -> None:
    text = (Path(FOLDER).parents[1] / "docs/operating.md").read_text()
    assert [name for name in KINDS if f"`{name}`" not in text] == []
