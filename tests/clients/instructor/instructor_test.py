"""Instructor, which asks for objects."""

from __future__ import annotations

import pytest

from tests.clients.matrix import FEATURES, Cell, Check, Client

pytestmark = pytest.mark.clients

CLIENT = Client(
    "Instructor",
    "instructor",
    "instructor",
    surfaces=("json schema",),
    missing={
        feature: "it asks for objects, not for texts"
        for feature in FEATURES
        if feature not in ("structured", "error")
    },
)


@pytest.mark.parametrize("cell", CLIENT.cells(), ids=str)
def test_instructor(cell: Cell, check: Check) -> None:
    check(cell)
