"""Open Responses' compliance suite against the demo: one model passes all 17 cases, and what goes beyond them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import orjson
import pytest

from flowise_demo.flows import DEMO_FLOWS
from flowise_gateway.conformance.open_responses import (
    HTTP_CASES,
    SOCKET_CASES,
    WEATHER,
    calls_in,
    frames_of,
    message,
    said_in,
)
from flowise_gateway.conformance.response_shapes import Json, faults, stream_faults
from flowise_gateway.conformance.target import Target
from tests.support.demo_server import DemoServer
from tests.support.openai_check import valid
from tests.support.running_proxy import RunningProxy

FILE = f"models: [{{id: prompted, flow: {DEMO_FLOWS['demo-agent']}, tools: prompt}}]\n"
GOLDEN = Path(__file__).parents[1] / "wire/openai"


@pytest.fixture(scope="module")
def target(demo: DemoServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """A model that takes its clients' tools and pictures."""
    folder = tmp_path_factory.mktemp("open-responses")
    (folder / "proxy.yaml").write_text(FILE)
    with RunningProxy(folder, FLOWISE_BASE_URL=demo.base_url, PROXY_API_KEYS="key") as running:
        yield Target(running.url, "prompted", valid=valid)


@pytest.mark.parametrize("case", [*HTTP_CASES, *SOCKET_CASES], ids=lambda case: case.__name__)
def test_a_case_of_the_suite_passes(case: Callable[[Target], None], target: Target) -> None:
    case(target)


def test_the_suite_has_ten_cases_over_http_and_seven_over_a_socket() -> None:
    assert (len(HTTP_CASES), len(SOCKET_CASES)) == (10, 7)
    assert len({*HTTP_CASES, *SOCKET_CASES}) == 17


# --------------------------------------------------------------------------------- beyond the suite


def test_what_compact_gave_is_what_the_flow_gets(target: Target, demo: DemoServer) -> None:
    said = [message("user", "My name is Alice."), message("assistant", "Hello Alice!")]
    compacted = target.post({"model": target.model, "input": said}, "/compact").json()["output"]
    demo.clear()
    target.respond([*compacted, message("user", "Who am I?")])
    [record] = demo.records()
    seen = [each["content"] for each in record["messages"] if each["role"] != "system"]
    assert seen == ["My name is Alice.", "Hello Alice!", "Who am I?"]


@pytest.mark.parametrize("store", [True, False], ids=["stored", "not stored"])
def test_a_sockets_chain_is_one_session(target: Target, store: bool) -> None:
    with target.connect() as client:
        responses = [target.streamed(client.ask("My name is Alice.", target.model, store=store))]
        for question in ("Who am I?", "Sure?"):
            previous = responses[-1]["id"]
            more: dict[str, Any] = {"previous_response_id": previous, "store": store}
            responses.append(target.streamed(client.ask(question, target.model, **more)))
    assert len({response["metadata"]["flowise_session_id"] for response in responses}) == 1


def test_a_socket_answers_what_waits(target: Target) -> None:
    with target.connect() as client:
        for number in range(3):
            client.say({"type": "response.create", "model": target.model, "input": f"q{number}"})
        ids = {target.streamed(client.answer())["id"] for _ in range(3)}
    assert len(ids) == 3


def test_a_streams_call_keeps_the_order_too(target: Target) -> None:
    asked = {"model": target.model, "input": "How is the weather?", "tools": [WEATHER], "stream": True}
    assert calls_in(target.streamed(frames_of(target.post(asked).content)))


def test_a_sockets_calls_are_answered_by_their_ids(target: Target) -> None:
    with target.connect() as client:
        first = target.streamed(target.say(client, "What's the weather in Paris?", tools=[WEATHER]))
        [call] = calls_in(first)
        output = {"type": "function_call_output", "call_id": call["call_id"], "output": "Sunny"}
        more: dict[str, Any] = {"tools": [WEATHER]}
        second = target.streamed(target.say(client, [output], previous_response_id=first["id"], **more))
        assert "Sunny" in said_in(second)
        wrong = {**output, "call_id": "call_of_nobody"}
        error = target.refused(target.say(client, [wrong], previous_response_id=second["id"], **more))
        assert error["param"] == "input[0].call_id"


# ------------------------------------------------------------------------------- the checks themselves


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("response-*.sse")), ids=lambda path: path.name)
def test_a_golden_stream_is_right_and_in_order(path: Path) -> None:
    assert stream_faults(events_of(path)) == []


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("response-*.json")), ids=lambda path: path.name)
def test_a_golden_response_has_all_that_there_must_be(path: Path) -> None:
    response = orjson.loads(path.read_bytes())
    assert faults("response", response) == []
    own = {"conversation", "error", "metadata"}
    for name in response.keys() - own:
        assert faults("response", {k: v for k, v in response.items() if k != name}), name
        assert faults("response", {**response, name: {}}), name


def events_of(path: Path) -> list[Json]:
    """The events of a recorded stream."""
    return frames_of(path.read_bytes())


@pytest.mark.parametrize("name", ["response-calls.sse", "response-tools.sse", "response-plain.sse"])
def test_no_event_of_a_stream_may_be_missing_or_there_twice(name: str) -> None:
    events = events_of(GOLDEN / name)
    for at in [n for n, event in enumerate(events) if event.get("delta") != ""]:
        assert stream_faults(numbered([*events[:at], *events[at + 1 :]])), events[at]
        assert stream_faults(numbered([*events[: at + 1], *events[at:]])), events[at]


def numbered(events: list[Json]) -> list[Json]:
    """The events, counted anew."""
    return [{**event, "sequence_number": number} for number, event in enumerate(events)]


def _of(events: list[Json], kind: str) -> Json:
    return next(event for event in events if event["type"] == kind)


BROKEN: dict[str, Callable[[list[Json]], object]] = {
    "an unknown event": lambda events: events[4].update(type="response.sung"),
    "numbers from one": lambda events: events[0].update(sequence_number=1),
    "another response": lambda events: events[1]["response"].update(id="resp_other"),
    "an item beside its place": lambda events: _of(events, "response.output_item.added").update(
        output_index=1
    ),
    "an item that is over": lambda events: _of(events, "response.output_item.added")["item"].update(
        status="completed"
    ),
    "an item that goes on": lambda events: _of(events, "response.output_item.done")["item"].update(
        status="in_progress"
    ),
    "another item": lambda events: _of(events, "response.output_item.done")["item"].update(id="msg_other"),
    "a delta of another item": lambda events: _of(events, "response.output_text.delta").update(item_id="x"),
    "a delta of another part": lambda events: _of(events, "response.output_text.delta").update(
        content_index=1
    ),
    "a part beside its place": lambda events: _of(events, "response.content_part.added").update(
        content_index=1
    ),
    "another text": lambda events: _of(events, "response.output_text.done").update(text="other"),
    "another part": lambda events: _of(events, "response.content_part.done")["part"].update(text="other"),
    "another output": lambda events: events[-1]["response"]["output"][0].update(id="msg_other"),
    "another status": lambda events: events[-1]["response"].update(status="failed"),
}


@pytest.mark.parametrize("harm", BROKEN.values(), ids=BROKEN)
def test_a_stream_that_is_out_of_order_is_found_out(harm: Callable[[list[Json]], object]) -> None:
    events = deepcopy(events_of(GOLDEN / "response-plain.sse"))
    harm(events)
    assert stream_faults(events)
