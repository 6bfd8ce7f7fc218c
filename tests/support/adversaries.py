"""Texts that are hard for patterns: what each part of a pattern fits, repeated, and ends that nothing fits."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from re import _constants, _parser  # type: ignore[attr-defined]
from typing import Any

from tests.support.growth import TextOf

_CANDIDATES = "aZ0_- .x[](){}<>`\"'/\\:;,!?=\n\t。é🙂"
_CATEGORIES = {
    _constants.CATEGORY_DIGIT: r"\d",
    _constants.CATEGORY_NOT_DIGIT: r"\D",
    _constants.CATEGORY_SPACE: r"\s",
    _constants.CATEGORY_NOT_SPACE: r"\S",
    _constants.CATEGORY_WORD: r"\w",
    _constants.CATEGORY_NOT_WORD: r"\W",
}
_REPEATS = (_constants.MAX_REPEAT, _constants.MIN_REPEAT, _constants.POSSESSIVE_REPEAT)
_LOOKS = (_constants.ASSERT, _constants.ASSERT_NOT)


def repeated(unit: str, end: str = "") -> TextOf:
    """A unit over and over, with an end."""
    return lambda size: (unit * (size // len(unit) + 1))[:size] + end


def of_pattern(pattern: re.Pattern[Any]) -> Iterator[TextOf]:
    """Texts of what the pattern's parts fit."""
    text = pattern.pattern if isinstance(pattern.pattern, str) else pattern.pattern.decode("latin-1")
    parts = _parser.parse(text, pattern.flags & ~re.UNICODE)
    for unit in dict.fromkeys(_units(parts, {})):
        yield repeated(unit)
        yield repeated(unit, "\0")


def _units(parts: Any, groups: dict[Any, str]) -> Iterator[str]:
    """What each run of neighbouring parts fits, at every depth."""
    pieces = []
    for is_literal, run in groupby(parts, key=lambda part: part[0] is _constants.LITERAL):
        fitting = [_fitting(part, groups) for part in run]
        pieces += ["".join(fitting)] if is_literal else fitting
    for begin in range(len(pieces)):
        last = len(pieces) if begin == 0 else min(len(pieces), begin + 3)
        yield from filter(None, ("".join(pieces[begin:end]) for end in range(begin + 1, last + 1)))
    for kind, value in parts:
        for inner in _inner(kind, value):
            yield from _units(inner, groups)


def _inner(kind: Any, value: Any) -> Iterable[Any]:
    if kind is _constants.BRANCH:
        return list(value[1])
    if kind is _constants.SUBPATTERN:
        return [value[3]]
    if kind in _REPEATS:
        return [value[2]]
    if kind in _LOOKS:
        return [value[1]]
    return [value] if kind is _constants.ATOMIC_GROUP else []


def _fitting(part: tuple[Any, Any], groups: dict[Any, str]) -> str:
    """The shortest text, or nearly, that a part of a pattern fits."""
    kind, value = part
    if kind is _constants.LITERAL:
        return chr(value)
    if kind is _constants.IN:
        return _letter(value)
    if kind is _constants.NOT_LITERAL or kind is _constants.ANY:
        return "b" if value == ord("a") else "a"
    if kind is _constants.GROUPREF:
        return groups.get(value, "")
    if kind in _LOOKS:
        return ""
    inner = _inner(kind, value)
    text = "".join(_fitting(each, groups) for each in (next(iter(inner), ())))
    if kind is _constants.SUBPATTERN:
        groups[value[0]] = text
    return text * max(value[0], 1) if kind in _REPEATS else text


def _letter(items: list[tuple[Any, Any]]) -> str:
    """A letter of a class."""
    is_negative = items[0][0] is _constants.NEGATE
    if not is_negative and items[0][0] in (_constants.LITERAL, _constants.RANGE):
        first = items[0][1]
        return chr(first if isinstance(first, int) else first[0])
    return next((c for c in _CANDIDATES if any(_is_in(c, item) for item in items) != is_negative), "a")


def _is_in(letter: str, item: tuple[Any, Any]) -> bool:
    kind, value = item
    if kind is _constants.LITERAL:
        return letter == chr(value)
    if kind is _constants.RANGE:
        return chr(value[0]) <= letter <= chr(value[1])
    return re.match(_CATEGORIES.get(value, r"\Z."), letter) is not None


def fences(size: int) -> str:
    """A long run of backticks, and runs one shorter: each place may be its end, and is not."""
    run = int((size / 2) ** 0.5)
    return "`" * run + ("`" * (run - 1) + "x") * (size // run - 1)


def long_fences(size: int) -> str:
    """Two runs, the second one shorter."""
    return "`" * (size // 2) + "x" + "`" * (size // 2 - 1) + "x"


_UNITS = (
    *(" ", "\n", "\r\n", "\u2028", "a", "é", "😀", "0", "\0", "\\", "\\\\", "/", "//", "..", "-", "_", "="),
    *(
        "[",
        "[]",
        "[](",
        "![",
        "[a](b",
        "(",
        "()",
        "{",
        "{}",
        "{{",
        "<",
        "<a",
        "<a>",
        "`",
        "``",
        "```",
        "``` a",
        "```\na\n",
        "~~~\n",
    ),
    *(
        '"',
        '\\"',
        '{"',
        '{"a":',
        "[1]",
        "[^1]",
        "【1",
        "【1†",
        "| ",
        "# ",
        "* ",
        "> ",
        "- [1] [",
        "- [1] [a](b)\n",
    ),
    *("a.", "a. ", "A ", "。", "?", "yes ", "reject ", "'", "* yes", ",", ";", ":", "::", "a:b\n", "key: "),
    *("(Waiting for your decision: ", "(Waiting for your decision: a / b)\n", " · 0123456789abcdef)"),
    *("<tool_call>", "<tool_call>{", '<tool_call>{"', "<tool_call> ", "<tool_call>```json", "</tool_call>"),
    *('<tool_call>{"name":"f","arguments":{}', '<tool_call>{"name":"f","arguments":{}}</tool_call>'),
    *("<tool_call>" + " " * 999, "<tool_call>{}" + " " * 999, "<tool_call>{" + "[" * 999, '{"arguments":{'),
    *(
        "\n\n![artifact](",
        "\n\n![artifact](a)",
        "\n\n[a](b/v1/flowise/files/" + "A" * 90,
        "/v1/flowise/files/",
    ),
    *(
        "\n\n---\n\n**Sources of this answer**\n\n",
        "Sources",
        "http://",
        "https://a ",
        "https://a.b/",
        "http://a@",
    ),
    *(
        "### Task:\n",
        "### Output:\n",
        "### Task:\n### Output:\n",
        "\n<",
        "USER:",
        "USER: a\n",
        "ASSISTANT: a\n",
    ),
    *(
        '"title":',
        '{"title"',
        "<chat_history>",
        "<attached_files>",
        "</attached_files>",
        "</chat_history>",
        "<think>",
        "</think>",
        '<doc name="',
        "</doc>",
    ),
    *(
        "Error: ",
        "Error in a node: ",
        "aService.a - ",
        "chatflow ",
        "Chatflow a not found ",
        "bearer ",
        "api_key",
    ),
    *(
        "data:",
        "data:a;",
        "data:a;base64,",
        "data: {}\n\n",
        "data: {}\n",
        "event: a\n",
        "message:\ndata:",
        ":\n",
    ),
    *(
        "file://",
        "C:\\",
        "FILE-STORAGE::",
        "%",
        "%41",
        "a\u0300\u0316",
        "\u0300\u0316",
        "\ufb01",
        "ﷺ",
        "aaaa-",
    ),
    *(
        "\\ud83d",
        "\\u0000",
        "sk-",
        "@",
        "&",
        "+json",
        "text/",
        "x-",
        "A=",
        "AAAA",
        "\x1b[2J",
        "\u202e",
    ),
)
TEXTS: Sequence[TextOf] = (
    *map(repeated, _UNITS),
    *(repeated(unit, "\0") for unit in ("[", "`", "(", " ", "\n", "a", "{", "https://a")),
    fences,
    long_fences,
)
"""Repetitions of what client, flow and file texts may hold and our readers look for."""
