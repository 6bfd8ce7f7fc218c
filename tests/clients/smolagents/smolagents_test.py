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
        "sources": "its `ChatMessage` has no citations",
        "reasoning": "its `ChatMessage` has no reasoning",
    },
    unstreamed={"tools": "the pieces of a streamed call are put together by its agents, not by its model"},
    notes={
        "stop": "by closing the model's client (`model.client.close()`): leaving the loop does not close the stream"
    },
)


@pytest.mark.parametrize("cell", CLIENT.cells(), ids=str)
def test_smolagents(cell: Cell, check: Check) -> None:
    check(cell)
