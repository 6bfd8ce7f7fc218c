"""Traces as a collector receives them: of whole answers, streams, WebSockets, background runs and failures."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
import requests

from flowise_gateway.conformance.websocket_client import SocketClient
from tests.support.demo_server import DemoServer
from tests.support.log_lines import line, lines
from tests.support.metrics_text import counted
from tests.support.otlp_receiver import OtlpReceiver, ReceivedSpan
from tests.support.processes import free_port, wait_for
from tests.support.running_proxy import RunningProxy
from tests.support.scripted_server import ScriptedServer

CHAT, RESPONSES = "/v1/chat/completions", "/v1/responses"
TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
ATTEMPT = "POST /prediction/{flow}"
KEY = "canary-key-of-one"
HI = {"messages": [{"role": "user", "content": "canary-prompt"}]}


@pytest.fixture(scope="module")
def collector() -> Iterator[OtlpReceiver]:
    """A collector."""
    with OtlpReceiver() as running:
        yield running


@pytest.fixture(scope="module")
def proxy(
    flowise: DemoServer, collector: OtlpReceiver, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningProxy]:
    """A server that is traced."""
    settings = {
        "FLOWISE_BASE_URL": flowise.base_url,
        "PROXY_API_KEYS": KEY,
        **collector.environment,
    }
    with RunningProxy(tmp_path_factory.mktemp("proxy"), **settings) as running:
        yield running


def post(proxy: RunningProxy, path: str, request_id: str, **body: Any) -> requests.Response:
    """The answer to a request with this id, and in the caller's trace."""
    headers = {
        "Connection": "close",
        "x-request-id": request_id,
        "api-key": KEY,
        "traceparent": f"00-{TRACE}-{CALLER}-01",
    }
    return requests.post(proxy.url + path, json=body, headers=headers, timeout=30)


def request_trace(collector: OtlpReceiver, request_id: str, path: str = CHAT) -> list[ReceivedSpan]:
    """The spans of a request."""
    return collector.trace(f"POST {path}", **{"flowise.request_id": request_id})


def shown(spans: list[ReceivedSpan]) -> list[tuple[str, str]]:
    """Names and kinds."""
    return [(span.name, span.kind) for span in spans]


def test_a_streamed_agents_trace_goes_from_its_caller_to_flowise(
    proxy: RunningProxy, collector: OtlpReceiver, flowise: DemoServer
) -> None:
    flowise.clear()
    body = {"model": "demo-agent", "stream": True, "user": "ann", **HI}
    assert post(proxy, CHAT, "agent", **body).status_code == 200
    server, run, attempt = request_trace(collector, "agent")
    assert shown([server, run, attempt]) == [
        (f"POST {CHAT}", "server"),
        ("invoke_agent demo-agent", "client"),
        (ATTEMPT, "client"),
    ]
    assert (server.trace_id, server.parent_id) == (TRACE, CALLER)
    assert server.resource["service.name"] == "flowise-gateway"
    logged = line(proxy, request_id="agent")
    assert server.attributes == {
        "http.request.method": "POST",
        "http.route": CHAT,
        "client.address": "127.0.0.1",
        "flowise.request_id": "agent",
        "flowise.outcome": "ok",
        "flowise.caller": logged["caller"],
        "http.response.status_code": 200,
        "flowise.model": "demo-agent",
        "enduser.pseudo.id": logged["user"],
        "flowise.tokens.input": logged["tokens_in"],
        "flowise.tokens.output": logged["tokens_out"],
        "flowise.tokens.source": "reported",
    }
    assert logged["trace_id"] == TRACE
    sent = flowise.records()[-1]
    assert run.attributes == {
        "gen_ai.operation.name": "invoke_agent",
        "gen_ai.provider.name": "flowise",
        "gen_ai.agent.id": logged["flow"],
        "gen_ai.agent.name": "demo-agent",
        "gen_ai.request.model": "demo-agent",
        "gen_ai.request.stream": True,
        "gen_ai.conversation.id": logged["chat_id"],
        "gen_ai.response.finish_reasons": ["stop"],
        "gen_ai.response.time_to_first_chunk": run.attributes["gen_ai.response.time_to_first_chunk"],
        "gen_ai.usage.input_tokens": logged["tokens_in"],
        "gen_ai.usage.output_tokens": logged["tokens_out"],
    }
    assert run.attributes["gen_ai.response.time_to_first_chunk"] > 0
    names = [name for name, _ in run.events]
    assert names.count("first_token") == 1
    assert ("step", {"flowise.step": "Agent"}) in run.events
    assert ("tool", {"gen_ai.tool.name": "calculator"}) in run.events
    assert attempt.attributes == {
        "http.request.method": "POST",
        "url.template": "/prediction/{flow}",
        "http.response.status_code": 200,
    }
    assert server.start <= run.start <= attempt.start <= attempt.end <= run.end <= server.end
    headers = {name.lower(): value for name, value in sent["headers"].items()}
    assert headers["traceparent"] == f"00-{TRACE}-{attempt.span_id}-01"
    assert "canary" not in repr(collector.spans)


def test_whole_answers_choices_and_completions_have_a_run_each(
    proxy: RunningProxy, collector: OtlpReceiver
) -> None:
    assert post(proxy, CHAT, "choices", model="demo-assistant", n=2, **HI).status_code == 200
    spans = request_trace(collector, "choices")
    assert sorted(shown(spans)[1:]) == sorted(
        [("invoke_agent demo-assistant", "client"), (ATTEMPT, "client")] * 2
    )
    runs = [span for span in spans if span.name.startswith("invoke")]
    assert all(run.parent_id == spans[0].span_id for run in runs)
    assert not any("first_token" in dict(run.events) for run in runs)
    assert not any("gen_ai.usage.input_tokens" in run.attributes for run in runs), "it reports none"
    assert spans[0].attributes["flowise.tokens.source"] == "estimated"
    assert post(proxy, "/v1/completions", "text", model="demo-assistant", prompt="Hello").status_code == 200
    assert len(request_trace(collector, "text", "/v1/completions")) == 3


def test_failures_are_errors_of_their_spans(proxy: RunningProxy, collector: OtlpReceiver) -> None:
    assert (
        post(
            proxy, CHAT, "failed", model="demo-errors", messages=[{"role": "user", "content": "fail500"}]
        ).status_code
        == 400
    )
    spans = request_trace(collector, "failed")
    assert [span.attributes["error.type"] for span in spans] == ["flow_failed"] * 3
    assert all(span.is_error for span in spans)
    late = post(
        proxy,
        CHAT,
        "late",
        model="demo-errors",
        stream=True,
        messages=[{"role": "user", "content": "failmid"}],
    )
    assert late.status_code == 200
    server, run, attempt = request_trace(collector, "late")
    assert (server.is_error, run.is_error, attempt.is_error) == (True, True, False)
    assert post(proxy, CHAT, "unknown", model="no-such-model", **HI).status_code == 404
    [refused] = request_trace(collector, "unknown")
    assert refused.attributes["error.type"] == "model_not_found"


def test_each_attempt_has_a_span(collector: OtlpReceiver, tmp_path: Path) -> None:
    settings = {"FLOWISE_BASE_URL": f"http://127.0.0.1:{free_port()}/api/v1", "PROXY_API_KEYS": KEY}
    with RunningProxy(tmp_path, **settings, **collector.environment) as proxy:
        answer = post(proxy, "/v1/completions", "retried", model=str(uuid4()), prompt="Hello")
        assert answer.status_code == 503
        server, run, *attempts = request_trace(collector, "retried", "/v1/completions")
    assert [one.attributes.get("http.request.resend_count", 0) for one in attempts] == [0, 1, 2]
    assert {one.attributes["error.type"] for one in (server, run, *attempts)} == {"flowise_unavailable"}
    assert all("http.response.status_code" not in one.attributes for one in attempts)


def test_a_client_that_leaves_ends_its_spans_without_an_error(
    proxy: RunningProxy, collector: OtlpReceiver
) -> None:
    body = json.dumps({"model": "demo-errors", "messages": [{"role": "user", "content": "silent"}]})
    head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\napi-key: {KEY}\r\nx-request-id: left\r\n"
    with socket.create_connection(("127.0.0.1", urlsplit(proxy.url).port or 0), timeout=10) as raw:
        raw.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
        assert counted(proxy, "runs_open", 1, KEY)
    server, run, *_ = request_trace(collector, "left")
    assert server.attributes["flowise.outcome"] == "client_gone"
    assert not server.is_error
    assert not run.is_error


def test_responses_over_a_socket_and_in_the_background_have_spans_of_their_own(
    proxy: RunningProxy, collector: OtlpReceiver
) -> None:
    headers = {"api-key": KEY, "x-request-id": "socket"}
    with SocketClient(proxy.url, headers=headers) as client:
        for _ in range(2):
            client.ask()
    connection, *rest = collector.trace(f"GET {RESPONSES}", **{"flowise.request_id": "socket"})
    assert [name for name, _ in shown(rest)] == ["websocket_response", "invoke_agent demo-agent", ATTEMPT] * 2
    assert all(span.parent_id == connection.span_id for span in rest if span.name == "websocket_response")
    assert connection.attributes["http.response.status_code"] == 101
    created = post(proxy, RESPONSES, "queued", model="demo-agent", input="Hello", background=True).json()
    assert counted(proxy, "responses_total", 1, KEY, kind="background_response")
    [background] = [
        span
        for span in collector.trace("background_response", **{"gen_ai.response.id": created["id"]})
        if span.name == "background_response"
    ]
    queued, *_ = request_trace(collector, "queued", RESPONSES)
    assert background.parent_id == queued.span_id
    assert background.end >= queued.start


def test_requests_that_ask_for_ever_are_not_traced(proxy: RunningProxy, collector: OtlpReceiver) -> None:
    for path in ("/health", "/ready", "/metrics", "/"):
        requests.get(proxy.url + path, headers={"api-key": KEY, "Connection": "close"}, timeout=30)
    post(proxy, CHAT, "after", model="demo-agent", **HI)
    request_trace(collector, "after")
    routes = {span.attributes.get("http.route") for span in collector.spans}
    assert not routes & {"/health", "/ready", "/"}


def test_a_collector_that_is_away_costs_no_answer_and_is_told_of_once(
    flowise: DemoServer, tmp_path: Path
) -> None:
    away = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{free_port()}",
        "OTEL_BSP_SCHEDULE_DELAY": "100",
        "OTEL_EXPORTER_OTLP_TIMEOUT": "1",
    }
    with RunningProxy(tmp_path, FLOWISE_BASE_URL=flowise.base_url, **away) as proxy:
        for number in range(3):
            answer = requests.post(proxy.url + CHAT, json={"model": "demo-agent", **HI}, timeout=30)
            assert answer.status_code == 200
            assert counted(proxy, "spans_total", 3 * (number + 1), result="failed")
        told = [
            one
            for one in lines(proxy)
            if one["logger"].startswith("opentelemetry") and one["level"] == "error"
        ]
        assert len({one["message"] for one in told}) == len(told)
        assert not [text for text in proxy.log().splitlines() if not text.startswith("{")]


def test_what_is_left_is_sent_at_the_end_by_each_worker(
    flowise: DemoServer, collector: OtlpReceiver, tmp_path: Path
) -> None:
    slow = {**collector.environment, "OTEL_BSP_SCHEDULE_DELAY": "60000", "OTEL_SERVICE_NAME": "two-workers"}
    with RunningProxy(tmp_path, FLOWISE_BASE_URL=flowise.base_url, WORKERS="2", **slow) as proxy:
        for _ in range(10):
            assert requests.post(
                proxy.url + CHAT,
                json={"model": "demo-agent", **HI},
                headers={"Connection": "close"},
                timeout=30,
            ).ok
        assert counted(proxy, "requests_total", 10, route=CHAT)
        os.kill(proxy.pid, signal.SIGTERM)
        proxy.ended(30)
    own = [span for span in collector.spans if span.resource["service.name"] == "two-workers"]
    assert len([span for span in own if span.name == f"POST {CHAT}"]) == 10
    assert len(own) == 30


@pytest.mark.parametrize(
    ("sampler", "flags", "sent"), [("", "00", 0), ("always_off", "01", 0), ("always_on", "00", 3)]
)
def test_what_is_sampled_is_the_callers_or_the_samplers_to_say(
    flowise: DemoServer, collector: OtlpReceiver, tmp_path: Path, sampler: str, flags: str, sent: int
) -> None:
    flowise.clear()
    name = f"sampled-{sampler}"
    more = {"OTEL_SERVICE_NAME": name, **({"OTEL_TRACES_SAMPLER": sampler} if sampler else {})}
    with RunningProxy(tmp_path, FLOWISE_BASE_URL=flowise.base_url, **collector.environment, **more) as proxy:
        headers = {"traceparent": f"00-{TRACE}-{CALLER}-{flags}"}
        answer = requests.post(
            proxy.url + CHAT, json={"model": "demo-agent", **HI}, headers=headers, timeout=30
        )
        assert answer.status_code == 200
    assert len([span for span in collector.spans if span.resource["service.name"] == name]) == sent
    onward = {key.lower(): value for key, value in flowise.records()[-1]["headers"].items()}["traceparent"]
    assert onward.startswith(f"00-{TRACE}-")
    assert onward.endswith("-01" if sent else "-00")


def test_a_collector_that_says_nothing_does_not_hold_up_the_end(flowise: DemoServer, tmp_path: Path) -> None:
    with ScriptedServer([]) as silent:
        settings = {"FLOWISE_BASE_URL": flowise.base_url, "OTEL_EXPORTER_OTLP_ENDPOINT": silent.url}
        with RunningProxy(tmp_path, **settings, OTEL_BSP_SCHEDULE_DELAY="100") as proxy:
            assert requests.post(proxy.url + CHAT, json={"model": "demo-agent", **HI}, timeout=30).ok
            assert wait_for(lambda: silent.connection_count > 0, 10)
            os.kill(proxy.pid, signal.SIGTERM)
            assert proxy.ended(15) == 0


def test_without_the_variables_nothing_is_imported_and_the_callers_trace_goes_on(
    flowise: DemoServer, tmp_path: Path
) -> None:
    flowise.clear()
    with RunningProxy(tmp_path, FLOWISE_BASE_URL=flowise.base_url) as proxy:
        assert post(proxy, CHAT, "plain", model="demo-agent", **HI).status_code == 200
        maps = Path(f"/proc/{proxy.pid}/maps").read_text()
        assert "protobuf" not in maps
        assert line(proxy, request_id="plain")["trace_id"] == TRACE
    headers = {name.lower(): value for name, value in flowise.records()[-1]["headers"].items()}
    assert headers["traceparent"] == f"00-{TRACE}-{CALLER}-01"
