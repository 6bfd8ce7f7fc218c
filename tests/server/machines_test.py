"""Several machines: two gateways on one Redis behind nginx, and the Redis stopped and started."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import requests
from openai import OpenAI

from flowise_gateway.storage.redis_store import RedisStore
from flowise_gateway.storage.store import WatchedStore
from tests.support.demo_server import DemoServer
from tests.support.processes import wait_for
from tests.support.redis_server import RedisServer
from tests.support.running_proxy import RunningProxy
from tests.support.two_gateways import HEADERS, KEY, TwoGateways

SECRET = "one secret for both machines"
MODEL = "demo-assistant"
LONG = "word " * 150
"""A question that is repeated, and takes three seconds so."""


@pytest.fixture(scope="module")
def words() -> Iterator[DemoServer]:
    """A demo Flowise that takes a while for an answer."""
    with DemoServer("--token-seconds", "0.02") as server:
        yield server


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Redis that keeps what it has over a stop and a start."""
    with RedisServer(tmp_path_factory.mktemp("redis"), "--appendonly", "yes") as server:
        yield server


@pytest.fixture(scope="module")
def machines(
    words: DemoServer, redis: RedisServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TwoGateways]:
    with ExitStack() as stack:
        folder = tmp_path_factory.mktemp("machines")
        yield TwoGateways(stack, words.base_url, redis.url, folder, PROXY_SECRET=SECRET)


def ask(machines: TwoGateways, at: str, text: str, **body: Any) -> Any:
    """A response by the gateway at this address."""
    answer = machines.post({"model": MODEL, "input": text, **body}, "/v1/responses", at)
    assert answer.status_code == 200, answer.text
    return answer.json()


def session_of(response: Any) -> str:
    return str(response["metadata"]["flowise_session_id"])


def test_chains_and_conversations_go_on_at_the_other_machine(machines: TwoGateways) -> None:
    one, other = machines.urls
    first = ask(machines, one, "Hello")
    second = ask(machines, other, "And on", previous_response_id=first["id"])
    third = ask(machines, one, "And on", previous_response_id=second["id"])
    assert session_of(first) == session_of(second) == session_of(third)
    assert "remember 4 earlier" in third["output"][-1]["content"][0]["text"]
    assert machines.get(f"/v1/responses/{second['id']}", one).json() == second
    chats = [
        machines.post(
            {"model": MODEL, "messages": [{"role": "user", "content": text}], "conversation_id": "ours"},
            at=at,
        )
        for text, at in (("Hello", one), ("And on", other), ("And on", one))
    ]
    assert "remember 4 earlier" in chats[2].json()["choices"][0]["message"]["content"]
    behind_nginx = ask(machines, machines.url, "And on", previous_response_id=third["id"])
    assert session_of(behind_nginx) == session_of(first)
    gone = requests.delete(f"{other}/v1/responses/{first['id']}", headers=HEADERS, timeout=10)
    assert gone.status_code == 200
    assert machines.get(f"/v1/responses/{first['id']}", one).status_code == 404


def test_a_background_response_is_polled_resumed_and_cancelled_at_the_other_machine(
    machines: TwoGateways,
) -> None:
    one, other = machines.urls
    clients = [OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0) for url in (one, other)]
    stream = clients[0].responses.create(model=MODEL, input=LONG, background=True, stream=True)
    seen: list[Any] = []
    for event in stream:
        seen.append(event)
        if event.type == "response.output_text.delta":
            break
    stream.response.close()
    response_id = seen[0].response.id
    assert clients[1].responses.retrieve(response_id).status == "in_progress"
    arrivals = []
    last = seen[-1].sequence_number
    for event in clients[1].responses.retrieve(response_id, stream=True, starting_after=last):
        seen.append(event)
        arrivals.append(time.monotonic())
    assert [event.sequence_number for event in seen] == list(range(len(seen)))
    assert seen[-1].type == "response.completed"
    assert arrivals[-1] - arrivals[0] > 0.5, "all came at once"
    assert clients[1].responses.retrieve(response_id).to_dict() == seen[-1].response.to_dict()
    begun = ask(machines, one, LONG, background=True)
    path = f"/v1/responses/{begun['id']}"
    assert machines.post({}, f"{path}/cancel", other).json()["status"] == "cancelled"
    assert machines.get(path, one).json()["status"] == "cancelled"


def test_redis_stops_and_starts_again_and_no_request_is_lost(
    machines: TwoGateways, redis: RedisServer, words: DemoServer
) -> None:
    one, other = machines.urls
    kept = ask(machines, one, "Hello")
    running = ask(machines, one, LONG, background=True)
    is_over = threading.Event()
    talks = ThreadPoolExecutor(4)

    def talk(number: int) -> list[str]:
        """A chat that resends all, as chat UIs do; what the flow remembered, turn by turn."""
        messages: list[Any] = []
        remembered = []
        while not is_over.is_set():
            messages.append({"role": "user", "content": f"question {len(messages)} of {number}"})
            body = {"model": MODEL, "messages": messages, "user": f"user-{number}"}
            answer = machines.post(body)
            assert answer.status_code == 200, answer.text
            text = answer.json()["choices"][0]["message"]["content"]
            messages.append({"role": "assistant", "content": text})
            remembered.append(text.partition("I remember ")[2].partition(" ")[0])
        return remembered

    under_way = [talks.submit(talk, number) for number in range(4)]
    time.sleep(1)
    redis.stop()
    missing = machines.get(f"/v1/responses/{kept['id']}", other)
    assert (missing.status_code, missing.json()["error"]["code"]) == (503, "store_unavailable")
    time.sleep(2)
    redis.start()

    def are_well() -> bool:
        return all(machines.get("/ready", url).json()["store_error"] is None for url in machines.urls)

    def is_read(url: str) -> bool:
        return bool(machines.get(f"/v1/responses/{kept['id']}", url).ok)

    assert wait_for(lambda: is_read(one) and is_read(other) and are_well(), 10)
    time.sleep(1)
    is_over.set()
    for told in under_way:
        remembered = told.result(60)
        assert remembered == [str(2 * turn) for turn in range(len(remembered))]
        assert len(remembered) > 2
    after = ask(machines, other, "And on", previous_response_id=kept["id"])
    assert session_of(after) == session_of(kept)
    path = f"/v1/responses/{running['id']}"
    states: list[str] = []

    def is_completed() -> bool:
        states.append(machines.get(path, other).json()["status"])
        return states[-1] == "completed"

    assert wait_for(is_completed, 20), states
    assert set(states) <= {"queued", "in_progress", "completed"}
    assert b"response.completed" in machines.get(f"{path}?stream=true", other).content


def test_two_machines_with_two_secrets_are_told(
    words: DemoServer, redis: RedisServer, tmp_path: Path
) -> None:
    store = f"{redis.url.removesuffix('0')}1"
    other = WatchedStore(RedisStore(store), secret=b"the secret of another machine")
    assert other.secret_error is None
    with RunningProxy(tmp_path, FLOWISE_BASE_URL=words.base_url, PROXY_STORE=store) as server:
        assert "set the same one on all machines" in server.log()

        def secret_error() -> str:
            return str(requests.get(f"{server.url}/ready", timeout=10).json()["secret_error"])

        assert wait_for(lambda: "PROXY_SECRET" in secret_error(), 5)
        assert server.log().count("with a different PROXY_SECRET") == 1
