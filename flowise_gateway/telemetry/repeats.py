"""Repeated warnings and errors: the first is logged, the others are counted and logged as one line."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

WINDOW_SECONDS = 60.0
"""How long repetitions are only counted."""
MAX_REMEMBERED = 256

SOURCES: Mapping[str, str] = {
    "gunicorn": "gunicorn",
    "flowise_gateway.serving.stray_errors": "greenlet",
    "flowise_gateway.storage": "store",
    "flowise_gateway.web.services": "store",
}
OTHER = "gateway"
LEVELS = ("warning", "error")

_Key = tuple[str, str, type[BaseException] | None]


@dataclass(slots=True)
class _Repeated:
    record: logging.LogRecord
    ends: float
    count: int = 0


class Repeats(logging.Filter):
    """Passes the first of equal records; `flush` logs how often each was repeated.

    Records are equal if logger, message and exception type are. `counts` has all warnings and errors by
    source and level.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Start without records."""
        super().__init__()
        self._clock = clock
        self._seen: dict[_Key, _Repeated] = {}
        sources = {*SOURCES.values(), OTHER}
        self.counts = {(source, level): 0 for source in sorted(sources) for level in LEVELS}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a record is logged now."""
        if record.levelno < logging.WARNING or hasattr(record, "repeated"):
            return True
        level = "error" if record.levelno >= logging.ERROR else "warning"
        kind = record.exc_info[0] if record.exc_info else None
        key = (record.name, record.getMessage(), kind)
        self.counts[_source(record.name), level] += 1
        known, now = self._seen.get(key), self._clock()
        if known is not None and now < known.ends:
            known.record, known.count = record, known.count + 1
            return False
        if known is not None or len(self._seen) < MAX_REMEMBERED:
            self._seen[key] = _Repeated(record, now + WINDOW_SECONDS)
        return True

    def flush(self) -> None:
        """Log the repetitions of windows that have ended, and forget records without any."""
        if not self._seen:
            return
        now = self._clock()
        for key, one in list(self._seen.items()):
            if one.ends > now:
                continue
            if not one.count:
                del self._seen[key]
                continue
            self._seen[key] = _Repeated(one.record, now + WINDOW_SECONDS)
            self._write(one.record, one.count)

    @staticmethod
    def _write(record: logging.LogRecord, count: int) -> None:
        record.repeated, record.exc_info = count, None
        record.fields = {**getattr(record, "fields", {}), "repeated": count}
        logging.getLogger(record.name).handle(record)


def _source(logger: str) -> str:
    return next((name for prefix, name in SOURCES.items() if logger.startswith(prefix)), OTHER)
