"""Answers in JSON: the format read, told to the flow, the fence taken off however the text is split."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest

from flowise_gateway.flow.errors import BadRequest
from flowise_gateway.flow.events import (
    Batches,
    ClientToolCalled,
    FlowEvent,
    KeepAlive,
    StepStarted,
    TextDelta,
    TurnEnded,
)
from flowise_gateway.openai.response_format import JsonFormat, format_instructions, json_guard, parse_format
from tests.support.flow_events import events_of, run_of, transcript_of

SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}}
ANY = JsonFormat()
NAMED = JsonFormat(SCHEMA, "number")


def chat_schema(**more: Any) -> dict[str, Any]:
    """A format as chat completions have it."""
    return {"response_format": {"type": "json_schema", "json_schema": more}}


def text_format(**more: Any) -> dict[str, Any]:
    """A format as Responses have it."""
    return {"text": {"format": more}}


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({}, None),
        ({"response_format": None, "text": None}, None),
        ({"text": "not of Responses"}, None),
        ({"text": {"verbosity": "low"}}, None),
        ({"response_format": {"type": "text"}}, None),
        (text_format(type="text"), None),
        ({"response_format": {"type": "json_object"}}, ANY),
        (text_format(type="json_object"), ANY),
        (chat_schema(name="number", schema=SCHEMA, strict=True), NAMED),
        (text_format(type="json_schema", name="number", schema=SCHEMA, strict=None), NAMED),
        (chat_schema(name="n", description="d"), JsonFormat({}, "n", "d")),
    ],
)
def test_a_format_is_read_in_both_forms(body: dict[str, Any], expected: JsonFormat | None) -> None:
    assert parse_format(body) == expected


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({"response_format": "json"}, "response_format", "invalid_type"),
        ({"response_format": {"kind": "x"}}, "response_format.type", "missing_required_parameter"),
        ({"response_format": {"type": "xml"}}, "response_format.type", "invalid_value"),
        (
            {"response_format": {"type": "json_schema"}},
            "response_format.json_schema",
            "missing_required_parameter",
        ),
        (
            {"response_format": {"type": "json_schema", "json_schema": []}},
            "response_format.json_schema",
            "invalid_type",
        ),
        (
            chat_schema(schema=SCHEMA),
            "response_format.json_schema.name",
            "missing_required_parameter",
        ),
        (chat_schema(name="a b"), "response_format.json_schema.name", "invalid_value"),
        (chat_schema(name="a", schema=[]), "response_format.json_schema.schema", "invalid_type"),
        (chat_schema(name="a", strict=1), "response_format.json_schema.strict", "invalid_type"),
        (chat_schema(name="a", description=1), "response_format.json_schema.description", "invalid_type"),
        ({"text": {"format": "json"}}, "text.format", "invalid_type"),
        (text_format(type="json_schema", schema={}), "text.format.name", "missing_required_parameter"),
    ],
)
def test_a_bad_format_names_its_place(body: dict[str, Any], param: str, code: str) -> None:
    with pytest.raises(BadRequest) as caught:
        parse_format(body)
    assert (caught.value.param, caught.value.code) == (param, code)


def test_the_flow_is_told_of_the_format_and_its_schema() -> None:
    assert "nothing but one JSON object" in format_instructions(ANY)
    told = format_instructions(JsonFormat(SCHEMA, "number", "A count"))
    assert '"number" (A count)' in told
    assert json.loads(told.splitlines()[-1]) == SCHEMA
    assert '"number" below' in format_instructions(NAMED)


def answer(*pieces: str, fmt: JsonFormat = ANY) -> tuple[str, bool]:
    """What is left of a run, and whether it was warned of."""
    events = events_of(json_guard(run_of(pieces), fmt))
    assert TextDelta("") not in events
    transcript = transcript_of(events)
    assert transcript.finish_reason == "stop"
    assert len(transcript.warnings) <= 1
    return transcript.text, bool(transcript.warnings)


PRETTY = '{\n  "n": 1,\n  "md": "```js\\nx\\n```"\n}'
UNFENCED = {
    "```json\n{}\n```": "{}",
    "```\n{}\n```": "{}",
    "```JSON\r\n{}\r\n```\r\n": "{}",
    " \n```json\n\n  {} \n```\n \n": "{}",
    "```json {} ```": "{}",
    "```{}```": "{}",
    "```json{}```": "{}",
    f"```json\n{PRETTY}\n```": PRETTY,
    "{}": "{}",
    " {} \n": " {} \n",
    PRETTY: PRETTY,
    "```json\n{}": "{}",
    "```json\n{}\n````": "{}",
}
AS_IT_IS = [
    "Sure: {}",
    "Here you are:\n```json\n{}\n```",
    "```python\nprint()\n```",
    "```javascript\n{}\n```",
    "````json\n{}\n````",
    "`{}`",
    "``",
    "```",
    "```jso",
    "not json",
    " " * 1200 + "```json\n{}\n```",
]
BROKEN = {
    "```json\n{oops}\n```": "{oops}",
    "```json\n{oops}\n```\nI hope that helps.": "{oops}\n\nI hope that helps.",
    "```json\n```\nNothing.": "\nNothing.",
    "```json\n" + " \n" * 900 + "x" + " " * 1500 + "```": "x" + " " * 503,
    "```json\n": "",
}
WORDS_BEHIND = {
    "```json\n{}\n```\nI hope that helps.": "{}",
    "```json\n{}\n```\n```": "{}",
    "```json {} ``` I hope that helps.": "{}",
    f"```\n{PRETTY}\n  ````\n\nThe code:\n```js\nx\n```\n": PRETTY,
    f"```\n{PRETTY}```.": PRETTY,
}


@pytest.mark.parametrize("text", UNFENCED)
def test_a_whole_fenced_answer_is_unfenced(text: str) -> None:
    assert answer(text) == (UNFENCED[text], False)


@pytest.mark.parametrize("text", AS_IT_IS)
def test_what_is_no_fenced_json_passes_unchanged_and_is_warned_of(text: str) -> None:
    assert answer(text) == (text, True)


@pytest.mark.parametrize("text", BROKEN)
def test_what_begins_as_fenced_json_and_is_none_is_warned_of(text: str) -> None:
    assert answer(text) == (BROKEN[text], bool(BROKEN[text]))


@pytest.mark.parametrize("text", WORDS_BEHIND)
def test_words_behind_fenced_json_are_left_out_and_warned_of(text: str) -> None:
    assert answer(text) == (WORDS_BEHIND[text], True)


def test_fences_in_texts_of_json_are_no_end_of_it() -> None:
    value = '{"md": "' + "```x``` " * 100 + '"}'
    assert answer(f"```json\n{value}\n```\nWords.") == (value, True)
    assert answer(f"```json {value} ```") == (value, False)


def test_two_thousand_splits_give_the_same_answer() -> None:
    dice = random.Random(7)  # noqa: S311 - the same each time
    texts = [*UNFENCED, *AS_IT_IS, *BROKEN, *WORDS_BEHIND]
    for _ in range(2000):
        text = dice.choice(texts)
        cuts = sorted(dice.choices(range(len(text) + 1), k=dice.choice([1, 2, 5, 20])))
        pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
        assert answer(*pieces) == answer(text), pieces


def test_only_what_may_be_a_fence_is_held_back() -> None:
    got = list(json_guard(run_of(["``", "`json", "\n", '{"a": ', "1}\n", "``", "`"]), ANY))
    nothing: list[FlowEvent] = [KeepAlive()]
    assert got == [
        nothing,
        nothing,
        nothing,
        [TextDelta('{"a":')],
        [TextDelta(" 1}")],
        nothing,
        nothing,
        [TurnEnded()],
    ]
    plain = list(json_guard(run_of(['{"a"', ": 1}\n"]), ANY))
    assert plain == [[TextDelta('{"a"')], [TextDelta(": 1}\n")], [TurnEnded()]]


@pytest.mark.parametrize(("fmt", "warned"), [(ANY, True), (NAMED, False)])
def test_where_no_schema_says_otherwise_json_is_an_object(fmt: JsonFormat, warned: bool) -> None:
    assert answer("[1]", fmt=fmt) == ("[1]", warned)


def test_an_answer_that_is_a_call_or_nothing_is_no_bad_json() -> None:
    def events() -> Batches:
        yield [StepStarted("Agent"), TextDelta("Let me see."), ClientToolCalled("c", "f", "{}")]
        yield [TurnEnded("tool_calls")]

    got = [event for batch in json_guard(events(), ANY) for event in batch]
    assert got == [
        StepStarted("Agent"),
        TextDelta("Let me see."),
        ClientToolCalled("c", "f", "{}"),
        TurnEnded("tool_calls"),
    ]
    assert answer("") == ("", False)
    assert answer(" \n") == (" \n", False)
