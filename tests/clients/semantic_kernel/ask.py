"""Semantic Kernel's chat completion services and its agent of the Responses API, which call functions by themselves."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Annotated, Any

from asking import RESULT, Json, answer_cases, converse  # type: ignore[import-not-found]
from openai import AsyncAzureOpenAI, AsyncOpenAI
from pydantic import BaseModel
from semantic_kernel import Kernel  # type: ignore[import-not-found]
from semantic_kernel.agents import OpenAIResponsesAgent, ResponsesAgentThread  # type: ignore[import-not-found]
from semantic_kernel.connectors.ai.function_choice_behavior import (  # type: ignore[import-not-found]
    FunctionChoiceBehavior,
)
from semantic_kernel.connectors.ai.open_ai import (  # type: ignore[import-not-found]
    AzureChatCompletion,
    OpenAIChatCompletion,
    OpenAIChatPromptExecutionSettings,
)
from semantic_kernel.contents import (  # type: ignore[import-not-found]
    AnnotationContent,
    ChatHistory,
    ImageContent,
    ReasoningContent,
    StreamingAnnotationContent,
    TextContent,
)
from semantic_kernel.contents.binary_content import BinaryContent  # type: ignore[import-not-found]
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
        if case["surface"] == "azure":
            # Its own settings take no address without TLS.
            azure = AsyncAzureOpenAI(azure_endpoint=base_url, api_key="any", api_version="2024-10-21")
            service: Any = AzureChatCompletion(deployment_name=case["model"], async_client=azure)
        else:
            service = OpenAIChatCompletion(ai_model_id=case["model"], async_client=client)

        def turn(history: list[Any], asked: Json) -> Json:
            if case["surface"] == "responses":
                answered = by_agent(client, case, history, asked)
            else:
                answered = one(service, case, history, asked)
            return asyncio.run_coroutine_threadsafe(answered, loop).result()

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


async def by_agent(client: Any, case: Json, history: list[Any], asked: Json) -> Json:
    """One turn of an agent, whose threads go on from the response before."""
    functions = Functions()
    agent = OpenAIResponsesAgent(
        ai_model_id=case["model"],
        client=client,
        name="agent",
        plugins=[functions] if case.get("tools") else [],
        text=OpenAIResponsesAgent.configure_response_format(weather) if case.get("schema") else None,
    )
    items: list[Any] = [TextContent(text=asked["text"])]
    if "image" in asked:
        items.append(ImageContent(data_uri=asked["image"]))
    if "document" in asked:
        data = base64.b64decode(asked["document"]["data"])
        items.append(BinaryContent(data=data, data_format="base64", mime_type="application/pdf"))
    pieces: list[str] = []
    found: list[Any] = []

    async def take(message: Any) -> None:
        found.extend(message.items)

    thread = ResponsesAgentThread(client=client, previous_response_id=history[-1] if history else None)
    message = ChatMessageContent(role="user", items=items)
    call = {"messages": message, "thread": thread, "on_intermediate_message": take}
    usage = None
    if case["stream"]:
        stream = agent.invoke_stream(**call)
        async for part in stream:
            pieces += [str(part.message)] if str(part.message) else []
            found += part.message.items
            usage = (part.message.metadata or {}).get("usage") or usage
            if len(pieces) == case.get("stopAfter"):
                await stream.aclose()
                return {"text": "".join(pieces)}
        text = "".join(pieces)
    else:
        [response] = [one async for one in agent.invoke(**call)]
        text, usage = str(response.message), response.message.metadata["usage"]
        found += response.message.items
    history.append(thread.response_id)
    kinds = (AnnotationContent, StreamingAnnotationContent)
    return {
        "text": text,
        "pieces": len(pieces),
        "object": json.loads(text) if case.get("schema") else None,
        "toolCalls": functions.called,
        "reasoning": "".join(item.text or "" for item in found if type(item) is ReasoningContent),
        "sources": [item.url for item in found if isinstance(item, kinds)],
        "usage": {name: usage[f"{name}_tokens"] for name in ("input", "output", "total")} if usage else None,
    }


answer_cases(ask)
