"""LlamaIndex's client for compatible servers."""

from __future__ import annotations

import pytest

from tests.clients.matrix import Cell, Check, Client

pytestmark = pytest.mark.clients

PROMPT = "a prompt is one text, without messages or parts"
CLIENT = Client(
    "LlamaIndex",
    "llama-index-llms-openai-like",
    "llama_index",
    surfaces=("chat", "completions"),
    missing={
        **{
            ("completions", feature): PROMPT
            for feature in ("memory", "edit", "image", "document", "tools", "structured", "approval")
        },
        ("completions", "reasoning"): "a completion has no place for thoughts",
        "sources": "it reads no citations",
        "stop": "a stream that is left keeps its connection open until Python collects it",
    },
)


@pytest.mark.parametrize("cell", CLIENT.cells(), ids=str)
def test_llama_index(cell: Cell, check: Check) -> None:
    check(cell)
