"""The files of `sample_payload/` converted both ways; run by `python3 openai_adapter.py`. Composition."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

from flow_turn import Transcript, Turn
from flowise_events import answer_events
from flowise_prediction import prediction_body
from openai_adapter import ChatRenderer, parse_chat, parse_completion
from openai_responses import parse_response
from openai_rules import ruled
from openai_wire import ParsedRequest
from proxy_tokens import count_tokens

SAMPLES = Path(__file__).resolve().parent / "sample_payload"


def main() -> None:
    """Print each sample and what it becomes."""
    for path in sorted(SAMPLES.glob("*.json")):
        sample = orjson.loads(path.read_bytes())
        title, converted = conversion(sample)
        _print(f"=== {path.name}: {title}", converted)


def conversion(sample: Mapping[str, Any]) -> tuple[str, Any]:
    """What a sample is, and what it becomes on the other side."""
    if "messages" in sample:
        return "a chat completion's request, as Flowise gets it", _predictions(parse_chat(sample))
    if "prompt" in sample:
        return "a completion's request, as Flowise gets it", _predictions(parse_completion(sample))
    if "input" in sample:
        return "a response's request, as Flowise gets it", _predictions(parse_response(sample))
    transcript = Transcript(str(sample.get("chatId", "")))
    for event in answer_events(sample):
        transcript.add(event)
    request = ParsedRequest("sample-flow", (Turn("sample-flow", str(sample.get("question", ""))),))
    return "Flowise's answer, as a chat completion", ChatRenderer(request, count_tokens=count_tokens).body(
        [transcript]
    )


def _predictions(request: ParsedRequest) -> list[dict[str, Any]]:
    turns = ruled(request, "prompt").turns
    return [{"flow": turn.flow, "body": prediction_body(turn)} for turn in turns]


def _print(title: str, converted: Any) -> None:
    text = orjson.dumps(converted, option=orjson.OPT_INDENT_2).decode()
    sys.stdout.write(f"{title}\n{text}\n\n")
