"""Responses: requests into turns, events into its wire, held by golden files in `tests/wire/openai`.

The contract is `Open Responses` and OpenAI's document; the schemas are OpenAI's, the 31 keys Open Responses'.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import orjson
import pytest

from flowise_gateway.flow.errors import (
    BadRequest,
    FlowiseUnavailable,
    ProxyError,
    RateLimited,
    RunFailed,
    error_body,
)
from flowise_gateway.flow.events import (
    ArtifactMade,
    ClientToolCalled,
    FlowEvent,
    FlowToolCalled,
    HumanInputRequested,
    KeepAlive,
    ReasoningDelta,
    SourcesFound,
    StepEnded,
    StepStarted,
    TextDelta,
    ToolUsed,
    TurnEnded,
    TurnIdentified,
    UsageReported,
)
from flowise_gateway.flow.transcript import Transcript
from flowise_gateway.openai.answer_text import answer_text, reasoning_text
from flowise_gateway.openai.client_quirks import Style
from flowise_gateway.openai.request import ParsedRequest
from flowise_gateway.openai.sse import stream_bytes
from flowise_gateway.responses.renderer import ResponsesRenderer
from flowise_gateway.responses.request import parse_response
from tests.support.openai_check import GOLDEN, Golden, valid

CREATED = 1_700_000_000
HELLO: dict[str, Any] = {"model": "support", "input": "What is 6 times 7?"}
KEYS = {
    *("id", "object", "created_at", "completed_at", "status", "incomplete_details", "model", "output"),
    *("previous_response_id", "instructions", "error", "tools", "tool_choice", "truncation", "usage", "text"),
    *("parallel_tool_calls", "top_p", "presence_penalty", "frequency_penalty", "top_logprobs", "temperature"),
    *("reasoning", "max_output_tokens", "max_tool_calls", "store", "background", "service_tier", "metadata"),
    *("safety_identifier", "prompt_cache_key"),
}

Events = Sequence[FlowEvent]
TEXT: Events = [TextDelta("Hello"), TextDelta(", wörld 🙂\n"), TextDelta('"\u2028{}')]
END: Events = [TurnIdentified("msg-1", "session-1"), TurnEnded("stop")]
USED = ToolUsed("calculator", {"input": "6*7"}, "42")
AGENT: Events = [
    StepStarted("Agent"),
    ReasoningDelta("Let me "),
    ReasoningDelta("think.\n"),
    FlowToolCalled("calculator", {"input": "6*7"}),
    USED,
    ToolUsed("wéb search!", "q", None, "it\n  broke"),
    TextDelta("It is "),
    TextDelta("42."),
    StepEnded("Agent", "FINISHED"),
    StepStarted("Reply"),
    SourcesFound(({"pageContent": "p", "metadata": {"source": "https://a.example"}},)),
    UsageReported(42, 9, 2, 3),
    TurnIdentified("msg-1", "session-1", "exec-1", "Buffer Memory", ("And 7*8?",)),
    TurnEnded(),
]
ACTION: Events = [
    TextDelta("Shall I go on?"),
    HumanInputRequested({"id": "act-1", "data": {"secret": 1}}, ("Proceed", "Reject")),
    *END,
]
CALL = ClientToolCalled("call_1", "weather", '{"city":"Bonn"}')


@dataclasses.dataclass(frozen=True)
class Case:
    """A request and what its run reports."""

    name: str
    events: Events
    body: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    error: ProxyError | None = None

    @property
    def request(self) -> ParsedRequest:
        """The request, with ids that do not change."""
        parsed = parse_response({**HELLO, "stream": True, **self.body}, make_id=numbered_ids())
        [turn] = parsed.turns
        return dataclasses.replace(parsed, turns=(dataclasses.replace(turn, chat_id="chat-0"),))

    def renderer(self) -> ResponsesRenderer:
        """A renderer whose clock stands still."""
        return ResponsesRenderer(
            self.request,
            count_tokens=lambda text: len(text.split()),
            clock=lambda: CREATED + 0.9,
            make_id=numbered_ids(),
        )

    def transcript(self) -> Transcript:
        """The fold."""
        transcript = Transcript("chat-0")
        for event in self.events:
            transcript.add(event)
        return transcript

    def stream(self) -> bytes:
        """The whole stream."""
        renderer = self.renderer()
        frames = renderer.opening()
        for event in self.events:
            frames += renderer.chunks(event)
        frames += renderer.failure(self.error) if self.error else renderer.closing([self.transcript()])
        return stream_bytes(frames)

    def whole(self) -> dict[str, Any]:
        """The whole body, as a client reads it."""
        body: dict[str, Any] = orjson.loads(orjson.dumps(self.renderer().body([self.transcript()])))
        return body


def numbered_ids() -> Callable[[str], str]:
    """A source of ids that a golden file can hold."""
    numbers = itertools.count()
    return lambda prefix: f"{prefix}{next(numbers):024x}"


def events_of(stream: bytes) -> list[dict[str, Any]]:
    """The events of a stream, whose frames are checked: name, one line of data, `[DONE]` last."""
    *frames, done, rest = stream.decode().split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    found = []
    for frame in frames:
        name, data = frame.split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        found.append(event)
    return found


TOOLS = {"include": ["flowise.tool_calls"]}
ASKED: dict[str, Any] = {
    "instructions": "Be brief",
    "temperature": 0.5,
    "tools": [{"type": "function", "name": "weather", "parameters": {"type": "object"}}],
    "tool_choice": {"type": "function", "name": "weather"},
    "text": {"format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}, "strict": True}},
    "reasoning": {"effort": "low"},
    "metadata": {"mine": "1"},
    "conversation": {"id": "conv_1"},
    "store": False,
    "max_output_tokens": 100,
    "truncation": "auto",
}
CASES = [
    Case("response-plain", [StepEnded("x", "FINISHED"), KeepAlive(), *TEXT, UsageReported(7, 8, 2, 3), *END]),
    Case("response-estimated", [*TEXT, *END]),
    Case("response-agent", AGENT),
    Case("response-tools", AGENT, TOOLS),
    Case("response-asked", [*TEXT, *END], ASKED),
    Case("response-action", ACTION),
    Case("response-calls", [ReasoningDelta("Hm."), CALL, ClientToolCalled("call_2", "time", ""), *END]),
    Case("response-text-and-call", [TextDelta("Let me see."), CALL, TurnEnded("tool_calls")]),
    Case("response-length", [*TEXT, StepStarted("Late"), TurnEnded("length")]),
    Case("response-filtered", [*TEXT, TurnEnded("content_filter")]),
    Case("response-empty", [StepStarted("Agent"), *END]),
    Case("response-tool-alone", [USED, *END], TOOLS),
]
BROKEN = [
    Case("response-broken", [*AGENT[:8], StepStarted("x")], error=RunFailed("It broke.")),
    Case("response-broken-thinking", AGENT[:2], error=RateLimited("Too many.")),
    Case("response-broken-at-once", [], error=RunFailed("It broke.", code="empty_answer")),
]


def ids(case: Case) -> str:
    """A case's name."""
    return case.name


@pytest.mark.parametrize("case", [*CASES, *BROKEN], ids=ids)
def test_a_stream_is_the_golden_one(case: Case, golden: Golden) -> None:
    golden(f"{case.name}.sse", case.stream())


@pytest.mark.parametrize("case", CASES, ids=ids)
def test_a_body_is_the_golden_one(case: Case, golden: Golden) -> None:
    golden(f"{case.name}.json", orjson.dumps(case.whole(), option=orjson.OPT_INDENT_2) + b"\n")


def test_every_golden_file_is_still_used() -> None:
    names = {f"{case.name}.sse" for case in [*CASES, *BROKEN]} | {f"{case.name}.json" for case in CASES}
    assert {path.name for path in GOLDEN.glob("response-*")} == names


# --- the rules of the stream ---


def follow(events: list[dict[str, Any]]) -> dict[str, Any]:
    """Read a stream as a client does, refusing all that is out of order; gives the last response."""
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert [event["type"] for event in events[:2]] == ["response.created", "response.in_progress"]
    assert all(event["response"]["status"] == "in_progress" for event in events[:2])
    assert all(event["response"]["output"] == [] for event in events[:2])
    items: list[dict[str, Any]] = []
    done: dict[int, dict[str, Any]] = {}
    texts: dict[int, str] = {}
    told = events[2:-1]
    if events[-1]["type"] == "response.failed":
        assert told.pop()["type"] == "error"
    for event in told:
        index = event["output_index"]
        what = event["type"].removeprefix("response.")
        if what == "output_item.added":
            assert index == len(items)
            items.append(event["item"])
            continue
        assert index in range(len(items))
        assert index not in done
        assert event.get("item_id", items[index]["id"]) == items[index]["id"]
        assert event.get("content_index", event.get("summary_index", 0)) == 0
        if what == "output_item.done":
            assert event["item"]["id"] == items[index]["id"]
            assert event["item"]["type"] == items[index]["type"]
            done[index] = event["item"]
        elif what.endswith("part.added"):
            assert index not in texts
            assert event["part"]["text"] == ""
            texts[index] = ""
        elif what.endswith("part.done"):
            assert event["part"]["text"] == texts[index]
        elif what.endswith(".delta"):
            is_call = what.startswith("function_call")
            assert (index in texts) != is_call
            texts[index] = texts.get(index, "") + event["delta"]
        elif what.endswith(".done"):
            assert event.get("text", event.get("arguments")) == texts[index]
        else:
            assert what == "output_text.annotation.added"
    final: dict[str, Any] = events[-1]["response"]
    assert events[-1]["type"] == f"response.{final['status']}"
    assert len({item["id"] for item in items}) == len(items)
    assert final["output"] == [done[index] for index in range(len(items))]
    assert {event["response"]["id"] for event in (*events[:2], events[-1])} == {final["id"]}
    return final


def one_event(random_: random.Random) -> FlowEvent:
    """Any event but those that a run has once."""
    word = random_.choice(["", "a", "b c", "\n", "🙂"])
    choices: list[FlowEvent] = [
        *(
            TextDelta(word),
            TextDelta(word),
            ReasoningDelta(word),
            StepStarted(word),
            StepEnded(word, "FINISHED"),
        ),
        *(FlowToolCalled(word, {"a": word}), ToolUsed(word, word, {"b": 1}), ToolUsed(word, {}, None, word)),
        *(
            ClientToolCalled(f"call_{random_.random()}", "f", word),
            KeepAlive(),
            ArtifactMade({"type": "png"}),
        ),
        *(SourcesFound(({"pageContent": word},)), UsageReported(random_.randrange(9), random_.randrange(9))),
    ]
    return random_.choice(choices)


@pytest.mark.parametrize("seed", range(300))
def test_whatever_a_run_reports_the_stream_is_in_order_and_ends_with_the_body(seed: int) -> None:
    random_ = random.Random(seed)  # noqa: S311 - the same each time
    events = [one_event(random_) for _ in range(random_.randrange(12))]
    events += random_.choice(
        [[], [HumanInputRequested({"id": "1"}, ("Yes", "No"))], [HumanInputRequested({}, ())]]
    )
    events += [one_event(random_) for _ in range(random_.randrange(3))]
    events += random_.choice([[], [TurnEnded()], [TurnEnded("length")], [TurnEnded("content_filter")]])
    case = Case("any", events, random_.choice([{}, TOOLS, ASKED]))
    final = follow(events_of(case.stream()))
    assert final == case.whole()
    valid("response.stream", case.stream())
    parts = [part for item in final["output"] if item["type"] == "message" for part in item["content"]]
    texts: list[str] = []
    for event in events:
        texts += filter(None, [answer_text(event, is_first=not texts)])
    assert "".join(part["text"] for part in parts) == "".join(texts)
    assert len(parts) == 1 or (not parts and case.transcript().calls)
    thoughts = [part["text"] for item in final["output"] for part in item.get("summary", [])]
    hidden = ToolUsed if "include" in case.body else KeepAlive
    told = "".join(reasoning_text(event) for event in events if not isinstance(event, hidden))
    assert "".join(thoughts).replace("\n", "") == told.replace("\n", "")
    assert not any(re.search(r"[^\n]▸", thought) for thought in thoughts)
    broken = dataclasses.replace(case, error=RunFailed("It broke."))
    failed = follow(events_of(broken.stream()))
    assert (failed["status"], failed["usage"]) == ("failed", None)
    valid("response.stream", broken.stream())


@pytest.mark.parametrize("case", [*CASES, *BROKEN], ids=ids)
def test_a_stream_is_valid_by_openais_schema_and_in_order(case: Case) -> None:
    valid("response.stream", case.stream())
    follow(events_of(case.stream()))


@pytest.mark.parametrize("case", CASES, ids=ids)
def test_a_body_is_valid_and_what_the_stream_ends_with(case: Case) -> None:
    valid("response", case.whole())
    assert events_of(case.stream())[-1]["response"] == case.whole()


@pytest.mark.parametrize("case", [*CASES, *BROKEN], ids=ids)
def test_each_response_object_has_all_keys_and_usage_is_null_until_the_end(case: Case) -> None:
    first, second, *_, last = [event["response"] for event in events_of(case.stream()) if "response" in event]
    for response in (first, second, last):
        assert set(response) - {"conversation"} == KEYS
    assert (first["usage"], second["usage"]) == (None, None)
    assert (last["usage"] is None) == (last["status"] == "failed")


def test_after_a_stream_the_body_is_what_it_ended_with() -> None:
    case = CASES[2]
    renderer = case.renderer()
    renderer.opening()
    for event in case.events:
        renderer.chunks(event)
    last = renderer.closing([case.transcript()])[-2]
    assert orjson.loads(last.data)["response"] == renderer.body([case.transcript()])


def test_thoughts_end_when_the_text_begins_and_later_ones_stand_beside_it() -> None:
    kinds = [event["type"].removeprefix("response.") for event in events_of(CASES[2].stream())]
    begun = kinds.index("content_part.added")
    assert kinds[begun - 2 : begun] == ["output_item.done", "output_item.added"]
    assert [item["type"] for item in CASES[2].whole()["output"]] == ["reasoning", "message", "reasoning"]


def test_a_step_has_a_line_of_its_own_and_a_question_begins_the_text() -> None:
    events: Events = [ReasoningDelta("I think"), StepStarted("Agent"), ReasoningDelta("so.")]
    asked = HumanInputRequested({"id": "1"}, ("Yes", "No"))
    output = Case("s", [*events, asked, StepStarted("Late"), *END]).whole()["output"]
    texts = [part["text"] for item in output for part in item.get("summary", item.get("content"))]
    assert texts == ["I think\n▸ Agent\nso.", "(Waiting for your decision: Yes / No)", "▸ Late\n"]


def test_a_source_is_told_after_the_text_and_before_its_end() -> None:
    events = events_of(CASES[2].stream())
    kinds = [event["type"].removeprefix("response.") for event in events]
    place = kinds.index("output_text.annotation.added")
    assert kinds[place + 1] == "output_text.done"
    annotation = events[place]["annotation"]
    assert (annotation["type"], annotation["url"]) == ("url_citation", "https://a.example")
    assert CASES[2].whole()["output"][1]["content"][0]["annotations"] == [events[place]["annotation"]]


def test_tools_of_the_flow_are_items_only_when_asked_for() -> None:
    calls = [item for item in CASES[3].whole()["output"] if item["type"].startswith("function_call")]
    assert [
        (item["type"], item.get("name"), item.get("arguments", item.get("output"))) for item in calls
    ] == [
        ("function_call", "calculator", '{"input":"6*7"}'),
        ("function_call_output", None, "42"),
        ("function_call", "w_b_search_", '{"input":"q"}'),
        ("function_call_output", None, "it\n  broke"),
    ]
    assert calls[0]["call_id"] == calls[1]["call_id"] != calls[2]["call_id"] == calls[3]["call_id"]
    assert not [item for item in CASES[2].whole()["output"] if item["type"].startswith("function_call")]
    assert CASES[-1].whole()["output"][-1]["content"][0]["text"] == ""


@pytest.mark.parametrize(
    ("reason", "told"), [("length", "max_output_tokens"), ("content_filter", "content_filter")]
)
def test_an_answer_that_was_cut_is_incomplete(reason: Any, told: str) -> None:
    whole = Case("cut", [TextDelta("a"), TurnEnded(reason)]).whole()
    assert (whole["status"], whole["incomplete_details"]) == ("incomplete", {"reason": told})
    assert (whole["completed_at"], whole["output"][0]["status"]) == (None, "incomplete")
    assert Case("whole", TEXT).whole()["completed_at"] == CREATED


def test_a_failure_is_told_in_words_that_both_contracts_know() -> None:
    errors = [events_of(case.stream())[-1]["response"] for case in BROKEN]
    assert [response["error"] for response in errors] == [
        {"code": "server_error", "message": "It broke."},
        {"code": "rate_limit_exceeded", "message": "Too many."},
        {"code": "server_error", "message": "It broke."},
    ]
    assert [response["metadata"]["flowise_error_code"] for response in errors] == [
        "flow_failed",
        "rate_limit_exceeded",
        "empty_answer",
    ]
    told = [events_of(case.stream())[-2] for case in BROKEN]
    assert [(event["type"], event["code"], event["message"], event["param"]) for event in told] == [
        ("error", "flow_failed", "It broke.", None),
        ("error", "rate_limit_exceeded", "Too many.", None),
        ("error", "empty_answer", "It broke.", None),
    ]
    assert [event["error"] for event in told] == [
        error_body(case.error)["error"] for case in BROKEN if case.error
    ]
    for error, code in (
        (RunFailed("It broke."), "invalid_prompt"),
        (RateLimited("Too many."), "rate_limit_exceeded"),
        (FlowiseUnavailable("Nothing ran."), "server_error"),
    ):
        repeating = ResponsesRenderer(
            parse_response(HELLO), count_tokens=len, style=Style(repeats_failures=True)
        )
        failed = json.loads(repeating.failure(error)[-2].data)["response"]
        assert failed["error"] == {"code": code, "message": error.message}
        valid("response", failed)
    nameless = Case("b", [], error=ProxyError("Ours."))
    assert events_of(nameless.stream())[-1]["response"]["metadata"] == {"flowise_error_code": "server_error"}


# --- metadata ---


def test_a_cancelled_answer_ends_as_incomplete_and_says_so() -> None:
    request = dataclasses.replace(parse_response(HELLO), response_id="resp_mine")
    renderer = ResponsesRenderer(request, count_tokens=len)
    assert (renderer.begun("queued")["status"], renderer.begun("queued")["id"]) == ("queued", "resp_mine")
    frames = [*renderer.opening(), *renderer.chunks(TextDelta("Hel")), *renderer.cancelled()]
    valid("response.stream", stream_bytes(frames))
    body = renderer.body(())
    valid("response", body)
    assert (body["status"], body["output"][0]["status"]) == ("cancelled", "incomplete")
    assert json.loads(frames[-2].data)["type"] == "response.incomplete"


def test_metadata_holds_the_clients_pairs_and_what_flowise_told() -> None:
    metadata = Case("m", AGENT, {"metadata": {"mine": "1", "flowise_chat_id": "kept"}}).whole()["metadata"]
    assert json.loads(metadata.pop("flowise_used_tools"))[0]["name"] == "calculator"
    assert json.loads(metadata.pop("flowise_nodes"))[0]["name"] == "Agent"
    assert json.loads(metadata.pop("flowise_source_documents"))[0]["pageContent"] == "p"
    assert json.loads(metadata.pop("flowise_warnings"))
    assert metadata == {
        "mine": "1",
        "flowise_chat_id": "kept",
        "flowise_session_id": "session-1",
        "flowise_chat_message_id": "msg-1",
        "flowise_execution_id": "exec-1",
        "flowise_memory_type": "Buffer Memory",
        "flowise_follow_up_prompts": '["And 7*8?"]',
    }
    asked = Case("m", ACTION).whole()["metadata"]
    assert json.loads(asked["flowise_action"]) == {"id": "act-1", "choices": ["Proceed", "Reject"]}
    assert asked["flowise_usage_estimated"] == "true"


def test_metadata_stays_within_openais_limits() -> None:
    full = {f"k{n}": "v" for n in range(16)}
    assert Case("m", AGENT, {"metadata": full}).whole()["metadata"] == full
    prompts = tuple("x" * 200 for _ in range(4))
    named = TurnIdentified("m" * 600, follow_up_prompts=prompts)
    metadata = Case("m", [TextDelta("a"), named]).whole()["metadata"]
    assert json.loads(metadata["flowise_follow_up_prompts"]) == list(prompts[:2])
    assert len(metadata["flowise_chat_message_id"]) == 512
    endless = Case(
        "m",
        [HumanInputRequested({"id": "x" * 600}, ("Yes",)), TurnIdentified(follow_up_prompts=("x" * 600,))],
    )
    assert not {"flowise_action", "flowise_follow_up_prompts"} & set(endless.whole()["metadata"])


def test_usage_is_flowises_own_or_counted() -> None:
    assert CASES[0].whole()["usage"] == {
        "input_tokens": 7,
        "input_tokens_details": {"cached_tokens": 3, "cache_write_tokens": 0},
        "output_tokens": 8,
        "output_tokens_details": {"reasoning_tokens": 2},
        "total_tokens": 15,
    }
    assert CASES[1].whole()["usage"]["input_tokens"] == 5


# --- requests ---


def parsed(**body: Any) -> ParsedRequest:
    """A request that OpenAI's schema knows, parsed."""
    valid("response.request", {**HELLO, **body})
    return parse_response({**HELLO, **body})


def turned(*items: Any, **more: Any) -> tuple[str, list[tuple[str, str]], str]:
    """What input items become: question, history, instructions."""
    [turn] = parse_response({"model": "m", "input": list(items), **more}).turns
    return (
        turn.question,
        [(message.role, message.content) for message in turn.history],
        turn.instructions,
    )


def test_a_text_becomes_a_turn() -> None:
    request = parsed(instructions="Be brief", stream=True, store=None)
    [turn] = request.turns
    assert (turn.flow, turn.question, turn.instructions, turn.stream) == (
        "support",
        HELLO["input"],
        "Be brief",
        True,
    )
    assert (request.model, request.stream, request.store, request.background) == (
        "support",
        True,
        True,
        False,
    )
    assert (request.previous_response_id, request.conversation_id, request.parameters) == ("", "", {})
    [item] = request.input_items
    assert item["content"] == [{"type": "input_text", "text": HELLO["input"]}]
    assert parse_response({**HELLO, "model": None}, "deployed").turns[0].flow == "deployed"


def test_messages_need_no_type_and_parts_no_list() -> None:
    assert turned(
        {"role": "developer", "content": "Rules"},
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": [{"type": "output_text", "text": "b", "annotations": []}]},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "c"}]},
        instructions="First",
    ) == ("c", [("userMessage", "a"), ("apiMessage", "b")], "First\n\nRules")


def test_an_assistants_phase_refusal_and_thoughts_are_taken() -> None:
    refusal = {"type": "refusal", "refusal": "No."}
    question, history, _ = turned(
        {"role": "user", "content": "a"},
        {
            "type": "reasoning",
            "id": "rs_1",
            "summary": [{"type": "summary_text", "text": "t"}],
            "encrypted_content": "x",
        },
        {"type": "message", "role": "assistant", "phase": "final_answer", "content": [refusal]},
        {"role": "user", "content": [{"type": "text", "text": "c"}]},
    )
    assert (question, history) == ("c", [("userMessage", "a"), ("apiMessage", "No.")])


def test_calls_join_the_answer_before_them_and_outputs_are_told() -> None:
    call = {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": '{"city":"Bonn"}'}
    output = {"type": "function_call_output", "call_id": "c1", "output": "Rain"}
    question, history, _ = turned(
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "Let me see."},
        call,
        {**call, "call_id": "c2", "name": "time"},
        output,
        {**output, "call_id": "c2", "output": [{"type": "input_text", "text": "Noon"}]},
    )
    assert question == "Tool result of weather: Rain\n\nTool result of time: Noon"
    assert history == [
        ("userMessage", "a"),
        (
            "apiMessage",
            'Let me see.\n<tool_call>{"name":"weather","arguments":{"city":"Bonn"}}</tool_call>\n<tool_call>{"name":"time","arguments":{"city":"Bonn"}}</tool_call>',
        ),
    ]
    alone = turned({"role": "user", "content": "a"}, call, output)
    assert alone[1][1] == (
        "apiMessage",
        '<tool_call>{"name":"weather","arguments":{"city":"Bonn"}}</tool_call>',
    )


def test_an_output_without_a_call_is_told_by_its_tools_name() -> None:
    output = {"type": "function_call_output", "output": "Rain"}
    for item, tool in (({**output, "name": "weather"}, "weather"), ({**output, "call_id": None}, "the tool")):
        assert turned({"role": "user", "content": "a"}, item)[0] == f"a\n\nTool result of {tool}: Rain"
        [_, listed] = parse_response(
            {"model": "m", "input": [{"role": "user", "content": "a"}, item]}
        ).input_items
        assert "call_id" not in listed


FOREIGN: list[dict[str, Any]] = [
    {"type": "additional_tools", "role": "developer", "tools": []},
    {"type": "configuration_update", "reasoning": {"effort": "low"}},
    {"type": "custom_tool_call", "call_id": "c", "name": "sql", "input": "SELECT 1"},
    {"type": "custom_tool_call_output", "call_id": "c", "output": "1"},
    {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {"type": "search"}},
    {"type": "mcp_list_tools", "id": "mcpl_1", "server_label": "s", "tools": []},
    {"type": "mcp_approval_request", "id": "mcpr_1", "arguments": "{}", "name": "n", "server_label": "s"},
    {"type": "mcp_approval_response", "approval_request_id": "mcpr_1", "approve": True},
    {"type": "mcp_call", "id": 5, "arguments": "{}", "name": "n", "server_label": "s", "output": None},
    {"type": "compaction_trigger"},
    {"type": "a_type_of_next_year", "id": "", "depth": [{"x": 1}]},
]


def test_what_another_model_has_made_is_kept_but_not_told() -> None:
    items = [
        {"role": "user", "content": "a"},
        *FOREIGN,
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
        FOREIGN[4],
    ]
    request = parse_response({"model": "m", "input": items}, make_id=numbered_ids())
    [turn] = request.turns
    assert (turn.question, [message.content for message in turn.history]) == ("c", ["a", "b"])
    assert list(request.parameters) == [f"input.{item['type']}" for item in FOREIGN]
    kept = request.input_items[1 : len(FOREIGN) + 1]
    assert [{**item, "id": 0} for item in kept] == [{**item, "id": 0} for item in FOREIGN]
    assert all(isinstance(item["id"], str) and item["id"] for item in kept)
    assert kept[4]["id"] == "ws_1"
    # As a part of an earlier response they are not named again.
    later = parse_response(
        {"model": "m", "input": "d", "previous_response_id": "r"}, earlier={"r": request.input_items}.get
    )
    assert (later.turns[0].question, later.parameters) == ("c\n\nd", {})


def test_only_a_few_types_of_what_is_not_told_are_named() -> None:
    items = [{"type": f"kind_{n}"} for n in range(1000)]
    request = parse_response({"model": "m", "input": [{"role": "user", "content": "a"}, *items, *items]})
    assert list(request.parameters) == [f"input.kind_{n}" for n in range(16)]


@pytest.mark.parametrize(
    ("item", "advice"),
    [(FOREIGN[7], "waits for an approval"), (FOREIGN[9], "/v1/responses/compact")],
    ids=["mcp_approval_response", "compaction_trigger"],
)
def test_what_asks_for_an_action_is_refused_until_it_is_history(item: dict[str, Any], advice: str) -> None:
    question = {"role": "user", "content": "a"}
    for items in (
        [question, item],
        [{"role": "assistant", "content": "b"}, question, item, FOREIGN[-1]],
    ):
        with pytest.raises(BadRequest, match=advice) as caught:
            parse_response({"model": "m", "input": items})
        assert (caught.value.param, caught.value.code) == (
            f"input[{items.index(item)}]",
            "unsupported_content",
        )
    for answer in (FOREIGN[8], CALLED, {"role": "assistant", "content": "b"}):
        parse_response({"model": "m", "input": [question, item, answer, question]})


def test_calls_of_other_models_are_told_whatever_their_names_and_ids_are() -> None:
    call = {"type": "function_call", "call_id": "c" * 200, "name": "mcp.search files", "arguments": "{}"}
    output = {"type": "function_call_output", "call_id": "c" * 200, "output": "x"}
    assert turned({"role": "user", "content": "a"}, call, output)[0] == "Tool result of mcp.search files: x"


def test_the_flows_own_tools_are_no_calls_of_the_clients() -> None:
    items = CASES[3].whole()["output"]
    sent_back = turned({"role": "user", "content": "a"}, *items, {"role": "user", "content": "b"})
    assert sent_back == ("b", [("userMessage", "a"), ("apiMessage", "It is 42.")], "")


@pytest.mark.parametrize("case", CASES, ids=ids)
def test_whatever_an_answer_holds_can_be_sent_back_and_listed(case: Case) -> None:
    items = [*case.whole()["output"], {"role": "user", "content": "Go on"}]
    request = parse_response({"model": "m", "input": items})
    assert request.turns[0].question.endswith("Go on")
    assert [item["id"] for item in request.input_items[:-1]] == [item["id"] for item in items[:-1]]
    valid("response.request", {"model": "m", "input": items})


def test_input_is_kept_whole_and_can_be_listed() -> None:
    items = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b", "phase": "commentary", "id": "msg_mine"},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": "x", "id": None},
        {"type": "reasoning", "summary": []},
    ]
    listed = parse_response({"model": "m", "input": items}, make_id=numbered_ids()).input_items
    ends = {"first_id": listed[0]["id"], "last_id": listed[-1]["id"]}
    valid("response.items", {"object": "list", "data": list(listed), "has_more": False, **ends})
    assert [item["id"][:4] for item in listed] == ["msg_", "msg_", "fc_0", "fco_", "rs_0"]
    assert (listed[1]["id"], listed[1]["phase"]) == ("msg_mine", "commentary")


@pytest.mark.parametrize(
    "reference", [{"type": "item_reference", "id": "msg_1"}, {"id": "msg_1"}, {"type": None, "id": "msg_1"}]
)
def test_a_reference_stands_for_its_item(reference: dict[str, Any]) -> None:
    kept = {
        "type": "message",
        "id": "msg_1",
        "role": "assistant",
        "content": [{"type": "output_text", "text": "b"}],
    }
    items = [{"role": "user", "content": "a"}, reference, {"role": "user", "content": "c"}]
    request = parse_response({"model": "m", "input": items}, resolve={"msg_1": kept}.get)
    assert [message.content for message in request.turns[0].history] == ["a", "b"]
    assert request.input_items[1]["id"] == "msg_1"
    with pytest.raises(BadRequest) as caught:
        parse_response({"model": "m", "input": items})
    assert (caught.value.param, caught.value.code) == ("input[1].id", "item_not_found")


def test_an_earlier_response_goes_before_the_input() -> None:
    kept = [{"type": "message", "role": "user", "content": "a"}, *Case("e", [CALL]).whole()["output"]]
    output = {"type": "function_call_output", "call_id": "call_1", "output": "Rain"}
    body = {"model": "m", "input": [output], "previous_response_id": "resp_1"}
    request = parse_response(body, earlier={"resp_1": kept}.get)
    assert request.turns[0].question == "Tool result of weather: Rain"
    assert [message.role for message in request.turns[0].history] == ["userMessage", "apiMessage"]
    assert (request.previous_response_id, len(request.input_items)) == ("resp_1", 1)
    assert parse_response({**body, "input": None}, earlier={"resp_1": kept}.get).input_items == ()
    with pytest.raises(BadRequest) as caught:
        parse_response(body)
    assert (caught.value.param, caught.value.code) == ("previous_response_id", "previous_response_not_found")
    assert caught.value.message == "Previous response with id 'resp_1' not found."


def test_in_a_conversation_a_calls_output_may_come_alone() -> None:
    body = {"model": "m", "input": [{"type": "function_call_output", "call_id": "c", "output": "x"}]}
    for conversation in ("conv_1", {"id": "conv_1"}):
        assert parse_response({**body, "conversation": conversation}).conversation_id == "conv_1"
    with pytest.raises(BadRequest) as caught:
        parse_response(body)
    assert caught.value.param == "input[0].call_id"


# --- fields ---


def test_what_a_request_leaves_out_is_filled_in() -> None:
    response = Case("d", TEXT).whole()
    assert {key: response[key] for key in KEYS - {"id", "output", "usage", "metadata"}} == {
        **dict.fromkeys(("error", "incomplete_details", "previous_response_id", "instructions", "reasoning")),
        **dict.fromkeys(("max_output_tokens", "max_tool_calls", "safety_identifier", "prompt_cache_key")),
        "object": "response",
        "created_at": CREATED,
        "completed_at": CREATED,
        "status": "completed",
        "model": "support",
        "tools": [],
        "tool_choice": "auto",
        "truncation": "disabled",
        "parallel_tool_calls": True,
        "text": {"format": {"type": "text"}},
        "temperature": 1,
        "top_p": 1,
        "presence_penalty": 0,
        "frequency_penalty": 0,
        "top_logprobs": 0,
        "store": True,
        "background": False,
        "service_tier": "default",
    }


def test_null_is_as_good_as_silence() -> None:
    nulls = dict.fromkeys(KEYS | {"stream", "include", "conversation", "user"} - {"model", "output"})
    request = parse_response({**nulls, **HELLO})
    assert request.echo == parse_response(HELLO).echo
    assert request.parameters == {}


@pytest.mark.parametrize(
    ("name", "value", "echo"),
    [
        ("temperature", 0, 0),
        ("top_p", 0.5, 0.5),
        ("top_logprobs", 3, 3),
        ("max_output_tokens", 16, 16),
        ("max_tool_calls", 1, 1),
        ("parallel_tool_calls", False, False),
        ("tool_choice", "required", "required"),
        ("tools", [{"type": "web_search"}], [{"type": "web_search"}]),
        (
            "tools",
            [{"type": "function", "name": "f", "parameters": None, "strict": None}],
            [{"type": "function", "name": "f", "description": None, "parameters": None, "strict": None}],
        ),
        (
            "tool_choice",
            {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "f"}]},
            {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "f"}]},
        ),
        ("tool_choice", {"type": "web_search_preview"}, {"type": "web_search_preview"}),
        ("service_tier", "flex", "default"),
        ("text", {"format": {"type": "json_object"}}, {"format": {"type": "json_object"}}),
        ("text", {"verbosity": "low"}, {"format": {"type": "text"}, "verbosity": "low"}),
        (
            "text",
            {"format": {"type": "json_schema", "name": "n", "schema": {}, "description": "d"}},
            {
                "format": {
                    "type": "json_schema",
                    "name": "n",
                    "description": "d",
                    "schema": {},
                    "strict": False,
                }
            },
        ),
        ("truncation", "auto", "auto"),
        ("prompt_cache_key", "p" * 1000, "p" * 1000),
    ],
)
def test_what_no_flow_obeys_is_repeated_and_named(name: str, value: Any, echo: Any) -> None:
    request = parsed(**{name: value})
    assert (request.echo[name], list(request.parameters)) == (echo, [name])
    valid("response", Case("e", TEXT, {name: value}).whole())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("metadata", {"a": "b"}),
        ("safety_identifier", "s" * 128),
        ("store", False),
        ("background", True),
        ("instructions", "i"),
        ("text", {"format": {"type": "text"}}),
        ("truncation", "disabled"),
    ],
)
def test_what_can_be_obeyed_is_repeated_and_not_named(name: str, value: Any) -> None:
    request = parsed(**{name: value})
    assert (request.echo[name], request.parameters) == (value, {})


def test_only_what_cannot_be_included_is_named() -> None:
    assert parse_response({**HELLO, **TOOLS}).parameters == {}
    assert parsed(include=["reasoning.encrypted_content"]).parameters == {
        "include": ["reasoning.encrypted_content"]
    }
    assert parsed(stream_options={"include_obfuscation": False}).parameters == {}


def test_the_effort_alone_of_reasoning_needs_a_flow_that_takes_it() -> None:
    both = parsed(reasoning={"effort": "low", "summary": "auto"})
    assert both.echo["reasoning"] == {"effort": "low", "summary": "auto"}
    assert both.parameters == {"reasoning_effort": "low"}
    for reasoning in ({"mode": "standard", "context": "auto"}, {"generate_summary": "concise"}):
        as_ever = parsed(reasoning=reasoning)
        assert as_ever.echo["reasoning"] == {"effort": None, "summary": None, **reasoning}
        assert as_ever.parameters == {}
    more = parsed(reasoning={"mode": "pro", "context": "all_turns"})
    assert more.echo["reasoning"] == {
        "effort": None,
        "summary": None,
        "mode": "pro",
        "context": "all_turns",
    }
    assert list(more.parameters) == ["reasoning.mode", "reasoning.context"]
    assert parsed(reasoning={"summary": "auto"}).parameters == {}


def test_who_asks_and_in_which_conversation_is_read() -> None:
    own = parse_response(
        {**HELLO, "conversation": "conv_1", "user": "ann", "chat_id": "c", "session_id": "s"}
    )
    assert (own.conversation, own.conversation_id, own.user, own.resends) == (
        "conv_1",
        "conv_1",
        "ann",
        False,
    )
    other = parse_response({**HELLO, "chat_id": "c", "overrideConfig": {"a": 1}})
    assert (other.conversation, other.conversation_id, other.resends) == ("c", "", True)
    assert (other.passed, other.is_conversation) == ({"overrideConfig": {"a": 1}}, True)


@pytest.mark.parametrize("ahead", [{"generate": False}, {"prompt_cache_options": {"prewarm": True}}])
def test_a_request_sent_ahead_is_answered_without_any_output(ahead: dict[str, Any]) -> None:
    for said in ({"input": "Hello"}, {"input": None}, {"input": [], "instructions": "Be brief"}):
        request = parse_response({**HELLO, **ahead, **said})
        assert not request.generates
        renderer = ResponsesRenderer(replace(request, store=True), count_tokens=len, clock=lambda: CREATED)
        frames = [*renderer.opening(), *renderer.closing([Transcript("chat")])]
        response = renderer.body([Transcript("chat")])
        assert [frame.event for frame in frames] == [
            *("response.created", "response.in_progress", "response.completed"),
            None,
        ]
        assert (response["status"], response["output"], response["metadata"]) == ("completed", [], {})
        assert response["usage"] is not None
        assert response["usage"]["output_tokens"] == 0
        valid("response", response)
        valid("response.stream", stream_bytes(frames))


def test_only_what_is_sent_ahead_is_not_run() -> None:
    for body in ({}, {"generate": None}, {"generate": True}, {"prompt_cache_options": {"prewarm": False}}):
        assert parse_response({**HELLO, **body}).generates
    # OpenAI: prewarm wins.
    assert not parse_response(
        {**HELLO, "generate": True, "prompt_cache_options": {"prewarm": True}}
    ).generates


def message(*parts: Any, role: str = "user") -> dict[str, Any]:
    """A request with one message."""
    return {"input": [{"role": role, "content": list(parts)}]}


CALLED = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
OUTPUT = {"type": "function_call_output", "call_id": "c", "output": "x"}
SCHEMA = {"type": "json_schema", "name": "n", "schema": {}}
WRONG: list[tuple[dict[str, Any], str]] = [
    ({"model": None}, "model"),
    ({"input": None}, "input"),
    ({"input": 5}, "input"),
    ({"input": []}, "input"),
    ({"input": ""}, "input"),
    ({"input": "x" * (10 * 2**20 + 1)}, "input"),
    ({"input": ["a"]}, "input[0]"),
    ({"input": [{}]}, "input[0].id"),
    ({"input": [{"id": 5}]}, "input[0].id"),
    ({"input": [{"type": 5}]}, "input[0].type"),
    ({"input": [{"type": "a b"}]}, "input[0].type"),
    ({"input": [{"type": ""}]}, "input[0].type"),
    ({"input": [{"type": "x" * 65}]}, "input[0].type"),
    ({"input": [{"type": "web_search_call"}]}, "input"),
    ({"input": [{"role": "user", "content": "a", "id": 5}]}, "input[0].id"),
    ({"input": [{"content": "a"}]}, "input[0].role"),
    ({"input": [{"role": "tool", "content": "a"}]}, "input[0].role"),
    ({"input": [{"role": "user"}]}, "input[0].content"),
    ({"input": [{"role": "user", "content": 5}]}, "input[0].content"),
    ({"input": [{"role": "user", "content": "x" * (10 * 2**20 + 1)}]}, "input[0].content"),
    ({"input": [{"role": "assistant", "content": "a", "phase": "x"}]}, "input[0].phase"),
    (message(), "input"),
    (message("a"), "input[0].content[0]"),
    (message({}), "input[0].content[0].type"),
    (message({"type": "input_text"}), "input[0].content[0].text"),
    (message({"type": "input_audio"}), "input[0].content[0].input_audio"),
    (message({"type": "input_audio", "input_audio": "a"}), "input[0].content[0].input_audio"),
    (
        message({"type": "input_audio", "input_audio": {"data": "AA==", "format": "mp3"}}),
        "input[0].content[0].input_audio.format",
    ),
    (
        message({"type": "input_audio", "input_audio": {"data": "@", "format": "ogg"}}),
        "input[0].content[0].input_audio.data",
    ),
    (message({"type": "refusal", "refusal": "a"}), "input[0].content[0].type"),
    (message({"type": "refusal"}, role="assistant"), "input[0].content[0].refusal"),
    (message({"type": "input_image", "image_url": "a"}, role="assistant"), "input[0].content[0].type"),
    (message({"type": "input_image"}), "input[0].content[0].image_url"),
    (message({"type": "input_image", "file_id": "f"}), "input[0].content[0].file_id"),
    (message({"type": "input_image", "image_url": "a", "detail": "x"}), "input[0].content[0].detail"),
    (message({"type": "input_file"}), "input[0].content[0].file_data"),
    (message({"type": "input_file", "file_id": "f"}), "input[0].content[0].file_id"),
    (message({"type": "input_file", "file_url": "f"}), "input[0].content[0].file_url"),
    (message({"type": "input_file", "file_url": 5}), "input[0].content[0].file_url"),
    (
        message({"type": "input_file", "file_url": "https://a.example/b.pdf"}),
        "input[0].content[0].file_url",
    ),
    (message({"type": "input_file", "file_url": "https://[/b.png"}), "input[0].content[0].file_url"),
    (message({"type": "input_file", "file_url": "file:///b.png"}), "input[0].content[0].file_url"),
    (message({"type": "input_file", "file_data": "a", "filename": 5}), "input[0].content[0].filename"),
    ({"input": [{**CALLED, "name": ""}]}, "input[0].name"),
    ({"input": [{**CALLED, "call_id": ""}]}, "input[0].call_id"),
    ({"input": [CALLED, {**OUTPUT, "call_id": ""}]}, "input[1].call_id"),
    ({"input": [CALLED, {**OUTPUT, "call_id": 5}]}, "input[1].call_id"),
    ({"input": [{**OUTPUT, "call_id": None, "name": 5}]}, "input[0].name"),
    ({"input": [{**CALLED, "arguments": {}}]}, "input[0].arguments"),
    ({"input": [CALLED, {k: v for k, v in OUTPUT.items() if k != "output"}]}, "input[1].output"),
    ({"input": [CALLED, {**OUTPUT, "output": [{"type": "x"}]}]}, "input[1].output[0].type"),
    ({"input": [OUTPUT, CALLED]}, "input[0].call_id"),
    ({"input": [{"type": "reasoning"}]}, "input[0].summary"),
    ({"input": [{"type": "reasoning", "summary": "a"}]}, "input[0].summary"),
    ({"input": [{"type": "reasoning", "summary": ["a"]}]}, "input[0].summary[0]"),
    ({"input": [{"type": "reasoning", "summary": [{}]}]}, "input[0].summary[0].text"),
    ({"stream": "yes"}, "stream"),
    ({"generate": 0}, "generate"),
    ({"prompt_cache_options": "x"}, "prompt_cache_options"),
    ({"prompt_cache_options": {"prewarm": 1}}, "prompt_cache_options.prewarm"),
    ({"stream_options": {"include_obfuscation": 1}}, "stream_options.include_obfuscation"),
    ({"store": 1}, "store"),
    ({"background": 1}, "background"),
    ({"background": True, "store": False}, "background"),
    ({"instructions": ["a"]}, "instructions"),
    ({"previous_response_id": 5}, "previous_response_id"),
    ({"previous_response_id": "a", "conversation": "b"}, "previous_response_id"),
    ({"conversation": 5}, "conversation"),
    ({"conversation": {}}, "conversation.id"),
    ({"include": "a"}, "include"),
    ({"include": [5]}, "include[0]"),
    ({"temperature": 3}, "temperature"),
    ({"top_p": "a"}, "top_p"),
    ({"top_logprobs": 21}, "top_logprobs"),
    ({"max_output_tokens": 15}, "max_output_tokens"),
    ({"max_tool_calls": 0}, "max_tool_calls"),
    ({"parallel_tool_calls": 1}, "parallel_tool_calls"),
    ({"truncation": "x"}, "truncation"),
    ({"service_tier": 5}, "service_tier"),
    ({"reasoning": "a"}, "reasoning"),
    ({"reasoning": {"effort": 5}}, "reasoning.effort"),
    ({"metadata": 5}, "metadata"),
    ({"metadata": {f"k{n}": "v" for n in range(17)}}, "metadata"),
    ({"metadata": {"k" * 65: "v"}}, "metadata"),
    ({"metadata": {"k": 5}}, "metadata.k"),
    ({"metadata": {"k": "v" * 513}}, "metadata.k"),
    ({"safety_identifier": "s" * 129}, "safety_identifier"),
    ({"prompt": "p"}, "prompt"),
    ({"context_management": {}}, "context_management"),
    ({"moderation": True}, "moderation"),
    ({"access_programs": []}, "access_programs"),
    ({"background_options": "2h"}, "background_options"),
    ({"image": 5}, "image"),
    ({"prompt_cache_retention": 24}, "prompt_cache_retention"),
    ({"reasoning": {"mode": 5}}, "reasoning.mode"),
    ({"reasoning": {"context": []}}, "reasoning.context"),
    ({"prompt_cache_key": 5}, "prompt_cache_key"),
    ({"text": 5}, "text"),
    ({"text": {"format": 5}}, "text.format"),
    ({"text": {"format": {}}}, "text.format.type"),
    ({"text": {"format": {"type": "x"}}}, "text.format.type"),
    ({"text": {"format": {**SCHEMA, "name": None}}}, "text.format.name"),
    ({"text": {"format": {**SCHEMA, "schema": None}}}, "text.format.schema"),
    ({"text": {"format": {**SCHEMA, "schema": "x"}}}, "text.format.schema"),
    ({"text": {"format": {**SCHEMA, "description": 5}}}, "text.format.description"),
    ({"text": {"format": {**SCHEMA, "strict": 5}}}, "text.format.strict"),
    ({"text": {"verbosity": 5}}, "text.verbosity"),
    ({"tools": {}}, "tools"),
    ({"tools": ["a"]}, "tools[0]"),
    ({"tools": [{}]}, "tools[0].type"),
    ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools[0].name"),
    ({"tools": [{"type": "function", "name": "f", "parameters": "x"}]}, "tools[0].parameters"),
    ({"tool_choice": "x"}, "tool_choice"),
    ({"tool_choice": 5}, "tool_choice"),
    ({"tool_choice": {}}, "tool_choice.type"),
    ({"tool_choice": {"type": "function"}}, "tool_choice.name"),
    ({"tool_choice": {"type": "allowed_tools", "mode": "x"}}, "tool_choice.mode"),
    ({"tool_choice": {"type": "allowed_tools", "mode": "auto"}}, "tool_choice.tools"),
    ({"tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": {}}}, "tool_choice.tools"),
]


@pytest.mark.parametrize(("body", "param"), WRONG, ids=[f"{n}-{param}" for n, (_, param) in enumerate(WRONG)])
def test_a_bad_request_names_its_place(body: dict[str, Any], param: str) -> None:
    with pytest.raises(BadRequest) as caught:
        parse_response({**HELLO, **body})
    assert caught.value.param == param
    assert caught.value.code
    assert "messages" not in caught.value.message


def test_images_and_files_become_parts_of_a_chat() -> None:
    image = {"type": "input_image", "image_url": "data:image/png;base64,AA==", "detail": "auto"}
    file = {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,AA=="}
    for part in (image, file, {"type": "input_file", "file_data": "AA=="}):
        items = [
            {"role": "user", "content": "a"},
            {"role": "user", "content": [{"type": "input_text", "text": "b"}, part]},
        ]
        valid("response.request", {"model": "m", "input": items})
        [attached] = parse_response({"model": "m", "input": items}).attachments
        assert attached.position == 0
        assert attached.param.startswith("input[1].content[1]")
        assert parse_response({"model": "m", "input": items}).input_items[1]["content"][1] == part


@pytest.mark.parametrize(
    ("part", "field"),
    [
        ({"type": "input_image", "image_url": "file:///a.png"}, "image_url"),
        ({"type": "input_file", "file_data": "?"}, "file_data"),
        (
            {"type": "input_file", "filename": "a.txt", "file_data": "data:text/plain;base64,/w=="},
            "file_data",
        ),
        ({"type": "input_file", "file_url": "data:image/heic;base64,AAAA"}, "file_data"),
    ],
)
def test_a_part_that_cannot_be_read_is_named_by_its_place_in_the_input(
    part: dict[str, Any], field: str
) -> None:
    question = {"role": "user", "content": [{"type": "input_text", "text": "b"}, part]}
    output = {"type": "function_call_output", "call_id": "c", "output": [part]}
    for items, place in (
        ([CALLED, question], "input[1].content[1]"),
        ([CALLED, output], "input[1].output[0]"),
    ):
        with pytest.raises(BadRequest) as caught:
            parse_response({"model": "m", "input": items, "instructions": "Be brief"})
        assert caught.value.param == f"{place}.{field}"
        assert "messages" not in caught.value.message


def test_an_attachment_of_an_earlier_response_is_named_by_the_field_that_names_the_response() -> None:
    image = {"type": "input_image", "image_url": "https://a.example/b.png"}
    stored = [{"type": "message", "role": "user", "content": [image]}]
    body = {"model": "m", "previous_response_id": "r", "instructions": "Be brief"}
    [attached] = parse_response(body, earlier={"r": stored}.get).attachments
    assert (attached.param, attached.is_newest) == ("previous_response_id", True)


def test_audio_and_addresses_are_taken_as_the_chat_takes_them() -> None:
    def attached(part: dict[str, Any]) -> tuple[str, str, str, str]:
        request = parse_response({"model": "m", **message({"type": "input_text", "text": "a"}, part)})
        [one] = request.attachments
        return one.upload.type, one.upload.mime, one.upload.data, one.param

    audio = {"type": "input_audio", "input_audio": {"data": "AA==", "format": "ogg"}}
    place = "input[0].content[1]"
    assert attached(audio) == (
        "audio",
        "audio/ogg",
        "data:audio/ogg;base64,AA==",
        f"{place}.input_audio.data",
    )
    image = {"type": "input_file", "file_url": "https://a.example/b.png?c=d"}
    assert attached(image) == ("url", "image/png", image["file_url"], f"{place}.image_url")
    text = {"type": "input_file", "filename": "a.txt", "file_url": "data:text/plain;base64,SGk="}
    assert attached(text)[:3] == ("file:full", "text/plain", "Hi")


def test_without_sources_nothing_is_cited() -> None:
    renderer = ResponsesRenderer(parse_response(HELLO), count_tokens=len)
    [message] = renderer.body([Case("c", [TextDelta("a")]).transcript()])["output"]
    assert message["content"][0]["annotations"] == []
    assert message["id"].startswith("msg_")


# Earlier turns


def item_of(role: str, content: Any) -> dict[str, Any]:
    """A message item."""
    return {"type": "message", "role": role, "content": content}


@pytest.mark.parametrize(
    ("item", "said", "left_out"),
    [
        (
            item_of("user", [{"type": "input_video"}, {"type": "input_text", "text": "a"}]),
            "[part left out]\na",
            "part",
        ),
        (item_of("user", [{"type": "input_image", "image_url": "file:///x"}]), "[image left out]", "image"),
        (item_of("user", [{"type": "input_image", "file_id": "file-1"}]), "[image left out]", "image"),
        (item_of("user", [{"type": "input_file", "file_id": "file-1"}]), "[file left out]", "file"),
        (item_of("user", [None]), "[part left out]", "part"),
        ({"role": "user", "content": 5}, "[message left out]", "message"),
    ],
)
def test_what_cannot_be_read_of_an_earlier_item_is_a_note(item: Any, said: str, left_out: str) -> None:
    with pytest.raises(BadRequest):
        parse_response({**HELLO, "input": [item]})
    for between in ([item_of("assistant", "b")], []):
        asked = parse_response({**HELLO, "input": [item, *between, item_of("user", "c")]})
        history = asked.turns[0].history
        assert (history[0].content if between else asked.user_text.removesuffix("\n\nc")) == said
        assert asked.left_out == (left_out,)
        # The item is whole: it can be kept, listed and gone on from.
        again = parse_response({**HELLO, "input": list(asked.input_items)})
        assert again.user_text == asked.user_text


def test_a_tool_may_give_nothing() -> None:
    asked = parse_response({**HELLO, "input": [CALLED, {**OUTPUT, "output": None}]})
    assert asked.user_text == f"Tool result of {CALLED['name']}: "


def test_no_limit_is_none_that_is_ignored() -> None:
    asked = parse_response({**HELLO, "max_output_tokens": -1})
    assert (asked.echo["max_output_tokens"], asked.parameters) == (None, {})


@pytest.mark.parametrize(
    "item",
    [
        {"type": "function_call", "name": "f"},
        {"type": "function_call_output", "call_id": "c9", "output": "42"},
        {"type": "function_call_output", "call_id": "c9", "output": None},
        item_of("user", None),
        item_of("narrator", "x"),
        {"type": "reasoning"},
        5,
        None,
    ],
)
def test_no_earlier_item_is_a_reason_to_refuse(item: Any) -> None:
    asked = parse_response({**HELLO, "input": [item, item_of("assistant", "b"), item_of("user", "c")]})
    assert (asked.user_text, asked.turns[0].history[-1].content) == ("c", "b")
