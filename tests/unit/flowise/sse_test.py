"""Lines of an event stream into payloads, wherever the stream is cut."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flowise_gateway.flowise.sse import HEARTBEAT, SseDecoder
from flowise_gateway.flowise.sse import payloads as payloads_of
from tests.support.flowise_wire import (
    RAW,
    STREAMS,
    payloads,
    recorded,
)

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


def test_how_much_of_an_event_is_open_is_known() -> None:
    decoder = SseDecoder()
    assert decoder.feed(b"data: ab") == b""
    assert decoder.open_bytes == 8
    assert decoder.feed(b"c\ndata: d\n") == b""
    assert decoder.open_bytes == 18
    assert decoder.feed(b"\nda") == b"data: abc\ndata: d\n\n"
    assert decoder.open_bytes == 2
