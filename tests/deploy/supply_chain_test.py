"""What is installed is what was tested: by hashes, listed in full, each package under a known licence."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from docs.licences import page

PROJECT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.clients


@pytest.fixture(scope="module")
def sbom() -> dict[str, Any]:
    """The bill that `make sbom` writes; it installs by hashes into an empty environment first."""
    subprocess.run(["make", "sbom"], cwd=PROJECT, check=True, timeout=280, capture_output=True)
    return json.loads((PROJECT / "build" / "sbom.json").read_text())  # type: ignore[no-any-return]


def test_the_bill_lists_what_is_installed_exactly(sbom: dict[str, Any]) -> None:
    pip = [sys.executable, "-m", "pip", "--python", "build/serving/bin/python", "list", "--format=json"]
    done = subprocess.run(pip, cwd=PROJECT, check=True, timeout=60, capture_output=True)
    installed = {(each["name"].lower(), each["version"]) for each in json.loads(done.stdout)}
    assert {(part["name"].lower(), part["version"]) for part in sbom["components"]} == installed
    assert sbom["bomFormat"] == "CycloneDX"
    assert sbom["metadata"]["component"]["name"] == "flowise-gateway"


def test_the_page_of_licences_is_that_of_the_bill(sbom: dict[str, Any]) -> None:
    assert (PROJECT / "docs" / "licences.md").read_text() == page(sbom)


def test_no_licence_asks_for_the_source_of_what_uses_it(sbom: dict[str, Any]) -> None:
    text = page(sbom)
    assert "GPL" not in text
