"""Haystack's chat generators for chat completions and Responses, also as Azure's."""

from __future__ import annotations

import base64
import json
import os
from typing import Any

from asking import RESULT, WEATHER, Json, answer_cases, converse  # type: ignore[import-not-found]
from haystack.components.generators.chat import (
    AzureOpenAIChatGenerator,
    AzureOpenAIResponsesChatGenerator,
    OpenAIChatGenerator,
    OpenAIResponsesChatGenerator,
)
from haystack.dataclasses import ChatMessage, FileContent, ImageContent
from haystack.tools import Tool
from haystack.utils import Secret

os.environ["HAYSTACK_TELEMETRY_ENABLED"] = "False"


class Left(Exception):
    """The program has seen enough."""


def ask(base_url: str, case: Json) -> Json:
    """The answer to one case, as the client understands it."""
    kwargs: Json = {"user": case["user"]}
    if case.get("schema"):
        schema = {"name": "weather", "schema": case["schema"], "strict": True}
        if "responses" in case["surface"]:
            kwargs["text"] = {"format": {"type": "json_schema", **schema}}
        else:
            kwargs["response_format"] = {"type": "json_schema", "json_schema": schema}
    if case["stream"] and "responses" not in case["surface"]:
        kwargs["stream_options"] = {"include_usage": True}
    pieces: list[str] = []

    def take(chunk: Any) -> None:
        pieces.extend([chunk.content] if chunk.content else [])
        if len(pieces) == case.get("stopAfter"):
            raise Left

    generator = connect(
        base_url,
        case,
        api_key=Secret.from_token("any"),
        generation_kwargs=kwargs,
        streaming_callback=take if case["stream"] else None,
        tools=tools(case),
    )

    def turn(history: list[Any], asked: Json) -> Json:
        pieces.clear()
        try:
            return answered(generator, case, history, asked, pieces)
        except Left:
            # The stream is not closed by the exception, but with the generator's connections.
            generator.close()
            return {"text": "".join(pieces)}

    return converse(case, turn)


def connect(base_url: str, case: Json, **options: Any) -> Any:
    """The generator of a surface."""
    model = case["model"]
    if case["surface"] == "azure":
        return AzureOpenAIChatGenerator(azure_endpoint=base_url, azure_deployment=model, **options)
    if case["surface"] == "azure responses":
        return AzureOpenAIResponsesChatGenerator(azure_endpoint=base_url, azure_deployment=model, **options)
    kind = OpenAIResponsesChatGenerator if case["surface"] == "responses" else OpenAIChatGenerator
    return kind(api_base_url=f"{base_url}/v1", model=model, **options)


def tools(case: Json) -> list[Any]:
    """The function that is offered."""
    if not case.get("tools"):
        return []
    weather = {name: WEATHER[name] for name in ("name", "description", "parameters")}
    return [Tool(**weather, function=lambda city, unit: RESULT)]


def user_message(asked: Json) -> Any:
    """A user's message."""
    parts: list[Any] = [asked["text"]]
    if "image" in asked:
        parts.append(ImageContent(base64_image=asked["image"].partition(",")[2], mime_type="image/png"))
    if "document" in asked:
        name, data = asked["document"]["name"], asked["document"]["data"]
        assert base64.b64decode(data)
        parts.append(FileContent(base64_data=data, mime_type="application/pdf", filename=name))
    return ChatMessage.from_user(content_parts=parts)


def answered(generator: Any, case: Json, history: list[Any], asked: Json, pieces: list[str]) -> Json:
    """A turn of a chat generator, with the calls of the client's function."""
    history.append(user_message(asked))
    [reply] = generator.run(messages=list(history))["replies"]
    history.append(reply)
    calls = reply.tool_calls
    if calls:
        history += [ChatMessage.from_tool(RESULT, origin=call) for call in calls]
        [reply] = generator.run(messages=list(history))["replies"]
        history.append(reply)
    return {
        "text": reply.text or "",
        "pieces": len(pieces),
        "object": json.loads(reply.text) if case.get("schema") else None,
        "reasoning": reply.reasoning.reasoning_text if reply.reasoning else "",
        "toolCalls": [{"name": call.tool_name, "arguments": call.arguments} for call in calls],
        "usage": usage(reply.meta["usage"]),
    }


def usage(counted: Json) -> Json:
    """Tokens, by whichever names it has."""
    return {
        "input": counted.get("prompt_tokens", counted.get("input_tokens")),
        "output": counted.get("completion_tokens", counted.get("output_tokens")),
        "total": counted["total_tokens"],
    }


answer_cases(ask)
