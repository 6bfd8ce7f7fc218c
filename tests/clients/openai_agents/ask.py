"""OpenAI's Agents SDK over its models for Responses and chat completions."""

from __future__ import annotations

import asyncio
import json
from typing import Any, Literal

from agents import (  # type: ignore[import-not-found]
    Agent,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    function_tool,
    set_tracing_disabled,
)
from asking import RESULT, Json, answer_cases, converse, input_content  # type: ignore[import-not-found]
from openai import AsyncOpenAI
from openai.types.responses import ResponseTextDeltaEvent
from pydantic import BaseModel

set_tracing_disabled(True)


class Weather(BaseModel):
    """What the agent is to answer with."""

    city: str
    degrees: int


@function_tool  # type: ignore[untyped-decorator]
def get_weather(city: str, unit: Literal["C", "F"]) -> str:
    """The weather of a city."""
    return f"{RESULT}"


def ask(base_url: str, case: Json) -> Json:
    """The answer to one case, as the client understands it."""
    return asyncio.run(in_loop(base_url, case))


async def in_loop(base_url: str, case: Json) -> Json:
    """The turns of a case, in one event loop."""
    kind = OpenAIChatCompletionsModel if case["surface"] == "chat" else OpenAIResponsesModel
    async with AsyncOpenAI(base_url=f"{base_url}/v1", api_key="any") as client:
        agent = Agent(
            name="under test",
            model=kind(model=case["model"], openai_client=client),
            model_settings=ModelSettings(extra_body={"user": case["user"]}, include_usage=True),
            tools=[get_weather] if case.get("tools") else [],
            output_type=Weather if case.get("schema") else None,
        )
        loop = asyncio.get_running_loop()

        def turn(history: list[Any], asked: Json) -> Json:
            return asyncio.run_coroutine_threadsafe(one(agent, case, history, asked), loop).result()

        return await asyncio.to_thread(converse, case, turn)


async def one(agent: Any, case: Json, history: list[Any], asked: Json) -> Json:
    """One run of the agent."""
    new = [*history, {"role": "user", "content": input_content(asked)}]
    pieces: list[str] = []
    if case["stream"]:
        result = Runner.run_streamed(agent, new)
        async for event in result.stream_events():
            if event.type == "raw_response_event" and isinstance(event.data, ResponseTextDeltaEvent):
                pieces.append(event.data.delta)
            if len(pieces) == case.get("stopAfter"):
                result.cancel()
                break
        if case.get("stopAfter"):
            await asyncio.sleep(0.5)
            return {"text": "".join(pieces)}
    else:
        result = await Runner.run(agent, new)
    history[:] = result.to_input_list()
    output = result.final_output
    items = [item for response in result.raw_responses for item in response.output]
    usage = result.context_wrapper.usage
    texts = [part for item in items if item.type == "message" for part in item.content]
    return {
        "text": output if isinstance(output, str) else "",
        "pieces": len(pieces),
        "object": output.model_dump() if isinstance(output, Weather) else None,
        "reasoning": "".join(
            part.text for item in items if item.type == "reasoning" for part in item.summary
        ),
        "toolCalls": [
            {"name": item.name, "arguments": json.loads(item.arguments)}
            for item in items
            if item.type == "function_call"
        ],
        "sources": [source.url for part in texts for source in getattr(part, "annotations", None) or ()],
        "usage": {"input": usage.input_tokens, "output": usage.output_tokens, "total": usage.total_tokens},
    }


answer_cases(ask)
