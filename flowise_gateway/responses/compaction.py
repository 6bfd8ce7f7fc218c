"""Counts the tokens of a Responses request, and compacts its context into one item.

Nothing is summarized, since that would need a run of the flow, which may have side effects. The item contains
the whole conversation, which can therefore continue without a store.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypedDict

from flowise_gateway.openai.fields import string
from flowise_gateway.openai.schema import new_id
from flowise_gateway.responses.fields import echoed, parameters, text_or_null
from flowise_gateway.responses.input_items import (
    Resolver,
    check_calls,
    expand_compactions,
    pack_compaction,
    read_conversation,
)
from flowise_gateway.responses.items import Item
from flowise_gateway.responses.renderer import ResponseUsage, response_usage
from flowise_gateway.responses.request import (
    Earlier,
    earlier_entries,
    input_entries,
    nothing_stored,
    parse_response,
)


class InputTokens(TypedDict):
    """The number of input tokens of a request."""

    object: Literal["response.input_tokens"]
    input_tokens: int


class CompactionItem(TypedDict):
    """A compacted conversation, with which a later input may begin."""

    id: str
    type: Literal["compaction"]
    encrypted_content: str


class Compaction(TypedDict):
    """The response to a compaction request."""

    id: str
    object: Literal["response.compaction"]
    created_at: int
    output: list[CompactionItem]
    usage: ResponseUsage


def input_tokens(
    body: Mapping[str, Any],
    count_tokens: Callable[[str], int],
    *,
    resolve: Resolver = nothing_stored,
    earlier: Earlier = nothing_stored,
) -> InputTokens:
    """Count the input tokens of a request; the model may be missing. Raises BadRequest."""
    model = string(body, "model") if body.get("model") is not None else "any"
    parsed = parse_response(body, model, resolve=resolve, earlier=earlier)
    turn = parsed.turns[0]
    text = "\n".join((turn.instructions, *(message.content for message in turn.history), turn.question))
    return {"object": "response.input_tokens", "input_tokens": count_tokens(text)}


def compacted(
    body: Mapping[str, Any],
    count_tokens: Callable[[str], int],
    *,
    resolve: Resolver = nothing_stored,
    earlier: Earlier = nothing_stored,
    clock: Callable[[], float] = time.time,
) -> Compaction:
    """Compact the conversation of a request into one item. Raises BadRequest as for a response."""
    string(body, "model")
    parameters(body, echoed(body))  # validated, although none of them affects the compaction
    before = earlier_entries(text_or_null(body, "previous_response_id"), earlier)
    own = input_entries(body, resolve, may_be_empty=bool(before))
    whole = expand_compactions([*before, *own], new_id)
    check_calls(whole)
    chat = read_conversation(whole, None)
    weight = count_tokens("\n".join((chat.instructions, *(m.content for m in chat.history), chat.user_text)))
    items: list[Item] = [entry.item for entry in whole]
    return {
        "id": new_id("resp_"),
        "object": "response.compaction",
        "created_at": int(clock()),
        "output": [{"id": new_id("cmp_"), "type": "compaction", "encrypted_content": pack_compaction(items)}],
        "usage": response_usage(weight),
    }
