"""Warnings that repeat are written once, then counted."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from io import StringIO

import pytest

from flowise_gateway.telemetry.log import JsonFormatter
from flowise_gateway.telemetry.repeats import MAX_REMEMBERED, WINDOW_SECONDS, Repeats


class Stage:
    """A logger of its own with the filter, a clock that stands, and what was written."""

    def __init__(self, name: str = "gunicorn") -> None:
        self.now = 100.0
        self.repeats = Repeats(lambda: self.now)
        self.stream = StringIO()
        self.log = logging.getLogger(name)
        self.handler = logging.StreamHandler(self.stream)
        self.handler.setFormatter(JsonFormatter())
        self.handler.addFilter(self.repeats)
        self.log.addHandler(self.handler)
        self.log.propagate = False

    def written(self) -> list[tuple[str, int]]:
        """The messages since the last call, each with how often it is said to have come again."""
        found = [json.loads(line) for line in self.stream.getvalue().splitlines()]
        self.stream.truncate(0)
        self.stream.seek(0)
        return [(line["message"], line.get("repeated", 0)) for line in found]


@pytest.fixture
def stage() -> Iterator[Stage]:
    """One, taken down again."""
    made = Stage()
    yield made
    made.log.removeHandler(made.handler)
    made.log.propagate = True


def test_the_first_is_written_the_others_are_counted(stage: Stage) -> None:
    for _ in range(100):
        stage.log.error("the store is away")
    stage.repeats.flush()
    assert stage.written() == [("the store is away", 0)]
    stage.now += WINDOW_SECONDS
    stage.repeats.flush()
    assert stage.written() == [("the store is away", 99)]
    stage.log.error("the store is away")
    assert stage.written() == []
    stage.now += WINDOW_SECONDS
    stage.repeats.flush()
    assert stage.written() == [("the store is away", 1)]
    stage.now += WINDOW_SECONDS
    stage.repeats.flush()
    stage.log.error("the store is away")
    assert stage.written() == [("the store is away", 0)], "it is news again"
    assert stage.repeats.counts["gunicorn", "error"] == 102


def test_what_differs_is_written(stage: Stage) -> None:
    stage.log.warning("%s is away", "a")
    stage.log.warning("%s is away", "b")
    for kind in (ValueError, KeyError):
        try:
            raise kind
        except kind:
            stage.log.exception("it failed")
    assert [message for message, _ in stage.written()] == ["a is away", "b is away", "it failed", "it failed"]


def test_what_is_no_warning_is_written_each_time(stage: Stage) -> None:
    stage.log.setLevel(logging.INFO)
    for _ in range(3):
        stage.log.info("request")
    assert stage.written() == [("request", 0)] * 3
    assert not any(stage.repeats.counts.values())


def test_a_repeated_failure_has_its_traceback_once(stage: Stage) -> None:
    for _ in range(2):
        try:
            raise ZeroDivisionError
        except ZeroDivisionError:
            stage.log.exception("it failed")
    stage.now += WINDOW_SECONDS
    stage.repeats.flush()
    assert stage.stream.getvalue().count("Traceback") == 1


def test_only_so_many_messages_are_remembered(stage: Stage) -> None:
    for number in range(MAX_REMEMBERED + 10):
        stage.log.warning("number %s", number)
        stage.log.warning("number %s", number)
    assert len(stage.written()) == MAX_REMEMBERED + 20
    stage.now += WINDOW_SECONDS
    stage.repeats.flush()
    assert len(stage.written()) == MAX_REMEMBERED
    stage.now += WINDOW_SECONDS
    stage.repeats.flush()
    stage.log.warning("number %s", MAX_REMEMBERED + 5)
    stage.log.warning("number %s", MAX_REMEMBERED + 5)
    assert len(stage.written()) == 1


@pytest.mark.parametrize(
    ("logger", "source"),
    [
        ("gunicorn", "gunicorn"),
        ("flowise_gateway.web.services", "store"),
        ("flowise_gateway.storage.sqlite_store", "store"),
        ("flowise_gateway.serving.stray_errors", "greenlet"),
        ("flowise_gateway.web.hooks", "gateway"),
    ],
)
def test_messages_are_counted_by_where_they_come_from(logger: str, source: str) -> None:
    repeats = Repeats()
    for level in (logging.WARNING, logging.ERROR, logging.CRITICAL):
        repeats.filter(logging.LogRecord(logger, level, "file.py", 1, "m", (), None))
    assert (repeats.counts[source, "warning"], repeats.counts[source, "error"]) == (1, 2)
    assert sum(repeats.counts.values()) == 3
