"""Messages of a chat into Flowise's words: question, history, system text. Wire layer, pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from flow_turn import Attachment, FunctionCalled, HistoryMessage, json_text
from openai_fields import missing, string, wrong_type, wrong_value
from openai_sources import without_footer
from openai_tools import call_text
from openai_uploads import audio_part, file_part, image_part
from proxy_errors import BadRequest

ROLES = ("developer", "system", "user", "assistant", "tool", "function")
GO_ON = "Go on."
LOOK = "See the attachment."
_MOST_MESSAGES = 100_000


@dataclass(frozen=True, slots=True)
class Conversation:
    """A chat as Flowise takes it: all up to the last answer is history, what follows is the question.

    `question` is what the users said, empty if nothing; `to_ask` is what to ask then. The attachments are in
    order, those of the question at the position `len(history)`.
    """

    question: str
    history: tuple[HistoryMessage, ...] = ()
    instructions: str = ""
    attachments: tuple[Attachment, ...] = ()

    @property
    def to_ask(self) -> str:
        """The question, never empty."""
        if self.question:
            return self.question
        return LOOK if any(a.position == len(self.history) for a in self.attachments) else GO_ON


@dataclass(slots=True)
class _Reading:
    instructions: list[str] = field(default_factory=list)
    history: list[HistoryMessage] = field(default_factory=list)
    question: list[str] = field(default_factory=list)
    tool_names: dict[str, str] = field(default_factory=dict)
    attachments: list[Attachment] = field(default_factory=list)

    def attach(self, part: Mapping[str, Any], param: str) -> None:
        """Keep a part that is no text."""
        read = _READERS[part["type"]](part, param, len(self.attachments) + 1)
        self.attachments.append(replace(read, position=len(self.history)))


_READERS = {"image_url": image_part, "input_audio": audio_part, "file": file_part}


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
    has_said = question or reading.history or reading.attachments
    if not has_said:
        # Nothing but a system text: it is all that can be asked.
        question, instructions = instructions, ""
    if not (question or has_said):
        raise BadRequest("The messages hold no text.", param="messages", code="invalid_value")
    return Conversation(question, tuple(reading.history), instructions, tuple(reading.attachments))


def answer_in_history(text: str, calls: Sequence[FunctionCalled]) -> str:
    """An answer as it stands in the history once its client sends it back."""
    if not calls:  # nearly all
        return without_footer(text)
    told = [{"id": c.call_id, "function": {"name": c.name, "arguments": c.arguments}} for c in calls]
    history = conversation([{"role": "assistant", "content": text, "tool_calls": told}, _NOBODY]).history
    return history[-1].content if history else ""


_NOBODY = {"role": "user", "content": "-"}


def _read(reading: _Reading, message: Any, param: str) -> None:
    if not isinstance(message, dict):
        raise wrong_type(param, "an object", message)
    role = string(message, "role", f"{param}.role")
    if role not in ROLES:
        raise wrong_value(f"{param}.role", f"'{role[:40]}' is none of {', '.join(ROLES)}")
    text = _content(reading, message.get("content"), param, role)
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
    text = without_footer(text)
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
    arguments = json_text(function.get("arguments", function.get("input", "")))
    return name, call_text(name, arguments)


def _tool_result(reading: _Reading, message: Mapping[str, Any], text: str, param: str) -> str:
    name = message.get("name")
    if message["role"] == "tool":
        call = string(message, "tool_call_id", f"{param}.tool_call_id")
        name = reading.tool_names.get(call, name)
    return f"Tool result of {name if isinstance(name, str) else 'the tool'}: {text}"


def _content(reading: _Reading, content: Any, param: str, role: str) -> str:
    if isinstance(content, str):
        return content
    if content is None:
        if role == "assistant":
            return ""
        raise missing(f"{param}.content")
    if not isinstance(content, list):
        raise wrong_type(f"{param}.content", "a string or an array of parts", content)
    texts = [_part(reading, part, f"{param}.content[{n}]") for n, part in enumerate(content)]
    return "\n".join(text for text in texts if text is not None)


def _part(reading: _Reading, part: Any, param: str) -> str | None:
    """The text of a part; None for one that is kept as an attachment."""
    if isinstance(part, str):
        return part
    if not isinstance(part, dict):
        raise wrong_type(param, "an object", part)
    kind = string(part, "type", f"{param}.type")
    if kind in ("text", "refusal", "input_text", "output_text"):
        name = "refusal" if kind == "refusal" else "text"
        return string(part, name, f"{param}.{name}")
    if kind in _READERS:
        reading.attach(part, param)
        return None
    raise wrong_value(
        f"{param}.type", f"'{kind[:40]}' is none of text, image_url, input_audio, file, refusal"
    )
