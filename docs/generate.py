"""Writes `configuration.md`, the list of the decisions, `openapi.json`, and `clients.md` of the last run."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import fields
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
DOCS = PROJECT / "docs"
sys.path.insert(0, str(PROJECT))  # what is imported below stands beside the program, wherever it is run


def configuration() -> str:
    """The page: a section for each part of `.env.example`, an entry for each setting."""
    from flowise_gateway.config.settings import Settings  # noqa: PLC0415

    defaults = {field.name.upper(): field.default for field in fields(Settings)}
    lines = [
        "# Settings",
        "",
        "In the environment, or in the file `.env` of the folder that the gateway is started in, else beside",
        "it; the environment wins. A bad value stops the start with one line. What is secret",
        "(`FLOWISE_API_KEY`, `PROXY_API_KEYS`, `PROXY_SECRET`, `PROXY_STORE`,",
        "`PROXY_PIPELINES_KEY`) may stand in a file:",
        "`FLOWISE_API_KEY_FILE` names it.",
        "",
        "This page is made from `.env.example`.",
    ]
    comment: list[str] = []
    last = ""
    for line in (PROJECT / ".env.example").read_text().splitlines():
        if heading := re.match(r"# --- (.*?) -+$", line):
            lines += ["", f"## {heading[1]}"]
            comment = []
        elif line.startswith("#"):
            comment.append(line[1:].strip())
        elif "=" in line:
            name = line.partition("=")[0]
            value = defaults[name]
            default = str(value).lower() if isinstance(value, bool) else str(value or "")
            lines += ["", f"### `{name}`", "", f"Default: `{default}`." if default else "Default: empty.", ""]
            lines += comment or [f"Explained with `{last}`."]
            comment, last = [], name
    return "\n".join(lines) + "\n"


def decisions() -> str:
    """The page: each note by its title."""
    notes = sorted((DOCS / "decisions").glob("*.md"))
    titles = [(note.name, note.read_text().splitlines()[0].removeprefix("# ")) for note in notes]
    return "# Decisions\n\n" + "".join(f"- [{title}](decisions/{name})\n" for name, title in titles)


def openapi() -> str:
    """The description of the API that the gateway serves."""
    # Here alone: without what only tests need, the other pages can be made all the same.
    from docs.openapi import document  # noqa: PLC0415

    return json.dumps(document(), indent=1, ensure_ascii=False) + "\n"


def clients() -> str:
    """The page: what the last recorded run of the clients found."""
    from tests.clients.page import clients_page  # noqa: PLC0415

    return clients_page()


PAGES = {
    "configuration.md": configuration,
    "decisions.md": decisions,
    "../flowise_gateway/page/static/openapi.json": openapi,
    "clients.md": clients,
}

if __name__ == "__main__":
    for name, page in PAGES.items():
        (DOCS / name).write_text(page())
