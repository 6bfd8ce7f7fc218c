"""Every answer and chunk of the server is what OpenAI's API sends, over real sockets and the demo flows."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
import requests

from tests.support.demo_server import DemoServer
from tests.support.openai_check import valid
from tests.support.running_proxy import RunningProxy

FLOWS = ["demo-assistant", "demo-agent", "demo-sources", "demo-json", "demo-approval"]
STREAMED: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}}


def chat(proxy: RunningProxy, model: str, text: str = "Hello", **more: Any) -> requests.Response:
    """Ask for a chat completion."""
    body = {"model": model, "messages": [{"role": "user", "content": text}], **more}
    # An idle kept-alive connection would hold up the server's end.
    headers = {"Connection": "close"}
    return requests.post(f"{proxy.url}/v1/chat/completions", json=body, headers=headers, timeout=30)


def chunks(answer: requests.Response) -> list[dict[str, Any]]:
    """The JSON events of a stream, without `[DONE]`."""
    frames = [frame for frame in answer.content.split(b"\n\n") if frame.startswith(b"data: {")]
    return [orjson.loads(frame[6:]) for frame in frames]


def text_of(answer: requests.Response) -> str:
    """The joined content of a stream's first choice."""
    return "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks(answer) if c.get("choices"))


@pytest.mark.parametrize("model", FLOWS)
def test_a_chat_completion_is_valid(proxy: RunningProxy, model: str) -> None:
    answer = chat(proxy, model)
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "application/json"
    assert int(answer.headers["Content-Length"]) == len(answer.content)
    valid("chat.response", answer.content)
    assert answer.json()["model"] == model


@pytest.mark.parametrize("more", [{"stream": True}, STREAMED], ids=["plain", "with usage"])
@pytest.mark.parametrize("model", FLOWS)
def test_a_chat_stream_is_valid(proxy: RunningProxy, model: str, more: dict[str, Any]) -> None:
    answer = chat(proxy, model, **more)
    assert answer.headers["Content-Type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["Cache-Control"] == "no-cache"
    assert answer.headers["X-Accel-Buffering"] == "no"
    assert "Content-Length" not in answer.headers
    valid("chat.stream", answer.content)
    assert answer.content.endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize("model", FLOWS)
def test_stream_and_body_say_the_same(proxy: RunningProxy, model: str) -> None:
    body, stream = chat(proxy, model), chat(proxy, model, **STREAMED)
    message = body.json()["choices"][0]["message"]
    assert text_of(stream) == message["content"]
    reasoning = "".join(
        c["choices"][0]["delta"].get("reasoning_content") or "" for c in chunks(stream) if c["choices"]
    )
    assert reasoning == message.get("reasoning_content", "")
    assert chunks(stream)[-1]["usage"] == body.json()["usage"]


def test_the_first_chunk_is_the_role_with_empty_content(proxy: RunningProxy) -> None:
    first = chunks(chat(proxy, "demo-assistant", stream=True))[0]["choices"][0]
    assert first["delta"] == {"role": "assistant", "content": "", "refusal": None}
    assert first["finish_reason"] is None


def test_usage_comes_only_when_asked_for_and_is_null_before(proxy: RunningProxy) -> None:
    assert all("usage" not in chunk for chunk in chunks(chat(proxy, "demo-assistant", stream=True)))
    *before, last = chunks(chat(proxy, "demo-assistant", **STREAMED))
    assert all(chunk["usage"] is None for chunk in before)
    assert last["choices"] == []
    assert last["usage"]["total_tokens"] > 0


def test_a_flow_that_cannot_stream_gives_a_whole_stream(proxy: RunningProxy) -> None:
    answer = chat(proxy, "demo-json", stream=True)
    contents = [c["choices"][0]["delta"].get("content") for c in chunks(answer) if c["choices"]]
    assert len([content for content in contents if content]) == 1
    assert chunks(answer)[-1]["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize("stream", [False, True])
def test_a_completion_is_valid(proxy: RunningProxy, stream: bool) -> None:
    body = {"model": "demo-assistant", "prompt": ["One.", "Two."], "stream": stream, "echo": True}
    answer = requests.post(f"{proxy.url}/v1/completions", json=body, timeout=30)
    valid("completion.stream" if stream else "completion.response", answer.content)
    if stream:
        texts = ["", ""]
        for chunk in chunks(answer):
            texts[chunk["choices"][0]["index"]] += chunk["choices"][0]["text"]
    else:
        texts = [choice["text"] for choice in answer.json()["choices"]]
    assert texts[0].startswith("One.")
    assert "One." in texts[0][4:]
    assert "Two." in texts[1][4:]


def test_n_asks_for_as_many_runs(proxy: RunningProxy, demo: DemoServer) -> None:
    demo.clear()
    answer = chat(proxy, "demo-assistant", n=3)
    assert [choice["index"] for choice in answer.json()["choices"]] == [0, 1, 2]
    assert len(demo.records()) == 3
    valid("chat.stream", chat(proxy, "demo-assistant", n=2, stream=True).content)


def test_stop_ends_the_answer_and_the_run(proxy: RunningProxy, demo: DemoServer) -> None:
    answer = chat(proxy, "demo-agent-errors", "slow please", stop=["d2 w"], stream=True)
    valid("chat.stream", answer.content)
    assert text_of(answer) == "word0 word1 wor"
    assert (
        chat(proxy, "demo-assistant", "Hello", stop="asked")
        .json()["choices"][0]["message"]["content"]
        .endswith("You ")
    )


def test_models_are_valid_and_each_can_be_looked_up(proxy: RunningProxy) -> None:
    answer = requests.get(f"{proxy.url}/v1/models", timeout=5)
    valid("models", answer.content)
    ids = [model["id"] for model in answer.json()["data"]]
    assert set(FLOWS) <= set(ids)
    for name in (*ids, "5518949f-3ebc-4082-af01-fa2a18623da6"):
        one = requests.get(f"{proxy.url}/v1/models/{name}", timeout=5)
        valid("model", one.content)
    missing = requests.get(f"{proxy.url}/v1/models/nothing", timeout=5)
    assert missing.status_code == 404
    valid("error", missing.content)


@pytest.mark.parametrize("prefix", ["", "/v1", "/openai/v1", "/v1/", "//v1/", "/openai/deployments/x y"])
@pytest.mark.parametrize("ending", ["", "/"])
def test_routes_answer_under_every_prefix(proxy: RunningProxy, prefix: str, ending: str) -> None:
    prefix = prefix.replace("x y", "demo-assistant")
    body = {"model": "demo-assistant", "messages": [{"role": "user", "content": "Hello"}]}
    answer = requests.post(
        f"{proxy.url}{prefix}/chat/completions{ending}?api-version=2024-10-21", json=body, timeout=30
    )
    valid("chat.response", answer.content)


def test_the_deployment_in_the_path_wins(proxy: RunningProxy) -> None:
    body = {"model": "gpt-3.5-turbo", "messages": [{"role": "user", "content": "Hello"}]}
    url = f"{proxy.url}/openai/deployments/demo-sources/chat/completions"
    assert requests.post(url, json=body, timeout=30).json()["model"] == "demo-sources"
    unknown = requests.post(url.replace("demo-sources", "nothing%201"), json=body, timeout=30)
    assert unknown.status_code == 404
    assert unknown.json()["error"]["code"] == "DeploymentNotFound"


def test_head_options_404_and_405_are_answered_in_openais_shape(proxy: RunningProxy) -> None:
    head = requests.head(f"{proxy.url}/v1/models", timeout=5)
    assert (head.status_code, head.content) == (200, b"")
    assert requests.options(f"{proxy.url}/v1/chat/completions", timeout=5).status_code == 204
    unknown = requests.post(f"{proxy.url}/v1/embeddings", json={}, timeout=5)
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "unknown_url")
    wrong = requests.get(f"{proxy.url}/v1/chat/completions", timeout=5)
    assert (wrong.status_code, wrong.headers["Allow"]) == (405, "POST")
    for answer in (unknown, wrong):
        valid("error", answer.content)
        assert answer.headers["x-request-id"].startswith("req_")


def test_a_request_id_of_the_caller_is_kept_and_goes_to_flowise(
    proxy: RunningProxy, demo: DemoServer
) -> None:
    demo.clear()
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    body = {"model": "demo-assistant", "messages": [{"role": "user", "content": "Hello"}]}
    sent = {"X-Request-Id": "mine-1", "traceparent": trace, "Cookie": "a=b", "Origin": proxy.url}
    answer = requests.post(f"{proxy.url}/v1/chat/completions", json=body, headers=sent, timeout=30)
    assert answer.headers["x-request-id"] == "mine-1"
    record = demo.records()[-1]
    got = {name.lower(): value for name, value in record["headers"].items()}
    assert got["x-request-id"] == "mine-1"
    assert got["traceparent"] == trace
    assert got["x-forwarded-for"] == "127.0.0.1"
    assert not {"origin", "cookie", "x-request-from", "flowise-tool"} & set(got)
    assert answer.headers["x-flowise-chat-id"] == record["body"]["chatId"]


def test_what_reaches_flowise_is_the_question_the_history_and_the_system_text(
    proxy: RunningProxy, demo: DemoServer
) -> None:
    demo.clear()
    messages = [
        {"role": "system", "content": "Be brief."},
        {
            "role": "user",
            "content": [{"type": "text", "text": "My name"}, {"type": "text", "text": "is Ann."}],
        },
        {"role": "assistant", "content": "Hello Ann."},
        {"role": "user", "content": "Who am I?"},
    ]
    body = {"model": "demo-assistant", "messages": messages, "temperature": 0.5, "seed": 3, "foo": 1}
    answer = requests.post(f"{proxy.url}/v1/chat/completions", json=body, timeout=30)
    sent = demo.records()[-1]["body"]
    assert sent["question"].endswith("\n\nWho am I?")
    assert "Be brief." in sent["question"]
    assert sent["history"] == [
        {"role": "userMessage", "content": "My name\nis Ann."},
        {"role": "apiMessage", "content": "Hello Ann."},
    ]
    assert answer.headers["x-flowise-ignored-params"] == "temperature, seed"


def test_json_is_read_whatever_its_content_type_says(proxy: RunningProxy) -> None:
    raw = orjson.dumps({"model": "demo-assistant", "messages": [{"role": "user", "content": "Hello"}]})
    for kind in ("application/x-www-form-urlencoded", "text/plain", ""):
        headers = {"Content-Type": kind} if kind else {}
        answer = requests.post(f"{proxy.url}/v1/chat/completions", data=raw, headers=headers, timeout=30)
        assert answer.status_code == 200
