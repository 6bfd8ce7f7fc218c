"""What the model of a real flow is told beside the conversation: parameters, overrides, forms."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest

from tests.live.real_flowise import RealFlowise
from tests.live.wire import Json, Wire

pytestmark = pytest.mark.live


@pytest.fixture(autouse=True)
def _listed(wire: Wire) -> None:
    """Nothing is known of a flow's inputs before the first listing."""
    assert wire.get("/v1/models", "models")["data"]


def asked_of_model(flowise: RealFlowise, text: str) -> Json:
    """The newest request of the model that holds a text."""
    bodies = [entry["body"] for entry in flowise.llm_log() if "messages" in entry.get("body", {})]
    found: Json = [body for body in bodies if text in str(body["messages"])][-1]
    return found


@pytest.mark.parametrize("flow", ["conv_override", "af_override"])
@pytest.mark.parametrize("temperature", [0, 0.25])
def test_parameters_reach_the_model_where_they_are_enabled(
    flow: str, temperature: float, flowise: RealFlowise, wire: Wire
) -> None:
    question = f"What is {uuid4().hex}?"
    messages = [{"role": "user", "content": question}]
    body = {"model": flowise.flows[flow], "messages": messages}
    more: dict[str, Any] = {"temperature": temperature, "max_tokens": 77, "seed": 3}
    with wire.post("/v1/chat/completions", {**body, **more}) as reply:
        assert reply.status_code == 200, reply.text
        assert reply.headers["x-flowise-ignored-params"] == "seed"
    sent = asked_of_model(flowise, question)
    assert sent["temperature"] == temperature
    assert sent.get("max_completion_tokens", sent.get("max_tokens")) == 77


@pytest.mark.parametrize(
    ("flow", "override"),
    [
        ("conv_override", {"systemMessagePrompt": "Of Flowise's."}),
        ("af_override", {"llmMessages": [{"role": "system", "content": "Of Flowise's."}]}),
    ],
)
def test_an_explicit_override_and_a_system_text_both_reach_the_model(
    flow: str, override: Json, flowise: RealFlowise, wire: Wire
) -> None:
    question = f"What is {uuid4().hex}?"
    messages = [{"role": "system", "content": "Of OpenAI's."}, {"role": "user", "content": question}]
    wire.ask(flowise.flows[flow], messages, overrideConfig=override)
    sent = str(asked_of_model(flowise, question)["messages"])
    assert "Of Flowise's." in sent
    assert "Of OpenAI's." in sent


def test_an_override_that_is_closed_is_named_and_indeed_not_heeded(flowise: RealFlowise, wire: Wire) -> None:
    question = f"What is {uuid4().hex}?"
    body = {"model": flowise.flows["toolagent_override"], "messages": [{"role": "user", "content": question}]}
    with wire.post("/v1/chat/completions", {**body, "overrideConfig": {"temperature": 0.125}}) as reply:
        assert reply.status_code == 200, reply.text
        assert reply.headers["x-flowise-ignored-params"] == "overrideConfig.temperature"
    assert asked_of_model(flowise, question).get("temperature") != 0.125


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_a_form_without_text_runs(stream: bool, flowise: RealFlowise, wire: Wire) -> None:
    city = f"City {uuid4().hex}"
    body = {"model": flowise.flows["af_form"], "messages": [], "form": {"city": city}, "stream": stream}
    with wire.post("/v1/chat/completions", body) as reply:
        assert reply.status_code == 200, reply.text
    assert city in str(asked_of_model(flowise, city)["messages"])
