"""Decoders of Go and Rust can read all that the server sends; `tests/wire/decoders` has their rules."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import requests

from flowise_demo.flows import DEMO_FLOWS
from tests.support import decoders
from tests.support.demo_server import DemoServer
from tests.support.running_proxy import RunningProxy
from tests.support.saying_flowise import FLOW, SayingFlowise, ending, event, token

FILE = f"models: [{{id: prompted, flow: {DEMO_FLOWS['demo-agent']}, tools: prompt}}]\n"
PATHS = {"chat": "/chat/completions", "completion": "/completions", "response": "/responses"}
WHOLE = {"chat": "chat.response", "completion": "completion.response", "response": "response"}
FLOWS = [*sorted(DEMO_FLOWS.keys() - {"demo-keyed"}), "prompted"]
FAILURES = (
    "fail500",
    "failctx",
    "failfilter",
    "ratelimit",
    "unavailable",
    "badgateway",
    "emptybody",
    "empty",
)
MIDWAY = ("failmid", "cut", "reset", "noend")
WEATHER = {"type": "function", "name": "get_weather", "parameters": {"type": "object", "properties": {}}}
FORMAT = {"type": "json_schema", "name": "answer", "schema": {"type": "object"}, "strict": True}
RESPONSES: dict[str, dict[str, Any]] = {
    "a service tier": {"service_tier": "flex"},
    "instructions": {"instructions": "Be brief.", "truncation": "auto"},
    "whole numbers": {"temperature": 1, "top_p": 0, "top_logprobs": 3, "max_output_tokens": 500},
    "fractions": {"temperature": 0.5, "top_p": 0.25, "presence_penalty": 0.5, "frequency_penalty": -0.5},
    "reasoning": {"reasoning": {"effort": "low", "summary": "auto"}},
    "text": {"text": {"verbosity": "low"}},
    "a format": {"text": {"format": FORMAT}},
    "JSON": {"text": {"format": {"type": "json_object"}}},
    "tools": {"tools": [WEATHER], "parallel_tool_calls": False, "max_tool_calls": 2},
    "a tool": {"tools": [WEATHER], "tool_choice": {"type": "function", "name": "get_weather"}},
    "tools that are required": {"tools": [WEATHER], "tool_choice": "required"},
    "some tools": {
        "tools": [WEATHER],
        "tool_choice": {
            "type": "allowed_tools",
            "mode": "auto",
            "tools": [{"type": "function", "name": "get_weather"}],
        },
    },
    "a tool of OpenAI's": {"tools": [{"type": "web_search"}]},
    "the flow's tools": {"include": ["flowise.tool_calls"]},
    "metadata": {"metadata": {"a": "b"}, "safety_identifier": "u", "prompt_cache_key": "k", "user": "u"},
    "a conversation": {"conversation": "conv_1"},
    "nothing stored": {"store": False},
    "nothing generated": {"generate": False},
    "a limit": {"max_output_tokens": 16},
}
ITEMS: list[dict[str, Any]] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": [{"type": "input_text", "text": "Hello"}]},
    {
        "type": "message",
        "role": "assistant",
        "id": "msg_1",
        "content": [{"type": "output_text", "text": "Hi"}],
    },
    {"type": "reasoning", "summary": [{"type": "summary_text", "text": "Hm."}]},
    {"type": "function_call", "call_id": "call_1", "name": "look_up", "arguments": "{}"},
    {"type": "function_call_output", "call_id": "call_1", "output": "4"},
    {"role": "user", "content": "And now?"},
]


@pytest.fixture(scope="module")
def server(flowise: DemoServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningProxy]:
    """A server in front of the demo, whose limits end what would be silent for ever."""
    folder = tmp_path_factory.mktemp("decoders")
    (folder / "proxy.yaml").write_text(FILE)
    limits = {"FLOWISE_REQUEST_TIMEOUT": "5", "FLOWISE_STREAM_IDLE_TIMEOUT": "1", "FLOWISE_MAX_ATTEMPTS": "1"}
    with RunningProxy(folder, FLOWISE_BASE_URL=flowise.base_url, **limits) as running:
        yield running


def ask(
    server: RunningProxy, surface: str, model: str, said: Any = "Hello", path: str = "", **more: Any
) -> requests.Response:
    """Ask one surface, and hold what it answers to the rules of the decoders."""
    field: dict[str, Any] = {
        "chat": {"messages": [{"role": "user", "content": said}]},
        "completion": {"prompt": said},
        "response": {"input": said},
    }[surface]
    address = server.url + (path or f"/v1{PATHS[surface]}")
    headers = {"Connection": "close"}
    answer = requests.post(address, json={"model": model, **field, **more}, headers=headers, timeout=60)
    kind = answer.headers["Content-Type"]
    if kind.startswith("text/event-stream"):
        read = f"{surface}.stream"
    else:
        read = WHOLE[surface] if answer.status_code == 200 else "error"
    held(read, answer.content)
    return answer


def held(kind: str, raw: bytes) -> None:
    """Fail unless the decoders can read it; RECORD_PAYLOADS names a folder that gets what was sent."""
    if folder := os.environ.get("RECORD_PAYLOADS"):
        Path(folder, f"{kind}--{sha256(raw).hexdigest()[:12]}").write_bytes(raw)
    found = decoders.faults(kind, raw)
    assert not found, f"{found[:5]}\n{raw[:3000].decode()}"


@pytest.mark.parametrize("model", FLOWS)
def test_every_surface_of_every_flow_can_be_read(server: RunningProxy, model: str) -> None:
    for surface in PATHS:
        for more in ({}, {"stream": True}, {"stream": True, "stream_options": {"include_usage": True}}):
            sent = {**more, "stream_options": {}} if surface == "response" else more
            assert ask(server, surface, model, **sent).status_code == 200


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("word", FAILURES)
def test_a_failure_before_the_first_byte_can_be_read(
    server: RunningProxy, word: str, *, stream: bool
) -> None:
    for surface in PATHS:
        ask(server, surface, "demo-errors", f"Hello {word}", stream=stream)


@pytest.mark.parametrize("surface", PATHS)
def test_a_failure_midway_can_be_read(server: RunningProxy, surface: str) -> None:
    for word in MIDWAY:
        answer = ask(server, surface, "demo-errors", f"Hello {word}", stream=True)
        assert b'"error":{"message"' in answer.content


@pytest.mark.parametrize("word", ["unicode", "markdown", "think", "tokens1000"])
def test_texts_of_all_kinds_can_be_read(server: RunningProxy, word: str) -> None:
    for surface in PATHS:
        ask(server, surface, "demo-errors", f"Hello {word}", stream=True)


@pytest.mark.parametrize("name", RESPONSES)
def test_what_a_response_repeats_of_its_request_can_be_read(server: RunningProxy, name: str) -> None:
    for stream in (False, True):
        assert ask(server, "response", "prompted", **RESPONSES[name], stream=stream).status_code == 200


@pytest.mark.parametrize("surface", ["chat", "completion", "response"])
def test_choices_limits_and_stops_can_be_read(server: RunningProxy, surface: str) -> None:
    more: dict[str, Any] = {} if surface == "response" else {"n": 3, "stop": ["zebra"], "max_tokens": 5}
    ask(server, surface, "demo-assistant", stream=True, **more)
    if surface == "chat":
        tool = {"type": "function", "function": {**WEATHER, "type": None}}
        function = {"name": "get_weather", "parameters": {}}
        offers: list[dict[str, Any]] = [{"tools": [tool]}, {"functions": [function]}]
        for offer in offers:
            ask(server, surface, "prompted", "Use get_weather", stream=True, **offer)


def test_azures_paths_can_be_read(server: RunningProxy) -> None:
    for surface in ("chat", "completion"):
        path = f"/openai/deployments/demo-agent{PATHS[surface]}?api-version=2024-10-21"
        assert ask(server, surface, "other", path=path, stream=True).status_code == 200
        unknown = path.replace("demo-agent", "nobody")
        assert ask(server, surface, "other", path=unknown, stream=True).status_code == 404


def test_the_routes_beside_the_answers_can_be_read(server: RunningProxy) -> None:
    def got(kind: str, path: str, body: Any = None, status: int = 200) -> dict[str, Any]:
        method = "GET" if body is None else "POST"
        answer = requests.request(
            method, f"{server.url}/v1{path}", json=body, headers={"Connection": "close"}, timeout=60
        )
        assert answer.status_code == status, answer.text
        held(kind, answer.content)
        value: dict[str, Any] = answer.json()
        return value

    got("models", "/models")
    got("model", "/models/demo-agent")
    got("error", "/models/nobody", status=404)
    got("error", "/nowhere", status=404)
    stored = got("response", "/responses", {"model": "demo-agent", "input": ITEMS})
    got("response", f"/responses/{stored['id']}")
    listed = got("response.items", f"/responses/{stored['id']}/input_items")
    assert len(listed["data"]) == len(ITEMS)
    got("input_tokens", "/responses/input_tokens", {"model": "demo-agent", "input": ITEMS})
    packed = got("compaction", "/responses/compact", {"model": "demo-agent", "input": ITEMS})
    goes_on = [*packed["output"], {"role": "user", "content": "And now?"}]
    got("response", "/responses", {"model": "demo-agent", "input": goes_on})
    waiting = got("response", "/responses", {"model": "demo-agent", "input": "Hello", "background": True})
    got("response", f"/responses/{waiting['id']}/cancel", {})
    answer = requests.get(f"{server.url}/v1/responses/{stored['id']}?stream=true", timeout=60)
    held("response.stream" if answer.ok else "error", answer.content)


@pytest.fixture(scope="module")
def said() -> Iterator[SayingFlowise]:
    """A Flowise that says what a test tells it to."""
    with SayingFlowise() as running:
        yield running


@pytest.fixture(scope="module")
def lively(said: SayingFlowise, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningProxy]:
    """A server in front of it that soon shows a silent stream to be alive."""
    settings = {"FLOWISE_BASE_URL": said.base_url, "PROXY_HEARTBEAT_SECONDS": "0.1"}
    with RunningProxy(tmp_path_factory.mktemp("lively"), **settings) as running:
        yield running


@pytest.mark.parametrize("surface", PATHS)
def test_heartbeats_can_be_read(lively: RunningProxy, said: SayingFlowise, surface: str) -> None:
    said.streams(0.5, token("Hel"), 0.5, token("lo"), 0.5, ending())
    ask(lively, surface, FLOW, stream=True)


LONG = "Grüße, \u2028\x01\x00 世界 🙂 " * 20_000


@pytest.mark.parametrize("surface", ["chat", "completion"])
def test_no_line_of_a_chunk_is_longer_than_gos_scanner_reads(
    lively: RunningProxy, said: SayingFlowise, surface: str
) -> None:
    documents = [{"pageContent": LONG[:9_000], "metadata": {"source": "a.txt", "title": LONG[:9_000]}}] * 60
    tools = [{"tool": "look_up", "toolInput": {"q": LONG[:9_000]}, "toolOutput": LONG[:9_000]}] * 60
    said.streams(
        token(LONG),
        event("thinking", LONG),
        event("usedTools", tools),
        event("sourceDocuments", documents),
        ending(),
    )
    answer = ask(lively, surface, FLOW, LONG, stream=True, echo=surface == "completion")
    read = [data for _, data in decoders.events(answer.content)]
    texts = [choice for data in read[:-1] for choice in json.loads(data)["choices"]]
    spoken = [part.get("text") or part.get("delta", {}).get("content") or "" for part in texts]
    assert "".join(spoken).startswith(LONG)
    assert b'"source_documents"' in answer.content
    assert b'"used_tools"' in answer.content
