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
        ("chat", "sources"): "LangChain's `ChatOpenAI` does not read the `annotations` of chat completions",
        ("chat", "reasoning"): "LangChain's `ChatOpenAI` does not read `reasoning_content`",
    },
)


@pytest.mark.parametrize("cell", CLIENT.cells(), ids=str)
def test_langgraph(cell: Cell, check: Check) -> None:
    check(cell)
