"""Answers in JSON: `response_format` and `text.format` read, told to the flow, and kept to. Leaf, pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from flow_guards import Batch, Batches, changed
from flow_turn import FlowEvent, FunctionCalled, TextDelta, TurnEnded, Warned, json_text
from openai_fields import boolean, missing, optional_object, string, text_or_nothing, wrong_type, wrong_value

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_KINDS = ("text", "json_object", "json_schema")
_MOST_SPACE = 1000
_FENCE = re.compile(r"```([A-Za-z0-9]*)(?=[^A-Za-z0-9`])")
_LONGEST_INFO = 10


@dataclass(frozen=True, slots=True)
class JsonFormat:
    """That an answer must be JSON: any object, or what a JSON Schema describes."""

    schema: Mapping[str, Any] | None = None
    name: str = ""
    description: str = ""


def parse_format(body: Mapping[str, Any]) -> JsonFormat | None:
    """What `response_format` or, in Responses, `text.format` asks for; None for text. Raises BadRequest."""
    given, param = optional_object(body, "response_format"), "response_format"
    text = body.get("text")
    if not given and isinstance(text, dict) and text.get("format") is not None:
        given, param = text["format"], "text.format"
    if not isinstance(given, dict):
        raise wrong_type(param, "an object", given)
    if not given:
        return None
    kind = string(given, "type", f"{param}.type")
    if kind not in _KINDS:
        raise wrong_value(f"{param}.type", f"'{kind[:40]}' is none of {', '.join(_KINDS)}")
    if kind == "json_schema":
        return _of_schema(given, param)
    return JsonFormat() if kind == "json_object" else None


def _of_schema(given: Mapping[str, Any], param: str) -> JsonFormat:
    if param == "response_format":
        given, param = given.get("json_schema", {}), f"{param}.json_schema"
        if not isinstance(given, dict):
            raise wrong_type(param, "an object", given)
        if not given:
            raise missing(param)
    name, schema = string(given, "name", f"{param}.name"), given.get("schema")
    if not _NAME.fullmatch(name):
        raise wrong_value(f"{param}.name", "it must match ^[a-zA-Z0-9_-]{1,64}$")
    if schema is not None and not isinstance(schema, dict):
        raise wrong_type(f"{param}.schema", "an object", schema)
    boolean(given, "strict", f"{param}.strict")
    return JsonFormat(schema or {}, name, text_or_nothing(given, "description", f"{param}.description"))


def format_instructions(fmt: JsonFormat) -> str:
    """What the flow is told of the format."""
    how = "Answer with nothing but {}: no words before or after it, and no code block."
    if fmt.schema is None:
        return how.format("one JSON object")
    about = f' "{fmt.name}" ({fmt.description})' if fmt.description else f' "{fmt.name}"'
    return "\n".join([how.format(f"JSON that fits the JSON Schema{about} below"), json_text(fmt.schema)])


def json_guard(batches: Batches, fmt: JsonFormat) -> Batches:
    """Take the code fence off an answer that is one fenced block, and warn of an answer that is no JSON.

    Nothing else is changed. Only what may be a fence is held back.
    """
    return changed(batches, _JsonAnswer(fmt).take)


class _JsonAnswer:
    """The answer as far as it came."""

    def __init__(self, fmt: JsonFormat) -> None:
        self._format = fmt
        self._fence = _Fence()
        self._said: list[str] = []
        self._has_calls = False

    def take(self, event: FlowEvent) -> Batch:
        if isinstance(event, TextDelta):
            return self._say(self._fence.read(event.text))
        if isinstance(event, TurnEnded):
            return [*self._say(self._fence.end()), *self._warnings(), event]
        self._has_calls = self._has_calls or isinstance(event, FunctionCalled)
        return [event]

    def _say(self, text: str) -> Batch:
        if not text:
            return []
        self._said.append(text)
        return [TextDelta(text)]

    def _warnings(self) -> Batch:
        text = "".join(self._said)
        if not text.strip() or self._has_calls or self._is_kept(text):
            return []
        return [Warned("The answer is not the JSON that was asked for.")]

    def _is_kept(self, text: str) -> bool:
        try:
            value = orjson.loads(text)
        except orjson.JSONDecodeError:
            return False
        return self._format.schema is not None or isinstance(value, dict)


class _Fence:
    """Takes an opening fence off the beginning of a text, and then a closing one off its end."""

    def __init__(self) -> None:
        self._held = ""
        self._is_decided = False
        self._is_open = False
        self._is_begun = False

    def read(self, text: str) -> str:
        """What may be passed on now."""
        text, self._held = self._held + text, ""
        if not self._is_decided:
            text = self._without_opening(text)
        if not self._is_open:
            return text
        if not self._is_begun:
            text = text.lstrip()
            self._is_begun = bool(text)
        # White space and backticks at the end may be the closing fence.
        kept = text.rstrip()
        plain = kept.rstrip("`")
        end = len(plain.rstrip()) if len(kept) - len(plain) <= 3 else len(text)
        end = max(end, len(text) - _MOST_SPACE)
        self._held = text[end:]
        return text[:end]

    def _without_opening(self, text: str) -> str:
        begun = text.lstrip()
        info = begun[3:] or "x"
        may_be = "```".startswith(begun[:3]) and len(text) - len(begun) <= _MOST_SPACE
        if may_be and info.isalnum() and len(info) <= _LONGEST_INFO:
            self._held = text
            return ""
        self._is_decided = True
        fence = _FENCE.match(begun) if may_be else None
        self._is_open = fence is not None and fence[1].lower() in ("", "json")
        return begun[fence.end() :] if fence and self._is_open else text

    def end(self) -> str:
        """What is left at the end of the text."""
        held, self._held = self._held, ""
        return "" if self._is_open and held.strip() == "```" else held
