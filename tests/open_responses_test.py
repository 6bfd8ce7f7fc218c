"""The 17 cases of Open Responses' compliance suite (release 2026-04-24): 10 over HTTP, 7 over a WebSocket.

Written after reference/open-responses.md, which tells what the suite checks; the suite itself needs bun. Every
answer must have the 31 keys and be valid by OpenAI's schema too, every stream in order.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import requests

from tests.demo_server import DemoServer
from tests.openai_check import valid
from tests.running_proxy import RunningProxy
from tests.websocket_client import SocketClient

ASSISTANT = "5518949f-3ebc-4082-af01-fa2a18623da6"
MODEL = "demo-agent"
FILE = f"models: [{{id: prompted, flow: {ASSISTANT}, tools: prompt}}]\n"
PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAA"
    "AABJRU5ErkJggg=="
)
KEYS = {
    *("id", "object", "created_at", "completed_at", "status", "incomplete_details", "model", "output"),
    *("previous_response_id", "instructions", "error", "tools", "tool_choice", "truncation", "usage", "text"),
    *("parallel_tool_calls", "top_p", "presence_penalty", "frequency_penalty", "top_logprobs", "temperature"),
    *("reasoning", "max_output_tokens", "max_tool_calls", "store", "background", "service_tier", "metadata"),
    *("safety_identifier", "prompt_cache_key"),
}
ITEMS = {"message", "function_call", "function_call_output", "reasoning", "compaction"}
WEATHER = {
    "type": "function",
    "name": "get_weather",
    "description": "Get the current weather for a location",
    "parameters": {
        "type": "object",
        "properties": {"location": {"type": "string"}},
        "required": ["location"],
    },
}


@pytest.fixture(scope="module")
def server(demo: DemoServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningProxy]:
    """A server with a model that takes its clients' tools."""
    folder = tmp_path_factory.mktemp("open-responses")
    (folder / "proxy.yaml").write_text(FILE)
    with RunningProxy(folder, FLOWISE_BASE_URL=demo.base_url, PROXY_API_KEYS="key") as running:
        yield running


def post(server: RunningProxy, path: str = "", **body: Any) -> requests.Response:
    """Send a request as the suite does."""
    headers = {"Authorization": "Bearer key", "Connection": "close"}
    return requests.post(f"{server.url}/v1/responses{path}", json=body, headers=headers, timeout=30)


def respond(server: RunningProxy, said: Any, model: str = MODEL, **more: Any) -> dict[str, Any]:
    """A completed response."""
    answer = post(server, model=model, input=said, **more)
    assert answer.status_code == 200, answer.text
    return completed(answer.json())


def completed(response: dict[str, Any]) -> dict[str, Any]:
    """The response, once it is known to be a right one."""
    valid("response", response)
    assert set(response) >= KEYS
    assert response["status"] == "completed"
    assert {item["type"] for item in response["output"]} <= ITEMS
    return response


def socket(server: RunningProxy) -> SocketClient:
    """A connection."""
    client = SocketClient(server.url, headers={"Authorization": "Bearer key"})
    assert client.status == 101
    return client


def streamed(events: list[dict[str, Any]]) -> dict[str, Any]:
    """The completed response at the end of a socket's events, once these are known to be in order."""
    frames = [f"event: {e['type']}\ndata: {orjson.dumps(e).decode()}\n\n" for e in events]
    valid("response.stream", "".join([*frames, "data: [DONE]\n\n"]).encode())
    assert events[-1]["type"] == "response.completed"
    return completed(events[-1]["response"])


def text(response: dict[str, Any]) -> str:
    """The text of the answer."""
    [message] = [item for item in response["output"] if item["type"] == "message"]
    said: str = message["content"][0]["text"]
    return said


# --- HTTP ---


def test_basic_response(server: RunningProxy) -> None:
    assert text(respond(server, [{"type": "message", "role": "user", "content": "Say hello."}]))


def test_streaming_response(server: RunningProxy) -> None:
    answer = post(server, model=MODEL, input="Count from 1 to 5.", stream=True)
    assert answer.headers["Content-Type"].startswith("text/event-stream")
    valid("response.stream", answer.content)
    assert answer.content.endswith(b"\n\ndata: [DONE]\n\n")


def test_system_prompt(server: RunningProxy) -> None:
    said = [
        {"type": "message", "role": "system", "content": "You are a pirate."},
        {"type": "message", "role": "user", "content": "Say hello."},
    ]
    assert text(respond(server, said))


def test_tool_calling(server: RunningProxy) -> None:
    response = respond(server, "What's the weather in San Francisco?", "prompted", tools=[WEATHER])
    [call] = [item for item in response["output"] if item["type"] == "function_call"]
    assert call["name"] == "get_weather"
    assert isinstance(orjson.loads(call["arguments"]), dict)
    assert set(response["tools"][0]) >= {"type", "name", "description", "parameters", "strict"}


def test_image_input(server: RunningProxy) -> None:
    parts = [
        {"type": "input_text", "text": "What is in this image?"},
        {"type": "input_image", "image_url": PIXEL},
    ]
    assert text(respond(server, [{"type": "message", "role": "user", "content": parts}]))


def test_multi_turn_conversation(server: RunningProxy) -> None:
    said = [
        {"type": "message", "role": "user", "content": "My name is Alice."},
        {"type": "message", "role": "assistant", "content": "Hello Alice!"},
        {"type": "message", "role": "user", "content": "What is my name?"},
    ]
    assert text(respond(server, said))


@pytest.mark.parametrize("phase", ["commentary", "final_answer"])
def test_an_assistants_phase_is_accepted(server: RunningProxy, phase: str) -> None:
    said = [
        {"type": "message", "role": "user", "content": "Hello"},
        {"type": "message", "role": "assistant", "phase": phase, "content": "Let me see."},
        {"type": "message", "role": "user", "content": "Well?"},
    ]
    assert text(respond(server, said))


def test_compact(server: RunningProxy) -> None:
    said = [
        {"type": "message", "role": "user", "content": "My name is Alice."},
        {"type": "message", "role": "assistant", "content": "Hello Alice!"},
    ]
    answer = post(server, "/compact", model=MODEL, input=said)
    assert answer.status_code == 200
    body = answer.json()
    assert set(body) == {"id", "object", "created_at", "output", "usage"}
    assert body["object"] == "response.compaction"
    [item] = body["output"]
    assert item["type"] == "compaction"
    assert item["encrypted_content"]


def test_what_compact_gave_is_the_next_input(server: RunningProxy, demo: DemoServer) -> None:
    said = [
        {"type": "message", "role": "user", "content": "My name is Alice."},
        {"type": "message", "role": "assistant", "content": "Hello Alice!"},
    ]
    compacted = post(server, "/compact", model=MODEL, input=said).json()["output"]
    demo.clear()
    respond(server, [*compacted, {"type": "message", "role": "user", "content": "Who am I?"}])
    [record] = demo.records()
    seen = [message["content"] for message in record["messages"] if message["role"] != "system"]
    assert seen == ["My name is Alice.", "Hello Alice!", "Who am I?"]


def test_compact_without_a_model_is_refused(server: RunningProxy) -> None:
    answer = post(server, "/compact", input="Hello")
    assert answer.status_code == 400
    valid("error", answer.content)
    assert answer.json()["error"]["param"] == "model"


# --- WebSocket ---


def test_a_socket_answers(server: RunningProxy) -> None:
    with socket(server) as client:
        assert text(streamed(client.ask("Say hello.")))


def test_a_socket_answers_one_after_the_other(server: RunningProxy) -> None:
    with socket(server) as client:
        for number in range(3):
            client.say({"type": "response.create", "model": MODEL, "input": f"q{number}"})
        ids = {streamed(client.answer())["id"] for _ in range(3)}
    assert len(ids) == 3


def test_a_socket_goes_on_from_a_response(server: RunningProxy, demo: DemoServer) -> None:
    with socket(server) as client:
        first = streamed(client.ask("My name is Alice."))
        second = streamed(client.ask("Who am I?", previous_response_id=first["id"]))
    assert second["previous_response_id"] == first["id"]
    assert second["metadata"]["flowise_session_id"] == first["metadata"]["flowise_session_id"]


def test_a_socket_goes_on_from_what_is_not_stored(server: RunningProxy) -> None:
    with socket(server) as client:
        first = streamed(client.ask("My name is Alice.", store=False))
        second = streamed(client.ask("Who am I?", previous_response_id=first["id"], store=False))
        assert second["metadata"]["flowise_session_id"] == first["metadata"]["flowise_session_id"]
        third = streamed(client.ask("Sure?", previous_response_id=second["id"], store=False))
        assert third["metadata"]["flowise_session_id"] == first["metadata"]["flowise_session_id"]
    with socket(server) as other:
        [error] = other.ask("Who am I?", previous_response_id=first["id"])
        assert error["error"]["code"] == "previous_response_not_found"


def test_a_socket_tells_of_an_unknown_response_and_stays_open(server: RunningProxy) -> None:
    with socket(server) as client:
        [error] = client.ask(previous_response_id="resp_unknown")
        assert (error["type"], error["status"]) == ("error", 400)
        assert error["error"]["code"] == "previous_response_not_found"
        assert error["error"]["param"] == "previous_response_id"
        assert "resp_unknown" in error["error"]["message"]
        assert text(streamed(client.ask()))


def test_a_socket_forgets_what_could_not_be_gone_on_from(server: RunningProxy) -> None:
    with socket(server) as client:
        first = streamed(client.ask("Hello", store=False))
        unmatched = [{"type": "function_call_output", "call_id": "call_none", "output": "x"}]
        [failed] = client.ask(unmatched, previous_response_id=first["id"], store=False)
        assert failed["status"] == 400
        [error] = client.ask("And?", previous_response_id=first["id"], store=False)
        assert error["error"]["code"] == "previous_response_not_found"


def test_a_sockets_calls_are_answered_by_their_ids(server: RunningProxy) -> None:
    with socket(server) as client:
        first = streamed(client.ask("What's the weather in Paris?", "prompted", tools=[WEATHER], store=False))
        [call] = [item for item in first["output"] if item["type"] == "function_call"]
        output = {"type": "function_call_output", "call_id": call["call_id"], "output": "Sunny"}
        more: dict[str, Any] = {"previous_response_id": first["id"], "tools": [WEATHER], "store": False}
        second = streamed(client.ask([output], "prompted", **more))
        assert text(second)
        wrong = {**output, "call_id": "call_of_nobody"}
        [error] = client.ask([wrong], "prompted", **{**more, "previous_response_id": second["id"]})
        assert (error["status"], error["error"]["param"]) == (400, "input[0].call_id")


def test_the_suites_cases_are_all_here() -> None:
    names = [line for line in Path(__file__).read_text().splitlines() if line.startswith("def test_")]
    assert len(names) - 1 == 17
