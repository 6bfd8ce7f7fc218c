"""Responses in the background, over real sockets: polled, streamed, left, cancelled, deleted."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import requests
from openai import (
    APIStatusError,
    BadRequestError,
    InternalServerError,
    NotFoundError,
    OpenAI,
    RateLimitError,
)

from tests.support.demo_server import DemoServer
from tests.support.openai_check import valid
from tests.support.processes import wait_for
from tests.support.running_proxy import RunningProxy

MODEL = "demo-agent"


def sdk(proxy: RunningProxy, key: str = "any") -> OpenAI:
    """OpenAI's own client, which tries once."""
    return OpenAI(base_url=f"{proxy.url}/v1", api_key=key, max_retries=0)


# --- in the background ---


@pytest.fixture(scope="module")
def slow_demo() -> Iterator[DemoServer]:
    """A demo Flowise that takes its time."""
    with DemoServer("--token-seconds", "0.2") as server:
        yield server


@pytest.fixture(scope="module")
def slow_proxy(slow_demo: DemoServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningProxy]:
    """A server of two workers in front of it."""
    folder = tmp_path_factory.mktemp("slow")
    with RunningProxy(folder, FLOWISE_BASE_URL=slow_demo.base_url, WORKERS="2") as server:
        yield server


def test_a_background_response_is_queued_and_polled_to_its_end(slow_proxy: RunningProxy) -> None:
    with sdk(slow_proxy) as client:
        response = client.responses.create(model=MODEL, input="Hello", background=True)
        assert (response.status, response.background, response.output) == ("queued", True, [])
        valid("response", orjson.dumps(response.to_dict()), strict=False)
        states = []

        def is_over() -> bool:
            found = client.responses.retrieve(response.id)
            states.append(found.status)
            return found.status not in ("queued", "in_progress")

        assert wait_for(is_over, 60)
        assert "in_progress" in states
        assert states[-1] == "completed"
        final = client.responses.retrieve(response.id)
        assert final.output_text
        valid("response", orjson.dumps(final.to_dict()), strict=False)
        after = client.responses.create(
            model="demo-assistant", input="And?", previous_response_id=response.id, background=True
        )
        assert client.responses.cancel(after.id).status == "cancelled"


def test_a_background_stream_can_be_left_and_taken_up_again(slow_proxy: RunningProxy) -> None:
    with sdk(slow_proxy) as client:
        stream = client.responses.create(model=MODEL, input="Hello", background=True, stream=True)
        seen = []
        for event in stream:
            seen.append(event)
            if event.type == "response.output_item.added":
                break
        stream.response.close()
        first: Any = seen[0]
        last = seen[-1].sequence_number
        rest = list(client.responses.retrieve(first.response.id, stream=True, starting_after=last))
        numbers = [event.sequence_number for event in [*seen, *rest]]
        assert numbers == list(range(len(numbers)))
        final: Any = rest[-1]
        assert final.type == "response.completed"
        assert client.responses.retrieve(first.response.id).to_dict() == final.response.to_dict()
        whole = requests.get(
            f"{slow_proxy.url}/v1/responses/{first.response.id}?stream=true",
            headers={"Connection": "close"},
            timeout=30,
        )
        valid("response.stream", whole.content)
        assert whole.content.count(b"event: ") == len(numbers)


@pytest.mark.parametrize("model", [MODEL, "demo-assistant"])
def test_a_cancelled_background_response_ends_its_run(
    slow_proxy: RunningProxy, slow_demo: DemoServer, model: str
) -> None:
    with sdk(slow_proxy) as client:
        response = client.responses.create(model=model, input="Hello", background=True)
        cancelled = client.responses.cancel(response.id)
        assert cancelled.status == "cancelled"
        valid("response", orjson.dumps(cancelled.to_dict()), strict=False)
        assert client.responses.cancel(response.id).to_dict() == cancelled.to_dict()
        events = list(client.responses.retrieve(response.id, stream=True))
        assert events[-1].type == "response.incomplete"
        assert wait_for(lambda: slow_demo.stats()["active_runs"] == 0, 20), slow_demo.stats()


@pytest.mark.parametrize("limit", ["all callers", "a key"])
def test_a_background_response_holds_its_place_until_it_is_cancelled(
    folder: Path, slow_demo: DemoServer, limit: str
) -> None:
    digest = hashlib.sha256(b"key").hexdigest()
    (folder / "proxy.yaml").write_text(f"keys: [{{name: k, sha256: {digest}, max_in_flight: 1}}]\n")
    settings = {"PROXY_MAX_IN_FLIGHT": "1"} if limit == "all callers" else {}
    refusal: type[APIStatusError] = InternalServerError if limit == "all callers" else RateLimitError
    with RunningProxy(folder, FLOWISE_BASE_URL=slow_demo.base_url, **settings) as proxy:
        with sdk(proxy, "key") as client:
            response = client.responses.create(model=MODEL, input="Hello " * 50, background=True)
            with pytest.raises(refusal):
                client.responses.create(model=MODEL, input="Hello")
            # What makes room must not be refused for the want of it.
            assert client.responses.cancel(response.id).status == "cancelled"

            def is_free() -> bool:
                with contextlib.suppress(refusal):
                    return client.responses.create(model=MODEL, input="Hi").status == "completed"
                return False

            assert wait_for(is_free, 30)


def test_a_deleted_background_response_leaves_nothing(slow_proxy: RunningProxy) -> None:
    with sdk(slow_proxy) as client:
        response = client.responses.create(model=MODEL, input="Hello", background=True)
        client.responses.delete(response.id)
        for _ in range(20):
            with pytest.raises(NotFoundError):
                client.responses.retrieve(response.id)


def test_a_background_run_that_fails_is_kept_as_failed(openai_client: OpenAI) -> None:
    response = openai_client.responses.create(model="demo-errors", input="fail500", background=True)
    assert wait_for(lambda: openai_client.responses.retrieve(response.id).status == "failed", 20)
    error = openai_client.responses.retrieve(response.id).error
    assert error is not None
    assert error.code == "server_error"


def test_only_background_responses_have_events_to_replay(openai_client: OpenAI) -> None:
    response = openai_client.responses.create(model=MODEL, input="Hello")
    with pytest.raises(BadRequestError) as caught:
        openai_client.responses.retrieve(response.id, stream=True)
    assert caught.value.param == "stream"
