"""Answers made of a real Flowise's recordings: nothing leaks, and stream and JSON tell the same."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

import orjson
import pytest

from flowise_gateway.flow.errors import ProxyError, error_body
from flowise_gateway.flow.events import FlowEvent, FlowToolCalled, ReasoningDelta, ToolUsed
from flowise_gateway.flow.transcript import Transcript
from flowise_gateway.flow.turn import Turn
from flowise_gateway.flowise.answer import answer_events
from flowise_gateway.flowise.failures import refused
from flowise_gateway.flowise.transport.base import ReplyHead
from flowise_gateway.openai.client_quirks import Style
from flowise_gateway.openai.request import ParsedRequest
from flowise_gateway.openai.sse import stream_bytes
from flowise_gateway.openai.usage import count_tokens
from openai_adapter import ChatRenderer, CompletionRenderer
from tests.support.flowise_wire import CALL_IDS, RECORDINGS, decoded, pairs, payloads, recorded
from tests.support.openai_check import valid

ALL = Style(footer=True, usage=True)
NAMES = sorted(path.stem for path in RECORDINGS.glob("*.http") if path.stat().st_size)
PREDICTIONS = [name for name in NAMES if not name.startswith("route-")]

SECRET_KEYS = {"credential", "FLOWISE_CREDENTIAL_ID", "basepath", "selectedTool", "system_fingerprint"}
KNOWN_SECRETS = (
    *("FLOWISE_CREDENTIAL", "agentModelConfig", "llmModelConfig", "availableTools", "previousNodeIds"),
    *("sk-", "127.0.0.1", "/root/", "node_modules", "stack", "predictionsServices", "chatHistory"),
    *("flowVariables", "usage_metadata", "additional_kwargs", "FILE-STORAGE"),
)


def json_values(name: str) -> Iterator[Any]:
    """All JSON values of a recording, whether it is a stream or a body."""
    kind, body = recorded(name)
    raw = payloads(body) if "event-stream" in kind else [body]
    for payload in raw:
        try:
            yield orjson.loads(payload) if isinstance(payload, bytes) else None
        except orjson.JSONDecodeError:
            continue


def secrets_in(value: Any) -> Iterator[str]:
    """What Flowise shows of its insides: credentials, prompts, addresses, state, the provider's own words."""
    if isinstance(value, list):
        for part in value:
            yield from secrets_in(part)
    if not isinstance(value, dict):
        return
    for key, part in value.items():
        if key in SECRET_KEYS and isinstance(part, str):
            yield part
        if key == "state" and isinstance(part, dict):
            yield from (json.dumps(leaf) for leaf in part.values())
        yield from secrets_in(part)
    if value.get("role") == "system":
        yield str(value["content"])
    if "nodeLabel" in value and isinstance(value.get("error"), str):
        yield from re.findall(r"\S*(?:sk-|://|/node_modules)\S*", value["error"])


def events_of(name: str) -> Iterator[FlowEvent]:
    """The events of a recorded answer; an answer that is none raises what it means."""
    raw = (RECORDINGS / f"{name}.http").read_bytes()
    kind, body = recorded(name)
    status = int(raw.split(b" ", 2)[1])
    if status != 200 or not kind.startswith(("text/event-stream", "application/json")):
        raise refused(ReplyHead(status, {}), body)
    yield from (
        decoded(payloads(body)) if "event-stream" in kind else answer_events(json.loads(body or b"null"))
    )


REQUEST = ParsedRequest("m", (Turn("m", "the question", chat_id="c"),), stream=True, include_usage=True)


def streamed(renderer: ChatRenderer | CompletionRenderer, events: Iterable[FlowEvent]) -> bytes:
    """The events as a stream."""
    transcript, frames = Transcript("c"), renderer.opening()
    try:
        for event in events:
            transcript.add(event)
            frames += renderer.chunks(event)
        frames += renderer.closing([transcript])
    except ProxyError as error:
        frames += renderer.failure(error)
    return stream_bytes(frames)


def whole(renderer: ChatRenderer | CompletionRenderer, events: Iterable[FlowEvent]) -> bytes:
    """The events as a body."""
    transcript = Transcript("c")
    try:
        for event in events:
            transcript.add(event)
        return orjson.dumps(renderer.body([transcript]))
    except ProxyError as error:
        return orjson.dumps(error_body(error))


def chat(style: Style = ALL) -> ChatRenderer:
    """A renderer of chat completions."""
    return ChatRenderer(REQUEST, count_tokens=count_tokens, style=style)


def completion() -> CompletionRenderer:
    """A renderer of legacy completions."""
    return CompletionRenderer(REQUEST, count_tokens=count_tokens, style=ALL)


def test_the_recordings_hold_what_must_not_leak() -> None:
    found = {secret for name in PREDICTIONS for value in json_values(name) for secret in secrets_in(value)}
    assert "You are the flow agent." in found
    assert any(re.fullmatch(r"[0-9a-f-]{36}", secret) for secret in found)
    assert any("sk-" in secret for secret in found)
    assert any(secret.startswith("http://127.0.0.1") for secret in found)


@pytest.mark.parametrize("name", PREDICTIONS)
def test_nothing_of_flowises_insides_is_in_any_answer(name: str) -> None:
    secrets = {secret for value in json_values(name) for secret in secrets_in(value)}
    secrets = {secret for secret in secrets if len(secret) > 3} | set(KNOWN_SECRETS)
    for make in (chat, completion):
        for answer in (streamed(make(), events_of(name)), whole(make(), events_of(name))):
            leaked = {secret for secret in secrets if secret in answer.decode()}
            assert not leaked


@pytest.mark.parametrize("name", [name for name in PREDICTIONS if name.startswith(("ok-", "human-"))])
def test_an_answer_with_all_that_a_run_tells_is_valid(name: str) -> None:
    try:
        list(events_of(name))
    except ProxyError:
        return
    valid("chat.stream", streamed(chat(), events_of(name)))
    valid("chat.response", whole(chat(), events_of(name)))


def fold(stream: bytes) -> dict[str, Any]:
    """What a client has when a stream is over, in the form of a body's message."""
    message: dict[str, Any] = {"content": "", "reasoning_content": "", "annotations": []}
    told: dict[str, Any] = {}
    for frame in stream.decode().split("\n\n")[:-2]:
        chunk = json.loads(frame.removeprefix("data: "))
        told.update({key: chunk[key] for key in ("usage", "flowise") if chunk.get(key)})
        for choice in chunk["choices"]:
            for key, value in choice["delta"].items():
                if key in message:
                    message[key] += value
    return {"message": message, **told}


def of_body(body: bytes) -> dict[str, Any]:
    """The same of a body."""
    answer = json.loads(body)
    told = answer["choices"][0]["message"]
    message = {"content": told["content"], "reasoning_content": told.get("reasoning_content", "")}
    message["annotations"] = told.get("annotations", [])
    return {"message": message, "usage": answer["usage"], "flowise": answer["flowise"]}


@pytest.mark.parametrize("name", [name for name in PREDICTIONS if not name.startswith("err-")])
def test_our_stream_and_our_body_of_one_run_tell_the_same(name: str) -> None:
    try:
        events = list(events_of(name))
    except ProxyError:
        return
    stream, body = fold(streamed(chat(), events)), of_body(whole(chat(), events))
    for one in (stream, body):
        one["flowise"].pop("execution_time_seconds")
    assert stream == body


OWN_IDS = {"chat_id", "session_id", "chat_message_id", "execution_id", "execution_time_seconds"}
"""What each run has of its own; a stream tells no execution id."""


def comparable(flowise: dict[str, Any]) -> dict[str, Any]:
    """The vendor key without what differs from run to run."""
    kept = {key: value for key, value in flowise.items() if key not in OWN_IDS}
    kept["nodes"] = [{**node, "seconds": "seconds" in node} for node in kept.pop("nodes", [])]
    kept.pop("action", None)
    return kept


@pytest.mark.parametrize("name", pairs())
def test_a_flow_tells_the_same_streamed_or_not(name: str) -> None:
    stream = fold(streamed(chat(), events_of(f"{name}-stream")))
    body = of_body(whole(chat(), events_of(f"{name}-json")))
    if name in CALL_IDS:
        for one in (stream, body):
            one["message"]["content"] = re.sub(r"call_\d+", "call", one["message"]["content"])
    assert stream["message"] == body["message"]
    assert stream["usage"] == body["usage"]
    assert comparable(stream["flowise"]) == comparable(body["flowise"])


def test_steps_can_be_left_out_and_thoughts_stay() -> None:
    # The model behind the recordings does not think, so a thought is put in front.
    events = [ReasoningDelta("Hm, a sum."), *events_of("ok-af_agent-stream")]
    assert any(isinstance(event, FlowToolCalled | ToolUsed) for event in events)
    for style, lines in ((Style(), 4), (Style(steps=False), 1)):
        told = of_body(whole(chat(style), events))["message"]["reasoning_content"]
        assert fold(streamed(chat(style), events))["message"]["reasoning_content"] == told
        assert told.startswith("Hm, a sum.")
        assert len(told.split("▸")) == lines
