"""The page of the clients, made from what is on record."""

from __future__ import annotations

from tests.clients.checks import CHECKS
from tests.clients.matrix import FAILS, FEATURES, MISSING, UNSTREAMED, read_results

HEAD = """# Clients

Each of these is installed in its pinned version and asks the demo flows through the gateway; the table is
what the run found (`make clients`, and `make clients-apps` for whole applications), and CI fails when a run
finds something else. ✓ works, – the client does not offer it, ✗ fails; a number leads to the reason below. In
every cell the runs that reached Flowise are counted: one for each thing that the user did, also where the client
sends a failed request again.
"""
SIGNS = {MISSING: "–", FAILS: "✗"}


def clients_page() -> str:
    """A table of clients and features, the reasons, what is looked at in each column, and the versions."""
    reasons: list[str] = []

    def mark(outcome: str) -> str:
        word, _, reason = outcome.partition(": ")
        sign = SIGNS.get(word, "✓")
        if not reason:
            return sign
        text = f"Not streamed: {reason}" if word == UNSTREAMED else reason[:1].upper() + reason[1:]
        if text not in reasons:
            reasons.append(text)
        return f"{sign} {reasons.index(text) + 1}"

    rows = [f"| Client | by | {' | '.join(FEATURES.values())} |", "| --- | --- |" + " :-: |" * len(FEATURES)]
    versions = ["| Client | Package | Version | Run on |", "| --- | --- | --- | --- |"]
    for name, client in read_results().items():
        versions.append(f"| {name} | `{client['package']}` | {client['version']} | {client['date']} |")
        for surface, cells in client["surfaces"].items():
            marks = " | ".join(mark(cells[feature]) if feature in cells else "" for feature in FEATURES)
            rows.append(f"| {name} | {surface} | {marks} |")
    sections = {
        "Reasons": [f"{at}. {reason}." for at, reason in enumerate(reasons, 1)],
        "What is looked at": [f"- **{title}.** {CHECKS[name].__doc__}" for name, title in FEATURES.items()],
        "Versions": versions,
    }
    below = "".join(f"\n## {title}\n\n" + "\n".join(lines) + "\n" for title, lines in sections.items())
    return f"{HEAD}\n" + "\n".join(rows) + f"\n{below}"
