"""Haystack's generators."""

from __future__ import annotations

import pytest

from tests.clients.matrix import Cell, Check, Client

pytestmark = pytest.mark.clients

CLIENT = Client(
    "Haystack",
    "haystack-ai",
    "haystack",
    surfaces=("chat", "responses"),
    missing={
        "sources": "its messages have no citations",
        ("chat", "reasoning"): "it reads no thoughts of chat completions",
        "stop": "a stream that is left keeps its connection open until Python collects it",
    },
)


@pytest.mark.parametrize("cell", CLIENT.cells(), ids=str)
def test_haystack(cell: Cell, check: Check) -> None:
    check(cell)
