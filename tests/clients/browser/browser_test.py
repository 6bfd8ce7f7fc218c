"""A page of another origin in Chromium."""

from __future__ import annotations

import pytest

from tests.clients.matrix import Cell, Check, Client

pytestmark = pytest.mark.clients

CLIENT = Client(
    "fetch in Chromium, from another origin",
    "playwright-core",
    "browser",
    missing={"retry": "a bare `fetch` sends a request once"},
)


@pytest.mark.parametrize("cell", CLIENT.cells(), ids=str)
def test_browser(cell: Cell, check: Check) -> None:
    check(cell)
