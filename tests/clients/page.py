"""The page on client compatibility, generated from the recorded results."""

from __future__ import annotations

from tests.clients.checks import CHECKS
from tests.clients.matrix import DEMO, FAILS, FEATURES, FLOWISE, MISSING, UNSTREAMED, Results, read_results

HEAD = """# Client compatibility

Each client is installed in a pinned version and run against the demo flows through the gateway. The table
is generated from the results (`make clients`, and `make clients-apps` for complete applications), and CI
fails if a result changes. ✓ works, – not offered by the client, ✗ fails; a number refers to the reason below.
Every test also counts the runs that reach Flowise: exactly one per user action, even if the client retries.
"""
FLOWISE_HEAD = """The same tests with a real Flowise instead of the demo; its flows are chatflows and agentflows with a scripted
model. Runs are counted between the gateway and Flowise, and images and documents are checked in the requests
that the model gets. "Stop" stops an agentflow and is checked in Flowise's execution and at the model's connection:
Flowise does not abort chatflows with a chain or a tool agent.
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

    def table(results: Results) -> list[str]:
        rows = [
            f"| Client | API | {' | '.join(FEATURES.values())} |",
            "| --- | --- |" + " :-: |" * len(FEATURES),
        ]
        for name, client in results.items():
            for surface, cells in client["surfaces"].items():
                marks = " | ".join(mark(cells[feature]) if feature in cells else "" for feature in FEATURES)
                rows.append(f"| {name} | {surface} | {marks} |")
        return rows

    demo, flowise = (read_results(upstream) for upstream in (DEMO, FLOWISE))
    rows, flowise_rows = table(demo), table(flowise)
    versions = [
        "| Client | Package | Version | Run on | With Flowise |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, client in demo.items():
        real = flowise.get(name)
        # The date that the cells were found at, which of the two tables need not be the same.
        beside = f"{real['flowise']}, {real['date']}" if real else ""
        versions.append(
            f"| {name} | `{client['package']}` | {client['version']} | {client['date']} | {beside} |"
        )
    releases = " and ".join(sorted({client["flowise"] for client in flowise.values()}))
    sections = {
        f"With Flowise {releases}": [FLOWISE_HEAD, *flowise_rows],
        "Reasons": [f"{at}. {reason}." for at, reason in enumerate(reasons, 1)],
        "What is tested": [f"- **{title}.** {CHECKS[name].__doc__}" for name, title in FEATURES.items()],
        "Versions": versions,
    }
    below = "".join(f"\n## {title}\n\n" + "\n".join(lines) + "\n" for title, lines in sections.items())
    return f"{HEAD}\n" + "\n".join(rows) + f"\n{below}"
