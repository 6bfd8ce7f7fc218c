"""The usage report: the counters of the store by day, key, user and model, as JSON or CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson

from flowise_gateway.flow.cooperative import yield_between
from flowise_gateway.flow.errors import BadRequest
from flowise_gateway.telemetry.usage import FIGURES

DIMENSIONS = ("day", "key", "user", "model")
_PREFIX = '["usage",'
_DEFAULT_DAYS = 30
_MAX_DAYS = 3660

Row = dict[str, str | int]


class UsageReport:
    """A report for a range of days, grouped by dimensions; `columns` are those of its rows."""

    def __init__(self, asked: Mapping[str, str], now: float) -> None:
        """Parse `from`, `to` (default: the last thirty days) and `by` (default: `day`). Raises BadRequest."""
        today = datetime.fromtimestamp(now, UTC).date()
        last = _day("to", asked["to"]) if asked.get("to") else today.isoformat()
        first = _day("from", asked["from"]) if asked.get("from") else _thirty_days_before(last)
        self.first, self.last = first, last
        days = (datetime.fromisoformat(self.last) - datetime.fromisoformat(self.first)).days
        if not 0 <= days <= _MAX_DAYS:
            raise _invalid("from", f"it must be a day before 'to', at most {_MAX_DAYS} days")
        by = {name.strip() for name in asked.get("by", "").split(",") if name.strip()} or {"day"}
        if not by <= set(DIMENSIONS):
            raise _invalid("by", f"it may name {', '.join(DIMENSIONS)}, comma-separated")
        self.by = tuple(name for name in DIMENSIONS if name in by)
        self.columns = (*self.by, *FIGURES)

    def rows(self, numbers: Iterable[tuple[str, str, int]], user: str = "") -> list[Row]:
        """The sorted sums for these days, optionally only for one user's hash."""
        sums: dict[tuple[str, ...], list[int]] = {}
        for dimensions, figure, value in _parsed(yield_between(numbers)):
            if user in ("", dimensions["user"]):
                place = tuple(dimensions[name] for name in self.by)
                sums.setdefault(place, [0] * len(FIGURES))[FIGURES.index(figure)] += value
        ordered = sorted(sums.items())
        return [dict(zip(self.columns, (*place, *figures), strict=True)) for place, figures in ordered]

    def body(self, rows: Sequence[Row]) -> dict[str, Any]:
        """The report as JSON."""
        return {"object": "list", "from": self.first, "to": self.last, "by": self.by, "data": rows}

    def csv(self, rows: Sequence[Row]) -> str:
        """The report as CSV with a header."""
        text = io.StringIO()
        writer = csv.DictWriter(text, self.columns)
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue()


def _parsed(numbers: Iterable[tuple[str, str, int]]) -> Iterator[tuple[dict[str, str], str, int]]:
    for day, name, value in numbers:
        if name.startswith(_PREFIX):
            _, *dimensions, figure = orjson.loads(name)
            yield dict(zip(DIMENSIONS, (day, *dimensions), strict=True)), figure, value


def _day(name: str, text: str) -> str:
    try:
        day = datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC).date().isoformat()
    except ValueError:
        day = ""
    if day != text:
        raise _invalid(name, "it must be a day such as 2026-11-28")
    return day


def _thirty_days_before(last: str) -> str:
    try:
        return (datetime.fromisoformat(last) - timedelta(days=_DEFAULT_DAYS - 1)).date().isoformat()
    except OverflowError:  # before the first representable day
        raise _invalid("to", "it must be a day such as 2026-11-28") from None


def _invalid(name: str, what: str) -> BadRequest:
    return BadRequest(f"Invalid '{name}': {what}.", param=name, code="invalid_value")
