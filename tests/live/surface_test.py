"""Every OpenAI surface in front of every kind of flow, spoken by OpenAI's own clients and by hand."""

from __future__ import annotations

import pytest
from openai import AzureOpenAI, OpenAI, Stream
from openai.types import Completion
from openai.types.chat import ChatCompletionChunk

from tests.live.real_flowise import RealFlowise
from tests.live.wire import Wire
from tests.support.openai_check import valid, valid_chunks

pytestmark = pytest.mark.live

QUESTIONS = {
    "conv": "Hello there",
    "toolagent": "please usetool",
    "llmchain": "Hello there",
    "af_llm": "Hello there",
    "af_agent": "please usetool",
    "customfn_end_text": "Hello there",
    "conv_nostream": "Hello there",
    "rag": "Hello there",
    "conv_postproc": "Hello there",
    "af_llm_reply": "Hello there",
    "af_function": "Hello there",
    "af_structured": "Hello there",
}
each_kind_of_flow = pytest.mark.parametrize(("flow", "question"), QUESTIONS.items(), ids=QUESTIONS.keys())
GREETING = "Reply to [Hello there] after 2 messages: system,user. "
SPECIAL_TEXTS = {
    "unicode": "Grüße 世界 🙂👩‍👩‍👧 naïve façade — done. ",
    "markdown": '# Title\n\n- "quoted" \\ back\n- <b>tag</b> & amp\n\n'
    '```python\nprint("data: x\\n\\n")\n```\n',
}


@each_kind_of_flow
def test_a_whole_answer_is_the_text_that_flowise_gives(
    flow: str, question: str, flowise: RealFlowise, openai: OpenAI
) -> None:
    completion = openai.chat.completions.create(
        model=flowise.flows[flow], messages=[{"role": "user", "content": question}]
    )
    valid("chat.response", completion.to_dict())
    [choice] = completion.choices
    assert choice.message.content == flowise.predict(flow, question)["text"]
    assert choice.message.role == "assistant"
    assert choice.finish_reason == "stop"
    assert completion.usage is not None
    assert completion.usage.total_tokens > 0


@each_kind_of_flow
def test_a_streamed_answer_is_the_same_text(
    flow: str, question: str, flowise: RealFlowise, openai: OpenAI
) -> None:
    with openai.chat.completions.create(
        model=flowise.flows[flow], messages=[{"role": "user", "content": question}], stream=True
    ) as stream:
        text, reason = chat_text(stream)
    assert text == flowise.predict(flow, question)["text"]
    assert reason == "stop"


@each_kind_of_flow
def test_streams_keep_the_rules_of_server_sent_events(
    flow: str, question: str, flowise: RealFlowise, wire: Wire
) -> None:
    assert wire.stream(flowise.flows[flow], question) == wire.ask(flowise.flows[flow], question)


@pytest.mark.parametrize("flow", ["conv", "af_llm", "conv_nostream"])
def test_a_stream_tells_its_usage_when_asked(flow: str, flowise: RealFlowise, openai: OpenAI) -> None:
    with openai.chat.completions.create(
        model=flowise.flows[flow],
        messages=[{"role": "user", "content": "Hello there"}],
        stream=True,
        stream_options={"include_usage": True},
    ) as stream:
        chunks = list(stream)
    valid_chunks("chat.stream", [chunk.to_dict() for chunk in chunks])
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens > 0


@pytest.mark.parametrize("flow", ["conv", "af_llm", "conv_nostream"])
@pytest.mark.parametrize(("question", "text"), SPECIAL_TEXTS.items(), ids=SPECIAL_TEXTS.keys())
def test_special_characters_come_through_exactly(
    flow: str, question: str, text: str, flowise: RealFlowise, wire: Wire
) -> None:
    assert wire.ask(flowise.flows[flow], question) == text
    assert wire.stream(flowise.flows[flow], question) == text


def test_a_completion_answers_one_prompt(flowise: RealFlowise, openai: OpenAI) -> None:
    completion = openai.completions.create(model=flowise.flows["conv"], prompt="Hello there")
    valid("completion.response", completion.to_dict())
    assert [choice.text for choice in completion.choices] == [GREETING]
    assert completion.choices[0].finish_reason == "stop"


def test_a_completion_answers_each_of_its_prompts(flowise: RealFlowise, openai: OpenAI) -> None:
    prompts = ["prompt one", "prompt two", "prompt three"]
    completion = openai.completions.create(model=flowise.flows["af_llm"], prompt=prompts)
    valid("completion.response", completion.to_dict())
    assert [choice.index for choice in completion.choices] == [0, 1, 2]
    for prompt, choice in zip(prompts, completion.choices, strict=True):
        assert f"Reply to [{prompt}]" in choice.text


@pytest.mark.parametrize("flow", ["conv", "af_llm", "conv_nostream"])
def test_a_completion_streams(flow: str, flowise: RealFlowise, openai: OpenAI) -> None:
    with openai.completions.create(model=flowise.flows[flow], prompt="Hello there", stream=True) as stream:
        texts = completion_texts(stream)
    assert texts == {0: flowise.predict(flow, "Hello there")["text"]}


def test_a_completion_streams_one_choice_for_each_prompt(flowise: RealFlowise, openai: OpenAI) -> None:
    prompts = ["prompt one", "prompt two"]
    with openai.completions.create(model=flowise.flows["conv"], prompt=prompts, stream=True) as stream:
        texts = completion_texts(stream)
    assert texts.keys() == {0, 1}
    for index, prompt in enumerate(prompts):
        assert f"Reply to [{prompt}]" in texts[index]


def test_azure_chats(flowise: RealFlowise, azure: AzureOpenAI) -> None:
    completion = azure.chat.completions.create(
        model=flowise.flows["conv"], messages=[{"role": "user", "content": "Hello there"}]
    )
    valid("chat.response", completion.to_dict())
    assert completion.choices[0].message.content == GREETING


def test_azure_streams_a_chat(flowise: RealFlowise, azure: AzureOpenAI) -> None:
    with azure.chat.completions.create(
        model=flowise.flows["conv"], messages=[{"role": "user", "content": "Hello there"}], stream=True
    ) as stream:
        assert chat_text(stream) == (GREETING, "stop")


def test_azure_completes(flowise: RealFlowise, azure: AzureOpenAI) -> None:
    completion = azure.completions.create(model=flowise.flows["conv"], prompt="Hello there")
    valid("completion.response", completion.to_dict())
    assert completion.choices[0].text == GREETING


def test_azure_streams_a_completion(flowise: RealFlowise, azure: AzureOpenAI) -> None:
    with azure.completions.create(model=flowise.flows["conv"], prompt="Hello there", stream=True) as stream:
        assert completion_texts(stream) == {0: GREETING}


def test_the_deployment_of_an_azure_path_wins_over_the_model_of_the_body(
    flowise: RealFlowise, wire: Wire
) -> None:
    path = f"/openai/deployments/{flowise.flows['conv']}/chat/completions?api-version=2024-10-21"
    body = {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hello there"}]}
    with wire.post(path, body) as reply:
        valid("chat.response", reply.content)
        assert reply.json()["choices"][0]["message"]["content"] == GREETING


def test_azure_lists_the_flows(flowise: RealFlowise, azure: AzureOpenAI, wire: Wire) -> None:
    assert len(list(azure.models.list())) == len(flowise.flows)
    valid("models", wire.get("/openai/models?api-version=2024-10-21", "models"))


def test_models_are_the_flows_by_name(flowise: RealFlowise, openai: OpenAI, wire: Wire) -> None:
    rows = wire.get("/v1/models", "models")["data"]
    assert {row["name"] for row in rows} == flowise.flows.keys()
    assert sorted(model.id for model in openai.models.list()) == sorted({row["id"] for row in rows})


def test_each_listed_model_can_be_looked_up(flowise: RealFlowise, openai: OpenAI) -> None:
    for listed in openai.models.list():
        model = openai.models.retrieve(listed.id)
        valid("model", model.to_dict())
        assert model.id == listed.id


@pytest.mark.parametrize("flow", ["conv", "conv_keyed", "af_llm_keyed"])
def test_a_flow_answers_to_its_listed_id_and_to_its_uuid(flow: str, flowise: RealFlowise, wire: Wire) -> None:
    rows = wire.get("/v1/models", "models")["data"]
    [listed] = [row["id"] for row in rows if row["name"] == flow]
    wire.get(f"/v1/models/{flowise.flows[flow]}", "model")
    assert wire.ask(listed, "Hello there") == wire.ask(flowise.flows[flow], "Hello there")


def chat_text(stream: Stream[ChatCompletionChunk]) -> tuple[str, str | None]:
    """The whole text and the finish reason of a valid stream."""
    chunks = list(stream)
    valid_chunks("chat.stream", [chunk.to_dict() for chunk in chunks])
    choices = [choice for chunk in chunks for choice in chunk.choices]
    reasons = [choice.finish_reason for choice in choices if choice.finish_reason]
    return "".join(choice.delta.content or "" for choice in choices), reasons[-1]


def completion_texts(stream: Stream[Completion]) -> dict[int, str]:
    """The whole text of each choice of a valid stream."""
    chunks = list(stream)
    valid_chunks("completion.stream", [chunk.to_dict() for chunk in chunks])
    texts: dict[int, str] = {}
    for choice in (choice for chunk in chunks for choice in chunk.choices):
        texts[choice.index] = texts.get(choice.index, "") + choice.text
    return texts
