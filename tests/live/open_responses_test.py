"""Open Responses' compliance suite in front of a real Flowise, whose model obeys tools told in words."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from flowise_gateway.conformance.open_responses import (
    HTTP_CASES,
    SOCKET_CASES,
    WEATHER,
    calls_in,
    frames_of,
    picture,
    said_in,
)
from flowise_gateway.conformance.response_shapes import Json
from flowise_gateway.conformance.target import Target
from tests.live.real_flowise import RealFlowise
from tests.support.openai_check import valid
from tests.support.running_proxy import StartProxy

pytestmark = pytest.mark.live

FLOWS = ("conv_vision", "af_llm", "af_agent")


@pytest.fixture(scope="module", params=FLOWS)
def target(request: pytest.FixtureRequest, flowise: RealFlowise, start_proxy: StartProxy) -> Iterator[Target]:
    """A flow that takes pictures, offered as a model that takes its clients' tools."""
    file = flowise.folder / f"open-responses-{request.param}.yaml"
    file.write_text(f"models: [{{id: prompted, flow: {flowise.flows[request.param]}, tools: prompt}}]\n")
    with start_proxy(PROXY_CONFIG=str(file), PROXY_API_KEYS="key") as running:
        yield Target(running.url, "prompted", valid=valid)


@pytest.mark.parametrize("case", [*HTTP_CASES, *SOCKET_CASES], ids=lambda case: case.__name__)
def test_a_case_of_the_suite_passes(case: Callable[[Target], None], target: Target) -> None:
    case(target)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_what_a_tool_gave_reaches_the_model(target: Target, stream: bool) -> None:
    first = respond(target, "How is the weather in Boston?", stream=stream)
    [call] = calls_in(first)
    assert call["arguments"] == '{"location":"Boston"}'
    output = {"type": "function_call_output", "call_id": call["call_id"], "output": "Rain"}
    second = respond(target, [output], stream=stream, previous_response_id=first["id"])
    assert said_in(second) == "The tool said Rain. "
    assert second["metadata"]["flowise_session_id"] == first["metadata"]["flowise_session_id"]


def respond(target: Target, said: Any, *, stream: bool, **more: Any) -> Json:
    """A response for which a tool is offered."""
    if not stream:
        return target.respond(said, tools=[WEATHER], **more)
    asked = {"model": target.model, "input": said, "tools": [WEATHER], "stream": True, **more}
    return target.streamed(frames_of(target.post(asked).content))


def test_a_picture_reaches_the_model(target: Target, flowise: RealFlowise) -> None:
    seen = len(flowise.llm_log())
    image = {"type": "input_image", "image_url": picture()}
    question = {"type": "input_text", "text": "What is this?"}
    target.respond([{"type": "message", "role": "user", "content": [question, image]}])
    [asked] = [entry["body"] for entry in flowise.llm_log()[seen:] if "messages" in entry.get("body", {})]
    assert picture() in json.dumps(asked["messages"])
