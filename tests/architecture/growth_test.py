"""No pattern of ours, and nothing that reads a text of others, takes longer than in proportion to the text."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from types import BuiltinMethodType
from typing import Any, NamedTuple

import pytest

from tests.support.adversaries import fences, long_fences, of_pattern, repeated
from tests.support.growth import TooSlow, Work, check_growth

ROOT = Path(__file__).resolve().parents[2]
FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): path
    for folder in ("flowise_gateway", "flowise_demo")
    for path in ROOT.glob(f"{folder}/**/*.py")
    if not path.stem.startswith("__")
} | {name: ROOT / f"{name}.py" for name in ("openai_compatible_server", "openai_adapter", "flowise_client")}
MODULES = sorted(FILES)


class Use(NamedTuple):
    """A pattern, where it is, and its bound method, if that alone is used."""

    pattern: re.Pattern[Any]
    place: str
    method: Work | None = None

    def works(self) -> Iterator[Work]:
        """What is done with it."""
        fullmatch, substitute = self.pattern.fullmatch, self.pattern.sub
        if isinstance(self.pattern.pattern, bytes):
            yield lambda text: fullmatch(text.encode())
            yield lambda text: substitute(b"", text.encode())
        elif self.method:
            yield self.method
        else:
            yield fullmatch
            yield lambda text: substitute("", text)


def _compiled(value: Any, place: str, depth: int = 0) -> Iterator[Use]:
    """The patterns in a value, and those whose method it is."""
    if isinstance(value, re.Pattern):
        yield Use(value, place)
    elif isinstance(value, BuiltinMethodType) and isinstance(value.__self__, re.Pattern):
        yield Use(value.__self__, place, value)
    elif isinstance(value, (dict, list, tuple, set, frozenset)) and depth < 4:
        for part in value.values() if isinstance(value, dict) else value:
            yield from _compiled(part, place, depth + 1)


def _written(name: str) -> Iterator[tuple[str, ast.expr]]:
    """The first argument of each call of `re` in a module."""
    for node in ast.walk(ast.parse(FILES[name].read_text())):
        match node:
            case ast.Call(ast.Attribute(ast.Name("re")), [pattern, *_]):
                yield f"{name}:{node.lineno}", pattern
            case _:
                pass


def _uses() -> list[Use]:
    found: dict[Any, Use] = {}
    for name in MODULES:
        # What an extra brings may be missing: of modules that import it, the calls of `re` are read alone.
        is_importable = "from haystack import" not in FILES[name].read_text()
        for attribute, value in vars(importlib.import_module(name)).items() if is_importable else ():
            for use in _compiled(value, f"{name}.{attribute}"):
                found.setdefault((use.pattern, use.method), use)
        known = {pattern.pattern for pattern, _ in found}
        for place, pattern in _written(name):
            if isinstance(pattern, ast.Constant) and pattern.value not in known:
                use = Use(re.compile(pattern.value), place)
                found.setdefault((use.pattern, None), use)
    return list(found.values())


USES = _uses()
OTHERS = [*(repeated(unit, "\0") for unit in (" ", "a", "\n")), fences, long_fences]


@pytest.mark.parametrize("use", USES, ids=lambda use: use.place)
def test_a_pattern_reads_a_megabyte_in_proportion(use: Use) -> None:
    for work in use.works():
        check_growth(work, [*of_pattern(use.pattern), *OTHERS])


MADE_OF_OUR_OWN = {
    "flowise_demo.server": "its routes",
    "flowise_demo.model": "a tool's name, escaped",
    "flowise_gateway.openai.tool_calls": "compiled once, found in the module",
    "flowise_gateway.commands": "a constant of another module",
    "flowise_gateway.config.yaml_document": "constants of config.schema",
}
"""Modules with patterns that are put together, and of what: never of anything that a client or a flow sent."""


def test_every_pattern_is_found() -> None:
    put_together = {
        place.partition(":")[0]
        for name in MODULES
        for place, pattern in _written(name)
        if not isinstance(pattern, ast.Constant)
    }
    assert put_together == set(MADE_OF_OUR_OWN)
    assert len(USES) > 50


@pytest.mark.parametrize(
    ("pattern", "method"),
    [
        (r"\(Waiting for your decision: [^\n]*?(?: · ([0-9a-f]{16}))?\)\s*\Z", "search"),
        (r"!?\[([^\]]*)\]\([^)]*\)", "sub"),
        (r"(?s:(?P<fence>`{3,}).*?(?:(?P=fence)|\Z))", "search"),
        (r"\s+\Z", "search"),
        (r"(?:a+)+b", "fullmatch"),
    ],
)
def test_the_judge_finds_what_grows_with_the_square(pattern: str, method: str) -> None:
    compiled = re.compile(pattern)
    work = (lambda text: compiled.sub("", text)) if method == "sub" else getattr(compiled, method)
    with pytest.raises(TooSlow):
        check_growth(work, [*of_pattern(compiled), long_fences])


def test_the_judge_finds_what_grows_a_little_too_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.support.growth.CHEAP_SECONDS", 0.0)

    def work(text: str) -> None:
        for _ in range(len(text) // 2048):
            text.encode("utf-16")

    with pytest.raises(TooSlow, match="times as long"):
        check_growth(work, [repeated("a")])


def test_the_judge_lets_work_in_proportion_pass() -> None:
    check_growth(lambda text: [letter for letter in text if letter == "b"], [repeated("a")])
