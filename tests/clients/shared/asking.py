"""What the Python scripts share: `SCRIPT BASE_URL` answers each line of its input, a case, with a line."""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

Json = dict[str, Any]
Turn = Callable[[list[Any], Json], Json]

RESULT = "It is 7 degrees."
"""What the function of the client's gives."""
WEATHER: Json = {
    "name": "get_weather",
    "description": "The weather of a city.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}, "unit": {"type": "string", "enum": ["C", "F"]}},
        "required": ["city", "unit"],
        "additionalProperties": False,
    },
}


def answer_cases(ask: Callable[[str, Json], Json]) -> None:
    """Asks each case in turn."""
    base_url = sys.argv[1]
    # What a library prints must not come between the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        try:
            answer = ask(base_url, json.loads(line))
        except Exception:  # noqa: BLE001 - any failure of the client is the finding
            answer = {"error": traceback.format_exc()}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def converse(case: Json, turn: Turn) -> Json:
    """The last answer, with the texts of all.

    `turn` adds to the history what was asked and what came; a turn that keeps only so many of the earlier ones is an
    edited message, or an answer made anew.
    """
    history: list[Any] = []
    starts: list[int] = []
    texts: list[str] = []
    answer: Json = {}
    for asked in case["turns"]:
        kept = asked.get("keep", len(starts))
        if kept < len(starts):
            del history[starts[kept] :]
            del starts[kept:]
        starts.append(len(history))
        answer = turn(history, asked)
        texts.append(answer["text"])
    return {**answer, "texts": texts}


def user_content(asked: Json) -> str | list[Json]:
    """The content of a user's chat message: its text, or parts with an image or a document."""
    parts: list[Json] = [{"type": "text", "text": asked["text"]}]
    if "image" in asked:
        parts.append({"type": "image_url", "image_url": {"url": asked["image"]}})
    if "document" in asked:
        name, data = asked["document"]["name"], asked["document"]["data"]
        file = {"filename": name, "file_data": f"data:application/pdf;base64,{data}"}
        parts.append({"type": "file", "file": file})
    return parts if len(parts) > 1 else str(asked["text"])


def input_content(asked: Json) -> str | list[Json]:
    """The same as content of an input message of the Responses API."""
    parts: list[Json] = [{"type": "input_text", "text": asked["text"]}]
    if "image" in asked:
        parts.append({"type": "input_image", "image_url": asked["image"], "detail": "auto"})
    if "document" in asked:
        name, data = asked["document"]["name"], asked["document"]["data"]
        parts.append(
            {"type": "input_file", "filename": name, "file_data": f"data:application/pdf;base64,{data}"}
        )
    return parts if len(parts) > 1 else str(asked["text"])


def chat_usage(usage: Any) -> Json:
    """Tokens as chat completions count them."""
    return {"input": usage.prompt_tokens, "output": usage.completion_tokens, "total": usage.total_tokens}


def response_usage(usage: Any) -> Json:
    """Tokens as the Responses API counts them."""
    return {"input": usage.input_tokens, "output": usage.output_tokens, "total": usage.total_tokens}
