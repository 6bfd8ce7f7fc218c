"""LlamaIndex's client for compatible servers."""

from __future__ import annotations

import pytest

from tests.clients.matrix import Cell, Check, Client

pytestmark = pytest.mark.clients

PROMPT = "a prompt is a single text, without messages or content parts"
CLIENT = Client(
    "LlamaIndex",
    "llama-index-llms-openai-like",
    "llama_index",
    surfaces=("chat", "responses", "completions"),
    missing={
        **{
            ("completions", feature): PROMPT
            for feature in ("memory", "edit", "image", "document", "tools", "structured", "approval")
        },
        ("completions", "reasoning"): "a completion has no field for reasoning",
        ("chat", "sources"): "it does not read the `annotations` of chat completions",
        ("completions", "sources"): "a completion has no field for citations",
    },
    unstreamed={
        (
            "responses",
            "structured",
        ): "it reads a streamed object from `additional_kwargs`, which its Responses client leaves empty"
    },
    notes={
        "stop": "by cancelling an asynchronous call: its synchronous streams stay open when their loop is left"
    },
)


@pytest.mark.parametrize("cell", CLIENT.cells(), ids=str)
def test_llama_index(cell: Cell, check: Check) -> None:
    check(cell)
