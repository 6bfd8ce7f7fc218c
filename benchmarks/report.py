"""What a benchmark run measured, as a document with its targets and as a chart."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

_PACKAGES = ("flask", "gunicorn", "gevent", "geventhttpclient", "requests")
_COLOURS = {"nginx": "#8b949e", "ours": "#1f883d", "textbook": "#bc4c00"}
_WIDTH, _LEFT, _BAR, _GAP = 720, 150, 16, 26

_TEXT = """# Performance

`make bench` generates this page and its chart on the machine it runs on; do not edit them. The gateway runs
with one worker and default settings: conversations in SQLite, metrics, one log line per request. CPU is
user plus system time of all processes of a server. The rounds of the contenders are interleaved, and the
medians are reported. Ratios within one run are meaningful; absolute figures of a busy machine are not.

- **nginx** forwards Flowise's own responses unread, as the lower bound.
- **textbook** (`benchmarks/textbook.py`) is Flask, `requests` and `json` with the same gunicorn and gevent.
  It has no conversations, limits or metrics, and does not report errors to clients.

![CPU of nginx, ours and the textbook](performance.svg)
"""
_MEASURED = """
Workloads: JSON answers of 480 bytes over 32 connections; 40 streams of 100 tokens, 10 ms apart (including a
token's share of the stream's setup); 8 streams of 2,000 tokens written at once; one JSON request at a time
over one connection; streams with a token every 2 s, with 200 requests to `/health` in parallel.

About a third of the time of a JSON request is spent in gunicorn and Flask, a tenth on the conversation's
two records in SQLite, the rest on the translation, in many small steps. A paced token mostly costs kernel
time: a read, a write and a wake-up.
"""


@dataclass(frozen=True)
class Goal:
    """A figure with the most it should be."""

    name: str
    figure: float
    most: float
    unit: str = ""

    def row(self) -> str:
        """A row of the table of goals."""
        outcome = "met" if self.figure <= self.most else "**missed**"
        return f"| {self.name} | {self.figure:.2f}{self.unit} | {self.most:g}{self.unit} | {outcome} |"


def page(table: Sequence[str], goals: Sequence[Goal], held: str) -> str:
    """The document."""
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    lines = [
        _TEXT,
        f"{today}; {versions()};",
        f"{os.cpu_count()} cores, shared with the clients and the Flowise that is asked.",
        "",
        *table,
        "",
        f"{held}.",
        "",
        "| goal | seen | at most | |",
        "|---|---|---|---|",
        *(goal.row() for goal in goals),
        _MEASURED,
    ]
    return "\n".join(lines)


def versions() -> str:
    """What was measured with."""
    packages = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in _PACKAGES)
    return f"Python {platform.python_version()}, {packages}, {_nginx()}"


def _nginx() -> str:
    try:
        asked = subprocess.run(["nginx", "-v"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "no nginx"
    return (
        asked.stderr.strip().partition("nginx/")[2] and f"nginx {asked.stderr.strip().partition('nginx/')[2]}"
    )


def chart(figures: Mapping[str, Mapping[str, float]]) -> str:
    """A bar for each contender in each scenario, `figures[scenario][contender]` in µs; SVG."""
    height = 40 + sum(_BAR * len(bars) + _GAP + 8 for bars in figures.values())
    parts = "\n".join(_bars(figures))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" '
        f'viewBox="0 0 {_WIDTH} {height}" role="img" font-family="sans-serif" font-size="12" '
        'fill="#6e7781">\n'
        f'<title>CPU per request and token</title>\n<text x="0" y="16" font-size="14">CPU of one worker, µs: '
        f"shorter is better</text>\n{parts}\n</svg>\n"
    )


def _bars(figures: Mapping[str, Mapping[str, float]]) -> Iterator[str]:
    top = 40
    for scenario, bars in figures.items():
        yield f'<text x="0" y="{top}" font-weight="bold">{escape(scenario)}</text>'
        longest = max(bars.values())
        for name, figure in bars.items():
            top += _BAR + 2
            width = max(1.0, figure / longest * (_WIDTH - _LEFT - 90))
            colour = _COLOURS.get(name, "#0969da")
            yield f'<text x="{_LEFT - 8}" y="{top}" text-anchor="end">{escape(name)}</text>'
            place = f'x="{_LEFT}" y="{top - 11}" width="{width:.1f}" height="{_BAR - 3}"'
            yield f'<rect {place} fill="{colour}"/>'
            yield f'<text x="{_LEFT + width + 6:.1f}" y="{top}">{figure:,.1f}</text>'
        top += _GAP
