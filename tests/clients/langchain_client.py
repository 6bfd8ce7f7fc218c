"""LangChain's Python client, run in an environment of its own: `langchain_client.py BASE_URL CASES`."""

from __future__ import annotations

from asking import Json, asks  # type: ignore[import-not-found]
from langchain_openai import ChatOpenAI  # type: ignore[import-not-found]


def ask(base_url: str, case: Json) -> Json:
    """The answer to one case, as the client understands it."""
    client = ChatOpenAI(
        model=case["model"],
        base_url=f"{base_url}/v1",
        api_key="any",
        max_retries=0,
        stream_usage=True,
        use_responses_api=case["way"] == "responses",
        model_kwargs={"user": case["user"]},
    )
    [question] = case["questions"]
    if case["stream"]:
        chunks = list(client.stream(question))
        message = sum(chunks[1:], start=chunks[0])
    else:
        message = client.invoke(question)
    usage = message.usage_metadata
    parts = [part for part in message.content if isinstance(part, dict)]
    return {
        "text": message.text,
        "reasoning": "".join(
            text["text"]
            for part in parts
            for text in part.get("summary") or ()
            if part["type"] == "reasoning"
        ),
        "toolCalls": message.tool_calls,
        "sources": [source["url"] for part in parts for source in part.get("annotations") or ()],
        "usage": {name: usage[f"{name}_tokens"] for name in ("input", "output", "total")},
        "finish": message.response_metadata.get("finish_reason") or message.response_metadata.get("status"),
    }


asks(ask)
