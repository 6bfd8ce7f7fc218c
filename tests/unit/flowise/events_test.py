"""Messages of Flowise's event stream into events: tools, agents, steps, sources, files, ids."""

from __future__ import annotations

import json
from typing import Any

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
)
from flowise_gateway.flowise.answer import answer_events, artifact_made
from flowise_gateway.flowise.events import EventDecoder
from tests.support.flow_events import transcript_of
from tests.support.flowise_wire import (
    ACTION_DATA,
    agent,
    node,
    told,
    tool,
    used,
)


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"[DONE]",
        b"{",
        b"null",
        b"[]",
        b'"token"',
        b"{}",
        b'{"event":null}',
        b'{"event":1}',
        b'{"event":["token"]}',
        b'{"event":{"a":1}}',
        b'{"event":"unheard","data":1}',
        b'{"event":"token"}',
        b'{"event":"token","data":null}',
        b'{"event":"token","data":""}',
        b'{"event":"token","data":5}',
        b'{"event":"token","data":{"a":1}}',
        b'{"event":"start","data":"never shown"}',
        b'{"event":"thinking","data":"","duration":3}',
        b'{"event":"thinking","data":[1]}',
        b'{"event":"sourceDocuments"}',
        b'{"event":"sourceDocuments","data":"x"}',
        b'{"event":"sourceDocuments","data":[]}',
        b'{"event":"usedTools","data":[null,1,"x",[]]}',
        b'{"event":"calledTools","data":{}}',
        b'{"event":"artifacts","data":null}',
        b'{"event":"agentReasoning","data":"not json"}',
        b'{"event":"agentReasoning","data":7}',
        b'{"event":"nextAgent","data":""}',
        b'{"event":"nextAgent","data":{}}',
        b'{"event":"nextAgentFlow","data":"x"}',
        b'{"event":"nextAgentFlow","data":{}}',
        b'{"event":"agentFlowExecutedData","data":"x"}',
        b'{"event":"action","data":"x"}',
        b'{"event":"action"}',
        b'{"event":"usageMetadata","data":"x"}',
        b'{"event":"metadata","data":"x"}',
        b'{"event":"metadata"}',
        b'{"event":"tts_data","data":{"audioChunk":"AAAA"}}',
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"event":"token","data":"\\ud800"' + b"[" * 5000,
    ],
)
def test_a_message_without_news_gives_nothing(payload: bytes) -> None:
    decoder = EventDecoder()
    assert list(decoder.decode(payload)) == []
    assert list(decoder.closing()) == [TurnEnded("stop")]


DEEP = b"[" * 300 + b"]" * 300


@pytest.mark.parametrize(
    "tool",
    [b'{"tool":"t","toolInput":%b}' % DEEP, rb'{"tool":"\ud800","toolInput":%d}' % 2**70],
    ids=["nested 300 deep", "a huge number beside half a surrogate pair"],
)
def test_a_tools_input_may_be_anything(tool: bytes) -> None:
    [event] = EventDecoder().decode(b'{"event":"usedTools","data":[%b]}' % tool)
    assert isinstance(event, ToolUsed)


def test_a_json_answer_may_be_nested_deeply() -> None:
    assert transcript_of(answer_events({"json": json.loads(DEEP)})).text == DEEP.decode()


def test_tools_that_are_told_again_in_a_growing_list_are_told_once() -> None:
    events = told(
        ("usedTools", [tool("a", "1")]),
        ("usedTools", [tool("a", "1"), tool("b", "2")]),
        ("usedTools", [tool("a", "1"), tool("b", "2")]),
        ("calledTools", [tool("c")]),
        ("calledTools", []),
        ("calledTools", [tool("c")]),
        closed=False,
    )
    assert events == [used("a", "1"), used("b", "2"), FlowToolCalled("c", {"q": "c"})]


def test_the_same_tool_with_the_same_input_twice_in_one_list_is_two_calls() -> None:
    twice = [tool("a", "1"), tool("a", "1")]
    assert (
        told(("usedTools", twice), ("usedTools", [*twice, tool("a", "1")]), closed=False)
        == [used("a", "1")] * 3
    )


def test_keys_in_another_order_are_the_same_tool() -> None:
    turned = dict(reversed(tool("a", "1").items()))
    assert told(("usedTools", [tool("a", "1")]), ("usedTools", [turned]), closed=False) == [used("a", "1")]


def test_a_tool_asked_for_again_in_a_later_node_is_told_again() -> None:
    events = told(
        node("One", "INPROGRESS"),
        ("calledTools", [tool("a")]),
        ("calledTools", [tool("a")]),
        node("One", "FINISHED"),
        node("Two", "INPROGRESS"),
        ("calledTools", [tool("a")]),
        closed=False,
    )
    called = FlowToolCalled("a", {"q": "a"})
    assert events == [
        StepStarted("One"),
        called,
        StepEnded("One", "FINISHED"),
        StepStarted("Two"),
        called,
    ]


def test_a_tool_that_failed_says_so() -> None:
    assert told(("usedTools", [{"tool": "a", "error": "boom"}]), closed=False) == [
        ToolUsed("a", None, None, "boom")
    ]
    assert told(("usedTools", [{"tool": 1, "error": {"m": 1}}]), closed=False) == [
        ToolUsed("", None, None, "…")
    ]
    assert told(("usedTools", [{"tool": "a", "error": " "}]), closed=False) == [
        ToolUsed("a", None, None, "no reason given")
    ]
    leak = "ENOENT: no such file /root/.flowise/storage/x.pdf sk-abc123\n    at stack"
    assert told(("usedTools", [{"tool": "a", "error": leak}]), closed=False) == [
        ToolUsed("a", None, None, "ENOENT: no such file … …")
    ]
    assert told(("usedTools", [{"tool": "a", "error": ""}]), closed=False) == [ToolUsed("a", None, None)]


@pytest.mark.parametrize("as_text", [False, True], ids=["array", "JSON within JSON"])
def test_agents_of_a_growing_list_are_told_once(as_text: bool) -> None:
    lists = [
        [agent("One", usedTools=[tool("a", "1")])],
        [agent("One", usedTools=[tool("a", "1")]), agent("Two", sourceDocuments=[{"pageContent": "p"}])],
        [],
        [agent("One", usedTools=[tool("a", "1")]), agent("Two", sourceDocuments=[{"pageContent": "p"}])],
    ]
    events = told(
        *(("agentReasoning", json.dumps(agents) if as_text else agents) for agents in lists), closed=False
    )
    assert events == [
        StepStarted("One"),
        used("a", "1"),
        StepStarted("Two"),
        SourcesFound(({"pageContent": "p"},)),
    ]


@pytest.mark.parametrize(
    ("found", "name", "kind"),
    [
        (tool("a", "1"), "usedTools", ToolUsed),
        ({"pageContent": "p"}, "sourceDocuments", SourcesFound),
        ({"type": "png", "data": "x"}, "artifacts", ArtifactMade),
    ],
)
def test_what_an_agent_found_is_not_told_again_at_the_end(found: Any, name: str, kind: type) -> None:
    events = told(("agentReasoning", [agent("One", **{name: [found]})]), (name, [found]))
    assert sum(isinstance(event, kind) for event in events) == 1


def test_a_source_that_two_nodes_found_is_told_once_in_a_run() -> None:
    document = {"pageContent": "p", "metadata": {}}
    events = told(
        node("One", "INPROGRESS"),
        ("sourceDocuments", [document]),
        node("Two", "INPROGRESS"),
        ("sourceDocuments", [document]),
    )
    assert transcript_of(events).sources == [document]


def test_sources_and_thoughts_are_told_as_they_come_and_files_at_the_end() -> None:
    one, two = {"pageContent": "1", "metadata": {}}, {"pageContent": "2"}
    file = {"filePath": "a", "fileName": "b"}
    events = told(
        ("thinking", "hm"),
        ("thinking", ""),
        ("sourceDocuments", [one]),
        ("sourceDocuments", [one, two]),
        ("artifacts", [{"type": "png", "data": "x"}]),
        ("fileAnnotations", [file]),
        ("fileAnnotations", [file]),
        ("nextAgent", "Writer"),
        ("token", "Hello"),
        ("action", {"id": "1"}),
    )
    assert events == [
        ReasoningDelta("hm"),
        SourcesFound((one,)),
        SourcesFound((two,)),
        StepStarted("Writer"),
        TextDelta("Hello"),
        HumanInputRequested({"id": "1"}, ()),
        ArtifactMade({"type": "png", "data": "x"}),
        ArtifactMade(file, "b"),
        TurnEnded(),
    ]


@pytest.mark.parametrize(
    ("artifact", "stored"),
    [
        ({"type": "png", "data": "FILE-STORAGE::artifact_1.png"}, "artifact_1.png"),
        ({"type": "png", "data": "FILE-STORAGE::Übersicht 1.png"}, "Übersicht 1.png"),
        ({"filePath": "FILE-STORAGE::a.pdf", "fileName": "a.pdf"}, "a.pdf"),
        ({"filePath": "/root/.flowise/a.pdf", "fileName": "FILE-STORAGE::a.pdf"}, "a.pdf"),
        ({"filePath": "a", "fileName": None}, ""),
        ({"type": "png", "data": "artifact_1.png"}, ""),
        ({"type": "png", "data": 5}, ""),
        ({"type": "png", "data": "data:image/png;base64,AAAA"}, ""),
        ({"type": "png", "data": "FILE-STORAGE::../x.png"}, ""),
        ({"type": "png", "data": "FILE-STORAGE::.env"}, ""),
        ({"type": "png", "data": "FILE-STORAGE::a\\b.png"}, ""),
        ({"type": "png", "data": "FILE-STORAGE::a\nb.png"}, ""),
        ({"type": "png", "data": "FILE-STORAGE::"}, ""),
        ({"type": "png", "data": "FILE-STORAGE::" + "x" * 201}, ""),
        ({}, ""),
    ],
)
def test_a_stored_file_is_known_by_a_name_that_is_no_path(artifact: dict[str, Any], stored: str) -> None:
    assert artifact_made(artifact) == ArtifactMade(artifact, stored)


@pytest.mark.parametrize("status", ["FINISHED", "STOPPED", "ERROR", "TERMINATED"])
def test_a_step_ends_with_the_state_flowise_gives(status: str) -> None:
    assert told(node("Agent", status)) == [StepEnded("Agent", status), TurnEnded()]


@pytest.mark.parametrize(
    ("output", "seconds"),
    [
        ({"timeMetadata": {"start": 1, "end": 251, "delta": 250}}, 0.25),
        ({"timeMetadata": {"delta": True}}, None),
        ({"timeMetadata": 5}, None),
        ({}, None),
    ],
)
def test_a_step_says_how_long_its_model_took(output: Any, seconds: float | None) -> None:
    entry = {"nodeId": "agentAgentflow_0", "nodeLabel": "Agent", "status": "FINISHED"}
    entries = [{"nodeId": "other"}, {**entry, "data": {"output": output}}]
    events = told(
        node("Agent", "INPROGRESS"),
        node("Agent", "FINISHED"),
        ("agentFlowExecutedData", entries),
        ("token", "x"),
    )
    ended = StepEnded("Agent", "FINISHED", seconds)
    assert events == [StepStarted("Agent"), ended, TextDelta("x"), TurnEnded()]
    assert ended in answer_events({"text": "x", "agentFlowExecutedData": entries[1:]})


def test_an_agent_that_was_announced_is_one_step() -> None:
    one, two = agent("One"), agent("Two")
    events = told(
        ("agentReasoning", [one]),
        ("nextAgent", "Two"),
        ("agentReasoning", [one, two]),
        ("nextAgent", "One"),
        ("agentReasoning", [one, two, one]),
        ("agentReasoning", [one, two, one, two]),
        closed=False,
    )
    assert events == [StepStarted(name) for name in ("One", "Two", "One", "Two")]


def test_the_start_node_is_no_step() -> None:
    start = "startAgentflow_0"
    assert told(node("Start", "INPROGRESS", start), node("Start", "FINISHED", start), closed=False) == []
    assert StepStarted not in map(type, answer_events({"agentFlowExecutedData": [{"nodeId": start}]}))


def test_an_action_is_told_once_with_the_labels_of_its_buttons() -> None:
    asked = HumanInputRequested(ACTION_DATA, ("Proceed", "Reject"))
    assert told(("action", ACTION_DATA), ("action", ACTION_DATA)) == [asked, TurnEnded("stop")]
    assert told(("action", {"id": "a1"})) == [HumanInputRequested({"id": "a1"}, ()), TurnEnded("stop")]
    assert asked in list(answer_events({"text": "Go on?", "action": ACTION_DATA}))


@pytest.mark.parametrize(
    ("prompts", "given"),
    [
        ('["a","b"]', ("a", "b")),
        (json.dumps('["a","b"]'), ("a", "b")),
        (json.dumps("not json"), ()),
        (["a", 1, "b"], ("a", "b")),
        ("not json", ()),
        ('{"a":1}', ()),
        (None, ()),
        (5, ()),
    ],
)
def test_ids_and_follow_up_prompts_are_taken_from_metadata(prompts: Any, given: tuple[str, ...]) -> None:
    data = {
        "chatMessageId": "m",
        "sessionId": "s",
        "executionId": "e",
        "memoryType": "Buffer Memory",
        "followUpPrompts": prompts,
    }
    identity = TurnIdentified("m", "s", "e", "Buffer Memory", given)
    assert told(("metadata", data), closed=False) == [identity]
    assert transcript_of(answer_events({"text": "x", **data})).identity == identity


def test_ids_that_are_no_text_are_left_out() -> None:
    assert told(("metadata", {"sessionId": 5, "chatMessageId": ""}), closed=False) == [TurnIdentified()]
