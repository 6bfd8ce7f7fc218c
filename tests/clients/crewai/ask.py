"""CrewAI's own client of a model."""

from __future__ import annotations

import os
from typing import Any

os.environ |= {
    "CREWAI_DISABLE_TELEMETRY": "true",
    "OTEL_SDK_DISABLED": "true",
    "CREWAI_TRACING_ENABLED": "false",
}

from asking import Json, answer_cases, converse, user_content  # type: ignore[import-not-found]
from crewai import LLM  # type: ignore[import-not-found]
from crewai.events import LLMStreamChunkEvent, crewai_event_bus  # type: ignore[import-not-found]

pieces: list[str] = []
"""What the streamed answer came in."""


@crewai_event_bus.on(LLMStreamChunkEvent)  # type: ignore[untyped-decorator]
def take(_source: Any, event: Any) -> None:
    """A piece has come."""
    pieces.append(event.chunk)


def ask(base_url: str, case: Json) -> Json:
    """The answer to one case, as the client understands it."""
    model = LLM(
        model=f"openai/{case['model']}",
        base_url=f"{base_url}/v1",
        api_key="any",
        stream=case["stream"],
        additional_params={"user": case["user"]},
    )

    def turn(history: list[Any], asked: Json) -> Json:
        history.append({"role": "user", "content": user_content(asked)})
        pieces.clear()
        text = model.call(list(history))
        history.append({"role": "assistant", "content": text})
        return {"text": str(text), "pieces": len(pieces)}

    return converse(case, turn)


answer_cases(ask)
