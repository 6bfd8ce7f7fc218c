"""Detects events that Flowise loses in queue mode, and finds the missing part.

In queue mode (`MODE=queue`) a worker runs the flow. Its events and its result take different paths through
Redis, so `metadata` and `end` may overtake other events. These are then lost, and nothing in the stream says
so. Flowise stores the complete answer with the conversation.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

import orjson

log = logging.getLogger(__name__)

MAX_DOUBTS = 100
DOUBT_SECONDS = 10.0
"""How many answers are compared at first, and how often one is later, while the mode is not known."""

_TAIL = 64


class QueueMode:
    """Whether a Flowise runs in queue mode; shared by all calls to it. Greenlets need no lock."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Start with an unknown mode; `is_set` is the setting in `proxy.yaml`."""
        self._clock = clock
        self._doubts = float(MAX_DOUBTS)
        self._doubted_at = clock()
        self.is_set = False
        self._is_found = False

    @property
    def is_on(self) -> bool:
        """Whether Flowise is known to run in queue mode."""
        return self.is_set or self._is_found

    def find(self) -> None:
        """Record that part of an answer was lost."""
        if not self.is_on:
            log.warning(
                "Flowise runs in queue mode and lost part of a stream: from now on, answers are compared "
                "with its stored messages. Set flowise_mode: queue in proxy.yaml to compare all of them."
            )
        self._is_found = True

    def may_doubt(self) -> bool:
        """Whether another answer may be compared with the stored one while the mode is unknown.

        Some at first, then one now and then, so that few answers cost a second request.
        """
        now = self._clock()
        self._doubts = min(MAX_DOUBTS, self._doubts + (now - self._doubted_at) / DOUBT_SECONDS)
        self._doubted_at = now
        may = self._doubts >= 1
        self._doubts -= may
        return may


class AnswerText:
    """The text of a run so far, to compare it with the stored answer.

    Flowise stores only the text of the last step, so the start of that step is recorded.
    """

    def __init__(self) -> None:
        """Start with an empty text."""
        self._texts: list[str] = []
        self._last = 0

    def add(self, text: str) -> None:
        """Add text."""
        self._texts.append(text)

    def start_step(self) -> None:
        """Record that the following text belongs to another step."""
        self._last = len(self._texts)

    def rest_of(self, stored: str) -> str | None:
        """The missing end of the stored text; None if the text so far is not its beginning."""
        if not stored.strip():
            return ""
        text, last = "".join(self._texts), "".join(self._texts[self._last :])
        for part in (text, last) if last else (text,):
            rest = _rest(part, stored)
            if rest is not None:
                return rest
        if len(text) >= len(stored) and text.rstrip().endswith(stored.rstrip()[-_TAIL:]):
            return ""  # text before a tool call is not stored, nor text that the flow removes from its answer
        return None if last else stored


def stored_text(row: Mapping[str, Any]) -> str | None:
    """The answer in a stored message; None if there is none."""
    content = row.get("content")
    if not isinstance(content, str):
        return None
    # A chatflow's answer without text is stored as JSON of everything that the flow returned.
    return "" if content.startswith("{") and _is_without_text(content) else content


def _is_without_text(content: str) -> bool:
    try:
        answer = orjson.loads(content)
    except orjson.JSONDecodeError:
        return False
    return isinstance(answer, dict) and answer.get("text") == ""


def _rest(part: str, stored: str) -> str | None:
    part, stored = part.lstrip(), stored.lstrip()
    if stored.startswith(part):
        return stored[len(part) :]
    return "" if part.rstrip() == stored.rstrip() else None
