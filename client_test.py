"""FlowiseClient alone, without the server, against the demo Flowise. Also run by `python3 client_test.py`."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

if __name__ == "__main__":
    # Before anything else is imported: pytest wants to see plugins first.
    sys.exit(pytest.main([__file__, "-v"]))


from flowise_client import FlowiseClient
from flowise_gateway.flow.errors import FlowiseUnavailable, ModelNotFound, ProviderRefused
from flowise_gateway.flow.events import StepStarted, TextDelta, ToolUsed, TurnEnded
from flowise_gateway.flow.turn import HistoryMessage, Turn
from tests.support.demo_server import DemoServer

ASSISTANT = "5518949f-3ebc-4082-af01-fa2a18623da6"


@pytest.fixture(scope="module")
def demo() -> Iterator[DemoServer]:
    """A demo Flowise of this file's own."""
    with DemoServer("--token-seconds", "0.002") as server:
        yield server


@pytest.fixture(scope="module")
def flows(demo: DemoServer) -> dict[str, str]:
    """The demo's flows, name to id."""
    return {str(row["name"]): str(row["id"]) for row in FlowiseClient(demo.base_url).flows()}


@pytest.fixture
def client(demo: DemoServer) -> FlowiseClient:
    """A client of the demo assistant."""
    return FlowiseClient(base_url=demo.base_url, flow_id=ASSISTANT, api_key="your_api_key")


def test_predict_returns_what_prints_as_the_answer(client: FlowiseClient) -> None:
    answer = client.predict("What is the price for Apple?")
    assert "What is the price for Apple?" in str(answer)
    assert answer.finish_reason == "stop"
    assert answer.identity.session_id


def test_the_stream_says_the_same_in_pieces(client: FlowiseClient) -> None:
    events = list(client.stream(Turn(ASSISTANT, "Hello", stream=True)))
    pieces = [event.text for event in events if isinstance(event, TextDelta)]
    assert len(pieces) > 3
    assert "".join(pieces) == str(client.predict("Hello"))
    assert isinstance(events[-1], TurnEnded)


def test_an_agent_tells_its_steps_and_tools_in_both_modes(demo: DemoServer, flows: dict[str, str]) -> None:
    client = FlowiseClient(demo.base_url, flows["demo-agent"])
    for stream in (True, False):
        events = list(client.stream(Turn("", "What is 6 times 7?", stream=stream)))
        assert any(isinstance(event, StepStarted) for event in events)
        assert any(isinstance(event, ToolUsed) for event in events)


def test_a_flow_that_cannot_stream_is_never_asked_to(demo: DemoServer, flows: dict[str, str]) -> None:
    demo.clear()
    client = FlowiseClient(demo.base_url, flows["demo-json"])
    events = list(client.stream(Turn("", "Hello", stream=True)))
    assert [type(event) for event in events if isinstance(event, TextDelta)] == [TextDelta]
    assert "streaming" not in demo.records()[-1]["body"]


def test_history_and_question_reach_flowise_apart(client: FlowiseClient, demo: DemoServer) -> None:
    demo.clear()
    history = (HistoryMessage("userMessage", "I am Ann."), HistoryMessage("apiMessage", "Hello Ann."))
    client.predict(Turn(ASSISTANT, "Who am I?", history))
    body = demo.records()[-1]["body"]
    assert body["question"] == "Who am I?"
    assert body["history"] == [
        {"role": "userMessage", "content": "I am Ann."},
        {"role": "apiMessage", "content": "Hello Ann."},
    ]


def test_every_request_has_a_chat_id_of_its_own(client: FlowiseClient, demo: DemoServer) -> None:
    demo.clear()
    for _ in range(3):
        client.predict("Hello")
    assert len({record["body"]["chatId"] for record in demo.records()}) == 3


def test_a_refusal_of_the_provider_is_told_as_such(demo: DemoServer, flows: dict[str, str]) -> None:
    client = FlowiseClient(demo.base_url, flows["demo-errors"])
    with pytest.raises(ProviderRefused) as caught:
        client.predict("please failctx")
    assert caught.value.code == "context_length_exceeded"


def test_an_unknown_flow_is_no_model(demo: DemoServer) -> None:
    client = FlowiseClient(demo.base_url, "00000000-0000-4000-8000-000000000000")
    for stream in (True, False):
        with pytest.raises(ModelNotFound):
            list(client.stream(Turn("", "Hello", stream=stream)))


def test_no_flowise_is_unavailable_and_says_nothing_of_its_address() -> None:
    client = FlowiseClient("http://127.0.0.1:9/api/v1", ASSISTANT)
    with pytest.raises(FlowiseUnavailable) as caught:
        client.predict("Hello")
    assert "127.0.0.1" not in caught.value.message
