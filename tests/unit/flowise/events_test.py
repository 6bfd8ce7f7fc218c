"""Messages of Flowise's event stream into events: tokens, tools, steps, and the end of a run."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowise_gateway.flow.errors import FlowiseRefused, ProviderRefused, ProxyError, RunFailed
from flowise_gateway.flow.events import (
    ArtifactMade,
    FlowEvent,
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
from flowise_gateway.flow.lenient_json import lenient_json
from flowise_gateway.flowise.answer import answer_events, artifact_made
from flowise_gateway.flowise.events import EventDecoder
from flowise_gateway.flowise.sse import SseDecoder
from flowise_gateway.flowise.sse import payloads as payloads_of
from flowise_gateway.openai.answer_text import whole_text
from tests.support.flow_events import transcript_of
from tests.support.flowise_wire import (
    STREAMS,
    agent,
    decoded,
    executed,
    node,
    payloads,
    recorded,
    told,
    tool,
    used,
)

# --- messages of a run ---


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


@pytest.mark.parametrize(
    ("escaped", "text"),
    [
        (r"\ud83d\ude42", "🙂"),
        (r"a\ud83d", "a\ufffd"),
        (r"\ude42b", "\ufffdb"),
        (r"\ud83d\ude42\ud83d", "🙂\ufffd"),
        (r"a\u2028b\u2029c", "a\u2028b\u2029c"),
        (r"\u0000", "\0"),
        ("a\u2028b", "a\u2028b"),
    ],
)
def test_texts_of_javascript_become_texts_that_can_be_sent(escaped: str, text: str) -> None:
    stream = 'message:\ndata:{"event":"token","data":"%s"}\n\n' % escaped  # noqa: UP031 - braces are JSON
    *events, _ = decoded(payloads(stream.encode()))
    assert "".join(event.text for event in events if isinstance(event, TextDelta)) == text
    assert text.encode()


def test_half_a_surrogate_pair_is_mended_everywhere_in_a_message() -> None:
    payload = rb'{"event":"usedTools","data":[{"tool":"\ud800","toolInput":{"\udfff":[1,null,"\ud83d"]}}]}'
    assert list(EventDecoder().decode(payload)) == [ToolUsed("\ufffd", {"\ufffd": [1, None, "\ufffd"]}, None)]


def halved(text: str, step: int = 1) -> list[bytes]:
    """The JSON strings of a text that JavaScript cut into pieces of so many UTF-16 units."""
    units = text.encode("utf-16-le", "surrogatepass")
    cuts = range(0, len(units), 2 * step)
    pieces = [units[at : at + 2 * step].decode("utf-16-le", "surrogatepass") for at in cuts]
    return [json.dumps(piece).encode() for piece in pieces]


EMOJI = "🙂 a😀😀👩\u200d💻 é\ud800"
WHOLE = EMOJI.replace("\ud800", "\ufffd")


@pytest.mark.parametrize("kind", [TextDelta, ReasoningDelta])
@pytest.mark.parametrize("between", [b"", b'{"event":"token","data":""}', b'{"event":"usedTools","data":[]}'])
@pytest.mark.parametrize("step", [1, 2, 3, 100])
def test_a_character_cut_in_two_is_joined_across_tokens(
    step: int, between: bytes, kind: type[FlowEvent]
) -> None:
    name = b"token" if kind is TextDelta else b"thinking"
    decoder = EventDecoder()
    events: list[FlowEvent] = []
    for piece in halved(EMOJI[:-1] + "." + EMOJI[-1:] + ".", step):
        for payload in (b'{"event":"%b","data":%b}' % (name, piece), *filter(None, [between])):
            text = decoder.token(payload)
            events += decoder.decode(payload) if text is None else [TextDelta(text)] * bool(text)
    events += decoder.closing()
    texts = [event.text for event in events if isinstance(event, (TextDelta, ReasoningDelta))]
    assert "".join(texts) == WHOLE[:-1] + "." + WHOLE[-1:] + "."
    assert {type(event) for event in events} == {kind, TurnEnded}


@pytest.mark.parametrize("size", [1, 7, 60, 61, 4000])
@pytest.mark.parametrize("step", [1, 2, 3])
def test_a_character_cut_in_two_is_joined_across_reads(step: int, size: int) -> None:
    stream = b"".join(
        b'message:\ndata:{"event":"token","data":%b}\n\n' % piece for piece in halved(EMOJI, step)
    )
    sse, decoder = SseDecoder(), EventDecoder()
    texts: list[str] = []
    for at in range(0, len(stream), size):
        events = sse.feed(stream[at : at + size])
        if (said := decoder.tokens(events)) is not None:
            texts.append(said)
            continue
        for payload in payloads_of(events):
            assert isinstance(payload, bytes)
            texts += [event.text for event in decoder.decode(payload) if isinstance(event, TextDelta)]
    texts += [event.text for event in decoder.closing() if isinstance(event, TextDelta)]
    assert "".join(texts) == WHOLE


def test_half_a_character_that_stays_alone_is_told_before_what_follows() -> None:
    decoder = EventDecoder()
    half = b'{"event":"token","data":"a\\ud83d"}'
    assert list(decoder.decode(half)) == [TextDelta("a")]
    assert decoder.token(b'{"event":"token","data":"b"}') is None
    assert list(decoder.decode(b'{"event":"token","data":"b"}')) == [TextDelta("\ufffdb")]
    assert decoder.token(b'{"event":"token","data":"c"}') == "c"
    assert list(decoder.decode(half)) == [TextDelta("a")]
    assert list(decoder.closing()) == [TextDelta("\ufffd"), TurnEnded()]


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


ACTION = {
    "id": "a1",
    "elements": [{"type": "x", "label": "Proceed"}, {"label": ""}, {"label": 1}, 5, {"label": "Reject"}],
}


def test_an_action_is_told_once_with_the_labels_of_its_buttons() -> None:
    asked = HumanInputRequested(ACTION, ("Proceed", "Reject"))
    assert told(("action", ACTION), ("action", ACTION)) == [asked, TurnEnded("stop")]
    assert told(("action", {"id": "a1"})) == [HumanInputRequested({"id": "a1"}, ()), TurnEnded("stop")]
    assert asked in list(answer_events({"text": "Go on?", "action": ACTION}))


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


# --- the end of a run ---


@pytest.mark.parametrize(
    ("name", "data", "is_complete", "has_ended"),
    [
        ("token", "a", False, False),
        ("agentFlowEvent", "INPROGRESS", False, False),
        ("agentFlowEvent", "STOPPED", False, False),
        ("agentFlowEvent", "ERROR", False, False),
        ("agentFlowEvent", "FINISHED", True, False),
        ("metadata", {}, True, False),
        ("end", "[DONE]", False, True),
    ],
)
def test_a_run_is_complete_when_all_is_said_and_ended_when_flowise_says_so(
    name: str, data: Any, is_complete: bool, has_ended: bool
) -> None:
    decoder = EventDecoder()
    list(decoder.decode(json.dumps({"event": name, "data": data}).encode()))
    assert (decoder.is_complete, decoder.has_ended) == (is_complete, has_ended)


def test_what_is_complete_stays_complete() -> None:
    decoder = EventDecoder()
    for state in ("FINISHED", "INPROGRESS"):
        list(decoder.decode(json.dumps({"event": "agentFlowEvent", "data": state}).encode()))
    assert decoder.is_complete


def test_a_stream_cut_before_its_end_is_neither_complete_nor_ended() -> None:
    decoder = EventDecoder()
    body = recorded("ok-conv-stream")[1].partition(b'message:\ndata:{"event":"metadata"')[0]
    for payload in payloads(body):
        assert isinstance(payload, bytes)
        list(decoder.decode(payload))
    assert not decoder.is_complete
    assert not decoder.has_ended


@pytest.mark.parametrize(
    ("data", "kind", "code"),
    [
        ("Error: predictionsServices.buildChatflow - Unauthorized", FlowiseRefused, "flowise_auth"),
        ("401 Unauthorized – wrong", ProviderRefused, "provider_auth"),
        ("This model's maximum context length is 5", ProviderRefused, "context_length_exceeded"),
        ("Error: It broke", RunFailed, "flow_failed"),
        ("", RunFailed, "flow_failed"),
        (None, RunFailed, "flow_failed"),
        ({"message": "x"}, RunFailed, "flow_failed"),
    ],
)
def test_an_error_event_is_raised_as_what_it_means(data: Any, kind: type[ProxyError], code: str) -> None:
    decoder = EventDecoder()
    with pytest.raises(ProxyError) as caught:
        list(decoder.decode(json.dumps({"event": "error", "data": data}).encode()))
    assert (type(caught.value), caught.value.code) == (kind, code)
    assert decoder.has_ended


BROKEN: dict[str, tuple[type[ProxyError], str]] = {
    "abort-": (RunFailed, "flow_failed"),
    "err-key-": (FlowiseRefused, "flowise_auth"),
    "err-llm-429-": (ProviderRefused, "provider_rate_limited"),
    "err-llm-500-": (RunFailed, "flow_failed"),
    "err-llm-down-": (RunFailed, "flow_failed"),
    "err-llm-fail401-": (ProviderRefused, "provider_auth"),
    "err-llm-failctx-": (ProviderRefused, "context_length_exceeded"),
    "err-llm-failjson-": (RunFailed, "flow_failed"),
    "err-llm-failmid-": (RunFailed, "flow_failed"),
    "ok-af_function_error-": (RunFailed, "flow_failed"),
}
RUNS_ON_AFTER_ABORT = {"abort-conv-stream", "abort-toolagent-stream"}


@pytest.mark.parametrize("name", STREAMS)
def test_a_recorded_stream_ends_well_or_raises_what_it_means(name: str) -> None:
    meant = None
    if name not in RUNS_ON_AFTER_ABORT:
        meant = next((error for start, error in BROKEN.items() if name.startswith(start)), None)
    events: list[FlowEvent] = []
    raised = None
    try:
        events.extend(decoded(payloads(recorded(name)[1])))
    except ProxyError as error:
        raised = (type(error), str(error.code))
    assert raised == meant
    if meant is None:
        assert events[-1] == TurnEnded("stop")
        assert sum(isinstance(event, TurnEnded) for event in events) == 1


def test_tokens_before_an_error_are_given() -> None:
    events: list[FlowEvent] = []
    with pytest.raises(RunFailed):
        events.extend(decoded(payloads(recorded("err-llm-failmid-conv-stream")[1])))
    assert transcript_of(events).text == "Reply to [failmid] after "


@pytest.mark.parametrize(
    ("output", "text"),
    [
        ({"content": "the answer"}, "the answer"),
        ({"content": {"a": 1}}, '{"a":1}'),
        ({"content": ["a", 1]}, '["a",1]'),
        ({"content": 0}, "0"),
        ({"content": " "}, ""),
        ({"content": None}, ""),
        ({}, ""),
        (None, ""),
        ("x", ""),
        ({"content": "", "http": {"data": {"a": 1}}}, '{"a":1}'),
        ({"http": {"data": "page"}}, "page"),
        ({"http": {"data": ""}}, ""),
        ({"http": {"data": None}}, ""),
        ({"http": {}}, ""),
        ({"http": "x"}, ""),
        ({"content": "said", "http": {"data": "page"}}, "said"),
    ],
)
def test_text_comes_only_from_the_last_node_when_no_token_was_sent(output: Any, text: str) -> None:
    nodes = executed({"content": "of an earlier node"}, output)
    assert transcript_of(told(("agentFlowExecutedData", nodes))).text == text
    assert transcript_of(answer_events({"text": " ", "agentFlowExecutedData": nodes})).text == text


def test_text_of_nodes_is_not_added_to_tokens() -> None:
    nodes = executed({"content": "whole text"})
    assert transcript_of(told(("token", "whole"), ("agentFlowExecutedData", nodes))).text == "whole"


def test_a_list_of_executed_nodes_that_is_empty_does_not_forget_the_last() -> None:
    assert (
        transcript_of(
            told(("agentFlowExecutedData", executed({"content": "a"})), ("agentFlowExecutedData", []))
        ).text
        == "a"
    )


def test_the_joined_stream_is_the_whole_text_when_an_action_is_asked_without_tokens() -> None:
    events = told(
        ("agentFlowExecutedData", executed({"content": "Shall I go on?"})),
        ("action", ACTION),
        ("metadata", {}),
    )
    kinds = [type(event) for event in events if isinstance(event, (TextDelta, HumanInputRequested))]
    assert whole_text(transcript_of(events)).startswith("Shall I go on?")
    assert kinds == [TextDelta, HumanInputRequested]


@pytest.mark.parametrize("text", ["\n\nShall I go on?", "\nShall I go on?", "Shall I go on?"])
def test_a_question_for_a_person_begins_without_an_empty_line(text: str) -> None:
    asks = executed({"content": text})
    begun = node("Human Input", "INPROGRESS", "humanInputAgentflow_0")
    for events in (
        told(begun, ("token", ""), ("token", text), ("agentFlowExecutedData", asks)),
        told(begun, *(("token", letter) for letter in text)),
        told(begun, ("agentFlowExecutedData", asks)),
        answer_events({"text": text, "agentFlowExecutedData": asks}),
        answer_events({"text": " ", "agentFlowExecutedData": asks}),
    ):
        assert transcript_of(events).text == "Shall I go on?"


def test_an_empty_line_within_or_outside_of_an_agentflow_stays() -> None:
    assert transcript_of(told(("token", "\n\na\n\n"), ("token", "\nb"))).text == "\n\na\n\n\nb"
    assert transcript_of(told(node("LLM", "INPROGRESS"), ("token", "a"), ("token", "\n\nb"))).text == "a\n\nb"
    assert transcript_of(answer_events({"text": "\n\na"})).text == "\n\na"


def test_only_the_first_token_of_a_node_goes_the_long_way() -> None:
    decoder = EventDecoder()
    token = b'{"event":"token","data":"a"}'
    assert decoder.token(token) == "a"
    for name in ("one", "two"):
        name_, data = node(name, "INPROGRESS", name)
        list(decoder.decode(orjson.dumps({"event": name_, "data": data})))
        assert decoder.token(token) is None
        assert list(decoder.decode(token)) == [TextDelta("\n\na")]
        assert decoder.token(token) == "a"


def test_an_aborted_run_is_a_failure_and_no_answer() -> None:
    decoder = EventDecoder()
    with pytest.raises(RunFailed, match="stopped"):
        list(decoder.decode(b'{"event":"abort","data":"[DONE]"}'))
    assert decoder.has_ended


@pytest.mark.parametrize(
    ("payload", "text"),
    [
        (b'{"event":"token","data":" Gr\\u00fc\\"\xc3\x9fe"}', ' Grü"ße'),
        (b'{"event":"token","data":""}', ""),
        (b'{"event":"token","data":"x","more":"y"}', None),
        (b'{"event":"token","data":"\\ud83d"}', None),
        (b'{"event":"token","data":5}', None),
        (b'{"event":"end","data":"[DONE]"}', None),
        (b'{"event":"token","data":"x', None),
    ],
)
def test_a_plain_token_is_read_the_short_way_and_all_else_the_long_way(
    payload: bytes, text: str | None
) -> None:
    decoder = EventDecoder()
    assert decoder.token(payload) == text
    # A decoder that has heard text does not fetch it from the executed nodes.
    executed = b'{"event":"agentFlowExecutedData","data":[{"data":{"output":{"content":"late"}}}]}'
    list(decoder.decode(executed))
    late = [event for event in decoder.closing() if isinstance(event, TextDelta)]
    assert bool(late) is not bool(text)


TOKEN = b'message:\ndata:{"event":"token","data":"%s"}\n\n'


@pytest.mark.parametrize(
    ("events", "text"),
    [
        (TOKEN % b"a" + TOKEN % b"" + TOKEN % rb" \"b\"\n" + TOKEN % rb"\u00fc", 'a "b"\n\u00fc'),
        (TOKEN % b"", ""),
        (TOKEN % rb"\ud83d" + TOKEN % rb"\ude00", "\U0001f600"),
        (TOKEN % rb"c:\\" + TOKEN % b"a", None),
        (TOKEN % b'x","more":"y' + TOKEN % b"a", None),
        (TOKEN % b"a" + b":heartbeat\n\n" + TOKEN % b"b", None),
        (TOKEN % b"a" + b'message:\ndata:{"event":"end","data":"[DONE]"}\n\n', None),
        (b'message:\ndata:{"event":"agentReasoning","data":[]}\n\n' + TOKEN % b"a", None),
        (b'data:{"event":"token","data":"a"}\n\n', None),
        (TOKEN.replace(b"\n", b"\r\n") % b"a", None),
        (b"message:\ndata:\n\n", None),
        (b"", None),
    ],
)
def test_tokens_that_come_together_are_read_together_and_all_else_one_by_one(
    events: bytes, text: str | None
) -> None:
    assert EventDecoder().tokens(events) == text


@settings(max_examples=300)
@given(
    st.lists(st.text(max_size=6) | st.sampled_from(["\\", '"', '"}', '","', "\n\n", '\\"}\n\n', "message:"]))
)
def test_tokens_read_together_are_those_read_one_by_one(texts: list[str]) -> None:
    events = b"".join(TOKEN % json.dumps(text).encode()[1:-1] for text in texts)
    together = EventDecoder().tokens(events)
    one_by_one = [EventDecoder().token(payload) for payload in payloads(events) if isinstance(payload, bytes)]
    assert one_by_one == texts
    assert together in (None, "".join(texts))


def test_half_a_character_in_a_value_too_deep_to_be_mended_is_no_value() -> None:
    assert lenient_json("[" * 900 + '"\\ud83d"' + "]" * 900) is None
