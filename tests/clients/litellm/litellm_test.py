"""LiteLLM's client library."""

from __future__ import annotations

import pytest

from tests.clients.matrix import Cell, Check, Client

pytestmark = pytest.mark.clients

CLIENT = Client(
    "LiteLLM",
    "litellm",
    "litellm",
    surfaces=("chat", "azure", "responses"),
    missing={
        (
            "responses",
            "retry",
        ): "`responses` sends a request once; `num_retries` repeats every failure, also of a flow that has run"
    },
    notes={
        (
            "responses",
            "stream",
        ): "once the model is known (`litellm.register_model` with `supports_native_streaming`), else LiteLLM fakes it"
    },
)


@pytest.mark.parametrize("cell", CLIENT.cells(), ids=str)
def test_litellm(cell: Cell, check: Check) -> None:
    check(cell)
