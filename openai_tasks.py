"""Requests that chat UIs make for themselves: titles, tags, follow-up questions. Wire layer, pure.

Their prompts are their mark: LibreChat's as recorded in `tests/wire/librechat`, Open WebUI's begin with
`### Task:` and carry the chat between tags (its `config.py`, prompt templates).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from flow_turn import Turn

_TASKS = re.compile(
    r"\A(?:"
    r"Provide a concise, 5-word-or-less title for the conversation\b"
    r"|Analyze this conversation and provide:\s+1\. The detected language\b"
    r"|### Task:\s.*?<chat_history>"
    r")",
    re.DOTALL,
)


def is_task(turns: Sequence[Turn]) -> bool:
    """Whether a request is a chat UI's own: one user message that is one of their prompts."""
    turn = turns[0]
    return not turn.history and not turn.instructions and _TASKS.match(turn.question[:20_000]) is not None
