"""Pydantic AI's agents over its models for chat completions and Responses."""

from __future__ import annotations

import asyncio
import base64
from typing import Any, Literal

from asking import RESULT, Json, answer_cases, converse  # type: ignore[import-not-found]
from pydantic_ai import (  # type: ignore[import-not-found]
    Agent,
    BinaryContent,
    NativeOutput,
    StructuredDict,
    Tool,
)
from pydantic_ai.messages import TextPart, ThinkingPart, ToolCallPart  # type: ignore[import-not-found]
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel  # type: ignore[import-not-found]
from pydantic_ai.providers.azure import AzureProvider  # type: ignore[import-not-found]
from pydantic_ai.providers.openai import OpenAIProvider  # type: ignore[import-not-found]


def get_weather(city: str, unit: Literal["C", "F"]) -> str:
    """The weather of a city."""
    return f"{RESULT}"


def ask(base_url: str, case: Json) -> Json:
    """The answer to one case, as the client understands it."""
    return asyncio.run(in_loop(base_url, case))


async def in_loop(base_url: str, case: Json) -> Json:
    """The turns of a case, in one event loop."""
    if case["surface"] == "azure":
        provider: Any = AzureProvider(azure_endpoint=base_url, api_version="2024-10-21", api_key="any")
    else:
        provider = OpenAIProvider(base_url=f"{base_url}/v1", api_key="any")
    kind = OpenAIResponsesModel if case["surface"] == "responses" else OpenAIChatModel
    output = NativeOutput(StructuredDict(case["schema"], name="weather")) if case.get("schema") else str
    agent = Agent(
        kind(case["model"], provider=provider),
        output_type=output,
        tools=[Tool(get_weather)] if case.get("tools") else [],
        model_settings={"extra_body": {"user": case["user"]}},
    )
    loop = asyncio.get_running_loop()

    def turn(history: list[Any], asked: Json) -> Json:
        return asyncio.run_coroutine_threadsafe(one(agent, case, history, asked), loop).result()

    return await asyncio.to_thread(converse, case, turn)


def prompt(asked: Json) -> list[Any]:
    """A user's message."""
    parts: list[Any] = [asked["text"]]
    if "image" in asked:
        parts.append(
            BinaryContent(base64.b64decode(asked["image"].partition(",")[2]), media_type="image/png")
        )
    if "document" in asked:
        data = base64.b64decode(asked["document"]["data"])
        parts.append(BinaryContent(data, media_type="application/pdf"))
    return parts


async def one(agent: Any, case: Json, history: list[Any], asked: Json) -> Json:
    """One run of the agent."""
    pieces: list[str] = []
    if case["stream"]:
        async with agent.run_stream(prompt(asked), message_history=list(history)) as result:
            if case.get("schema"):
                output = await result.get_output()
            else:
                async for piece in result.stream_text(delta=True, debounce_by=None):
                    pieces.append(piece)
                    if len(pieces) == case.get("stopAfter"):
                        return {"text": "".join(pieces)}
                output = "".join(pieces)
            usage = result.usage
            messages = result.all_messages()
    else:
        result = await agent.run(prompt(asked), message_history=list(history))
        output, usage, messages = result.output, result.usage, result.all_messages()
    usage = usage() if callable(usage) else usage
    new = messages[len(history) :]
    history[:] = messages
    parts = [part for message in new for part in message.parts]
    return {
        "text": output if isinstance(output, str) else "",
        "pieces": len(pieces),
        "object": output,
        "reasoning": "".join(part.content for part in parts if isinstance(part, ThinkingPart)),
        "toolCalls": [
            {"name": part.tool_name, "arguments": part.args_as_dict()}
            for part in parts
            if isinstance(part, ToolCallPart)
        ],
        "sources": [
            source.url
            for part in parts
            if isinstance(part, TextPart)
            for citation in part.citations or ()
            for source in citation.sources
        ],
        "usage": {"input": usage.input_tokens, "output": usage.output_tokens},
    }


answer_cases(ask)
