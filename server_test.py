"""The server through the clients of its users: OpenAI's and Azure's SDKs, and plain HTTP.

`python3 server_test.py` tests the server on PORT if one runs there, else it starts one on the demo flows.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

if __name__ == "__main__":
    # Before anything else is imported: pytest wants to see plugins first.
    sys.exit(pytest.main([__file__, "-v"]))

import requests
from openai import AzureOpenAI, NotFoundError, OpenAI
from openai.types.chat import ChatCompletionUserMessageParam

from tests.support.running_proxy import RunningProxy

SEED_FLOW = "5518949f-3ebc-4082-af01-fa2a18623da6"
QUESTION: ChatCompletionUserMessageParam = {"role": "user", "content": "What is the price for Apple?"}


@pytest.fixture(scope="module")
def server_url() -> Iterator[str]:
    """A server that runs already, else one of our own."""
    url = f"http://localhost:{os.environ.get('PORT', '8000')}"
    if _is_ours(url):
        yield url
        return
    with (
        tempfile.TemporaryDirectory() as folder,
        RunningProxy(Path(folder), HOST="localhost") as server,
    ):
        yield server.url


def _is_ours(url: str) -> bool:
    try:
        health = requests.get(f"{url}/health", timeout=2)
        return health.json() == {"status": "ok"} and "x-request-id" in health.headers
    except (requests.RequestException, ValueError):
        return False


@pytest.fixture(scope="module")
def key() -> str:
    """A client key of the server under test; without keys any will do."""
    return os.environ.get("PROXY_API_KEYS", "dummy-key").split(",")[0]


@pytest.fixture(scope="module")
def azure(server_url: str, key: str) -> Iterator[AzureOpenAI]:
    """Azure's client as the readme shows it."""
    with AzureOpenAI(azure_endpoint=server_url, api_version="2023-05-15", api_key=key) as client:
        yield client


@pytest.fixture(scope="module")
def openai(server_url: str, key: str) -> Iterator[OpenAI]:
    """OpenAI's client."""
    with OpenAI(base_url=f"{server_url}/v1", api_key=key) as client:
        yield client


@pytest.fixture(scope="module")
def model(openai: OpenAI) -> str:
    """The seed's flow where it exists, else the first flow listed."""
    try:
        return openai.models.retrieve(SEED_FLOW).id
    except NotFoundError:
        return openai.models.list().data[0].id


def test_health_needs_no_key(server_url: str) -> None:
    assert requests.get(f"{server_url}/health", timeout=5).json() == {"status": "ok"}


def test_models_are_listed(openai: OpenAI) -> None:
    models = openai.models.list().data
    assert models
    assert all(model.id for model in models)


def test_azure_chat_completion(azure: AzureOpenAI, model: str) -> None:
    answer = azure.chat.completions.create(model=model, messages=[QUESTION])
    assert answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "stop"
    assert answer.model == model


def test_azure_chat_completion_streamed(azure: AzureOpenAI, model: str) -> None:
    text, finish = "", None
    for chunk in azure.chat.completions.create(model=model, messages=[QUESTION], stream=True):
        if chunk.choices:
            text += chunk.choices[0].delta.content or ""
            finish = chunk.choices[0].finish_reason or finish
    assert text
    assert finish == "stop"


def test_azure_legacy_completion(azure: AzureOpenAI, model: str) -> None:
    answer = azure.completions.create(model=model, prompt="Say hello.")
    assert answer.choices[0].text
    assert answer.object == "text_completion"


def test_openai_chat_and_its_stream_say_the_same_kind_of_thing(openai: OpenAI, model: str) -> None:
    whole = openai.chat.completions.create(model=model, messages=[QUESTION])
    with openai.chat.completions.create(model=model, messages=[QUESTION], stream=True) as stream:
        streamed = "".join(c.choices[0].delta.content or "" for c in stream if c.choices)
    assert whole.choices[0].message.content
    assert streamed


def test_openai_legacy_completion_streamed(openai: OpenAI, model: str) -> None:
    stream = openai.completions.create(model=model, prompt="Say hello.", stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream if chunk.choices)


def test_an_unknown_flow_is_a_404(openai: OpenAI) -> None:
    with pytest.raises(NotFoundError) as caught:
        openai.chat.completions.create(model="00000000-0000-4000-8000-000000000000", messages=[QUESTION])
    assert caught.value.code == "model_not_found"
