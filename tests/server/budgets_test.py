"""Budgets, limits of users and models, and the report of usage, over real sockets and a real Redis."""

from __future__ import annotations

import csv
import io
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from flowise_gateway.conformance.websocket_client import SocketClient
from tests.server.models_test import key_lines
from tests.support.counted_load import Load, check_all_agree, write_file
from tests.support.demo_server import DemoServer
from tests.support.processes import clean_environment, wait_for
from tests.support.running_proxy import PROJECT, RunningProxy

JSON = "3d94e1b7-52c8-4f0b-8a6d-7e21c9f4b063"  # demo-json
CHAT = "/v1/chat/completions"
PER_USER = "per_user: {requests_per_day: 1}"
HI: dict[str, Any] = {"model": "demo-assistant", "messages": [{"role": "user", "content": "Hello"}]}
FILE = f"""
models:
  - {{id: small, flow: {JSON}, requests_per_day: 2}}
  - {{id: gone, flow: 00000000-0000-4000-8000-00000000000f, fallback: spare}}
  - {{id: spare, flow: {JSON}, requests_per_day: 3, max_in_flight: 2}}
  - {{id: gone-too, flow: 00000000-0000-4000-8000-00000000000f, fallback: costly}}
  - {{id: costly, flow: {JSON}, tokens_per_day: 1}}
keys:
{key_lines("twice", "a-key-for-two-requests", "requests_per_day: 2")}
{key_lines("tokens", "a-key-for-few-tokens", "tokens_per_day: 1")}
{key_lines("team", "a-key-of-a-whole-team", PER_USER)}
{key_lines("other", "a-key-without-limits")}
{key_lines("single", "a-key-of-one-socket", "max_websockets: 1")}
{key_lines("alone", "a-key-of-one-run", "max_in_flight: 1")}
{key_lines("forgetful", "a-key-that-stores-little", "stored_bytes_per_day: 1")}
{key_lines("boss", "a-key-of-an-admin", "admin: true")}
"""
TWICE, TOKENS, TEAM, OTHER, BOSS = (
    "a-key-for-two-requests",
    "a-key-for-few-tokens",
    "a-key-of-a-whole-team",
    "a-key-without-limits",
    "a-key-of-an-admin",
)


@pytest.fixture
def server(flowise: DemoServer, folder: Path) -> Iterator[RunningProxy]:
    """A server with keys of each kind that has counted nothing yet."""
    (folder / "proxy.yaml").write_text(FILE)
    with RunningProxy(folder, FLOWISE_BASE_URL=flowise.base_url) as running:
        yield running


def ask(server: RunningProxy, key: str, path: str = CHAT, **more: Any) -> requests.Response:
    """The answer to a request with this key."""
    body = {**HI, **more} if path == CHAT else more
    headers = {"Authorization": f"Bearer {key}", "Connection": "close"}
    return requests.post(server.url + path, json=body, headers=headers, timeout=30)


def refused(answer: requests.Response) -> str:
    """The message of a request over its budget."""
    assert answer.status_code == 429, answer.text
    assert answer.headers["x-should-retry"] == "false"
    error = answer.json()["error"]
    assert (error["type"], error["code"]) == ("insufficient_quota", "insufficient_quota")
    return str(error["message"])


def used(server: RunningProxy, **asked: str) -> list[dict[str, Any]]:
    """The rows of a report."""
    headers = {"Authorization": f"Bearer {BOSS}"}
    answer = requests.get(f"{server.url}/v1/flowise/usage", params=asked, headers=headers, timeout=30)
    assert answer.status_code == 200, answer.text
    rows: list[dict[str, Any]] = answer.json()["data"]
    return rows


def soon_refused(server: RunningProxy, key: str, **more: Any) -> bool:
    """Whether the key is soon over its budget: tokens are charged just after the answer's last byte."""
    return wait_for(lambda: ask(server, key, **more).status_code == 429, 10)


def test_over_its_requests_or_tokens_a_key_is_refused_until_the_next_day(server: RunningProxy) -> None:
    assert ask(server, TWICE, model="nothing").status_code == 404, "what never ran costs nothing"
    assert [ask(server, TWICE, stream=stream).status_code for stream in (True, False)] == [200, 200]
    message = refused(ask(server, TWICE))
    assert "2 requests per day; it is reset at 20" in message
    assert message.count("T00:00:00Z")
    assert ask(server, TOKENS).status_code == 200
    assert soon_refused(server, TOKENS)
    assert "1 tokens per day" in refused(ask(server, TOKENS, stream=True))
    assert ask(server, OTHER).status_code == 200


def test_users_and_models_have_budgets_of_their_own(server: RunningProxy) -> None:
    assert ask(server, TEAM, user="ann").status_code == 200
    assert soon_refused(server, TEAM, user="ann")
    assert "this user may use 1 requests per day" in refused(ask(server, TEAM, user="ann"))
    assert ask(server, TEAM, user="bob").status_code == 200
    assert ask(server, TEAM).status_code == 200
    assert [ask(server, key, model="small").status_code for key in (OTHER, BOSS)] == [200, 200]
    assert "the model small may use 2 requests per day" in refused(ask(server, OTHER, model="small"))
    assert ask(server, OTHER).status_code == 200


def test_a_fallback_counts_in_its_own_limits_too(server: RunningProxy) -> None:
    assert ask(server, OTHER, model="gone", n=2).status_code == 200
    assert ask(server, OTHER, model="gone").status_code == 200, "its slots are free again"
    over = ask(server, OTHER, model="gone")
    assert (over.status_code, over.json()["error"]["code"]) == (404, "model_not_found"), over.text
    assert "spare may use 3 requests per day" in refused(ask(server, OTHER, model="spare"))
    assert ask(server, OTHER, model="gone-too").status_code == 200
    assert wait_for(lambda: ask(server, OTHER, model="gone-too").status_code == 404, 10)
    assert "costly may use 1 tokens per day" in refused(ask(server, OTHER, model="costly"))


def test_choices_socket_and_background_responses_count_as_runs(server: RunningProxy) -> None:
    assert ask(server, OTHER, n=3).status_code == 200
    made = ask(server, OTHER, "/v1/responses", model="demo-assistant", input="Hello", background=True).json()
    headers = {"Authorization": f"Bearer {OTHER}"}
    address = f"{server.url}/v1/responses/{made['id']}"
    assert wait_for(
        lambda: requests.get(address, headers=headers, timeout=30).json()["status"] == "completed", 20
    )
    with SocketClient(server.url, headers=headers) as client:
        for _ in range(2):
            assert client.ask(model="demo-assistant")[-1]["type"] == "response.completed"
    assert wait_for(lambda: [row["requests"] for row in used(server, by="key")] == [6], 10), used(
        server, by="key"
    )
    with SocketClient(server.url, headers={"Authorization": f"Bearer {TWICE}"}) as client:
        ends = [client.ask(model="demo-assistant")[-1] for _ in range(3)]
        assert [end["type"] for end in ends] == ["response.completed", "response.completed", "error"]
        assert ends[2]["error"]["code"] == "insufficient_quota"


def test_a_key_opens_only_so_many_websockets(server: RunningProxy) -> None:
    headers = {"Authorization": "Bearer a-key-of-one-socket"}
    with SocketClient(server.url, headers=headers) as client:
        assert client.ask(model="demo-assistant")[-1]["type"] == "response.completed"
        with SocketClient(server.url, headers=headers) as second:
            assert second.status == 429
            assert b"1 WebSockets open" in second.body
        assert client.ask(model="demo-assistant")[-1]["type"] == "response.completed"

    def reopened() -> bool:
        with SocketClient(server.url, headers=headers) as client:
            return client.status == 101

    assert wait_for(reopened, 20)


def test_a_key_reads_only_so_many_streams_of_background_responses(server: RunningProxy) -> None:
    key = "a-key-of-one-run"

    def read(response: str) -> requests.Response:
        url = f"{server.url}/v1/responses/{response}?stream=true"
        headers = {"Authorization": f"Bearer {key}", "Connection": "close"}
        return requests.get(url, headers=headers, stream=True, timeout=30)

    made = ask(server, key, "/v1/responses", model="demo-errors", input="heartbeats", background=True)
    assert made.status_code == 200, made.text
    response = made.json()["id"]
    with read(response) as first:
        assert first.status_code == 200, "its run takes the only place of a run, and not that of a reader"
        second = read(response)
        assert second.status_code == 429
        assert "this key may have 1 streams of responses open" in second.json()["error"]["message"]
    assert wait_for(lambda: read(response).status_code == 200, 20)
    cancelled = ask(server, key, f"/v1/responses/{response}/cancel")
    assert cancelled.json()["status"] == "cancelled"


def test_a_key_stores_only_so_much_a_day(server: RunningProxy) -> None:
    key, body = "a-key-that-stores-little", {"model": "demo-assistant", "input": "Hello"}
    first = ask(server, key, "/v1/responses", **body).json()
    assert first["store"] is True
    assert wait_for(lambda: not ask(server, key, "/v1/responses", **body).json()["store"], 10)
    url, headers = f"{server.url}/v1/responses/{{}}", {"Authorization": f"Bearer {key}"}
    assert requests.get(url.format(first["id"]), headers=headers, timeout=30).status_code == 200
    unstored = ask(server, key, "/v1/responses", **body).json()
    assert (unstored["status"], unstored["store"]) == ("completed", False)
    assert requests.get(url.format(unstored["id"]), headers=headers, timeout=30).status_code == 404
    assert "stored_bytes_per_day" in refused(ask(server, key, "/v1/responses", **body, background=True))
    with SocketClient(server.url, headers=headers) as client:
        response = client.ask(model="demo-assistant")[-1]["response"]
        assert response["store"] is False
        again = client.ask("And?", "demo-assistant", previous_response_id=response["id"])[-1]
        assert again["type"] == "response.completed", "the connection remembers what is not stored"
    assert ask(server, key).status_code == 200
    assert ask(server, OTHER, "/v1/responses", **body).json()["store"] is True


def test_only_admins_see_usage_as_json_and_csv(server: RunningProxy) -> None:
    ask(server, OTHER, user="ann@example.com", stream=True)
    ask(server, TEAM)
    assert wait_for(lambda: len(used(server, by="key")) == 2, 10)
    url = f"{server.url}/v1/flowise/usage"
    refusal = requests.get(url, headers={"Authorization": f"Bearer {OTHER}"}, timeout=30)
    assert (refusal.status_code, refusal.json()["error"]["code"]) == (403, "admin_key_required")
    assert requests.get(url, timeout=30).status_code == 401
    headers = {"Authorization": f"Bearer {BOSS}", "Accept": "text/csv"}
    answer = requests.get(url, params={"by": "key,user,model"}, headers=headers, timeout=30)
    assert answer.headers["Content-Type"].startswith("text/csv")
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert [(row["key"], row["model"], row["requests"]) for row in rows] == [
        ("other", "demo-assistant", "1"),
        ("team", "demo-assistant", "1"),
    ]
    assert "ann" not in answer.text
    assert used(server, by="user", user="ann@example.com")[0]["user"] == rows[0]["user"] != ""
    bad = requests.get(url, params={"from": "yesterday"}, headers=headers, timeout=30)
    assert (bad.status_code, bad.json()["error"]["param"]) == (400, "from")


def test_usage_and_budgets_outlive_the_server_and_are_shown_by_the_command(
    flowise: DemoServer, folder: Path
) -> None:
    (folder / "proxy.yaml").write_text(FILE)
    settings = {"FLOWISE_BASE_URL": flowise.base_url, "PROXY_STORE": f"sqlite:///{folder}/store.db"}
    with RunningProxy(folder, **settings, WORKERS="2") as one:
        assert [ask(one, TWICE).status_code for _ in range(2)] == [200, 200]
    with RunningProxy(folder, **settings) as two:
        refused(ask(two, TWICE))
        command = [sys.executable, "-m", "flowise_gateway", "usage", "--by", "key,day"]
        environment = {**clean_environment(folder, **settings), "PYTHONPATH": str(PROJECT)}
        shown = subprocess.run(
            command, capture_output=True, text=True, cwd=folder, env=environment, check=True, timeout=60
        )
    head, row = shown.stdout.splitlines()
    assert head.split() == ["day", "key", "requests", "input_tokens", "output_tokens"]
    assert row.split()[1:3] == ["twice", "2"]


def test_over_two_gateways_clients_logs_metrics_usage_and_redis_agree(
    flowise: DemoServer, folder: Path, redis_url: str
) -> None:
    settings = {
        "FLOWISE_BASE_URL": flowise.base_url,
        "PROXY_STORE": redis_url.removesuffix("/0") + "/5",
        "PROXY_SECRET": "the same on both machines",
    }
    with (
        RunningProxy(write_file(folder / "one", 120), **settings) as one,
        RunningProxy(write_file(folder / "two", 120), **settings) as two,
    ):
        load = Load([one, two], 8)
        load.send(120)
        check_all_agree(load, [one, two], settings["PROXY_STORE"], 24)


def test_slots_are_one_number_over_two_gateways(folder: Path, redis_url: str) -> None:
    settings = {
        "PROXY_STORE": redis_url.removesuffix("/0") + "/6",
        "PROXY_SECRET": "the same on both machines",
    }
    lines = f"keys:\n{key_lines('narrow', 'a-key-of-three-slots', 'max_in_flight: 3')}\n"
    for name in ("one", "two"):
        (folder / name).mkdir()
        (folder / name / "proxy.yaml").write_text(lines)
    with (
        DemoServer("--token-seconds", "0.3") as slow,
        RunningProxy(folder / "one", FLOWISE_BASE_URL=slow.base_url, **settings) as one,
        RunningProxy(folder / "two", FLOWISE_BASE_URL=slow.base_url, **settings) as two,
    ):
        headers = {"Authorization": "Bearer a-key-of-three-slots"}
        streams = []
        for server in (one, two, one, two, one):
            answer = requests.post(
                server.url + CHAT, json={**HI, "stream": True}, headers=headers, timeout=30, stream=True
            )
            streams.append(answer)
        assert [stream.status_code for stream in streams] == [200, 200, 200, 429, 429]
        assert streams[3].json()["error"]["code"] == "rate_limit_exceeded"
        for stream in streams:
            stream.close()
        assert wait_for(
            lambda: requests.post(two.url + CHAT, json=HI, headers=headers, timeout=30).status_code == 200,
            20,
        ), "the slots of clients that left come back"
