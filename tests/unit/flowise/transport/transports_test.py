"""The HTTP seam, both its implementations: what was not sent, what broke, how it waits and lets go."""

from __future__ import annotations

import contextlib
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import gevent
import pytest

from flowise_gateway.flow.errors import SettingsError
from flowise_gateway.flowise.transport.base import (
    ConnectionBroken,
    FlowiseRequest,
    NotSent,
    NotTrusted,
    Reply,
    ReplyHead,
    Transport,
    keep_alive_seconds,
    read_all,
)
from flowise_gateway.flowise.transport.gevent_transport import GeventTransport
from flowise_gateway.flowise.transport.requests_transport import RequestsTransport
from tests.support.scripted_server import Script, ScriptedServer, Step, http

STREAM_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
EVENTS = 'message:\ndata:{"event":"token","data":"Grüße"}\n\n'.encode()
CHUNKED = STREAM_HEAD + b"Transfer-Encoding: chunked\r\n\r\n"

MakeTransport = Callable[[str], Transport]
Call = Callable[..., Reply]


def over_requests(url: str) -> Transport:
    """The seam over requests."""
    return RequestsTransport(url, connect_timeout_seconds=1)


def over_gevent(url: str) -> Transport:
    """The seam for serving."""
    return GeventTransport(url, connect_timeout_seconds=1)


@pytest.fixture(params=[over_requests, over_gevent], ids=["requests", "gevent"])
def make(request: pytest.FixtureRequest) -> Iterator[MakeTransport]:
    """Each implementation in turn: a test that takes this is a promise of both."""
    with contextlib.ExitStack() as made:

        def make_one(url: str) -> Transport:
            transport: Transport = request.param(url)
            made.callback(transport.close)
            return transport

        yield make_one


@pytest.fixture
def call(make: MakeTransport) -> Call:
    """Send one request over a transport of its own."""
    return lambda url, body=None, **headers: send(make(url), url, body, **headers)


def send(transport: Transport, url: str, body: bytes | None = None, **headers: str) -> Reply:
    """Send one request."""
    method = "GET" if body is None else "POST"
    return transport.send(FlowiseRequest(method, f"{url}/api/v1/ping", headers, body))


def answer(reply: Reply) -> bytes | None:
    """A whole answer's body; the connection can then be used again."""
    head_of(reply)
    body = read_all(reply, 5)
    reply.close()
    return body


def head_of(reply: Reply) -> ReplyHead:
    """The head, which must come."""
    head = reply.head(5)
    assert head is not None
    return head


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:9", "http://no.such.host.invalid", "https://no.such.host.invalid:444"]
)
def test_what_cannot_be_connected_was_not_sent(url: str, call: Call) -> None:
    with pytest.raises(NotSent):
        call(url).head(5)


def test_tls_with_a_server_that_speaks_none_was_not_sent(call: Call) -> None:
    with ScriptedServer([http("200 OK"), b""]) as server, pytest.raises(NotSent, match="TLS"):
        call(server.url.replace("http:", "https:")).head(5)


def test_an_outgoing_proxy_that_refuses_was_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    with pytest.raises(NotSent, match="proxy"):
        send(over_requests("http://flows.example.com"), "http://flows.example.com").head(5)


def test_an_outgoing_proxy_is_told_the_whole_address_and_who_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    with ScriptedServer([http("200 OK", b"one"), Step.AWAIT_REQUEST, http("200 OK", b"two")]) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url.replace("//", "//me:word@"))
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        transport = over_requests("http://flows.example.com")
        assert answer(send(transport, "http://flows.example.com")) == b"one"
        assert answer(send(transport, "http://flows.example.com")) == b"two"
        transport.close()
    for request in proxy.requests:
        assert request.startswith(b"GET http://flows.example.com/api/v1/ping HTTP/1.1\r\n")
        assert b"Proxy-Authorization: Basic bWU6d29yZA==\r\n" in request
        assert b"Host: flows.example.com\r\n" in request


def test_an_outgoing_proxy_that_makes_no_tunnel_was_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    with ScriptedServer([http("403 Forbidden"), b""]) as proxy:
        monkeypatch.setenv("https_proxy", proxy.url)
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        with pytest.raises(NotSent, match="proxy"):
            send(over_requests("https://flows.example.com"), "https://flows.example.com").head(5)
        assert proxy.requests[0].startswith(b"CONNECT flows.example.com:443 ")


def test_a_proxy_of_the_environment_is_not_asked_for_this_machine(
    monkeypatch: pytest.MonkeyPatch, call: Call
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with ScriptedServer([http("200 OK", b"{}")]) as server:
        reply = call(server.url)
        assert head_of(reply).status == 200
        assert read_all(reply, 5) == b"{}"
        reply.close()


def test_a_whole_answer_is_read_and_its_head_kept(call: Call) -> None:
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
def test_an_answer_that_is_cut_is_a_broken_connection_after_what_came(rest: bytes, call: Call) -> None:
    with ScriptedServer([STREAM_HEAD + rest, b""]) as server:
        reply = call(server.url)
        assert head_of(reply).status == 200
        assert reply.read_available(5) == b"abc"
        with pytest.raises(ConnectionBroken):
            reply.read_available(5)
        reply.close()


def test_an_interim_answer_never_leaves_the_next_one_to_somebody_else(make: MakeTransport) -> None:
    hint = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    with ScriptedServer(
        [hint, http("200 OK", b"of the first")], [http("200 OK", b"of the second")]
    ) as server:
        transport = make(server.url)
        first = send(transport, server.url)
        if isinstance(transport, GeventTransport):
            assert answer(first) == b"of the first"
        else:
            with pytest.raises(ConnectionBroken):
                first.head(5)
        first.close()
        server.drop_connections()
        assert answer(send(transport, server.url)) == b"of the second"


def test_a_connection_lost_before_the_head_may_have_run(call: Call) -> None:
    with ScriptedServer([b"", b""]) as server, pytest.raises(ConnectionBroken):
        call(server.url, b"{}").head(5)


def test_silence_is_none_and_never_longer_than_asked(call: Call) -> None:
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
def test_closing_a_reply_lets_go_of_the_connection(connection: bytes, call: Call) -> None:
    head = STREAM_HEAD + b"Connection: %b\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n" % connection
    with ScriptedServer([head]) as server:
        reply = call(server.url)
        assert head_of(reply).status == 200
        assert reply.read_available(5) == b"abc"
        reply.close()
        assert server.closed_by_client.wait(5)


def test_closing_before_the_head_lets_go_too(call: Call) -> None:
    with ScriptedServer([]) as server:
        reply = call(server.url, b"{}")
        assert reply.head(0.1) is None
        reply.close()
        assert server.closed_by_client.wait(5)


def test_a_body_over_the_limit_or_too_slow_is_none(call: Call) -> None:
    with ScriptedServer([http("200 OK", b"x" * 100)], [STREAM_HEAD + b"\r\nabc"]) as server:
        large = call(server.url)
        assert head_of(large).status == 200
        assert read_all(large, 5, limit_bytes=50) is None
        large.close()
        slow = call(server.url)
        assert head_of(slow).status == 200
        assert read_all(slow, 0.1) is None
        slow.close()


def test_a_closed_transport_can_be_closed_again(make: MakeTransport) -> None:
    transport = make("http://127.0.0.1:9")
    transport.close()
    transport.close()


@pytest.mark.parametrize("framing", ["chunked", "length", "until closed"])
def test_no_split_and_no_wait_that_ended_early_loses_a_byte(call: Call, framing: str) -> None:
    bodies = {
        "chunked": CHUNKED + b"%x\r\n%b\r\n0\r\n\r\n" % (len(EVENTS), EVENTS),
        "length": STREAM_HEAD + b"Content-Length: %d\r\n\r\n" % len(EVENTS) + EVENTS,
        "until closed": STREAM_HEAD + b"Connection: close\r\n\r\n" + EVENTS,
    }
    whole = bodies[framing]
    ends = [b""] if framing == "until closed" else []
    for place in range(1, len(whole), 3):
        gate = threading.Semaphore(0)
        with ScriptedServer([whole[:place], gate.acquire, whole[place:], *ends]) as server:
            reply = call(server.url)
            received = b""
            if reply.head(0.003) is not None:
                received += reply.read_available(0.001) or b""
            gate.release()
            head_of(reply)
            assert received + (read_all(reply, 5) or b"") == EVENTS, place
            reply.close()


def test_bytes_that_come_one_by_one_are_given_as_they_come(call: Call) -> None:
    pieces = [bytes([byte]) for byte in CHUNKED + b"3\r\nabc\r\n"]
    with ScriptedServer([*pieces]) as server:
        reply = call(server.url)
        head_of(reply)
        received = b""
        while len(received) < 3:
            received += reply.read_available(5) or b""
        assert received == b"abc"
        assert reply.read_available(0.01) is None
        reply.close()


def test_a_huge_answer_arrives_whole_and_no_faster_than_it_is_read(call: Call) -> None:
    body = bytes(range(256)) * 65536
    with ScriptedServer([http("200 OK", body)]) as server:
        reply = call(server.url, b"q" * 3_000_000)
        assert answer(reply) == body
        assert b"Content-Length: 3000000\r\n" in server.requests[0]


def test_a_compressed_answer_is_never_unpacked(call: Call) -> None:
    with ScriptedServer(
        [http("200 OK", b"\x1f\x8b bomb", "application/json", "Content-Encoding: gzip")]
    ) as server:
        reply = call(server.url)
        assert head_of(reply).headers["content-encoding"] == "gzip"
        assert answer(reply) == b"\x1f\x8b bomb"
        assert b"Accept-Encoding: identity\r\n" in server.requests[0]


def test_a_connection_is_used_again(make: MakeTransport) -> None:
    with ScriptedServer([http("200 OK", b"one"), Step.AWAIT_REQUEST, http("200 OK", b"two")]) as server:
        transport = make(server.url)
        assert answer(send(transport, server.url)) == b"one"
        assert answer(send(transport, server.url, b"{}")) == b"two"
        assert server.connection_count == 1
        transport.close()
        assert server.closed_by_client.wait(5)


@pytest.mark.parametrize("ending", [b"", Step.RESET], ids=["closed", "reset"])
def test_a_kept_connection_that_went_stale_is_never_used_again(
    make: MakeTransport, ending: bytes | Step
) -> None:
    with ScriptedServer([http("200 OK", b"one"), ending], [http("200 OK", b"two")]) as server:
        transport = make(server.url)
        assert answer(send(transport, server.url)) == b"one"
        assert server.closed_by_server.wait(5)
        assert answer(send(transport, server.url)) == b"two"
        assert server.connection_count == 2


def test_a_kept_connection_is_not_used_when_its_server_may_be_closing_it(make: MakeTransport) -> None:
    brief = http("200 OK", b"one", "text/plain", "Keep-Alive: timeout=1, max=5")
    with ScriptedServer(
        [brief, Step.AWAIT_REQUEST, http("200 OK", b"late")], [http("200 OK", b"two")]
    ) as server:
        transport = make(server.url)
        assert answer(send(transport, server.url)) == b"one"
        assert answer(send(transport, server.url)) == b"two"


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("timeout=5", 4),
        ("max=5, Timeout=72", 71),
        ("timeout=0", 0),
        ("timeout=-5", 30),
        ("timeout=x", 30),
        ("timeout=99999999", 30),
        ("", 30),
    ],
)
def test_a_connection_is_kept_a_second_less_than_its_server_keeps_it(header: str, seconds: float) -> None:
    assert keep_alive_seconds({"keep-alive": header} if header else {}) == seconds


def test_an_answer_that_ends_its_connection_ends_it(make: MakeTransport) -> None:
    last = http("200 OK", b"one", "text/plain", "Connection: close")
    with ScriptedServer([last], [http("200 OK", b"two")]) as server:
        transport = make(server.url)
        assert answer(send(transport, server.url)) == b"one"
        assert answer(send(transport, server.url)) == b"two"


def test_what_follows_an_answer_is_no_answer_of_the_next_call() -> None:
    forged = http("200 OK", b"one") + http("200 OK", b"forged")
    with ScriptedServer([forged], [http("200 OK", b"two")]) as server:
        transport = over_gevent(server.url)
        assert answer(send(transport, server.url)) == b"one"
        assert answer(send(transport, server.url)) == b"two"
        transport.close()


def test_a_reset_before_the_request_was_read_is_an_error(call: Call) -> None:
    with ScriptedServer([Step.RESET]) as server, pytest.raises((NotSent, ConnectionBroken)):
        call(server.url, b"{}").head(5)


@pytest.mark.parametrize(
    "begun", [b"", b"HTTP/1.1 200 OK\r\nContent-", CHUNKED, CHUNKED + b"3\r\nabc\r\n", CHUNKED + b"9\r\nabc"]
)
def test_a_reset_after_the_request_was_read_may_have_run(call: Call, begun: bytes) -> None:
    gate = threading.Semaphore(0)
    with ScriptedServer([begun, gate.acquire, Step.RESET]) as server:
        reply = call(server.url, b"{}")
        received = b""
        if reply.head(0.05) is not None:
            received = reply.read_available(0.05) or b""
        gate.release()
        with pytest.raises(ConnectionBroken):
            while reply.head(5) is not None and received is not None:
                received += reply.read_available(5) or b""
        assert received == (b"abc" if b"abc" in begun else b"")
        reply.close()


def test_what_cannot_be_a_request_is_not_sent(call: Call) -> None:
    with ScriptedServer([http("200 OK")]) as server:
        with pytest.raises(NotSent, match="malformed"):
            call(server.url, b"{}", key="a\r\nX-Injected: b").head(5)
        assert server.requests == []


def test_an_answer_that_is_no_http_may_have_run(call: Call) -> None:
    with ScriptedServer([b"220 mail.example.com ESMTP\r\n\r\n", b""]) as server:
        with pytest.raises(ConnectionBroken):
            call(server.url).head(5)


def test_a_listener_that_never_accepts_was_not_sent(call: Call) -> None:
    with contextlib.ExitStack() as held:
        full = held.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(3):  # the backlog is full: the next connection gets no answer
            client = held.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(full.getsockname())
        with pytest.raises(NotSent):
            call(f"http://127.0.0.1:{full.getsockname()[1]}").head(10)


@pytest.fixture
def authorities(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, object], None]:
    """Names authorities in a variable of the environment, and in no other."""

    def name(variable: str, path: object) -> None:
        for other in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"):
            monkeypatch.delenv(other, raising=False)
        monkeypatch.setenv(variable, str(path))

    return name


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate of an authority of its own for 127.0.0.1, its key in the same file."""
    path = tmp_path_factory.mktemp("tls") / "own.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    subject = ["-days", "2", "-subj", "/CN=own", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run(
        [*command, *subject, "-keyout", path, "-out", f"{path}.crt"], check=True, capture_output=True
    )
    path.write_text(path.read_text() + Path(f"{path}.crt").read_text())
    return path


def serving_with(certificate: Path) -> ssl.SSLContext:
    """What a server with that certificate uses."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "SSL_CERT_FILE"])
def test_a_private_authority_is_trusted_when_the_environment_names_it(
    make: MakeTransport, certificate: Path, authorities: Callable[[str, object], None], variable: str
) -> None:
    authorities(variable, f"{certificate}.crt")
    body = b"x" * 300_000
    script: Script = [http("200 OK", body), Step.AWAIT_REQUEST, CHUNKED, b"3\r\nabc\r\n0\r\n\r\n"]
    with ScriptedServer(script, [http("200 OK", b"third")], tls=serving_with(certificate)) as server:
        transport = make(server.url)
        assert answer(send(transport, server.url, b"q" * 1_000_000)) == body
        assert answer(send(transport, server.url)) == b"abc"
        assert server.connection_count == 2  # the bare one and the encrypted one above it
        server.drop_connections()
        assert answer(send(transport, server.url)) == b"third"


@pytest.mark.parametrize("over", [RequestsTransport, GeventTransport])
def test_an_authority_that_is_named_beats_those_of_the_environment(
    over: type[RequestsTransport | GeventTransport],
    certificate: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "nothing"))
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "nothing"))
    with ScriptedServer([http("200 OK", b"x")], tls=serving_with(certificate)) as server:
        transport = over(server.url, connect_timeout_seconds=1, ca_file=f"{certificate}.crt")
        assert answer(send(transport, server.url)) == b"x"
        transport.close()


@pytest.mark.parametrize("content", [None, b"", b"no certificate"])
def test_authorities_that_cannot_be_read_are_told_at_the_start(
    make: MakeTransport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes | None
) -> None:
    if content is not None:
        (tmp_path / "ca").write_bytes(content)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "ca"))
    with pytest.raises(SettingsError, match="FLOWISE_CA_FILE"):
        make("https://127.0.0.1:1")
    make("http://127.0.0.1:1")


def test_a_certificate_that_is_not_trusted_is_told_as_such(call: Call, certificate: Path) -> None:
    with ScriptedServer([http("200 OK")], tls=serving_with(certificate)) as server:
        with pytest.raises(NotTrusted, match="it is self-signed"):
            call(server.url).head(5)


def test_a_certificate_for_another_address_is_told_without_any_name(
    make: MakeTransport, certificate: Path, authorities: Callable[[str, object], None]
) -> None:
    authorities("SSL_CERT_FILE", f"{certificate}.crt")
    with ScriptedServer([http("200 OK")], tls=serving_with(certificate)) as server:
        url = server.url.replace("127.0.0.1", "localhost")
        with pytest.raises(NotTrusted) as caught:
            send(make(url), url).head(5)
    assert str(caught.value) == "it is for another host name than that of FLOWISE_BASE_URL"


def test_a_tls_handshake_that_never_ends_was_not_sent(call: Call) -> None:
    with ScriptedServer([]) as server:
        with pytest.raises(NotSent):
            call(server.url.replace("http:", "https:")).head(10)


def test_a_call_that_waits_leaves_room_for_others() -> None:
    with ScriptedServer([], [http("200 OK", b"quick")]) as server:
        transport = over_gevent(server.url)
        silent = send(transport, server.url)
        waiting = gevent.spawn(silent.head, 30)
        gevent.sleep(0.05)
        assert answer(send(transport, server.url)) == b"quick"
        waiting.kill()
        transport.close()
        silent.close()
        assert server.closed_by_client.wait(5)


@pytest.mark.parametrize("part", ["head", "body"])
def test_what_came_in_time_counts_although_the_loop_was_too_late_to_tell(part: str) -> None:
    """The whole process may have stood still: its timers are then due together with what has arrived."""
    head, body = http("200 OK", b"{}")[:-2], b"{}"
    pause = partial(time.sleep, 0.15)
    script: Script = [pause, head + body] if part == "head" else [head, pause, body]
    with ScriptedServer(script) as server:
        reply = send(over_gevent(server.url), server.url)
        if part == "body":
            head_of(reply)
        gevent.spawn_later(0.05, time.sleep, 0.6)  # not patched here: it holds up everything
        if part == "head":
            assert reply.head(0.3) is not None
        assert reply.read_available(0.3) == body
        reply.close()


def test_idle_connections_are_bounded() -> None:
    scripts = [[http("200 OK", b"x")] for _ in range(4)]
    with ScriptedServer(*scripts) as server:
        transport = GeventTransport(server.url, max_idle=2)
        replies = [send(transport, server.url) for _ in range(4)]
        for reply in replies:
            head_of(reply)
        assert [answer(reply) for reply in replies] == [b"x"] * 4
        assert server.closed_by_client.wait(5)
        transport.close()
