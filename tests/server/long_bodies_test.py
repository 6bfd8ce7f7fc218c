"""The longest bodies that are let in: reading them, and passing them on, never keeps others waiting for long.

Counted is the CPU time between two turns of others, so that a busy machine changes little.
"""

from __future__ import annotations

import base64
import gc
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import orjson
import pytest

from flowise_gateway.conversation.sessions import ConversationRequest, Conversations, Outcome
from flowise_gateway.flow.cooperative import LONG_TEXT
from flowise_gateway.flow.errors import BadRequest
from flowise_gateway.flow.events import TurnEnded
from flowise_gateway.flow.transcript import Transcript
from flowise_gateway.flow.turn import Turn
from flowise_gateway.flowise.prediction import prediction_body, prediction_json
from flowise_gateway.openai.conversation_builder import MAX_MESSAGES
from flowise_gateway.openai.json_body import MAX_VALUES, json_object
from flowise_gateway.openai.messages import conversation
from flowise_gateway.openai.request import ParsedRequest
from flowise_gateway.openai.usage import usage_of
from flowise_gateway.responses.compaction import compacted
from flowise_gateway.responses.input_items import pack_compaction
from flowise_gateway.responses.request import parse_response
from flowise_gateway.storage.memory_store import MemoryStore
from openai_adapter import parse_chat
from tests.architecture.growth_texts_test import FLOW

MAX_SECONDS = 0.25
"""Of CPU time; the aim is 0.1. (Machines differ, and a neighbour slows a processor down by half.)"""

MB = 10**6


@pytest.fixture
def longest(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Callable[[], object]], float]]:
    """Measures the longest time that some work holds up others."""
    turns: list[float] = []
    sleep = time.sleep

    def asleep(seconds: float) -> None:
        turns.append(time.thread_time())
        sleep(seconds)
        turns.append(time.thread_time())

    def measured(work: Callable[[], object]) -> float:
        traced = sys.gettrace()
        sys.settrace(None)  # whoever counts the lines that are run is no part of the work
        turns[:] = [time.thread_time()]
        work()
        turns.append(time.thread_time())
        sys.settrace(traced)
        return max(end - begin for begin, end in zip(turns[::2], turns[1::2], strict=True))

    monkeypatch.setattr(time, "sleep", asleep)
    gc.disable()
    yield measured
    gc.enable()


def body(**fields: Any) -> bytes:
    """A request's body."""
    return orjson.dumps({"model": "m", **fields})


def user(content: Any) -> list[dict[str, Any]]:
    """A chat of one message."""
    return [{"role": "user", "content": content}]


def many(count: int, content: str = "a") -> list[dict[str, Any]]:
    """A chat of many messages."""
    return [{"role": "user" if n % 2 == 0 else "assistant", "content": content} for n in range(count)]


def items(count: int, content: str = "a") -> list[dict[str, Any]]:
    """The same as items of a response."""
    return [{"type": "message", **message} for message in many(count, content)]


def file(data: bytes) -> list[dict[str, Any]]:
    """A part with a file."""
    encoded = base64.b64encode(data).decode()
    return [{"type": "file", "file": {"filename": "a.txt", "file_data": f"data:text/plain;base64,{encoded}"}}]


CHATS: dict[str, Callable[[], bytes]] = {
    "a text file": lambda: body(messages=user(file(b"All work and no play. " * MB))),
    "a text file in lines": lambda: body(
        messages=user(
            [{"type": "file", "file": {"filename": "a.txt", "file_data": ("QUJD" * 19 + "\r\n") * 400_000}}]
        )
    ),
    "an image": lambda: body(
        messages=user(
            [{"type": "image_url", "image_url": {"url": "data:image/png;base64," + "iVBO" * 7 * MB}}]
        )
    ),
    "a text": lambda: body(messages=user("x" * 45 * MB)),
    "escapes": lambda: body(messages=user("\n" * 9 * MB)),
    "letters beyond ASCII": lambda: body(messages=user("ü" * 22 * MB)),
    "halves of characters": lambda: (
        b'{"model":"m","messages":[{"role":"user","content":"%b"}]}'
        % (b"\\ud83d\\ude00" * 240_000 + b"\\ud83d")
    ),
    "many messages": lambda: body(messages=many(MAX_MESSAGES - 1)),
    "long messages": lambda: body(messages=many(99, "x" * 450_000)),
    "links in answers": lambda: body(messages=many(99, "\n\n![artifact](" * 2_500)),
    "many images": lambda: body(
        messages=user([{"type": "image_url", "image_url": {"url": "https://a.b/c"}}] * 24_000)
    ),
    "a long system text": lambda: body(messages=[{"role": "system", "content": "s" * 40 * MB}, *user("a")]),
}


def passed_on(parsed: ParsedRequest) -> bytes:
    """What becomes of a request on its way to Flowise, and after its answer."""
    asked = ConversationRequest(
        "c", FLOW, "session", parsed.turns, parsed.user_text, parsed.attachments, is_single_user=True
    )
    conversations = Conversations(MemoryStore(), [b"s" * 32], 60)
    exchange = conversations.join(asked)
    conversations.record(exchange, [Outcome("a", None)])
    transcript = Transcript()
    transcript.add(TurnEnded())
    usage_of(exchange.turns, [transcript], len)
    return prediction_json(exchange.turns[0])


@pytest.mark.parametrize("name", CHATS)
def test_the_longest_chats_hold_nobody_up(longest: Any, name: str) -> None:
    raw = CHATS[name]()
    assert longest(lambda: passed_on(parse_chat(json_object(raw)))) < MAX_SECONDS


RESPONSES: dict[str, Callable[[], Any]] = {
    "many items": lambda: many(MAX_MESSAGES - 1),
    "a text": lambda: "x" * 10 * MB,
    "a compaction": lambda: [
        {"type": "compaction", "encrypted_content": pack_compaction(items(MAX_MESSAGES // 2, "x" * 1000))},
        *user("a"),
    ],
}


@pytest.mark.parametrize("name", RESPONSES)
def test_the_longest_responses_hold_nobody_up(longest: Any, name: str) -> None:
    raw = body(input=RESPONSES[name]())
    assert longest(lambda: passed_on(parse_response(json_object(raw)))) < MAX_SECONDS
    assert longest(lambda: compacted(json_object(raw), len)) < MAX_SECONDS


@pytest.mark.parametrize(
    "raw",
    [
        body(**{f"field{n}": n for n in range(MAX_VALUES // 2 - 10)}),
        body(input=[[]] * (MAX_VALUES // 2 - 10)),
        body(messages=[{}] * (MAX_VALUES // 2 - 10)),
    ],
    ids=["fields", "lists", "objects"],
)
def test_the_most_values_hold_nobody_up(longest: Any, raw: bytes) -> None:
    for parse in (parse_chat, parse_response):

        def read(parse: Callable[[dict[str, Any]], object] = parse) -> None:
            with pytest.raises(BadRequest):
                parse(json_object(raw))

        assert longest(read) < MAX_SECONDS


def test_more_messages_than_a_chat_may_have_are_refused() -> None:
    assert len(conversation(many(MAX_MESSAGES)).history) == MAX_MESSAGES
    with pytest.raises(BadRequest, match="1 to 10000") as refused:
        conversation(many(MAX_MESSAGES + 1))
    assert refused.value.param == "messages"


def test_more_items_than_a_response_may_have_are_refused() -> None:
    asked = {"model": "m", "input": many(MAX_MESSAGES + 1)}
    with pytest.raises(BadRequest, match="at most 10000") as refused:
        parse_response(asked)
    assert refused.value.param == "input"
    before = items(MAX_MESSAGES)
    with pytest.raises(BadRequest) as refused:
        parse_response(
            {"model": "m", "input": "a", "previous_response_id": "resp_1"}, earlier=lambda _id: before
        )
    assert refused.value.code == "context_length_exceeded"
    packed = {"type": "compaction", "encrypted_content": pack_compaction(before)}
    with pytest.raises(BadRequest) as refused:
        parse_response({"model": "m", "input": [packed, *user("a")]})
    assert (refused.value.code, refused.value.param) == ("context_length_exceeded", "input")


def test_more_escapes_than_are_read_in_good_time_are_refused() -> None:
    with pytest.raises(BadRequest, match="300000"):
        json_object(body(messages=user("\n" * 20 * MB)))


@pytest.mark.parametrize("unit", ["x", '"\\', "ü", "😀", "\n\u2028"])
def test_what_is_written_in_slices_is_what_it_was(unit: str) -> None:
    text = (unit * LONG_TEXT)[: LONG_TEXT + 7]
    parsed = parse_chat(json_object(body(messages=[*many(2, text), *user(text)])))
    turn = Turn(FLOW, text, parsed.turns[0].history, overrides={"systemMessage": text, "vars": {"a": text}})
    assert orjson.loads(prediction_json(turn)) == prediction_body(turn)
