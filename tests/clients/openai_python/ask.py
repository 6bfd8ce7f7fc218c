"""OpenAI's Python client: chat completions (also as Azure's), completions, and Responses in each way of going on."""

from __future__ import annotations

import json
from typing import Any

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
from calls import called  # type: ignore[import-not-found]
from openai import AzureOpenAI, OpenAI

SCHEMA_NAME = "weather"


def ask(base_url: str, case: Json) -> Json:
    """The answer to one case, as the client understands it."""
    surface = case["surface"]
    if surface == "calls":
        return dict(called(base_url, case))
    if surface == "azure":
        client: OpenAI = AzureOpenAI(azure_endpoint=base_url, api_version="2024-10-21", api_key="any")
    else:
        client = OpenAI(base_url=f"{base_url}/v1", api_key="any")
    with client:
        if surface == "completions":
            return converse(case, lambda _, asked: completion(client, case, asked))
        one = chat if surface in ("chat", "azure") else response
        return converse(case, lambda history, asked: one(client, case, history, asked))


def completion(client: OpenAI, case: Json, asked: Json) -> Json:
    """`client.completions.create`."""
    request: Json = {"model": case["model"], "prompt": asked["text"], "user": case["user"]}
    if not case["stream"]:
        whole = client.completions.create(**request)
        [choice] = whole.choices
        return {"text": choice.text, "finish": choice.finish_reason, "usage": chat_usage(whole.usage)}
    pieces, finish, usage = [], None, None
    for chunk in client.completions.create(**request, stream=True, stream_options={"include_usage": True}):
        pieces += [choice.text for choice in chunk.choices if choice.text]
        finish = next((choice.finish_reason for choice in chunk.choices if choice.finish_reason), finish)
        usage = chunk.usage or usage
        if len(pieces) == case.get("stopAfter"):
            return {"text": "".join(pieces)}
    return {"text": "".join(pieces), "pieces": len(pieces), "finish": finish, "usage": chat_usage(usage)}


def chat(client: OpenAI, case: Json, history: list[Any], asked: Json) -> Json:
    """A turn of chat completions, with the calls of the client's function."""
    history.append({"role": "user", "content": user_content(asked)})
    answer = chat_once(client, case, history)
    if not answer["toolCalls"]:
        return answer
    history += [
        {"role": "tool", "tool_call_id": call.pop("id"), "content": RESULT} for call in answer["toolCalls"]
    ]
    return {**chat_once(client, case, history), "toolCalls": answer["toolCalls"]}


def chat_once(client: OpenAI, case: Json, history: list[Any]) -> Json:
    """One request."""
    request: Json = {"model": case["model"], "messages": history, "user": case["user"]}
    if case.get("tools"):
        request["tools"] = [{"type": "function", "function": WEATHER}]
    if case.get("schema"):
        schema = {"name": SCHEMA_NAME, "schema": case["schema"], "strict": True}
        request["response_format"] = {"type": "json_schema", "json_schema": schema}
    pieces: list[str] = []
    thoughts: list[str] = []
    if case["stream"]:
        request["stream_options"] = {"include_usage": True}
        with client.chat.completions.stream(**request) as stream:
            annotations: list[Any] = []
            for event in stream:
                if event.type != "chunk":
                    continue
                for choice in event.chunk.choices:
                    pieces += [choice.delta.content] if choice.delta.content else []
                    thoughts.append(getattr(choice.delta, "reasoning_content", None) or "")
                    annotations += getattr(choice.delta, "annotations", None) or []
                if len(pieces) == case.get("stopAfter"):
                    return {"text": "".join(pieces), "toolCalls": []}
            whole: Any = stream.get_final_completion()
        message = whole.choices[0].message
        urls = [one["url_citation"]["url"] for one in annotations]
    else:
        whole = client.chat.completions.create(**request)
        message = whole.choices[0].message
        thoughts = [getattr(message, "reasoning_content", None) or ""]
        urls = [one.url_citation.url for one in message.annotations or ()]
    said = {"role": "assistant", "content": message.content}
    if message.tool_calls:
        said["tool_calls"] = [
            call.model_dump(include={"id", "type", "function"}) for call in message.tool_calls
        ]
    history.append(said)
    return {
        "text": message.content or "",
        "pieces": len(pieces),
        "object": json.loads(message.content) if case.get("schema") else None,
        "reasoning": "".join(thoughts),
        "toolCalls": [
            {"id": call.id, "name": call.function.name, "arguments": json.loads(call.function.arguments)}
            for call in message.tool_calls or ()
        ],
        "sources": urls,
        "usage": chat_usage(whole.usage),
        "finish": whole.choices[0].finish_reason,
    }


def response(client: OpenAI, case: Json, history: list[Any], asked: Json) -> Json:
    """A turn of the Responses API: all items again, or the new ones after `previous_response_id`."""
    new = [{"role": "user", "content": input_content(asked)}]
    answer = response_once(client, case, history, new)
    if not answer["toolCalls"]:
        return answer
    results = [
        {"type": "function_call_output", "call_id": call.pop("id"), "output": RESULT}
        for call in answer["toolCalls"]
    ]
    return {**response_once(client, case, history, results), "toolCalls": answer["toolCalls"]}


def response_request(case: Json, history: list[Any], new: list[Any]) -> Json:
    """The body for new items, after what the history has."""
    request: Json = {"model": case["model"], "input": new, "user": case["user"]}
    if case["surface"] == "responses":
        request |= {"input": [*history, *new], "store": False}
    elif case["surface"] == "conversation":
        request["conversation"] = f"conv_{case['user']}"
    elif history:
        request["previous_response_id"] = history[-1]
    if case.get("tools"):
        request["tools"] = [{"type": "function", "strict": True, **WEATHER}]
    if case.get("schema"):
        schema = {"type": "json_schema", "name": SCHEMA_NAME, "schema": case["schema"], "strict": True}
        request["text"] = {"format": schema}
    return request


def streamed_response(client: OpenAI, case: Json, request: Json) -> tuple[list[str], Any]:
    """The pieces of its text, and the response unless it was left before."""
    pieces = []
    with client.responses.stream(**request) as stream:
        for event in stream:
            if event.type in ("error", "response.failed"):
                raise RuntimeError(event.model_dump_json())
            if event.type == "response.output_text.delta":
                pieces.append(event.delta)
            if len(pieces) == case.get("stopAfter"):
                return pieces, None
        return pieces, stream.get_final_response()


def response_once(client: OpenAI, case: Json, history: list[Any], new: list[Any]) -> Json:
    """One request; the history is what the next goes on from."""
    request = response_request(case, history, new)
    pieces, whole = streamed_response(client, case, request) if case["stream"] else ([], None)
    if not case["stream"]:
        whole = client.responses.create(**request)
    if whole is None:
        return {"text": "".join(pieces), "toolCalls": []}
    items = [item.model_dump(exclude_none=True, exclude_unset=True) for item in whole.output]
    for item in items:
        item.pop("parsed_arguments", None)
        for part in item.get("content") or ():
            part.pop("parsed", None)
    history += [*new, *items] if case["surface"] == "responses" else [whole.id]
    messages = [part for item in whole.output if item.type == "message" for part in item.content]
    return {
        "text": whole.output_text,
        "pieces": len(pieces),
        "object": json.loads(whole.output_text) if case.get("schema") else None,
        "reasoning": "".join(
            part.text for item in whole.output if item.type == "reasoning" for part in item.summary
        ),
        "toolCalls": [
            {"id": item.call_id, "name": item.name, "arguments": json.loads(item.arguments)}
            for item in whole.output
            if item.type == "function_call"
        ],
        "sources": [one.url for part in messages for one in part.annotations],
        "usage": response_usage(whole.usage),
        "finish": whole.status,
    }


answer_cases(ask)
