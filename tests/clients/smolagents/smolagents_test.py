"""The model of smolagents."""

from __future__ import annotations

import pytest

from tests.clients.matrix import Cell, Check, Client

pytestmark = pytest.mark.clients

CLIENT = Client(
    "smolagents",
    "smolagents",
    "smolagents",
    missing={
        "stop": "a stream that is left keeps its connection open until Python collects it",
        "sources": "its messages have no citations",
        "reasoning": "its messages have no thoughts",
        "document": "its messages have images alone",
    },
    unstreamed={"tools": "the pieces of a call are put together by its agents"},
)


@pytest.mark.parametrize("cell", CLIENT.cells(), ids=str)
def test_smolagents(cell: Cell, check: Check) -> None:
    check(cell)
