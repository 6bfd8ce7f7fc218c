"""What OpenAI's Python client offers beside asking: models, stored and background responses, helpers."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from asking import Json  # type: ignore[import-not-found]
from openai import APIStatusError, AsyncOpenAI, AzureOpenAI, OpenAI
from pydantic import BaseModel

LAST = ("completed", "failed", "cancelled", "incomplete")
WAIT_SECONDS = 30


class Weather(BaseModel):
    """What is asked for."""

    city: str
    degrees: int


def called(base_url: str, case: Json) -> Json:
    """What one of them gives."""
    with OpenAI(base_url=f"{base_url}/v1", api_key="any") as client:
        return CALLS[case["call"]](client, case)


def refused(call: Callable[[], Any]) -> Json:
    """How the client reports a refusal."""
    try:
        call()
    except APIStatusError as error:
        return {"status": error.status_code, "code": error.code, "param": error.param}
    return {"status": 200}


def models(client: OpenAI, case: Json) -> Json:
    """`models.list`, `models.retrieve`."""
    return {
        "ids": [model.id for model in client.models.list()],
        "one": client.models.retrieve(case["model"]).id,
        "unknown": refused(lambda: client.models.retrieve("no-such-model")),
    }


def stored(client: OpenAI, case: Json) -> Json:
    """`responses.retrieve`, `.input_items.list`, `.delete`."""
    first = client.responses.create(model=case["model"], input=case["question"])
    items = [item.to_dict() for item in client.responses.input_items.list(first.id)]
    found = client.responses.retrieve(first.id)
    client.responses.delete(first.id)
    gone = refused(lambda: client.responses.retrieve(first.id))
    return {"text": first.output_text, "found": found.output_text, "items": items, "gone": gone}


def background(client: OpenAI, case: Json) -> Json:
    """`responses.create(background=True)`, asked for until it is there."""
    response = client.responses.create(model=case["model"], input=case["question"], background=True)
    first, deadline = response.status, time.monotonic() + WAIT_SECONDS
    while response.status not in LAST and time.monotonic() < deadline:
        time.sleep(0.1)
        response = client.responses.retrieve(response.id)
    return {"first": first, "last": response.status, "text": response.output_text}


def resumed(client: OpenAI, case: Json) -> Json:
    """A background response's stream, which is left and taken up again."""
    pieces: list[str] = []
    last, name = 0, ""
    with client.responses.create(
        model=case["model"], input=case["question"], background=True, stream=True
    ) as stream:
        for event in stream:
            last = event.sequence_number
            name = event.response.id if event.type == "response.created" else name
            if event.type == "response.output_text.delta":
                pieces.append(event.delta)
                break
    for event in client.responses.retrieve(name, stream=True, starting_after=last):
        pieces += [event.delta] if event.type == "response.output_text.delta" else []
    return {"text": "".join(pieces), "found": client.responses.retrieve(name).output_text}


def cancelled(client: OpenAI, case: Json) -> Json:
    """`responses.cancel`, once there are words."""
    name = ""
    with client.responses.create(model=case["model"], input="slow", background=True, stream=True) as stream:
        for event in stream:
            name = event.response.id if event.type == "response.created" else name
            if event.type == "response.output_text.delta":
                break
    return {"status": client.responses.cancel(name).status}


def counted(client: OpenAI, case: Json) -> Json:
    """`responses.input_tokens.count`, `responses.compact`."""
    talk: list[Any] = [
        {"role": "user", "content": "First of all"},
        {"role": "assistant", "content": "Yes"},
    ]
    tokens = client.responses.input_tokens.count(model=case["model"], input=talk).input_tokens
    packed = client.responses.compact(model=case["model"], input=talk)
    new: list[Any] = [*packed.output, {"role": "user", "content": "At last"}]
    return {"tokens": tokens, "text": client.responses.create(model=case["model"], input=new).output_text}


def parsed(client: OpenAI, case: Json) -> Json:
    """`chat.completions.parse`, `responses.parse`."""
    question = "The weather in Paris"
    chat = client.chat.completions.parse(
        model=case["model"], messages=[{"role": "user", "content": question}], response_format=Weather
    )
    response = client.responses.parse(model=case["model"], input=question, text_format=Weather)
    objects = (chat.choices[0].message.parsed, response.output_parsed)
    return {"objects": [one.model_dump() if one else None for one in objects]}


def raw(client: OpenAI, case: Json) -> Json:
    """`with_raw_response`, `with_streaming_response`: the headers."""
    request: Json = {"model": case["model"], "messages": [{"role": "user", "content": case["question"]}]}
    whole = client.chat.completions.with_raw_response.create(**request)
    with client.chat.completions.with_streaming_response.create(**request) as streaming:
        body = streaming.read()
    return {
        "header": whole.headers["x-request-id"],
        "id": whole.parse()._request_id,
        "streaming": streaming.headers["x-request-id"],
        "bytes": len(body),
    }


def azure(client: OpenAI, case: Json) -> Json:
    """`AzureOpenAI` with Responses, and the plain client at Azure's newer address, `/openai/v1`."""
    request: Json = {"model": case["model"], "input": case["question"]}
    origin = str(client.base_url).replace("/v1/", "")
    dated = AzureOpenAI(azure_endpoint=origin, api_version="2025-04-01-preview", api_key="any")
    whole = dated.responses.create(**request)
    with dated.responses.stream(**request) as stream:
        streamed = "".join(event.delta for event in stream if event.type == "response.output_text.delta")
    other = client.with_options(base_url=str(client.base_url).replace("/v1/", "/openai/v1/"))
    message: Any = {"role": "user", "content": case["question"]}
    chat = other.chat.completions.create(model=case["model"], messages=[message])
    response = other.responses.create(**request)
    return {"texts": [whole.output_text, streamed, chat.choices[0].message.content, response.output_text]}


def asynchronous(client: OpenAI, case: Json) -> Json:
    """`AsyncOpenAI`: an answer, a stream, and one whose task is cancelled."""

    async def asked() -> Json:
        async with AsyncOpenAI(base_url=client.base_url, api_key="any") as other:
            return await several(other, case)

    return asyncio.run(asked())


async def several(client: AsyncOpenAI, case: Json) -> Json:
    """An answer, a stream, and one whose task is cancelled."""
    messages: Any = [{"role": "user", "content": case["question"]}]
    whole = await client.chat.completions.create(model=case["model"], messages=messages)
    pieces: list[str] = []
    async with client.responses.stream(model=case["model"], input=case["question"]) as stream:
        async for event in stream:
            pieces += [event.delta] if event.type == "response.output_text.delta" else []
    read: list[str] = []

    async def slow() -> None:
        slow_messages: Any = [{"role": "user", "content": "slow"}]
        chunks = await client.chat.completions.create(
            model="demo-agent-errors", messages=slow_messages, stream=True
        )
        async for chunk in chunks:
            read.extend(choice.delta.content for choice in chunk.choices if choice.delta.content)
            if len(read) == 2:
                reading.cancel()

    reading = asyncio.create_task(slow())
    await asyncio.wait([reading])
    return {"text": whole.choices[0].message.content, "streamed": "".join(pieces), "left": "".join(read)}


def unserved(client: OpenAI, case: Json) -> Json:
    """What the gateway does not serve: refused at once, and sent once."""
    sent: list[str] = []

    def note(request: Any) -> None:
        sent.append(request.url.path)

    client._client.event_hooks = {"request": [note]}
    file: Any = {"role": "user", "content": [{"type": "file", "file": {"file_id": "file-1"}}]}
    return {
        "refusals": {
            "files.list": refused(lambda: list(client.files.list())),
            "files.create": refused(lambda: client.files.create(file=b"x", purpose="user_data")),
            "conversations.create": refused(client.conversations.create),
            "embeddings.create": refused(lambda: client.embeddings.create(model=case["model"], input="a")),
            "file_id": refused(lambda: client.chat.completions.create(model=case["model"], messages=[file])),
        },
        "sent": len(sent),
    }


CALLS: dict[str, Callable[[OpenAI, Json], Json]] = {
    "models": models,
    "stored": stored,
    "background": background,
    "resumed": resumed,
    "cancelled": cancelled,
    "counted": counted,
    "parsed": parsed,
    "raw": raw,
    "azure": azure,
    "asynchronous": asynchronous,
    "unserved": unserved,
}
