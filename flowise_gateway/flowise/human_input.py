"""Human in the loop: recognizes a person's decision about a stopped run, and passes it to Flowise.

Agentflows v2 expect `humanInput`; sequential agents the `action` they sent, with the answer as question
(docs/reference/flowise.md, Decisions).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Literal, NamedTuple

from flowise_gateway.flow.events import HumanInputRequested
from flowise_gateway.flow.turn import Turn

MAX_LABEL_CHARACTERS = 200
"""Choices with longer labels are not recognized in an answer, since nobody types them."""

_before = re.compile(r"\s*[\"'*]*").match
_behind_reject = re.compile(r"[\"'*]*(?:[\s,;:.!–—-]+|\Z)").match
_behind = re.compile(r"[\"'*]*(?:\s*[,;:.!–—-]+\s*|\s*\Z)").match
_YES = ("approve", "approved", "yes", "y", "ok", "okay", "proceed", "confirm", "accept", "go ahead")
_NO = ("reject", "rejected", "no", "n", "deny", "decline", "cancel", "stop")


class Decision(NamedTuple):
    """A person's decision, and the text that came with it."""

    type: Literal["proceed", "reject"]
    feedback: str = ""


def decision(text: str, asked: HumanInputRequested) -> Decision | None:
    """The decision in a user's message; None if the message does not answer the question.

    The first label of the question means proceed, the second one reject.
    """
    labels = [label.lower() if len(label) <= MAX_LABEL_CHARACTERS else "" for label in asked.choices[:2]]
    # A rejection often includes its reason; "yes" followed by more text may mean anything.
    found = _after(text, ("reject", *labels[1:]), _behind_reject)
    if found is None:
        found = _after(text, _NO, _behind)
    if found is not None:
        return Decision("reject", found)
    found = _after(text, (*_YES, *labels[:1]), _behind)
    return None if found is None else Decision("proceed", found)


def _after(
    text: str, words: tuple[str, ...], behind: Callable[[str, int], re.Match[str] | None]
) -> str | None:
    """The rest of the text after one of the words at its beginning; None if there is none."""
    before = _before(text)
    at = before.end() if before else 0
    for word in sorted(filter(None, words), key=len, reverse=True):
        end = at + len(word)
        if text[at:end].lower() == word and (found := behind(text, end)):
            return text[found.end() :].strip()
    return None


def resume_turn(turn: Turn, made: Decision, asked: HumanInputRequested) -> Turn:
    """The turn that sends a decision to Flowise; the run already has the system text and history."""
    resumed = replace(turn, history=(), instructions="", rules="", uploads=())
    action = asked.action
    kinds = [str(e.get("type")) for e in action.get("elements") or () if isinstance(e, dict)]
    if not any(kind.startswith("agentflowv2") for kind in kinds) and action.get("mapping"):
        answer = _mapped(action["mapping"], "approve" if made.type == "proceed" else "reject", made.type)
        return replace(resumed, question=answer, extra={**turn.extra, "action": dict(action)})
    human: dict[str, Any] = {"type": made.type}
    data = action.get("data")
    if isinstance(data, dict) and isinstance(data.get("nodeId"), str):
        human["startNodeId"] = data["nodeId"]
    if made.feedback:
        human["feedback"] = made.feedback
    return replace(resumed, question="", human_input=human)


def _mapped(mapping: Any, name: str, otherwise: str) -> str:
    value = mapping.get(name) if isinstance(mapping, Mapping) else None
    return value if isinstance(value, str) and value else otherwise
