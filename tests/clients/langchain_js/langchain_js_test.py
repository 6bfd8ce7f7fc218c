"""LangChain's client for JavaScript."""

from __future__ import annotations

import pytest

from tests.clients.matrix import Cell, Check, Client

pytestmark = pytest.mark.clients

NO_SOURCES = "LangChain's `ChatOpenAI` does not read the `annotations` of chat completions"
CLIENT = Client(
    "LangChain (JavaScript)",
    "@langchain/openai",
    "langchain_js",
    surfaces=("chat", "azure", "responses"),
    missing={(surface, "sources"): NO_SOURCES for surface in ("chat", "azure")},
    unstreamed={
        (
            "responses",
            "structured",
        ): "its JSON parser does not read the content parts that the Responses API streams"
    },
)


@pytest.mark.parametrize("cell", CLIENT.cells(), ids=str)
def test_langchain_js(cell: Cell, check: Check) -> None:
    check(cell)
