"""LlamaIndex's client for compatible servers, run in an environment of its own: `SCRIPT BASE_URL CASES`."""

from __future__ import annotations

from typing import Any

from asking import Json, asks  # type: ignore[import-not-found]
from llama_index.core.llms import ChatMessage  # type: ignore[import-not-found]
from llama_index.llms.openai_like import OpenAILike  # type: ignore[import-not-found]


def ask(base_url: str, case: Json) -> Json:
    """The answer to the last question of a case, as the client understands it; it goes on from its own messages."""
    counted = {"stream_options": {"include_usage": True}} if case["stream"] else {}
    client = OpenAILike(
        model=case["model"],
        api_base=f"{base_url}/v1",
        api_key="any",
        max_retries=0,
        is_chat_model=case["way"] == "chat",
        additional_kwargs={"user": case["user"], **counted},
    )
    return chat(client, case) if case["way"] == "chat" else complete(client, case)


def chat(client: Any, case: Json) -> Json:
    """`chat` and `stream_chat`."""
    messages = []
    responses: list[Any] = []
    for question in case["questions"]:
        messages.append(ChatMessage(role="user", content=question))
        responses = list(client.stream_chat(messages)) if case["stream"] else [client.chat(messages)]
        messages.append(responses[-1].message)
    blocks = messages[-1].blocks
    text = "".join(block.text for block in blocks if block.block_type == "text")
    if case["stream"] and (said := "".join(response.delta for response in responses)) != text:
        raise ValueError(f"the message is not what its deltas said: {said}")
    return {
        "text": text,
        "reasoning": "".join(block.content for block in blocks if block.block_type == "thinking"),
        "toolCalls": client.get_tool_calls_from_response(responses[-1], error_on_no_tool_call=False),
        **outcome(responses),
    }


def complete(client: Any, case: Json) -> Json:
    """`complete` and `stream_complete`, which are LlamaIndex's choice unless it is told that a model chats."""
    [question] = case["questions"]
    responses = list(client.stream_complete(question)) if case["stream"] else [client.complete(question)]
    return {
        "text": "".join(response.delta for response in responses) if case["stream"] else responses[0].text,
        "reasoning": "",
        "toolCalls": [],
        **outcome(responses),
    }


def outcome(responses: list[Any]) -> Json:
    """How the answer ended and what it cost."""
    [finish] = {choice.finish_reason for response in responses for choice in response.raw.choices} - {None}
    usage = responses[-1].raw.usage
    return {
        "sources": [],
        "usage": {
            "input": usage.prompt_tokens,
            "output": usage.completion_tokens,
            "total": usage.total_tokens,
        },
        "finish": finish,
    }


asks(ask)
