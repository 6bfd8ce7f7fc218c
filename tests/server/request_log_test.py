"""The log line of a request, and that its tokens are those of the answer and of the metrics."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.server.serving_test import raw_chat
from tests.support.demo_server import DemoServer
from tests.support.log_lines import BACKGROUND, REQUEST, SOCKET, line, lines
from tests.support.metrics_text import counted, scraped
from tests.support.running_proxy import RunningProxy
from tests.support.saying_flowise import FLOW, SayingFlowise, token
from tests.support.websocket_client import SocketClient

CHAT, RESPONSES = "/v1/chat/completions", "/v1/responses"
HI = {"messages": [{"role": "user", "content": "Hello"}]}


@pytest.fixture(scope="module")
def proxy(flowise: DemoServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningProxy]:
    """A server in front of the demo flows."""
    with RunningProxy(tmp_path_factory.mktemp("proxy"), FLOWISE_BASE_URL=flowise.base_url) as running:
        yield running


def post(proxy: RunningProxy, path: str, request_id: str, **body: Any) -> requests.Response:
    """The answer to a request with this id."""
    headers = {"Connection": "close", "x-request-id": request_id}
    answer = requests.post(proxy.url + path, json=body, headers=headers, timeout=30)
    assert answer.status_code == 200, answer.text
    return answer


def last_usage(stream: bytes) -> dict[str, int]:
    """The usage in the last chunk of a stream that has one."""
    frames = [part.removeprefix(b"data: ") for part in stream.split(b"\n\n")[:-1]]
    chunks = [json.loads(frame) for frame in frames if frame.startswith(b"{")]
    usage: dict[str, int] = next(chunk["usage"] for chunk in reversed(chunks) if chunk.get("usage"))
    return usage


def tokens_in_metrics(proxy: RunningProxy, model: str) -> dict[tuple[str, str], float]:
    """What is counted of a model's tokens, by direction and source."""
    return {
        (has["direction"], has["source"]): value
        for name, has, value in scraped(proxy).samples
        if name == "tokens_total" and has["model"] == model
    }


# The demo's agent reports the tokens of its runs, its assistant does not.
@pytest.mark.parametrize(("model", "source"), [("demo-agent", "reported"), ("demo-assistant", "estimated")])
def test_tokens_of_answer_log_and_metrics_are_the_same(
    flowise: DemoServer, tmp_path: Path, model: str, source: str
) -> None:
    with RunningProxy(tmp_path, FLOWISE_BASE_URL=flowise.base_url) as proxy:
        usages = [post(proxy, CHAT, "whole", model=model, **HI).json()["usage"]]
        usages.append(post(proxy, CHAT, "choices", model=model, n=2, **HI).json()["usage"])
        options = {"stream": True, "stream_options": {"include_usage": True}}
        usages.append(last_usage(post(proxy, CHAT, "stream", model=model, **options, **HI).content))
        for request_id in ("whole", "choices", "stream"):
            usage, logged = usages.pop(0), line(proxy, request_id=request_id)
            assert (logged["tokens_in"], logged["tokens_out"], logged["tokens_source"]) == (
                usage["prompt_tokens"],
                usage["completion_tokens"],
                source,
            )
        response = post(proxy, RESPONSES, "response", model=model, input="Hello").json()["usage"]
        logged = line(proxy, request_id="response")
        assert (logged["tokens_in"], logged["tokens_out"]) == (
            response["input_tokens"],
            response["output_tokens"],
        )
        # A stream that shows no usage is counted alike.
        post(proxy, CHAT, "silent", model=model, stream=True, **HI)
        assert line(proxy, request_id="silent")["tokens_in"] == line(proxy, request_id="stream")["tokens_in"]
        with SocketClient(proxy.url) as client:
            end = client.ask(model=model)[-1]["response"]
        logged = line(proxy, SOCKET, response_id=end["id"])
        assert logged["tokens_out"] == end["usage"]["output_tokens"]
        created = post(proxy, RESPONSES, "queued", model=model, input="Hello", background=True).json()
        logged = line(proxy, BACKGROUND, response_id=created["id"])
        ended = requests.get(f"{proxy.url}{RESPONSES}/{created['id']}", timeout=30).json()
        assert logged["tokens_out"] == ended["usage"]["output_tokens"]
        assert "tokens_in" not in line(proxy, request_id="queued", message=REQUEST)
        found = lines(proxy, model=model, tokens_source=source)
        assert len(found) == 7
        assert tokens_in_metrics(proxy, model) == {
            ("input", source): sum(one["tokens_in"] for one in found),
            ("output", source): sum(one["tokens_out"] for one in found),
        }


def test_a_stream_that_its_client_left_costs_what_had_come(proxy: RunningProxy, tmp_path: Path) -> None:
    with (
        SayingFlowise() as flowise,
        RunningProxy(tmp_path, FLOWISE_BASE_URL=flowise.base_url) as server,
    ):
        flowise.streams(token("one two three four"), 20.0)
        with raw_chat(server, FLOW, "Hello", stream=True) as raw:
            while b"four" not in raw.recv(4096):
                pass
        logged = line(server, outcome="client_gone")
        assert logged["tokens_source"] == "estimated"
        assert (logged["tokens_in"], logged["tokens_out"]) == (2, 4)
        # Nothing had come of this one: it may not have begun.
        flowise.streams(20.0)
        with raw_chat(server, FLOW, "Hello", stream=True):
            assert counted(server, "runs_open", 1)
        assert counted(server, "requests_total", 2, outcome="client_gone")
        assert "tokens_in" not in lines(server, outcome="client_gone")[-1]
        assert scraped(server).sum("tokens_total") == 6


def test_an_answer_without_a_run_has_no_tokens(proxy: RunningProxy) -> None:
    post(proxy, RESPONSES, "warm", model="demo-agent", input="Hello", generate=False)
    assert "tokens_in" not in line(proxy, request_id="warm")
    assert requests.get(f"{proxy.url}/v1/models", headers={"x-request-id": "list"}, timeout=30).ok
    assert "tokens_in" not in line(proxy, request_id="list")


def test_a_message_over_a_socket_has_its_own_line_and_outcome(proxy: RunningProxy) -> None:
    with SocketClient(proxy.url, headers={"x-request-id": "socket"}) as client:
        client.ask("Hello")
        client.ask("fail500", model="demo-errors")
        client.ask("Hello", model="no-such-model")
        client.say({"type": "response.steer", "previous_response_id": 1, "input": "x"})
        assert client.event()["type"] == "error"
    connection = line(proxy, request_id="socket", message=REQUEST)
    assert (connection["status"], connection["outcome"]) == (101, "ok")
    assert "model" not in connection
    found = [
        (one.get("model"), one["status"], one["outcome"]) for one in lines(proxy, SOCKET, request_id="socket")
    ]
    assert found == [
        ("demo-agent", 200, "ok"),
        ("demo-errors", 400, "flow_failed"),
        (None, 404, "model_not_found"),
    ]


def test_the_end_of_a_background_response_has_its_own_line(proxy: RunningProxy) -> None:
    options: dict[str, Any] = {"background": True, "store": True}
    failing = post(proxy, RESPONSES, "failing", model="demo-errors", input="failmid", **options).json()
    assert line(proxy, BACKGROUND, response_id=failing["id"])["outcome"] == "flow_failed"
    queued = line(proxy, REQUEST, request_id="failing")
    assert (queued["outcome"], queued["status"], queued["model"]) == ("ok", 200, "demo-errors")
    slow = post(proxy, RESPONSES, "slow", model="demo-errors", input="stall30", **options).json()
    assert requests.post(f"{proxy.url}{RESPONSES}/{slow['id']}/cancel", timeout=30).ok
    assert line(proxy, BACKGROUND, response_id=slow["id"])["outcome"] == "cancelled"
