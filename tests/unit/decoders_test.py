"""The rules of the decoders of Go and Rust judge as those did, and notice when a stream breaks one."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.decoders import VECTORS, event_faults, events, faults, shape_faults, vectors
from tests.support.openai_check import GOLDEN

Json = dict[str, Any]


def lines(name: str) -> list[Json]:
    """The vectors of a file."""
    return [json.loads(line) for line in (VECTORS / name).read_text().splitlines()]


@pytest.mark.parametrize("vector", lines("streams.jsonl"), ids=lambda vector: vector["name"])
def test_a_stream_is_judged_as_by_the_decoders(vector: Json) -> None:
    raw = vector["stream"].encode()
    outcomes = [vector[name] for name in ("openai-go", "async-openai")]
    data = [data for _, data in events(raw)]
    ends = [number for number, each in enumerate(data) if each.startswith(b"[DONE]")]
    if not outcomes[0]["fails"]:
        assert len(data[: ends[0]] if ends else data) == outcomes[0]["events"]
    if any(outcome["fails"] for outcome in outcomes) and vector["name"] != "an error in the middle":
        assert faults("chat.stream", raw)
    if vector["name"] in ("plain", "a comment", "a named event", "an error in the middle"):
        assert faults("chat.stream", raw) == []


def test_a_payload_is_judged_as_by_async_openai() -> None:
    verdicts = lines("verdicts.jsonl")
    assert {verdict["accepted"] for verdict in verdicts} == {True, False}
    for verdict in verdicts:
        kind, payload = verdict["kind"], verdict["payload"]
        is_event = kind == "response.stream"
        found = event_faults(payload.get("type"), payload) if is_event else shape_faults(kind, payload)
        assert (not list(found)) == verdict["accepted"], verdict


@pytest.mark.parametrize("path", sorted(GOLDEN.iterdir()), ids=lambda path: path.name)
def test_a_golden_file_breaks_no_rule(path: Any) -> None:
    family = path.name.partition("-")[0]
    whole = {"chat": "chat.response", "completion": "completion.response", "response": "response"}[family]
    assert faults(whole if path.suffix == ".json" else f"{family}.stream", path.read_bytes()) == []


def changed(name: str, old: str, new: str) -> bytes:
    """A golden stream with one change."""
    text = (GOLDEN / name).read_text()
    assert old in text
    return text.replace(old, new).encode()


BROKEN: dict[str, tuple[str, Callable[[], bytes], str]] = {
    "a finish reason of its own": (
        "chat.stream",
        lambda: changed("chat-plain.sse", '"finish_reason":"stop"', '"finish_reason":"ended"'),
        "'ended' is not",
    ),
    "seconds with a fraction": (
        "chat.stream",
        lambda: changed("chat-plain.sse", '"created":1700000000', '"created":1700000000.0'),
        "not of type 'integer'",
    ),
    "an error that is null": (
        "chat.stream",
        lambda: changed("chat-plain.sse", '"logprobs":null', '"logprobs":null}],"error":null,"x":[{"y":1'),
        "ended at the error",
    ),
    "a line of 70 kB": (
        "chat.stream",
        lambda: changed("chat-plain.sse", '"delta":{}', '"delta":{"content":"' + "a" * 70_000 + '"}'),
        "langchaingo: a line",
    ),
    "an end that is not the last": (
        "chat.stream",
        lambda: changed("chat-plain.sse", "data: [DONE]\n\n", "data: [DONE]\n\ndata: {}\n\n"),
        "not [DONE]",
    ),
    "no empty line at the end": (
        "chat.stream",
        lambda: changed("chat-plain.sse", "data: [DONE]\n\n", "data: [DONE]\n"),
        "no empty line",
    ),
    "CRLF": ("chat.stream", lambda: changed("chat-plain.sse", "\n", "\r\n"), "than by LF"),
    "an event of its own": (
        "response.stream",
        lambda: changed("response-plain.sse", "response.in_progress", "response.flowise_step"),
        "no event that is known",
    ),
    "a name that is not the type": (
        "response.stream",
        lambda: changed("response-plain.sse", "event: response.in_progress", "event: message"),
        "its name is 'message'",
    ),
    "an item of its own": (
        "response.stream",
        lambda: changed("response-agent.sse", '"type":"reasoning"', '"type":"flowise_steps"'),
        "not valid under any",
    ),
    "a status of its own": (
        "response.stream",
        lambda: changed("response-plain.sse", '"status":"completed"', '"status":"done"'),
        "not",
    ),
    "no id of an item": (
        "response.stream",
        lambda: changed("response-plain.sse", '"item_id"', '"item"'),
        "'item_id' is a required property",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_stream_that_breaks_a_rule_is_noticed(name: str) -> None:
    kind, stream, reason = BROKEN[name]
    assert any(reason in fault for fault in faults(kind, stream()))


def test_each_vector_names_its_source() -> None:
    for name in ("openai-go", "async-openai", "langchaingo"):
        assert vectors(name)["source"].startswith("https://github.com/")
        assert len(vectors(name)["commit"]) == 40
