"""What Flowise answers in ways that the demo does not: what clients see of it, over real sockets."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import requests
from openai import OpenAI

from tests.support.running_proxy import RunningProxy
from tests.support.saying_flowise import FLOW, SayingFlowise, ending, event, token

Json = dict[str, Any]
OLDER = Path(__file__).resolve().parents[1] / "wire/flowise-3.0.13"
ASKED = "Shall I go on?\n\n(Waiting for your decision: Proceed / Reject)"


@pytest.fixture(scope="module")
def flowise() -> Iterator[SayingFlowise]:
    """A Flowise that answers what a test tells it to."""
    with SayingFlowise() as server:
        yield server


@pytest.fixture(scope="module")
def proxy(flowise: SayingFlowise, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningProxy]:
    """A server in front of it, for one person."""
    with RunningProxy(tmp_path_factory.mktemp("proxy"), FLOWISE_BASE_URL=flowise.base_url) as running:
        yield running


@pytest.fixture(scope="module")
def lively(flowise: SayingFlowise, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningProxy]:
    """The same with a quick heartbeat."""
    settings = {"FLOWISE_BASE_URL": flowise.base_url, "PROXY_HEARTBEAT_SECONDS": "0.1"}
    with RunningProxy(tmp_path_factory.mktemp("lively"), **settings) as running:
        yield running


def ask(proxy: RunningProxy, *said: str, stream: bool = False) -> Json:
    """The message that answers a conversation, with all that the answer says beside it."""
    roles = ("user", "assistant") * len(said)
    messages = [{"role": role, "content": text} for role, text in zip(roles, said, strict=False)]
    body = {"model": FLOW, "messages": messages, "stream": stream}
    headers = {"Connection": "close"}
    answer = requests.post(f"{proxy.url}/v1/chat/completions", json=body, headers=headers, timeout=30)
    assert answer.status_code == 200, answer.text
    if not stream:
        whole: Json = answer.json()
        return {**whole, **whole["choices"][0]["message"]}
    chunks = [json.loads(data) for data in re.findall(rb"(?m)^data: (\{.*)$", answer.content)]
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks]
    texts = {
        name: "".join(delta.get(name) or "" for delta in deltas) for name in ("content", "reasoning_content")
    }
    return {**chunks[-1], **texts}


def recorded(name: str) -> Json:
    """A JSON answer of an older version."""
    body = (OLDER / f"{name}.http").read_bytes().partition(b"\r\n\r\n")[2]
    return cast("Json", json.loads(body))


def test_follow_up_prompts_are_told_in_a_json_answer(proxy: RunningProxy, flowise: SayingFlowise) -> None:
    prompts = ["What else?", "Why?"]
    flowise.answers({"text": "Hello", "followUpPrompts": json.dumps(json.dumps(prompts))})
    assert ask(proxy, "Hi")["flowise"]["follow_up_prompts"] == prompts
    told = {"chatId": "c", "sessionId": "c", "followUpPrompts": json.dumps(prompts)}
    flowise.streams(token("Hello"), event("metadata", told) + event("end", "[DONE]"))
    assert ask(proxy, "Hi", stream=True)["flowise"]["follow_up_prompts"] == prompts


@pytest.mark.parametrize("usage", [{}, {"input_tokens": 0, "output_tokens": 0, "total_tokens": 0}])
def test_usage_of_nothing_is_counted_here(proxy: RunningProxy, flowise: SayingFlowise, usage: Json) -> None:
    node = {"nodeId": "llmAgentflow_0", "data": {"output": {"content": "Hello", "usageMetadata": usage}}}
    flowise.answers({"text": "Hello", "agentFlowExecutedData": [node]})
    whole = ask(proxy, "Hi")
    assert whole["usage"]["completion_tokens"] > 0
    assert whole["flowise"]["usage_estimated"] is True
    flowise.streams(token("Hello"), event("usageMetadata", usage), ending())
    assert ask(proxy, "Hi", stream=True)["flowise"]["usage_estimated"] is True


@pytest.mark.parametrize(("word", "kind"), [("approve", "proceed"), ("Reject: too dear", "reject")])
def test_a_decision_reaches_a_flow_whose_json_answer_has_no_action(
    proxy: RunningProxy, flowise: SayingFlowise, word: str, kind: str
) -> None:
    flowise.answers(recorded("human-1-ask-json"), recorded("human-2-reject-json"))
    question = f"Do it, then {word}"
    asked = ask(proxy, question)
    assert asked["content"] == ASKED
    assert asked["flowise"]["action"]["choices"] == ["Proceed", "Reject"]
    assert ask(proxy, question, asked["content"], word)["content"] == "You said no"
    sent = flowise.bodies[-1]
    assert (sent["humanInput"]["type"], sent["humanInput"]["startNodeId"]) == (kind, "humanInputAgentflow_0")
    assert sent["overrideConfig"]["sessionId"] == flowise.bodies[-2]["overrideConfig"]["sessionId"]


def go_events(stream: bytes) -> Iterator[bytes]:
    """The data of events as openai-go before 3.43 takes them apart: each empty line ends one, data or not."""
    data = b""
    for line in stream.split(b"\n")[:-1]:
        name, _, value = line.partition(b":")
        if not line:
            yield data
            data = b""
        elif name == b"data":
            data += value.removeprefix(b" ") + b"\n"


@pytest.mark.parametrize("path", ["chat/completions", "completions", "responses"])
def test_a_heartbeat_ends_no_stream_of_openai_go(
    lively: RunningProxy, flowise: SayingFlowise, path: str
) -> None:
    flowise.streams(0.5, token("Hel"), 0.5, token("lo"), 0.5, ending())
    body = {"model": FLOW, "stream": True, "messages": [{"role": "user", "content": "Hi"}]}
    body |= {"prompt": "Hi"} if path == "completions" else {"input": "Hi"} if path == "responses" else {}
    answer = requests.post(f"{lively.url}/v1/{path}", json=body, headers={"Connection": "close"}, timeout=30)
    *events, done = go_events(answer.content)
    assert done.startswith(b"[DONE]")
    read = [json.loads(data) for data in events]
    parts = [part for each in read for part in each.get("choices", [each])]
    name = "text" if path == "completions" else "delta"
    deltas = [part.get(name, "") for part in parts]
    texts = [delta.get("content") or "" if isinstance(delta, dict) else delta for delta in deltas]
    assert "".join(texts) == "Hello"
    silences = answer.content.count(b": keep-alive\n") if path == "responses" else texts.count("") - 1
    assert silences >= 6
    assert b"keep-alive\n\n" not in answer.content


def test_openais_client_reads_over_heartbeats(lively: RunningProxy, flowise: SayingFlowise) -> None:
    flowise.streams(0.5, token("Hel"), 0.5, token("lo"), 0.5, ending())
    said: Any = [{"role": "user", "content": "Hi"}]
    with OpenAI(base_url=f"{lively.url}/v1", api_key="any", max_retries=0) as client:
        with client.chat.completions.stream(model=FLOW, messages=said) as stream:
            assert stream.get_final_completion().choices[0].message.content == "Hello"
        completions = client.completions.create(model=FLOW, prompt="Hi", stream=True)
        assert "".join(chunk.choices[0].text for chunk in completions) == "Hello"
        with client.responses.stream(model=FLOW, input="Hi") as events:
            assert events.get_final_response().output_text == "Hello"


def test_the_answers_of_branches_are_paragraphs(proxy: RunningProxy, flowise: SayingFlowise) -> None:
    names = ("llmAgentflow_0", "llmAgentflow_1")
    nodes = [
        {
            "nodeId": name,
            "nodeLabel": name,
            "data": {"name": "llmAgentflow", "output": {"content": f"From {name}."}},
            "previousNodeIds": ["startAgentflow_0"],
            "status": "FINISHED",
        }
        for name in names
    ]
    steps: list[bytes | float] = [event("agentFlowEvent", "INPROGRESS")]
    for count, name in enumerate(names, 1):
        state = {"nodeId": name, "nodeLabel": name}
        steps += [event("nextAgentFlow", {**state, "status": "INPROGRESS"}), token("From "), 0.02]
        steps += [token(f"{name}."), 0.02, event("nextAgentFlow", {**state, "status": "FINISHED"})]
        steps += [event("agentFlowExecutedData", nodes[:count])]
    flowise.streams(*steps, event("agentFlowEvent", "FINISHED"), ending())
    flowise.answers({"text": "From llmAgentflow_1.", "agentFlowExecutedData": nodes})
    for stream in (True, False):
        assert ask(proxy, "Hi", stream=stream)["content"] == "From llmAgentflow_0.\n\nFrom llmAgentflow_1."
