"""Semantic Kernel's chat completion service."""

from __future__ import annotations

import pytest

from tests.clients.matrix import Cell, Check, Client

pytestmark = pytest.mark.clients

CLIENT = Client(
    "Semantic Kernel",
    "semantic-kernel",
    "semantic_kernel",
    surfaces=("chat", "azure", "responses"),
    missing={
        (surface, feature): reason
        for surface in ("chat", "azure")
        for feature, reason in {
            "sources": "it does not read the `annotations` of chat completions",
            "reasoning": "it does not read `reasoning_content`",
            "document": "its chat completion services send text and images alone",
        }.items()
    },
    unstreamed={
        ("responses", "usage"): "its streamed messages have no usage",
        ("responses", "sources"): "it does not read the annotations of a streamed response",
    },
)


@pytest.mark.parametrize("cell", CLIENT.cells(), ids=str)
def test_semantic_kernel(cell: Cell, check: Check) -> None:
    check(cell)
