"""Semantic Kernel's chat completion service, with functions that it calls by itself."""

from __future__ import annotations

import asyncio
import json
from typing import Annotated, Any

from asking import RESULT, Json, answer_cases, converse  # type: ignore[import-not-found]
from openai import AsyncOpenAI
from pydantic import BaseModel
from semantic_kernel import Kernel  # type: ignore[import-not-found]
from semantic_kernel.connectors.ai.function_choice_behavior import (  # type: ignore[import-not-found]
    FunctionChoiceBehavior,
)
from semantic_kernel.connectors.ai.open_ai import (  # type: ignore[import-not-found]
    OpenAIChatCompletion,
    OpenAIChatPromptExecutionSettings,
)
from semantic_kernel.contents import ChatHistory, ImageContent, TextContent  # type: ignore[import-not-found]
from semantic_kernel.contents.chat_message_content import ChatMessageContent  # type: ignore[import-not-found]
from semantic_kernel.functions import kernel_function  # type: ignore[import-not-found]


class weather(BaseModel):
    """What is asked for."""

    city: str
    degrees: int


class Functions:
    """What the model may call."""

    def __init__(self) -> None:
        self.called: list[Json] = []

    @kernel_function(name="get_weather", description="The weather of a city.")  # type: ignore[untyped-decorator]
    def get_weather(self, city: Annotated[str, "the city"]) -> str:
        """The weather."""
        self.called.append({"name": "get_weather", "arguments": {"city": city}})
        return f"{RESULT}"


def ask(base_url: str, case: Json) -> Json:
    """The answer to one case, as the client understands it."""
    return asyncio.run(in_loop(base_url, case))


async def in_loop(base_url: str, case: Json) -> Json:
    """The turns of a case, in one event loop."""
    loop = asyncio.get_running_loop()
    async with AsyncOpenAI(base_url=f"{base_url}/v1", api_key="any") as client:
        service = OpenAIChatCompletion(ai_model_id=case["model"], async_client=client)

        def turn(history: list[Any], asked: Json) -> Json:
            return asyncio.run_coroutine_threadsafe(one(service, case, history, asked), loop).result()

        return await asyncio.to_thread(converse, case, turn)


async def one(service: Any, case: Json, messages: list[Any], asked: Json) -> Json:
    """One turn."""
    kernel, functions = Kernel(), Functions()
    kernel.add_plugin(functions, plugin_name="weather")
    settings = OpenAIChatPromptExecutionSettings(user=case["user"])
    if case.get("tools"):
        settings.function_choice_behavior = FunctionChoiceBehavior.Auto()
    if case.get("schema"):
        settings.response_format = weather
    items: list[Any] = [TextContent(text=asked["text"])]
    if "image" in asked:
        items.append(ImageContent(data_uri=asked["image"]))
    messages.append(ChatMessageContent(role="user", items=items))
    history = ChatHistory(messages=list(messages))
    pieces: list[str] = []
    usage = None
    if case["stream"]:
        whole = None
        stream = service.get_streaming_chat_message_content(history, settings, kernel=kernel)
        async for chunk in stream:
            if chunk is None:
                continue
            pieces += [chunk.content] if chunk.content else []
            usage = (chunk.metadata or {}).get("usage") or usage
            if len(pieces) == case.get("stopAfter"):
                await stream.aclose()
                return {"text": "".join(pieces)}
        text = "".join(pieces)
    else:
        whole = await service.get_chat_message_content(history, settings, kernel=kernel)
        text, usage = whole.content, whole.metadata["usage"]
    messages.append(ChatMessageContent(role="assistant", content=text))
    counted = {"input": usage.prompt_tokens, "output": usage.completion_tokens} if usage else None
    return {
        "text": text,
        "pieces": len(pieces),
        "object": json.loads(text) if case.get("schema") else None,
        "toolCalls": functions.called,
        "usage": counted,
    }


answer_cases(ask)
