"""The readable text of a run: the answer, the reasoning, the steps."""

from __future__ import annotations

from typing import Any

from flowise_gateway.flow.events import (
    ArtifactMade,
    FlowEvent,
    FlowToolCalled,
    HumanInputRequested,
    ReasoningDelta,
    StepStarted,
    TextDelta,
    ToolUsed,
)
from flowise_gateway.flow.lenient_json import json_text
from flowise_gateway.flow.transcript import Transcript
from flowise_gateway.openai.artifacts import artifact_text


def reasoning_text(event: FlowEvent, *, steps: bool = True, before: str = "") -> str:
    """The text that an event adds to the reasoning: reasoning unchanged, each step as one readable line.

    `before` is the text added last: a step always starts a new line.
    """
    if isinstance(event, ReasoningDelta):
        return event.text
    line = _step_line(event) if steps else ""
    return f"\n{line}" if line and before and not before.endswith("\n") else line


def _step_line(event: FlowEvent) -> str:
    if isinstance(event, StepStarted):
        return f"▸ {_one_line(event.label)}\n" if event.label else ""
    if isinstance(event, FlowToolCalled):
        return f"▸ {_one_line(event.tool)}: {_one_line(event.tool_input)}\n"
    if isinstance(event, ToolUsed):
        outcome = f"failed: {_one_line(event.error)}" if event.error else _one_line(event.tool_output)
        return f"▸ {_one_line(event.tool)} → {outcome}\n"
    return ""


DECISION = "(Waiting for your decision: "
"""The start of the last line of an approval request; the choices and a reference follow."""


def answer_text(event: FlowEvent, *, is_first: bool = False) -> str:
    """The text that an event adds to the answer: text unchanged, other events as a paragraph."""
    if isinstance(event, TextDelta):
        return event.text
    paragraph = ""
    if isinstance(event, HumanInputRequested) and event.choices:
        reference = f" · {event.reference}" if event.reference else ""
        paragraph = f"\n\n{DECISION}{' / '.join(event.choices)}{reference})"
    elif isinstance(event, ArtifactMade):
        paragraph = artifact_text(event)
    return paragraph.removeprefix("\n\n") if is_first else paragraph


def without_decision(text: str) -> str:
    """An answer without the approval request at its end."""
    return text.rpartition(DECISION)[0].rstrip()


def whole_text(transcript: Transcript) -> str:
    """The whole text of the answer, equal to the concatenated text of its stream."""
    texts = [text] if (text := transcript.text) else []
    actions: list[FlowEvent] = [transcript.action] if transcript.action else []
    for event in [*actions, *transcript.artifacts]:
        if more := answer_text(event, is_first=not texts):
            texts.append(more)
    return "".join(texts)


def whole_reasoning(transcript: Transcript, *, steps: bool = True) -> str:
    texts: list[str] = []
    for event in transcript.trail:
        if text := reasoning_text(event, steps=steps, before=texts[-1] if texts else ""):
            texts.append(text)
    return "".join(texts)


def _one_line(value: Any, limit: int = 300) -> str:
    text = " ".join(json_text(value).split())
    return text if len(text) <= limit else text[:limit] + "…"
