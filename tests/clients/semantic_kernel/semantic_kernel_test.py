"""Semantic Kernel's chat completion service."""

from __future__ import annotations

import pytest

from tests.clients.matrix import Cell, Check, Client

pytestmark = pytest.mark.clients

CLIENT = Client(
    "Semantic Kernel",
    "semantic-kernel",
    "semantic_kernel",
    missing={
        "sources": "its messages have no citations",
        "reasoning": "its messages have no thoughts",
        "document": "its messages have images alone",
    },
)


@pytest.mark.parametrize("cell", CLIENT.cells(), ids=str)
def test_semantic_kernel(cell: Cell, check: Check) -> None:
    check(cell)
