"""Finds calls of a client's tools in the text of a flow, however it is split.

A call is `<tool_call>{"name": …, "arguments": {…}}</tool_call>` with exactly these two keys, of a tool that
was offered; white space is allowed, and a code fence inside the tags is ignored. Anything else remains text:
an unknown tool, invalid JSON, tags in code, an incomplete tag at the end.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import replace

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
from flowise_gateway.openai.schema import new_id
from flowise_gateway.openai.tools import ClientTools

MAX_CALL = 1024 * 1024
"""The maximum length of a call; a longer one remains text."""

ONE_ONLY = "Only the first of several tool calls was passed on: the request allows one at a time."
NONE_MADE = "The request requires a tool call, but the flow made none."

_OPENING, _CLOSING = "<tool_call>", "</tool_call>"
_MAX_SPACE = 1000
_NAME = r'"name"\s*:\s*"(?P<name>[A-Za-z0-9_-]{1,64})"'
_BEGINNING = re.compile(rf"{_OPENING}\s*(?:```(?:json)?\s*)?\{{\s*")
_NAME_FIRST = re.compile(rf'{_NAME}\s*,\s*"arguments"\s*:')
_NAME_LAST = re.compile(rf"{_NAME}\s*")
_ARGUMENTS = re.compile(r'"arguments"\s*:')
_SPACE = re.compile(r"\s+")
_HEAD = re.compile(r"\s*(?:```(?:json)?\s*)?")
_HEAD_SO_FAR = re.compile(r"\s*(?:`{1,2}|```(?:j|js|jso|json|(?:json)?\s+)?)?")
_PLAIN = re.compile(r"[\s\[\]:,0-9eE+.\-truefalsn]*")
_ENDS_PLAIN = re.compile(r'["\\\x00-\x1f]')
_FENCES = ("```", "~~~")


def extract_tool_calls(
    batches: Batches, tools: ClientTools, make_id: Callable[[str], str] = new_id
) -> Batches:
    """Replace the text of calls by events; with at least one call, the finish reason is tool_calls.

    Text is withheld only while it may be a call. If only one call is allowed, the first one is taken.
    """
    return map_events(batches, _Reader(tools, make_id).take)


class _Reader:
    """The state between events; `_scan` and `_pieces` belong to a call that is not yet complete."""

    def __init__(self, tools: ClientTools, make_id: Callable[[str], str]) -> None:
        self._tools = tools
        self._names = tools.names
        self._make_id = make_id
        self._calls = 0
        self._code = _Code()
        self._pending = ""
        self._space = ""
        self._is_blank = True
        self._scan: _Scan | None = None
        self._pieces: list[str] = []
        self._events: Batch = []

    def take(self, event: FlowEvent) -> Batch:
        if isinstance(event, TextDelta):
            self._read(event.text)
        elif isinstance(event, TurnEnded):
            self._end(event)
        else:
            return [event]
        events, self._events = self._events, []
        return _with_joined_texts(events)

    def _read(self, text: str) -> None:
        scan = self._scan
        if scan is None:
            self._search(self._pending + text, 0)
            return
        end = scan.take(text)
        self._pieces.append(text)
        if not scan.is_open:
            whole, self._scan = "".join(self._pieces), None
            self._search(whole, self._take_call(scan, whole, 0, len(whole) - len(text) + end))

    def _search(self, text: str, at: int) -> None:
        self._pending = ""
        while (place := text.find(_OPENING, at)) >= 0:
            self._emit(text[at:place])
            at = place + 1
            if self._code.is_inside:
                self._emit("<")
                continue
            scan = _Scan()
            end = scan.take(text, place + len(_OPENING))
            if scan.is_open:
                self._scan, self._pieces = scan, [text[place:]]
                return
            at = self._take_call(scan, text, place, end)
        end = len(text) - _partial_opening(text, at)
        self._emit(text[at:end])
        self._pending = text[end:]

    def _take_call(self, scan: _Scan, text: str, start: int, end: int) -> int:
        """Take the call at `start`, if it is one; returns where to continue searching."""
        call = _call(text[start:end]) if scan.is_whole else None
        if call is None or call[0] not in self._names:
            self._emit("<")
            return start + 1
        self._calls += 1
        if self._calls == 1 or self._tools.is_parallel:
            self._events.append(ClientToolCalled(self._make_id("call_"), *call))
        self._space, self._is_blank = "", True
        return end

    def _emit(self, text: str) -> None:
        """Emit text, without the white space before, between and after calls."""
        self._space += text
        if self._is_blank and len(self._space) <= _MAX_SPACE and not self._space.strip():
            return
        text, self._space, self._is_blank = self._space, "", False
        self._code.read(text)
        self._events.append(TextDelta(text))

    def _end(self, event: TurnEnded) -> None:
        while self._scan is not None:
            text, self._scan = "".join(self._pieces), None
            self._emit("<")
            self._search(text, 1)
        self._emit(self._pending)
        if self._calls == 0:
            self._events.append(TextDelta(self._space))
            is_required = self._tools.choice == "required"
            self._events.extend([Warned(NONE_MADE)] if is_required else [])
        else:
            event = replace(event, reason="tool_calls")
            has_more = self._calls > 1 and not self._tools.is_parallel
            self._events.extend([Warned(ONE_ONLY)] if has_more else [])
        self._events.append(event)


class _Scan:
    """Scans from an opening tag on, as long as the text may become a call."""

    def __init__(self) -> None:
        self.is_open = True
        self.is_whole = False
        self._step = self._head
        self._size = 0
        self._before = ""
        self._after = ""
        self._depth = 0
        self._is_in_string = False
        self._is_escaped = False

    def take(self, text: str, at: int = 0) -> int:
        """Scan more text; returns how far it was scanned."""
        start = at
        while self.is_open and at < len(text):
            at = self._step(text, at)
        self._size += at - start
        if self._size > MAX_CALL:
            self.is_open = self.is_whole = False
        return at

    def _broken(self, at: int) -> int:
        self.is_open = False
        return at

    def _head(self, text: str, at: int) -> int:
        if text[at] == "{" and _HEAD.fullmatch(self._before):
            self._step = self._object
            return at
        end = _end_of_space(text, at)
        self._before += text[at:end]
        if len(self._before) > _MAX_SPACE or not _HEAD_SO_FAR.fullmatch(self._before):
            return self._broken(at)
        return end

    def _object(self, text: str, at: int) -> int:
        if self._is_in_string:
            return self._string(text, at)
        plain = _PLAIN.match(text, at)
        at = plain.end() if plain else at
        if at == len(text):
            return at
        if text[at] not in '"{}':
            return self._broken(at)
        self._is_in_string = text[at] == '"'
        self._depth += {"{": 1, "}": -1}.get(text[at], 0)
        if not self._depth:
            self._step = self._tail
        return at + 1

    def _string(self, text: str, at: int) -> int:
        if self._is_escaped:
            self._is_escaped = False
            return at + 1
        found = _ENDS_PLAIN.search(text, at)
        if found is None:
            return len(text)
        if found[0] not in '"\\':
            return self._broken(at)  # JSON strings contain no raw control characters
        self._is_in_string, self._is_escaped = found[0] == "\\", found[0] == "\\"
        return found.end()

    def _tail(self, text: str, at: int) -> int:
        end = _end_of_space(text, at)
        self._after += text[at:end]
        expected = "```" + _CLOSING if "`" in self._before else _CLOSING
        given = "".join(self._after.split())
        self.is_whole = given == expected
        self.is_open = not self.is_whole and expected.startswith(given) and len(self._after) <= _MAX_SPACE
        return end


def _end_of_space(text: str, at: int) -> int:
    """The end of the white space at `at`; one character on if there is none, so that each is checked."""
    space = _SPACE.match(text, at)
    return space.end() if space else at + 1


class _Code:
    """Tracks whether the text so far ends inside a code block or directly after a backtick."""

    def __init__(self) -> None:
        self._line = ""
        self._last = ""
        self._is_fenced = False

    def read(self, text: str) -> None:
        first, *others = text.split("\n")
        self._line = (self._line + first)[:80]
        for line in others:
            self._is_fenced = self._is_fenced != self._is_fence
            self._line = line[:80]
        self._last = text[-1:] or self._last

    @property
    def _is_fence(self) -> bool:
        return self._line.lstrip(" ").startswith(_FENCES)

    @property
    def is_inside(self) -> bool:
        """Whether a tag here is part of code, not a call."""
        return self._is_fenced or self._is_fence or self._last == "`"


def _call(text: str) -> tuple[str, str] | None:
    beginning = _BEGINNING.match(text)
    end = text.removesuffix(_CLOSING).rstrip().removesuffix("```").rstrip()
    if beginning is None or not end.endswith("}"):
        return None
    name, arguments = _name_and_arguments(end[beginning.end() : -1])
    try:
        is_object = isinstance(orjson.loads(arguments), dict)
    except orjson.JSONDecodeError:
        return None
    return (name, arguments) if is_object else None


def _name_and_arguments(members: str) -> tuple[str, str]:
    """The name and the arguments of a call, in any order; empty if the members are others."""
    if first := _NAME_FIRST.match(members):
        return first["name"], members[first.end() :].strip()
    arguments, place = _ARGUMENTS.match(members), members.rfind('"name"')
    last = _NAME_LAST.fullmatch(members, max(place, 0))
    before = members[arguments.end() : place].rstrip() if arguments and place >= 0 else ""
    return (last["name"], before[:-1].strip()) if last and before.endswith(",") else ("", "")


def _partial_opening(text: str, at: int) -> int:
    """The number of characters at the end of `text` that may be the beginning of an opening tag."""
    longest = min(len(text) - at, len(_OPENING) - 1)
    return next((size for size in range(longest, 0, -1) if _OPENING.startswith(text[-size:])), 0)


def _with_joined_texts(events: Iterable[FlowEvent]) -> Batch:
    """The events with adjacent texts joined, and without empty ones."""
    joined: Batch = []
    texts: list[str] = []
    for event in events:
        if isinstance(event, TextDelta):
            texts.append(event.text)
            continue
        joined.extend([TextDelta("".join(texts))] if any(texts) else [])
        texts = []
        joined.append(event)
    joined.extend([TextDelta("".join(texts))] if any(texts) else [])
    return joined
