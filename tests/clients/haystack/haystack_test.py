"""Haystack's generators."""

from __future__ import annotations

import pytest

from tests.clients.matrix import Cell, Check, Client

pytestmark = pytest.mark.clients

CLIENT = Client(
    "Haystack",
    "haystack-ai",
    "haystack",
    surfaces=("chat", "azure", "responses", "azure responses"),
    missing={
        "sources": "its `ChatMessage` has no citations",
        ("chat", "reasoning"): "its `OpenAIChatGenerator` does not read `reasoning_content`",
        ("azure", "reasoning"): "its `OpenAIChatGenerator` does not read `reasoning_content`",
    },
    notes={
        "stop": "by closing the generator (`generator.close()`): an exception in its callback does not close the stream"
    },
)


@pytest.mark.parametrize("cell", CLIENT.cells(), ids=str)
def test_haystack(cell: Cell, check: Check) -> None:
    check(cell)
