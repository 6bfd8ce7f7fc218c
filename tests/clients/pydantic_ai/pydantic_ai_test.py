"""Pydantic AI's agents."""

from __future__ import annotations

import pytest

from tests.clients.matrix import Cell, Check, Client

pytestmark = pytest.mark.clients

CLIENT = Client(
    "Pydantic AI",
    "pydantic-ai-slim",
    "pydantic_ai",
    surfaces=("chat", "azure", "responses"),
    missing={("azure", "document"): "it refuses documents for Azure's chat completions"},
)


@pytest.mark.parametrize("cell", CLIENT.cells(), ids=str)
def test_pydantic_ai(cell: Cell, check: Check) -> None:
    check(cell)
