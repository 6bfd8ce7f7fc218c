"""Every failure of the real Flowise as an OpenAI error, whose status tells whether to try again."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from uuid import uuid4

import pytest
from openai import (
    APIError,
    BadRequestError,
    DefaultHttpxClient,
    InternalServerError,
    NotFoundError,
    OpenAI,
    RateLimitError,
    Stream,
)
from openai.types.chat import ChatCompletionChunk

from tests.live.real_flowise import RealFlowise
from tests.live.wire import Failure, Wire, chat_body
from tests.support.processes import free_port
from tests.support.running_proxy import RunningProxy, StartProxy

pytestmark = pytest.mark.live

whole_and_streamed = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
PROVIDER_FAILURES = {"fail401": "provider_auth", "failctx": "context_length_exceeded"}


@pytest.fixture(scope="module")
def unauthorised(start_proxy: StartProxy) -> Iterator[Wire]:
    """A server whose key Flowise does not know."""
    with start_proxy(FLOWISE_API_KEY="wrong-key-1234567890") as proxy, Wire(proxy.url) as wire:
        yield wire


@pytest.fixture(scope="module")
def impatient(start_proxy: StartProxy) -> Iterator[Wire]:
    """A server that waits three seconds for an answer."""
    with start_proxy(FLOWISE_REQUEST_TIMEOUT="3") as proxy, Wire(proxy.url) as wire:
        yield wire


@pytest.fixture(scope="module")
def lonely(start_proxy: StartProxy) -> Iterator[RunningProxy]:
    """A server whose Flowise is down."""
    with start_proxy(FLOWISE_BASE_URL=f"http://127.0.0.1:{free_port()}/api/v1") as proxy:
        yield proxy


@whole_and_streamed
def test_an_unknown_flow_is_a_model_that_does_not_exist(stream: bool, wire: Wire) -> None:
    failure = wire.fail(str(uuid4()), "Hello there", stream=stream)
    assert (failure.status, failure.code) == (404, "model_not_found")


@whole_and_streamed
@pytest.mark.parametrize("model", ["no such flow", "../chatflows", "conv/../../ping", "ünknown", "x" * 300])
def test_a_malformed_model_does_not_exist_either(model: str, stream: bool, wire: Wire) -> None:
    failure = wire.fail(model, "Hello there", stream=stream)
    assert (failure.status, failure.code) == (404, "model_not_found")


def test_the_sdk_knows_a_missing_model(openai: OpenAI) -> None:
    with pytest.raises(NotFoundError) as caught:
        openai.chat.completions.create(model=str(uuid4()), messages=[{"role": "user", "content": "Hello"}])
    assert caught.value.code == "model_not_found"
    with pytest.raises(NotFoundError):
        openai.models.retrieve("no-such-model")


@whole_and_streamed
@pytest.mark.parametrize("flow", ["conv_keyed", "af_llm_keyed"])
def test_a_key_that_flowise_refuses_is_named(
    flow: str, stream: bool, flowise: RealFlowise, unauthorised: Wire
) -> None:
    failure = unauthorised.fail(flowise.flows[flow], "Hello there", stream=stream)
    assert (failure.status, failure.code) == (400, "flowise_auth")
    assert "FLOWISE_API_KEY" in failure.message
    assert "wrong-key" not in failure.message


def test_flows_without_a_key_answer_although_flowise_refuses_ours(
    flowise: RealFlowise, unauthorised: Wire
) -> None:
    assert "Reply to [Hello there]" in unauthorised.ask(flowise.flows["conv"], "Hello there")
    assert "Reply to [Hello there]" in unauthorised.stream(flowise.flows["af_llm"], "Hello there")


@whole_and_streamed
@pytest.mark.parametrize("flow", ["conv", "toolagent", "af_llm", "af_agent"])
@pytest.mark.parametrize(("question", "code"), PROVIDER_FAILURES.items(), ids=PROVIDER_FAILURES.keys())
def test_a_refusal_of_the_models_provider_is_not_to_be_tried_again(
    flow: str, question: str, code: str, stream: bool, flowise: RealFlowise, wire: Wire
) -> None:
    failure = wire.fail(flowise.flows[flow], question, stream=stream)
    assert (failure.status, failure.code) == (400, code)
    assert failure.headers["x-should-retry"] == "false"
    assert_nothing_leaks(failure)


@whole_and_streamed
def test_a_flow_that_fails_is_not_to_be_tried_again(stream: bool, flowise: RealFlowise, wire: Wire) -> None:
    failure = wire.fail(flowise.flows["af_function_error"], "Hello there", stream=stream)
    assert (failure.status, failure.code) == (400, "flow_failed")
    assert failure.headers["x-should-retry"] == "false"
    assert_nothing_leaks(failure)


@pytest.mark.parametrize("flow", ["conv", "af_llm"])
@pytest.mark.parametrize("question", ["failmid", "failjson"])
def test_a_failure_in_the_middle_ends_the_sdks_stream_with_an_error(
    flow: str, question: str, flowise: RealFlowise, openai: OpenAI
) -> None:
    with openai.chat.completions.create(
        model=flowise.flows[flow], messages=[{"role": "user", "content": question}], stream=True
    ) as stream:
        text, error = text_and_error(stream)
    assert text == f"Reply to [{question}] after "
    assert error.code == "flow_failed"


@pytest.mark.parametrize("flow", ["conv", "af_llm"])
def test_a_failure_in_the_middle_is_an_error_frame(flow: str, flowise: RealFlowise, wire: Wire) -> None:
    failure = wire.fail(flowise.flows[flow], "failmid", stream=True)
    assert (failure.status, failure.code, failure.text) == (200, "flow_failed", "Reply to [failmid] after ")
    assert_nothing_leaks(failure)


def test_a_late_answer_names_the_setting_that_ended_the_wait(flowise: RealFlowise, impatient: Wire) -> None:
    failure = impatient.fail(flowise.flows["conv_nostream"], "slow please", stream=False)
    assert (failure.status, failure.code) == (400, "flowise_timeout")
    assert "FLOWISE_REQUEST_TIMEOUT" in failure.message
    assert failure.headers["x-should-retry"] == "false"


def test_a_stream_may_last_longer_than_the_wait_for_its_head(flowise: RealFlowise, impatient: Wire) -> None:
    assert impatient.stream(flowise.flows["af_llm"], "slow please").endswith("word59 ")


@whole_and_streamed
def test_an_unreachable_flowise_is_worth_another_try(
    stream: bool, flowise: RealFlowise, lonely: RunningProxy
) -> None:
    with Wire(lonely.url) as wire:
        failure = wire.fail(flowise.flows["conv"], "Hello there", stream=stream)
    assert (failure.status, failure.code) == (503, "flowise_unavailable")
    assert int(failure.headers["Retry-After"]) > 0
    assert "127.0.0.1" not in failure.message


def test_the_sdk_knows_an_unreachable_flowise(flowise: RealFlowise, lonely: RunningProxy) -> None:
    quiet = DefaultHttpxClient(trust_env=False)
    with (
        OpenAI(base_url=f"{lonely.url}/v1", api_key="any", max_retries=0, http_client=quiet) as client,
        pytest.raises(InternalServerError) as caught,
    ):
        client.completions.create(model=flowise.flows["conv"], prompt="Hello there")
    assert (caught.value.status_code, caught.value.code) == (503, "flowise_unavailable")


def test_a_rate_limit_of_flowise_is_a_rate_limit(flowise: RealFlowise, wire: Wire, openai: OpenAI) -> None:
    limited = flowise.flows["conv_ratelimit"]
    for _ in range(2):
        assert "Reply to [Hello there]" in wire.ask(limited, "Hello there")
    # Flowise counts in windows that end by the clock: one that has just ended gives two more.
    for _ in range(2):
        with contextlib.suppress(AssertionError):
            wire.fail(limited, "Hello there", stream=False)
    for stream in (False, True):
        failure = wire.fail(limited, "Hello there", stream=stream)
        assert (failure.status, failure.code) == (429, "rate_limit_exceeded")
        assert 0 < int(failure.headers["Retry-After"]) <= 60
    with pytest.raises(RateLimitError):
        openai.chat.completions.create(model=limited, messages=[{"role": "user", "content": "Hello there"}])


@pytest.mark.parametrize("flow", ["conv", "af_llm", "conv_nostream"])
def test_a_stream_without_an_answer_is_an_error(flow: str, flowise: RealFlowise, wire: Wire) -> None:
    failure = wire.fail(flowise.flows[flow], "empty", stream=True)
    assert failure.code == "empty_answer"
    assert failure.status in {200, 400}


@pytest.mark.parametrize("flow", ["conv", "af_llm", "conv_nostream"])
def test_a_whole_answer_may_be_empty(flow: str, flowise: RealFlowise, wire: Wire) -> None:
    assert wire.ask(flowise.flows[flow], "empty") == ""


def test_a_bad_request_never_reaches_flowise(flowise: RealFlowise, openai: OpenAI, wire: Wire) -> None:
    asked = len(flowise.llm_log())
    with pytest.raises(BadRequestError):
        openai.chat.completions.create(model=flowise.flows["conv"], messages=[])
    with wire.post("/v1/chat/completions", chat_body(flowise.flows["conv"], [{"role": "nobody"}])) as reply:
        assert reply.status_code == 400
    assert len(flowise.llm_log()) == asked


def text_and_error(stream: Stream[ChatCompletionChunk]) -> tuple[str, APIError]:
    """What the SDK gives of a stream that fails: text, no finish reason, and an exception."""
    text = ""
    try:
        for chunk in stream:
            text += chunk.choices[0].delta.content or ""
            assert chunk.choices[0].finish_reason is None
    except APIError as error:
        return text, error
    raise AssertionError(f"no error after {text!r}")


def assert_nothing_leaks(failure: Failure) -> None:
    """No key, address or program text of what lies behind."""
    for secret in ("sk-fake", "127.0.0.1", "localhost", "node_modules", "    at "):
        assert secret not in failure.message
