"""Responses: events into its wire, held by golden files in `tests/wire/openai`.

The contract is `Open Responses` and OpenAI's document; the schemas are OpenAI's, the 31 keys Open Responses'.
"""

from __future__ import annotations

import dataclasses
import json
import random
import re
from typing import Any

import orjson
import pytest

from flowise_gateway.flow.errors import (
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
from flowise_gateway.openai.answer_text import answer_text, reasoning_text
from flowise_gateway.openai.client_quirks import Style
from flowise_gateway.openai.sse import stream_bytes
from flowise_gateway.responses.renderer import ResponsesRenderer
from flowise_gateway.responses.request import parse_response
from tests.support.flow_events import ACTION, END, TEXT, Events
from tests.support.openai_check import GOLDEN, Golden, valid
from tests.support.response_cases import (
    AGENT,
    ASKED,
    BROKEN,
    CASES,
    CREATED,
    HELLO,
    KEYS,
    TOOLS,
    Case,
    ids,
    sse_events,
)


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
    final = follow(sse_events(case.stream()))
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
    failed = follow(sse_events(broken.stream()))
    assert (failed["status"], failed["usage"]) == ("failed", None)
    valid("response.stream", broken.stream())


@pytest.mark.parametrize("case", [*CASES, *BROKEN], ids=ids)
def test_a_stream_is_valid_by_openais_schema_and_in_order(case: Case) -> None:
    valid("response.stream", case.stream())
    follow(sse_events(case.stream()))


@pytest.mark.parametrize("case", CASES, ids=ids)
def test_a_body_is_valid_and_what_the_stream_ends_with(case: Case) -> None:
    valid("response", case.whole())
    assert sse_events(case.stream())[-1]["response"] == case.whole()


@pytest.mark.parametrize("case", [*CASES, *BROKEN], ids=ids)
def test_each_response_object_has_all_keys_and_usage_is_null_until_the_end(case: Case) -> None:
    first, second, *_, last = [
        event["response"] for event in sse_events(case.stream()) if "response" in event
    ]
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
    kinds = [event["type"].removeprefix("response.") for event in sse_events(CASES[2].stream())]
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
    events = sse_events(CASES[2].stream())
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
    errors = [sse_events(case.stream())[-1]["response"] for case in BROKEN]
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
    told = [sse_events(case.stream())[-2] for case in BROKEN]
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
        event, end = (json.loads(frame.data) for frame in repeating.failure(error)[-3:-1])
        failed = end["response"]
        assert failed["error"] == {"code": code, "message": error.message}
        # opencode looks at the error of its own, where OpenAI's codes are not the only ones.
        told_code = error.code if error.nothing_ran else "invalid_prompt"
        assert (event["code"], event["error"]["code"]) == (told_code, told_code)
        assert failed["metadata"]["flowise_error_code"] == error.code
        valid("response", failed)
    nameless = Case("b", [], error=ProxyError("Ours."))
    assert sse_events(nameless.stream())[-1]["response"]["metadata"] == {"flowise_error_code": "server_error"}


# --- metadata ---


def test_a_cancelled_answer_ends_as_incomplete_and_says_so() -> None:
    request = dataclasses.replace(parse_response(HELLO), response_id="resp_mine")
    renderer = ResponsesRenderer(request, count_tokens=len)
    assert (renderer.before_output("queued")["status"], renderer.before_output("queued")["id"]) == (
        "queued",
        "resp_mine",
    )
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


def test_without_sources_nothing_is_cited() -> None:
    renderer = ResponsesRenderer(parse_response(HELLO), count_tokens=len)
    [message] = renderer.body([Case("c", [TextDelta("a")]).transcript()])["output"]
    assert message["content"][0]["annotations"] == []
    assert message["id"].startswith("msg_")
