"""The page on client compatibility, generated from the recorded results."""

from __future__ import annotations

from tests.clients import calls
from tests.clients.checks import CHECKS
from tests.clients.matrix import (
    CALLS,
    CALLS_SURFACE,
    DEMO,
    FAILS,
    FEATURES,
    FLOWISE,
    MISSING,
    UNSTREAMED,
    Results,
    read_results,
)

HEAD = """# Client compatibility

Each client is installed in a pinned version and run against the demo flows through the gateway. The table
is generated from the results (`make clients`, and `make clients-apps` for complete applications), and CI
fails if a result changes. ✓ works, – not offered by the client, ✗ fails; a number refers to the note below.
Every test also counts the runs that reach Flowise: exactly one per user action, even if the client retries.
"""
FLOWISE_HEAD = """The same tests with a real Flowise instead of the demo; its flows are chatflows and agentflows with a scripted
model. Runs are counted between the gateway and Flowise, and images and documents are checked in the requests
that the model gets. "Stop" stops an agentflow and is checked in Flowise's execution and at the model's connection:
Flowise does not abort chatflows with a chain or a tool agent.
"""
OWN_CALLS = """
## Other calls of the OpenAI SDKs

What they offer besides requesting an answer.
"""
SIGNS = {MISSING: "–", FAILS: "✗"}


class _Notes:
    """The numbered notes, each once."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def mark(self, outcome: str) -> str:
        """A cell, with the number of its note."""
        word, _, reason = outcome.partition(": ")
        sign = SIGNS.get(word, "✓")
        if not reason:
            return sign
        text = f"Not streamed: {reason}" if word == UNSTREAMED else reason[:1].upper() + reason[1:]
        if text not in self.texts:
            self.texts.append(text)
        return f"{sign} {self.texts.index(text) + 1}"


def clients_page() -> str:
    """The tables, the notes, what each column tests, and the versions."""
    notes = _Notes()
    demo, flowise = (read_results(upstream) for upstream in (DEMO, FLOWISE))
    tables = "\n".join([*_features(demo, notes), OWN_CALLS, *_calls(demo, notes)])
    versions = [
        "| Client | Package | Version | Run on | With Flowise |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, client in demo.items():
        real = flowise.get(name)
        package = f"`{client['package']}`" if client["package"] else ""
        # The date that the cells were found at, which of the two tables need not be the same.
        beside = f"{real['flowise']}, {real['date']}" if real else ""
        versions.append(f"| {name} | {package} | {client['version']} | {client['date']} | {beside} |")
    tested = [f"- **{title}.** {CHECKS[name].__doc__}" for name, title in FEATURES.items()]
    tested += [f"- **{title}.** {calls.CHECKS[name].__doc__}" for name, title in CALLS.items()]
    releases = " and ".join(sorted({client["flowise"] for client in flowise.values()}))
    sections = {
        f"With Flowise {releases}": [FLOWISE_HEAD, *_features(flowise, notes), "", *_calls(flowise, notes)],
        "Notes": [f"{at}. {text}." for at, text in enumerate(notes.texts, 1)],
        "What is tested": tested,
        "Versions": versions,
    }
    below = "".join(f"\n## {title}\n\n" + "\n".join(lines) + "\n" for title, lines in sections.items())
    return f"{HEAD}\n" + tables + f"\n{below}"


def _features(results: Results, notes: _Notes) -> list[str]:
    rows = [
        f"| Client | API | {' | '.join(FEATURES.values())} |",
        "| --- | --- |" + " :-: |" * len(FEATURES),
    ]
    for name, client in results.items():
        for surface, cells in client["surfaces"].items():
            if surface != CALLS_SURFACE:
                marks = " | ".join(notes.mark(cells[one]) if one in cells else "" for one in FEATURES)
                rows.append(f"| {name} | {surface} | {marks} |")
    return rows


def _calls(results: Results, notes: _Notes) -> list[str]:
    found = {
        name: client["surfaces"][CALLS_SURFACE]
        for name, client in results.items()
        if CALLS_SURFACE in client["surfaces"]
    }
    rows = [f"| Call | {' | '.join(found)} |", "| --- |" + " :-: |" * len(found)]
    for call, title in CALLS.items():
        marks = " | ".join(notes.mark(cells[call]) if call in cells else "" for cells in found.values())
        rows.append(f"| {title} | {marks} |")
    return rows
