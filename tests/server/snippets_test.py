"""What readme and docs show to copy is right: it runs against the server, or its own program reads it."""

from __future__ import annotations

import ast
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from tests.support.processes import clean_environment
from tests.support.running_proxy import RunningProxy

PROJECT = Path(__file__).resolve().parents[2]
HERE = "http://localhost:8000"


class Snippet(NamedTuple):
    """A block of a page: `language` is what stands behind its fence."""

    place: str
    language: str
    text: str


def _snippets() -> list[Snippet]:
    pages = [PROJECT / "readme.md", *sorted((PROJECT / "docs").glob("*.md"))]
    return [
        Snippet(f"{page.name}:{number}", language, text)
        for page in pages
        for number, (language, text) in enumerate(
            re.findall(r"^```(\w+)\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)
        )
    ]


SNIPPETS = _snippets()
RUN = [each for each in SNIPPETS if "from openai import" in each.text]
CURL = [each for each in SNIPPETS if each.text.startswith("curl ")]


def of(language: str) -> list[Snippet]:
    return [each for each in SNIPPETS if each.language == language]


def test_there_are_snippets_of_each_kind() -> None:
    tried_somewhere = {"bash", "python", "js", "json", "toml", "yaml"}
    assert {each.language for each in SNIPPETS} == tried_somewhere | {"mermaid", "text"}
    assert len(RUN) >= 3
    assert len(CURL) >= 1


@pytest.mark.parametrize("snippet", of("python"), ids=lambda each: each.place)
def test_python_compiles(snippet: Snippet) -> None:
    ast.parse(snippet.text)


@pytest.mark.parametrize("snippet", of("yaml"), ids=lambda each: each.place)
def test_yaml_is_yaml(snippet: Snippet) -> None:
    assert yaml.safe_load(snippet.text)


@pytest.mark.parametrize("snippet", RUN, ids=lambda each: each.place)
def test_openais_sdk_runs_it(snippet: Snippet, proxy: RunningProxy, tmp_path: Path) -> None:
    program = snippet.text.replace(HERE, proxy.url)
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=clean_environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


@pytest.mark.parametrize("snippet", CURL, ids=lambda each: each.place)
def test_curl_runs_it(snippet: Snippet, proxy: RunningProxy) -> None:
    command = shlex.split(snippet.text.replace("\\\n", " ").replace(HERE, proxy.url))
    done = subprocess.run(["curl", "-sS", *command[1:]], capture_output=True, timeout=60, check=True)
    answer = json.loads(done.stdout)
    assert "error" not in answer
    if "/chat/completions" in snippet.text:
        assert answer["choices"][0]["message"]["content"]


def test_the_makes_that_are_named_exist() -> None:
    named = {
        verb
        for page in ("readme.md", "CONTRIBUTING.md", "docs/index.md")
        for verb in re.findall(r"^make ([a-z-]+)", (PROJECT / page).read_text(), re.MULTILINE)
    }
    targets = set(re.findall(r"^([a-z-]+):", (PROJECT / "Makefile").read_text(), re.MULTILINE))
    assert named
    assert named <= targets
