"""`GET /metrics` of a running server: what is counted, who may read it, the sum over workers."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
import requests

from flowise_gateway.conformance.websocket_client import SocketClient
from tests.server.drain_test import child_of
from tests.server.models_test import chat as chat_with_key
from tests.server.models_test import key_lines
from tests.server.serving_test import raw_chat
from tests.server.wire_test import chat
from tests.support.demo_server import DemoServer
from tests.support.metrics_text import counted, scraped
from tests.support.processes import free_port, wait_for
from tests.support.running_proxy import RunningProxy

CHAT = {"method": "POST", "route": "/v1/chat/completions"}
WIRE = Path(__file__).parents[1] / "wire/librechat/02-title-completion.json"
TITLE = json.loads(WIRE.read_text())["request"]["body"]["messages"][0]["content"]
FILE = f"""
models:
  - {{id: gone, flow: 00000000-0000-4000-8000-000000000001, fallback: demo-json}}
keys:
{key_lines("all", "canary-key-all")}
{key_lines("slow", "canary-key-slow", "requests_per_minute: 1")}
{key_lines("narrow", "canary-key-narrow", "models: [demo-json]")}
"""


@pytest.fixture
def server(demo: DemoServer, tmp_path: Path) -> Iterator[RunningProxy]:
    """A server that has counted nothing yet."""
    with RunningProxy(tmp_path, FLOWISE_BASE_URL=demo.base_url) as running:
        yield running


@pytest.fixture(scope="module")
def keyed(demo: DemoServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningProxy]:
    """A server with client keys."""
    folder = tmp_path_factory.mktemp("keyed")
    (folder / "proxy.yaml").write_text(FILE)
    with RunningProxy(folder, FLOWISE_BASE_URL=demo.base_url) as running:
        yield running


def test_the_first_request_by_a_flows_id_counts_under_its_model(server: RunningProxy) -> None:
    # No listing has come when the request is resolved; it has by the end of the answer.
    assert chat(server, "5518949f-3ebc-4082-af01-fa2a18623da6", stream=True).status_code == 200
    assert counted(server, "requests_total", 1, model="demo-assistant", outcome="ok", status="200", **CHAT)
    assert counted(server, "runs_total", 1, model="demo-assistant", result="ok")
    assert '"model":"demo-assistant"' in server.log()


def test_whole_answers_and_streams_are_counted_with_runs_tokens_and_times(server: RunningProxy) -> None:
    assert chat(server, "demo-assistant").status_code == 200
    assert chat(server, "demo-assistant", stream=True).status_code == 200
    labels = {"model": "demo-assistant", "outcome": "ok", "status": "200", **CHAT}
    assert counted(server, "requests_total", 2, **labels)
    found = scraped(server)
    assert found.sum("runs_total", model="demo-assistant", result="ok") == found.sum("runs_total") == 2
    assert found.sum("run_duration_seconds_count", model="demo-assistant") == 2
    assert found.sum("first_token_seconds_count", model="demo-assistant") == 1
    assert found.sum("request_duration_seconds_count", route=CHAT["route"], stream="true") == 1
    assert found.sum("request_duration_seconds_count", route=CHAT["route"], stream="false") == 1
    assert found.sum("tokens_total", direction="input", model="demo-assistant") > 0
    assert found.sum("tokens_total", direction="output", model="demo-assistant") > 0
    assert found.sum("streams_open") == found.sum("runs_open") == found.sum("requests_in_flight") == 0
    assert found.sum("workers") == 1


def test_all_paths_of_a_route_are_one_route(server: RunningProxy) -> None:
    body = {"model": "demo-assistant", "messages": [{"role": "user", "content": "Hello"}]}
    for path in ("/chat/completions", "/openai/deployments/demo-assistant/chat/completions"):
        assert requests.post(server.url + path, json=body, headers={"Connection": "close"}, timeout=30).ok
    assert counted(server, "requests_total", 2, outcome="ok", **CHAT)


def test_errors_are_counted_by_their_code_also_after_the_status_went_out(server: RunningProxy) -> None:
    assert chat(server, "demo-errors", "fail500").status_code == 400
    late = chat(server, "demo-errors", "failmid", stream=True)
    assert late.status_code == 200
    assert b'"error"' in late.content
    assert counted(server, "requests_total", 1, status="400", outcome="flow_failed", **CHAT)
    assert counted(server, "requests_total", 1, status="200", outcome="flow_failed", **CHAT)
    assert chat(server, "demo-errors", "empty", stream=True).status_code == 400
    assert counted(server, "requests_total", 1, status="400", outcome="empty_answer", **CHAT)
    assert scraped(server).sum("runs_total", model="demo-errors", result="flow_failed") == 2


def test_a_client_that_leaves_is_counted_and_its_stream_while_it_lasts(
    server: RunningProxy, demo: DemoServer
) -> None:
    with raw_chat(server, "be7c5f10-0100-0100-0000-000500000000", "Hello", stream=True) as raw:
        assert raw.recv(100).startswith(b"HTTP/1.1 200")
        found = scraped(server)
        assert found.sum("streams_open") == found.sum("runs_open") == found.sum("requests_in_flight") == 1
    assert counted(server, "requests_total", 1, outcome="client_gone", **CHAT)
    assert counted(server, "runs_total", 1, result="aborted")
    found = scraped(server)
    assert found.sum("streams_open") == found.sum("runs_open") == found.sum("requests_in_flight") == 0


def test_a_task_of_a_chat_ui_is_a_request_without_a_run(server: RunningProxy) -> None:
    assert chat(server, "demo-assistant", TITLE).status_code == 200
    assert counted(server, "requests_total", 1, model="demo-assistant", outcome="ok", **CHAT)
    assert scraped(server).sum("runs_total") == 0
    assert scraped(server).sum("tokens_total") == 0


def test_a_model_that_stands_in_is_a_run_more_and_no_failure(keyed: RunningProxy) -> None:
    key = "canary-key-all"
    assert chat_with_key(keyed, key, "gone").status_code == 200
    assert counted(keyed, "requests_total", 1, key, model="gone", outcome="ok")
    assert counted(keyed, "runs_total", 1, key, model="gone", result="model_not_found")
    assert scraped(keyed, key).sum("runs_total", model="demo-json", result="ok") >= 1


def test_a_background_response_is_counted_and_in_flight_until_its_run_ends(server: RunningProxy) -> None:
    body = {"model": "demo-errors", "input": "stall1.5", "background": True, "store": True}
    headers = {"Connection": "close"}
    assert requests.post(f"{server.url}/v1/responses", json=body, headers=headers, timeout=30).ok
    assert counted(server, "requests_total", 1, route="/v1/responses", outcome="ok")
    assert counted(server, "requests_in_flight")
    assert counted(server, "runs_total", 1, model="demo-errors", result="ok")
    assert counted(server, "requests_in_flight", 0)


def test_responses_over_a_websocket_are_one_request_and_a_run_each(server: RunningProxy) -> None:
    with SocketClient(server.url) as client:
        for _ in range(2):
            assert client.ask(model="demo-assistant")
    assert counted(
        server, "requests_total", 1, route="/v1/responses", method="GET", status="101", outcome="ok"
    )
    assert counted(server, "runs_total", 2, model="demo-assistant", result="ok")
    assert scraped(server).sum("request_duration_seconds_count") == 0


def test_refused_keys_and_limits_are_counted(keyed: RunningProxy) -> None:
    key = "canary-key-all"
    assert chat_with_key(keyed, "no-such-key", "demo-assistant").status_code == 401
    statuses = [chat_with_key(keyed, "canary-key-slow", "demo-assistant").status_code for _ in range(3)]
    assert statuses == [200, 429, 429]
    assert counted(keyed, "requests_total", 1, key, status="401", outcome="invalid_api_key", model="")
    assert counted(keyed, "requests_total", 2, key, status="429", outcome="rate_limit_exceeded")
    assert counted(keyed, "limit_refusals_total", 2, key, limit="key_requests_per_minute")


def test_requests_beyond_what_the_server_takes_are_counted(demo: DemoServer, tmp_path: Path) -> None:
    with RunningProxy(tmp_path, FLOWISE_BASE_URL=demo.base_url, PROXY_MAX_IN_FLIGHT="1") as server:
        with raw_chat(server, "demo-errors", "silent", stream=True):
            assert counted(server, "requests_in_flight")
            assert chat(server, "demo-assistant").status_code == 503
            assert counted(server, "limit_refusals_total", limit="max_in_flight")


def test_a_flowise_that_is_not_there_is_seen_by_retries_and_the_breaker(tmp_path: Path) -> None:
    with RunningProxy(tmp_path, FLOWISE_BASE_URL=f"http://127.0.0.1:{free_port()}/api/v1") as server:

        def is_open() -> bool:
            assert chat(server, str(uuid4())).status_code == 503
            return scraped(server).sum("breakers_open") == 1

        assert wait_for(is_open, 20)
        found = scraped(server)
        assert found.sum("retries_total") > 0
        assert found.sum("runs_total", model="other", result="flowise_unavailable") > 0


def test_a_store_that_cannot_be_used_is_seen(demo: DemoServer, tmp_path: Path) -> None:
    store = {"PROXY_STORE": "sqlite:////dev/null/store", "PROXY_SECRET": "x" * 16}
    with RunningProxy(tmp_path, FLOWISE_BASE_URL=demo.base_url, **store) as server:
        assert chat(server, "demo-assistant").status_code == 200
        assert scraped(server).sum("store_errors_total") > 0


def test_only_a_key_opens_the_metrics_and_all_refusals_are_alike(keyed: RunningProxy) -> None:
    refused = requests.get(f"{keyed.url}/metrics", headers={"Connection": "close"}, timeout=30)
    other = requests.get(f"{keyed.url}/v1/models", headers={"Connection": "close"}, timeout=30)
    assert refused.status_code == other.status_code == 401
    assert refused.json() == other.json()
    assert scraped(keyed, "canary-key-all").sum("workers") == 1


def test_a_key_sees_the_names_of_its_own_models_alone(keyed: RunningProxy) -> None:
    for model in ("demo-json", "demo-sources"):
        assert chat_with_key(keyed, "canary-key-all", model).status_code == 200
    assert counted(keyed, "runs_total", 1, "canary-key-all", model="demo-sources")
    # The empty label is that of requests without a model, which only other tests may have sent.
    assert scraped(keyed, "canary-key-narrow").labels("model") - {""} == {"demo-json", "other"}


def test_metrics_can_be_open_to_all_or_not_there(demo: DemoServer, tmp_path: Path) -> None:
    settings = {"FLOWISE_BASE_URL": demo.base_url, "PROXY_API_KEYS": "a-key"}
    with RunningProxy(tmp_path, **settings, PROXY_METRICS="open") as server:
        assert scraped(server).sum("workers") == 1
        assert requests.get(f"{server.url}/v1/models", timeout=30).status_code == 401
    with RunningProxy(tmp_path, **settings, PROXY_METRICS="off") as server:
        answer = requests.get(f"{server.url}/metrics", headers={"api-key": "a-key"}, timeout=30)
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "unknown_url")


def test_where_keys_are_flowises_to_judge_only_ours_opens_the_metrics(
    demo: DemoServer, tmp_path: Path
) -> None:
    settings = {"FLOWISE_KEY_PASSTHROUGH": "true", "FLOWISE_API_KEY": "our-own-key"}
    with RunningProxy(tmp_path, FLOWISE_BASE_URL=demo.base_url, **settings) as server:
        assert scraped(server, "our-own-key").sum("workers") == 1
        headers = {"Authorization": "Bearer made-up", "Connection": "close"}
        refused = requests.get(f"{server.url}/metrics", headers=headers, timeout=30)
        assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_api_key")


def test_nothing_that_a_client_made_up_becomes_a_series_or_is_told(keyed: RunningProxy) -> None:
    headers = {"Authorization": "Bearer canary-key-all"}
    with requests.Session() as session:
        session.headers.update(headers)

        def send(number: int) -> None:
            model = str(uuid4()) if number % 2 else f"canary-model-{number}"
            body = {
                "model": model,
                "messages": [{"role": "user", "content": "canary-prompt"}],
                "stream": bool(number % 3),
            }
            session.post(f"{keyed.url}/v1/chat/completions", json=body, timeout=30)
            session.get(f"{keyed.url}/v1/canary-path/{number}?canary-query", timeout=30)

        for number in range(50):
            send(number)
        before = len(scraped(keyed, "canary-key-all").samples)
        for number in range(2500):
            send(number)
    found = scraped(keyed, "canary-key-all")
    assert found.sum("requests_total", outcome="model_not_found") == 2550
    assert found.sum("requests_total", outcome="unknown_url", route="none") == 2550
    assert len(found.samples) == before
    assert "canary" not in found.text
    assert "127.0.0.1" not in found.text
    assert "/metrics" not in found.labels("route")


def test_two_workers_are_summed_also_when_one_of_them_was_killed(demo: DemoServer, tmp_path: Path) -> None:
    with RunningProxy(tmp_path, FLOWISE_BASE_URL=demo.base_url, WORKERS="2") as server:
        assert counted(server, "workers", 2)
        for _ in range(20):
            assert chat(server, "demo-assistant").status_code == 200
        assert counted(server, "requests_total", 20, model="demo-assistant", outcome="ok")
        # Any of the workers tells the same.
        assert {scraped(server).sum("requests_total", **CHAT) for _ in range(10)} == {20}
        with raw_chat(server, "be7c5f10-0100-0100-0000-000500000000", "Hello", stream=True) as raw:
            assert raw.recv(100)
            assert counted(server, "streams_open")
            for _ in range(2):
                os.kill(child_of(server.pid, "openai_compatible_server"), signal.SIGKILL)
                assert counted(server, "workers", 2)
        assert counted(server, "streams_open", 0)
        assert scraped(server).sum("requests_total", model="demo-assistant", outcome="ok") == 20
