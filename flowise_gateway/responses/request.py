"""Parses a request of the Responses API into turns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flowise_gateway.flow.errors import BadRequest
from flowise_gateway.flow.turn import Turn
from flowise_gateway.openai.fields import boolean, identifiers, missing, passed_through, string, wrong_value
from flowise_gateway.openai.request import ParsedRequest
from flowise_gateway.openai.response_format import parse_format
from flowise_gateway.openai.schema import new_id
from flowise_gateway.openai.tools import read_tools
from flowise_gateway.responses.fields import (
    check_exclusive,
    conversation_id,
    echoed,
    generates,
    included,
    parameters,
)
from flowise_gateway.responses.input_items import (
    Entry,
    Resolver,
    check_actions,
    check_calls,
    expand_compactions,
    foreign_types,
    read_conversation,
    read_input,
    stored_entries,
)
from flowise_gateway.responses.items import Item

Earlier = Callable[[str], Sequence[Item] | None]


def nothing_stored(_id: str) -> None:
    """A lookup that finds nothing, for callers without a store."""


def parse_response(
    body: Mapping[str, Any],
    deployment: str | None = None,
    *,
    resolve: Resolver = nothing_stored,
    earlier: Earlier = nothing_stored,
    make_id: Callable[[str], str] = new_id,
) -> ParsedRequest:
    """Parse a request for a response. Raises BadRequest.

    `resolve` returns the item for a reference; `earlier` returns the items of the response in
    `previous_response_id` and of all its predecessors. Both return None for an unknown id.
    """
    model, stream = deployment or string(body, "model"), boolean(body, "stream")
    echo, include, conversation = echoed(body), included(body), conversation_id(body)
    check_exclusive(body)
    before = earlier_entries(echo["previous_response_id"], earlier, make_id)
    is_run, passed = generates(body), passed_through(body)
    is_form = bool(passed.get("form"))
    entries = input_entries(body, resolve, make_id, may_be_empty=bool(before) or not is_run or is_form)
    whole = expand_compactions([*before, *entries], make_id)
    check_actions(whole)
    if not conversation:
        check_calls(whole)
    chat = read_conversation(whole, echo["instructions"], may_be_empty=not is_run, may_be_silent=is_form)
    ids = identifiers(body, passed)
    return ParsedRequest(
        model,
        (Turn(model, chat.question, chat.history, chat.instructions, stream=stream),),
        stream,
        user_text=chat.user_text,
        attachments=chat.attachments,
        left_out=chat.left_out,
        conversation=conversation or ids.conversation,
        user=ids.user,
        resends=ids.resends and not conversation,
        parameters={**parameters(body, echo), **dict.fromkeys(foreign_types(entries), True)},
        passed=passed,
        is_conversation=True,
        tools=read_tools(body),
        format=parse_format(body),
        previous_response_id=echo["previous_response_id"] or "",
        conversation_id=conversation,
        store=echo["store"],
        background=echo["background"],
        input_items=tuple(entry.item for entry in entries),
        include=include,
        echo=echo,
        generates=is_run,
    )


def earlier_entries(
    response_id: str | None, earlier: Earlier, make_id: Callable[[str], str] = new_id
) -> list[Entry]:
    """The items that a request continues. Raises BadRequest for an unknown response."""
    if not response_id:
        return []
    items = earlier(response_id)
    if items is None:
        raise BadRequest(
            f"Previous response with id '{response_id[:100]}' not found.",
            param="previous_response_id",
            code="previous_response_not_found",
        )
    return stored_entries(items, "previous_response_id", make_id)


def input_entries(
    body: Mapping[str, Any],
    resolve: Resolver,
    make_id: Callable[[str], str] = new_id,
    *,
    may_be_empty: bool,
) -> list[Entry]:
    """The items of the request's own input. Raises BadRequest."""
    value = body.get("input")
    if value is None and not may_be_empty:
        raise missing("input")
    entries = read_input([] if value is None else value, resolve, make_id)
    if not (entries or may_be_empty):
        raise wrong_value("input", "it must contain at least one item")
    return entries
