"""OpenAI's client for JavaScript."""

from __future__ import annotations

import pytest

from tests.clients.matrix import Cell, Check, Client

pytestmark = pytest.mark.clients

PROMPT = "a prompt is one text, without messages or parts"
CLIENT = Client(
    "openai (JavaScript)",
    "openai",
    "openai_js",
    surfaces=("chat", "azure", "completions", "responses", "chained"),
    missing={
        **{
            ("completions", feature): PROMPT
            for feature in ("memory", "edit", "image", "document", "tools", "structured", "approval")
        },
        ("completions", "reasoning"): "a completion has no place for thoughts",
        ("completions", "sources"): "a completion has no place for citations",
    },
    meets_flowise=True,
)


@pytest.mark.parametrize("cell", CLIENT.cells(), ids=str)
def test_openai_js(cell: Cell, check: Check) -> None:
    check(cell)
