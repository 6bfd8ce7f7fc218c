"""The package says what it needs: the ranges of `pyproject.toml`, the pins of `requirements.txt`, the imports."""

from __future__ import annotations

import ast
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

from packaging.requirements import Requirement

import flowise_gateway

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
NEEDED = {each.name: each for each in map(Requirement, PROJECT["dependencies"])}
PINNED = {
    each.name: next(iter(each.specifier)).version
    for line in (ROOT / "requirements.txt").read_text().splitlines()
    if line and not line.startswith("#")
    for each in [Requirement(line)]
}
ONLY_OF_THE_CARD = {"openai", "pytest"}
"""Pinned for a folder in which everything can be run, tests included; serving needs neither."""


def test_the_pins_are_those_of_what_is_needed() -> None:
    assert set(PINNED) - ONLY_OF_THE_CARD == set(NEEDED)


def test_every_pin_is_within_its_range() -> None:
    assert {name for name, need in NEEDED.items() if PINNED[name] not in need.specifier} == set()


def test_what_is_imported_is_what_is_needed() -> None:
    files = [*ROOT.glob("flowise_gateway/**/*.py"), *ROOT.glob("flowise_demo/**/*.py")]
    top = ("openai_compatible_server", "openai_adapter", "flowise_client")
    files += [ROOT / f"{name}.py" for name in top]
    ours = {*top, "flowise_gateway", "flowise_demo"}
    imported = set()
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add((node.module or "").partition(".")[0])
    brought_along = {"urllib3": "requests", "werkzeug": "flask"}
    found = packages_distributions()
    needed = {
        brought_along.get(name) or found[name][0].lower()
        for name in imported - ours - sys.stdlib_module_names - {"_typeshed"}
    }
    names = {name.lower().replace("_", "-") for name in NEEDED}
    assert {name.replace("_", "-") for name in needed} == names


def test_the_version_is_in_one_place() -> None:
    assert PROJECT["dynamic"] == ["version"]
    assert flowise_gateway.__version__.count(".") == 2
