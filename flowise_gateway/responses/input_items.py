"""Parses the input items of a response and of its predecessors into a conversation."""

from __future__ import annotations

import base64
import contextlib
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import orjson

from flowise_gateway.flow.cooperative import TooLarge, compressed, decompressed, yield_between
from flowise_gateway.flow.errors import BadRequest
from flowise_gateway.openai.attachments import audio_part, document, image_at
from flowise_gateway.openai.conversation_builder import (
    MAX_MESSAGES,
    Conversation,
    ConversationBuilder,
    is_thought,
    left_out_note,
    newest_of,
    part_kind,
)
from flowise_gateway.openai.fields import expect, string, wrong_value
from flowise_gateway.openai.json_body import MAX_VALUES, is_too_deep, value_count
from flowise_gateway.responses.items import (
    MAX_TEXT,
    READERS,
    Item,
    MakeId,
    check_length,
    complete,
)

Resolver = Callable[[str], Item | None]

OWN_CALL = "flowise_"
"""The prefix of call ids of the flow's own tools, to distinguish them from the client's when resent."""

_MAX_CONTEXT = 32 * 2**20
"""The maximum size of the JSON in all compactions of a request; it may contain MAX_VALUES values."""
_PACKED = "items1."
_MAX_FOREIGN_NAMES = 16
_ACTIONS = {
    "mcp_approval_response": "no tool of this server waits for an approval",
    "compaction_trigger": "send the conversation to POST /v1/responses/compact",
}
"""Items that request an immediate action, and why it is not supported."""
_TOLD = ("message", "function_call", "function_call_output")
"""Types that become part of the conversation. A flow has its own reasoning and tool calls in its memory, and
no use for other types."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A complete item and its place in the request, such as `input[2]`.

    `is_earlier` means that its client resends it with every later message, so that it must not be refused;
    `left_out` lists the kinds of unreadable parts that were replaced by a note.
    """

    item: Item
    place: str
    is_earlier: bool = False
    left_out: tuple[str, ...] = ()


def read_input(value: Any, resolve: Resolver, make_id: MakeId) -> list[Entry]:
    """The items of `input`; a string is one user message. `resolve` looks up references."""
    if isinstance(value, str):
        check_length(value, MAX_TEXT, "input")
        message = {"type": "message", "role": "user", "content": value}
        return [Entry(complete(message, "input", make_id), "input")]
    expect(value, list, "input", "a string or an array of items")
    if len(value) > MAX_MESSAGES:
        raise wrong_value("input", f"it must contain at most {MAX_MESSAGES} items")
    newest = newest_of([_role(item) for item in value])
    entries = []
    for n, item in enumerate(yield_between(value)):
        place = f"input[{n}]"
        if n < newest and _role(item) not in ("system", "developer"):
            entries.append(_earlier(item, place, resolve, make_id))
        else:
            entries.append(Entry(complete(_referred(item, place, resolve), place, make_id), place))
    return entries


def _role(item: Any) -> Any:
    """The role of a message; None for any other item."""
    is_message = isinstance(item, dict) and item.get("type") in (None, "message")
    return item.get("role") if is_message else None


def _earlier(item: Any, place: str, resolve: Resolver, make_id: MakeId) -> Entry:
    """An item of an earlier turn, completed, with notes in place of unreadable parts."""
    left_out: list[str] = []
    if isinstance(item, dict):
        item = _referred(item, place, resolve)
        with contextlib.suppress(BadRequest):
            complete_item = complete(item, place, make_id, left_out)
            return Entry(complete_item, place, is_earlier=True, left_out=tuple(left_out))
    role = "user" if _role(item) == "user" else "assistant"
    note = {"type": "message", "role": role, "content": left_out_note("message")}
    return Entry(complete(note, place, make_id), place, is_earlier=True, left_out=("message",))


def _referred(item: Any, place: str, resolve: Resolver) -> Item:
    """The item itself, or the one that it refers to; references and messages may lack their type."""
    expect(item, dict, place)
    kind = item.get("type")
    if kind is None:
        kind = "message" if "role" in item or "content" in item else "item_reference"
    if kind != "item_reference":
        return {**item, "type": kind}
    item_id = string(item, "id", f"{place}.id")
    found = resolve(item_id)
    if found is None:
        raise BadRequest(
            f"Item with id '{item_id[:100]}' not found. Send the item itself.",
            param=f"{place}.id",
            code="item_not_found",
        )
    return found


def stored_entries(items: Iterable[Item], place: str, make_id: MakeId) -> list[Entry]:
    """The stored items of an earlier response."""
    return [Entry(complete(item, place, make_id), place, is_earlier=True) for item in yield_between(items)]


def pack_compaction(items: Iterable[Item]) -> str:
    """Items as the `encrypted_content` of a compaction, which is opaque to clients.

    Raises BadRequest if they are too large to be sent back in a request.
    """
    raw = orjson.dumps(list(items))
    if len(raw) > _MAX_CONTEXT or value_count(raw) > MAX_VALUES:
        raise too_large_context("input")
    return _PACKED + base64.b64encode(compressed(raw, 6)).decode()


def expand_compactions(entries: Iterable[Entry], make_id: MakeId) -> list[Entry]:
    """The entries, with each compaction replaced by its items."""
    expanded: list[Entry] = []
    unpacking = _Unpacking()
    for entry in entries:
        is_packed = entry.item["type"] == "compaction"
        items = unpacking.items(entry) if is_packed else [entry.item]
        if len(expanded) + len(items) > MAX_MESSAGES:
            raise BadRequest(
                f"The conversation holds more than {MAX_MESSAGES} items; start a new one.",
                param=(expanded or [entry])[0].place.partition("[")[0],
                code="context_length_exceeded",
            )
        if is_packed:
            unpacked = [complete(item, entry.place, make_id) for item in yield_between(items)]
            expanded += [Entry(item, entry.place) for item in unpacked]
        else:
            expanded.append(entry)
    return expanded


class _Unpacking:
    """Unpacks the compactions of one request, with a limit, since they may be decompression bombs."""

    def __init__(self) -> None:
        self._bytes_left, self._values_left = _MAX_CONTEXT, MAX_VALUES

    def items(self, entry: Entry) -> list[Item]:
        """The items of a compaction. Raises BadRequest, also if all of them together are too large."""
        place = f"{entry.place}.encrypted_content"
        packed = entry.item["encrypted_content"].removeprefix(_PACKED)
        try:
            raw = decompressed(base64.b64decode(packed, validate=True), self._bytes_left)
            self._bytes_left -= len(raw)
            self._values_left -= value_count(raw)
            if self._values_left < 0:
                raise TooLarge
            items = orjson.loads(raw)
            items = None if is_too_deep(raw, items) else items
        except TooLarge:
            raise too_large_context(place) from None
        except (ValueError, zlib.error):
            items = None
        if not isinstance(items, list) or any(
            not isinstance(item, dict) or item.get("type") == "compaction" for item in items
        ):
            raise wrong_value(place, "it was not created by POST /v1/responses/compact of this server")
        return items


def too_large_context(param: str) -> BadRequest:
    """The error for a conversation that needs too much memory."""
    return BadRequest(
        "The conversation is too large; start a new one.", param=param, code="context_length_exceeded"
    )


def check_calls(entries: Iterable[Entry]) -> None:
    """Refuse a tool output without a preceding call."""
    called = set()
    for entry in entries:
        kind, call_id = entry.item["type"], entry.item.get("call_id")
        may_come_alone = entry.is_earlier or call_id is None
        if kind == "function_call":
            called.add(call_id)
        elif kind == "function_call_output" and not (may_come_alone or call_id in called):
            raise wrong_value(f"{entry.place}.call_id", "no function call before it has this id")


def check_actions(entries: Sequence[Entry]) -> None:
    """Refuse an item that requests an unsupported action.

    An item with a later answer is history: its action was performed by another server.
    """
    for entry in reversed(entries):
        kind = entry.item["type"]
        if kind in _ACTIONS:
            raise BadRequest(
                f"Items of type '{kind}' are not supported: {_ACTIONS[kind]}.",
                param=entry.place,
                code="unsupported_content",
            )
        if kind.endswith("_call") or entry.item.get("role") == "assistant":
            return


def foreign_types(entries: Iterable[Entry]) -> list[str]:
    """The types of items that are not passed to the flow, as ignored parameters; at most a few."""
    kinds = dict.fromkeys(entry.item["type"] for entry in entries if entry.item["type"] not in READERS)
    return [f"input.{kind}" for kind in kinds][:_MAX_FOREIGN_NAMES]


def read_conversation(
    entries: Sequence[Entry],
    instructions: str | None,
    *,
    may_be_empty: bool = False,
    may_be_silent: bool = False,
) -> Conversation:
    """The items as a conversation. Raises BadRequest with the path in the input.

    With `may_be_empty`, there may be no items; with `may_be_silent`, they may contain no text.
    """
    messages = _grouped(entries)
    roles = [_role_of(message[0].item) for message in messages]
    builder = ConversationBuilder(roles)
    builder.add_system(instructions or "")
    for n, message in enumerate(yield_between(messages)):
        _add(builder, n, roles[n], message)
    chat = builder.build()
    if chat.is_empty and not (may_be_silent or (may_be_empty and not messages)):
        raise BadRequest("The input contains no text.", param="input", code="invalid_value")
    left_out = [kind for entry in entries for kind in entry.left_out]
    return replace(chat, left_out=(*chat.left_out, *left_out)) if left_out else chat


def _grouped(entries: Iterable[Entry]) -> list[list[Entry]]:
    """The entries of the conversation, grouped by message; calls belong to the answer before them."""
    messages: list[list[Entry]] = []
    for entry in yield_between(entries):
        kind = entry.item["type"]
        if kind not in _TOLD or str(entry.item.get("call_id", "")).startswith(OWN_CALL):
            continue
        if kind == "function_call" and messages and _role_of(messages[-1][0].item) == "assistant":
            messages[-1].append(entry)
        else:
            messages.append([entry])
    return messages


def _role_of(item: Item) -> str:
    kind = item["type"]
    return item["role"] if kind == "message" else "assistant" if kind == "function_call" else "tool"


def _add(builder: ConversationBuilder, number: int, role: str, message: Sequence[Entry]) -> None:
    entry = message[0]
    item, calls = entry.item, message if entry.item["type"] == "function_call" else message[1:]
    if role == "assistant" and not calls and len(item["content"]) == 1:
        text = item["content"][0].get("text", "")
        if is_thought(text):
            return
    builder.begin(number, role)
    if role == "tool":
        call_id = item.get("call_id")
        name = item.get("name") if call_id is None else None
        builder.add_tool_result(call_id, name, _text(builder, entry, "output"))
        return
    text = _text(builder, entry, "content") if item["type"] == "message" else ""
    if role == "assistant":
        fields = [(call.item["call_id"], call.item["name"], call.item["arguments"]) for call in calls]
        builder.add_answer(text, [builder.tool_call(*each) for each in fields])
    elif role == "user":
        builder.add_user(text)
    else:
        builder.add_system(text)


def _text(builder: ConversationBuilder, entry: Entry, field: str) -> str:
    """The text of a message or of a tool's output; its other parts are attached."""
    content = entry.item[field]
    if isinstance(content, str):
        return content
    texts = []
    for n, part in enumerate(yield_between(content)):
        kind, param = part["type"], f"{entry.place}.{field}[{n}]"
        try:
            if kind == "input_image":
                attachment = image_at(part["image_url"], f"{param}.image_url")
            elif kind == "input_file":
                number = builder.next_file_number
                name, data = part.get("filename", ""), part["file_data"]
                attachment = document(name, data, f"{param}.file_data", number)
            elif kind == "input_audio":
                attachment = audio_part(part, param, 0)
            else:
                texts.append(part["refusal" if kind == "refusal" else "text"])
                continue
        except BadRequest as error:
            texts.append(builder.leave_out(part_kind(part), error))
            continue
        # The parts of stored items are not fields of this request.
        is_in_request = entry.place.startswith("input[")
        builder.attach(attachment if is_in_request else replace(attachment, param=entry.place))
    return "\n".join(texts)
