"""An agent of LangGraph's with a memory."""

from __future__ import annotations

import pytest

from tests.clients.matrix import Cell, Check, Client

pytestmark = pytest.mark.clients

CLIENT = Client(
    "LangGraph",
    "langgraph",
    "langgraph",
    surfaces=("chat", "responses"),
    missing={
        "structured": "its messages are texts; LangChain's model has objects",
        ("chat", "sources"): "LangChain's client reads no citations of chat completions",
        ("chat", "reasoning"): "LangChain's client reads no thoughts of chat completions",
    },
)


@pytest.mark.parametrize("cell", CLIENT.cells(), ids=str)
def test_langgraph(cell: Cell, check: Check) -> None:
    check(cell)
