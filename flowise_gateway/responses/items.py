"""One input item of a response: validated, and completed so that it can be listed and sent back.

Errors name the field by the path that the caller passes. An item of an unknown type is accepted unchanged,
since a client that changes models within a chat sends the items of the other model.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from flowise_gateway.flow.cooperative import yield_between
from flowise_gateway.flow.errors import BadRequest
from flowise_gateway.openai.attachments import is_image_address
from flowise_gateway.openai.conversation_builder import left_out_note, part_kind
from flowise_gateway.openai.fields import expect, missing, optional, required, string, wrong_value

Item = Mapping[str, Any]
MakeId = Callable[[str], str]
LeftOut = list[str] | None

MAX_TEXT = 10 * 2**20
_MAX_IMAGE = 20 * 2**20
_MAX_FILE = 32 * 2**20
_ROLES = ("user", "system", "developer", "assistant")
_PHASES = ("commentary", "final_answer")
_DETAILS = ("low", "high", "auto", "original")
_ITEM_TYPE = re.compile(r"[A-Za-z0-9_.-]{1,64}")


def complete(item: Item, place: str, make_id: MakeId, left_out: LeftOut = None) -> Item:
    """The item with its id and all fields of its type. Raises BadRequest.

    With `left_out`, each unreadable part is replaced by a note, and its kind is added to the list.
    """
    kind = string(item, "type", f"{place}.type")
    item_id = item.get("id")
    if kind not in READERS:
        if not _ITEM_TYPE.fullmatch(kind):
            raise wrong_value(f"{place}.type", "it must be 1 to 64 letters, digits, '_', '.' and '-'")
        return {**item, "id": item_id if item_id and isinstance(item_id, str) else make_id("item_")}
    prefix, read = READERS[kind]
    optional(item_id, str, f"{place}.id")
    return {"id": item_id or make_id(prefix), "type": kind, **read(item, place, left_out)}


def _message(item: Item, place: str, left_out: LeftOut) -> dict[str, Any]:
    role, phase = string(item, "role", f"{place}.role"), item.get("phase")
    if role not in _ROLES:
        raise wrong_value(f"{place}.role", f"'{role[:40]}' is not one of {', '.join(_ROLES)}")
    if phase is not None and phase not in _PHASES:
        raise wrong_value(f"{place}.phase", f"it must be one of {', '.join(_PHASES)}")
    content = _parts(item.get("content"), f"{place}.content", role, left_out)
    message = {"role": role, "status": "completed", "content": content}
    return {**message, "phase": phase} if phase else message


def _function_call(item: Item, place: str, _: LeftOut) -> dict[str, Any]:
    # Names and ids are not restricted, since calls of other models, with other rules, are resent, too.
    call_id, name = (_non_empty(item, field, place) for field in ("call_id", "name"))
    arguments = string(item, "arguments", f"{place}.arguments")
    return {"call_id": call_id, "name": name, "arguments": arguments, "status": "completed"}


def _function_call_output(item: Item, place: str, left_out: LeftOut) -> dict[str, Any]:
    fields = ("call_id", "name")
    named = {field: _non_empty(item, field, place) for field in fields if item.get(field) is not None}
    output = item.get("output")
    if output is None and "output" in item:  # as in a chat, a tool result may be empty
        output = ""
    if isinstance(output, str):
        check_length(output, MAX_TEXT, f"{place}.output")
    else:
        output = _parts(output, f"{place}.output", "tool", left_out)
    return {**named, "output": output, "status": "completed"}


def _non_empty(item: Item, field: str, place: str) -> str:
    text = string(item, field, f"{place}.{field}")
    if not text:
        raise wrong_value(f"{place}.{field}", "it must not be empty")
    return text


def _reasoning(item: Item, place: str, _: LeftOut) -> dict[str, Any]:
    texts = []
    for n, part in enumerate(required(item.get("summary"), list, f"{place}.summary")):
        param = f"{place}.summary[{n}]"
        expect(part, dict, param)
        texts.append({"type": "summary_text", "text": string(part, "text", f"{param}.text")})
    return {"summary": texts}


def _compaction(item: Item, place: str, _: LeftOut) -> dict[str, Any]:
    return {"encrypted_content": string(item, "encrypted_content", f"{place}.encrypted_content")}


READERS: Mapping[str, tuple[str, Callable[[Item, str, LeftOut], dict[str, Any]]]] = {
    "message": ("msg_", _message),
    "function_call": ("fc_", _function_call),
    "function_call_output": ("fco_", _function_call_output),
    "reasoning": ("rs_", _reasoning),
    "compaction": ("cmp_", _compaction),
}
"""The known types: the prefix of their ids, and the parser of their fields."""


def _parts(content: Any, param: str, role: str, left_out: LeftOut) -> list[dict[str, Any]]:
    if content is None:
        if left_out is None:
            raise missing(param)
        content = ""
    if isinstance(content, str):
        check_length(content, MAX_TEXT, param)
        return [_text_part(content, role)]
    expect(content, list, param, "a string or an array of parts")
    parts = []
    for n, part in enumerate(yield_between(content)):
        try:
            parts.append(_part(part, f"{param}[{n}]", role))
        except BadRequest:
            if left_out is None:
                raise
            left_out.append(part_kind(part))
            parts.append(_text_part(left_out_note(left_out[-1]), role))
    return parts


def _text_part(text: str, role: str) -> dict[str, Any]:
    if role == "assistant":
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    return {"type": "input_text", "text": text}


def _part(part: Any, param: str, role: str) -> dict[str, Any]:
    expect(part, dict, param)
    kind = string(part, "type", f"{param}.type")
    if kind in ("input_text", "output_text", "text"):
        text = string(part, "text", f"{param}.text")
        check_length(text, MAX_TEXT, f"{param}.text")
        return _text_part(text, role)
    readers = _ANSWER_PARTS if role == "assistant" else _INPUT_PARTS
    if kind not in readers:
        text_kind = "output_text" if role == "assistant" else "input_text"
        raise wrong_value(f"{param}.type", f"'{kind[:40]}' is not one of {', '.join([text_kind, *readers])}")
    return readers[kind](part, param)


def _refusal(part: Mapping[str, Any], param: str) -> dict[str, Any]:
    return {"type": "refusal", "refusal": string(part, "refusal", f"{param}.refusal")}


def _image(part: Mapping[str, Any], param: str) -> dict[str, Any]:
    _refuse_reference(part, "file_id", param, "image_url")
    image = string(part, "image_url", f"{param}.image_url")
    check_length(image, _MAX_IMAGE, f"{param}.image_url")
    detail = "auto" if part.get("detail") in (None, "") else part["detail"]
    if detail not in _DETAILS:
        raise wrong_value(f"{param}.detail", f"it must be one of {', '.join(_DETAILS)}")
    return {"type": "input_image", "image_url": image, "detail": detail}


def _audio(part: Mapping[str, Any], param: str) -> dict[str, Any]:
    if part.get("input_audio") is None:
        raise missing(f"{param}.input_audio")
    return {"type": "input_audio", "input_audio": part["input_audio"]}


def _file(part: Mapping[str, Any], param: str) -> dict[str, Any]:
    _refuse_reference(part, "file_id", param, "file_data")
    address = part.get("file_url")
    if address is not None:
        string(part, "file_url", f"{param}.file_url")
        if is_image_address(address):  # fetched by the model's provider, like an image_url
            return {"type": "input_image", "image_url": address, "detail": "auto"}
        if address[:5].lower() != "data:":
            _refuse_reference(part, "file_url", param, "file_data")
        part = {**part, "file_data": address}
    data = string(part, "file_data", f"{param}.file_data")
    check_length(data, _MAX_FILE, f"{param}.file_data")
    file = {"type": "input_file", "file_data": data}
    if part.get("filename") is not None:
        file["filename"] = string(part, "filename", f"{param}.filename")
    return file


_INPUT_PARTS = {"input_image": _image, "input_file": _file, "input_audio": _audio}
_ANSWER_PARTS = {"refusal": _refusal}


def _refuse_reference(part: Mapping[str, Any], name: str, param: str, instead: str) -> None:
    """Refuse a file that is stored elsewhere: this server stores no files, and fetches none."""
    if part.get(name) is not None:
        raise BadRequest(
            f"This server does not accept {name} here; send the content itself as {instead}.",
            param=f"{param}.{name}",
            code="unsupported_content",
        )


def check_length(text: str, longest: int, param: str) -> None:
    """Refuse a text that is too long."""
    if len(text) > longest:
        raise wrong_value(param, f"at most {longest} characters are allowed")
