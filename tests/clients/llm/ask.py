"""The `llm` program's library, with models of its file of further OpenAI-compatible ones."""

from __future__ import annotations

import asyncio
import base64
import json
import os
from pathlib import Path
from typing import Any, Literal

from asking import RESULT, Json, answer_cases, converse  # type: ignore[import-not-found]

os.environ["LLM_USER_PATH"] = str(Path.cwd())

import llm  # type: ignore[import-not-found]

MODELS = "extra-openai-models.yaml"


def get_weather(city: str, unit: Literal["C", "F"]) -> str:
    """The weather of a city."""
    return f"{RESULT}"


def ask(base_url: str, case: Json) -> Json:
    """The answer to one case, as the client understands it."""
    entry = {
        "model_id": case["model"],
        "model_name": case["model"],
        "api_base": f"{base_url}/v1",
        "api_key_name": "openai",
        "vision": True,
        "supports_schema": True,
        "supports_tools": True,
        "responses": case["surface"] == "responses",
        "reasoning": case["surface"] == "responses",
    }
    # JSON is YAML.
    (Path.cwd() / MODELS).write_text(json.dumps([entry]))
    model = llm.get_model(case["model"])

    def turn(history: list[Any], asked: Json) -> Json:
        conversation = model.conversation()
        conversation.responses = list(history)
        options: Json = {"stream": case["stream"], "key": "any"}
        attachments = []
        if "image" in asked:
            data = base64.b64decode(asked["image"].partition(",")[2])
            attachments.append(llm.Attachment(type="image/png", content=data))
        if "document" in asked:
            data = base64.b64decode(asked["document"]["data"])
            attachments.append(llm.Attachment(type="application/pdf", content=data))
        if "stopAfter" in case:
            return asyncio.run(left(case, asked))
        if case.get("schema"):
            options["schema"] = case["schema"]
        if case.get("tools"):
            return chained(conversation, asked, options)
        response = conversation.prompt(asked["text"], attachments=attachments, **options)
        events = list(response.stream_events())
        pieces = [event.chunk for event in events if event.type == "text" and event.chunk]
        history.append(response)
        usage = response.usage()
        return {
            "text": response.text(),
            "pieces": len(pieces),
            "reasoning": "".join(event.chunk for event in events if event.type == "reasoning"),
            "object": json.loads(response.text()) if case.get("schema") else None,
            "usage": {"input": usage.input, "output": usage.output},
        }

    return converse(case, turn)


async def left(case: Json, asked: Json) -> Json:
    """A stream whose task is cancelled: only so is its connection closed at once."""
    pieces: list[str] = []

    async def read() -> None:
        async for piece in llm.get_async_model(case["model"]).prompt(asked["text"], key="any"):
            pieces.append(piece)
            if len(pieces) == case["stopAfter"]:
                reading.cancel()

    reading = asyncio.create_task(read())
    await asyncio.wait([reading])
    return {"text": "".join(pieces)}


def chained(conversation: Any, asked: Json, options: Json) -> Json:
    """A prompt with a tool, which it runs by itself."""
    chain = conversation.chain(asked["text"], tools=[get_weather], **options)
    responses = list(chain.responses())
    for response in responses:
        response.text()
    calls = [call for response in responses for call in response.tool_calls()]
    return {
        "text": responses[-1].text(),
        "toolCalls": [{"name": call.name, "arguments": call.arguments} for call in calls],
    }


answer_cases(ask)
