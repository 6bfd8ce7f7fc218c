"""Each failure has its status, type and code; the status tells whether sending again is safe."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.server.wire_test import chat, chunks, text_of
from tests.support.demo_server import DemoServer
from tests.support.openai_check import valid
from tests.support.processes import wait_for
from tests.support.running_proxy import RunningProxy

# word in the question -> status, code, runs that Flowise saw, whether an SDK may try again
REFUSED = {
    "fail500": (400, "flow_failed"),
    "fail401": (400, "provider_auth"),
    "fail429": (400, "provider_rate_limited"),
    "failctx": (400, "context_length_exceeded"),
    "failfilter": (400, "content_filter"),
    "failquota": (429, "insufficient_quota"),
    "ratelimit": (429, "rate_limit_exceeded"),
    "unavailable": (503, "flowise_unavailable"),
    "badgateway": (400, "flowise_bad_answer"),
    "gatewaytimeout": (400, "flowise_bad_answer"),
    "html": (400, "flowise_misconfigured"),
    "redirect": (400, "flowise_misconfigured"),
    "badjson": (400, "flowise_bad_answer"),
}
BROKEN = ["failmid", "cut", "cutchunk", "reset", "badchunk", "nolength"]
LEAKS = ("sk-fake", "127.0.0.1", "stack", "predictionsServices", "Traceback", "localhost")


@pytest.fixture(scope="module")
def hasty(demo: DemoServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningProxy]:
    """A server with short limits, and run errors as 502."""
    folder = tmp_path_factory.mktemp("hasty")
    limits = {
        "FLOWISE_REQUEST_TIMEOUT": "0.6",
        "FLOWISE_STREAM_IDLE_TIMEOUT": "0.6",
        "FLOWISE_RUN_TIMEOUT": "1.2",
        "PROXY_RUN_ERROR_STATUS": "502",
        "FLOWISE_BASE_URL": demo.base_url,
    }
    with RunningProxy(folder, **limits) as server:
        yield server


@pytest.mark.parametrize("stream", [False, True], ids=["json", "stream"])
@pytest.mark.parametrize("word", REFUSED)
def test_a_failure_before_the_first_word_is_a_status(proxy: RunningProxy, word: str, stream: bool) -> None:
    answer = chat(proxy, "demo-errors", f"please {word}", stream=stream)
    assert answer.headers["Content-Type"] == "application/json", answer.text
    valid("error", answer.content)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == REFUSED[word]
    assert not [leak for leak in LEAKS if leak in answer.text]
    assert answer.headers["x-request-id"]
    nothing_ran = word in ("ratelimit", "unavailable")
    assert ("Retry-After" in answer.headers) == nothing_ran
    assert (answer.headers.get("x-should-retry") == "false") == (not nothing_ran)


@pytest.mark.parametrize("word", BROKEN)
@pytest.mark.parametrize("flow", ["demo-errors", "demo-agent-errors"])
def test_a_stream_that_breaks_ends_with_an_error_and_never_with_stop(
    proxy: RunningProxy, flow: str, word: str
) -> None:
    answer = chat(proxy, flow, f"please {word}", stream=True)
    valid("chat.stream", answer.content, strict=False)
    *before, last = chunks(answer)
    assert text_of(answer)
    assert last["error"]["code"] in ("flow_failed", "flowise_bad_answer")
    assert answer.content.endswith(b"data: [DONE]\n\n")
    assert all(choice["finish_reason"] is None for chunk in before for choice in chunk["choices"])
    assert not [leak for leak in LEAKS if leak in answer.text]


@pytest.mark.parametrize("word", ["failmid", "reset", "cutchunk", "badchunk"])
def test_a_body_that_breaks_is_an_error_after_which_the_flow_may_have_run(
    proxy: RunningProxy, word: str
) -> None:
    answer = chat(proxy, "demo-errors", f"please {word}")
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] in ("flow_failed", "flowise_bad_answer")
    assert answer.headers["x-should-retry"] == "false"


def test_an_empty_stream_is_an_error_and_an_empty_body_a_warning(proxy: RunningProxy) -> None:
    streamed = chat(proxy, "demo-errors", "empty", stream=True)
    assert (streamed.status_code, streamed.json()["error"]["code"]) == (400, "empty_answer")
    for word in ("empty", "emptybody"):
        whole = chat(proxy, "demo-errors", word)
        assert whole.status_code == 200, whole.text
        assert whole.json()["choices"][0]["message"]["content"] == ""
        assert whole.json()["flowise"]["warnings"]


@pytest.mark.parametrize("word", ["oddframes", "oldframing", "unicode", "markdown", "huge", "noend"])
@pytest.mark.parametrize("flow", ["demo-errors", "demo-agent-errors"])
def test_odd_streams_are_read_whole(proxy: RunningProxy, flow: str, word: str) -> None:
    if word == "noend" and flow == "demo-errors":
        return  # a chatflow does not tell that its text is complete
    answer = chat(proxy, flow, word, stream=True)
    valid("chat.stream", answer.content)
    assert text_of(answer)
    if word == "huge":
        assert len(text_of(answer)) >= 2_000_000


@pytest.mark.parametrize(
    ("word", "setting"),
    [
        ("hang", "FLOWISE_REQUEST_TIMEOUT"),
        ("silent", "FLOWISE_STREAM_IDLE_TIMEOUT"),
        ("heartbeats", "FLOWISE_RUN_TIMEOUT"),
    ],
)
def test_each_limit_names_its_setting_and_ends_the_run(
    hasty: RunningProxy, demo: DemoServer, word: str, setting: str
) -> None:
    aborts = demo.stats()["aborts"]
    answer = chat(hasty, "demo-errors", word, stream=True)
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "flowise_timeout")
    assert setting in answer.json()["error"]["message"]
    assert wait_for(lambda: demo.stats()["aborts"] == aborts + 1, 5)


def test_what_has_not_run_is_tried_three_times_and_what_may_have_run_once(
    proxy: RunningProxy, demo: DemoServer
) -> None:
    for word, attempts in (
        ("unavailable", 3),
        ("fail500", 1),
        ("badgateway", 1),
        ("reset", 1),
        ("ratelimit", 3),
    ):
        demo.clear()
        chat(proxy, "demo-errors", f"please {word}")
        assert len(demo.records()) == attempts, word


def test_no_flowise_at_all_is_503(folder: Path) -> None:
    with RunningProxy(folder, FLOWISE_BASE_URL="http://127.0.0.1:9") as server:
        for stream in (False, True):
            answer = chat(server, "5518949f-3ebc-4082-af01-fa2a18623da6", stream=stream)
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "flowise_unavailable")
            assert answer.headers["Retry-After"]
            assert "127.0.0.1" not in answer.text
        assert requests.get(f"{server.url}/v1/models", timeout=8).status_code == 503
        assert requests.get(f"{server.url}/health", timeout=5).status_code == 200


def test_one_of_several_choices_that_is_refused_is_no_leave_to_try_again(folder: Path) -> None:
    with DemoServer("--token-seconds", "0.001") as own:
        own.control("POST", "/__demo/script", {"prediction_status": [None, 503, 503, 503]})
        with RunningProxy(folder, FLOWISE_BASE_URL=own.base_url) as server:
            answer = chat(server, "5518949f-3ebc-4082-af01-fa2a18623da6", n=2)
    assert answer.status_code == 400, answer.text
    assert answer.headers["x-should-retry"] == "false"


def test_a_name_is_not_unknown_while_flowise_was_never_there(folder: Path) -> None:
    with RunningProxy(folder, FLOWISE_BASE_URL="http://127.0.0.1:9") as server:
        assert chat(server, "demo-assistant").status_code == 503


def test_a_key_that_flowise_refuses_names_the_setting(demo: DemoServer, folder: Path) -> None:
    with RunningProxy(folder, FLOWISE_BASE_URL=demo.base_url, FLOWISE_API_KEY="wrong") as server:
        for stream in (False, True):
            answer = chat(server, "demo-keyed", stream=stream)
            assert (answer.status_code, answer.json()["error"]["code"]) == (400, "flowise_auth")
            assert "FLOWISE_API_KEY" in answer.json()["error"]["message"]
            assert "wrong" not in answer.text


BAD_BODIES: list[tuple[Any, str | None]] = [
    (b"{", None),
    (b"[]", None),
    (b'{"a":' * 2000, None),
    (b'{"model":"\xff"}', None),
    ({}, "model"),
    ({"model": 5}, "model"),
    ({"model": "demo-assistant"}, "messages"),
    ({"model": "demo-assistant", "messages": []}, "messages"),
    ({"model": "demo-assistant", "messages": "hi"}, "messages"),
    ({"model": "demo-assistant", "messages": ["hi"]}, "messages[0]"),
    ({"model": "demo-assistant", "messages": [{"content": "hi"}]}, "messages[0].role"),
    ({"model": "demo-assistant", "messages": [{"role": "king", "content": "hi"}]}, "messages[0].role"),
    ({"model": "demo-assistant", "messages": [{"role": "user"}]}, "messages[0].content"),
    ({"model": "demo-assistant", "messages": [{"role": "user", "content": 1}]}, "messages[0].content"),
    (
        {"model": "demo-assistant", "messages": [{"role": "user", "content": [{"text": "x"}]}]},
        "messages[0].content[0].type",
    ),
    ({"model": "demo-assistant", "messages": [{"role": "tool", "content": "x"}]}, "messages[0].tool_call_id"),
]


@pytest.mark.parametrize(("body", "param"), BAD_BODIES)
def test_a_bad_body_is_a_400_that_names_the_field(proxy: RunningProxy, body: Any, param: str | None) -> None:
    url = f"{proxy.url}/v1/chat/completions"
    kind = {"data": body} if isinstance(body, bytes) else {"json": body}
    answer = requests.post(url, timeout=5, **kind)
    valid("error", answer.content)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param
    assert answer.json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("stream", "yes"),
        ("n", 0),
        ("n", 9),
        ("n", "1"),
        ("temperature", "hot"),
        ("temperature", 3),
        ("top_p", True),
        ("stop", 5),
        ("stop", ["a"] * 65),
        ("max_tokens", "many"),
        ("tools", {}),
        ("user", 7),
        ("metadata", []),
        ("stream_options", "usage"),
    ],
)
def test_a_bad_parameter_is_a_400_that_names_it(proxy: RunningProxy, field: str, value: Any) -> None:
    answer = chat(proxy, "demo-assistant", **{"stream": True, field: value})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == field


@pytest.mark.parametrize(
    "prompt",
    [None, 5, [], [1, 2, 3], [[1, 2]], ["x"] * 9],
    ids=["none", "number", "empty", "tokens", "lists", "nine"],
)
def test_a_bad_prompt_is_a_400(proxy: RunningProxy, prompt: Any) -> None:
    body = {"model": "demo-assistant", "prompt": prompt}
    answer = requests.post(f"{proxy.url}/v1/completions", json=body, timeout=5)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"].startswith("prompt")
