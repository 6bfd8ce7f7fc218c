"""curl, with `-N` for streams; what it prints is read as a shell script's next program would."""

from __future__ import annotations

import json
import subprocess
import tempfile
from typing import Any

from asking import (  # type: ignore[import-not-found]
    RESULT,
    WEATHER,
    Json,
    answer_cases,
    converse,
    input_content,
    user_content,
)

COMMAND = ["curl", "--silent", "--show-error", "--no-buffer", "--fail-with-body", "--retry", "2"]
HEADERS = ["--header", "Content-Type: application/json", "--header", "Authorization: Bearer any"]


def ask(base_url: str, case: Json) -> Json:
    """The answer to one case, as it is printed."""
    is_chat = case["surface"] == "chat"

    def turn(history: list[Any], asked: Json) -> Json:
        history.append({"role": "user", "content": user_content(asked) if is_chat else input_content(asked)})
        answer = one(base_url, case, history)
        calls = answer.get("toolCalls")
        if not calls:
            return answer
        history += [result_of(call, is_chat) for call in calls]
        return {**one(base_url, case, history), "toolCalls": calls}

    return converse(case, turn)


def result_of(call: Json, is_chat: bool) -> Json:
    """What the function gave."""
    if is_chat:
        return {"role": "tool", "tool_call_id": call["id"], "content": RESULT}
    return {"type": "function_call_output", "call_id": call["id"], "output": RESULT}


def body_of(case: Json, history: list[Any]) -> Json:
    """The request's body."""
    body: Json = {"model": case["model"], "user": case["user"], "stream": case["stream"]}
    strict: Json = {"name": "weather", "schema": case.get("schema"), "strict": True}
    if case["surface"] == "chat":
        body["messages"] = history
        if case["stream"]:
            body["stream_options"] = {"include_usage": True}
        if case.get("tools"):
            body["tools"] = [{"type": "function", "function": WEATHER}]
        if case.get("schema"):
            body["response_format"] = {"type": "json_schema", "json_schema": strict}
    else:
        body |= {"input": history, "store": False}
        if case.get("tools"):
            body["tools"] = [{"type": "function", "strict": True, **WEATHER}]
        if case.get("schema"):
            body["text"] = {"format": {"type": "json_schema", **strict}}
    return body


def one(base_url: str, case: Json, history: list[Any]) -> Json:
    """One command."""
    path = "chat/completions" if case["surface"] == "chat" else "responses"
    command = [*COMMAND, *HEADERS, "--data", "@-", f"{base_url}/v1/{path}"]
    # A request that is sent again is sent from a file: its pipe has been read.
    with tempfile.NamedTemporaryFile("w+b", suffix=".json") as file:
        file.write(json.dumps(body_of(case, history)).encode())
        file.flush()
        command[command.index("@-")] = f"@{file.name}"
        curl = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        understand = chat if case["surface"] == "chat" else response
        with curl:
            return understand(curl, case, history)


def events_of(curl: Any, case: Json, is_piece: Any) -> tuple[list[Json], bool]:
    """What the lines of a stream say, and whether it was left."""
    events: list[Json] = []
    for printed in curl.stdout:
        line = printed.decode()
        if line.startswith("{"):
            # An error is printed, and what comes after it where curl has asked again.
            _, end = json.JSONDecoder().raw_decode(line)
            if not line[end:].strip():
                raise RuntimeError(line)
            line = line[end:]
        if line.startswith("data: {"):
            events.append(json.loads(line.removeprefix("data: ")))
        if case.get("stopAfter") and len([one for one in events if is_piece(one)]) == case["stopAfter"]:
            curl.terminate()
            return events, True
    return events, False


def whole_of(curl: Any) -> Json:
    """A whole answer; curl fails where the status is an error's."""
    printed, failure = curl.communicate()
    if curl.returncode:
        raise RuntimeError(f"curl ended with {curl.returncode}: {failure.decode()}\n{printed.decode()}")
    text = printed.decode().strip()
    answer, end = json.JSONDecoder().raw_decode(text)
    # The error that it has asked again after is printed first.
    return dict(json.loads(text[end:]) if text[end:] else answer)


def chat(curl: Any, case: Json, history: list[Any]) -> Json:
    """A chat completion, or what its chunks make together."""
    if not case["stream"]:
        whole = whole_of(curl)
        [choice] = whole["choices"]
        return chat_answer(choice["message"], whole["usage"], choice["finish_reason"], history, case)

    def is_piece(chunk: Json) -> bool:
        return any(choice["delta"].get("content") for choice in chunk.get("choices", ()))

    chunks, is_left = events_of(curl, case, is_piece)
    failed = next((chunk["error"] for chunk in chunks if "error" in chunk), None)
    if failed:
        raise RuntimeError(failed["message"])
    deltas = [choice["delta"] for chunk in chunks for choice in chunk["choices"]]
    message: Json = {
        name: "".join(delta.get(name) or "" for delta in deltas) for name in ("content", "reasoning_content")
    }
    if is_left:
        return {"text": message["content"]}
    message["annotations"] = [one for delta in deltas for one in delta.get("annotations") or ()]
    calls: dict[int, Json] = {}
    for part in (part for delta in deltas for part in delta.get("tool_calls") or ()):
        call = calls.setdefault(part["index"], {"function": {"name": "", "arguments": ""}})
        call |= {name: part[name] for name in ("id", "type") if name in part}
        for name in ("name", "arguments"):
            call["function"][name] += part["function"].get(name) or ""
    message["tool_calls"] = list(calls.values())
    finish = next(
        choice["finish_reason"] for chunk in chunks for choice in chunk["choices"] if choice["finish_reason"]
    )
    answer = chat_answer(message, chunks[-1]["usage"], finish, history, case)
    return {**answer, "pieces": len([chunk for chunk in chunks if is_piece(chunk)])}


def chat_answer(message: Json, usage: Json, finish: str, history: list[Any], case: Json) -> Json:
    """What a message says."""
    calls = message.get("tool_calls") or []
    text = message["content"] or ""
    history.append({"role": "assistant", "content": text, **({"tool_calls": calls} if calls else {})})
    return {
        "text": text,
        "object": json.loads(text) if case.get("schema") else None,
        "reasoning": message.get("reasoning_content") or "",
        "toolCalls": [
            {
                "id": call["id"],
                "name": call["function"]["name"],
                "arguments": json.loads(call["function"]["arguments"]),
            }
            for call in calls
        ],
        "sources": [one["url_citation"]["url"] for one in message.get("annotations") or ()],
        "usage": {
            "input": usage["prompt_tokens"],
            "output": usage["completion_tokens"],
            "total": usage["total_tokens"],
        },
        "finish": finish,
    }


def response(curl: Any, case: Json, history: list[Any]) -> Json:
    """A response, or that of the last event of its stream."""
    pieces: list[str] = []
    if case["stream"]:
        events, is_left = events_of(curl, case, lambda event: event["type"] == "response.output_text.delta")
        pieces = [event["delta"] for event in events if event["type"] == "response.output_text.delta"]
        if is_left:
            return {"text": "".join(pieces)}
        if events[-1]["type"] != "response.completed":
            raise RuntimeError(json.dumps(events[-1]))
        whole = events[-1]["response"]
    else:
        whole = whole_of(curl)
    items = whole["output"]
    history += items
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
        "sources": [source["url"] for part in parts for source in part["annotations"]],
        "usage": {name: whole["usage"][f"{name}_tokens"] for name in ("input", "output", "total")},
        "finish": whole["status"],
    }


answer_cases(ask)
