"""The clients that most people of Flowise use, in front of a real one with the same checks."""

from __future__ import annotations

import re

import pytest

from tests.clients.bench import Bench
from tests.clients.checks import QUESTION, said
from tests.clients.declared import clients_before
from tests.clients.librechat.librechat_test import CLIENT as LIBRECHAT
from tests.clients.librechat.librechat_test import METHODS, SURFACES, assert_titles
from tests.clients.matrix import FLOWISE, Cell, Check

pytestmark = [
    pytest.mark.clients,
    pytest.mark.live,
    # Not of Flowise's installation, which has a limit of its own.
    pytest.mark.timeout(120, func_only=True),
]

CELLS = [
    pytest.param(cell, id=f"{client.folder}-{cell}")
    for client in clients_before(FLOWISE)
    if not client.is_application
    for cell in client.cells(FLOWISE)
]


@pytest.mark.parametrize("cell", CELLS)
def test_it_works_before_a_real_flowise(cell: Cell, check: Check) -> None:
    check(cell)


@pytest.mark.parametrize("surface", SURFACES)
@pytest.mark.parametrize("method", METHODS)
def test_librechat_gets_its_title_without_a_run(surface: str, method: str, flowise_bench: Bench) -> None:
    assert_titles(flowise_bench, surface, method)


@pytest.mark.parametrize("surface", SURFACES)
def test_librechat_shows_reasoning_before_the_text_and_each_source_once(
    surface: str, flowise_bench: Bench
) -> None:
    agent, sourced = (
        flowise_bench.ask(LIBRECHAT, surface, {"model": model, "stream": True, "turns": said(QUESTION)})
        for model in ("demo-agent", "demo-sources")
    )
    assert agent["kinds"] == ["think", "text"]
    links = re.findall(r"\]\((http[^)]+)\)", sourced["text"])
    assert sorted(links) == ["https://docs.example/nile", "https://docs.example/paris"]
