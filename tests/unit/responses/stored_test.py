"""Kept responses and runs in the background, over a store in memory."""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import Any, Literal

import orjson
import pytest

from flowise_gateway.flow.errors import BadRequest, ProxyError, RunFailed
from flowise_gateway.flow.events import Batch, FlowEvent, KeepAlive, TextDelta, TurnEnded
from flowise_gateway.flow.parallel import ChoiceBatches
from flowise_gateway.flow.transcript import Transcript
from flowise_gateway.responses.background import BackgroundRun, cancelled, replayed
from flowise_gateway.responses.renderer import ResponsesRenderer
from flowise_gateway.responses.request import parse_response
from flowise_gateway.responses.stored import (
    MAX_BYTES,
    MAX_OWN_BYTES,
    MAX_REFERENCED_BYTES,
    MAX_REFERENCES,
    Context,
    OwnConversations,
    Record,
    StoredResponse,
    StoredResponses,
    page,
)
from flowise_gateway.storage.memory_store import MemoryStore
from flowise_gateway.storage.protocol import StoreError
from flowise_gateway.storage.store import WatchedStore
from flowise_gateway.web.answer import PendingAnswer
from flowise_gateway.web.heartbeat import Heartbeat
from tests.support.flow_events import transcript_of
from tests.support.openai_check import valid

ITEM = {"id": "msg_1", "type": "message", "role": "assistant", "content": []}
DONE: dict[str, Any] = {"id": "resp_1", "status": "completed", "background": True, "output": [ITEM]}


def responses(store: MemoryStore | None = None) -> StoredResponses:
    """Responses over a store of their own."""
    secret = b"s" * 32
    return StoredResponses(WatchedStore(store or MemoryStore(), secret=secret), secret, 3600)


def test_a_record_is_read_as_it_was_kept() -> None:
    stored = responses()
    record = Record(DONE, [{"id": "a"}], [{"id": "b"}], 3)
    assert stored.of("ann", "resp_1").save(record)
    found = stored.of("ann", "resp_1").record()
    assert found is not None
    assert (found.response, found.input_items, found.before, found.blocks) == (
        DONE,
        [{"id": "a"}],
        [{"id": "b"}],
        3,
    )
    assert [item["id"] for item in found.context] == ["b", "a", "msg_1"]
    assert stored.item("ann", "msg_1") == orjson.dumps(ITEM)


def test_what_was_stored_before_a_rotation_of_the_secret_is_found_and_deleted() -> None:
    old, new, store = b"s" * 32, b"n" * 32, MemoryStore()
    responses(store).of("ann", "resp_1").save(Record(DONE, blocks=1), {0: b"event"})
    after = WatchedStore(store, secret=new, old_secrets=[old])
    stored = StoredResponses(after, new, 3600)
    place = stored.of("ann", "resp_1")
    found = place.record()
    assert found is not None
    assert found.response == DONE
    assert stored.item("ann", "msg_1") == orjson.dumps(ITEM)
    assert place.events(0) == b"event"
    assert stored.of("bob", "resp_1").record() is None
    assert after.secret_error is None
    forgotten = StoredResponses(WatchedStore(store, secret=new), new, 3600)
    assert forgotten.of("ann", "resp_1").record() is None, "once the old secret is named no more"
    assert place.delete()
    assert place.record() is None
    assert stored.item("ann", "msg_1") is None
    assert place.events(0) is None
    assert set(store._values) == {"mark"}, "nothing of it is left"


@pytest.mark.parametrize(("scope", "name"), [("bob", "resp_1"), ("ann", "resp_2"), ("ann", "\ud800")])
def test_only_its_caller_finds_a_response(scope: str, name: str) -> None:
    stored = responses()
    stored.of("ann", "resp_1").save(Record(DONE))
    assert stored.of(scope, name).record() is None
    assert stored.item("bob", "msg_1") is None
    assert stored.item(scope, "\ud800") is None
    assert not stored.of(scope, name).delete()
    assert stored.of("ann", "resp_1").record() is not None


def test_numbers_that_only_python_reads_are_kept() -> None:
    stored = responses()
    stored.of("ann", "resp_1").save(Record(DONE, [{"id": "a", "n": 2**70}]))
    found = stored.of("ann", "resp_1").record()
    assert found is not None
    assert found.input_items[0]["n"] == pytest.approx(2**70)


def test_what_is_forgotten_leaves_nothing() -> None:
    store = MemoryStore()
    place = responses(store).of("ann", "resp_1")
    place.save(Record(DONE, blocks=2), {0: b"x", 1: b"y"})
    assert place.delete()
    assert set(store._values) <= {"mark"}


def test_the_store_holds_no_text_and_no_id_in_its_keys() -> None:
    store = MemoryStore()
    responses(store).of("ann", "resp_1").save(Record(DONE))
    assert not [key for key in store._values if "resp_1" in key or "msg_1" in key or "ann" in key]


def test_a_run_without_a_sign_of_life_reads_as_failed() -> None:
    stored = responses()
    place = stored.of("ann", "resp_1")
    place.save(Record({**DONE, "status": "in_progress", "output": []}))
    found = place.record()
    assert found is not None
    assert (found.response["status"], found.response["error"]["code"]) == ("failed", "server_error")
    place.show_alive()
    found = place.record()
    assert found is not None
    assert found.response["status"] == "in_progress"
    with pytest.raises(BadRequest) as caught:
        Context(stored, "ann").earlier("resp_1")
    assert caught.value.code == "previous_response_not_completed"


class Lost(MemoryStore):
    """A store that is gone."""

    def put(self, entries: Mapping[str, bytes], seconds: float, owner: str | None = "") -> None:
        """Fail."""
        raise StoreError("gone")


def test_it_is_told_whether_a_record_could_be_kept() -> None:
    assert not responses(Lost()).of("ann", "resp_1").save(Record(DONE))


def test_only_so_many_references_are_looked_up() -> None:
    stored = responses()
    stored.of("ann", "resp_1").save(Record(DONE))
    context = Context(stored, "ann")
    assert [context.resolve("msg_1") for _ in range(MAX_REFERENCES + 1)][-2:] == [ITEM, None]


def test_only_so_many_bytes_are_referred_to() -> None:
    stored = responses()
    large = {**ITEM, "text": "x" * (MAX_REFERENCED_BYTES // 3)}
    stored.of("ann", "resp_1").save(Record({**DONE, "output": [large]}))
    context = Context(stored, "ann")
    assert [context.resolve("msg_1") for _ in range(2)] == [large, large]
    with pytest.raises(BadRequest) as caught:
        context.resolve("msg_1")
    assert (caught.value.param, caught.value.code) == ("input", "context_length_exceeded")


def test_a_conversation_is_kept_up_to_a_size() -> None:
    stored = responses()
    large = {"id": "a", "text": "x" * (MAX_BYTES - 1000)}
    stored.of("ann", "resp_1").save(Record(DONE, [large]))
    context = Context(stored, "ann")
    assert context.fits([large])
    assert not context.fits([large, large])
    context.earlier("resp_1")
    assert context.fits([])
    assert not context.fits([large])


def test_a_connection_continues_its_own_conversations_up_to_a_size() -> None:
    own = OwnConversations()
    own.remember("resp_9", [ITEM], MAX_BYTES - 1000)
    context = Context(responses(), "ann", own)
    assert context.earlier("resp_9") == [ITEM]
    assert context.fits([ITEM])
    assert not context.fits([{**ITEM, "text": "x" * 1000}])
    own.forget("resp_9")
    assert context.earlier("resp_9") is None


def test_a_connection_remembers_only_so_many_bytes_the_latest() -> None:
    own = OwnConversations()
    for number in range(6):
        own.remember(f"resp_{number}", [ITEM], MAX_BYTES - number)
    own.remember("too large", [ITEM], MAX_BYTES + 1)
    found = [name for name in ("too large", *(f"resp_{n}" for n in range(6))) if own.find(name)]
    assert found == ["resp_2", "resp_3", "resp_4", "resp_5"]
    assert MAX_OWN_BYTES == 4 * MAX_BYTES


def test_a_page_tells_what_comes_before_and_after() -> None:
    items = [{"id": str(number)} for number in range(5)]
    assert page(items, limit=2) == {
        "object": "list",
        "data": [{"id": "4"}, {"id": "3"}],
        "first_id": "4",
        "last_id": "3",
        "has_more": True,
    }
    assert [item["id"] for item in page(items, order="asc", after="2")["data"]] == ["3", "4"]
    assert page(items, after="0") == {
        "object": "list",
        "data": [],
        "first_id": None,
        "last_id": None,
        "has_more": False,
    }


# --- in the background ---

Numbered = Generator[tuple[int, Batch], None, None]


def running(place: StoredResponse, batches: Numbered) -> BackgroundRun:
    """A run that is ready to begin."""
    request = parse_response({"model": "m", "input": "Hi", "background": True})
    renderer = ResponsesRenderer(request, count_tokens=len)
    numbered = ChoiceBatches(batches, batches.close)
    answer = PendingAnswer(numbered, renderer, Heartbeat(0), [Transcript("chat")], lambda: None, {})
    return BackgroundRun(place, answer, Record({}), renderer)


def batches_of(*events: FlowEvent | Exception) -> Numbered:
    """A run that reports these, one after the other."""

    def told() -> Iterator[tuple[int, Batch]]:
        for event in events:
            if isinstance(event, Exception):
                raise event
            yield 0, [event]

    return (batch for batch in told())


def never(_seconds: float) -> None:
    """For readers that must not wait."""
    raise AssertionError("nothing to wait for")


@pytest.mark.parametrize(
    ("events", "status"),
    [
        ([TextDelta("Hel"), KeepAlive(), TextDelta("lo"), TurnEnded()], "completed"),
        ([TextDelta("Hel"), RunFailed("It broke.")], "failed"),
        ([RunFailed("It broke.")], "failed"),
        ([TextDelta("Hel"), ValueError("ours")], "failed"),
    ],
)
def test_a_run_is_kept_with_its_events(events: Sequence[Any], status: str) -> None:
    place = responses().of("ann", "resp_1")
    run = running(place, batches_of(*events))
    assert run.queue()
    queued = place.record()
    assert queued is not None
    assert queued.response["status"] == "queued"
    run.run()
    record = place.record()
    assert record is not None
    assert record.response["status"] == status
    valid("response", record.response)
    stream = b"".join(replayed(place, -1, never))
    valid("response.stream", stream)
    frames = stream.split(b"\n\n")
    for after in (0, 1, len(frames) - 3):
        assert b"".join(replayed(place, after, never)) == b"\n\n".join(frames[after + 1 :])


@pytest.mark.parametrize("why", ["cancel", "delete"])
def test_a_run_ends_when_it_is_asked_to(why: Literal["cancel", "delete"]) -> None:
    store = MemoryStore()
    place = responses(store).of("ann", "resp_1")
    closed = []

    def told() -> Numbered:
        try:
            yield 0, [TextDelta("Hel")]
            place.request_abort("cancel") if why == "cancel" else place.delete()
            yield 0, [KeepAlive()]
            yield 0, [TextDelta("never")]
        finally:
            closed.append(True)

    run = running(place, told())
    run.queue()
    run.run()
    assert closed
    record = place.record()
    if why == "delete":
        assert record is None
        assert {key.partition(":")[0] for key in store._values} - {"mark"} == {"alive", "end"}
        return
    assert record is not None
    assert record.response["status"] == "cancelled"
    valid("response.stream", b"".join(replayed(place, -1, never)))


def test_who_cancels_waits_for_the_end_but_not_for_ever() -> None:
    place = responses().of("ann", "resp_1")
    run = running(place, batches_of(TextDelta("Hel"), TurnEnded()))
    run.queue()
    waits: list[float] = []
    record = cancelled(place, waits.append)
    assert record is not None
    assert record.response["status"] == "queued"
    assert sum(waits) >= 5
    record = cancelled(place, lambda _: run.run())
    assert record is not None
    assert record.response["status"] == "cancelled"


def _consume(_: object) -> None:
    """Give nothing."""


def test_a_reader_of_a_dead_run_is_told_that_it_failed() -> None:
    store = MemoryStore()
    place = responses(store).of("ann", "resp_1")

    def dies() -> Numbered:
        yield 0, [TextDelta("Hel")]
        raise SystemExit

    run = running(place, dies())
    run.queue()
    with pytest.raises(SystemExit):
        run.run()
    alive = next(key for key in store._values if key.startswith("alive:"))
    pieces = list(replayed(place, -1, lambda _: _consume(store.delete(alive))))
    last = [orjson.loads(data) for data in re.findall(rb"(?m)^data: (\{.*)$", pieces[-1])]
    assert [event["type"] for event in last] == ["error", "response.failed"]
    assert last[0]["message"] == last[0]["error"]["message"] == last[1]["response"]["error"]["message"]
    numbers = [
        orjson.loads(data)["sequence_number"] for data in re.findall(rb"data: (\{.*)", b"".join(pieces))
    ]
    assert numbers == [*range(len(numbers))]
    valid("response", last[1]["response"])
    assert pieces[-1].endswith(b"data: [DONE]\n\n")


def test_a_reader_is_kept_awake_and_told_when_the_response_is_deleted() -> None:
    place = responses().of("ann", "resp_1")
    running(place, batches_of()).queue()
    pieces = replayed(place, -1, lambda _: None)
    assert next(pieces) == b": keep-alive\n"
    place.delete()
    assert list(pieces) == [b"data: [DONE]\n\n"]


class Broken(ProxyError):
    """Any failure."""


def test_what_could_not_be_kept_says_so() -> None:
    request = parse_response({"model": "m", "input": "Hi", "store": True})
    transcript = transcript_of([TextDelta("Hello"), TurnEnded()], "chat")
    body = ResponsesRenderer(request, count_tokens=len, store=lambda _: False).body([transcript])
    assert body["store"] is False
    assert "not stored" in body["metadata"]["flowise_warnings"]


def test_what_is_kept_is_what_the_client_gets() -> None:
    request = parse_response({"model": "m", "input": "Hi"})
    kept: list[Mapping[str, Any]] = []

    def keep(response: Mapping[str, Any]) -> bool:
        kept.append(response)
        return True

    transcript = transcript_of([TextDelta("Hello"), TurnEnded()], "chat")
    whole = ResponsesRenderer(request, count_tokens=len, store=keep)
    assert whole.body([transcript]) is kept.pop()
    streamed = ResponsesRenderer(request, count_tokens=len, store=keep)
    assert streamed.opening()
    assert streamed.chunks(TextDelta("Hello"))
    assert b"completed" in streamed.closing([transcript])[-2].data
    assert kept.pop()["status"] == "completed"
    broken = ResponsesRenderer(request, count_tokens=len, store=keep)
    assert b"failed" in broken.failure(Broken("x"))[-2].data
    assert kept.pop()["status"] == "failed"
