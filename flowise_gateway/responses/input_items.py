"""The input of a response: items checked, made whole, and told as messages of a chat. Wire layer, pure.

Every error names the place in the input. An item that is made whole can be listed as it is
(`GET /v1/responses/{id}/input_items`) and sent back as input. An item of a type that is not ours is kept but
not told: a client that changes models in the middle of a chat sends all that another model has made.
"""

from __future__ import annotations

import base64
import contextlib
import re
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import orjson

from flowise_gateway.flow.cooperative import compressed, decompressed, yield_between
from flowise_gateway.flow.errors import BadRequest
from flowise_gateway.openai.attachments import is_image_address
from flowise_gateway.openai.fields import (
    missing,
    string,
    wrong_type,
    wrong_value,
)
from flowise_gateway.openai.json_body import has_too_many_values, is_too_deep
from flowise_gateway.openai.messages import (
    MAX_MESSAGES,
    Conversation,
    conversation,
    left_out_note,
    newest_of,
    part_kind,
)

Item = Mapping[str, Any]
Resolver = Callable[[str], Item | None]
MakeId = Callable[[str], str]

OWN_CALL = "flowise_"
"""Call ids of the flow's own tools begin so: sent back, they are no calls of the client's."""

_ROLES = ("user", "system", "developer", "assistant")
_PHASES = ("commentary", "final_answer")
_DETAILS = ("low", "high", "auto", "original")
_MAX_TEXT = 10 * 2**20
_MAX_IMAGE = 20 * 2**20
_MAX_FILE = 32 * 2**20
_MAX_CONTEXT = 32 * 2**20
_SEAL = "items1."
_ITEM_TYPE = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_MAX_FOREIGN_NAMES = 16
_DEMANDS = {
    "mcp_approval_response": "no tool of this server waits for an approval",
    "compaction_trigger": "send what is to be compacted to POST /v1/responses/compact",
}
"""Items that ask for something to be done at once, and why it is not done here."""
_MESSAGES_PLACE = re.compile(r"messages\[(\d+)\](.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Entry:
    """A whole item and where it stands in the request, such as `input[2]`.

    `is_earlier` tells that it is no reason to refuse, since its client resends it with every later message;
    `left_out` are the kinds of what could not be read of it, where a note stands instead.
    """

    item: Item
    place: str
    is_earlier: bool = False
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Place:
    """Where a message comes from; `content` is what its content is called there, empty for a text alone."""

    item: str
    content: str = ""


def read_input(value: Any, resolve: Resolver, make_id: MakeId) -> list[Entry]:
    """The items of `input`, a text being one user message; `resolve` looks references up."""
    if isinstance(value, str):
        _check_length(value, _MAX_TEXT, "input")
        return [Entry(_text_message(value, make_id), "input")]
    if not isinstance(value, list):
        raise wrong_type("input", "a string or an array of items", value)
    newest = newest_of([_role(item) for item in value])
    entries = []
    if len(value) > MAX_MESSAGES:
        raise wrong_value("input", f"it must hold at most {MAX_MESSAGES} items")
    for n, item in enumerate(yield_between(value)):
        place = f"input[{n}]"
        if n < newest and _role(item) not in ("system", "developer"):
            entries.append(_earlier(item, place, resolve, make_id))
        else:
            entries.append(Entry(_whole(_referred(item, place, resolve), place, make_id), place))
    return entries


def _role(item: Any) -> Any:
    """Whose message an item is; None if it is none."""
    is_message = isinstance(item, dict) and item.get("type") in (None, "message")
    return item.get("role") if is_message else None


def _earlier(item: Any, place: str, resolve: Resolver, make_id: MakeId) -> Entry:
    """An item of an earlier turn, made whole; a note stands for what cannot be read of it."""
    if isinstance(item, dict):
        item = _referred(item, place, resolve)
        with contextlib.suppress(BadRequest):
            return Entry(_whole(item, place, make_id), place, is_earlier=True)
        mended, left_out = _with_notes(item)
        with contextlib.suppress(BadRequest):
            return Entry(_whole(mended, place, make_id), place, is_earlier=True, left_out=left_out)
    role = "user" if _role(item) == "user" else "assistant"
    note = {"type": "message", "role": role, "content": left_out_note("message")}
    return Entry(_whole(note, place, make_id), place, is_earlier=True, left_out=("message",))


def _with_notes(item: Item) -> tuple[Item, tuple[str, ...]]:
    """The item with a note for each of its parts that cannot be read, and their kinds."""
    mended, left_out = dict(item), []
    for name in ("content", "output"):
        if not isinstance(item.get(name), list):
            mended[name] = "" if item.get(name) is None else item[name]
            continue
        mended[name] = []
        for part in item[name]:
            try:
                mended[name].append(_part(part, name, str(item.get("role"))))
            except BadRequest:
                left_out.append(part_kind(part))
                mended[name].append({"type": "text", "text": left_out_note(left_out[-1])})
    return mended, tuple(left_out)


def kept_entries(items: Iterable[Item], place: str, make_id: MakeId) -> list[Entry]:
    """Items that were kept of an earlier response."""
    return [Entry(_whole(item, place, make_id), place, is_earlier=True) for item in yield_between(items)]


def pack_compaction(items: Iterable[Item]) -> str:
    """Items as the `encrypted_content` of a compaction: all of them, packed; opaque to clients."""
    return _SEAL + base64.b64encode(compressed(orjson.dumps(list(items)), 6)).decode()


def expand_compactions(entries: Iterable[Entry], make_id: MakeId) -> list[Entry]:
    """The entries with what was compacted in its place."""
    whole = []
    for entry in entries:
        if entry.item["type"] != "compaction":
            whole.append(entry)
            continue
        items = _unsealed(entry)
        whole += [Entry(_whole(item, entry.place, make_id), entry.place) for item in yield_between(items)]
    if len(whole) > MAX_MESSAGES:
        raise BadRequest(
            f"The conversation holds more than {MAX_MESSAGES} items; begin another one.",
            param=whole[0].place.partition("[")[0],
            code="context_length_exceeded",
        )
    return whole


def _unsealed(entry: Entry) -> list[Item]:
    packed = entry.item["encrypted_content"].removeprefix(_SEAL)
    try:
        # Limited, since a few bytes can unpack into as many as memory holds.
        raw = decompressed(base64.b64decode(packed, validate=True), _MAX_CONTEXT)
        items = None if has_too_many_values(raw) else orjson.loads(raw)
        items = None if is_too_deep(raw, items) else items
    except (ValueError, zlib.error):
        items = None
    if not isinstance(items, list) or any(
        not isinstance(item, dict) or item.get("type") == "compaction" for item in items
    ):
        place = f"{entry.place}.encrypted_content"
        raise wrong_value(place, "it is not what POST /v1/responses/compact of this server gave")
    return items


def check_calls(entries: Iterable[Entry]) -> None:
    """An output must answer a call that stands before it."""
    called = set()
    for entry in entries:
        if entry.item["type"] == "function_call":
            called.add(entry.item["call_id"])
        answers = entry.item.get("call_id") if entry.item["type"] == "function_call_output" else None
        if answers is not None and answers not in called and not entry.is_earlier:
            raise wrong_value(f"{entry.place}.call_id", "no function call before it has this id")


def check_demands(entries: Sequence[Entry]) -> None:
    """Refuse an item that asks for an action which is not taken here.

    One that a model has answered after is history: whatever it asked for was done by another server.
    """
    for entry in reversed(entries):
        kind = entry.item["type"]
        if kind in _DEMANDS:
            raise BadRequest(
                f"Items of type '{kind}' are not supported: {_DEMANDS[kind]}.",
                param=entry.place,
                code="unsupported_content",
            )
        if kind.endswith("_call") or entry.item.get("role") == "assistant":
            return


def foreign_types(entries: Iterable[Entry]) -> list[str]:
    """The types of the items that no flow is told of, as names of ignored parameters; at most a few."""
    kinds = dict.fromkeys(entry.item["type"] for entry in entries if entry.item["type"] not in _READERS)
    return [f"input.{kind}" for kind in kinds][:_MAX_FOREIGN_NAMES]


def as_chat(
    entries: Sequence[Entry],
    instructions: str | None,
    *,
    may_be_empty: bool = False,
    may_be_silent: bool = False,
) -> Conversation:
    """The items as a chat. Raises BadRequest naming the place in the input."""
    messages, places = chat_messages(entries, instructions)
    if not messages:
        if may_be_empty or may_be_silent:
            return Conversation("")
        raise BadRequest("The input holds no text.", param="input", code="invalid_value")
    try:
        chat = conversation(messages, may_be_silent=may_be_silent)
    except BadRequest as error:
        param = input_place(error.param or "", places)
        message = error.message.replace(f"'{error.param}'", f"'{param}'")
        message = message.replace("The messages hold", "The input holds")
        raise BadRequest(message, param=param, code=error.code) from None
    attached = (replace(each, param=input_place(each.param, places)) for each in chat.attachments)
    left_out = chain(chat.left_out, *(entry.left_out for entry in entries))
    return replace(chat, attachments=tuple(attached), left_out=tuple(left_out))


def chat_messages(
    entries: Iterable[Entry], instructions: str | None = None
) -> tuple[list[dict[str, Any]], list[Place]]:
    """The items as messages of a chat, and where each comes from.

    Thoughts, calls of the flow's own tools and items of other types are left out: the flow has them, or
    cannot use them.
    """
    messages: list[dict[str, Any]] = [{"role": "system", "content": instructions}] if instructions else []
    places = [Place("instructions") for _ in messages]
    for entry in yield_between(entries):
        kind = entry.item["type"]
        if kind not in _TOLD or str(entry.item.get("call_id", "")).startswith(OWN_CALL):
            continue
        if kind == "function_call" and messages and messages[-1]["role"] == "assistant":
            messages[-1].setdefault("tool_calls", []).append(_tool_call(entry.item))
            continue
        messages.append(_message(entry.item))
        content = "output" if kind == "function_call_output" else "content"
        places.append(Place(entry.place, content if entry.place.startswith("input[") else ""))
    return messages, places


def input_place(param: str, places: Sequence[Place]) -> str:
    """The place in the input for a place in the messages made of it."""
    found = _MESSAGES_PLACE.fullmatch(param)
    if not found:
        return "input"
    place = places[int(found[1])]
    if not place.content:
        return place.item
    rest = found[2].replace(".content", f".{place.content}", 1)
    return place.item + rest.replace(".image_url.url", ".image_url").replace(".file.", ".")


def _message(item: Item) -> dict[str, Any]:
    if item["type"] == "function_call":
        return {"role": "assistant", "content": None, "tool_calls": [_tool_call(item)]}
    if item["type"] == "function_call_output":
        output = item["output"]
        content = output if isinstance(output, str) else [_chat_part(part) for part in output]
        if "call_id" not in item:  # of a tool that nobody called: it is told by its name
            return {"role": "function", "name": item.get("name"), "content": content}
        return {"role": "tool", "tool_call_id": item["call_id"], "content": content}
    return {"role": item["role"], "content": [_chat_part(part) for part in item["content"]]}


def _tool_call(item: Item) -> dict[str, Any]:
    function = {"name": item["name"], "arguments": item["arguments"]}
    return {"id": item["call_id"], "type": "function", "function": function}


def _chat_part(part: Mapping[str, Any]) -> Mapping[str, Any]:
    if part["type"] == "input_image":
        return {"type": "image_url", "image_url": {"url": part["image_url"], "detail": part["detail"]}}
    if part["type"] == "input_file":
        file = {name: part[name] for name in ("filename", "file_data") if name in part}
        return {"type": "file", "file": file}
    if part["type"] == "input_audio":
        return part
    if part["type"] == "refusal":
        return {"type": "refusal", "refusal": part["refusal"]}
    return {"type": "text", "text": part["text"]}


# --- items made whole ---


def _text_message(text: str, make_id: MakeId) -> Item:
    part = {"type": "input_text", "text": text}
    return {
        "id": make_id("msg_"),
        "type": "message",
        "role": "user",
        "status": "completed",
        "content": [part],
    }


def _referred(item: Any, place: str, resolve: Resolver) -> Item:
    """The item itself, or the one that it refers to: a reference may lack its type, as a message may."""
    if not isinstance(item, dict):
        raise wrong_type(place, "an object", item)
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


def _whole(item: Item, place: str, make_id: MakeId) -> Item:
    kind = string(item, "type", f"{place}.type")
    item_id = item.get("id")
    if kind not in _READERS:
        if not _ITEM_TYPE.fullmatch(kind):
            raise wrong_value(f"{place}.type", "it must be 1 to 64 letters, digits, '_', '.' and '-'")
        return {**item, "id": item_id if item_id and isinstance(item_id, str) else make_id("item_")}
    prefix, read = _READERS[kind]
    if item_id is not None and not isinstance(item_id, str):
        raise wrong_type(f"{place}.id", "a string", item_id)
    return {"id": item_id or make_id(prefix), "type": kind, **read(item, place)}


def _read_message(item: Item, place: str) -> dict[str, Any]:
    role, phase = string(item, "role", f"{place}.role"), item.get("phase")
    if role not in _ROLES:
        raise wrong_value(f"{place}.role", f"'{role[:40]}' is none of {', '.join(_ROLES)}")
    if phase is not None and phase not in _PHASES:
        raise wrong_value(f"{place}.phase", f"it is none of {', '.join(_PHASES)}")
    content = _parts(item.get("content"), f"{place}.content", role)
    message = {"role": role, "status": "completed", "content": content}
    return {**message, "phase": phase} if phase else message


def _read_call(item: Item, place: str) -> dict[str, Any]:
    # Of any length and letters: other models' calls are resent too, whose names and ids know other rules.
    call_id, name = (_filled(item, field, place) for field in ("call_id", "name"))
    arguments = string(item, "arguments", f"{place}.arguments")
    return {"call_id": call_id, "name": name, "arguments": arguments, "status": "completed"}


def _read_output(item: Item, place: str) -> dict[str, Any]:
    named = {
        field: _filled(item, field, place) for field in ("call_id", "name") if item.get(field) is not None
    }
    output = item.get("output")
    if output is None and "output" in item:  # as in a chat: a tool may give nothing
        output = ""
    if isinstance(output, str):
        _check_length(output, _MAX_TEXT, f"{place}.output")
    else:
        output = _parts(output, f"{place}.output", "tool")
    return {**named, "output": output, "status": "completed"}


def _filled(item: Item, field: str, place: str) -> str:
    text = string(item, field, f"{place}.{field}")
    if not text:
        raise wrong_value(f"{place}.{field}", "it must not be empty")
    return text


def _read_reasoning(item: Item, place: str) -> dict[str, Any]:
    """Thoughts that a client sends back: kept, but no flow takes them."""
    summary = item.get("summary")
    if summary is None:
        raise missing(f"{place}.summary")
    if not isinstance(summary, list):
        raise wrong_type(f"{place}.summary", "an array", summary)
    texts = []
    for n, part in enumerate(summary):
        param = f"{place}.summary[{n}]"
        if not isinstance(part, dict):
            raise wrong_type(param, "an object", part)
        texts.append({"type": "summary_text", "text": string(part, "text", f"{param}.text")})
    return {"summary": texts}


def _read_compaction(item: Item, place: str) -> dict[str, Any]:
    return {"encrypted_content": string(item, "encrypted_content", f"{place}.encrypted_content")}


_READERS: Mapping[str, tuple[str, Callable[[Item, str], dict[str, Any]]]] = {
    "message": ("msg_", _read_message),
    "function_call": ("fc_", _read_call),
    "function_call_output": ("fco_", _read_output),
    "reasoning": ("rs_", _read_reasoning),
    "compaction": ("cmp_", _read_compaction),
}
_TOLD = ("message", "function_call", "function_call_output")


def _parts(content: Any, param: str, role: str) -> list[dict[str, Any]]:
    if content is None:
        raise missing(param)
    if isinstance(content, str):
        _check_length(content, _MAX_TEXT, param)
        return [_text_part(content, role)]
    if not isinstance(content, list):
        raise wrong_type(param, "a string or an array of parts", content)
    return [_part(part, f"{param}[{n}]", role) for n, part in enumerate(yield_between(content))]


def _text_part(text: str, role: str) -> dict[str, Any]:
    if role == "assistant":
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    return {"type": "input_text", "text": text}


def _part(part: Any, param: str, role: str) -> dict[str, Any]:
    if not isinstance(part, dict):
        raise wrong_type(param, "an object", part)
    kind = string(part, "type", f"{param}.type")
    if kind in ("input_text", "output_text", "text"):
        text = string(part, "text", f"{param}.text")
        _check_length(text, _MAX_TEXT, f"{param}.text")
        return _text_part(text, role)
    readers = _ANSWER_PARTS if role == "assistant" else _INPUT_PARTS
    if kind not in readers:
        text_kind = "output_text" if role == "assistant" else "input_text"
        raise wrong_value(f"{param}.type", f"'{kind[:40]}' is none of {', '.join([text_kind, *readers])}")
    return readers[kind](part, param)


def _refusal(part: Mapping[str, Any], param: str) -> dict[str, Any]:
    return {"type": "refusal", "refusal": string(part, "refusal", f"{param}.refusal")}


def _image(part: Mapping[str, Any], param: str) -> dict[str, Any]:
    _refuse_reference(part, "file_id", param, "image_url")
    image = string(part, "image_url", f"{param}.image_url")
    _check_length(image, _MAX_IMAGE, f"{param}.image_url")
    detail = "auto" if part.get("detail") in (None, "") else part["detail"]
    if detail not in _DETAILS:
        raise wrong_value(f"{param}.detail", f"it is none of {', '.join(_DETAILS)}")
    return {"type": "input_image", "image_url": image, "detail": detail}


def _audio(part: Mapping[str, Any], param: str) -> dict[str, Any]:
    """What the chat's parser checks in full: it has the same part."""
    audio = part.get("input_audio")
    if audio is None:
        raise missing(f"{param}.input_audio")
    return {"type": "input_audio", "input_audio": audio}


def _file(part: Mapping[str, Any], param: str) -> dict[str, Any]:
    _refuse_reference(part, "file_id", param, "file_data")
    address = part.get("file_url")
    if address is not None:
        string(part, "file_url", f"{param}.file_url")
        if is_image_address(address):  # which the model fetches, as one sent as image_url
            return {"type": "input_image", "image_url": address, "detail": "auto"}
        if address[:5].lower() != "data:":
            _refuse_reference(part, "file_url", param, "file_data")
        part = {**part, "file_data": address}
    data = string(part, "file_data", f"{param}.file_data")
    _check_length(data, _MAX_FILE, f"{param}.file_data")
    file = {"type": "input_file", "file_data": data}
    if part.get("filename") is not None:
        file["filename"] = string(part, "filename", f"{param}.filename")
    return file


_INPUT_PARTS = {"input_image": _image, "input_file": _file, "input_audio": _audio}
_ANSWER_PARTS = {"refusal": _refusal}


def _refuse_reference(part: Mapping[str, Any], name: str, param: str, instead: str) -> None:
    """Refuse a file that is elsewhere: this server keeps none, and fetches none."""
    if part.get(name) is not None:
        raise BadRequest(
            f"This server takes no {name} here; send the content itself as {instead}.",
            param=f"{param}.{name}",
            code="unsupported_content",
        )


def _check_length(text: str, longest: int, param: str) -> None:
    if len(text) > longest:
        raise wrong_value(param, f"at most {longest} characters are allowed")
