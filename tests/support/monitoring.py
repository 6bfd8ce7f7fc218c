"""The series that the dashboard and the alert rules in `deploy/monitoring` are made of."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

import yaml

FOLDER = Path(__file__).resolve().parents[2] / "deploy/monitoring"
_SELECTOR = re.compile(r"(flowise_proxy_\w+)(?:\{([^}]*)\})?")
_MATCHER = re.compile(r'(\w+)\s*(=~|!~|!=|=)\s*"((?:[^"\\]|\\.)*)"')
_GROUPING = re.compile(r"\b(?:by|without|on|ignoring)\s*\(([^)]*)\)")


@dataclass(frozen=True)
class Expression:
    """One query and where it stands."""

    place: str
    text: str

    @property
    def selectors(self) -> list[tuple[str, list[tuple[str, str, str]]]]:
        """The series it reads: a name and its matchers, each a label, an operator and a value."""
        return [(name, _MATCHER.findall(matchers)) for name, matchers in _SELECTOR.findall(self.text)]

    @property
    def grouped_by(self) -> set[str]:
        """The labels that it groups by."""
        return {label.strip() for labels in _GROUPING.findall(self.text) for label in labels.split(",")}


def panels() -> list[Expression]:
    """The queries of the dashboard, with its variables filled in."""
    board = json.loads((FOLDER / "grafana-dashboard.json").read_text())
    filled = {"$__rate_interval": "1m", "$model": ".*"}
    found = []
    for panel in board["panels"]:
        for target in panel.get("targets", ()):
            text = target["expr"]
            for variable, value in filled.items():
                text = text.replace(variable, value)
            assert "$" not in text, text
            found.append(Expression(f"panel {panel['title']}", text))
    return found


def alerts() -> list[Expression]:
    """The conditions of the alert rules."""
    groups = yaml.safe_load((FOLDER / "alerts.yaml").read_text())["groups"]
    return [Expression(f"alert {rule['alert']}", rule["expr"]) for group in groups for rule in group["rules"]]
