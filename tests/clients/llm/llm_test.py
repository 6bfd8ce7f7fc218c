"""The `llm` program."""

from __future__ import annotations

import pytest

from tests.clients.matrix import Cell, Check, Client

pytestmark = pytest.mark.clients

CLIENT = Client(
    "llm",
    "llm",
    "llm",
    surfaces=("chat", "responses"),
    missing={
        "sources": "its responses have no citations",
        ("chat", "reasoning"): "it does not read `reasoning_content`",
    },
    notes={
        "stop": "by cancelling an asynchronous call: its synchronous streams stay open when their loop is left"
    },
)


@pytest.mark.parametrize("cell", CLIENT.cells(), ids=str)
def test_llm(cell: Cell, check: Check) -> None:
    check(cell)
