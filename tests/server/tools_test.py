"""Tools of a client and answers in JSON over real sockets, with OpenAI's own client as the judge."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
import requests
from openai import BadRequestError, OpenAI, pydantic_function_tool
from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolParam
from pydantic import BaseModel

from tests.support.demo_server import DemoServer
from tests.support.openai_check import valid, valid_chunks
from tests.support.running_proxy import RunningProxy
from tests.support.saying_flowise import FLOW, SayingFlowise

ASSISTANT = "5518949f-3ebc-4082-af01-fa2a18623da6"
FILE = f"""
models:
  - {{id: prompted, flow: {ASSISTANT}, tools: prompt}}
  - {{id: reporting, flow: {ASSISTANT}}}
  - {{id: rejecting, flow: {ASSISTANT}, tools: reject}}
  - {{id: dropping, flow: {ASSISTANT}, tools: prompt, system: drop}}
  - {{id: folding, flow: {ASSISTANT}, tools: prompt, history: question}}
  - {{id: resending, flow: {ASSISTANT}, tools: prompt, history: messages}}
tasks: {{model: flow}}
"""
Json = dict[str, Any]
TITLE = (
    "Provide a concise, 5-word-or-less title for the conversation, using title case conventions. "
    "Only return the title itself.\n\nConversation:\nUser: Hello\nAI: "
)


class GetWeather(BaseModel):
    """The weather of a city."""

    city: str
    unit: Literal["C", "F"]


class GetTime(BaseModel):
    """The time."""


TOOLS: list[ChatCompletionToolParam] = [
    pydantic_function_tool(GetWeather, name="get_weather"),
    pydantic_function_tool(GetTime, name="get_time"),
]
HEADING = "Available tools, one JSON object a line:"


@pytest.fixture(scope="module")
def flowise() -> Iterator[DemoServer]:
    """The flows, whose model obeys the words that describe tools."""
    with DemoServer() as demo:
        yield demo


@pytest.fixture(scope="module")
def server(flowise: DemoServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningProxy]:
    """A server whose models take tools in every way."""
    folder = tmp_path_factory.mktemp("tools")
    (folder / "proxy.yaml").write_text(FILE)
    with RunningProxy(folder, FLOWISE_BASE_URL=flowise.base_url) as running:
        yield running


@pytest.fixture
def client(server: RunningProxy) -> Iterator[OpenAI]:
    """OpenAI's client; it tries once."""
    with OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0) as openai:
        yield openai


def said(text: str) -> ChatCompletionMessageParam:
    """A user's message."""
    return {"role": "user", "content": text}


def post(server: RunningProxy, body: Json, path: str = "chat/completions") -> requests.Response:
    """The answer to a request."""
    return requests.post(f"{server.url}/v1/{path}", json=body, timeout=30)


def streamed(client: OpenAI, **request: Any) -> Json:
    """A stream's message, put together as a client does it, with its finish_reason."""
    message: Json = {"role": "assistant", "content": None}
    calls: list[Json] = []
    finish = None
    chunks = list(client.chat.completions.create(stream=True, **request))
    valid_chunks("chat.stream", [chunk.model_dump(exclude_unset=True) for chunk in chunks])
    for choice in (choice for chunk in chunks for choice in chunk.choices):
        message["content"] = (message["content"] or "") + (choice.delta.content or "") or None
        finish = choice.finish_reason or finish
        for delta in choice.delta.tool_calls or ():
            if delta.index == len(calls):
                assert delta.function is not None
                function = {"name": delta.function.name, "arguments": ""}
                calls.append({"id": delta.id, "type": delta.type, "function": function})
            assert delta.function is not None
            calls[delta.index]["function"]["arguments"] += delta.function.arguments or ""
    return {**message, **({"tool_calls": calls} if calls else {}), "finish_reason": finish}


def whole(client: OpenAI, **request: Any) -> Json:
    """The same from a whole answer."""
    raw = client.chat.completions.with_raw_response.create(**request)
    valid("chat.response", raw.content)
    choice = json.loads(raw.content)["choices"][0]
    message = {
        name: choice["message"][name]
        for name in ("role", "content", "tool_calls")
        if name in choice["message"]
    }
    return {**message, "finish_reason": choice["finish_reason"]}


@pytest.mark.parametrize("model", ["prompted", "dropping", "folding", "resending"])
@pytest.mark.parametrize("ask", [whole, streamed])
def test_three_rounds_of_a_tool_loop(client: OpenAI, flowise: DemoServer, model: str, ask: Any) -> None:
    cities = ["Paris", "Rome", "Oslo"]
    messages: list[Any] = [{"role": "system", "content": f"Be brief with {model} {ask.__name__}."}]
    for city in cities:
        messages.append(said(f"Use get_weather for {city}"))
        asked = ask(client, model=model, messages=messages, tools=TOOLS)
        assert asked.pop("finish_reason") == "tool_calls"
        assert asked["content"] is None
        [call] = asked["tool_calls"]
        assert (call["type"], call["function"]["name"]) == ("function", "get_weather")
        assert json.loads(call["function"]["arguments"]) == {"city": city, "unit": "C"}
        messages += [asked, {"role": "tool", "tool_call_id": call["id"], "content": f"21 degrees in {city}"}]
        told = ask(client, model=model, messages=messages, tools=TOOLS)
        assert told["finish_reason"] == "stop"
        assert told["content"].strip() == f"The tool said: 21 degrees in {city}"
        messages.append({"role": "assistant", "content": told["content"]})
        # The record the model sees is in the form that it is asked for.
        seen = json.dumps(flowise.records()[-1], ensure_ascii=False)
        assert "<tool_call>" in seen
        assert "Tool result of get_weather: 21 degrees" in seen


@pytest.mark.parametrize("client", ["langchain", "n8n"])
def test_a_call_whose_arguments_a_client_serializes_again_continues_its_session(
    tmp_path: Path, client: str
) -> None:
    (tmp_path / "proxy.yaml").write_text(
        f"models: [{{id: prompted, flow: {FLOW}, tools: prompt, history: session}}]"
    )
    with SayingFlowise() as flowise, RunningProxy(tmp_path, FLOWISE_BASE_URL=flowise.base_url) as proxy:
        flowise.says = (
            '<tool_call>{"name": "get_weather", "arguments": {"city": "Caf\\u00e9", "unit": "C"}}</tool_call>'
        )
        messages: list[Any] = [said("The weather?")]
        body = {"model": "prompted", "tools": TOOLS}
        [choice] = post(proxy, {**body, "messages": messages}).json()["choices"]
        [call] = choice["message"]["tool_calls"]
        arguments = json.loads(call["function"]["arguments"])
        if client == "n8n":  # 2.41.1 adds the call's id, as recorded in tests/wire/n8n
            arguments["id"] = call["id"]
        function = {"name": "get_weather", "arguments": json.dumps(arguments, separators=(",", ":"))}
        messages += [
            {"role": "assistant", "content": [], "tool_calls": [{**call, "function": function}]},
            {"role": "tool", "tool_call_id": call["id"], "content": "7 degrees"},
        ]
        assert post(proxy, {**body, "messages": messages}).ok
        first, second = flowise.bodies
    assert second["overrideConfig"]["sessionId"] == first["overrideConfig"]["sessionId"]
    assert second["question"] == "Tool result of get_weather: 7 degrees"
    assert "history" not in second


def test_the_streaming_helper_and_parse_give_parsed_arguments(client: OpenAI) -> None:
    messages = [said("Use get_weather for Paris")]
    parsed = client.chat.completions.parse(model="prompted", messages=messages, tools=TOOLS)
    calls = parsed.choices[0].message.tool_calls
    assert calls is not None
    assert calls[0].function.parsed_arguments == GetWeather(city="Paris", unit="C")
    with client.chat.completions.stream(model="prompted", messages=messages, tools=TOOLS) as stream:
        kinds = {event.type for event in stream}
        final = stream.get_final_completion()
    assert "tool_calls.function.arguments.done" in kinds
    assert final.choices[0].finish_reason == "tool_calls"
    calls = final.choices[0].message.tool_calls
    assert calls is not None
    assert calls[0].function.parsed_arguments == GetWeather(city="Paris", unit="C")


def test_what_the_flow_does_not_get_is_named_and_what_it_gets_is_not(server: RunningProxy) -> None:
    body = {"messages": [said("get_time")], "tools": TOOLS, "tool_choice": "auto", "seed": 1}
    prompted = post(server, {**body, "model": "prompted"})
    assert prompted.headers["x-flowise-ignored-params"] == "seed"
    more = [{"type": "custom", "custom": {"name": "sh"}}, *TOOLS]
    assert post(server, {**body, "model": "prompted", "tools": more}).headers["x-flowise-ignored-params"] == (
        "seed, tools[0]"
    )


def test_a_model_that_reports_tools_ignores_them(server: RunningProxy, flowise: DemoServer) -> None:
    body = {"model": "reporting", "messages": [said("get_time")], "tools": TOOLS, "tool_choice": "auto"}
    answer = post(server, body)
    assert answer.headers["x-flowise-ignored-params"] == "tools, tool_choice"
    assert answer.json()["choices"][0]["finish_reason"] == "stop"
    assert HEADING not in json.dumps(flowise.records()[-1])


def test_a_model_that_rejects_tools_says_so_and_runs_nothing(client: OpenAI, flowise: DemoServer) -> None:
    before = len(flowise.records())
    for stream in (False, True):
        with pytest.raises(BadRequestError) as caught:
            client.chat.completions.create(
                model="rejecting", messages=[said("get_time")], tools=TOOLS, stream=stream
            )
        assert (caught.value.param, caught.value.code) == ("tools", "unsupported_parameter")
    assert len(flowise.records()) == before
    assert whole(client, model="rejecting", messages=[said("Hello")])["content"]


@pytest.mark.parametrize("model", ["prompted", "reporting", "rejecting"])
def test_a_malformed_tool_is_refused_whatever_the_model(server: RunningProxy, model: str) -> None:
    tools = [{"type": "function", "function": {"name": 5}}]
    answer = post(server, {"model": model, "messages": [said("Hello")], "tools": tools})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "tools[0].function.name"
    valid("error", answer.content)


def test_a_named_tool_alone_is_described(client: OpenAI, flowise: DemoServer) -> None:
    choice: Any = {"type": "function", "function": {"name": "get_time"}}
    request: Json = {"model": "prompted", "messages": [said("What is it?")], "tools": TOOLS}
    named = whole(client, **request, tool_choice=choice)
    assert named["tool_calls"][0]["function"] == {"name": "get_time", "arguments": "{}"}
    seen = json.dumps(flowise.records()[-1])
    assert "get_time" in seen
    assert "get_weather" not in seen
    none = whole(client, **request, tool_choice="none")
    assert none["finish_reason"] == "stop"
    assert "get_time" not in json.dumps(flowise.records()[-1])


def test_functions_are_called_as_function_call(server: RunningProxy) -> None:
    functions = [{"name": "get_time", "parameters": {"type": "object", "properties": {}}}]
    body = {"model": "prompted", "messages": [said("get_time")], "functions": functions}
    answer = post(server, body)
    valid("chat.response", answer.content)
    [choice] = answer.json()["choices"]
    assert choice["finish_reason"] == "function_call"
    assert choice["message"]["function_call"] == {"name": "get_time", "arguments": "{}"}
    streaming = post(server, {**body, "stream": True})
    valid("chat.stream", streaming.content)
    assert '"finish_reason":"function_call"' in streaming.text
    result = {"role": "function", "name": "get_time", "content": "noon"}
    told = post(server, {**body, "messages": [*body["messages"], choice["message"], result]})
    assert told.json()["choices"][0]["message"]["content"].strip() == "The tool said: noon"


def test_a_title_never_gets_tools(server: RunningProxy, flowise: DemoServer) -> None:
    answer = post(server, {"model": "prompted", "messages": [said(TITLE)], "tools": TOOLS})
    assert answer.json()["choices"][0]["finish_reason"] == "stop"
    assert HEADING not in json.dumps(flowise.records()[-1])


def test_responses_call_tools_too(client: OpenAI) -> None:
    tools: Any = [{"type": "function", "name": "get_time", "parameters": {}, "strict": False}]
    question: Any = {"role": "user", "content": "get_time"}
    response = client.responses.create(model="prompted", input=[question], tools=tools)
    [call] = [item for item in response.output if item.type == "function_call"]
    assert (call.name, call.arguments) == ("get_time", "{}")
    assert not response.output_text
    output: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "noon"}
    items: Any = [question, call.model_dump(exclude_none=True), output]
    told = client.responses.create(model="prompted", input=items, tools=tools)
    assert told.output_text.strip() == "The tool said: noon"
    with client.responses.stream(model="prompted", input=[question], tools=tools) as stream:
        kinds = {event.type for event in stream}
    assert "response.function_call_arguments.done" in kinds


def test_a_system_text_that_is_sent_once_outlives_tools_that_are_sent_each_time(
    server: RunningProxy, flowise: DemoServer
) -> None:
    body: Json = {"model": "prompted", "conversation_id": "once", "tools": TOOLS, "tool_choice": "none"}
    rules: ChatCompletionMessageParam = {"role": "system", "content": "Speak like a pirate."}
    post(server, {**body, "messages": [rules, said("One")]})
    post(server, {**body, "messages": [said("Two")]})
    post(server, {**body, "messages": [said("Three")], "tool_choice": "auto"})
    seen = json.dumps(flowise.records()[-1])
    assert "Speak like a pirate." in seen
    assert HEADING in seen


@pytest.fixture
def saying(tmp_path: Path) -> Iterator[tuple[SayingFlowise, OpenAI, RunningProxy]]:
    """A flow that says what it is told to, behind a server that tells it of tools."""
    with SayingFlowise() as flowise:
        file = f"models:\n  - {{id: m, flow: {FLOW}, tools: prompt}}\n"
        (tmp_path / "proxy.yaml").write_text(file)
        with RunningProxy(tmp_path, FLOWISE_BASE_URL=flowise.base_url) as server:
            with OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0) as openai:
                yield flowise, openai, server


def test_what_only_a_real_model_says(saying: tuple[SayingFlowise, OpenAI, RunningProxy]) -> None:
    flowise, client, server = saying
    check_several_calls(flowise, client)
    check_one_call_at_a_time(flowise, server)
    check_text_that_is_no_call(flowise, client)
    check_json(flowise, client, server)


def check_several_calls(flowise: SayingFlowise, client: OpenAI) -> None:
    """Two calls behind a text."""
    call = '<tool_call>\n{"name": "get_time", "arguments": {}}\n</tool_call>'
    flowise.says = f"Let me see.\n{call}\n{call}\n"
    for ask in (whole, streamed):
        answer = ask(client, model="m", messages=[said(f"Time {ask.__name__}?")], tools=TOOLS)
        assert answer["content"] == "Let me see.\n"
        assert answer["finish_reason"] == "tool_calls"
        assert len({one["id"] for one in answer["tool_calls"]}) == 2


def check_one_call_at_a_time(flowise: SayingFlowise, server: RunningProxy) -> None:
    """Two calls where one is allowed."""
    call = '<tool_call>{"name": "get_time", "arguments": {}}</tool_call>'
    flowise.says = call + call
    body = {"model": "m", "messages": [said("One")], "tools": TOOLS, "parallel_tool_calls": False}
    answer = post(server, body).json()
    assert len(answer["choices"][0]["message"]["tool_calls"]) == 1
    assert answer["flowise"]["warnings"] == [
        "Only the first of several tool calls was passed on: the request allows one at a time."
    ]


def check_text_that_is_no_call(flowise: SayingFlowise, client: OpenAI) -> None:
    """A call of an unknown tool."""
    flowise.says = 'No: <tool_call>{"name": "rm", "arguments": {}}</tool_call> <tool_'
    for ask in (whole, streamed):
        answer = ask(client, model="m", messages=[said(f"No {ask.__name__}")], tools=TOOLS)
        assert answer == {"role": "assistant", "content": flowise.says, "finish_reason": "stop"}


def check_json(flowise: SayingFlowise, client: OpenAI, server: RunningProxy) -> None:
    """Answers in JSON, fenced or none."""
    flowise.says = '```json\n{"city": "Paris", "unit": "C"}\n```'
    messages = [said("Give me JSON")]
    parsed = client.chat.completions.parse(model="m", messages=messages, response_format=GetWeather)
    assert parsed.choices[0].message.parsed == GetWeather(city="Paris", unit="C")
    assert "fits the JSON Schema" in flowise.bodies[-1]["question"]
    with client.chat.completions.stream(model="m", messages=messages, response_format=GetWeather) as stream:
        assert stream.get_final_completion().choices[0].message.parsed == GetWeather(city="Paris", unit="C")
    response = client.responses.parse(model="m", input="Give me JSON", text_format=GetWeather)
    assert response.output_parsed == GetWeather(city="Paris", unit="C")
    flowise.says = "Sorry, no."
    runs = len(flowise.bodies)
    body = {"model": "m", "messages": messages, "response_format": {"type": "json_object"}}
    answer = post(server, body)
    assert len(flowise.bodies) == runs + 1
    assert "x-flowise-ignored-params" not in answer.headers
    assert answer.json()["choices"][0]["message"]["content"] == "Sorry, no."
    assert answer.json()["flowise"]["warnings"] == ["The answer is not the requested JSON."]


@pytest.mark.parametrize("path", ["chat/completions", "responses"])
def test_what_harms_nobody_is_taken(server: RunningProxy, path: str) -> None:
    """A mark before the JSON, no limit as -1, a tool that gave nothing, odd names where tools are ignored."""
    call = {"id": "c1", "type": "function", "function": {"name": "web.search", "arguments": "{}"}}
    body: Json = {
        "model": "reporting",
        "max_tokens": -1,
        "stop": [*"abcdefgh"],
        "tools": [{"type": "function", "function": {"name": "web.search"}}],
        "messages": [
            said("Hi"),
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c1", "content": None},
        ],
    }
    if path == "responses":
        called = {"type": "function_call", "call_id": "c1", "name": "web.search", "arguments": "{}"}
        body = {
            "model": "reporting",
            "max_output_tokens": -1,
            "tools": [{"type": "function", "name": "web.search"}],
            "input": [said("Hi"), called, {"type": "function_call_output", "call_id": "c1", "output": None}],
        }
    content = b"\xef\xbb\xbf" + json.dumps(body).encode()
    headers = {"Content-Type": "application/json", "Connection": "close"}
    answer = requests.post(f"{server.url}/v1/{path}", data=content, headers=headers, timeout=30)
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-flowise-ignored-params"] == "tools"
    refused = post(server, {**body, "model": "prompted"}, path)
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "invalid_value")
    assert refused.json()["error"]["param"].startswith("tools[0].")
