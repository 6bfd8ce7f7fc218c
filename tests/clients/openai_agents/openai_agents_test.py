"""OpenAI's Agents SDK."""

from __future__ import annotations

import pytest

from tests.clients.matrix import Cell, Check, Client

pytestmark = pytest.mark.clients

CLIENT = Client(
    "OpenAI Agents SDK",
    "openai-agents",
    "openai_agents",
    surfaces=("responses", "chat"),
    meets_flowise=True,
)


@pytest.mark.parametrize("cell", CLIENT.cells(), ids=str)
def test_openai_agents(cell: Cell, check: Check) -> None:
    check(cell)
