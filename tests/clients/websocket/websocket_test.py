"""A WebSocket without any SDK."""

from __future__ import annotations

import pytest

from tests.clients.matrix import Cell, Check, Client

pytestmark = pytest.mark.clients

CLIENT = Client(
    "WebSocket",
    "websockets",
    "websocket",
    surfaces=("responses",),
    missing={
        "plain": "over a WebSocket every response is streamed",
        "retry": "a bare WebSocket sends a request once",
    },
    streams=(True,),
)


@pytest.mark.parametrize("cell", CLIENT.cells(), ids=str)
def test_websocket(cell: Cell, check: Check) -> None:
    check(cell)
