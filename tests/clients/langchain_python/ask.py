"""LangChain's client for Python: chat completions, also as Azure's, and Responses."""

from __future__ import annotations

from typing import Any

from asking import RESULT, WEATHER, Json, answer_cases, converse, user_content  # type: ignore[import-not-found]
from langchain_core.messages import HumanMessage, ToolMessage  # type: ignore[import-not-found]
from langchain_openai import AzureChatOpenAI, ChatOpenAI  # type: ignore[import-not-found]


def ask(base_url: str, case: Json) -> Json:
    """The answer to one case, as the client understands it."""
    options: Json = {"api_key": "any", "stream_usage": True, "model_kwargs": {"user": case["user"]}}
    if case["surface"] == "azure":
        where = {"azure_endpoint": base_url, "azure_deployment": case["model"], "api_version": "2024-10-21"}
        client = AzureChatOpenAI(**where, **options)
    else:
        is_responses = case["surface"] == "responses"
        address = f"{base_url}/v1"
        client = ChatOpenAI(model=case["model"], base_url=address, use_responses_api=is_responses, **options)
    bound = client.bind_tools([{"type": "function", "function": WEATHER}]) if case.get("tools") else client

    def turn(messages: list[Any], asked: Json) -> Json:
        messages.append(HumanMessage(content=user_content(asked)))
        if case.get("schema"):
            return {"text": "", "object": structured(client, case, messages)}
        answer = one(bound, case, messages)
        if not answer.get("toolCalls"):
            return answer
        messages += [ToolMessage(RESULT, tool_call_id=call.pop("id")) for call in answer["toolCalls"]]
        return {**one(bound, case, messages), "toolCalls": answer["toolCalls"]}

    return converse(case, turn)


def structured(client: Any, case: Json, messages: list[Any]) -> Any:
    """`with_structured_output`, whose last piece is the whole object."""
    reader = client.with_structured_output({"title": "weather", **case["schema"]}, method="json_schema")
    return list(reader.stream(messages))[-1] if case["stream"] else reader.invoke(messages)


def one(client: Any, case: Json, messages: list[Any]) -> Json:
    """One request."""
    pieces = 0
    if case["stream"]:
        message = None
        for chunk in client.stream(messages):
            message = chunk if message is None else message + chunk
            pieces += bool(chunk.text)
            if pieces == case.get("stopAfter"):
                return {"text": message.text}
        assert message is not None
    else:
        message = client.invoke(messages)
    messages.append(message)
    usage = message.usage_metadata
    parts = [part for part in message.content if isinstance(part, dict)]
    return {
        "text": str(message.text),
        "pieces": pieces,
        "reasoning": "".join(
            text["text"]
            for part in parts
            for text in part.get("summary") or ()
            if part["type"] == "reasoning"
        ),
        "toolCalls": [
            {"id": call["id"], "name": call["name"], "arguments": call["args"]} for call in message.tool_calls
        ],
        "sources": [source["url"] for part in parts for source in part.get("annotations") or ()],
        "usage": {name: usage[f"{name}_tokens"] for name in ("input", "output", "total")},
        "finish": message.response_metadata.get("finish_reason") or message.response_metadata.get("status"),
    }


answer_cases(ask)
