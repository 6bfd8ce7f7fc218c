"""Structured output: parses `response_format` and `text.format`, describes and enforces them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from flowise_gateway.flow.events import (
    Batch,
    Batches,
    ClientToolCalled,
    FlowEvent,
    TextDelta,
    TurnEnded,
    Warned,
)
from flowise_gateway.flow.filters import map_events
from flowise_gateway.flow.lenient_json import json_text
from flowise_gateway.openai.fields import (
    boolean,
    expect,
    missing,
    optional,
    optional_object,
    string,
    text_or_nothing,
    wrong_value,
)

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_KINDS = ("text", "json_object", "json_schema")
_MAX_SPACE = 1000
_FENCE = re.compile(r"```([A-Za-z0-9]*)(?=[^A-Za-z0-9`])")
_MAX_INFO = 10
_RUN = re.compile("`{3,}")
_MAX_INDENT = 100
_MAX_TRIES = 8
"""How many fences in the middle of a line are tried as the end of the JSON; each try parses all of it."""


@dataclass(frozen=True, slots=True)
class JsonFormat:
    """A requested JSON format: any object, or a JSON Schema."""

    schema: Mapping[str, Any] | None = None
    name: str = ""
    description: str = ""


def parse_format(body: Mapping[str, Any]) -> JsonFormat | None:
    """The format in `response_format` or, in Responses, `text.format`; None for text. Raises BadRequest."""
    given, param = optional_object(body, "response_format"), "response_format"
    text = body.get("text")
    if not given and isinstance(text, dict) and text.get("format") is not None:
        given, param = expect(text["format"], dict, "text.format"), "text.format"
    return read_format(given, param) if given else None


def read_format(given: Mapping[str, Any], param: str) -> JsonFormat | None:
    """The format in one of these fields; only `response_format` nests the schema in `json_schema`."""
    kind = string(given, "type", f"{param}.type")
    if kind not in _KINDS:
        raise wrong_value(f"{param}.type", f"'{kind[:40]}' is not one of {', '.join(_KINDS)}")
    if kind != "json_schema":
        return JsonFormat() if kind == "json_object" else None
    if param == "response_format":
        param = f"{param}.json_schema"
        given = expect(given.get("json_schema", {}), dict, param)
        if not given:
            raise missing(param)
    name = string(given, "name", f"{param}.name")
    if not _NAME.fullmatch(name):
        raise wrong_value(f"{param}.name", "it must match ^[a-zA-Z0-9_-]{1,64}$")
    schema = optional(given.get("schema"), dict, f"{param}.schema")
    boolean(given, "strict", f"{param}.strict")
    return JsonFormat(schema or {}, name, text_or_nothing(given, "description", f"{param}.description"))


def format_instructions(fmt: JsonFormat) -> str:
    """The instructions that describe the format to the flow."""
    how = "Answer with nothing but {}: no words before or after it, and no code block."
    if fmt.schema is None:
        return how.format("one JSON object")
    about = f' "{fmt.name}" ({fmt.description})' if fmt.description else f' "{fmt.name}"'
    return "\n".join([how.format(f"JSON that fits the JSON Schema{about} below"), json_text(fmt.schema)])


def json_guard(batches: Batches, fmt: JsonFormat) -> Batches:
    """Remove the code fence around an answer, and warn if the answer is not JSON.

    Text after fenced JSON is dropped with a warning, since clients could not parse the answer otherwise.
    Nothing else is changed, and only a possible fence is delayed.
    """
    return map_events(batches, _JsonAnswer(fmt).take)


class _JsonAnswer:
    def __init__(self, fmt: JsonFormat) -> None:
        self._format = fmt
        self._fence = _Fence(self._ends_with)
        self._texts: list[str] = []
        self._has_calls = False

    def take(self, event: FlowEvent) -> Batch:
        if isinstance(event, TextDelta):
            return self._emit(self._fence.read(event.text))
        if isinstance(event, TurnEnded):
            return [*self._emit(self._fence.end()), *self._warnings(), event]
        self._has_calls = self._has_calls or isinstance(event, ClientToolCalled)
        return [event]

    def _emit(self, text: str) -> Batch:
        if not text:
            return []
        self._texts.append(text)
        return [TextDelta(text)]

    def _ends_with(self, text: str) -> bool:
        """Whether the answer so far plus this text is complete JSON."""
        return self._is_valid("".join([*self._texts, text]))

    def _warnings(self) -> Batch:
        text = "".join(self._texts)
        if self._fence.is_cut:
            return [Warned("Text after the requested JSON was left out.")]
        if not text.strip() or self._has_calls or self._is_valid(text):
            return []
        return [Warned("The answer is not the requested JSON.")]

    def _is_valid(self, text: str) -> bool:
        try:
            value = orjson.loads(text)
        except orjson.JSONDecodeError:
            return False
        return self._format.schema is not None or isinstance(value, dict)


class _Fence:
    """Removes an opening fence from the beginning of a text, and then the closing one.

    `ends_with` says whether the text so far plus some more is complete JSON. `is_cut` means that text after
    it was dropped.
    """

    def __init__(self, ends_with: Callable[[str], bool]) -> None:
        self.is_cut = False
        self._ends_with = ends_with
        self._pending = ""
        self._last = ""
        self._tries = _MAX_TRIES
        self._is_decided = False
        self._is_open = False
        self._has_content = False

    def read(self, text: str) -> str:
        """The part of the text that may be passed on now."""
        if self.is_cut:
            return ""
        text, self._pending = self._pending + text, ""
        if not self._is_decided:
            text = self._without_opening(text)
        if self._is_open:
            text = self._without_closing(text)
        self._last = text[-1:] or self._last
        return text

    def _without_closing(self, text: str) -> str:
        if not self._has_content:
            text = text.lstrip()
            self._has_content = bool(text)
        for run in _RUN.finditer(text, 0, len(text.rstrip().rstrip("`"))):
            # JSON strings contain no raw line breaks, so a fence on its own line is outside the JSON.
            before = self._last + text[max(0, run.start() - _MAX_INDENT) : run.start()]
            is_line = before.rstrip(" \t")[-1:] in ("", "\n")
            self._tries -= not is_line
            if (is_line or self._tries >= 0) and self._ends_with(text[: run.start()]):
                self.is_cut = True
                return text[: run.start()].rstrip()
            if is_line:
                self._is_open = False
                return text[: run.start()] + text[run.end() :]
        # White space and backticks at the end may be the closing fence.
        end = len(text.rstrip().rstrip("`").rstrip())
        end = max(end, len(text) - _MAX_SPACE)
        self._pending = text[end:]
        return text[:end]

    def _without_opening(self, text: str) -> str:
        content = text.lstrip()
        info = content[3:] or "x"
        may_be = "```".startswith(content[:3]) and len(text) - len(content) <= _MAX_SPACE
        if may_be and info.isalnum() and len(info) <= _MAX_INFO:
            self._pending = text
            return ""
        self._is_decided = True
        fence = _FENCE.match(content) if may_be else None
        self._is_open = fence is not None and fence[1].lower() in ("", "json")
        return content[fence.end() :] if fence and self._is_open else text

    def end(self) -> str:
        """The part of the text that was withheld to the end."""
        pending, self._pending = self._pending, ""
        return "" if self._is_open and _RUN.fullmatch(pending.strip()) else pending
