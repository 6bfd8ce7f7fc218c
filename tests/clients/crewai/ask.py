"""CrewAI's own client of a model, over chat completions and Responses; its agents, where a tool is called."""

import asyncio
import os
from typing import Any, Literal

os.environ |= {
    "CREWAI_DISABLE_TELEMETRY": "true",
    "OTEL_SDK_DISABLED": "true",
    "CREWAI_TRACING_ENABLED": "false",
}

from asking import RESULT, Json, answer_cases, converse, input_content, user_content  # type: ignore[import-not-found]
from crewai import LLM, Agent  # type: ignore[import-not-found]
from crewai.events import (  # type: ignore[import-not-found]
    LLMCallCompletedEvent,
    LLMStreamChunkEvent,
    crewai_event_bus,
)
from crewai.tools import tool  # type: ignore[import-not-found]
from pydantic import BaseModel

pieces: list[str] = []
"""What the streamed answer came in."""
usages: list[Json] = []
"""What the answers' tokens were."""
calls: list[Json] = []
"""What was called."""


class Weather(BaseModel):
    """What is asked for."""

    city: str
    degrees: int


@tool("get_weather")  # type: ignore[untyped-decorator]
def get_weather(city: str, unit: Literal["C", "F"]) -> str:
    """The weather of a city."""
    calls.append({"name": "get_weather", "arguments": {"city": city, "unit": unit}})
    return f"{RESULT}"


@crewai_event_bus.on(LLMStreamChunkEvent)  # type: ignore[untyped-decorator]
def take(_source: Any, event: Any) -> None:
    """A piece has come."""
    pieces.append(event.chunk)


@crewai_event_bus.on(LLMCallCompletedEvent)  # type: ignore[untyped-decorator]
def count(_source: Any, event: Any) -> None:
    """An answer is whole."""
    usages.append(event.usage or {})


def ask(base_url: str, case: Json) -> Json:
    """The answer to one case, as the client understands it."""
    is_chat = case["surface"] == "chat"
    model = LLM(
        model=f"openai/{case['model']}",
        base_url=f"{base_url}/v1",
        api_key="any",
        stream=case["stream"],
        api="completions" if is_chat else "responses",
        parse_tool_outputs=not is_chat and not case.get("tools"),
        additional_params={"user": case["user"]},
    )

    def turn(history: list[Any], asked: Json) -> Json:
        for found in (pieces, usages, calls):
            found.clear()
        if case.get("tools"):
            return by_agent(model, asked)
        history.append({"role": "user", "content": user_content(asked) if is_chat else input_content(asked)})
        if "stopAfter" in case:
            return asyncio.run(left(model, case, history))
        answer = model.call(list(history), response_model=Weather if case.get("schema") else None)
        if case.get("schema"):
            weather = answer if isinstance(answer, Weather) else Weather.model_validate_json(text_of(answer))
            return {"text": "", "object": weather.model_dump()}
        text = text_of(answer)
        history.append({"role": "assistant", "content": text})
        crewai_event_bus.flush()
        summaries = [] if isinstance(answer, str) else answer.reasoning_summaries
        return {
            "text": text,
            "pieces": len(pieces),
            "reasoning": "".join(part["text"] for one in summaries for part in one["summary"]),
            "usage": counted(usages[-1]) if usages else None,
        }

    return converse(case, turn)


def text_of(answer: Any) -> str:
    """The text, which the Responses API's answers have beside other things."""
    return answer if isinstance(answer, str) else str(answer.text)


def counted(usage: Json) -> Json:
    """Tokens, by whichever names they have."""
    return {
        "input": usage.get("prompt_tokens", usage.get("input_tokens")),
        "output": usage.get("completion_tokens", usage.get("output_tokens")),
        "total": usage["total_tokens"],
    }


def by_agent(model: Any, asked: Json) -> Json:
    """What an agent with a tool says to a task."""
    agent = Agent(
        role="Meteorologist",
        goal="Tell the weather",
        backstory="You know it.",
        llm=model,
        tools=[get_weather],
    )
    return {"text": agent.kickoff(asked["text"]).raw, "toolCalls": list(calls)}


async def left(model: Any, case: Json, history: list[Any]) -> Json:
    """An asynchronous call that is cancelled."""
    calling = asyncio.create_task(model.acall(list(history)))
    while len(pieces) < case["stopAfter"] and not calling.done():
        await asyncio.sleep(0.01)
    text = "".join(pieces)
    calling.cancel()
    await asyncio.wait([calling])
    return {"text": text}


answer_cases(ask)
