"""LiteLLM's client library: chat completions."""

from __future__ import annotations

import json
from typing import Any

import litellm  # type: ignore[import-not-found]
from asking import RESULT, WEATHER, Json, answer_cases, chat_usage, converse, user_content  # type: ignore[import-not-found]


def ask(base_url: str, case: Json) -> Json:
    """The answer to one case, as the client understands it."""
    request: Json = {
        "model": f"openai/{case['model']}",
        "api_base": f"{base_url}/v1",
        "api_key": "any",
        "user": case["user"],
        "num_retries": 2,
    }
    if case.get("tools"):
        request["tools"] = [{"type": "function", "function": WEATHER}]
    if case.get("schema"):
        schema = {"name": "weather", "schema": case["schema"], "strict": True}
        request["response_format"] = {"type": "json_schema", "json_schema": schema}

    def turn(messages: list[Any], asked: Json) -> Json:
        messages.append({"role": "user", "content": user_content(asked)})
        answer = one(request, case, messages)
        if not answer.get("toolCalls"):
            return answer
        messages += [
            {"role": "tool", "tool_call_id": call.pop("id"), "content": RESULT}
            for call in answer["toolCalls"]
        ]
        return {**one(request, case, messages), "toolCalls": answer["toolCalls"]}

    return converse(case, turn)


def one(request: Json, case: Json, messages: list[Any]) -> Json:
    """One call of `completion`; the pieces of a stream are put together by its own builder."""
    pieces: list[str] = []
    if case["stream"]:
        chunks = []
        streamed = litellm.completion(
            **request, messages=messages, stream=True, stream_options={"include_usage": True}
        )
        for chunk in streamed:
            chunks.append(chunk)
            pieces += [choice.delta.content for choice in chunk.choices if choice.delta.content]
            if len(pieces) == case.get("stopAfter"):
                streamed.completion_stream.close()
                return {"text": "".join(pieces)}
        whole = litellm.stream_chunk_builder(chunks, messages=messages)
    else:
        whole = litellm.completion(**request, messages=messages)
    message = whole.choices[0].message
    messages.append(message.model_dump(include={"role", "content", "tool_calls"}, exclude_none=True))
    return {
        "text": message.content or "",
        "pieces": len(pieces),
        "object": json.loads(message.content) if case.get("schema") else None,
        "reasoning": getattr(message, "reasoning_content", None) or "",
        "toolCalls": [
            {"id": call.id, "name": call.function.name, "arguments": json.loads(call.function.arguments)}
            for call in message.tool_calls or ()
        ],
        "sources": [one["url_citation"]["url"] for one in getattr(message, "annotations", None) or ()],
        "usage": chat_usage(whole.usage),
        "finish": whole.choices[0].finish_reason,
    }


answer_cases(ask)
