"""CrewAI's client of a model."""

from __future__ import annotations

import pytest

from tests.clients.matrix import Cell, Check, Client

pytestmark = pytest.mark.clients

CLIENT = Client(
    "CrewAI",
    "crewai",
    "crewai",
    surfaces=("chat", "responses"),
    missing={
        "sources": "its results have no citations",
        ("chat", "reasoning"): "it does not read `reasoning_content`",
    },
    unstreamed={
        ("responses", "tools"): "its streamed calls of the Responses API drop an agent's function calls"
    },
    notes={
        "stop": "by cancelling an asynchronous call (`acall`)",
        "tools": "by an agent (`Agent.kickoff`): its model alone returns what a function gave",
    },
)


@pytest.mark.parametrize("cell", CLIENT.cells(), ids=str)
def test_crewai(cell: Cell, check: Check) -> None:
    check(cell)
