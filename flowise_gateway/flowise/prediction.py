"""Converts a turn to the body of Flowise's prediction request."""

from __future__ import annotations

from typing import Any

import orjson

from flowise_gateway.flow.cooperative import LONG_TEXT, slices, yield_before, yield_between
from flowise_gateway.flow.turn import Turn


def prediction_body(turn: Turn) -> dict[str, Any]:
    """Flowise's request for a turn, with the system text marked before the question."""
    body: dict[str, Any] = {
        "question": question_with_instructions(turn),
        "chatId": turn.chat_id,
        **turn.extra,
    }
    if turn.human_input or turn.extra.get("form"):
        del body["question"]  # Flowise accepts only one of the two
    if turn.stream:
        body["streaming"] = True
    if turn.history:
        body["history"] = [{"role": m.role, "content": m.content} for m in turn.history]
    if turn.uploads:
        body["uploads"] = [
            {"type": u.type, "name": u.name, "mime": u.mime, "data": u.data} for u in turn.uploads
        ]
    overrides = dict(turn.overrides)
    if turn.session_id:
        overrides["sessionId"] = turn.session_id
    if overrides:
        body["overrideConfig"] = overrides
    if turn.human_input:
        body["humanInput"] = dict(turn.human_input)
    return body


def prediction_json(turn: Turn) -> bytes:
    """The same as JSON; long strings are serialized in slices."""
    body = prediction_body(turn)
    for name in ("question", "overrideConfig"):
        if name in body:
            body[name] = _in_slices(body[name])
    for part in yield_between((*body.get("history", ()), *body.get("uploads", ()))):
        for name in ("content", "data"):
            if len(part.get(name, "")) > LONG_TEXT:
                part[name] = _in_slices(part[name])
    yield_before(len(turn.question))
    return orjson.dumps(body)


def _in_slices(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _in_slices(part) for name, part in value.items()}
    if not isinstance(value, str) or len(value) <= LONG_TEXT:
        return value
    return orjson.Fragment(b'"%b"' % b"".join(orjson.dumps(part)[1:-1] for part in slices(value)))


def question_with_instructions(turn: Turn) -> str:
    """The question, preceded by the system text if there is one, since Flowise has no role for it."""
    if not turn.system_text:
        return turn.question
    return f"[System instructions]\n{turn.system_text}\n[End of system instructions]\n\n{turn.question}"
