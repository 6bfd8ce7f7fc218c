"""The client of one flow, where the demo cannot go: odd probes, odd documents, all fields of a turn."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from flowise_client import MAX_CLIENTS, FlowiseClient, FlowiseClients
from flowise_gateway.config.flowises import Upstream
from flowise_gateway.config.settings import Settings
from flowise_gateway.flow.errors import (
    BadRequest,
    FlowiseMisconfigured,
    FlowiseRefused,
    FlowiseUnavailable,
    ModelNotFound,
    ProxyError,
    RateLimited,
    RunFailed,
)
from flowise_gateway.flow.turn import HistoryMessage, Turn, Upload
from flowise_gateway.flowise.prediction import prediction_body
from flowise_gateway.flowise.run import Limits
from flowise_gateway.flowise.transport.base import FlowiseRequest, Reply
from flowise_gateway.flowise.transport.requests_transport import RequestsTransport
from openai_compatible_server import create_app
from tests.support.demo_server import DemoServer
from tests.support.processes import wait_for
from tests.support.scripted_server import ScriptedServer, http

FLOW = "5518949f-3ebc-4082-af01-fa2a18623da6"
QUICK = Limits(request_timeout=0.2, max_attempts=1)


def client_of(server: ScriptedServer) -> FlowiseClient:
    """A client that waits no longer than it must."""
    return FlowiseClient(server.url, FLOW, "key", limits=QUICK)


@pytest.mark.parametrize("flow", ["", "x", "../../chatflows", f"{FLOW}/..", f"{FLOW}?a=b", FLOW[:-1]])
def test_only_a_uuid_ever_gets_into_an_address(flow: str) -> None:
    with ScriptedServer([http("200 OK", b"{}")]) as server:
        with pytest.raises(ModelNotFound):
            FlowiseClient(server.url, flow).predict("Hello")
        assert server.requests == []


def test_streaming_is_asked_for_once_a_minute(demo: DemoServer) -> None:
    client = FlowiseClient(demo.base_url, FLOW)
    before = demo.stats()["probes"]
    assert [client.can_stream() for _ in range(5)] == [True] * 5
    assert demo.stats()["probes"] == before + 1


class _Gated(list[bytes]):
    """Pieces of an answer that come once a gate is open."""

    gate: threading.Event

    def __iter__(self) -> Iterator[bytes]:
        self.gate.wait(10)
        return super().__iter__()


@pytest.mark.parametrize(
    ("answer", "seen"),
    [
        (http("200 OK", b'{"isStreaming":true}'), [True] * 8),
        (http("503 Unavailable", b"", "text/html", "Retry-After: 9"), ["flowise_unavailable"] * 8),
    ],
)
def test_many_that_come_at_once_ask_once_whether_a_flow_streams(answer: bytes, seen: list[Any]) -> None:
    scripts = [_Gated([answer]) for _ in range(8)]
    _Gated.gate = threading.Event()
    with ScriptedServer(*scripts) as server, ThreadPoolExecutor(8) as pool:
        client = FlowiseClient(server.url, FLOW, limits=Limits(max_attempts=1))

        def ask(_: int) -> Any:
            try:
                return client.can_stream()
            except ProxyError as error:
                return error.code

        answers = pool.map(ask, range(8))
        assert not wait_for(lambda: len(server.requests) > 1, 0.5)
        _Gated.gate.set()
        assert list(answers) == seen
        assert len(server.requests) == 1


def test_a_probe_that_is_given_up_leaves_nobody_waiting() -> None:
    class GivenUp(BaseException):
        pass

    class Transport:
        def send(self, request: FlowiseRequest) -> Reply:
            raise GivenUp

        def close(self) -> None:
            pass

    client = FlowiseClient("http://127.0.0.1:9/api/v1", FLOW, transport=Transport())
    for _ in range(2):
        with pytest.raises(GivenUp):
            client.can_stream()


def test_a_probe_that_is_given_up_is_made_by_the_next_that_waits() -> None:
    class GivenUp(BaseException):
        pass

    class Transport(RequestsTransport):
        is_asked, may_go = threading.Event(), threading.Event()

        def send(self, request: FlowiseRequest) -> Reply:
            if self.is_asked.is_set():
                return super().send(request)
            self.is_asked.set()
            self.may_go.wait(10)
            raise GivenUp

    def asks(client: FlowiseClient) -> bool:
        with pytest.raises(GivenUp):
            client.can_stream()
        return True

    with ScriptedServer([http("200 OK", b'{"isStreaming":true}')]) as server, ThreadPoolExecutor(5) as pool:
        transport = Transport(server.url)
        client = FlowiseClient(server.url, FLOW, transport=transport, limits=Limits(max_attempts=1))
        leaving = pool.submit(asks, client)
        assert transport.is_asked.wait(5)
        waiting = [pool.submit(client.can_stream) for _ in range(4)]
        assert not wait_for(lambda: any(one.done() for one in waiting), 0.3)
        transport.may_go.set()
        assert leaving.result(5)
        assert [one.result(5) for one in waiting] == [True] * 4
        assert len(server.requests) == 1


def streamed(*payloads: str) -> list[bytes]:
    """A stream of Flowise's, and the end of its connection."""
    frames = "".join(f"message:\ndata:{payload}\n\n" for payload in payloads)
    head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
    return [head.encode() + frames.encode(), b""]


OTHER = "8b53f6a1-3c70-4e29-b5d4-e07a1c86f9d2"


@pytest.mark.parametrize(
    ("before", "text", "error"),
    [
        ((), f"Chatflow {FLOW} not found", ModelNotFound),
        ((), f"Chatflow {OTHER} not found", RunFailed),
        ((), "Error: predictionsServices.buildChatflow - Unauthorized", FlowiseRefused),
        ((), "Error: predictionsServices.buildChatflow - Error in Agent node: Unauthorized", RunFailed),
        (('{"event":"agentFlowEvent","data":"INPROGRESS"}',), f"Chatflow {FLOW} not found", RunFailed),
        (('{"event":"brandNew","data":1}',), "Unauthorized", RunFailed),
    ],
)
def test_only_what_comes_first_and_is_of_this_flow_refuses_a_run(
    before: tuple[str, ...], text: str, error: type[ProxyError]
) -> None:
    failed = streamed(*before, json.dumps({"event": "error", "data": text}))
    again = http("200 OK", b'{"text":"Hello"}')
    with ScriptedServer(failed, [again]) as server:
        client = client_of(server)
        with pytest.raises(error) as caught:
            client.predict("Hello")
        assert caught.value.nothing_ran is (error is not RunFailed)
        if error is ModelNotFound:
            with pytest.raises(ModelNotFound):
                client.predict("Hello")
        else:
            assert str(client.predict("Hello")) == "Hello", "a sub-flow that is missing closes no flow"


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (http("200 OK", b"<html>", "text/html"), FlowiseMisconfigured),
        (http("429 Too Many", b"slow", "text/html", "Retry-After: 9"), RateLimited),
        (http("503 Unavailable", b"", "text/html", "Retry-After: 9"), FlowiseUnavailable),
        (
            http("500 Error", f'{{"message":"Error: a.b - Chatflow {FLOW} not found"}}'.encode()),
            ModelNotFound,
        ),
    ],
)
def test_a_probe_that_tells_a_cause_is_an_error(answer: bytes, error: type[ProxyError]) -> None:
    with ScriptedServer([answer]) as server, pytest.raises(error):
        client_of(server).can_stream()


@pytest.mark.parametrize(
    "answer",
    [
        http("200 OK", b'{"isStreaming":"true"}'),
        http("200 OK", b"[]"),
        http("404 Not Found", b"{}"),
        http("500 Error", b'{"message":"Error: the database is locked"}'),
        http("500 Error", b"<html>", "text/html"),
    ],
)
def test_a_probe_that_tells_nothing_means_no_stream(answer: bytes) -> None:
    with ScriptedServer([answer]) as server:
        assert client_of(server).can_stream() is False


def test_a_probe_that_hangs_or_breaks_is_unavailable() -> None:
    with ScriptedServer([], [b"", b""]) as server:
        for _ in range(2):
            with pytest.raises(FlowiseUnavailable):
                client_of(server).can_stream()


def test_all_fields_of_a_turn_are_flowises() -> None:
    turn = Turn(
        FLOW,
        "Why?",
        (HistoryMessage("userMessage", "Hi"),),
        "Be brief.",
        (Upload("file", "a.png", "image/png", "data:image/png;base64,"),),
        "session",
        {"temperature": 0},
        stream=True,
        chat_id="chat",
    )
    shown = {
        "question": "[System instructions]\nBe brief.\n[End of system instructions]\n\nWhy?",
        "chatId": "chat",
        "streaming": True,
        "history": [{"role": "userMessage", "content": "Hi"}],
        "uploads": [{"type": "file", "name": "a.png", "mime": "image/png", "data": "data:image/png;base64,"}],
        "overrideConfig": {"temperature": 0, "sessionId": "session"},
    }
    assert prediction_body(turn) == shown
    assert prediction_body(replace(turn, extra={"leadEmail": "a@b.c"}, human_input=None)) == {
        **shown,
        "leadEmail": "a@b.c",
    }
    resumed = prediction_body(replace(turn, question="", human_input={"type": "proceed"}))
    assert resumed["humanInput"] == {"type": "proceed"}
    assert "question" not in resumed
    assert prediction_body(Turn(FLOW, "Why?", chat_id="chat")) == {"question": "Why?", "chatId": "chat"}


def test_clients_are_kept_for_their_flow_and_bounded() -> None:
    clients = FlowiseClients(Upstream("default", Settings(flowise_base_url="http://127.0.0.1:9/api/v1")))
    first = clients.client(FLOW)
    assert clients.client(FLOW) is first
    for number in range(MAX_CLIENTS):
        clients.client(f"{number:08x}{FLOW[8:]}")
    assert clients.client(FLOW) is not first


class _Broken:
    """A transport with a bug."""

    def send(self, request: FlowiseRequest) -> Reply:
        """Fail as no code of ours should."""
        raise ZeroDivisionError(f"secret of {request.url}")

    def close(self) -> None:
        """Nothing to close."""


@pytest.mark.parametrize("stream", [False, True])
def test_a_bug_of_ours_is_a_500_that_tells_nothing(stream: bool, caplog: pytest.LogCaptureFixture) -> None:
    settings = Settings(flowise_base_url="http://127.0.0.1:9/api/v1")
    app = create_app(settings, transport_of=lambda _: _Broken())
    body = {"model": FLOW, "messages": [{"role": "user", "content": "Hello"}], "stream": stream}
    answer = app.test_client().post("/v1/chat/completions", json=body)
    assert answer.status_code == 500
    error = orjson.loads(answer.data)["error"]
    assert error["type"] == "server_error"
    assert answer.headers["x-request-id"] in error["message"]
    assert b"secret" not in answer.data
    assert "ZeroDivisionError" in caplog.text


def test_a_body_without_a_length_is_empty_where_the_server_does_not_end_it(tmp_path: Path) -> None:
    app = create_app(Settings(flowise_base_url="http://127.0.0.1:9/api/v1"))
    answer = app.test_client().post("/v1/chat/completions")
    assert answer.status_code == 400


DOCUMENT = Upload("file", "a.pdf", "application/pdf", "data:application/pdf;base64,JVBERi0=")


def test_flowise_reads_a_document() -> None:
    reply = http("200 OK", b'[{"name":"a.pdf","mimeType":"application/pdf","size":5,"content":"words"}]')
    with ScriptedServer([reply]) as server:
        assert FlowiseClient(server.url, FLOW).document_text("chat", DOCUMENT) == "words"
    assert server.requests[0].startswith(b"POST /api/v1/attachments/" + FLOW.encode() + b"/chat ")
    assert b"Content-Type: multipart/form-data; boundary=" in server.requests[0]


@pytest.mark.parametrize(
    ("status", "answer", "reason"),
    [
        (
            "500 Error",
            {"message": "Error: x - File upload is not enabled for this chatflow"},
            "does not accept files",
        ),
        ("500 Error", {"message": "Error: x - file type is not allowed"}, "files of this type"),
        ("500 Error", {"message": "Error: x - broken"}, "cannot read it"),
        ("200 OK", [], "cannot read it"),
        ("200 OK", {}, "cannot read it"),
        ("502 Bad Gateway", None, "cannot read it"),
    ],
)
def test_a_document_that_flowise_does_not_read_is_the_callers_fault(
    status: str, answer: Any, reason: str
) -> None:
    with ScriptedServer([http(status, orjson.dumps(answer))]) as server, pytest.raises(BadRequest) as caught:
        FlowiseClient(server.url, FLOW).document_text("chat", DOCUMENT)
    assert reason in caught.value.message
    assert caught.value.code == "unsupported_content"


def test_a_limit_on_documents_is_no_fault_of_theirs() -> None:
    busy = http("429 Too Many", b"slow", "Retry-After: 60")
    with ScriptedServer([busy]) as server, pytest.raises(RateLimited):
        FlowiseClient(server.url, FLOW).document_text("chat", DOCUMENT)
