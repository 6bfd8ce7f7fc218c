"""The log line of a request, and that its tokens are those of the answer and of the metrics."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from flowise_gateway.conformance.websocket_client import SocketClient
from tests.server.serving_test import raw_chat
from tests.support.demo_server import DemoServer
from tests.support.log_lines import BACKGROUND, REQUEST, SOCKET, line, lines
from tests.support.metrics_text import counted, scraped
from tests.support.processes import free_port
from tests.support.running_proxy import RunningProxy
from tests.support.saying_flowise import FLOW, SayingFlowise, token

CHAT, RESPONSES = "/v1/chat/completions", "/v1/responses"
HI = {"messages": [{"role": "user", "content": "Hello"}]}


@pytest.fixture(scope="module")
def proxy(flowise: DemoServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningProxy]:
    """A server in front of the demo flows, behind a proxy of this machine."""
    settings = {"FLOWISE_BASE_URL": flowise.base_url, "PROXY_TRUSTED_PROXIES": "127.0.0.1"}
    with RunningProxy(tmp_path_factory.mktemp("proxy"), **settings) as running:
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


TRACE = "0af7651916cd43dd8448eb211c80319c"
PROXIED = {
    "x-request-id": "proxied",
    "traceparent": f"00-{TRACE}-b7ad6b7169203331-01",
    "User-Agent": "Chat/2.0 sk-live-0123456789abcdef",
    "X-Forwarded-For": "192.0.2.1, 198.51.100.7",
    "X-Forwarded-Proto": "https",
    "X-Forwarded-Host": "ai.example.com",
    "X-Forwarded-Prefix": "/flows",
    "Connection": "close",
}


def test_a_line_holds_who_asked_what_and_what_it_took(proxy: RunningProxy, flowise: DemoServer) -> None:
    flowise.clear()
    body = {
        "model": "demo-files",
        "user": "ann@example.com",
        "conversation_id": "conversation-7",
        "stream": True,
        **HI,
    }
    answer = requests.post(proxy.url + CHAT, json=body, headers=PROXIED, timeout=30)
    assert answer.status_code == 200
    logged = line(proxy, request_id="proxied")
    sent = flowise.records()[-1]
    assert 0 < logged.pop("ttft_ms") <= logged.pop("ms")
    assert len(logged.pop("user")) == len(logged.pop("conversation")) == 16
    assert logged.pop("tokens_in") > 0
    assert logged.pop("tokens_out") > 0
    assert logged.pop("time").endswith("Z")
    assert logged == {
        "level": "info",
        "logger": "proxy.request",
        "message": "request",
        "method": "POST",
        "path": CHAT,
        "request_id": "proxied",
        "trace_id": TRACE,
        "client": "198.51.100.7",
        "user_agent": "Chat/2.0 [redacted]",
        "caller": "anonymous",
        "model": "demo-files",
        "flowise": "default",
        "flow": logged["flow"],
        "chat_id": sent["body"]["chatId"],
        "stream": True,
        "status": 200,
        "outcome": "ok",
        "tokens_source": logged["tokens_source"],
    }
    assert logged["flow"] in requests.get(f"{flowise.base_url}/chatflows", timeout=30).text
    assert not {"ann@example.com", "conversation-7"} & set(proxy.log().split('"'))
    headers = {name.lower(): value for name, value in sent["headers"].items()}
    assert headers["x-forwarded-for"] == "198.51.100.7"
    assert b"https://ai.example.com/flows/v1/flowise/files/" in answer.content


def test_one_user_and_conversation_have_one_hash_that_only_the_secret_gives(
    flowise: DemoServer, tmp_path: Path
) -> None:
    found = []
    for secret in ("first secret 0001", "other secret 0002"):
        (folder := tmp_path / secret).mkdir()
        with RunningProxy(folder, FLOWISE_BASE_URL=flowise.base_url, PROXY_SECRET=secret) as server:
            for request_id, user in (("a", "ann"), ("b", "ann"), ("c", "bob")):
                post(server, CHAT, request_id, model="demo-assistant", user=user, conversation_id=user, **HI)
            hashes = [line(server, request_id=name) for name in "abc"]
            assert hashes[0]["user"] == hashes[1]["user"] != hashes[2]["user"] != hashes[2]["conversation"]
            assert hashes[0]["conversation"] == hashes[1]["conversation"] != hashes[2]["conversation"]
            found.append(hashes[0]["user"])
    assert found[0] != found[1]


def test_nobody_is_believed_who_is_no_trusted_proxy(flowise: DemoServer, tmp_path: Path) -> None:
    flowise.clear()
    with RunningProxy(tmp_path, FLOWISE_BASE_URL=flowise.base_url) as server:
        body = {"model": "demo-files", **HI}
        answer = requests.post(server.url + CHAT, json=body, headers=PROXIED, timeout=30)
        assert f"{server.url}/v1/flowise/files/".encode() in answer.content
        assert b"ai.example.com" not in answer.content
        assert line(server, request_id="proxied")["client"] == "127.0.0.1"
    headers = {name.lower(): value for name, value in flowise.records()[-1]["headers"].items()}
    assert headers["x-forwarded-for"] == "127.0.0.1"


def test_a_forwarded_host_does_not_open_a_server_without_keys(proxy: RunningProxy) -> None:
    # A web page whose name was made to lead here may send any header but Host.
    headers = {"Host": "evil.example", "X-Forwarded-Host": "localhost", "Connection": "close"}
    refused = requests.get(f"{proxy.url}/v1/models", headers=headers, timeout=30)
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "host_not_allowed")


def test_prompts_are_logged_only_where_that_is_asked_for_and_without_secrets(
    proxy: RunningProxy, flowise: DemoServer, tmp_path: Path
) -> None:
    said = "My canary is yellow. password: canary-pass data:image/png;base64,Y2FuYXJ5Y2FuYXJ5 \nBye"
    body = {"messages": [{"role": "user", "content": said}]}
    post(proxy, CHAT, "private", model="demo-assistant", **body)
    assert not {"prompt", "answer"} & set(line(proxy, request_id="private"))
    assert "canary" not in proxy.log()
    assert "PROXY_LOG_PROMPTS" not in proxy.log()
    with RunningProxy(tmp_path, FLOWISE_BASE_URL=flowise.base_url, PROXY_LOG_PROMPTS="true") as server:
        [warned] = [one for one in lines(server) if "PROXY_LOG_PROMPTS" in one["message"]]
        assert warned["level"] == "warning"
        answers = [
            post(server, CHAT, "whole", model="demo-assistant", **body).json()["choices"][0]["message"][
                "content"
            ]
        ]
        post(server, CHAT, "stream", model="demo-assistant", stream=True, **body)
        created = post(
            server, RESPONSES, "queued", model="demo-assistant", input=said, background=True
        ).json()
        with SocketClient(server.url) as client:
            client.ask(said, model="demo-assistant")
        found = [
            line(server, request_id="whole"),
            line(server, request_id="stream"),
            line(server, BACKGROUND, response_id=created["id"]),
            line(server, SOCKET),
        ]
        for logged in found:
            assert logged["prompt"] == "My canary is yellow. password: [redacted] [data URI, image/png] \nBye"
            assert logged["answer"].startswith(answers[0][:20])
        assert "canary-pass" not in server.log()
        assert "Y2FuYXJ5" not in server.log()


def test_a_store_that_is_away_is_told_once_and_counted(flowise: DemoServer, tmp_path: Path) -> None:
    store = {"PROXY_STORE": f"redis://127.0.0.1:{free_port()}/0", "PROXY_SECRET": "x" * 16}
    with RunningProxy(tmp_path, FLOWISE_BASE_URL=flowise.base_url, **store) as server:
        for number in range(5):
            post(server, CHAT, f"r{number}", model="demo-assistant", conversation_id="c", **HI)
        assert scraped(server).sum("store_errors_total") >= 5
        told = [one for one in lines(server) if one["logger"] == "flowise_gateway.web.services"]
        assert [one["level"] for one in told] == ["error"]
        assert scraped(server).sum("log_messages_total", source="store", level="error") == 1
        assert not [text for text in server.log().splitlines() if not text.startswith("{")]
