"""What a request of the Responses API weighs, and its context packed into one item. Wire layer, pure.

Nothing is summed up: that would take a run of the flow, and a flow acts. The packed item holds all there was,
so that it carries the conversation without a store.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Literal, TypedDict

from flowise_gateway.openai.fields import string
from flowise_gateway.openai.request import ParsedRequest
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
    """How many tokens a request has."""

    object: Literal["response.input_tokens"]
    input_tokens: int


class Compaction(TypedDict):
    """The item that stands for all that was said."""

    id: str
    type: Literal["compaction"]
    encrypted_content: str


class CompactedResponse(TypedDict):
    """A context, compacted: `output` is the next request's input."""

    id: str
    object: Literal["response.compaction"]
    created_at: int
    output: list[Compaction]
    usage: ResponseUsage


def input_tokens(
    body: Mapping[str, Any],
    count_tokens: Callable[[str], int],
    *,
    resolve: Resolver = nothing_stored,
    earlier: Earlier = nothing_stored,
) -> InputTokens:
    """Count what a request would bring to its flow; the model may be missing. Raises BadRequest."""
    model = string(body, "model") if body.get("model") is not None else "any"
    parsed = parse_response(body, model, resolve=resolve, earlier=earlier)
    return {"object": "response.input_tokens", "input_tokens": count_tokens(_text(parsed))}


def _text(parsed: ParsedRequest) -> str:
    turn = parsed.turns[0]
    return "\n".join((turn.instructions, *(m.content for m in turn.history), turn.question))


def compacted(
    body: Mapping[str, Any],
    count_tokens: Callable[[str], int],
    *,
    resolve: Resolver = nothing_stored,
    earlier: Earlier = nothing_stored,
    clock: Callable[[], float] = time.time,
) -> CompactedResponse:
    """Pack what a request brings along into one item. Raises BadRequest for what no response would take."""
    string(body, "model")
    parameters(body, echoed(body))  # checked, although none of them changes what is packed
    before = earlier_entries(text_or_null(body, "previous_response_id"), earlier)
    asked = input_entries(body, resolve, may_be_empty=bool(before))
    whole = expand_compactions([*before, *asked], new_id)
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
