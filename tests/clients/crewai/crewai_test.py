"""CrewAI's client of a model."""

from __future__ import annotations

import pytest

from tests.clients.matrix import Cell, Check, Client

pytestmark = pytest.mark.clients

CLIENT = Client(
    "CrewAI",
    "crewai",
    "crewai",
    missing={
        "tools": "a call of its model gives what the function gave; only its agents ask on, in words of their own",
        "sources": "it gives texts alone",
        "reasoning": "it gives texts alone",
        "usage": "it counts for a whole crew, not for an answer",
        "structured": "it asks for objects of its agents' tasks, not of a model",
        "stop": "its call gives an answer, not a stream",
    },
)


@pytest.mark.parametrize("cell", CLIENT.cells(), ids=str)
def test_crewai(cell: Cell, check: Check) -> None:
    check(cell)
