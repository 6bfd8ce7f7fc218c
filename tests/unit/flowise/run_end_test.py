"""How a run ends in Flowise's event stream: complete, ended, failed, aborted, and text that no token carried."""

from __future__ import annotations

import json
from typing import Any

import pytest

from flowise_gateway.flow.errors import FlowiseRefused, ProviderRefused, ProxyError, RunFailed
from flowise_gateway.flow.events import (
    FlowEvent,
    HumanInputRequested,
    TextDelta,
    TurnEnded,
)
from flowise_gateway.flowise.answer import answer_events
from flowise_gateway.flowise.events import EventDecoder
from flowise_gateway.openai.answer_text import whole_text
from tests.support.flow_events import transcript_of
from tests.support.flowise_wire import (
    ACTION_DATA,
    STREAMS,
    decoded,
    executed,
    node,
    payloads,
    recorded,
    told,
)


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
        ("action", ACTION_DATA),
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


def test_an_aborted_run_is_a_failure_and_no_answer() -> None:
    decoder = EventDecoder()
    with pytest.raises(RunFailed, match="stopped"):
        list(decoder.decode(b'{"event":"abort","data":"[DONE]"}'))
    assert decoder.has_ended
