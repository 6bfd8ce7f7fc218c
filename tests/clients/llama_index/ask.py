"""LlamaIndex's clients for compatible servers: chat, Responses, and completions, its choice unless told of chat."""

from __future__ import annotations

import asyncio
import base64
from typing import Any, Literal

from asking import RESULT, Json, answer_cases, chat_usage, converse, response_usage  # type: ignore[import-not-found]
from llama_index.core.base.llms.types import (  # type: ignore[import-not-found]
    ChatMessage,
    DocumentBlock,
    ImageBlock,
    TextBlock,
)
from llama_index.core.tools import FunctionTool  # type: ignore[import-not-found]
from llama_index.llms.openai_like import OpenAILike, OpenAILikeResponses  # type: ignore[import-not-found]
from pydantic import BaseModel, create_model


def get_weather(city: str, unit: str) -> str:
    """The weather of a city."""
    return f"{RESULT}"


class Weather(BaseModel):
    """What the function takes."""

    city: str
    unit: Literal["C", "F"]


def ask(base_url: str, case: Json) -> Json:
    """The answer to one case, as the client understands it; it goes on from its own messages."""
    if case["surface"] == "responses":
        responses = OpenAILikeResponses(
            model=case["model"],
            api_base=f"{base_url}/v1",
            api_key="any",
            is_function_calling_model=True,
            additional_kwargs={"user": case["user"]},
        )
        return converse(case, lambda history, asked: chat(responses, case, history, asked))
    counted = {"stream_options": {"include_usage": True}} if case["stream"] else {}
    is_chat = case["surface"] == "chat"
    client = OpenAILike(
        model=case["model"],
        api_base=f"{base_url}/v1",
        api_key="any",
        is_chat_model=is_chat,
        is_function_calling_model=True,
        should_use_structured_outputs=True,
        additional_kwargs={"user": case["user"], **counted},
    )
    if not is_chat:
        return converse(case, lambda _, asked: complete(client, case, asked))
    return converse(case, lambda history, asked: chat(client, case, history, asked))


def blocks_of(asked: Json) -> list[Any]:
    """A user's message."""
    blocks: list[Any] = [TextBlock(text=asked["text"])]
    if "image" in asked:
        blocks.append(ImageBlock(url=asked["image"], image_mimetype="image/png"))
    if "document" in asked:
        data = base64.b64decode(asked["document"]["data"])
        blocks.append(
            DocumentBlock(data=data, title=asked["document"]["name"], document_mimetype="application/pdf")
        )
    return blocks


def chat(client: Any, case: Json, messages: list[Any], asked: Json) -> Json:
    """A turn of `chat`, `stream_chat` and their siblings with tools and schemas."""
    messages.append(ChatMessage(role="user", blocks=blocks_of(asked)))
    if case.get("schema"):
        return {"text": "", "object": structured(client, case, messages)}
    if "stopAfter" in case:
        return asyncio.run(left(client.astream_chat(messages), case))
    answer = one(client, case, messages)
    if not answer.get("toolCalls"):
        return answer
    for call in answer["toolCalls"]:
        extra = {"tool_call_id": call.pop("id")}
        messages.append(ChatMessage(role="tool", content=RESULT, additional_kwargs=extra))
    return {**one(client, case, messages), "toolCalls": answer["toolCalls"]}


def structured(client: Any, case: Json, messages: list[Any]) -> Json:
    """`as_structured_llm`."""
    reader = client.as_structured_llm(create_model("weather", city=(str, ...), degrees=(int, ...)))
    response = list(reader.stream_chat(messages))[-1] if case["stream"] else reader.chat(messages)
    return dict(response.raw.model_dump())


def one(client: Any, case: Json, messages: list[Any]) -> Json:
    """One request."""
    tools = [FunctionTool.from_defaults(get_weather, fn_schema=Weather)]
    pieces: list[str] = []
    if not case["stream"]:
        last = (
            client.chat_with_tools(tools, chat_history=messages)
            if case.get("tools")
            else client.chat(messages)
        )
    else:
        last = None
        streamed = (
            client.stream_chat_with_tools(tools, chat_history=messages)
            if case.get("tools")
            else client.stream_chat(messages)
        )
        for last in streamed:
            pieces += [last.delta] if last.delta else []
        assert last is not None
    messages.append(last.message)
    blocks = last.message.blocks
    text = "".join(block.text for block in blocks if block.block_type == "text")
    if case["stream"] and "".join(pieces) != text:
        raise ValueError(f"the message is not what its deltas said: {pieces}")
    calls = client.get_tool_calls_from_response(last, error_on_no_tool_call=False)
    return {
        "text": text,
        "pieces": len(pieces),
        "reasoning": "".join(block.content for block in blocks if block.block_type == "thinking"),
        "toolCalls": [
            {"id": call.tool_id, "name": call.tool_name, "arguments": call.tool_kwargs} for call in calls
        ],
        "sources": [url_of(one) for one in last.additional_kwargs.get("annotations") or ()],
        "usage": usage_of(last),
    }


def url_of(annotation: Any) -> str:
    """Where a source is; the annotation is an object in a whole answer, and a dictionary in a stream."""
    return str(annotation["url"] if isinstance(annotation, dict) else annotation.url)


def usage_of(last: Any) -> Json:
    """Tokens, wherever the client has them."""
    usage = last.additional_kwargs.get("usage")
    return response_usage(usage) if usage else chat_usage(last.raw.usage)


async def left(streaming: Any, case: Json) -> Json:
    """A stream whose task is cancelled: only so are its connections closed at once."""
    pieces: list[str] = []

    async def read() -> None:
        async for part in await streaming:
            pieces.extend([part.delta] if part.delta else [])
            if len(pieces) == case["stopAfter"]:
                reading.cancel()

    reading = asyncio.create_task(read())
    await asyncio.wait([reading])
    return {"text": "".join(pieces)}


def complete(client: Any, case: Json, asked: Json) -> Json:
    """`complete` and `stream_complete`."""
    if not case["stream"]:
        response = client.complete(asked["text"])
        return {"text": response.text, "usage": chat_usage(response.raw.usage)}
    if "stopAfter" in case:
        return asyncio.run(left(client.astream_complete(asked["text"]), case))
    pieces = []
    response = None
    for response in client.stream_complete(asked["text"]):
        pieces += [response.delta] if response.delta else []
    assert response is not None
    return {"text": "".join(pieces), "pieces": len(pieces), "usage": chat_usage(response.raw.usage)}


answer_cases(ask)
