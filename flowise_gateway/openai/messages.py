"""Parses the `messages` of a chat completion into a conversation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from flowise_gateway.flow.cooperative import yield_between
from flowise_gateway.flow.errors import BadRequest
from flowise_gateway.flow.lenient_json import json_text
from flowise_gateway.openai.attachments import audio_part, file_part, image_part
from flowise_gateway.openai.conversation_builder import (
    MAX_MESSAGES,
    Conversation,
    ConversationBuilder,
    is_thought,
    part_kind,
)
from flowise_gateway.openai.fields import expect, missing, required, string, wrong_type, wrong_value

ROLES = ("developer", "system", "user", "assistant", "tool", "function")
_READERS = {"image_url": image_part, "input_audio": audio_part, "file": file_part}
_THOUGHTS = ("thinking", "redacted_thinking", "reasoning", "think")
"""Reasoning parts of other providers' models, which are not part of the answer's text."""


def conversation(messages: Any, *, may_be_silent: bool = False) -> Conversation:
    """Parse `messages`. Raises BadRequest for an invalid part, unless it is in an earlier message.

    With `may_be_silent`, the messages may contain no text, because the request has a form instead.
    """
    if messages is None and not may_be_silent:
        raise missing("messages")
    messages = [] if messages is None else messages
    expect(messages, list, "messages")
    if not (messages or may_be_silent) or len(messages) > MAX_MESSAGES:
        raise wrong_value("messages", f"it must contain 1 to {MAX_MESSAGES} messages")
    roles = [message.get("role") if isinstance(message, dict) else None for message in messages]
    builder = ConversationBuilder(roles)
    for n, message in enumerate(yield_between(messages)):
        if roles[n] == "assistant" and _is_thought(message):
            continue
        builder.begin(n, roles[n])
        try:
            _read(builder, message, f"messages[{n}]")
        except BadRequest as error:
            builder.leave_out("message", error)
    chat = builder.build()
    if chat.is_empty and not may_be_silent:
        raise BadRequest("The messages contain no text.", param="messages", code="invalid_value")
    return chat


def _is_thought(message: Mapping[str, Any]) -> bool:
    content = message.get("content")
    if isinstance(content, list) and len(content) == 1 and isinstance(content[0], dict):
        content = content[0].get("text")
    has_calls = message.get("tool_calls") or message.get("function_call")
    return isinstance(content, str) and not has_calls and is_thought(content)


def _read(builder: ConversationBuilder, message: Any, param: str) -> None:
    expect(message, dict, param)
    role = string(message, "role", f"{param}.role")
    if role not in ROLES:
        raise wrong_value(f"{param}.role", f"'{role[:40]}' is not one of {', '.join(ROLES)}")
    text = _content(builder, message.get("content"), param, role)
    if role == "assistant":
        if not text and isinstance(message.get("refusal"), str):
            text = message["refusal"]
        builder.add_answer(text, list(_tool_calls(builder, message, param)))
    elif role == "user":
        builder.add_user(text)
    elif role in ("system", "developer"):
        builder.add_system(text)
    else:
        call_id = message.get("tool_call_id") if role == "tool" else None
        if role == "tool" and not builder.is_earlier:
            string(message, "tool_call_id", f"{param}.tool_call_id")
        builder.add_tool_result(call_id, message.get("name"), text)


def _tool_calls(builder: ConversationBuilder, message: Mapping[str, Any], param: str) -> Iterator[str]:
    calls = message.get("tool_calls")
    if calls is not None and not isinstance(calls, list):
        yield builder.leave_out("tool call", wrong_type(f"{param}.tool_calls", "an array", calls))
        calls = None
    for n, call in enumerate(yield_between(calls or ())):
        place = f"{param}.tool_calls[{n}]"
        try:
            expect(call, dict, place)
            kind = "custom" if call.get("type") == "custom" else "function"
            yield _tool_call(builder, call.get("id"), call.get(kind), f"{place}.{kind}")
        except BadRequest as error:
            yield builder.leave_out("tool call", error)
    if message.get("function_call") is not None:
        try:
            yield _tool_call(builder, None, message["function_call"], f"{param}.function_call")
        except BadRequest as error:
            yield builder.leave_out("tool call", error)


def _tool_call(builder: ConversationBuilder, call_id: Any, function: Any, param: str) -> str:
    required(function, dict, param)
    name = string(function, "name", f"{param}.name")
    return builder.tool_call(call_id, name, json_text(function.get("arguments", function.get("input", ""))))


def _content(builder: ConversationBuilder, content: Any, param: str, role: str) -> str:
    if isinstance(content, str):
        return content
    if content is None:
        # A tool result may be empty, and an answer may consist of tool calls only.
        if role in ("assistant", "tool", "function") or builder.is_earlier:
            return ""
        raise missing(f"{param}.content")
    if not isinstance(content, list):
        error = wrong_type(f"{param}.content", "a string or an array of parts", content)
        return builder.leave_out("part", error)
    texts = []
    for n, part in enumerate(yield_between(content)):
        try:
            text = _part(builder, part, f"{param}.content[{n}]")
        except BadRequest as error:
            if builder.is_earlier and isinstance(part, dict) and part.get("type") in _THOUGHTS:
                continue
            text = builder.leave_out(part_kind(part), error)
        if text is not None:
            texts.append(text)
    return "\n".join(texts)


def _part(builder: ConversationBuilder, part: Any, param: str) -> str | None:
    """The text of a part; None for an attachment."""
    if isinstance(part, str):
        return part
    expect(part, dict, param)
    kind = string(part, "type", f"{param}.type")
    if kind in ("text", "refusal", "input_text", "output_text"):
        name = "refusal" if kind == "refusal" else "text"
        return string(part, name, f"{param}.{name}")
    if kind in _READERS:
        builder.attach(_READERS[kind](part, param, builder.next_file_number))
        return None
    raise wrong_value(
        f"{param}.type", f"'{kind[:40]}' is not one of text, image_url, input_audio, file, refusal"
    )
