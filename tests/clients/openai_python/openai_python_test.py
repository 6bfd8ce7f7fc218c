"""OpenAI's Python client."""

from __future__ import annotations

import pytest

from tests.clients.matrix import Cell, Check, Client

pytestmark = pytest.mark.clients

PROMPT = "a prompt is one text, without messages or parts"
CLIENT = Client(
    "openai (Python)",
    "openai",
    "openai_python",
    surfaces=("chat", "azure", "completions", "responses", "chained", "conversation"),
    missing={
        **{
            ("completions", feature): PROMPT
            for feature in ("memory", "edit", "image", "document", "tools", "structured", "approval")
        },
        ("completions", "reasoning"): "a completion has no place for thoughts",
        ("completions", "sources"): "a completion has no place for citations",
        ("conversation", "edit"): "a conversation only goes on; no earlier message of it can be replaced",
    },
    meets_flowise=True,
)


@pytest.mark.parametrize("cell", CLIENT.cells(), ids=str)
def test_openai_python(cell: Cell, check: Check) -> None:
    check(cell)
