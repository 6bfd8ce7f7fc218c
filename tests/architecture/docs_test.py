"""The documents say what is true: settings, routes, samples."""

from __future__ import annotations

import re
import runpy
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from urllib.parse import urlsplit

import orjson
import pytest
from dotenv import dotenv_values

from flowise_gateway.config.config_file import load_config
from flowise_gateway.config.settings import Settings
from openai_adapter import SAMPLES, convert_sample, main
from openai_compatible_server import create_app

PROJECT = Path(__file__).resolve().parents[2]
PAGES: dict[str, Callable[[], str]] = runpy.run_path(str(PROJECT / "docs/generate.py"))["PAGES"]
NAMES = {field.name.upper() for field in fields(Settings)}


def test_the_example_names_every_setting_and_no_other() -> None:
    assert set(dotenv_values(PROJECT / ".env.example")) == NAMES


def test_the_example_can_be_used_as_it_is() -> None:
    values = {k: v or "" for k, v in dotenv_values(PROJECT / ".env.example").items()}
    settings = Settings.from_env(values, dotenv=None)
    defaults = Settings.from_env({}, dotenv=None)
    changed = {f.name for f in fields(Settings) if getattr(settings, f.name) != getattr(defaults, f.name)}
    assert changed == {"flowise_request_timeout"}


@pytest.mark.parametrize("name", sorted(PAGES))
def test_a_generated_page_is_that_of_its_sources(name: str) -> None:
    assert (PROJECT / "docs" / name).read_text() == PAGES[name](), "make docs writes it anew"


def test_the_page_of_settings_names_every_setting() -> None:
    page = (PROJECT / "docs/configuration.md").read_text()
    assert {name for name in NAMES if f"### `{name}`" not in page} == set()


def test_the_page_of_routes_names_every_route() -> None:
    page = (PROJECT / "docs/api.md").read_text()
    app = create_app(Settings(flowise_base_url="http://127.0.0.1:9/api/v1"))
    rules = {re.sub(r"<(?:path:)?(\w+)>", r"{\1}", rule.rule) for rule in app.url_map.iter_rules()}
    plain = {re.sub(r"^/(v1|openai/v1|openai)(?=/)(?!/deployments)", "", rule) for rule in rules}
    for rule in plain:
        named = (
            rule
            if rule.startswith(("/openai", "/health", "/ready", "/metrics", "/page", "/docs", "/openapi"))
            else f"/v1{rule}"
        )
        named = named.replace("/page/{name}", "/page/{file}")
        assert re.sub(r"\{(name|response_id)\}", "{id}", named) in page, named


@pytest.mark.parametrize("path", sorted(SAMPLES.glob("*.json")), ids=lambda path: path.name)
def test_every_sample_can_be_converted(path: Path) -> None:
    title, converted = convert_sample(orjson.loads(path.read_bytes()))
    assert title
    assert orjson.dumps(converted)


def test_the_samples_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    main()
    printed = capsys.readouterr().out
    assert all(path.name in printed for path in SAMPLES.glob("*.json"))
    assert '"object": "chat.completion"' in printed
    assert '"question": ' in printed


def test_the_file_of_the_documentation_is_a_right_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HR_FLOWISE_KEY", "key")
    page = (PROJECT / "docs/models.md").read_text()
    example = next(block for block in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL) if "sha256" in block)
    path = tmp_path / "proxy.yaml"
    path.write_text(example)
    config = load_config(path)
    assert [model.id for model in config.models] == ["support"]
    assert [key.name for key in config.keys] == ["librechat"]
    assert [flowise.name for flowise in config.flowises] == ["hr"]


def test_versions_are_pinned_exactly() -> None:
    for name in ("requirements.in", "requirements-dev.txt"):
        for line in (PROJECT / name).read_text().splitlines():
            assert not line or line.startswith("#") or re.fullmatch(r"[\w-]+==[\w.]+", line), line


DOCUMENTS = re.compile(r"[\w./-]*\b[\w-]+\.md\b")
NOT_OURS = {"obsidian.md", "a.md"}
"""An address of a program, and a file that a test uploads."""


def test_every_document_that_is_named_exists() -> None:
    skipped = {".venv", ".cache", ".git", "data", "build"}
    roots = [entry for entry in PROJECT.iterdir() if entry.name not in skipped]
    endings = {".py", ".md", ".txt", ".js", ".example"}
    files = [
        path
        for root in roots
        for path in (root.rglob("*") if root.is_dir() else [root])
        if path.is_file()
        and (path.suffix in endings or path.name in {"Makefile", "run"})
        and not {"wire", "openai_schemas"} & set(path.parts)
    ]
    missing = {
        f"{file.relative_to(PROJECT)}: {name}"
        for file in files
        for name in DOCUMENTS.findall(file.read_text())
        if name.rpartition("/")[2] not in NOT_OURS
        and not any((place / name).exists() for place in (PROJECT, PROJECT / "docs", file.parent))
    }
    assert missing == set()
    assert len(files) > 200


def test_decisions_are_numbered_without_gaps() -> None:
    names = sorted(path.name for path in (PROJECT / "docs/decisions").glob("*.md"))
    assert [int(name[:4]) for name in names] == list(range(1, len(names) + 1))
    for name in names:
        lines = (PROJECT / "docs/decisions" / name).read_text().splitlines()
        assert lines[0].startswith(f"# {int(name[:4])}. "), name
        assert len(lines) <= 55, f"{name}: a note is at most a page"


def test_a_decision_that_is_named_exists() -> None:
    last = len(list((PROJECT / "docs/decisions").glob("*.md")))
    named = {
        int(number)
        for path in [
            *PROJECT.glob("*.*"),
            *PROJECT.glob("docs/**/*.md"),
            *PROJECT.glob("flowise_gateway/**/*.py"),
        ]
        if path.suffix in {".py", ".md", ".txt"}
        for number in re.findall(r"\b(?:decision|note) (\d+)\b", path.read_text())
    }
    assert {number for number in named if not 1 <= number <= last} == set()


LINK = re.compile(r"\]\(([^()\s]+)\)")
PAGES_OF_THE_REPOSITORY = [*PROJECT.glob("*.md"), *PROJECT.glob("docs/**/*.md")]


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as repository hosts make them."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES_OF_THE_REPOSITORY, ids=lambda page: page.name)
def test_every_link_within_the_repository_leads_somewhere(page: Path) -> None:
    for target in LINK.findall(page.read_text()):
        if "://" in target:
            parts = urlsplit(target)
            assert parts.scheme == "https", target
            assert "." in (parts.hostname or ""), target
            continue
        path, _, anchor = target.partition("#")
        place = (page.parent / path) if path else page
        assert place.exists(), f"{target}: no such file"
        assert not anchor or anchor in anchors(place), f"{target}: no such heading"
