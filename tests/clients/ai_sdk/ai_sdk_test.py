"""Vercel's AI SDK with its OpenAI provider and its provider for compatible servers."""

from __future__ import annotations

import pytest

from tests.clients.matrix import Cell, Check, Client

pytestmark = pytest.mark.clients

CLIENT = Client(
    "Vercel AI SDK",
    "ai",
    "ai_sdk",
    surfaces=("responses", "unstored", "azure", "chat", "compatible"),
    missing={
        ("chat", "reasoning"): "`@ai-sdk/openai` does not read `reasoning_content`",
        ("compatible", "sources"): "`@ai-sdk/openai-compatible` does not read `annotations`",
    },
)


@pytest.mark.parametrize("cell", CLIENT.cells(), ids=str)
def test_ai_sdk(cell: Cell, check: Check) -> None:
    check(cell)
