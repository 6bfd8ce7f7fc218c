"""The model of smolagents that its agents speak through."""

from __future__ import annotations

import json
from typing import Any

from asking import RESULT, Json, answer_cases, converse, user_content  # type: ignore[import-not-found]
from smolagents import OpenAIServerModel, Tool  # type: ignore[import-not-found]


class Weather(Tool):  # type: ignore[misc]
    """The function that is offered."""

    name = "get_weather"
    description = "The weather of a city."
    inputs = {  # noqa: RUF012 - so smolagents wants it
        "city": {"type": "string", "description": "the city"},
        "unit": {"type": "string", "description": "the unit", "enum": ["C", "F"]},
    }
    output_type = "string"

    def forward(self, city: str, unit: str) -> str:
        """What it gives."""
        return f"{RESULT}"


def ask(base_url: str, case: Json) -> Json:
    """The answer to one case, as the client understands it."""
    model = OpenAIServerModel(
        model_id=case["model"], api_base=f"{base_url}/v1", api_key="any", user=case["user"]
    )

    def turn(history: list[Any], asked: Json) -> Json:
        content = user_content(asked)
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        history.append({"role": "user", "content": parts})
        answer = one(model, case, history)
        if not answer.get("toolCalls"):
            return answer
        said = {"type": "text", "text": f"Calling tools:\n{json.dumps(answer['toolCalls'])}"}
        history.append({"role": "tool-call", "content": [said]})
        result = {"type": "text", "text": f"Observation:\n{RESULT}"}
        history.append({"role": "tool-response", "content": [result]})
        return {**one(model, case, history), "toolCalls": answer["toolCalls"]}

    return converse(case, turn)


def one(model: Any, case: Json, history: list[Any]) -> Json:
    """One request."""
    options: Json = (
        {"tools_to_call_from": [Weather()]} if case.get("tools") and history[-1]["role"] == "user" else {}
    )
    if case.get("schema"):
        schema = {"name": "weather", "schema": case["schema"], "strict": True}
        options["response_format"] = {"type": "json_schema", "json_schema": schema}
    if not case["stream"]:
        message = model.generate(history, **options)
        text, usage = message.content or "", message.token_usage
        calls = message.tool_calls or []
        pieces: list[str] = []
    else:
        pieces, usage, calls = [], None, []
        streamed = model.generate_stream(history, **options)
        for delta in streamed:
            pieces += [delta.content] if delta.content else []
            usage = delta.token_usage or usage
            if len(pieces) == case.get("stopAfter"):
                # Leaving the loop closes no connection; the model's client does.
                model.client.close()
                return {"text": "".join(pieces)}
        text = "".join(pieces)
    history.append({"role": "assistant", "content": [{"type": "text", "text": text}]})
    return {
        "text": text,
        "pieces": len(pieces),
        "object": json.loads(text) if case.get("schema") else None,
        "toolCalls": [{"name": call.function.name, "arguments": arguments(call)} for call in calls],
        "usage": {"input": usage.input_tokens, "output": usage.output_tokens, "total": usage.total_tokens},
    }


def arguments(call: Any) -> Any:
    """The arguments of a call, which may be a text still."""
    given = call.function.arguments
    return json.loads(given) if isinstance(given, str) else given


answer_cases(ask)
