"""The table of the chaos suite, on the terminal and in docs/reliability.md."""

from __future__ import annotations

import datetime
import os
import platform
from collections.abc import Sequence
from importlib.metadata import version

from tests.chaos.world import Row

_PACKAGES = ("gunicorn", "gevent", "geventhttpclient", "flask")


def line(row: Row) -> str:
    """One row for the terminal."""
    wrong = f"  WRONG: {'; '.join(row.wrong)}" if row.wrong else ""
    return f"{_outcome(row):6} {row.promise} | {row.scale} | {row.figure} | target: {row.target}{wrong}"


def page(rows: Sequence[Row], *, is_short: bool) -> str:
    """The document; it is written by `make chaos` and by nothing else."""
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    versions = ", ".join(f"{name} {version(name)}" for name in _PACKAGES)
    return "\n".join(
        [
            "# Reliability, measured",
            "",
            "Written by `make chaos` (`tests/chaos/`); do not edit. Each row is a scenario on the server as it is",
            "started by users, in front of a Flowise that misbehaves by script and counts its runs. *met* and",
            "*missed* compare a figure with its target; **WRONG** (answers lost or faked, flows run twice or left",
            "behind) fails the command. Times are of a shared machine and say what was seen, not what is promised.",
            "",
            f"{today}; {'short scale' if is_short else 'full scale'}; Python {platform.python_version()}, {versions};",
            f"{os.cpu_count()} cores, shared with the clients, the Flowise and other work"
            f" (load {os.getloadavg()[1]:.1f}).",
            "",
            "| promise | scale | seen | target | |",
            "|---|---|---|---|---|",
            *(_row(row) for row in rows),
            "",
        ]
    )


def _row(row: Row) -> str:
    outcome = f"**WRONG**: {'; '.join(row.wrong)}" if row.wrong else _outcome(row)
    cells = (row.promise, row.scale, row.figure, row.target, outcome)
    return f"| {' | '.join(cell.replace('|', '/').replace(chr(10), ' ') for cell in cells)} |"


def _outcome(row: Row) -> str:
    return "WRONG" if row.wrong else "met" if row.is_met else "missed"
