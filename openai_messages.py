"""Messages of a chat into Flowise's words: question, history, system text. Wire layer, pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from flow_turn import HistoryMessage, json_text
from openai_fields import missing, string, wrong_type, wrong_value
from proxy_errors import BadRequest

ROLES = ("developer", "system", "user", "assistant", "tool", "function")
GO_ON = "Go on."
_MOST_MESSAGES = 100_000


@dataclass(frozen=True, slots=True)
class Conversation:
    """A chat as Flowise takes it: all up to the last answer is history, what follows is the question."""

    question: str
    history: tuple[HistoryMessage, ...] = ()
    instructions: str = ""


@dataclass(slots=True)
class _Reading:
    instructions: list[str] = field(default_factory=list)
    history: list[HistoryMessage] = field(default_factory=list)
    question: list[str] = field(default_factory=list)
    tool_names: dict[str, str] = field(default_factory=dict)


def conversation(messages: Any) -> Conversation:
    """Read `messages`. Raises BadRequest naming the part that is wrong."""
    if messages is None:
        raise missing("messages")
    if not isinstance(messages, list):
        raise wrong_type("messages", "an array", messages)
    if not 0 < len(messages) <= _MOST_MESSAGES:
        raise wrong_value("messages", f"it must hold 1 to {_MOST_MESSAGES} messages")
    reading = _Reading()
    for n, message in enumerate(messages):
        _read(reading, message, f"messages[{n}]")
    question = "\n\n".join(reading.question)
    instructions = "\n\n".join(reading.instructions)
    if not (question or reading.history):
        # Nothing but a system text: it is all that can be asked.
        question, instructions = instructions, ""
    if not (question or reading.history):
        raise BadRequest("The messages hold no text.", param="messages", code="invalid_value")
    return Conversation(question or GO_ON, tuple(reading.history), instructions)


def _read(reading: _Reading, message: Any, param: str) -> None:
    if not isinstance(message, dict):
        raise wrong_type(param, "an object", message)
    role = string(message, "role", f"{param}.role")
    if role not in ROLES:
        raise wrong_value(f"{param}.role", f"'{role[:40]}' is none of {', '.join(ROLES)}")
    text = _content(message.get("content"), param, role)
    if role == "assistant" and not text and isinstance(message.get("refusal"), str):
        text = message["refusal"]
    if role in ("system", "developer"):
        reading.instructions.extend([text] if text else [])
    elif role == "assistant":
        _read_answer(reading, message, text, param)
    elif role == "user":
        reading.question.extend([text] if text else [])
    else:
        reading.question.append(_tool_result(reading, message, text, param))


def _read_answer(reading: _Reading, message: Mapping[str, Any], text: str, param: str) -> None:
    calls = list(_tool_calls(reading, message, param))
    earlier = "\n\n".join(reading.question)
    reading.question.clear()
    if earlier:
        reading.history.append(HistoryMessage("userMessage", earlier))
    answer = "\n".join([text, *calls] if text else calls)
    if answer:
        reading.history.append(HistoryMessage("apiMessage", answer))


def _tool_calls(reading: _Reading, message: Mapping[str, Any], param: str) -> Iterator[str]:
    calls = message.get("tool_calls")
    if calls is not None and not isinstance(calls, list):
        raise wrong_type(f"{param}.tool_calls", "an array", calls)
    for n, call in enumerate(calls or ()):
        place = f"{param}.tool_calls[{n}]"
        if not isinstance(call, dict):
            raise wrong_type(place, "an object", call)
        kind = "custom" if call.get("type") == "custom" else "function"
        name, told = _called(call.get(kind), f"{place}.{kind}")
        if isinstance(call.get("id"), str):
            reading.tool_names[call["id"]] = name
        yield told
    if message.get("function_call") is not None:
        yield _called(message["function_call"], f"{param}.function_call")[1]


def _called(function: Any, param: str) -> tuple[str, str]:
    if function is None:
        raise missing(param)
    if not isinstance(function, dict):
        raise wrong_type(param, "an object", function)
    name = string(function, "name", f"{param}.name")
    arguments = function.get("arguments", function.get("input", ""))
    return name, f"[Called tool {name} with {json_text(arguments)}]"


def _tool_result(reading: _Reading, message: Mapping[str, Any], text: str, param: str) -> str:
    name = message.get("name")
    if message["role"] == "tool":
        call = string(message, "tool_call_id", f"{param}.tool_call_id")
        name = reading.tool_names.get(call, name)
    return f"Tool result of {name if isinstance(name, str) else 'the tool'}: {text}"


def _content(content: Any, param: str, role: str) -> str:
    if isinstance(content, str):
        return content
    if content is None:
        if role == "assistant":
            return ""
        raise missing(f"{param}.content")
    if not isinstance(content, list):
        raise wrong_type(f"{param}.content", "a string or an array of parts", content)
    return "\n".join(_part(part, f"{param}.content[{n}]") for n, part in enumerate(content))


def _part(part: Any, param: str) -> str:
    if isinstance(part, str):
        return part
    if not isinstance(part, dict):
        raise wrong_type(param, "an object", part)
    kind = string(part, "type", f"{param}.type")
    if kind in ("text", "refusal", "input_text", "output_text"):
        name = "refusal" if kind == "refusal" else "text"
        return string(part, name, f"{param}.{name}")
    if kind in ("image_url", "input_audio", "file"):
        raise BadRequest(
            f"This server does not pass content of type '{kind}' to flows yet; send text.",
            param=f"{param}.type",
            code="unsupported_content",
        )
    raise wrong_value(f"{param}.type", f"'{kind[:40]}' is none of text, refusal")
