"""LiteLLM's client library."""

from __future__ import annotations

import pytest

from tests.clients.matrix import Cell, Check, Client

pytestmark = pytest.mark.clients

CLIENT = Client(
    "LiteLLM",
    "litellm",
    "litellm",
)


@pytest.mark.parametrize("cell", CLIENT.cells(), ids=str)
def test_litellm(cell: Cell, check: Check) -> None:
    check(cell)
