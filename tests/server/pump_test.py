"""The event pump: a stream with it is what it is without, whatever Flowise says and however the client reads.

A client of HTTP/1.0 gets no chunks, and so nothing from the pump.
"""

from __future__ import annotations

import gc
import re
import socket
import struct
import threading
import time
import weakref
from collections.abc import Iterator
from typing import Any

import gevent
import orjson
import pytest
import requests

from flowise_client import FlowiseClient
from flowise_gateway.flow.events import FlowEvent, KeepAlive, TextDelta, TurnEnded
from flowise_gateway.flow.turn import Turn
from flowise_gateway.flowise.transport.gevent_transport import GeventTransport
from tests.support.running_proxy import RunningProxy
from tests.support.saying_flowise import FLOW, SayingFlowise, Step, ending, event, token

Steps = list[Step]

HELLO: Steps = [token("Hel"), 0.02, token("lo,"), 0.02, token(" wörld"), 0.02]
USAGE = event("usageMetadata", {"input_tokens": 3, "output_tokens": 4, "total_tokens": 7})
SOURCES = event("sourceDocuments", [{"pageContent": "a page", "metadata": {"source": "a.txt"}}])
HALVES = [b'message:\ndata:{"event":"token","data":"\\u%b"}\n\n' % half for half in (b"d83d", b"de42")]

SILENCE = b'"delta":{},"logprobs":null,"finish_reason":null'

STREAMS: dict[str, Steps] = {
    "tokens one by one": [*HELLO, ending()],
    "an event in two pieces": [*HELLO, token("split")[:20], 0.02, token("split")[20:], 0.02, ending()],
    "half an event behind a whole one": [
        *HELLO,
        token("a") + token("b")[:9],
        0.02,
        token("b")[9:] + token("c"),
        0.02,
        token("d"),
        0.02,
        ending(),
    ],
    "several in one": [*HELLO, token("one ") + token("two") + token(""), 0.02, token("!"), 0.02, ending()],
    "a letter cut in two": [*HELLO, token("ü")[:-6], 0.02, token("ü")[-6:], 0.02, ending()],
    "a character cut in two": [
        *HELLO,
        *(HALVES[0], 0.02, HALVES[1], 0.02, token("x") + HALVES[0], 0.02, HALVES[1] + token("y"), 0.02),
        *(
            HALVES[0] + SOURCES,
            0.02,
            HALVES[1],
            0.02,
            HALVES[0],
            0.02,
            token("z") + HALVES[0],
            0.02,
            ending(),
        ),
    ],
    "other events between": [*HELLO, SOURCES, 0.02, token(" and"), 0.02, USAGE, 0.02, token(" so"), ending()],
    "tokens and others in one": [*HELLO, token(" a") + SOURCES + token(" b"), 0.02, ending()],
    "thoughts between": [
        event("thinking", "hm"),
        0.02,
        *HELLO,
        event("thinking", "oh"),
        0.02,
        token("x"),
        ending(),
    ],
    "comments": [b": hello\n\n", 0.02, *HELLO, b": ping\n\n", 0.02, token("x"), 0.02, ending()],
    "CRLF": [
        step.replace(b"\n", b"\r\n") if isinstance(step, bytes) else step for step in [*HELLO, ending()]
    ],
    "quotes and backslashes": [
        *HELLO,
        token('"}\n\n\\'),
        0.02,
        token('\\"}'),
        0.02,
        token("\\"),
        0.02,
        ending(),
    ],
    "an error": [*HELLO, event("error", "model overloaded"), 0.02],
    "an error with the last token": [*HELLO, token("x") + event("error", "model overloaded"), 0.02],
    "no end": [*HELLO],
    "broken off": [*HELLO, b""],
    "the end with the last token": [*HELLO, token("x") + ending()],
    "one token": [0.02, token("x") + USAGE + ending()],
}


@pytest.fixture(scope="module")
def flowise() -> Iterator[SayingFlowise]:
    """A Flowise that streams what a test tells it to."""
    with SayingFlowise() as server:
        yield server


@pytest.fixture(scope="module")
def proxy(flowise: SayingFlowise, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningProxy]:
    """The server, quick to send heartbeats and to give up."""
    settings = {
        "FLOWISE_BASE_URL": flowise.base_url,
        "FLOWISE_STREAM_IDLE_TIMEOUT": "1",
        "PROXY_HEARTBEAT_SECONDS": "0.4",
    }
    with RunningProxy(tmp_path_factory.mktemp("pump"), **settings) as server:
        yield server


def streamed(
    proxy: RunningProxy, path: str = "chat/completions", *, version: str = "1.1", **more: Any
) -> bytes:
    """The whole of a streamed answer."""
    said = {"input": "Hi"} if path == "responses" else {"messages": [{"role": "user", "content": "Hi"}]}
    body = {"model": FLOW, "stream": True, "store": False, **said, **more}
    if path == "completions":
        body["prompt"] = "Hi"
    if version == "1.0":
        return streamed_to_http_1_0(proxy, path, body)
    answer = requests.post(f"{proxy.url}/v1/{path}", json=body, headers={"Connection": "close"}, timeout=30)
    assert answer.status_code == 200
    return answer.content


def streamed_to_http_1_0(proxy: RunningProxy, path: str, body: dict[str, Any]) -> bytes:
    """The same, as a client of HTTP/1.0 gets it: without chunks."""
    content = orjson.dumps(body)
    head = f"POST /v1/{path} HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    host, port = proxy.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as raw:
        raw.sendall(head.encode() + content)
        answer = b"".join(iter(lambda: raw.recv(65536), b""))
    status, _, stream = answer.partition(b"\r\n\r\n")
    assert b" 200 " in status.partition(b"\r\n")[0]
    return stream


def told(stream: bytes) -> tuple[list[bytes], str]:
    """The kinds of events in their order, and all texts joined; how tokens fell into reads is left to time."""
    kinds: list[bytes] = []
    texts: list[str] = []
    for data in re.findall(rb"(?m)^data: (.*)$", stream):
        found = {} if data == b"[DONE]" else orjson.loads(data)
        for part in (
            found,
            *found.get("choices", ()),
            *(c.get("delta") or {} for c in found.get("choices", ())),
        ):
            said = [name for name in ("content", "text", "delta") if isinstance(part.get(name), str)]
            texts.extend(part.pop(name) for name in said)
        kind = _VARYING.sub(b"", orjson.dumps(found, option=orjson.OPT_SORT_KEYS))
        kinds += [kind] if kind not in kinds[-1:] else []
    return kinds, "".join(texts)


_VARYING = re.compile(rb'"(\w*id|created\w*|completed_at|\w*seconds|sequence_number)":("[^"]*"|[\d.]+)')


def text_of(stream: bytes) -> str:
    """The text of a chat completion's stream."""
    chunks = [orjson.loads(data) for data in re.findall(rb"(?m)^data: (\{.*\})$", stream)]
    deltas = [chunk["choices"][0]["delta"] for chunk in chunks if chunk.get("choices")]
    return "".join(delta.get("content") or "" for delta in deltas)


@pytest.mark.parametrize("path", ["chat/completions", "completions", "responses"])
@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_is_the_same_with_the_pump(
    flowise: SayingFlowise, proxy: RunningProxy, name: str, path: str
) -> None:
    flowise.streams(*STREAMS[name])
    assert told(streamed(proxy, path)) == told(streamed(proxy, path, version="1.0"))


@pytest.mark.parametrize("path", ["chat/completions", "completions", "responses"])
def test_a_character_cut_in_two_arrives_whole(flowise: SayingFlowise, proxy: RunningProxy, path: str) -> None:
    flowise.streams(*STREAMS["a character cut in two"])
    assert "Hello, wörld🙂x🙂y🙂\ufffdz\ufffd" in told(streamed(proxy, path))[1]


@pytest.mark.parametrize(
    "more",
    [
        {"stop": ["lo, w"]},
        {"n": 2},
        {"response_format": {"type": "json_object"}},
        {"stream_options": {"include_usage": True}},
    ],
    ids=lambda more: next(iter(more)),
)
def test_what_changes_the_text_goes_around_the_pump(
    flowise: SayingFlowise, proxy: RunningProxy, more: dict[str, Any]
) -> None:
    flowise.streams(*HELLO, token("."), 0.02, ending())
    ours, theirs = streamed(proxy, **more), streamed(proxy, version="1.0", **more)
    if "n" not in more:  # the choices come in any order
        assert told(ours) == told(theirs)
    assert len(told(ours)[1]) == len(told(theirs)[1])
    assert ours.endswith(b"data: [DONE]\n\n")


def test_a_token_is_with_the_client_before_the_next_is_there(
    flowise: SayingFlowise, proxy: RunningProxy
) -> None:
    has_two, has_three = threading.Event(), threading.Event()
    in_time: list[bool] = []
    flowise.streams(
        *(token("one"), 0.1, token("two"), lambda: in_time.append(has_two.wait(10))),
        *(token("three"), lambda: in_time.append(has_three.wait(10)), ending()),
    )
    body = {"model": FLOW, "stream": True, "messages": [{"role": "user", "content": "Hi"}]}
    with requests.post(f"{proxy.url}/v1/chat/completions", json=body, stream=True, timeout=30) as answer:
        for line in answer.iter_lines(chunk_size=1):
            for word, has_come in ((b"two", has_two), (b"three", has_three)):
                if word in line:
                    has_come.set()
    assert in_time == [True, True]


def test_a_client_of_http_1_0_gets_no_chunks(flowise: SayingFlowise, proxy: RunningProxy) -> None:
    flowise.streams(*HELLO, ending())
    content = streamed(proxy, version="1.0")
    assert content.startswith(b"data: {")
    assert content.endswith(b"data: [DONE]\n\n")
    assert text_of(content) == "Hello, wörld"


def test_a_client_that_reads_late_gets_every_token_and_holds_flowise_back(
    flowise: SayingFlowise, proxy: RunningProxy
) -> None:
    words = [f"{number} " * 200 for number in range(30_000)]
    flowise.streams(*[b"".join(map(token, words[at : at + 10])) for at in range(0, len(words), 10)], ending())
    body = orjson.dumps({"model": FLOW, "stream": True, "messages": [{"role": "user", "content": "Hi"}]})
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
    host, port = proxy.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as raw:
        raw.sendall(head % len(body) + body)
        done = -1
        while flowise.steps_done > done:  # until Flowise is held back
            done = flowise.steps_done
            time.sleep(0.5)
        assert 0 < done < 2900
        answer = b"".join(iter(lambda: raw.recv(1 << 20), b""))
    chunks = answer.partition(b"\r\n\r\n")[2]
    content = bytearray()
    while (size := int((line := chunks[: chunks.index(b"\r\n")]), 16)) != 0:
        content += chunks[len(line) + 2 : len(line) + 2 + size]
        chunks = chunks[len(line) + size + 4 :]
    assert text_of(bytes(content)) == "".join(words)


def test_a_heartbeat_and_a_time_limit_count_from_the_last_token(
    flowise: SayingFlowise, proxy: RunningProxy
) -> None:
    talking: Steps = [step for number in range(12) for step in (token(f"{number} "), 0.2)]
    flowise.streams(*talking, 0.7, token("late"), 0.1, ending())
    stream = streamed(proxy)
    assert text_of(stream) == "".join(f"{n} " for n in range(12)) + "late"
    spoken, _, silent = stream.partition(b"11 ")
    assert spoken.count(SILENCE) < 3  # of six that a clock of its own would make
    assert SILENCE in silent
    flowise.streams(*talking[:4], 3.0, ending())
    stream = streamed(proxy)
    assert text_of(stream[: stream.index(b'data: {"error"')]) == "0 1 "
    assert b'"flowise_timeout"' in stream


def test_a_client_that_leaves_ends_a_pumped_run(flowise: SayingFlowise, proxy: RunningProxy) -> None:
    flowise.streams(*[step for _ in range(100) for step in (token("again "), 0.05)], ending())
    body = {"model": FLOW, "stream": True, "messages": [{"role": "user", "content": "Hi"}]}
    with requests.post(f"{proxy.url}/v1/chat/completions", json=body, stream=True, timeout=30) as answer:
        assert len(answer.raw.read(2000)) == 2000
    deadline = time.monotonic() + 5
    while flowise.is_streaming and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not flowise.is_streaming
    assert flowise.steps_done < 100


def test_the_first_token_is_timed_behind_a_heartbeat_too(flowise: SayingFlowise, proxy: RunningProxy) -> None:
    def count() -> int:
        text = requests.get(f"{proxy.url}/metrics", timeout=5).text
        return sum(int(n) for n in re.findall(r"(?m)^\S*first_token_seconds_count\S* (\d+)", text))

    before = count()
    flowise.streams(0.9, *HELLO, ending())
    stream = streamed(proxy)
    assert stream.index(SILENCE) < stream.index(b"Hel")
    assert count() == before + 1


def test_a_client_of_flowise_gives_each_token_once(flowise: SayingFlowise) -> None:
    flowise.streams(0.1, *HELLO, SOURCES, 0.02, token("!"), 0.02, token(" a") + SOURCES, ending())
    pumped: list[str] = []
    in_loop: list[bool] = []

    def pump(text: str) -> bool:
        in_loop.append(gevent.getcurrent() is gevent.get_hub())
        pumped.append(text)
        return text != "!"

    client = FlowiseClient(flowise.base_url, FLOW, transport=GeventTransport(flowise.base_url))
    given: list[FlowEvent] = [
        found for batch in client.batches(Turn(FLOW, "Hi", stream=True), pump=pump) for found in batch
    ]
    assert pumped == ["Hel", "lo,", " wörld", "!"]
    assert all(in_loop)
    assert [found.text for found in given if isinstance(found, TextDelta)] == ["!", " a"]
    assert isinstance(given[-1], TurnEnded)


def test_a_consumer_that_is_due_is_woken_behind_a_token(flowise: SayingFlowise) -> None:
    flowise.streams(0.1, *HELLO, 0.3, ending())
    due = [9.0]

    def pump(text: str) -> bool:
        due[0] = 0.0
        return True

    client = FlowiseClient(flowise.base_url, FLOW, transport=GeventTransport(flowise.base_url))
    woken = []
    for batch in client.batches(Turn(FLOW, "Hi", stream=True), wake=lambda: due[0], pump=pump):
        if due[0] == 0.0 and batch == [KeepAlive()]:
            woken.append(time.monotonic())
            due[0] = 9.0
    assert len(woken) == 3


def test_a_pump_that_fails_fails_the_run_and_not_the_loop(flowise: SayingFlowise) -> None:
    flowise.streams(0.1, *HELLO, 0.3, ending())

    def pump(text: str) -> bool:
        raise RuntimeError(text)

    client = FlowiseClient(flowise.base_url, FLOW, transport=GeventTransport(flowise.base_url))
    with pytest.raises(RuntimeError, match="Hel"):
        list(client.batches(Turn(FLOW, "Hi", stream=True), pump=pump))
    gevent.sleep(0.05)


@pytest.mark.parametrize("last", [ending(), event("metadata", {"chatId": "c"})], ids=["end", "no end"])
def test_a_run_that_is_over_is_let_go_of(flowise: SayingFlowise, last: bytes) -> None:
    """No garbage collection is needed for it, and no idle connection holds it."""

    class Taker:
        def take(self, text: str) -> bool:
            return bool(text)

    flowise.streams(0.1, *HELLO, last)
    transport = GeventTransport(flowise.base_url)
    client = FlowiseClient(flowise.base_url, FLOW, transport=transport)
    taker = Taker()
    held = weakref.ref(taker)
    gc.collect()
    gc.disable()
    try:
        events = [e for b in client.batches(Turn(FLOW, "Hi", stream=True), pump=taker.take) for e in b]
        assert isinstance(events[-1], TurnEnded)
        del taker, events
        gevent.sleep(0.05)  # the loop's own frame must have returned
        assert held() is None
    finally:
        gc.enable()
        transport.close()


def test_clients_that_reset_leave_no_failure_in_the_log(flowise: SayingFlowise, proxy: RunningProxy) -> None:
    flowise.streams(*[step for _ in range(300) for step in (token("again " * 500), 0.001)], ending())
    body = orjson.dumps({"model": FLOW, "stream": True, "messages": [{"role": "user", "content": "Hi"}]})
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n"
    host, port = proxy.url.removeprefix("http://").split(":")
    for number in range(30):
        with socket.create_connection((host, int(port)), timeout=10) as raw:
            raw.sendall(head % len(body) + body)
            assert raw.recv(10_000).startswith(b"HTTP/1.1 200")
            time.sleep(0.002 * number)
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    time.sleep(0.3)
    log = proxy.log()
    assert "Exception ignored" not in log
    assert "Traceback" not in log
