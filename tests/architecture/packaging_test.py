"""The package says what it needs: the ranges of `pyproject.toml`, the pins of `requirements.in`, the locks, the imports."""

from __future__ import annotations

import ast
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import flowise_gateway

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
NEEDED = {each.name: each for each in map(Requirement, PROJECT["dependencies"])}
PINNED = {
    each.name: next(iter(each.specifier)).version
    for line in (ROOT / "requirements.in").read_text().splitlines()
    if line and not line.startswith("#")
    for each in [Requirement(line)]
}
OF_AN_EXTRA = {"haystack", "jsonschema", "opentelemetry"}
"""Imported by what an extra brings alone; an installation without the extra has none of it."""

ONLY_OF_THE_CARD = {"openai", "pytest"}
"""Pinned for a folder in which everything can be run, tests included; serving needs neither."""


def test_the_pins_are_those_of_what_is_needed() -> None:
    assert set(PINNED) - ONLY_OF_THE_CARD == set(NEEDED)


def test_every_pin_is_within_its_range() -> None:
    assert {name for name, need in NEEDED.items() if PINNED[name] not in need.specifier} == set()


def locked(name: str) -> dict[str, str]:
    """Each line of a lock file: package, with its marker where it has one, and pinned version."""
    text = (ROOT / name).read_text().replace("\\\n", " ")
    entries = [line for line in text.splitlines() if line and not line.lstrip().startswith("#")]
    assert all("--hash=sha256:" in line for line in entries)
    found = [Requirement(line.partition(" --hash")[0]) for line in entries]
    return {
        f"{canonicalize_name(each.name)} {each.marker or ''}".strip(): str(each.specifier) for each in found
    }


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-serve.txt"])
def test_the_lock_is_that_of_the_pins(name: str) -> None:
    lock = locked(name)
    wanted = PINNED if name == "requirements.txt" else {need: PINNED[need] for need in NEEDED}
    assert {f"{canonicalize_name(each)}=={version}" for each, version in wanted.items()} <= {
        package + version for package, version in lock.items()
    }


def test_what_serves_is_locked_as_what_is_tested_and_has_no_tools_of_tests() -> None:
    serving, tested = locked("requirements-serve.txt"), locked("requirements.txt")
    assert serving.items() <= tested.items()
    assert not {"pytest", "openai"} & {package.partition(" ")[0] for package in serving}


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
        for name in imported - ours - sys.stdlib_module_names - {"_typeshed"} - OF_AN_EXTRA
    }
    names = {name.lower().replace("_", "-") for name in NEEDED}
    assert {name.replace("_", "-") for name in needed} == names


def test_the_version_is_in_one_place() -> None:
    assert PROJECT["dynamic"] == ["version"]
    assert flowise_gateway.__version__.count(".") == 2


def test_an_extra_is_needed_by_nothing_else() -> None:
    extras = PROJECT["optional-dependencies"]
    of_pipelines = {Requirement(each).name for each in extras["haystack"]}
    assert of_pipelines == {"haystack-ai"}
    assert not of_pipelines & set(NEEDED)
    files = [*ROOT.glob("flowise_gateway/**/*.py"), *ROOT.glob("*.py"), *ROOT.glob("flowise_demo/*.py")]
    naming = {file.relative_to(ROOT) for file in files if "haystack" in file.read_text().lower()}
    supervision = {Path("flowise_gateway/serving/embedded_pipelines.py")}
    assert {file for file in naming if "pipelines" not in file.parts} == supervision
