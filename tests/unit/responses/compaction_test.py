"""Conversations packed into one item, and what requests weigh."""

from __future__ import annotations

import base64
import zlib
from typing import Any

import orjson
import pytest

from flowise_gateway.flow.errors import BadRequest
from flowise_gateway.openai.conversation_builder import MAX_MESSAGES
from flowise_gateway.responses.compaction import compacted, input_tokens
from flowise_gateway.responses.input_items import pack_compaction
from flowise_gateway.responses.request import parse_response

TALK: list[Any] = [
    {"type": "message", "role": "user", "content": "My name is Ann."},
    {"type": "message", "role": "assistant", "content": "Hello Ann."},
    {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": "{}"},
]
RESULT: dict[str, Any] = {"type": "function_call_output", "call_id": "c1", "output": "Sunny"}


def packed(value: Any) -> str:
    """Anything sealed as a conversation is."""
    return packed_raw(orjson.dumps(value))


def packed_raw(raw: bytes) -> str:
    """Bytes sealed as a conversation is."""
    return "items1." + base64.b64encode(zlib.compress(raw)).decode()


def test_what_was_compacted_is_read_as_if_it_had_been_sent() -> None:
    body = compacted({"model": "m", "input": TALK}, len, clock=lambda: 5.5)
    assert (body["object"], body["created_at"]) == ("response.compaction", 5)
    assert body["usage"]["total_tokens"] == body["usage"]["input_tokens"] > 20
    whole = parse_response({"model": "m", "input": [*TALK, RESULT]})
    short = parse_response({"model": "m", "input": [*body["output"], RESULT]})
    assert (short.turns[0].history, short.user_text) == (whole.turns[0].history, whole.user_text)
    assert [item["type"] for item in short.input_items] == ["compaction", "function_call_output"]


def test_a_compaction_can_be_compacted_with_what_came_after() -> None:
    once = compacted({"model": "m", "input": TALK}, len)["output"]
    twice = compacted({"model": "m", "input": [*once, RESULT]}, len)["output"]
    assert len(twice) == 1
    assert parse_response({"model": "m", "input": twice}).user_text == "Tool result of weather: Sunny"


def test_what_went_before_is_compacted_too() -> None:
    kept = {"resp_1": TALK}
    body: dict[str, Any] = {"model": "m", "previous_response_id": "resp_1"}
    output = compacted(body, len, earlier=kept.get)["output"]
    assert parse_response({"model": "m", "input": [*output, RESULT]}).turns[0].history
    with pytest.raises(BadRequest) as caught:
        compacted(body, len)
    assert caught.value.code == "previous_response_not_found"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"input": "x"}, "model"),
        ({"model": "m"}, "input"),
        ({"model": "m", "input": []}, "input"),
        ({"model": "m", "input": [RESULT]}, "input[0].call_id"),
        ({"model": "m", "input": "x", "instructions": 5}, "instructions"),
        ({"model": "m", "input": "x", "prompt_cache_options": "x"}, "prompt_cache_options"),
    ],
)
def test_what_cannot_be_compacted_is_named(body: dict[str, Any], param: str) -> None:
    with pytest.raises(BadRequest) as caught:
        compacted(body, len)
    assert caught.value.param == param


@pytest.mark.parametrize(
    "content",
    [
        *("", "items1.", "items1.????", "gAAAAAB"),
        *("items1." + base64.b64encode(b"x").decode(), packed({}), packed([1])),
        packed([{"type": "compaction", "encrypted_content": packed([])}]),
        packed_raw(b"[" + b" " * (65 * 2**20) + b"]"),
        packed_raw(b'[{"type":"x","y":' + b"[" * 300 + b"]" * 300 + b"}]"),
        packed_raw(b'[{"type":"x","y":[' + b"0," * 300_000 + b"0]}]"),
    ],
    ids=[
        "nothing",
        "empty",
        "letters",
        "foreign",
        "bytes",
        "object",
        "numbers",
        "nested",
        "bomb",
        "deep",
        "many",
    ],
)
def test_what_this_server_did_not_pack_is_refused(content: str) -> None:
    with pytest.raises(BadRequest) as caught:
        parse_response({"model": "m", "input": [{"type": "compaction", "encrypted_content": content}]})
    assert caught.value.param == "input[0].encrypted_content"


@pytest.mark.parametrize(
    "item",
    [
        {"type": "message", "role": "user", "content": "x" * (9 * 2**20)},
        {"type": "other", "values": [0] * 80_000},
    ],
    ids=["bytes", "values"],
)
def test_packed_items_have_one_limit_together(item: dict[str, Any]) -> None:
    content = pack_compaction([item])
    compactions = [{"type": "compaction", "encrypted_content": content}] * 4
    parse_response({"model": "m", "input": [*compactions[:2], *TALK]})
    with pytest.raises(BadRequest) as caught:
        parse_response({"model": "m", "input": [*compactions, *TALK]})
    assert (caught.value.param, caught.value.code) == (
        "input[3].encrypted_content",
        "context_length_exceeded",
    )


@pytest.mark.parametrize(
    "item",
    [
        {"type": "message", "role": "user", "content": "x" * (9 * 2**20)},
        {"type": "other", "values": [0] * 80_000},
    ],
    ids=["bytes", "values"],
)
def test_what_could_not_be_sent_back_is_not_compacted(item: dict[str, Any]) -> None:
    output = compacted({"model": "m", "input": [item] * 3 + TALK}, len)["output"]
    parse_response({"model": "m", "input": [*output, RESULT]})
    with pytest.raises(BadRequest) as caught:
        compacted({"model": "m", "input": [item] * 4 + TALK}, len)
    assert (caught.value.param, caught.value.code) == ("input", "context_length_exceeded")


def test_items_are_counted_as_they_are_unpacked() -> None:
    content = pack_compaction([{"type": "other"}] * (MAX_MESSAGES // 2))
    compactions = [{"type": "compaction", "encrypted_content": content}] * 2
    wrong = {"type": "compaction", "encrypted_content": "never read"}
    with pytest.raises(BadRequest) as caught:
        parse_response({"model": "m", "input": [*compactions, TALK[0], wrong]})
    assert (caught.value.param, caught.value.code) == ("input", "context_length_exceeded")


def test_a_packed_item_that_is_wrong_is_refused() -> None:
    item = {
        "type": "compaction",
        "encrypted_content": pack_compaction([{"type": "message", "role": "nobody"}]),
    }
    with pytest.raises(BadRequest) as caught:
        parse_response({"model": "m", "input": [item]})
    assert caught.value.param == "input[0].role"


def test_tokens_are_counted_over_all_that_goes_along() -> None:
    body: dict[str, Any] = {"input": "And?", "previous_response_id": "resp_1", "instructions": "Be brief."}
    kept = {"resp_1": TALK[:2]}
    counted = input_tokens(body, lambda text: len(text.split()), earlier=kept.get)
    assert counted == {"object": "response.input_tokens", "input_tokens": 2 + 4 + 2 + 1}
    with pytest.raises(BadRequest):
        input_tokens({"input": "x", "model": 5}, len)
