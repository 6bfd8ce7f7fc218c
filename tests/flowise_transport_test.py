"""The HTTP seam: what it says when nothing went out, when it broke, and how it lets go."""

from __future__ import annotations

import time

import pytest

from flowise_transport import (
    ConnectionBroken,
    FlowiseRequest,
    NotSent,
    Reply,
    ReplyHead,
    RequestsTransport,
    read_all,
)
from tests.scripted_server import ScriptedServer, http

STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"


def call(url: str, body: bytes | None = None) -> Reply:
    """Send one request."""
    transport = RequestsTransport(url, connect_timeout_seconds=1)
    return transport.send(FlowiseRequest("GET" if body is None else "POST", f"{url}/api/v1/ping", {}, body))


def head_of(reply: Reply) -> ReplyHead:
    """The head, which must come."""
    head = reply.head(5)
    assert head is not None
    return head


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:9", "http://no.such.host.invalid", "https://no.such.host.invalid:444"]
)
def test_what_cannot_be_connected_was_not_sent(url: str) -> None:
    with pytest.raises(NotSent):
        call(url).head(5)


def test_tls_with_a_server_that_speaks_none_was_not_sent() -> None:
    with ScriptedServer([http("200 OK"), b""]) as server, pytest.raises(NotSent, match="TLS"):
        call(server.url.replace("http:", "https:")).head(5)


def test_an_outgoing_proxy_that_refuses_was_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    with pytest.raises(NotSent, match="proxy"):
        call("http://flows.example.com").head(5)


def test_a_proxy_of_the_environment_is_not_asked_for_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with ScriptedServer([http("200 OK", b"{}")]) as server:
        reply = call(server.url)
        assert head_of(reply).status == 200
        assert read_all(reply, 5) == b"{}"
        reply.close()


def test_a_whole_answer_is_read_and_its_head_kept() -> None:
    with ScriptedServer([http("418 Teapot", b"short", "text/plain", "X-A: b")]) as server:
        reply = call(server.url, b"{}")
        assert (head_of(reply).status, head_of(reply).headers["x-a"]) == (418, "b")
        assert read_all(reply, 5) == b"short"
        assert b"Accept-Encoding: identity" in server.requests[0]
        reply.close()


@pytest.mark.parametrize(
    "rest",
    [
        b"Content-Length: 10\r\n\r\nabc",
        b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nxyz\r\n",
    ],
    ids=["short", "no last chunk", "bad chunk"],
)
def test_an_answer_that_is_cut_is_a_broken_connection_after_what_came(rest: bytes) -> None:
    with ScriptedServer([STREAM_HEAD + rest, b""]) as server:
        reply = call(server.url)
        assert head_of(reply).status == 200
        assert reply.read_available(5) == b"abc"
        with pytest.raises(ConnectionBroken):
            reply.read_available(5)
        reply.close()


def test_an_interim_answer_never_leaves_the_next_one_to_somebody_else() -> None:
    hint = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    with ScriptedServer(
        [hint, http("200 OK", b"of the first")], [http("200 OK", b"of the second")]
    ) as server:
        transport = RequestsTransport(server.url)
        request = FlowiseRequest("GET", server.url)
        with pytest.raises(ConnectionBroken):
            transport.send(request).head(5)
        second = transport.send(request)
        assert head_of(second).status == 200
        assert read_all(second, 5) == b"of the second"
        second.close()


def test_a_connection_lost_before_the_head_may_have_run() -> None:
    with ScriptedServer([b"", b""]) as server, pytest.raises(ConnectionBroken):
        call(server.url, b"{}").head(5)


def test_silence_is_none_and_never_longer_than_asked() -> None:
    with ScriptedServer([STREAM_HEAD + b"Transfer-Encoding: chunked\r\n\r\n"], []) as server:
        reply = call(server.url)
        assert head_of(reply).status == 200
        began = time.monotonic()
        assert reply.read_available(0.05) is None
        assert time.monotonic() - began < 2
        reply.close()
        assert server.closed_by_client.wait(5)
        second = call(server.url)
        assert second.head(0.05) is None
        second.close()


@pytest.mark.parametrize("connection", [b"keep-alive", b"close"])
def test_closing_a_reply_lets_go_of_the_connection(connection: bytes) -> None:
    head = STREAM_HEAD + b"Connection: %b\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n" % connection
    with ScriptedServer([head]) as server:
        reply = call(server.url)
        assert head_of(reply).status == 200
        assert reply.read_available(5) == b"abc"
        reply.close()
        assert server.closed_by_client.wait(5)


def test_closing_before_the_head_lets_go_too() -> None:
    with ScriptedServer([]) as server:
        reply = call(server.url, b"{}")
        assert reply.head(0.1) is None
        reply.close()
        assert server.closed_by_client.wait(5)


def test_a_body_over_the_limit_or_too_slow_is_none() -> None:
    with ScriptedServer([http("200 OK", b"x" * 100)], [STREAM_HEAD + b"\r\nabc"]) as server:
        large = call(server.url)
        assert head_of(large).status == 200
        assert read_all(large, 5, limit_bytes=50) is None
        large.close()
        slow = call(server.url)
        assert head_of(slow).status == 200
        assert read_all(slow, 0.1) is None
        slow.close()


def test_a_closed_transport_can_be_closed_again() -> None:
    transport = RequestsTransport("http://127.0.0.1:9")
    transport.close()
    transport.close()
