"""What Flowise loses in queue mode, how that is noticed, and what is missing.

In queue mode (`MODE=queue`) a worker runs the flow. Its events come through Redis one way and the run's
result another, so the stream may get its `metadata` and `end` first: all later events are lost, and nothing
in the stream says so. Flowise keeps the whole answer beside the conversation.
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
    """Whether a Flowise runs in queue mode, as all calls to it know together; greenlets need no lock."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Know nothing; `is_set` is what `proxy.yaml` says."""
        self._clock = clock
        self._doubts = float(MAX_DOUBTS)
        self._doubted_at = clock()
        self.is_set = False
        self._is_found = False

    @property
    def is_on(self) -> bool:
        """Whether answers are known to be lost in part."""
        return self.is_set or self._is_found

    def find(self) -> None:
        """Note that a part of an answer was lost."""
        if not self.is_on:
            log.warning(
                "Flowise runs in queue mode and has lost a part of a stream: from now on answers are "
                "compared with what it has stored. With flowise_mode: queue in proxy.yaml all are."
            )
        self._is_found = True

    def may_doubt(self) -> bool:
        """Whether one more answer may be compared with the stored one although the mode is not known.

        Some at first, then one in a while: where nothing is lost, few answers cost a second request.
        """
        now = self._clock()
        self._doubts = min(MAX_DOUBTS, self._doubts + (now - self._doubted_at) / DOUBT_SECONDS)
        self._doubted_at = now
        may = self._doubts >= 1
        self._doubts -= may
        return may


class AnswerText:
    """The text of a run so far, to compare it with the stored answer.

    Flowise stores the text of the last step alone, so it is also known where that step begins.
    """

    def __init__(self) -> None:
        """Begin with nothing."""
        self._texts: list[str] = []
        self._last = 0

    def add(self, text: str) -> None:
        """Take one more piece of text."""
        self._texts.append(text)

    def start_step(self) -> None:
        """Note that the text that follows belongs to another step."""
        self._last = len(self._texts)

    def rest_of(self, stored: str) -> str | None:
        """What is missing of the stored text, None if the text so far is not its beginning."""
        if not stored.strip():
            return ""
        text, last = "".join(self._texts), "".join(self._texts[self._last :])
        for part in (text, last) if last else (text,):
            rest = _rest(part, stored)
            if rest is not None:
                return rest
        if len(text) >= len(stored) and text.rstrip().endswith(stored.rstrip()[-_TAIL:]):
            return ""  # text before a tool call is not stored, nor what the flow cuts out of its answer
        return None if last else stored


def stored_text(row: Mapping[str, Any]) -> str | None:
    """The answer in a stored message, None where there is none."""
    content = row.get("content")
    if not isinstance(content, str):
        return None
    # A chatflow's answer without text is stored as all that the flow returned, in JSON.
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
