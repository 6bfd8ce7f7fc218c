"""A WebSocket without any SDK: Responses' events over one connection, going on by `previous_response_id`."""

from __future__ import annotations

import json
from typing import Any

from asking import (  # type: ignore[import-not-found]
    RESULT,
    WEATHER,
    Json,
    answer_cases,
    converse,
    input_content,
)
from websockets.sync.client import connect  # type: ignore[import-not-found]

LAST = ("response.completed", "response.failed", "response.incomplete", "error")


def ask(base_url: str, case: Json) -> Json:
    """The answer to one case, as the events say it."""
    address = base_url.replace("http://", "ws://", 1) + "/v1/responses"
    with connect(address, additional_headers={"Authorization": "Bearer any"}) as socket:

        def turn(history: list[Any], asked: Json) -> Json:
            new: list[Json] = [{"type": "message", "role": "user", "content": input_content(asked)}]
            answer = one(socket, case, history, new)
            calls = answer.get("toolCalls")
            if not calls:
                return answer
            results = [
                {"type": "function_call_output", "call_id": call.pop("id"), "output": RESULT}
                for call in calls
            ]
            return {**one(socket, case, history, results), "toolCalls": calls}

        return converse(case, turn)


def one(socket: Any, case: Json, history: list[Any], new: list[Json]) -> Json:
    """One response; the history is the ids of those before."""
    request: Json = {
        "type": "response.create",
        "model": case["model"],
        "input": new,
        "user": case["user"],
    }
    if history:
        request["previous_response_id"] = history[-1]
    if case.get("tools"):
        request["tools"] = [{"type": "function", "strict": True, **WEATHER}]
    if case.get("schema"):
        schema = {"type": "json_schema", "name": "weather", "schema": case["schema"], "strict": True}
        request["text"] = {"format": schema}
    socket.send(json.dumps(request))
    pieces: list[str] = []
    while True:
        event = json.loads(socket.recv(timeout=60))
        if event["type"] == "response.output_text.delta":
            pieces.append(event["delta"])
        if len(pieces) == case.get("stopAfter"):
            return {"text": "".join(pieces)}
        if event["type"] in LAST:
            break
    if event["type"] != "response.completed":
        raise RuntimeError(json.dumps(event))
    return understood(event["response"], pieces, history, case)


def understood(response: Json, pieces: list[str], history: list[Any], case: Json) -> Json:
    """What the whole response says."""
    history.append(response["id"])
    items = response["output"]
    parts = [part for item in items if item["type"] == "message" for part in item["content"]]
    text = "".join(part["text"] for part in parts)
    if "".join(pieces) != text:
        raise ValueError(f"the response is not what its deltas said: {pieces}")
    usage = response["usage"]
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
        "sources": [source["url"] for part in parts for source in part["annotations"]],
        "usage": {name: usage[f"{name}_tokens"] for name in ("input", "output", "total")},
        "finish": response["status"],
    }


answer_cases(ask)
