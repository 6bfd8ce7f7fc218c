"""Clients that decide by a failure's words are told of it in words after which they do not ask again."""

from __future__ import annotations

import json

import pytest
import requests

from tests.support.running_proxy import RunningProxy

OPENCODE = {"User-Agent": "opencode/1.18.33 ai-sdk/provider-utils/4.0.40 runtime/bun/1.3.14"}
CONTINUE = {"User-Agent": "ls/JS 5.23.2"}
LITELLM = {"User-Agent": "OpenAI/Python 2.20.0", "X-Stainless-Raw-Response": "true"}
OTHERS = (
    {"User-Agent": "OpenAI/Python 2.20.0"},
    {"User-Agent": "curl/8.5.0", "X-Stainless-Raw-Response": "true"},
)
READERS = {"opencode": OPENCODE, "Continue": CONTINUE, "LiteLLM": LITELLM}


def failure(
    server: RunningProxy, headers: dict[str, str], word: str, path: str, **body: object
) -> requests.Response:
    """The answer of a flow that fails as the word says."""
    asked: dict[str, object] = (
        {"input": word} if path == "responses" else {"messages": [{"role": "user", "content": word}]}
    )
    asked |= {"model": "demo-errors", **body}
    return requests.post(f"{server.url}/v1/{path}", json=asked, headers=headers, timeout=30)


def events(answer: requests.Response) -> list[dict[str, object]]:
    """The events of a stream."""
    lines = answer.content.decode().splitlines()
    return [json.loads(line[6:]) for line in lines if line.startswith("data: {")]


@pytest.mark.parametrize("path", ["chat/completions", "responses"])
@pytest.mark.parametrize("client", READERS)
@pytest.mark.parametrize("stream", [False, True])
def test_a_failure_before_the_first_word(proxy: RunningProxy, client: str, path: str, stream: bool) -> None:
    answer = failure(proxy, READERS[client], "fail500", path, stream=stream)
    error = answer.json()["error"]
    assert answer.status_code == 400
    assert error["message"] == "The flow failed while it ran: 5\N{WORD JOINER}00 The fake model broke"
    limited = failure(proxy, READERS[client], "fail429", path, stream=stream).json()["error"]
    assert limited["code"] == "flow_failed"


@pytest.mark.parametrize("client", READERS)
def test_a_failure_in_the_middle_of_a_chat(proxy: RunningProxy, client: str) -> None:
    told = events(failure(proxy, READERS[client], "failmid", "chat/completions", stream=True))[-1]["error"]
    suffix = " (invalid_request_error)" if client == "LiteLLM" else ""
    assert isinstance(told, dict)
    assert told["message"] == f"The flow failed while it ran: t\N{WORD JOINER}erminated{suffix}"


def test_a_failure_in_the_middle_of_a_response(proxy: RunningProxy) -> None:
    event, end = events(failure(proxy, OPENCODE, "failmid", "responses", stream=True))[-2:]
    assert event["code"] == "invalid_prompt"
    assert event["message"] == "The flow failed while it ran: t\N{WORD JOINER}erminated"
    assert isinstance(end["response"], dict)
    assert end["response"]["error"] == {"code": "invalid_prompt", "message": event["message"]}


@pytest.mark.parametrize("headers", OTHERS)
def test_others_are_told_in_the_flows_own_words(proxy: RunningProxy, headers: dict[str, str]) -> None:
    for path in ("chat/completions", "responses"):
        error = failure(proxy, headers, "fail500", path).json()["error"]
        assert error["message"] == "The flow failed while it ran: 500 The fake model broke"
        assert failure(proxy, headers, "fail429", path).json()["error"]["code"] == "provider_rate_limited"
    told = events(failure(proxy, headers, "failmid", "chat/completions", stream=True))[-1]["error"]
    assert isinstance(told, dict)
    assert told["message"] == "The flow failed while it ran: terminated"


def test_nothing_is_changed_where_another_try_is_safe(proxy: RunningProxy) -> None:
    answer = failure(proxy, OPENCODE, "unavailable", "chat/completions")
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "flowise_unavailable"
    assert "\N{WORD JOINER}" not in answer.text
