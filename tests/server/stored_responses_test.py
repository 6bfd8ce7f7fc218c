"""Responses that are kept, over real sockets: OpenAI's own client, other callers, what is gone on from."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from uuid import uuid4

import orjson
import pytest
import requests
from openai import (
    BadRequestError,
    NotFoundError,
    OpenAI,
)
from pydantic import BaseModel

from tests.support.demo_server import DemoServer
from tests.support.openai_check import valid
from tests.support.processes import wait_for
from tests.support.running_proxy import RunningProxy

MODEL = "demo-agent"


def sdk(proxy: RunningProxy, key: str = "any") -> OpenAI:
    """OpenAI's own client, which tries once."""
    return OpenAI(base_url=f"{proxy.url}/v1", api_key=key, max_retries=0)


# --- kept, given, deleted ---


def test_a_response_is_given_again_as_it_was(openai_client: OpenAI) -> None:
    first = openai_client.responses.create(model=MODEL, input="Hello", metadata={"mine": "1"})
    again = openai_client.responses.retrieve(first.id)
    assert again.to_dict() == first.to_dict()
    valid("response", orjson.dumps(again.to_dict()), strict=False)


def test_what_is_kept_of_a_stream_is_what_it_ended_with(openai_client: OpenAI) -> None:
    events = list(openai_client.responses.create(model="demo-sources", input="Hello", stream=True))
    final: Any = events[-1]
    assert final.type == "response.completed"
    assert openai_client.responses.retrieve(final.response.id).to_dict() == final.response.to_dict()


def test_a_broken_stream_is_kept_as_failed(proxy: RunningProxy) -> None:
    body = {"model": "demo-errors", "input": "failmid", "stream": True}
    answer = requests.post(f"{proxy.url}/v1/responses", json=body, timeout=30)
    *_, last = re.findall(rb"(?m)^data: (\{.*)$", answer.content)
    failed = orjson.loads(last)["response"]
    assert failed["status"] == "failed"
    assert requests.get(f"{proxy.url}/v1/responses/{failed['id']}", timeout=30).json() == failed


def test_a_deleted_response_is_gone_with_its_items(openai_client: OpenAI) -> None:
    response = openai_client.responses.create(model=MODEL, input="Hello")
    raw = openai_client.responses.with_raw_response.delete(response.id)
    assert orjson.loads(raw.content) == {"id": response.id, "object": "response", "deleted": True}
    for gone in (openai_client.responses.retrieve, openai_client.responses.delete):
        with pytest.raises(NotFoundError) as caught:
            gone(response.id)
        assert caught.value.code == "response_not_found"
    with pytest.raises(BadRequestError) as bad:
        openai_client.responses.create(model=MODEL, input="And?", previous_response_id=response.id)
    assert (bad.value.code, bad.value.param) == ("previous_response_not_found", "previous_response_id")
    reference: Any = [
        {"type": "item_reference", "id": response.output[-1].id},
        {"role": "user", "content": "?"},
    ]
    with pytest.raises(BadRequestError):
        openai_client.responses.create(model=MODEL, input=reference)


def test_what_is_not_to_be_stored_is_nowhere(folder: Path, demo: DemoServer) -> None:
    secret = f"marmalade{uuid4().hex}"
    with RunningProxy(folder, FLOWISE_BASE_URL=demo.base_url) as proxy, sdk(proxy) as client:
        response = client.responses.create(model=MODEL, input=secret, store=False)
        assert response.to_dict()["store"] is False
        with pytest.raises(NotFoundError):
            client.responses.retrieve(response.id)
        with pytest.raises(BadRequestError):
            client.responses.create(model=MODEL, input="And?", previous_response_id=response.id)
    entries = _store_entries(folder)
    assert entries
    assert not [key for key in entries if key.startswith(("resp:", "item:", "talk:"))]


def test_a_deleted_conversation_leaves_no_text(folder: Path, demo: DemoServer) -> None:
    with RunningProxy(folder, FLOWISE_BASE_URL=demo.base_url) as proxy, sdk(proxy) as client:
        first = client.responses.create(model=MODEL, input="Hello", instructions="Be brief.")
        second = client.responses.create(model=MODEL, input="And?", previous_response_id=first.id)
        for response in (first, second):
            client.responses.delete(response.id)
    assert {key.partition(":")[0] for key in _store_entries(folder)} <= {"secret", "link", "listing", "mark"}


def _store_entries(folder: Path) -> list[str]:
    import sqlite3  # noqa: PLC0415 - for this test alone

    with sqlite3.connect(folder / "data/proxy.sqlite3") as database:
        keys = [row[0] for row in database.execute("SELECT key FROM entries")]
    database.close()
    return keys


def _text(item: Any) -> str:
    return str(item["content"][0]["text"])


def _has(answered: dict[str, Any], goal: int) -> bool:
    return len(answered) >= goal


def test_the_input_is_listed_in_pages(openai_client: OpenAI) -> None:
    said: list[Any] = [{"role": "user", "content": f"q{n}"} for n in range(5)]
    response = openai_client.responses.create(model=MODEL, input=said)
    newest = openai_client.responses.input_items.list(response.id)
    assert [_text(item.to_dict()) for item in newest] == ["q4", "q3", "q2", "q1", "q0"]
    first = openai_client.responses.input_items.list(response.id, order="asc", limit=2)
    assert first.has_more
    valid("response.items", orjson.dumps(first.to_dict()), strict=False)
    pages = list(openai_client.responses.input_items.list(response.id, order="asc", limit=2))
    assert [_text(item.to_dict()) for item in pages] == ["q0", "q1", "q2", "q3", "q4"]
    with pytest.raises(BadRequestError) as caught:
        openai_client.responses.input_items.list(response.id, after="msg_none")
    assert caught.value.param == "after"


def test_items_that_no_flow_is_told_of_are_listed_and_gone_on_from(
    proxy: RunningProxy, openai_client: OpenAI
) -> None:
    search = {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {"type": "search"}}
    said: list[Any] = [{"role": "user", "content": "q1"}, search]
    first = openai_client.responses.create(model=MODEL, input=said)
    [listed, _] = openai_client.responses.input_items.list(first.id)
    assert (listed.id, listed.type) == ("ws_1", "web_search_call")
    second = openai_client.responses.create(model=MODEL, input="q2", previous_response_id=first.id)
    assert second.status == "completed"
    body = {"model": MODEL, "input": said}
    compacted = requests.post(f"{proxy.url}/v1/responses/compact", json=body, timeout=30).json()
    output = [*compacted["output"], {"role": "user", "content": "q2"}]
    assert openai_client.responses.create(model=MODEL, input=output).status == "completed"


@pytest.mark.parametrize("query", ["limit=0", "limit=x", "limit=101", "order=up", "after=nothing"])
def test_a_page_that_makes_no_sense_is_refused(
    proxy: RunningProxy, openai_client: OpenAI, query: str
) -> None:
    response = openai_client.responses.create(model=MODEL, input="Hello")
    answer = requests.get(
        f"{proxy.url}/v1/responses/{response.id}/input_items?{query}",
        headers={"Connection": "close"},
        timeout=30,
    )
    assert answer.status_code == 400
    valid("error", answer.content)


@pytest.mark.parametrize("prefix", ["", "/v1", "/openai", "/openai/v1"])
def test_all_of_it_is_there_under_every_prefix(proxy: RunningProxy, prefix: str) -> None:
    base, end = f"{proxy.url}{prefix}/responses", {"Connection": "close"}
    response = requests.post(base, json={"model": MODEL, "input": "Hi"}, headers=end, timeout=30).json()
    one = f"{base}/{response['id']}"
    assert requests.get(one, headers=end, timeout=30).json() == response
    assert requests.get(f"{one}/input_items", headers=end, timeout=30).json()["data"]
    assert requests.post(f"{one}/cancel", headers=end, timeout=30).status_code == 400
    tokens = requests.post(f"{base}/input_tokens", json={"input": "Hi"}, headers=end, timeout=30).json()
    assert tokens["object"] == "response.input_tokens"
    assert tokens["input_tokens"] > 0
    assert requests.delete(one, headers=end, timeout=30).json()["deleted"]
    assert requests.get(f"{base}/models", headers=end, timeout=30).json()["object"] == "list"


@pytest.mark.parametrize("name", ["resp_none", "a%00b", "..", "%F0%9F%99%82", "x" * 500])
def test_an_id_that_names_nothing_is_not_found(proxy: RunningProxy, name: str) -> None:
    for path in (name, f"{name}/input_items"):
        answer = requests.get(f"{proxy.url}/v1/responses/{path}", headers={"Connection": "close"}, timeout=30)
        assert answer.status_code in (404, 405), answer.text


def test_a_get_that_is_no_websocket_is_refused_as_ever(proxy: RunningProxy) -> None:
    answer = requests.get(f"{proxy.url}/v1/responses", headers={"Connection": "close"}, timeout=30)
    assert answer.status_code == 405
    valid("error", answer.content)


# --- gone on from ---


def test_a_chain_is_one_session_and_a_fork_another(openai_client: OpenAI, demo: DemoServer) -> None:
    first = openai_client.responses.create(model=MODEL, input="My name is Ann.")
    second = openai_client.responses.create(model=MODEL, input="And?", previous_response_id=first.id)
    fork = openai_client.responses.create(model=MODEL, input="Or?", previous_response_id=first.id)
    third = openai_client.responses.create(model=MODEL, input="So?", previous_response_id=second.id)
    sessions = [_session(response) for response in (first, second, fork, third)]
    assert sessions[0] == sessions[1] == sessions[3] != sessions[2]
    seen = [(message["role"], message["content"]) for message in _record(demo, third)["messages"]]
    talk = [("user", "My name is Ann."), ("assistant", first.output_text), ("user", "And?")]
    assert seen[-5:] == [*talk, ("assistant", second.output_text), ("user", "So?")]
    assert third.previous_response_id == second.id


@pytest.mark.parametrize("ahead", [{"generate": False}, {"prompt_cache_options": {"prewarm": True}}])
@pytest.mark.parametrize("stream", [False, True])
def test_what_is_sent_ahead_runs_nothing_and_can_be_gone_on_from(
    proxy: RunningProxy, openai_client: OpenAI, demo: DemoServer, ahead: dict[str, Any], stream: bool
) -> None:
    def sent_ahead(said: str, **more: Any) -> str:
        demo.clear()
        body = {"model": MODEL, "input": said, "stream": stream, **ahead, **more}
        answer = requests.post(f"{proxy.url}/v1/responses", json=body, timeout=30)
        assert "x-flowise-chat-id" not in answer.headers
        if stream:
            valid("response.stream", answer.content)
            raw = answer.content.split(b"\n\n")[-3].partition(b"data: ")[2]
            response = orjson.loads(raw)["response"]
        else:
            response = answer.json()
        valid("response", response)
        assert (response["status"], response["output"]) == ("completed", [])
        assert demo.records() == []
        return str(response["id"])

    first = openai_client.responses.create(
        model=MODEL, input=[], previous_response_id=sent_ahead("My name is Ann.")
    )
    assert [m["content"] for m in _record(demo, first)["messages"]][-1:] == ["My name is Ann."]
    again = sent_ahead("You know.", previous_response_id=first.id)
    second = openai_client.responses.create(model=MODEL, input="Who am I?", previous_response_id=again)
    # The session goes on: what was sent ahead stands between its turns only in our own books.
    assert _session(second) == _session(first)
    assert [m["content"] for m in _record(demo, second)["messages"]][-2:] == [
        first.output_text,
        "You know.\n\nWho am I?",
    ]
    # Deleting it deletes no conversation.
    openai_client.responses.delete(again)
    third = openai_client.responses.create(model=MODEL, input="So?", previous_response_id=second.id)
    assert _session(third) == _session(first)


def test_a_decision_is_still_open_behind_what_is_sent_ahead(openai_client: OpenAI) -> None:
    asked = openai_client.responses.create(model="demo-approval", input="Pay it")
    ahead = openai_client.responses.create(
        model="demo-approval",
        input=[],
        previous_response_id=asked.id,
        extra_body={"generate": False},
    )
    decided = openai_client.responses.create(
        model="demo-approval", input="approve", previous_response_id=ahead.id
    )
    assert decided.output_text == "You said yes"


def test_instructions_are_those_of_each_request(openai_client: OpenAI, demo: DemoServer) -> None:
    first = openai_client.responses.create(model=MODEL, input="Hello", instructions="Be brief.")
    second = openai_client.responses.create(model=MODEL, input="And?", previous_response_id=first.id)
    assert second.instructions is None
    seen = [message["content"] for message in _record(demo, second)["messages"]]
    assert seen[-3:] == ["Hello", first.output_text, "And?"]


def test_an_answers_items_can_be_named_instead_of_sent(openai_client: OpenAI, demo: DemoServer) -> None:
    first = openai_client.responses.create(model=MODEL, input="Hello")
    items: list[Any] = [
        {"role": "user", "content": "Hello"},
        *({"type": "item_reference", "id": item.id} for item in first.output),
        {"role": "user", "content": "And?"},
    ]
    second = openai_client.responses.create(model=MODEL, input=items)
    seen = [message["content"] for message in _record(demo, second)["messages"]]
    assert seen[-3:] == ["Hello", first.output_text, "And?"]
    assert _session(second) == _session(first)


def _session(response: Any) -> str:
    session: str = response.metadata["flowise_session_id"]
    return session


def _record(demo: DemoServer, response: Any) -> dict[str, Any]:
    chat = response.metadata["flowise_chat_id"]
    return next(record for record in reversed(demo.records()) if record["body"]["chatId"] == chat)


def test_another_callers_response_is_not_there(folder: Path, demo: DemoServer) -> None:
    with RunningProxy(folder, FLOWISE_BASE_URL=demo.base_url, PROXY_API_KEYS="ann,bob") as proxy:
        with sdk(proxy, "ann") as ann, sdk(proxy, "bob") as bob:
            response = ann.responses.create(model=MODEL, input="Hello", background=True)
            for call in (
                bob.responses.retrieve,
                bob.responses.delete,
                bob.responses.cancel,
                bob.responses.input_items.list,
            ):
                with pytest.raises(NotFoundError):
                    call(response.id)
            assert wait_for(lambda: ann.responses.retrieve(response.id).status == "completed", 20)
            with pytest.raises(BadRequestError) as caught:
                bob.responses.create(model=MODEL, input="And?", previous_response_id=response.id)
            assert caught.value.code == "previous_response_not_found"
            reference: Any = [{"type": "item_reference", "id": response.id}, {"role": "user", "content": "?"}]
            with pytest.raises(BadRequestError):
                bob.responses.create(model=MODEL, input=reference)
            again = ann.responses.create(model=MODEL, input="And?", previous_response_id=response.id)
            assert again.metadata
            assert _session(again) == _session(ann.responses.retrieve(response.id))


def test_a_compacted_conversation_goes_on(openai_client: OpenAI, demo: DemoServer) -> None:
    first = openai_client.responses.create(model=MODEL, input="My name is Ann.")
    compacted = openai_client.responses.compact(
        model=MODEL, previous_response_id=first.id, input=[{"role": "user", "content": "I am 42."}]
    )
    assert [item.type for item in compacted.output] == ["compaction"]
    assert compacted.usage.input_tokens > 5
    items: Any = [*(item.to_dict() for item in compacted.output), {"role": "user", "content": "Who am I?"}]
    second = openai_client.responses.create(model=MODEL, input=items)
    seen = [message["content"] for message in _record(demo, second)["messages"]]
    assert seen[-3:] == ["My name is Ann.", first.output_text, "I am 42.\n\nWho am I?"]
    third = openai_client.responses.create(model=MODEL, input="So?", previous_response_id=second.id)
    assert _session(third) == _session(second)


def test_input_tokens_are_counted_with_what_went_before(openai_client: OpenAI) -> None:
    first = openai_client.responses.create(model=MODEL, input="My name is Ann.")
    alone = openai_client.responses.input_tokens.count(model=MODEL, input="And?")
    after = openai_client.responses.input_tokens.count(
        model=MODEL, input="And?", previous_response_id=first.id
    )
    assert 0 < alone.input_tokens < after.input_tokens


class Answer(BaseModel):
    """What is parsed."""

    answer: str | int | float


def test_a_parsed_answer_can_be_gone_on_from(openai_client: OpenAI) -> None:
    first = openai_client.responses.create(model=MODEL, input="Hello")
    second = openai_client.responses.parse(model=MODEL, input="And?", previous_response_id=first.id)
    assert second.output_text
    assert openai_client.responses.retrieve(second.id).output_text == second.output_text


def test_responses_and_conversations_go_on_after_a_rotation_of_the_secret(
    demo: DemoServer, folder: Path
) -> None:
    settings = {"FLOWISE_BASE_URL": demo.base_url}
    old, new = "the-secret-of-before", "the-secret-from-now-on"
    with RunningProxy(folder, PROXY_SECRET=old, **settings) as proxy, sdk(proxy) as client:
        first = client.responses.create(model="demo-assistant", input="My name is Ann.")
        told = client.responses.create(
            model="demo-assistant", input="Hello", extra_body={"conversation": "conv_1"}
        )
    with RunningProxy(folder, PROXY_SECRET=f"{new},{old}", **settings) as proxy, sdk(proxy) as client:
        assert client.responses.retrieve(first.id).to_dict() == first.to_dict()
        second = client.responses.create(
            model="demo-assistant", input="And now?", previous_response_id=first.id
        )
        assert "I remember 2 earlier messages" in second.output_text
        more = client.responses.create(
            model="demo-assistant", input="And now?", extra_body={"conversation": "conv_1"}
        )
        assert "I remember 2 earlier messages" in more.output_text, told.output_text
        client.responses.delete(first.id)
        with pytest.raises(NotFoundError):
            client.responses.retrieve(first.id)
