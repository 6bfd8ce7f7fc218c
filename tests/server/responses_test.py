"""Responses over real sockets and the demo flows: OpenAI's own client, and the wire as it is."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from uuid import uuid4

import orjson
import pytest
import requests
from openai import APIError, AzureOpenAI, BadRequestError, InternalServerError, NotFoundError, OpenAI
from openai.types.responses import ResponseFunctionToolCall, ResponseOutputMessage, ResponseReasoningItem
from pydantic import BaseModel

from flowise_gateway.conformance.response_shapes import stream_faults
from tests.support.demo_server import DemoServer
from tests.support.openai_check import valid
from tests.support.running_proxy import RunningProxy

FLOWS = ["demo-assistant", "demo-agent", "demo-sources", "demo-json", "demo-approval"]


def respond(
    proxy: RunningProxy, model: str, said: Any = "Hello", path: str = "/v1/responses", **more: Any
) -> requests.Response:
    """Ask for a response."""
    body = {"model": model, "input": said, **more}
    # An idle kept-alive connection would hold up the server's end.
    return requests.post(proxy.url + path, json=body, headers={"Connection": "close"}, timeout=30)


def ended(answer: requests.Response) -> dict[str, Any]:
    """The response that a stream ended with."""
    *_, last, done, rest = answer.content.split(b"\n\n")
    assert (done, rest) == (b"data: [DONE]", b"")
    response: dict[str, Any] = orjson.loads(last.partition(b"data: ")[2])["response"]
    return response


def likened(response: dict[str, Any]) -> dict[str, Any]:
    """A response without what differs from run to run."""
    kept = {key: value for key, value in response.items() if key not in ("id", "created_at", "completed_at")}
    kept["output"] = [{**item, "id": ""} for item in response["output"]]
    kept["metadata"] = sorted(response["metadata"])
    return kept


@pytest.mark.parametrize("model", FLOWS)
def test_a_response_is_valid(proxy: RunningProxy, model: str) -> None:
    answer = respond(proxy, model)
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "application/json")
    valid("response", answer.content)
    body = answer.json()
    assert (body["status"], body["model"]) == ("completed", model)
    assert body["metadata"]["flowise_chat_id"] == answer.headers["x-flowise-chat-id"]
    assert body["metadata"]["flowise_session_id"]


@pytest.mark.parametrize("model", FLOWS)
def test_a_stream_is_valid(proxy: RunningProxy, model: str) -> None:
    answer = respond(proxy, model, stream=True)
    assert answer.headers["Content-Type"] == "text/event-stream; charset=utf-8"
    assert b"\r" not in answer.content
    valid("response.stream", answer.content)
    valid("response", ended(answer))


@pytest.mark.parametrize("model", ["demo-assistant", "demo-json", "demo-sources"])
def test_a_stream_ends_with_what_the_body_is(proxy: RunningProxy, model: str) -> None:
    assert likened(ended(respond(proxy, model, stream=True))) == likened(respond(proxy, model).json())


@pytest.mark.parametrize(
    "path", ["/responses", "/v1/responses/", "/openai/responses", "/openai/v1/responses"]
)
def test_it_answers_under_every_prefix(proxy: RunningProxy, path: str) -> None:
    valid("response", respond(proxy, "demo-assistant", path=f"{path}?api-version=preview").content)


def test_what_a_flow_gets_is_the_question_the_history_and_the_instructions(
    proxy: RunningProxy, demo: DemoServer
) -> None:
    demo.clear()
    items = [
        {"role": "user", "content": "My name is Ann."},
        {"type": "reasoning", "id": "rs_1", "summary": []},
        {
            "type": "message",
            "role": "assistant",
            "id": "msg_1",
            "content": [{"type": "output_text", "text": "Hello Ann."}],
        },
        {"role": "user", "content": [{"type": "input_text", "text": "Who am I?"}]},
    ]
    items.insert(1, {"type": "web_search_call", "id": "ws_1", "status": "completed"})
    answer = respond(proxy, "demo-assistant", items, instructions="Be brief.", temperature=0.5, include=["x"])
    sent = demo.records()[-1]["body"]
    assert sent["question"].endswith("\n\nWho am I?")
    assert "Be brief." in sent["question"]
    assert sent["history"] == [
        {"role": "userMessage", "content": "My name is Ann."},
        {"role": "apiMessage", "content": "Hello Ann."},
    ]
    assert answer.headers["x-flowise-ignored-params"] == "temperature, include, input.web_search_call"
    assert (answer.json()["instructions"], answer.json()["temperature"]) == ("Be brief.", 0.5)


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        (
            {"input": [{"role": "user", "content": [{"type": "x"}]}]},
            "input[0].content[0].type",
            "invalid_value",
        ),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0].id", "item_not_found"),
        ({"previous_response_id": "resp_1"}, "previous_response_id", "previous_response_not_found"),
        (
            {"input": [{"role": "user", "content": "a"}, {"type": "mcp_approval_response", "approve": True}]},
            "input[1]",
            "unsupported_content",
        ),
    ],
)
def test_a_bad_request_runs_nothing(
    proxy: RunningProxy, demo: DemoServer, body: dict[str, Any], param: str, code: str
) -> None:
    demo.clear()
    answer = requests.post(
        f"{proxy.url}/v1/responses", json={"model": "demo-assistant", "input": "Hello", **body}, timeout=30
    )
    assert answer.status_code == 400
    valid("error", answer.content)
    assert (answer.json()["error"]["param"], answer.json()["error"]["code"]) == (param, code)
    assert demo.records() == []


@pytest.mark.parametrize("stream", [False, True])
def test_a_failure_before_the_first_byte_is_a_status(proxy: RunningProxy, stream: bool) -> None:
    failed = respond(proxy, "demo-errors", "fail500", stream=stream)
    assert (failed.status_code, failed.headers["x-should-retry"]) == (400, "false")
    valid("error", failed.content)
    assert respond(proxy, "demo-errors", "unavailable", stream=stream).status_code == 503
    assert respond(proxy, "nothing", stream=stream).json()["error"]["code"] == "model_not_found"


def test_a_stream_that_breaks_ends_with_response_failed(proxy: RunningProxy) -> None:
    answer = respond(proxy, "demo-errors", "failmid", stream=True)
    assert answer.status_code == 200
    valid("response.stream", answer.content)
    response = ended(answer)
    assert (response["status"], response["error"]["code"]) == ("failed", "server_error")
    assert not stream_faults(
        [orjson.loads(data) for data in re.findall(rb"(?m)^data: (\{.*)$", answer.content)]
    )
    assert response["metadata"]["flowise_error_code"] == "flow_failed"
    assert response["output"][0]["content"][0]["text"]


def test_codex_is_told_of_a_failure_so_that_it_does_not_run_the_flow_again(proxy: RunningProxy) -> None:
    agent = {"User-Agent": "codex_cli_rs/0.150.1 (Ubuntu 24.4.0; x86_64) xterm-256color"}
    body = {"model": "demo-errors", "input": "failmid", "stream": True}
    answer = requests.post(f"{proxy.url}/v1/responses", json=body, headers=agent, timeout=30)
    valid("response.stream", answer.content)
    assert ended(answer)["error"]["code"] == "invalid_prompt"
    assert ended(answer)["error"]["message"]


def test_a_flow_that_says_nothing_is_an_error_only_where_it_would_be_overlooked(proxy: RunningProxy) -> None:
    streamed = respond(proxy, "demo-errors", "empty", stream=True)
    assert (streamed.status_code, streamed.json()["error"]["code"]) == (400, "empty_answer")
    whole = respond(proxy, "demo-errors", "empty").json()
    assert whole["output"][-1]["content"][0]["text"] == ""
    assert "empty answer" in whole["metadata"]["flowise_warnings"]


# --- OpenAI's own client ---


def test_the_sdk_creates_a_response(openai_client: OpenAI) -> None:
    response = openai_client.responses.create(
        model="demo-agent", input="Hello", instructions="Be brief", metadata={"mine": "1"}
    )
    assert response.status == "completed"
    assert response.output_text
    assert response.error is None
    assert response.usage is not None
    assert response.usage.total_tokens == response.usage.input_tokens + response.usage.output_tokens
    assert response.metadata is not None
    assert response.metadata["mine"] == "1"
    assert any(isinstance(item, ResponseReasoningItem) for item in response.output)
    assert response._request_id


def test_the_sdk_reads_a_stream_of_events(openai_client: OpenAI) -> None:
    text = thoughts = ""
    for event in openai_client.responses.create(model="demo-agent", input="Hello", stream=True):
        if event.type == "response.output_text.delta":
            text += event.delta
        elif event.type == "response.reasoning_summary_text.delta":
            thoughts += event.delta
        elif event.type == "response.completed":
            assert event.response.output_text == text
    assert text
    assert "▸" in thoughts


@pytest.mark.parametrize("model", FLOWS)
def test_the_sdks_streaming_helper_accumulates(openai_client: OpenAI, model: str) -> None:
    with openai_client.responses.stream(model=model, input="Hello") as stream:
        text = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
        final = stream.get_final_response()
    assert final.output_text == text != ""
    [message] = [item for item in final.output if isinstance(item, ResponseOutputMessage)]
    assert message.status == "completed"


def test_an_answers_items_sent_back_continue_its_session(openai_client: OpenAI, demo: DemoServer) -> None:
    asked = f"Hello {uuid4()}"
    first = openai_client.responses.create(model="demo-agent", input=asked)
    demo.clear()
    items: list[Any] = [
        {"role": "user", "content": asked},
        *first.output,
        {"role": "user", "content": "And?"},
    ]
    assert openai_client.responses.create(model="demo-agent", input=items).output_text
    sent = demo.records()[-1]["body"]
    assert first.metadata is not None
    assert sent["overrideConfig"]["sessionId"] == first.metadata["flowise_session_id"]
    assert (sent["question"], sent.get("history")) == ("And?", None)


def test_a_conversation_goes_on_with_the_new_message_alone(openai_client: OpenAI, demo: DemoServer) -> None:
    conversation = f"conv_{uuid4().hex}"
    for said in ("My name is Ann.", "Who am I?"):
        answer = openai_client.responses.create(model="demo-agent", input=said, conversation=conversation)
        assert answer.conversation is not None
        assert answer.conversation.id == conversation
    first, second = [record["body"] for record in demo.records()[-2:]]
    assert first["overrideConfig"]["sessionId"] == second["overrideConfig"]["sessionId"]


class Answer(BaseModel):
    """What the flow's model is asked for."""

    answer: int


class _JsonFlow(BaseHTTPRequestHandler):
    """A Flowise with one flow that cannot stream and answers in JSON."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self._send(200, {"text": '{"answer": 42}', "chatId": "c", "sessionId": "s"})

    def do_GET(self) -> None:
        streaming = {"isStreaming": False}
        known = self.path.startswith("/api/v1/chatflows-streaming/")
        self._send(200 if known else 404, streaming if known else {"message": "Not found"})

    def _send(self, status: int, body: dict[str, Any]) -> None:
        raw = orjson.dumps(body)
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, *_args: Any) -> None:
        """Say nothing."""


@pytest.fixture
def json_client(folder: Path) -> Iterator[OpenAI]:
    """OpenAI's client of a proxy in front of a flow that answers in JSON."""
    with ThreadingHTTPServer(("127.0.0.1", 0), _JsonFlow) as flowise:
        threading.Thread(target=flowise.serve_forever, daemon=True).start()
        base_url = f"http://127.0.0.1:{flowise.server_port}/api/v1"
        with RunningProxy(folder, FLOWISE_BASE_URL=base_url) as proxy:
            with OpenAI(base_url=f"{proxy.url}/v1", api_key="any", max_retries=0) as client:
                yield client
        flowise.shutdown()


def test_the_sdk_parses_an_answer_that_is_json(json_client: OpenAI) -> None:
    flow = "5518949f-3ebc-4082-af01-fa2a18623da6"
    response = json_client.responses.parse(model=flow, input="6*7?", text_format=Answer)
    assert response.output_parsed == Answer(answer=42)
    assert response.text is not None
    assert response.text.format is not None
    assert response.text.format.type == "json_schema"
    with json_client.responses.stream(model=flow, input="6*7?", text_format=Answer) as stream:
        stream.until_done()
        assert stream.get_final_response().output_parsed == Answer(answer=42)


def test_a_wanted_form_is_no_ignored_one(openai_client: OpenAI) -> None:
    raw = openai_client.responses.with_raw_response.create(
        model="demo-assistant", input="Hello", text={"format": {"type": "json_object"}}
    )
    assert "x-flowise-ignored-params" not in raw.headers


def test_the_sdk_sees_a_flows_tools_when_it_asks_for_them(openai_client: OpenAI) -> None:
    response = openai_client.responses.create(
        model="demo-agent", input="Hello", extra_body={"include": ["flowise.tool_calls"]}
    )
    calls = [item for item in response.output if isinstance(item, ResponseFunctionToolCall)]
    outputs = [item for item in response.output if item.type == "function_call_output"]
    assert calls
    assert [call.call_id for call in calls] == [output.call_id for output in outputs]


def test_the_sdk_raises_what_tells_what_to_do(openai_client: OpenAI) -> None:
    expected: dict[str, type[Exception]] = {"fail500": BadRequestError, "unavailable": InternalServerError}
    for word, error in expected.items():
        for stream in (False, True):
            with pytest.raises(error):
                openai_client.responses.create(model="demo-errors", input=word, stream=stream)
    with pytest.raises(NotFoundError):
        openai_client.responses.create(model="nothing", input="Hello")


def test_the_sdk_raises_in_the_middle_of_a_broken_stream(openai_client: OpenAI) -> None:
    kinds: list[str] = []
    with (
        openai_client.responses.stream(model="demo-errors", input="failmid") as stream,
        pytest.raises(APIError) as caught,
    ):
        kinds.extend(event.type for event in stream)
    assert (caught.value.code, caught.value.type) == ("flow_failed", "upstream_error")
    assert "response.output_text.delta" in kinds


def test_azures_client_asks_under_its_own_path(proxy: RunningProxy) -> None:
    with AzureOpenAI(azure_endpoint=proxy.url, api_version="2025-03-01-preview", api_key="any") as client:
        assert client.responses.create(model="demo-assistant", input="Hello").output_text
