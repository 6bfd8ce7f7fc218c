"""A flow's text with the line ends that only Unicode knows: no reader of lines takes them for ours."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson
import pytest
import requests
from wsproto.events import TextMessage

from flowise_gateway.conformance.websocket_client import SocketClient
from flowise_gateway.openai.sse import Frame, json_bytes, on_one_line, stream_bytes
from tests.support.processes import wait_for
from tests.support.running_proxy import RunningProxy
from tests.support.saying_flowise import FLOW, SayingFlowise

FORGED = 'so\u2028data: [DONE]\u2028\u2028\u2029data: {"x":1}\u0085\u0085event: end – »ü😀«'
CLOSE = {"Connection": "close"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningProxy]:
    """A server whose only flow says it."""
    with SayingFlowise() as flowise:
        flowise.says = FORGED
        with RunningProxy(tmp_path_factory.mktemp("lines"), FLOWISE_BASE_URL=flowise.base_url) as proxy:
            yield proxy


def asked(server: RunningProxy, path: str, **body: Any) -> requests.Response:
    """The answer to a request, not yet read."""
    body = {"model": FLOW, **body}
    url = f"{server.url}/v1/{path}"
    return requests.post(url, json=body, headers=CLOSE, stream=True, timeout=30)


MESSAGES = [{"role": "user", "content": "Hello"}]
SURFACES: dict[str, dict[str, Any]] = {
    "chat/completions": {"messages": MESSAGES},
    "completions": {"prompt": "Hello"},
    "responses": {"input": "Hello"},
}


def values(lines: list[str]) -> list[Any]:
    """The JSON values of a stream's lines, `[DONE]` as it is; fails for a line that no event has."""
    data = []
    for line in filter(None, lines):
        field, _, rest = line.partition(": ")
        assert field in ("event", "data"), line
        if field == "data":
            data.append(rest if rest == "[DONE]" else orjson.loads(rest))
    return data


@pytest.mark.parametrize("path", SURFACES)
def test_python_reads_the_lines_of_a_stream_as_they_were_sent(server: RunningProxy, path: str) -> None:
    raw = asked(server, path, stream=True, **SURFACES[path]).content
    for lines in (
        list(asked(server, path, stream=True, **SURFACES[path]).iter_lines(decode_unicode=True)),
        raw.decode().splitlines(),  # as httpx does
    ):
        *events, done = values(lines)
        assert done == "[DONE]"
        assert "[DONE]" not in events
        assert said(path, events) == FORGED
    assert raw.decode().splitlines() == raw.decode().split("\n")[:-1]


def said(path: str, events: list[Any]) -> str:
    """The text of a stream."""
    if path == "responses":
        return "".join(event["delta"] for event in events if event["type"] == "response.output_text.delta")
    choices = [event["choices"][0] for event in events if event["choices"]]
    return "".join(choice.get("text") or choice.get("delta", {}).get("content") or "" for choice in choices)


@pytest.mark.parametrize("path", SURFACES)
def test_a_body_is_one_line(server: RunningProxy, path: str) -> None:
    answer = asked(server, path, **SURFACES[path])
    assert len(answer.content.decode().splitlines()) == 1
    assert answer.json() == orjson.loads(answer.content)
    assert FORGED in texts(answer.json())
    if path == "responses":
        kept = requests.get(f"{server.url}/v1/responses/{answer.json()['id']}", headers=CLOSE, timeout=30)
        assert kept.json() == answer.json()
        assert len(kept.content.decode().splitlines()) == 1


def texts(value: Any) -> list[str]:
    """All texts in a value."""
    if isinstance(value, str):
        return [value]
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for part in parts for text in texts(part)]


def test_the_events_of_a_background_response_too(server: RunningProxy) -> None:
    queued = asked(server, "responses", input="Hello", background=True).json()
    url = f"{server.url}/v1/responses/{queued['id']}"
    assert wait_for(lambda: requests.get(url, headers=CLOSE, timeout=30).json()["status"] == "completed", 30)
    replayed = requests.get(f"{url}?stream=true", headers=CLOSE, timeout=30).content.decode()
    assert said("responses", values(replayed.splitlines())[:-1]) == FORGED


def test_the_messages_of_a_socket_too(server: RunningProxy) -> None:
    with SocketClient(server.url) as client:
        client.say({"type": "response.create", "model": FLOW, "input": "Hello", "stream_id": "\u2028"})
        heard: list[str] = []
        while not heard or orjson.loads(heard[-1])["type"] != "response.completed":
            parts = [client.next()]
            while isinstance(parts[-1], TextMessage) and not parts[-1].message_finished:
                parts.append(client.next())
            heard.append("".join(part.data for part in parts if isinstance(part, TextMessage)))
        assert [len(message.splitlines()) for message in heard] == [1] * len(heard)
        assert said("responses", [orjson.loads(message) for message in heard]) == FORGED


@pytest.mark.parametrize("stream", [False, True])
def test_an_error_that_repeats_what_was_sent_is_one_line(server: RunningProxy, stream: bool) -> None:
    messages = [{"role": FORGED, "content": "Hello"}]
    answer = asked(server, "chat/completions", messages=messages, stream=stream)
    assert answer.status_code == 400
    assert "\u2028" in answer.json()["error"]["message"]
    assert len(answer.content.decode().splitlines()) == 1


def test_a_socket_s_error_too(server: RunningProxy) -> None:
    with SocketClient(server.url) as client:
        client.say({"type": "response.create", "model": FLOW, "input": [{"role": FORGED, "content": "x"}]})
        event = client.next()
        assert isinstance(event, TextMessage)
        assert "\\u2028" in event.data
        assert len(event.data.splitlines()) == 1


def test_names_in_a_body_too() -> None:
    body = json_bytes({FORGED: FORGED})
    assert orjson.loads(body) == {FORGED: FORGED}
    assert len(body.decode().splitlines()) == 1


def test_nothing_else_is_escaped() -> None:
    for text in ("plain", "ü – “»” 😀 \u2027 \u202a \u0084 \u0086", "\\u2028", "\n\r\x0b\x0c\x1c\x1d\x1e"):
        raw = orjson.dumps(text)
        assert on_one_line(raw) == raw
        assert stream_bytes([Frame(raw, "e")]) == b"event: e\ndata: " + raw + b"\n\n"
        assert len(raw.decode().splitlines()) == 1
