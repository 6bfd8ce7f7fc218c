"""Flowise's wire into events: recordings of a real one, and what they do not show."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
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
    UsageReported,
)
from flowise_gateway.flow.lenient_json import lenient_json
from flowise_gateway.flow.transcript import Transcript
from flowise_gateway.flowise.answer import answer_events, artifact_made
from flowise_gateway.flowise.events import EventDecoder
from flowise_gateway.flowise.sse import HEARTBEAT, SseDecoder
from flowise_gateway.flowise.sse import payloads as payloads_of
from flowise_gateway.openai.answer_text import whole_text

RECORDINGS = Path(__file__).resolve().parents[2] / "wire/flowise-3.1.4"


def recorded(name: str) -> tuple[str, bytes]:
    """Content type and body of a recorded answer."""
    head, _, body = (RECORDINGS / f"{name}.http").read_bytes().partition(b"\r\n\r\n")
    kind = next((x for x in head.decode().split("\r\n") if x.lower().startswith("content-type:")), "")
    return kind.partition(":")[2].strip(), body


STREAMS = sorted(
    path.stem for path in RECORDINGS.glob("*.http") if recorded(path.stem)[0] == "text/event-stream"
)
RAW = {name for name in STREAMS if name.endswith("rawchunks")}


def payloads(*pieces: bytes) -> list[bytes | object]:
    """What the line decoder gives for a stream that comes in these pieces."""
    decoder = SseDecoder()
    return [payload for piece in pieces for payload in payloads_of(decoder.feed(piece))]


def decoded(stream: Iterable[bytes | object]) -> Iterator[FlowEvent]:
    """The events of a whole run; what the error raises comes after those before it."""
    decoder = EventDecoder()
    for payload in stream:
        if isinstance(payload, bytes):
            yield from decoder.decode(payload)
    yield from decoder.closing()


def told(*messages: tuple[str, Any], closed: bool = True) -> list[FlowEvent]:
    """The events of a run that sends these messages."""
    decoder = EventDecoder()
    events = [
        event
        for name, data in messages
        for event in decoder.decode(json.dumps({"event": name, "data": data}).encode())
    ]
    return [*events, *decoder.closing()] if closed else events


def folded(events: Iterable[FlowEvent]) -> Transcript:
    """All of a run added up."""
    transcript = Transcript()
    for event in events:
        transcript.add(event)
    return transcript


def of_recording(name: str) -> Transcript:
    """A recorded run added up, whether it is a stream or a JSON answer."""
    kind, body = recorded(name)
    return folded(decoded(payloads(body)) if "event-stream" in kind else answer_events(json.loads(body)))


# --- lines of an event stream ---


def test_there_are_recordings() -> None:
    assert len(STREAMS) > 50


@pytest.mark.parametrize(
    "name",
    ["ok-conv-stream", "ok-unicode-conv-stream", "err-key-wrong-conv_keyed-stream", "human-2-proceed-stream"],
)
def test_a_stream_gives_the_same_events_wherever_it_is_cut_in_two(name: str) -> None:
    body = recorded(name)[1]
    whole = payloads(body)
    assert whole
    for place in range(len(body) + 1):
        assert payloads(body[:place], body[place:]) == whole, f"cut at {place}"


@pytest.mark.parametrize("name", STREAMS)
def test_every_recorded_stream_gives_the_same_events_in_pieces(name: str) -> None:
    body = recorded(name)[1]
    whole = payloads(body)
    assert payloads(*(bytes([byte]) for byte in body)) == whole
    step = 1 if len(body) < 2000 else len(body) // 40
    for place in range(0, len(body), step):
        assert payloads(body[:place], body[place:]) == whole, f"cut at {place}"


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.integers(0, 1200), max_size=20))
def test_a_stream_gives_the_same_events_however_it_is_split(places: list[int]) -> None:
    body = recorded("ok-unicode-conv-stream")[1]
    cuts = [0, *sorted(places), len(body)]
    assert payloads(*(body[a:b] for a, b in itertools.pairwise(cuts))) == payloads(body)


@pytest.mark.parametrize("name", [name for name in STREAMS if name not in RAW])
def test_line_ends_of_windows_change_nothing(name: str) -> None:
    body = recorded(name)[1]
    windows = body.replace(b"\n", b"\r\n")
    assert payloads(windows) == payloads(body)
    assert payloads(*(bytes([byte]) for byte in windows)) == payloads(body)


@pytest.mark.parametrize(
    ("stream", "given"),
    [
        (b"message:\ndata:1\n\n", [b"1"]),
        (b"message\ndata:1\n\n", [b"1"]),
        (b"data:1\n\n", [b"1"]),
        (b"data: 1\n\n", [b"1"]),
        (b"data:  1\n\n", [b" 1"]),
        (b"data:\n\n", [b""]),
        (b"event: token\nid: 3\nretry: 5\ndata:1\n\n", [b"1"]),
        (b"data:1\ndata:2\n\n", [b"1\n2"]),
        (b"data:1\n\ndata:2\n\n", [b"1", b"2"]),
        (b":heartbeat\n\n", [HEARTBEAT]),
        (b":\n", []),
        (b":\n\n", [HEARTBEAT]),
        (b"data:1\n\r\n", [b"1"]),
        (b"data:1\r\n\ndata:2\r\n\r\n", [b"1", b"2"]),
        (b": one\n: two\n\n", [HEARTBEAT, HEARTBEAT]),
        (b"data:1\n:heartbeat\n\n", [HEARTBEAT, b"1"]),
        (b"message:\n\n\n\n", []),
        (b"", []),
        (b"data:1", []),
        (b"data:1\n", []),
        (b"datax:1\n\n", []),
        (b"data:a\rb\n\n", [b"a\rb"]),
        ("data:a\u2028b\u0085c\n\n".encode(), ["a\u2028b\u0085c".encode()]),
        (b"data:a\x0bb\x0cc\x1cd\n\n", [b"a\x0bb\x0cc\x1cd"]),
    ],
)
def test_lines_are_read_as_the_standard_for_event_streams_says(stream: bytes, given: list[Any]) -> None:
    assert payloads(stream) == given
    assert payloads(*(bytes([byte]) for byte in stream)) == given


def test_heartbeats_of_a_long_silence_are_given() -> None:
    assert payloads(recorded("heartbeat-stall-af-stream")[1]).count(HEARTBEAT) >= 1


class CountedBytes(bytes):
    """Bytes that count how many of them are searched for line ends."""

    searched = 0

    def split(self, *args: Any, **kwargs: Any) -> list[bytes]:
        """Count, then split."""
        CountedBytes.searched += len(self)
        return super().split(*args, **kwargs)

    def __radd__(self, other: bytes) -> bytes:
        """Count what is copied to make one of two."""
        CountedBytes.searched += len(other) + len(self)
        return bytes(other) + bytes(self)


def test_a_very_long_line_is_searched_once_however_many_pieces_it_comes_in() -> None:
    line = b"data:" + b"x" * 2_000_000 + b"\n\n"
    size = len(line) // 1000
    CountedBytes.searched = 0
    decoder = SseDecoder()
    given = [
        payload
        for place in range(0, len(line), size)
        for payload in payloads_of(decoder.feed(CountedBytes(line[place : place + size])))
    ]
    assert given == [b"x" * 2_000_000]
    assert len(line) <= CountedBytes.searched <= 2 * len(line)


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
    assert folded(answer_events({"json": json.loads(DEEP)})).text == DEEP.decode()


def tool(name: str, output: str = "") -> dict[str, Any]:
    """A tool as Flowise reports it."""
    return {"tool": name, "toolInput": {"q": name}, "toolOutput": output}


def used(name: str, output: str = "") -> ToolUsed:
    """The event of a tool that has run."""
    return ToolUsed(name, {"q": name}, output)


def node(label: str, status: str, node_id: str = "agentAgentflow_0") -> tuple[str, Any]:
    """A node of an agentflow that begins or ends."""
    return "nextAgentFlow", {"nodeId": node_id, "nodeLabel": label, "status": status}


def executed(*outputs: Any, label: str = "Agent") -> list[Any]:
    """The list of executed nodes with these outputs."""
    return [{"nodeId": f"n_{n}", "nodeLabel": label, "data": {"output": o}} for n, o in enumerate(outputs)]


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


def agent(name: str, **found: Any) -> dict[str, Any]:
    """An agent's step as a sequential flow reports it."""
    return {"agentName": name, "messages": ["m"], **found}


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
    assert folded(events).sources == [document]


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
    assert folded(answer_events({"text": "x", **data})).identity == identity


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
    assert folded(events).text == "Reply to [failmid] after "


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
    assert folded(told(("agentFlowExecutedData", nodes))).text == text
    assert folded(answer_events({"text": " ", "agentFlowExecutedData": nodes})).text == text


def test_text_of_nodes_is_not_added_to_tokens() -> None:
    nodes = executed({"content": "whole text"})
    assert folded(told(("token", "whole"), ("agentFlowExecutedData", nodes))).text == "whole"


def test_a_list_of_executed_nodes_that_is_empty_does_not_forget_the_last() -> None:
    assert (
        folded(
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
    assert whole_text(folded(events)).startswith("Shall I go on?")
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
        assert folded(events).text == "Shall I go on?"


def test_an_empty_line_within_or_outside_of_an_agentflow_stays() -> None:
    assert folded(told(("token", "\n\na\n\n"), ("token", "\nb"))).text == "\n\na\n\n\nb"
    assert folded(told(node("LLM", "INPROGRESS"), ("token", "a"), ("token", "\n\nb"))).text == "a\n\nb"
    assert folded(answer_events({"text": "\n\na"})).text == "\n\na"


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
        streamed = folded(read_at_once(events))
    else:
        streamed = folded(told(*messages))
    whole = {"text": nodes[-1]["data"]["output"]["content"], "agentFlowExecutedData": [START, *nodes]}
    assert streamed.text == text
    assert folded(answer_events(whole)).text == text


def read_at_once(events: bytes) -> Iterator[FlowEvent]:
    """The events of a run as they are read together: tokens go the short way."""
    decoder = EventDecoder()
    for payload in payloads_of(events):
        assert isinstance(payload, bytes)
        text = decoder.token(payload)
        yield from decoder.decode(payload) if text is None else [TextDelta(text)]
    yield from decoder.closing()


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


def test_what_was_said_before_a_decision_is_not_said_again() -> None:
    asks = branch("humanInputAgentflow_0", "approve", kind="humanInput")
    after = branch("c", "Done.", before="humanInputAgentflow_0", kind="directReply")
    answer = {"text": "Done.", "agentFlowExecutedData": [START, branch("a", "Said before."), asks, after]}
    decision = {"type": "proceed", "startNodeId": "humanInputAgentflow_0"}
    assert folded(answer_events(answer, decision)).text == "Done."
    assert folded(answer_events(answer, {"type": "proceed"})).text == "Done."
    stopped = {**asks, "status": "STOPPED"}
    answer = {"text": "Go on?", "agentFlowExecutedData": [START, branch("a", "Draft."), stopped]}
    assert folded(answer_events(answer)).text == "Go on?"


@pytest.mark.parametrize("foreign", [None, 5, "x", [], {}, [[1]], [{"a": 1}], ["x", None]])
def test_executed_nodes_may_be_anything(foreign: Any) -> None:
    for name in ("llmAgentflow", foreign):
        entry = {"nodeId": foreign, "previousNodeIds": foreign, "data": {"name": name}, "status": foreign}
        assert folded(answer_events({"text": "x", "agentFlowExecutedData": [entry] * 3})).text == "x"


# --- what stopped runs of older versions ask ---

OLDER = Path(__file__).resolve().parents[2] / "wire/flowise-3.0.13"


def test_a_json_answer_without_action_tells_the_decision_it_waits_for() -> None:
    body = (OLDER / "human-1-ask-json.http").read_bytes().partition(b"\r\n\r\n")[2]
    answer = json.loads(body)
    assert "action" not in answer
    asked = folded(answer_events(answer)).action
    assert asked is not None
    assert asked.choices == ("Proceed", "Reject")
    assert asked.action["data"]["nodeId"] == "humanInputAgentflow_0"
    resumed = json.loads((OLDER / "human-2-reject-json.http").read_bytes().partition(b"\r\n\r\n")[2])
    assert folded(answer_events(resumed)).action is None
    executed_data = answer["agentFlowExecutedData"]
    assert folded(told(("agentFlowExecutedData", executed_data))).action == asked
    others: list[dict[str, Any]] = [
        {"status": "FINISHED"},
        {"data": {"output": {}}},
        {"data": {"output": {"humanInputAction": 5}}},
    ]
    for entry in others:
        changed = [*executed_data[:-1], {**executed_data[-1], **entry}]
        assert folded(answer_events({**answer, "agentFlowExecutedData": changed})).action is None


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
    assert folded(told(("agentFlowExecutedData", nodes))).usage == expected
    assert folded(answer_events({"text": "x", "agentFlowExecutedData": nodes})).usage == expected


def test_usage_within_messages_counts_only_where_calls_around_tools_are_reported() -> None:
    messages = [{"usage_metadata": {"input_tokens": 100, "output_tokens": 10}}, {"usage_metadata": 5}, {}]

    def nodes(**more: Any) -> list[Any]:
        return [{"data": {"input": {"messages": messages}, "output": usage(1, 2, **more)}}]

    assert folded(told(("agentFlowExecutedData", nodes(tool_call_tokens=110)))).usage == UsageReported(
        101, 12
    )
    assert folded(told(("agentFlowExecutedData", nodes()))).usage == UsageReported(1, 2)


def test_usage_events_count_where_no_node_reports_any() -> None:
    event = ("usageMetadata", {"input_tokens": 3, "output_tokens": 4})
    assert folded(told(event)).usage == UsageReported(3, 4)
    assert folded(told(event, ("agentFlowExecutedData", executed(usage(1, 2))))).usage == UsageReported(1, 2)
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
    assert folded(events).text == text
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


# --- both ways of asking ---

CALL_IDS = {"ok-af_agent_human": "the text holds the id of the tool call, which is another in each run"}


def pairs() -> list[str]:
    """Names of flows that were recorded both ways and answered."""
    names = [path.stem.removesuffix("-json") for path in RECORDINGS.glob("*-json.http")]
    answered = []
    for name in sorted(names):
        is_answer = (RECORDINGS / f"{name}-json.http").read_bytes().startswith(b"HTTP/1.1 200")
        other = RECORDINGS / f"{name}-stream.http"
        if is_answer and other.exists() and other.stat().st_size:
            answered.append(name)
    return answered


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


def test_how_much_of_an_event_is_open_is_known() -> None:
    decoder = SseDecoder()
    assert decoder.feed(b"data: ab") == b""
    assert decoder.open_bytes == 8
    assert decoder.feed(b"c\ndata: d\n") == b""
    assert decoder.open_bytes == 18
    assert decoder.feed(b"\nda") == b"data: abc\ndata: d\n\n"
    assert decoder.open_bytes == 2


def test_half_a_character_in_a_value_too_deep_to_be_mended_is_no_value() -> None:
    assert lenient_json("[" * 900 + '"\\ud83d"' + "]" * 900) is None
