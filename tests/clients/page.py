"""The page on client compatibility, generated from the recorded results."""

from __future__ import annotations

from tests.clients.checks import CHECKS
from tests.clients.matrix import FAILS, FEATURES, MISSING, UNSTREAMED, read_results

HEAD = """# Client compatibility

Each client is installed in a pinned version and run against the demo flows through the gateway. The table
is generated from the results (`make clients`, and `make clients-apps` for complete applications), and CI
fails if a result changes. ✓ works, – not offered by the client, ✗ fails; a number refers to the reason below.
Every test also counts the runs that reach Flowise: exactly one per user action, even if the client retries.
"""
SIGNS = {MISSING: "–", FAILS: "✗"}


def clients_page() -> str:
    """A table of clients and features, the reasons, what each column tests, and the versions."""
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

    rows = [f"| Client | API | {' | '.join(FEATURES.values())} |", "| --- | --- |" + " :-: |" * len(FEATURES)]
    versions = ["| Client | Package | Version | Run on |", "| --- | --- | --- | --- |"]
    for name, client in read_results().items():
        versions.append(f"| {name} | `{client['package']}` | {client['version']} | {client['date']} |")
        for surface, cells in client["surfaces"].items():
            marks = " | ".join(mark(cells[feature]) if feature in cells else "" for feature in FEATURES)
            rows.append(f"| {name} | {surface} | {marks} |")
    sections = {
        "Reasons": [f"{at}. {reason}." for at, reason in enumerate(reasons, 1)],
        "What is tested": [f"- **{title}.** {CHECKS[name].__doc__}" for name, title in FEATURES.items()],
        "Versions": versions,
    }
    below = "".join(f"\n## {title}\n\n" + "\n".join(lines) + "\n" for title, lines in sections.items())
    return f"{HEAD}\n" + "\n".join(rows) + f"\n{below}"
