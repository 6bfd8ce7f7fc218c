"""Generates `configuration.md`, `decisions.md`, `openapi.json` and, from the recorded run, `clients.md`."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import fields
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
DOCS = PROJECT / "docs"
sys.path.insert(0, str(PROJECT))  # so that the imports below work from any directory


def configuration() -> str:
    """The page of settings: a section for each part of `.env.example`, an entry for each setting."""
    from flowise_gateway.config.settings import Settings  # noqa: PLC0415

    defaults = {field.name.upper(): field.default for field in fields(Settings)}
    lines = [
        "# Settings",
        "",
        "Settings are environment variables, or lines of the file `.env` in the current directory, otherwise",
        "next to the program. The environment takes precedence. With an invalid value, the gateway does not",
        "start and reports it in one line. Secrets (`FLOWISE_API_KEY`, `PROXY_API_KEYS`, `PROXY_SECRET`,",
        "`PROXY_STORE`, `PROXY_PIPELINES_KEY`) can be read from files: `FLOWISE_API_KEY_FILE` names one.",
        "",
        "This page is generated from `.env.example`.",
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
            lines += comment or [f"See `{last}`."]
            comment, last = [], name
    return "\n".join(lines) + "\n"


def decisions() -> str:
    """The page that lists the decision notes."""
    notes = sorted((DOCS / "decisions").glob("*.md"))
    titles = [(note.name, note.read_text().splitlines()[0].removeprefix("# ")) for note in notes]
    return "# Decisions\n\n" + "".join(f"- [{title}](decisions/{name})\n" for name, title in titles)


def openapi() -> str:
    """The OpenAPI description that the gateway serves."""
    # Imported here, so that the other pages can be generated without the test dependencies.
    from docs.openapi import document  # noqa: PLC0415

    return json.dumps(document(), indent=1, ensure_ascii=False) + "\n"


def clients() -> str:
    """The compatibility table, from the last recorded run of the clients."""
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
