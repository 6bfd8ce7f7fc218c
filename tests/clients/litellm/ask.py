"""LiteLLM's client library: chat completions, also as Azure's, and Responses."""

from __future__ import annotations

import json
from typing import Any

import litellm  # type: ignore[import-not-found]
from asking import (  # type: ignore[import-not-found]
    RESULT,
    WEATHER,
    Json,
    answer_cases,
    chat_usage,
    converse,
    input_content,
    response_usage,
    user_content,
)


def ask(base_url: str, case: Json) -> Json:
    """The answer to one case, as the client understands it."""
    request: Json = {
        "model": f"openai/{case['model']}",
        "api_base": f"{base_url}/v1",
        "api_key": "any",
        "user": case["user"],
        # `num_retries` would repeat every failure, also one that a flow has run for.
        "max_retries": 2,
    }
    if case["surface"] == "azure":
        azure = {"model": f"azure/{case['model']}", "api_base": base_url, "api_version": "2024-10-21"}
        request |= azure
    if case["surface"] == "responses":
        # LiteLLM asks for whole answers of a model that it does not know, and cuts them up.
        known = {"litellm_provider": "openai", "mode": "responses", "supports_native_streaming": True}
        litellm.register_model({request["model"]: known})
        return converse(case, lambda history, asked: response(request, case, history, asked))
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


def response(request: Json, case: Json, history: list[Any], asked: Json) -> Json:
    """A turn of `responses`, with the calls of the client's function."""
    answer = response_once(request, case, history, [{"role": "user", "content": input_content(asked)}])
    calls = answer.get("toolCalls")
    if not calls:
        return answer
    results = [
        {"type": "function_call_output", "call_id": call.pop("id"), "output": RESULT} for call in calls
    ]
    return {**response_once(request, case, history, results), "toolCalls": calls}


def response_once(request: Json, case: Json, history: list[Any], new: list[Any]) -> Json:
    """One call of `responses`, with all items again."""
    asked = {**request, "input": [*history, *new], "store": False}
    if case.get("tools"):
        asked["tools"] = [{"type": "function", "strict": True, **WEATHER}]
    if case.get("schema"):
        schema = {"type": "json_schema", "name": "weather", "schema": case["schema"], "strict": True}
        asked["text"] = {"format": schema}
    pieces: list[str] = []
    if case["stream"]:
        whole: Any = None
        streamed = litellm.responses(**asked, stream=True)
        for event in streamed:
            if event.type in ("error", "response.failed"):
                raise RuntimeError(event.model_dump_json())
            pieces += [event.delta] if event.type == "response.output_text.delta" else []
            if len(pieces) == case.get("stopAfter"):
                streamed.close()
                return {"text": "".join(pieces)}
            whole = event.response if event.type == "response.completed" else whole
    else:
        whole = litellm.responses(**asked)
    items = [item if isinstance(item, dict) else item.model_dump(exclude_none=True) for item in whole.output]
    history += [*new, *items]
    parts = [part for item in items if item["type"] == "message" for part in item["content"]]
    text = "".join(part["text"] for part in parts)
    return {
        "text": text,
        "pieces": len(pieces),
        "object": json.loads(text) if case.get("schema") else None,
        "reasoning": "".join(
            part["text"] for item in items if item["type"] == "reasoning" for part in item["summary"]
        ),
        "toolCalls": [
            {"id": item["call_id"], "name": item["name"], "arguments": json.loads(item["arguments"])}
            for item in items
            if item["type"] == "function_call"
        ],
        "sources": [source["url"] for part in parts for source in part.get("annotations") or ()],
        "usage": response_usage(whole.usage),
        "finish": whole.status,
    }


answer_cases(ask)
