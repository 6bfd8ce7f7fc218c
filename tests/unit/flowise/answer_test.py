"""Whole JSON answers into events, and that a flow says the same streamed or not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import orjson
import pytest

from flowise_gateway.flow.events import (
    ArtifactMade,
    FlowToolCalled,
    HumanInputRequested,
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
from flowise_gateway.flowise.answer import MAX_TOKENS, answer_events
from tests.support.flow_events import transcript_of
from tests.support.flowise_wire import (
    CALL_IDS,
    agent,
    executed,
    node,
    of_recording,
    pairs,
    read_at_once,
    told,
    tool,
    used,
)

# --- branches that end beside each other ---


def branch(name: str, text: str, before: str = "startAgentflow_0", kind: str = "llm") -> dict[str, Any]:
    """An executed node."""
    return {
        "nodeId": name,
        "nodeLabel": name,
        "data": {"name": f"{kind}Agentflow", "output": {"content": text}},
        "previousNodeIds": [before],
        "status": "FINISHED",
    }


START = {"nodeId": "startAgentflow_0", "data": {"name": "startAgentflow"}, "previousNodeIds": []}
BRANCHES: dict[str, tuple[list[dict[str, Any]], str, str]] = {
    "two models": ([branch("a", "One."), branch("b", "Two.")], "One.\n\nTwo.", "a b"),
    "a question begins with an empty line": (
        [branch("a", "One."), branch("b", "\n\nTwo.")],
        "One.\n\nTwo.",
        "a b",
    ),
    "a branch of two nodes": (
        [branch("a", "One."), branch("b", "Two."), branch("c", "Three.", before="b")],
        "One.\n\nThree.",
        "a c",
    ),
    "a silent node between": (
        [branch("a", "One."), branch("b", "log", kind="condition"), branch("c", "Three.")],
        "One.\n\nThree.",
        "a c",
    ),
    "a silent node at the end": (
        [branch("a", "One."), branch("b", "Two.", kind="iteration")],
        "One.\n\nTwo.",
        "a",
    ),
    "a node without text": ([branch("a", "One."), branch("b", " ")], "One.", "a"),
    "one silent node": ([branch("a", "One.", kind="iteration")], "One.", ""),
    "a loop": (
        [branch("a", "1", kind="loop"), branch("b", "2", kind="loop"), branch("c", "End.")],
        "End.",
        "c",
    ),
}


@pytest.mark.parametrize("name", BRANCHES)
@pytest.mark.parametrize("in_one", [False, True], ids=["event by event", "in one read"])
def test_the_texts_of_branches_are_set_apart_and_a_body_says_the_same(name: str, in_one: bool) -> None:
    nodes, text, speakers = BRANCHES[name]
    messages: list[tuple[str, Any]] = []
    for count, entry in enumerate(nodes, 1):
        messages.append(node(entry["nodeId"], "INPROGRESS", entry["nodeId"]))
        said = entry["data"]["output"]["content"] if entry["nodeId"] in speakers.split() else ""
        messages += [("token", ""), *(("token", letter) for letter in said), ("token", "")]
        messages.append(node(entry["nodeId"], "FINISHED", entry["nodeId"]))
        messages.append(("agentFlowExecutedData", [START, *nodes[:count]]))
    if in_one:
        events = b"".join(
            b"message:\ndata:%b\n\n" % orjson.dumps({"event": n, "data": d}) for n, d in messages
        )
        streamed = transcript_of(read_at_once(events))
    else:
        streamed = transcript_of(told(*messages))
    whole = {"text": nodes[-1]["data"]["output"]["content"], "agentFlowExecutedData": [START, *nodes]}
    assert streamed.text == text
    assert transcript_of(answer_events(whole)).text == text


def test_what_was_said_before_a_decision_is_not_said_again() -> None:
    asks = branch("humanInputAgentflow_0", "approve", kind="humanInput")
    after = branch("c", "Done.", before="humanInputAgentflow_0", kind="directReply")
    answer = {"text": "Done.", "agentFlowExecutedData": [START, branch("a", "Said before."), asks, after]}
    decision = {"type": "proceed", "startNodeId": "humanInputAgentflow_0"}
    assert transcript_of(answer_events(answer, decision)).text == "Done."
    assert transcript_of(answer_events(answer, {"type": "proceed"})).text == "Done."
    stopped = {**asks, "status": "STOPPED"}
    answer = {"text": "Go on?", "agentFlowExecutedData": [START, branch("a", "Draft."), stopped]}
    assert transcript_of(answer_events(answer)).text == "Go on?"


@pytest.mark.parametrize("foreign", [None, 5, "x", [], {}, [[1]], [{"a": 1}], ["x", None]])
def test_executed_nodes_may_be_anything(foreign: Any) -> None:
    for name in ("llmAgentflow", foreign):
        entry = {"nodeId": foreign, "previousNodeIds": foreign, "data": {"name": name}, "status": foreign}
        assert transcript_of(answer_events({"text": "x", "agentFlowExecutedData": [entry] * 3})).text == "x"


# --- what stopped runs of older versions ask ---


OLDER = Path(__file__).resolve().parents[2] / "wire/flowise-3.0.13"


def test_a_json_answer_without_action_tells_the_decision_it_waits_for() -> None:
    body = (OLDER / "human-1-ask-json.http").read_bytes().partition(b"\r\n\r\n")[2]
    answer = json.loads(body)
    assert "action" not in answer
    asked = transcript_of(answer_events(answer)).action
    assert asked is not None
    assert asked.choices == ("Proceed", "Reject")
    assert asked.action["data"]["nodeId"] == "humanInputAgentflow_0"
    resumed = json.loads((OLDER / "human-2-reject-json.http").read_bytes().partition(b"\r\n\r\n")[2])
    assert transcript_of(answer_events(resumed)).action is None
    executed_data = answer["agentFlowExecutedData"]
    assert transcript_of(told(("agentFlowExecutedData", executed_data))).action == asked
    others: list[dict[str, Any]] = [
        {"status": "FINISHED"},
        {"data": {"output": {}}},
        {"data": {"output": {"humanInputAction": 5}}},
    ]
    for entry in others:
        changed = [*executed_data[:-1], {**executed_data[-1], **entry}]
        assert transcript_of(answer_events({**answer, "agentFlowExecutedData": changed})).action is None


# --- usage and why the model stopped ---


@pytest.mark.parametrize("name", ["ok-af_agent-stream", "ok-af_agent-json"])
def test_the_calls_before_a_tool_are_counted_too(name: str) -> None:
    assert of_recording(name).usage == UsageReported(42, 9)


def usage(prompt: Any, completion: Any, **more: Any) -> dict[str, Any]:
    """Usage as a node reports it."""
    return {"usageMetadata": {"input_tokens": prompt, "output_tokens": completion, **more}}


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        (executed(usage(1, 2), {}, usage(10, 20)), UsageReported(11, 22)),
        (executed(usage("1", None)), None),
        (executed(usage(-1, True)), None),
        (executed(usage(0, 0), {"usageMetadata": {}}), None),
        (executed(usage(0, 0), usage(1, 2), usage(0, 0)), UsageReported(1, 2)),
        (executed(usage(1.5, 3)), UsageReported(0, 3)),
        (executed(usage(10**19, 10**30), usage(1, 10**9)), UsageReported(MAX_TOKENS, MAX_TOKENS)),
        (executed({"usageMetadata": 5}, {}), None),
        ([], None),
        (
            executed(
                usage(
                    *(5, 7),
                    output_token_details={"reasoning": 3},
                    input_token_details={"cache_read": 2},
                )
            ),
            UsageReported(5, 7, 3, 2),
        ),
        (executed(usage(5, 7, output_token_details=None, input_token_details="x")), UsageReported(5, 7)),
        (executed(usage(5, 7, tool_call_tokens=9)), UsageReported(5, 7)),
    ],
)
def test_usage_is_that_of_all_nodes(nodes: list[Any], expected: UsageReported | None) -> None:
    assert transcript_of(told(("agentFlowExecutedData", nodes))).usage == expected
    assert transcript_of(answer_events({"text": "x", "agentFlowExecutedData": nodes})).usage == expected


def test_usage_within_messages_counts_only_where_calls_around_tools_are_reported() -> None:
    messages = [{"usage_metadata": {"input_tokens": 100, "output_tokens": 10}}, {"usage_metadata": 5}, {}]

    def nodes(**more: Any) -> list[Any]:
        return [{"data": {"input": {"messages": messages}, "output": usage(1, 2, **more)}}]

    assert transcript_of(told(("agentFlowExecutedData", nodes(tool_call_tokens=110)))).usage == UsageReported(
        101, 12
    )
    assert transcript_of(told(("agentFlowExecutedData", nodes()))).usage == UsageReported(1, 2)


def test_usage_events_count_where_no_node_reports_any() -> None:
    event = ("usageMetadata", {"input_tokens": 3, "output_tokens": 4})
    assert transcript_of(told(event)).usage == UsageReported(3, 4)
    assert transcript_of(
        told(event, ("agentFlowExecutedData", executed(usage(1, 2))))
    ).usage == UsageReported(1, 2)
    assert not [e for e in told(event, closed=False) if isinstance(e, UsageReported)]


@pytest.mark.parametrize(
    ("reason", "finish"),
    [
        ("stop", "stop"),
        ("length", "length"),
        ("max_tokens", "length"),
        ("MAX_TOKENS", "length"),
        ("content_filter", "content_filter"),
        ("SAFETY", "content_filter"),
        ("tool_calls", "stop"),
        (None, "stop"),
        (5, "stop"),
    ],
)
def test_a_run_ends_for_the_reason_of_its_last_model(reason: Any, finish: str) -> None:
    nodes = executed(
        {"responseMetadata": {"finish_reason": "length"}}, {"responseMetadata": {"finish_reason": reason}}
    )
    assert told(("agentFlowExecutedData", nodes))[-1] == TurnEnded(finish)  # type: ignore[arg-type]
    assert list(answer_events({"text": "x", "agentFlowExecutedData": nodes}))[-1] == TurnEnded(finish)  # type: ignore[arg-type]


# --- JSON answers ---


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ({"text": "a"}, "a"),
        ({"text": ""}, ""),
        ({"text": "  "}, ""),
        ({"text": {"a": 1}}, '{"a":1}'),
        ({"text": 5}, "5"),
        ({"text": False}, "false"),
        ({"json": {"a": 1}}, '{"a":1}'),
        ({"json": [], "chatId": "c"}, "[]"),
        ({"text": "a", "json": {"b": 1}}, "a"),
        ({"answer": 1, "chatId": "c", "question": "q", "sessionId": "s"}, '{"answer":1}'),
        ({"chatId": "c", "question": "q", "isStreamValid": True}, ""),
        ({}, ""),
        ("just text", "just text"),
        (["a", 1], '["a",1]'),
        (5, "5"),
        (None, ""),
        ("", ""),
    ],
)
def test_a_json_answers_text_is_its_text_its_json_or_what_else_it_holds(answer: Any, text: str) -> None:
    events = list(answer_events(answer))
    assert transcript_of(events).text == text
    assert events[-1] == TurnEnded("stop")


def test_a_json_answer_tells_its_steps_before_its_text() -> None:
    nodes = [
        {"nodeId": "startAgentflow_0", "nodeLabel": "Start", "status": "FINISHED"},
        {
            "nodeId": "agentAgentflow_0",
            "nodeLabel": "Agent",
            "status": "FINISHED",
            "data": {
                "output": {
                    "content": "x",
                    "reasonContent": {"thinking": "hm"},
                    "usedTools": [tool("a", "1"), tool("b", "2")],
                    "sourceDocuments": [{"pageContent": "p"}],
                    "artifacts": [{"type": "png"}],
                    "fileAnnotations": [{"filePath": "f"}],
                }
            },
        },
    ]
    answer = {"text": "Hello", "chatMessageId": "m", "agentFlowExecutedData": nodes}
    assert list(answer_events(answer)) == [
        StepStarted("Agent"),
        ReasoningDelta("hm"),
        FlowToolCalled("a", {"q": "a"}),
        FlowToolCalled("b", {"q": "b"}),
        used("a", "1"),
        used("b", "2"),
        StepEnded("Agent", "FINISHED"),
        SourcesFound(({"pageContent": "p"},)),
        TextDelta("Hello"),
        ArtifactMade({"type": "png"}),
        ArtifactMade({"filePath": "f"}),
        TurnIdentified("m"),
        TurnEnded("stop"),
    ]


def test_a_json_answer_of_a_chatflow_or_of_agents_tells_tools_and_sources() -> None:
    answer = {
        "text": "Hello",
        "usedTools": [tool("a", "1")],
        "sourceDocuments": [{"pageContent": "p"}],
        "artifacts": [{"type": "png"}],
        "agentReasoning": [agent("One", usedTools=[tool("b", "2")])],
        "action": {"id": "1"},
    }
    assert list(answer_events(answer)) == [
        StepStarted("One"),
        used("b", "2"),
        used("a", "1"),
        SourcesFound(({"pageContent": "p"},)),
        TextDelta("Hello"),
        HumanInputRequested({"id": "1"}, ()),
        ArtifactMade({"type": "png"}),
        TurnIdentified(),
        TurnEnded("stop"),
    ]


def test_many_flows_were_recorded_both_ways() -> None:
    assert len(pairs()) >= 40


@pytest.mark.parametrize("name", pairs())
def test_a_flow_says_the_same_streamed_or_not(name: str) -> None:
    streamed, whole = of_recording(f"{name}-stream"), of_recording(f"{name}-json")
    if name in CALL_IDS:
        assert streamed.text.split('"id"')[0] == whole.text.split('"id"')[0] != ""
    else:
        assert streamed.text == whole.text
    assert streamed.usage == whole.usage
    assert streamed.finish_reason == whole.finish_reason == "stop"
    assert streamed.sources == whole.sources
    assert len(streamed.artifacts) == len(whole.artifacts)
    assert (streamed.action is None) == (whole.action is None)
    assert streamed.identity.memory_type == whole.identity.memory_type


@pytest.mark.parametrize("name", pairs())
def test_the_tools_of_a_flow_are_told_alike_streamed_or_not(name: str) -> None:
    def tools(transcript: Transcript) -> set[str]:
        return {event.tool for event in transcript.trail if isinstance(event, ToolUsed)}

    assert tools(of_recording(f"{name}-stream")) == tools(of_recording(f"{name}-json"))
