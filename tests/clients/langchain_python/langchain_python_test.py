"""LangChain's client for Python."""

from __future__ import annotations

import pytest

from tests.clients.matrix import Cell, Check, Client

pytestmark = pytest.mark.clients

CLIENT = Client(
    "LangChain (Python)",
    "langchain-openai",
    "langchain_python",
    surfaces=("chat", "azure", "responses"),
    missing={
        (surface, feature): reason
        for surface in ("chat", "azure")
        for feature, reason in {
            "sources": "LangChain's `ChatOpenAI` does not read the `annotations` of chat completions",
            "reasoning": "LangChain's `ChatOpenAI` does not read `reasoning_content`",
        }.items()
    },
)


@pytest.mark.parametrize("cell", CLIENT.cells(), ids=str)
def test_langchain_python(cell: Cell, check: Check) -> None:
    check(cell)
