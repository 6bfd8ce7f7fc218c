"""What must hold on every release of Flowise that is supported, and in queue mode: a short run through all of it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from time import monotonic
from uuid import uuid4

import pytest
from openai import OpenAI

from tests.live.real_flowise import RealFlowise
from tests.live.surface_conversation_test import said, seen_by_model, user
from tests.live.surface_errors_test import PROVIDER_FAILURES
from tests.live.wire import Json, Wire
from tests.support.running_proxy import StartProxy

pytestmark = pytest.mark.live

whole_and_streamed = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
each_flow = pytest.mark.parametrize(
    "flow", ["conv", "toolagent", "llmchain", "rag", "conv_nostream", "af_llm", "af_agent"]
)


@pytest.fixture(autouse=True)
def _needs_its_flow(request: pytest.FixtureRequest, flowise: RealFlowise) -> None:
    """Agentflows came with Flowise 3."""
    flow = getattr(request.node, "callspec", None) and request.node.callspec.params.get("flow")
    if flow and flow not in flowise.flows:
        pytest.skip(f"Flowise {flowise.version} has no agentflows")


@pytest.fixture(scope="module")
def refused(start_proxy: StartProxy) -> Iterator[Wire]:
    """A server whose key Flowise does not know."""
    with start_proxy(FLOWISE_API_KEY="wrong-key-1234567890") as proxy, Wire(proxy.url) as wire:
        yield wire


def test_the_flows_are_models(flowise: RealFlowise, openai: OpenAI) -> None:
    assert {model.to_dict()["name"] for model in openai.models.list()} == flowise.flows.keys()


@each_flow
def test_an_answer_is_the_same_streamed_and_whole(flow: str, flowise: RealFlowise, wire: Wire) -> None:
    question = f"please usetool {uuid4().hex}"
    answer = wire.ask(flowise.flows[flow], question)
    assert answer == flowise.predict(flow, question)["text"]
    assert wire.stream(flowise.flows[flow], question) == answer


@pytest.mark.parametrize("flow", ["conv", "af_llm"])
def test_tokens_come_as_the_model_says_them(flow: str, flowise: RealFlowise, openai: OpenAI) -> None:
    with openai.chat.completions.create(
        model=flowise.flows[flow], messages=[{"role": "user", "content": "slow please"}], stream=True
    ) as stream:
        arrivals = [monotonic() for chunk in stream if chunk.choices and chunk.choices[0].delta.content]
    assert sum(later - earlier > 0.05 for earlier, later in pairwise(arrivals)) >= 10
    assert arrivals[-1] - arrivals[0] >= 5


@whole_and_streamed
@pytest.mark.parametrize("flow", ["conv", "toolagent", "af_llm", "af_agent"])
def test_a_conversation_reaches_the_model_once_and_in_order(
    flow: str, stream: bool, flowise: RealFlowise, wire: Wire
) -> None:
    talk: list[Json] = []
    for _ in range(3):
        talk.append(user(f"What is {uuid4().hex}?"))
        answer = (wire.stream if stream else wire.ask)(flowise.flows[flow], talk)
        seen = said(seen_by_model(flowise, talk[-1]["content"]))
        assert seen == [(message["role"], message["content"].strip()) for message in talk]
        talk.append({"role": "assistant", "content": answer})


@whole_and_streamed
@pytest.mark.parametrize(("word", "answer"), [("approve", "You said yes"), ("reject", "You said no")])
@pytest.mark.parametrize("flow", ["af_human"])
def test_a_person_decides(
    flow: str, word: str, answer: str, stream: bool, flowise: RealFlowise, wire: Wire
) -> None:
    ask = wire.stream if stream else wire.ask
    talk = [user(f"Go on with {uuid4().hex}")]
    asked = ask(flowise.flows[flow], talk)
    assert "Shall I go on?" in asked
    assert "Waiting for your decision" in asked
    talk += [{"role": "assistant", "content": asked}, user(word)]
    assert ask(flowise.flows[flow], talk) == answer


@whole_and_streamed
def test_an_unknown_flow_is_a_model_that_does_not_exist(stream: bool, wire: Wire) -> None:
    failure = wire.fail(str(uuid4()), "Hello there", stream=stream)
    assert (failure.status, failure.code) == (404, "model_not_found")


@whole_and_streamed
@pytest.mark.parametrize("flow", ["conv_keyed", "af_llm_keyed"])
def test_a_key_that_flowise_refuses_is_named(
    flow: str, stream: bool, flowise: RealFlowise, refused: Wire
) -> None:
    failure = refused.fail(flowise.flows[flow], "Hello there", stream=stream)
    assert (failure.status, failure.code) == (400, "flowise_auth")


@whole_and_streamed
@pytest.mark.parametrize("flow", ["conv", "toolagent", "af_llm"])
@pytest.mark.parametrize(("question", "code"), PROVIDER_FAILURES.items(), ids=PROVIDER_FAILURES.keys())
def test_a_refusal_of_the_models_provider_is_not_to_be_tried_again(
    flow: str, question: str, code: str, stream: bool, flowise: RealFlowise, wire: Wire
) -> None:
    failure = wire.fail(flowise.flows[flow], question, stream=stream)
    assert failure.code == code
    if failure.status != 200 or not stream:  # an older one takes so long that the steps are told before
        assert (failure.status, failure.headers["x-should-retry"]) == (400, "false")


@pytest.mark.parametrize("flow", ["conv", "af_llm"])
def test_a_failure_in_the_middle_is_an_error_frame(flow: str, flowise: RealFlowise, wire: Wire) -> None:
    failure = wire.fail(flowise.flows[flow], "failmid", stream=True)
    assert (failure.status, failure.code) == (200, "flow_failed")


@pytest.mark.parametrize("flow", ["conv", "af_llm", "conv_nostream"])
def test_a_stream_without_an_answer_is_an_error(flow: str, flowise: RealFlowise, wire: Wire) -> None:
    assert wire.fail(flowise.flows[flow], "empty", stream=True).code == "empty_answer"
