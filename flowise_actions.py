"""A person's decision about a stopped run: which words decide it, and how Flowise is told. Upstream, pure.

Agentflows v2 take `humanInput`, sequential agents the `action` they sent with the answer's text as question
(flowise-api.md §1.2).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal, NamedTuple

from flow_turn import ActionAsked, Turn

_YES = ("approve", "approved", "yes", "y", "ok", "okay", "proceed", "confirm", "accept", "go ahead")
_NO = ("reject", "rejected", "no", "n", "deny", "decline", "cancel", "stop")


class Decision(NamedTuple):
    """What a person decided, and what else was said."""

    type: Literal["proceed", "reject"]
    feedback: str = ""


def decision(text: str, asked: ActionAsked) -> Decision | None:
    """The decision in a person's answer; None if it is no answer to the question.

    The first label of the question means to proceed, the second to reject.
    """
    labels = [label.lower() for label in asked.choices]
    # Whoever rejects often says why in the same sentence; whoever says yes and more may mean anything.
    found = _after(text, ("reject", *labels[1:2]), r"(?:[\s,;:.!–—-]+|\Z)")
    if found is None:
        found = _after(text, _NO, r"(?:\s*[,;:.!–—-]+\s*|\s*\Z)")
    if found is not None:
        return Decision("reject", found)
    found = _after(text, (*_YES, *labels[:1]), r"(?:\s*[,;:.!–—-]+\s*|\s*\Z)")
    return None if found is None else Decision("proceed", found)


def _after(text: str, words: tuple[str, ...], end: str) -> str | None:
    """What follows one of the words at the beginning of the text."""
    longest_first = sorted(filter(None, words), key=len, reverse=True)
    pattern = rf"\s*[\"'*]*(?:{'|'.join(map(re.escape, longest_first))})[\"'*]*{end}"
    begun = re.match(pattern, text, re.IGNORECASE)
    return text[begun.end() :].strip() if begun else None


def decided(turn: Turn, made: Decision, asked: ActionAsked) -> Turn:
    """The turn that tells Flowise of a decision; the run has the system text and earlier turns already."""
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
