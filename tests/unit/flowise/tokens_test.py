"""Tokens of Flowise's event stream into text: the short way and the long one, and characters cut in two."""

from __future__ import annotations

import json

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flowise_gateway.flow.events import (
    FlowEvent,
    ReasoningDelta,
    TextDelta,
    ToolUsed,
    TurnEnded,
)
from flowise_gateway.flow.lenient_json import lenient_json
from flowise_gateway.flowise.events import EventDecoder
from flowise_gateway.flowise.sse import SseDecoder
from flowise_gateway.flowise.sse import payloads as payloads_of
from tests.support.flowise_wire import (
    decoded,
    node,
    payloads,
)


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
