"""Instructor over OpenAI's client: what it is for is an object of a schema, with its usage."""

from __future__ import annotations

from typing import Any

import instructor  # type: ignore[import-not-found]
from asking import Json, answer_cases, chat_usage, converse, user_content  # type: ignore[import-not-found]
from openai import OpenAI
from pydantic import BaseModel

MODES = {"json schema": instructor.Mode.JSON_SCHEMA, "tools": instructor.Mode.TOOLS}


class Weather(BaseModel):
    """What is asked for."""

    city: str
    degrees: int


def ask(base_url: str, case: Json) -> Json:
    """The answer to one case, as the client understands it."""
    client = instructor.from_openai(
        OpenAI(base_url=f"{base_url}/v1", api_key="any"), mode=MODES[case["surface"]]
    )
    request: Json = {"model": case["model"], "user": case["user"], "response_model": Weather}

    def turn(messages: list[Any], asked: Json) -> Json:
        messages.append({"role": "user", "content": user_content(asked)})
        if case["stream"]:
            weather = list(client.chat.completions.create_partial(**request, messages=messages))[-1]
            return {"text": "", "object": weather.model_dump()}
        weather, whole = client.chat.completions.create_with_completion(**request, messages=messages)
        return {"text": "", "object": weather.model_dump(), "usage": chat_usage(whole.usage)}

    return converse(case, turn)


answer_cases(ask)
