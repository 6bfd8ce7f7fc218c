"""OpenAI's client for JavaScript."""

from __future__ import annotations

import pytest

from tests.clients.matrix import Cell, Check, Client

pytestmark = pytest.mark.clients

PROMPT = "a prompt is a single text, without messages or content parts"
CLIENT = Client(
    "openai (JavaScript)",
    "openai",
    "openai_js",
    surfaces=("chat", "azure", "completions", "responses", "chained", "conversation"),
    has_calls=True,
    missing={
        **{
            ("completions", feature): PROMPT
            for feature in ("memory", "edit", "image", "document", "tools", "structured", "approval")
        },
        ("completions", "reasoning"): "a completion has no field for reasoning",
        ("completions", "sources"): "a completion has no field for citations",
        (
            "conversation",
            "edit",
        ): "items can only be added to a `conversation`: an earlier message cannot be replaced",
        "asynchronous": "it has one client, which is asynchronous",
    },
    meets_flowise=True,
)


@pytest.mark.parametrize("cell", CLIENT.cells(), ids=str)
def test_openai_js(cell: Cell, check: Check) -> None:
    check(cell)
