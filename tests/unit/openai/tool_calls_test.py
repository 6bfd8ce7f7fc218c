"""Calls of a client's tools are found however the text is split, and nothing else is touched."""

from __future__ import annotations

import random
from typing import NamedTuple

import pytest

from flowise_gateway.flow.events import (
    Batch,
    Batches,
    ClientToolCalled,
    KeepAlive,
    ReasoningDelta,
    StepStarted,
    TextDelta,
    TurnEnded,
)
from flowise_gateway.flow.filters import stop_at
from flowise_gateway.openai.tool_calls import MAX_CALL, NONE_MADE, ONE_ONLY, extract_tool_calls
from flowise_gateway.openai.tools import ClientTool, ClientTools
from tests.support.flow_events import events_of, run_of, transcript_of

TOOLS = ClientTools((ClientTool("look_up"), ClientTool("get-time")))
ONE_AT_A_TIME = ClientTools(TOOLS.tools, is_parallel=False)
DEMANDED = ClientTools(TOOLS.tools, "required")

LOOK_UP = '<tool_call>{"name": "look_up", "arguments": {"sku": "7"}}</tool_call>'
LOOKED_UP = ("look_up", '{"sku": "7"}')
TIME = '<tool_call>{"name":"get-time","arguments":{}}</tool_call>'
TIMED = ("get-time", "{}")
HARD = '{"code": "a </tool_call> \\"<tool_call>{\\\\", "n": [1, -2.5e3, null, true, {"{": "}"}], "ü": "🙂"}'


class Answer(NamedTuple):
    """What is left of a run."""

    text: str
    calls: list[tuple[str, str]]
    reason: str | None
    warnings: list[str]


def answer(*pieces: str, tools: ClientTools = TOOLS) -> Answer:
    """The answer of a run that says these pieces."""
    transcript = transcript_of(events_of(extract_tool_calls(run_of(pieces), tools)))
    calls = [(call.name, call.arguments) for call in transcript.calls]
    assert transcript.finish_reason is not None
    return Answer(transcript.text, calls, transcript.finish_reason, transcript.warnings)


def split(text: str, dice: random.Random) -> list[str]:
    """A text in pieces, some of them empty."""
    cuts = sorted(dice.choices(range(len(text) + 1), k=dice.choice([0, 1, 2, 5, 20, len(text)])))
    return [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]


CALLS = {
    "alone": (LOOK_UP, "", [LOOKED_UP]),
    "after text": ("Let me see.\n\n" + LOOK_UP, "Let me see.\n\n", [LOOKED_UP]),
    "in a sentence": (f"I call {TIME} now.", "I call  now.", [TIMED]),
    "several": (LOOK_UP + "\n" + TIME + "\n\n" + LOOK_UP, "", [LOOKED_UP, TIMED, LOOKED_UP]),
    "text between": (LOOK_UP + "\nand\n" + TIME, "\nand\n", [LOOKED_UP, TIMED]),
    "white space around": (f"\n\n {LOOK_UP}\n  \n", "", [LOOKED_UP]),
    "white space inside": (
        '<tool_call>\n{\n  "name" :\t"look_up",\n  "arguments"\n: {"sku": "7"}\n}\n</tool_call>',
        "",
        [LOOKED_UP],
    ),
    "arguments first": (
        '<tool_call>{"arguments": {"sku": "7"}, "name": "look_up"}</tool_call>',
        "",
        [LOOKED_UP],
    ),
    "fenced json": (
        '<tool_call>\n```json\n{"name": "get-time", "arguments": {}}\n```\n</tool_call>',
        "",
        [TIMED],
    ),
    "fenced": ('<tool_call>```{"name":"get-time","arguments":{}}```</tool_call>', "", [TIMED]),
    "tags and braces in strings": (
        f'<tool_call>{{"name":"look_up","arguments":{HARD}}}</tool_call>',
        "",
        [("look_up", HARD)],
    ),
    "behind one that is none": (f"<tool_call>{LOOK_UP}", "<tool_call>", [LOOKED_UP]),
    "behind a string that swallows its tag": (
        f'<tool_call>{{"name": "a {LOOK_UP}',
        '<tool_call>{"name": "a ',
        [LOOKED_UP],
    ),
    "arguments first, with a name": (
        '<tool_call> {"arguments" : {"name": "x"} , "name" : "look_up" } </tool_call>',
        "",
        [("look_up", '{"name": "x"}')],
    ),
    "behind code": (f"```py\nx\n```\n{LOOK_UP}", "```py\nx\n```\n", [LOOKED_UP]),
    "behind a name in code": (f"`look_up` it is: {LOOK_UP}", "`look_up` it is: ", [LOOKED_UP]),
    "twice the same letters": (f"<<tool<tool_{TIME}", "<<tool<tool_", [TIMED]),
}
TEXTS = {
    "nothing": "",
    "white space": " \n\t\n",
    "plain": "It is 42.",
    "half a tag at the end": "See <tool_",
    "a whole tag at the end": "See <tool_call>",
    "half a call": LOOK_UP[:-1],
    "a call without its end": LOOK_UP.removesuffix("</tool_call>"),
    "half an object": '<tool_call>{"name": "look_up", "argu',
    "an escape at the end": '<tool_call>{"name": "look_up\\',
    "a tag that is another": LOOK_UP.replace("tool_call", "tool_calls"),
    "upper case": LOOK_UP.replace("tool_call>", "TOOL_CALL>"),
    "an unknown tool": LOOK_UP.replace("look_up", "delete_all"),
    "a tool whose name begins alike": LOOK_UP.replace("look_up", "look_up_all"),
    "invalid JSON": LOOK_UP.replace('"7"', "7,"),
    "no JSON at all": "<tool_call>look_up(7)</tool_call>",
    "python": "<tool_call>{'name': 'look_up', 'arguments': {}}</tool_call>",
    "unbalanced": '<tool_call>{"name":"look_up","arguments":{"a":[}}</tool_call>',
    "one brace too many": '<tool_call>{"name":"look_up","arguments":{}}}</tool_call>',
    "arguments in a string": '<tool_call>{"name":"look_up","arguments":"{}"}</tool_call>',
    "arguments in a list": '<tool_call>{"name":"look_up","arguments":[{}]}</tool_call>',
    "no arguments": '<tool_call>{"name":"look_up"}</tool_call>',
    "no name": '<tool_call>{"arguments":{}}</tool_call>',
    "arguments twice": '<tool_call>{"arguments":{},"arguments":{},"name":"look_up"}</tool_call>',
    "a name twice": '<tool_call>{"name":"look_up","name":"look_up","arguments":{}}</tool_call>',
    "no comma": '<tool_call>{"arguments":{} "name":"look_up"}</tool_call>',
    "a name alone behind": '<tool_call>{"name":"x","name":"look_up"}</tool_call>',
    "a third key": '<tool_call>{"name":"look_up","arguments":{},"why":"x"}</tool_call>',
    "a third key before": '<tool_call>{"why":"x","name":"look_up","arguments":{}}</tool_call>',
    "a number too large": '<tool_call>{"name":"look_up","arguments":{"a":1e999}}</tool_call>',
    "not a number": '<tool_call>{"name":"look_up","arguments":{"a":NaN}}</tool_call>',
    "a line feed in a string": '<tool_call>{"name":"look_up","arguments":{"a":"\n"}}</tool_call>',
    "words before": '<tool_call>call {"name":"look_up","arguments":{}}</tool_call>',
    "words after": '<tool_call>{"name":"look_up","arguments":{}} please</tool_call>',
    "a fence left open": '<tool_call>```json\n{"name":"look_up","arguments":{}}\n</tool_call>',
    "a fence only closed": '<tool_call>{"name":"look_up","arguments":{}}```</tool_call>',
    "another fence": '<tool_call>```python\n{"name":"look_up","arguments":{}}\n```</tool_call>',
    "a split closing tag": '<tool_call>{"name":"look_up","arguments":{}}</tool_ call>',
    "JSON in prose": 'I would send {"name": "look_up", "arguments": {"sku": "7"}} there.',
    "JSON in a fence": '```json\n{"name": "look_up", "arguments": {"sku": "7"}}\n```',
    "in a code block": f"This is how:\n```xml\n{LOOK_UP}\n```\nThat's it.",
    "in an indented code block": f"1. So:\n   ~~~\n   {LOOK_UP}\n   ~~~\n",
    "in a code block left open": f"```\n{LOOK_UP}",
    "on the line of a fence": f"```{LOOK_UP}```",
    "in code": f"Write `{LOOK_UP}` for it.",
    "much space": "<tool_call>" + " " * 1100 + LOOK_UP.removeprefix("<tool_call>"),
    "much space at the end": LOOK_UP.removesuffix("</tool_call>") + " " * 1100 + "</tool_call>",
    "many tags": "<tool_call>" * 50,
    "many openings": '<tool_call>{"' * 50,
    "many braces": "<tool_call>{" + '{"a":' * 50,
    "no tags at all": "a < b, <tool>, </tool_call>, <<<",
}


@pytest.mark.parametrize("name", CALLS)
def test_a_call_is_found_and_its_text_is_gone(name: str) -> None:
    text, left, calls = CALLS[name]
    assert answer(text) == Answer(left, calls, "tool_calls", [])


@pytest.mark.parametrize("name", TEXTS)
def test_what_is_no_call_passes_unchanged(name: str) -> None:
    assert answer(TEXTS[name]) == Answer(TEXTS[name], [], "stop", [])


@pytest.mark.parametrize("name", [*CALLS, *TEXTS])
def test_letter_by_letter_it_is_the_same(name: str) -> None:
    text = CALLS[name][0] if name in CALLS else TEXTS[name]
    assert answer(*text) == answer(text)


def test_two_thousand_splits_give_identical_calls() -> None:
    dice = random.Random(20)  # noqa: S311 - the same each time
    texts = [text for text, _, _ in CALLS.values()] + list(TEXTS.values())
    for _ in range(2000):
        text = "".join(dice.choices(texts, k=dice.randint(1, 3)))
        assert answer(*split(text, dice)) == answer(text), text


def test_random_noise_around_calls_is_never_lost() -> None:
    dice = random.Random(21)  # noqa: S311 - the same each time
    noise = ["<", "tool_call>", "<tool_call>", "</tool_call>", "{", "}", '"', "\\", "`", "x", " ", '{"name":']
    for _ in range(2000):
        text = "".join(dice.choices(noise, k=dice.randint(1, 40)))
        assert answer(*split(text, dice)) == Answer(text, [], "stop", [])


def test_each_call_has_an_id_of_its_own() -> None:
    found = [
        e
        for e in events_of(extract_tool_calls(run_of([LOOK_UP, TIME]), TOOLS))
        if isinstance(e, ClientToolCalled)
    ]
    assert all(call.call_id.startswith("call_") and len(call.call_id) == 29 for call in found)
    assert found[0].call_id != found[1].call_id
    numbered = extract_tool_calls(run_of([TIME]), TOOLS, lambda prefix: prefix + "1")
    assert ClientToolCalled("call_1", "get-time", "{}") in events_of(numbered)


def test_text_is_held_back_only_while_it_may_be_a_call() -> None:
    pieces = ["Well, ", "a <", "b <tool", "_box> <tool_call>", "{", '"name": ', "oops"]
    got = [
        "".join(event.text for event in batch if isinstance(event, TextDelta))
        for batch in extract_tool_calls(run_of(pieces), TOOLS)
    ]
    assert got == ["Well, ", "a ", "<b ", "<tool_box> ", "", "", '<tool_call>{"name": oops', ""]


def test_other_events_pass_while_text_is_held_back() -> None:
    def events() -> Batches:
        yield [TextDelta("<tool"), StepStarted("Agent")]
        yield [TextDelta("_call>"), ReasoningDelta("Hm.")]
        yield [TextDelta("x"), KeepAlive()]
        yield [TurnEnded("length", is_cut=True)]

    got: list[Batch] = list(extract_tool_calls(events(), TOOLS))
    assert got == [
        [StepStarted("Agent")],
        [ReasoningDelta("Hm.")],
        [TextDelta("<tool_call>x"), KeepAlive()],
        [TurnEnded("length", is_cut=True)],
    ]


def test_a_batch_that_says_nothing_yet_is_a_sign_of_life() -> None:
    assert next(extract_tool_calls(run_of(["<tool_call>"]), TOOLS)) == [KeepAlive()]


def test_a_run_with_calls_ends_as_such_however_it_ended() -> None:
    ended = TurnEnded("length", is_cut=True)
    assert events_of(extract_tool_calls(run_of([TIME], ended), TOOLS))[-1] == TurnEnded(
        "tool_calls", is_cut=True
    )


def test_of_several_calls_the_first_counts_where_one_is_allowed() -> None:
    both = answer(LOOK_UP + TIME, tools=ONE_AT_A_TIME)
    assert both == Answer("", [LOOKED_UP], "tool_calls", [ONE_ONLY])
    assert answer(LOOK_UP, tools=ONE_AT_A_TIME).warnings == []


def test_a_demanded_call_that_does_not_come_is_warned_of() -> None:
    assert answer("No.", tools=DEMANDED) == Answer("No.", [], "stop", [NONE_MADE])
    assert answer(TIME, tools=DEMANDED).warnings == []


@pytest.mark.parametrize("whole", [True, False])
def test_a_call_that_is_too_large_is_let_go_as_text(whole: bool) -> None:
    begin, end = '<tool_call>{"name":"look_up","arguments":{"a":"', '"}}</tool_call>' if whole else ""
    text = begin + "x" * MAX_CALL + end
    pieces = [text[at : at + 1000] for at in range(0, len(text), 1000)]
    assert answer(*pieces) == answer(text) == Answer(text, [], "stop", [])
    fitting = begin + "x" * (MAX_CALL - 100) + '"}}</tool_call>'
    assert len(answer(fitting).calls) == 1


def test_a_call_that_never_ends_is_let_go_before_the_run_ends() -> None:
    letters = '<tool_call>{"name":"' + "x" * MAX_CALL
    batches = extract_tool_calls(run_of([letters, "y"]), TOOLS)
    assert next(batches) == [TextDelta(letters)]
    batches.close()


@pytest.mark.parametrize("piece", ["<tool_call>", '<tool_call>{"', '<tool_call>{"name":"look_up","a":{'])
def test_very_many_tags_are_read_in_one_go(piece: str) -> None:
    text = piece * 30_000
    assert answer(text) == answer(*(text[at : at + 50] for at in range(0, len(text), 50)))
    assert answer(text) == Answer(text, [], "stop", [])


def test_closing_the_guard_closes_the_run() -> None:
    source = run_of(["a", "b"])
    batches = extract_tool_calls(source, TOOLS)
    next(batches)
    batches.close()
    assert list(source) == []


@pytest.mark.parametrize("stop", ["\n", "Observation:", '"sku"', "</tool_call>", "</"])
def test_a_stop_sequence_cuts_what_is_said_and_never_a_call(stop: str) -> None:
    text = f"See:{LOOK_UP}\nObservation: 7"
    for pieces in ([text], list(text)):
        events = events_of(stop_at(extract_tool_calls(run_of(pieces), TOOLS), [stop]))
        assert [event.name for event in events if isinstance(event, ClientToolCalled)] == ["look_up"]
        assert isinstance(events[-1], TurnEnded)
        assert events[-1].reason == "tool_calls"
        said = "".join(event.text for event in events if isinstance(event, TextDelta))
        assert said == ("See:\nObservation: 7".partition(stop)[0])


def test_a_stop_sequence_before_a_call_ends_the_answer() -> None:
    events = events_of(stop_at(extract_tool_calls(run_of([f"a STOP {LOOK_UP}"]), TOOLS), ["STOP"]))
    assert events == [TextDelta("a "), TurnEnded("stop", is_cut=True)]


def test_what_a_stop_sequence_held_back_is_said_before_the_call() -> None:
    events = events_of(
        stop_at(extract_tool_calls(run_of(["a ST", LOOK_UP]), TOOLS, lambda prefix: prefix), ["STOP"])
    )
    assert events == [
        TextDelta("a "),
        TextDelta("ST"),
        ClientToolCalled("call_", *LOOKED_UP),
        TurnEnded("tool_calls"),
    ]
