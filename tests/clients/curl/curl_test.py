"""The machine's curl."""

from __future__ import annotations

import pytest

from tests.clients.matrix import Cell, Check, Client

pytestmark = pytest.mark.clients

CLIENT = Client(
    "curl",
    "",
    "curl",
    surfaces=("chat", "responses"),
    notes={"retry": "with `--retry`", "stream": "with `--no-buffer` (`-N`)"},
)


@pytest.mark.parametrize("cell", CLIENT.cells(), ids=str)
def test_curl(cell: Cell, check: Check) -> None:
    check(cell)
