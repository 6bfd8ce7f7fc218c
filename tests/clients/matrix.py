"""The table of clients and features: what a client declares, and the cells that a run finds."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).with_name("results.json")
WORKS, UNSTREAMED, MISSING, FAILS = "works", "works unstreamed", "not offered", "fails"

FEATURES: Mapping[str, str] = {
    "plain": "Plain",
    "stream": "Stream",
    "memory": "Memory",
    "edit": "Edit, regenerate",
    "error": "Error before",
    "midway": "Error midway",
    "stop": "Stop",
    "retry": "Retry",
    "image": "Image",
    "document": "Document",
    "tools": "Tools",
    "structured": "Structured output",
    "usage": "Usage",
    "reasoning": "Reasoning",
    "sources": "Sources",
    "approval": "Human in the loop",
}
"""Each feature with its heading in the table; `checks.py` says what is looked at."""

Missing = Mapping[str | tuple[str, str], str]


@dataclass(frozen=True, slots=True)
class Client:
    """One client as its test file declares it."""

    name: str
    package: str
    folder: str
    """The folder beside this file that has its script and its pinned packages."""
    surfaces: tuple[str, ...] = ("chat",)
    missing: Missing = field(default_factory=dict)
    """Why it does not offer a feature at all, or on one of its surfaces: (surface, feature)."""
    unstreamed: Missing = field(default_factory=dict)
    """Why it offers a feature in one piece only."""
    streams: tuple[bool, ...] = (False, True)
    """Whether it can be asked for whole answers and for streams."""
    own: Mapping[str, Callable[[Any, Cell], None]] = field(default_factory=dict)
    """What is looked at instead, where a feature of it is not that of the others: `(bench, cell)`."""
    user_agent: str = ""
    """What the server knows the client by, where its answers differ for it."""
    script: str = ""
    """The script's name where it is not `ask.py` or `ask.mjs`."""
    is_application: bool = False
    """Whether it is a whole application: its tests are marked `apps`, and `make clients-apps` alone runs them."""

    def cells(self) -> list[Cell]:
        """All its cells of the table."""
        return [Cell(self, surface, feature) for surface in self.surfaces for feature in FEATURES]

    def source(self) -> Path:
        """Its script."""
        folder = RESULTS.parent / self.folder
        names = [self.script] if self.script else ["ask.py", "ask.mjs"]
        return next(path for name in names if (path := folder / name).exists())


@dataclass(frozen=True, slots=True)
class Cell:
    """One feature of one surface of a client."""

    client: Client
    surface: str
    feature: str

    def __str__(self) -> str:
        return f"{self.surface}-{self.feature}"

    @property
    def reason(self) -> str | None:
        """Why the client does not offer it; None: it does."""
        return self._declared(self.client.missing)

    @property
    def streams(self) -> tuple[bool, ...]:
        """The ways of asking that the feature is tried in."""
        return self.client.streams if self.unstreamed is None else (False,)

    @property
    def unstreamed(self) -> str | None:
        """Why the client offers the feature in one piece only."""
        return self._declared(self.client.unstreamed)

    def _declared(self, reasons: Missing) -> str | None:
        return reasons.get((self.surface, self.feature)) or reasons.get(self.feature)


Check = Callable[[Cell], None]
"""Looks at one cell; the fixture `check`."""

Results = dict[str, dict[str, Any]]
"""By client: its package, version, the date of the run, and by surface and feature what was found."""


def read_results() -> Results:
    """What the last recorded run found."""
    return dict(json.loads(RESULTS.read_text())) if RESULTS.exists() else {}


def write_results(results: Results) -> None:
    """Record these for the page."""
    ordered = {name: results[name] for name in sorted(results, key=str.lower)}
    RESULTS.write_text(json.dumps(ordered, indent=1, ensure_ascii=False) + "\n")


def merged(found: Results, recorded: Results) -> Results:
    """The record after a run, which may have looked at some cells only; those of another version count no more."""
    merged = dict(recorded)
    for name, client in found.items():
        known = recorded.get(name, client)
        surfaces = known["surfaces"] if known["version"] == client["version"] else {}
        for surface, cells in client["surfaces"].items():
            surfaces = surfaces | {surface: surfaces.get(surface, {}) | cells}
        merged[name] = client | {"surfaces": surfaces}
    return merged


def differences(found: Results, recorded: Results) -> Iterator[str]:
    """Where a run found something else than what is recorded, whatever the dates."""
    for name, client in found.items():
        known = recorded.get(name, {"version": "none", "surfaces": {}})
        if client["version"] != known["version"]:
            yield f"{name}: version {client['version']}, recorded {known['version']}"
        for surface, cells in client["surfaces"].items():
            for feature, outcome in cells.items():
                before = known["surfaces"].get(surface, {}).get(feature, "nothing")
                if outcome != before:
                    yield f"{name}, {surface}, {feature}: {outcome}; recorded: {before}"
