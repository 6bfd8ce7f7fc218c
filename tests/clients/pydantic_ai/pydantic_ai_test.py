"""Pydantic AI's agents."""

from __future__ import annotations

import pytest

from tests.clients.matrix import Cell, Check, Client

pytestmark = pytest.mark.clients

CLIENT = Client(
    "Pydantic AI",
    "pydantic-ai-slim",
    "pydantic_ai",
    surfaces=("chat", "responses"),
    missing={"sources": "its messages have no citations"},
)


@pytest.mark.parametrize("cell", CLIENT.cells(), ids=str)
def test_pydantic_ai(cell: Cell, check: Check) -> None:
    check(cell)
