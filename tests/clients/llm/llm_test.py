"""The `llm` program."""

from __future__ import annotations

import pytest

from tests.clients.matrix import Cell, Check, Client

pytestmark = pytest.mark.clients

CLIENT = Client(
    "llm",
    "llm",
    "llm",
    missing={
        "stop": "a stream that is left keeps its connection open until Python collects it",
        "sources": "its answers have no citations",
        "reasoning": "its answers have no thoughts",
    },
)


@pytest.mark.parametrize("cell", CLIENT.cells(), ids=str)
def test_llm(cell: Cell, check: Check) -> None:
    check(cell)
