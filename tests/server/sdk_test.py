"""OpenAI's own clients as the judges of our wire: sync, async, Azure."""

from __future__ import annotations

import asyncio
import json
from datetime import date

import pytest
from openai import (
    APIError,
    AsyncOpenAI,
    AuthenticationError,
    AzureOpenAI,
    BadRequestError,
    InternalServerError,
    NotFoundError,
    OpenAI,
    RateLimitError,
)
from openai.types.chat import ChatCompletionMessageParam
from pydantic import BaseModel

from tests.support.demo_server import DemoServer
from tests.support.running_proxy import RunningProxy

HELLO: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Hello"}]


def said(text: str) -> list[ChatCompletionMessageParam]:
    """One user message."""
    return [{"role": "user", "content": text}]


def test_a_chat_completion_with_its_ids(openai_client: OpenAI) -> None:
    answer = openai_client.chat.completions.create(model="demo-agent", messages=HELLO)
    assert answer.choices[0].finish_reason == "stop"
    assert answer.choices[0].message.content
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer._request_id
    assert answer.model_extra is not None
    assert answer.model_extra["flowise"]["chat_id"]


def test_a_stream_with_usage_and_reasoning(openai_client: OpenAI) -> None:
    stream = openai_client.chat.completions.create(
        model="demo-agent", messages=HELLO, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert len({(chunk.id, chunk.created, chunk.model) for chunk in chunks}) == 1
    assert chunks[-1].usage is not None
    extras = [chunk.choices[0].delta.model_extra or {} for chunk in chunks if chunk.choices]
    assert any(extra.get("reasoning_content") for extra in extras)


def test_the_streaming_helper_accumulates(openai_client: OpenAI) -> None:
    with openai_client.chat.completions.stream(model="demo-assistant", messages=HELLO) as stream:
        for _ in stream:
            pass
        final = stream.get_final_completion()
    assert final.choices[0].message.content
    assert final.choices[0].finish_reason == "stop"


def test_many_async_streams_at_once(proxy: RunningProxy) -> None:
    async def one(client: AsyncOpenAI, number: int) -> str:
        text = ""
        async with await client.chat.completions.create(
            model="demo-assistant", messages=said(f"number {number}"), stream=True
        ) as stream:
            async for chunk in stream:
                text += chunk.choices[0].delta.content or ""
        return text

    async def all_of_them() -> list[str]:
        async with AsyncOpenAI(base_url=f"{proxy.url}/v1", api_key="any") as client:
            return await asyncio.gather(*(one(client, n) for n in range(40)))

    texts = asyncio.run(all_of_them())
    assert all(f"number {n}" in text for n, text in enumerate(texts))


def test_azure_with_the_deployment_in_the_path(proxy: RunningProxy) -> None:
    with AzureOpenAI(
        azure_endpoint=proxy.url, api_version="2024-10-21", api_key="any", azure_deployment="demo-assistant"
    ) as client:
        answer = client.chat.completions.create(model="gpt-4o", messages=HELLO)
        assert answer.model == "demo-assistant"
        assert client.completions.create(model="gpt-4o", prompt="Hello").choices[0].text
        assert client.models.list().data


def test_models_are_found_under_any_spelling(openai_client: OpenAI) -> None:
    assert openai_client.models.retrieve("demo-assistant").owned_by == "flowise"
    with pytest.raises(NotFoundError):
        openai_client.models.retrieve("a/b c")


def test_each_failure_is_the_class_that_tells_what_to_do(openai_client: OpenAI) -> None:
    expected: dict[str, type[APIError]] = {
        "failctx": BadRequestError,
        "fail500": BadRequestError,
        "failquota": RateLimitError,
        "unavailable": InternalServerError,
    }
    for word, error in expected.items():
        for stream in (False, True):
            with pytest.raises(error) as caught:
                openai_client.chat.completions.create(model="demo-errors", messages=said(word), stream=stream)
            assert caught.value.message
            assert getattr(caught.value, "request_id", None)


def test_a_stream_that_breaks_raises_after_its_text(openai_client: OpenAI) -> None:
    text = ""
    with (
        pytest.raises(APIError) as caught,
        openai_client.chat.completions.create(
            model="demo-errors", messages=said("failmid"), stream=True
        ) as stream,
    ):
        for chunk in stream:
            text += chunk.choices[0].delta.content or ""
    assert text
    assert caught.value.code == "flow_failed"


def test_an_sdk_with_its_default_retries_runs_a_failing_flow_once(
    proxy: RunningProxy, demo: DemoServer
) -> None:
    demo.clear()
    with OpenAI(base_url=f"{proxy.url}/v1", api_key="any") as client, pytest.raises(APIError):
        client.chat.completions.create(model="demo-errors", messages=said("fail500"))
    assert len(demo.records()) == 1


def test_a_wrong_key_is_an_authentication_error(
    demo: DemoServer, tmp_path_factory: pytest.TempPathFactory
) -> None:
    settings = {"FLOWISE_BASE_URL": demo.base_url, "PROXY_API_KEYS": "right"}
    with RunningProxy(tmp_path_factory.mktemp("keys"), **settings) as server:
        with OpenAI(base_url=f"{server.url}/v1", api_key="wrong", max_retries=0) as client:
            with pytest.raises(AuthenticationError):
                client.models.list()
        with AzureOpenAI(azure_endpoint=server.url, api_version="x", api_key="right") as azure:
            assert azure.chat.completions.create(model="demo-assistant", messages=HELLO).choices


class City(BaseModel):
    """A city, as a client has its answers parsed."""

    name: str
    population: int
    founded: date
    twins: list[City]


@pytest.mark.parametrize("model", ["demo-assistant", "demo-json", "demo-agent", "demo-sources"])
def test_an_answer_is_parsed_as_the_schema_that_was_asked_for(openai_client: OpenAI, model: str) -> None:
    question = said("Tell me of Paris")
    whole = openai_client.chat.completions.parse(model=model, messages=question, response_format=City)
    assert whole.choices[0].message.parsed
    assert whole.choices[0].message.parsed.name == "Paris"
    with openai_client.chat.completions.stream(
        model=model, messages=question, response_format=City
    ) as stream:
        final = stream.get_final_completion()
    assert final.choices[0].message.parsed == whole.choices[0].message.parsed
    response = openai_client.responses.parse(model=model, input="Tell me of Paris", text_format=City)
    assert response.output_parsed == whole.choices[0].message.parsed


def test_any_object_is_json_too(openai_client: OpenAI) -> None:
    answer = openai_client.chat.completions.create(
        model="demo-json", messages=said("Tell me of Paris"), response_format={"type": "json_object"}
    )
    assert json.loads(answer.choices[0].message.content or "") == {"answer": "Paris"}
    assert answer.model_extra is not None
    assert "warnings" not in answer.model_extra["flowise"]
