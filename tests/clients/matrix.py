"""The table of clients and features: what a client declares, and the cells that a run finds."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

DEMO, FLOWISE = "demo", "flowise"
RESULTS: Mapping[str, Path] = {
    DEMO: Path(__file__).with_name("results.json"),
    FLOWISE: Path(__file__).with_name("flowise_results.json"),
}
"""What is on record, of clients before the demo Flowise and before a real one."""
WORKS, UNSTREAMED, MISSING, FAILS = "works", "works unstreamed", "not offered", "fails"
OF_THE_MACHINE = "the machine's"

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

CALLS: Mapping[str, str] = {
    "models": "Models",
    "stored": "Stored responses",
    "background": "Background responses",
    "resumed": "Resumed streams",
    "cancelled": "Cancel",
    "counted": "Token counts, compaction",
    "parsed": "Parsed objects",
    "raw": "Raw responses",
    "azure": "Azure's addresses of Responses",
    "asynchronous": "Asynchronous client",
    "tool runner": "Tool runner",
    "unserved": "APIs that the gateway does not have",
}
"""The further calls of OpenAI's own clients, a surface of their own; `calls.py` says what is looked at."""
CALLS_SURFACE = "calls"

Missing = Mapping[str | tuple[str, str], str]


@dataclass(frozen=True, slots=True)
class Client:
    """One client as its test file declares it."""

    name: str
    package: str
    """The package whose version is recorded; empty: a program that the machine has."""
    folder: str
    """The folder beside this file that has its script and its pinned packages."""
    surfaces: tuple[str, ...] = ("chat",)
    missing: Missing = field(default_factory=dict)
    """Why it does not offer a feature at all, or on one of its surfaces: (surface, feature)."""
    unstreamed: Missing = field(default_factory=dict)
    """Why it offers a feature in one piece only."""
    notes: Missing = field(default_factory=dict)
    """What a reader has to know of a feature that it offers."""
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

    has_calls: bool = False
    """Whether it is one of OpenAI's own, with further calls."""
    meets_flowise: bool = False
    """Whether it is tried before a real Flowise as well."""

    def cells(self, upstream: str = DEMO) -> list[Cell]:
        """All its cells of the table of this upstream."""
        cells = [Cell(self, surface, feature, upstream) for surface in self.surfaces for feature in FEATURES]
        calls = CALLS if self.has_calls else ()
        return cells + [Cell(self, CALLS_SURFACE, call, upstream) for call in calls]

    def source(self) -> Path:
        """Its script."""
        folder = Path(__file__).parent / self.folder
        names = [self.script] if self.script else ["ask.py", "ask.mjs"]
        return next(path for name in names if (path := folder / name).exists())


@dataclass(frozen=True, slots=True)
class Cell:
    """One feature of one surface of a client."""

    client: Client
    surface: str
    feature: str
    upstream: str = DEMO

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

    @property
    def works(self) -> str:
        """The outcome on record when the cell passes."""
        if self.unstreamed is not None:
            return f"{UNSTREAMED}: {self.unstreamed}"
        note = self._declared(self.client.notes)
        return f"{WORKS}: {note}" if note else WORKS

    def _declared(self, reasons: Missing) -> str | None:
        return reasons.get((self.surface, self.feature)) or reasons.get(self.feature)


Check = Callable[[Cell], None]
"""Looks at one cell; the fixture `check`."""

Results = dict[str, dict[str, Any]]
"""By client: its package, versions, the date of the run, and by surface and feature what was found."""
VERSIONS = ("version", "flowise")
"""The versions of the client and of a real Flowise: what was found with another one counts no more."""


def read_results(upstream: str = DEMO) -> Results:
    """What the last recorded run found."""
    path = RESULTS[upstream]
    return dict(json.loads(path.read_text())) if path.exists() else {}


def write_results(results: Results, upstream: str) -> None:
    """Record these for the page."""
    ordered = {name: results[name] for name in sorted(results, key=str.lower)}
    RESULTS[upstream].write_text(json.dumps(ordered, indent=1, ensure_ascii=False) + "\n")


def merged(found: Results, recorded: Results) -> Results:
    """The record after a run, which may have looked at some cells only; those of another version count no more."""
    merged = dict(recorded)
    for name, client in found.items():
        known = recorded.get(name, client)
        surfaces = known["surfaces"] if versions_of(known) == versions_of(client) else {}
        for surface, cells in client["surfaces"].items():
            surfaces = surfaces | {surface: surfaces.get(surface, {}) | cells}
        merged[name] = client | {"surfaces": surfaces}
    return merged


def versions_of(client: Mapping[str, Any]) -> dict[str, str]:
    """The versions that a client's cells were found with."""
    return {name: client[name] for name in VERSIONS if name in client}


def differences(found: Results, recorded: Results) -> Iterator[str]:
    """Where a run found something else than what is recorded, whatever the dates."""
    for name, client in found.items():
        known = recorded.get(name, {"surfaces": {}})
        if versions_of(client) != versions_of(known):
            yield f"{name}: {versions_of(client)}, recorded: {versions_of(known)}"
        for surface, cells in client["surfaces"].items():
            for feature, outcome in cells.items():
                before = known["surfaces"].get(surface, {}).get(feature, "nothing")
                if outcome != before:
                    yield f"{name}, {surface}, {feature}: {outcome}; recorded: {before}"
