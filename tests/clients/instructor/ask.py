"""Instructor over OpenAI's Python client, in each of its modes for it."""

from __future__ import annotations

from typing import Any

import instructor  # type: ignore[import-not-found]
from asking import Json, answer_cases, converse, input_content, user_content  # type: ignore[import-not-found]
from openai import OpenAI
from pydantic import BaseModel

MODES = {
    "tools": instructor.Mode.TOOLS,
    "json schema": instructor.Mode.JSON_SCHEMA,
    "json": instructor.Mode.JSON,
    "markdown json": instructor.Mode.MD_JSON,
    "responses tools": instructor.Mode.RESPONSES_TOOLS,
}


class Weather(BaseModel):
    """What is asked for."""

    city: str
    degrees: int


def ask(base_url: str, case: Json) -> Json:
    """The answer to one case, as the client understands it."""
    client = instructor.from_openai(
        OpenAI(base_url=f"{base_url}/v1", api_key="any"), mode=MODES[case["surface"]]
    )
    content = input_content if case["surface"] == "responses tools" else user_content
    request: Json = {"model": case["model"], "user": case["user"], "response_model": Weather}
    # Each further try after an object that is none would be a further run.
    request["max_retries"] = 0

    def turn(messages: list[Any], asked: Json) -> Json:
        messages.append({"role": "user", "content": content(asked)})
        if case["stream"]:
            parts = list(client.create_partial(**request, messages=list(messages)))
            return {"text": "", "pieces": len(parts), "object": parts[-1].model_dump()}
        weather, whole = client.create_with_completion(**request, messages=list(messages))
        messages.append({"role": "assistant", "content": weather.model_dump_json()})
        return {
            "text": weather.model_dump_json(),
            "object": weather.model_dump(),
            "usage": counted(whole.usage),
        }

    return converse(case, turn)


def counted(usage: Any) -> Json:
    """Tokens, by whichever names they have."""
    names = {"input": ("prompt_tokens", "input_tokens"), "output": ("completion_tokens", "output_tokens")}
    found = {
        name: next(getattr(usage, one) for one in ones if hasattr(usage, one)) for name, ones in names.items()
    }
    return {**found, "total": usage.total_tokens}


answer_cases(ask)
