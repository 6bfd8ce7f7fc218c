"""S6: heads that are broken, too large, or to be read in two ways."""

from __future__ import annotations

import pytest

from tests.support.demo_server import DemoServer
from tests.support.hostile import CANARY, post, raw
from tests.support.openai_check import valid
from tests.support.running_proxy import RunningProxy


def test_a_key_in_a_header_that_cannot_be_parsed_is_nowhere(keyed: RunningProxy) -> None:
    answer = raw(
        keyed, b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nAuthorization Bearer sk-HEADER-CANARY\r\n\r\n"
    )
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b" 400 " in head
    assert b"x-request-id" in head
    valid("error", body)
    assert raw(keyed, b"GET /v1/models?key=sk QUERY-CANARY HTTP/1.1\r\nHost: localhost\r\n\r\n")
    for canary in ("HEADER-CANARY", "QUERY-CANARY"):
        assert canary.encode() not in answer
        assert canary not in keyed.log()


def _padded(size: int, more: bytes = b"") -> bytes:
    """A head of exactly so many bytes, in lines that are not too long each."""
    first = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n" + more
    lines: list[bytes] = []
    while left := size - len(first) - sum(map(len, lines)) - 2:
        taken = left if left <= 8_000 else min(8_000, left - 100)
        lines.append(b"X-Padding-%02d: %b\r\n" % (len(lines), b"x" * (taken - 16)))
    return b"".join([first, *lines, b"\r\n"])


def test_a_head_is_small_in_all(keyed: RunningProxy) -> None:
    assert len(_padded(65_536)) == 65_536
    assert raw(keyed, _padded(65_536)).startswith(b"HTTP/1.1 200 ")
    # What comes behind it, more than one read of it, does not count.
    body = b"Content-Length: 50000\r\n"
    assert raw(keyed, _padded(60_000, body) + b"x" * 50_000).startswith(b"HTTP/1.1 200 ")
    for size in (65_537, 720_000):
        head, _, told = raw(keyed, _padded(size) + b"x" * 1_000_000).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 431 ")
        valid("error", told)


BODY = b'{"model":"demo-assistant","messages":[{"role":"user","content":"Hi"}]}'
HIDDEN = b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n"
POST = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\napi-key: " + CANARY.encode() + b"\r\n"
LENGTH = b"Content-Length: %d\r\n" % len(BODY)


@pytest.mark.parametrize(
    "sent",
    [
        POST + LENGTH + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + HIDDEN,
        POST + b"Transfer-Encoding: chunked\r\n" + LENGTH + b"\r\n0\r\n\r\n" + HIDDEN,
        POST + b"Content-Length: 4\r\n" + LENGTH + b"\r\n" + BODY + HIDDEN,
        POST + b"Content-Length: 4, 70\r\n\r\n" + BODY + HIDDEN,
        POST + b"Content-Length: +70\r\n\r\n" + BODY + HIDDEN,
        POST + b"Content-Length: 0x46\r\n\r\n" + BODY + HIDDEN,
        POST + b"Content-Length : 70\r\n\r\n" + BODY + HIDDEN,
        POST + b"Transfer-Encoding: xchunked\r\n\r\n" + BODY + HIDDEN,
        POST + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n" + HIDDEN,
        POST + b"Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n" + HIDDEN,
        POST + b"X-Folded: a\r\n b\r\n" + LENGTH + b"\r\n" + BODY + HIDDEN,
        POST + b"X-Odd: a\x00b\r\n" + LENGTH + b"\r\n" + BODY + HIDDEN,
        POST + b"Transfer-Encoding: chunked\r\n\r\n3;\n\r\nabc\r\n0\r\n\r\n" + HIDDEN,
        POST + b"Transfer-Encoding: chunked\r\n\r\n-1\r\nabc\r\n0\r\n\r\n" + HIDDEN,
        POST.replace(b"HTTP/1.1", b"HTTP/1.1 x") + LENGTH + b"\r\n" + BODY + HIDDEN,
    ],
)
def test_what_two_servers_could_read_in_two_ways_hides_no_request(
    keyed: RunningProxy, demo: DemoServer, sent: bytes
) -> None:
    """A proxy in front that ends the body elsewhere would take the rest for another caller's request."""
    demo.clear()
    answers = raw(keyed, sent)
    assert answers.count(b"HTTP/1.1 ") == 1, answers
    assert answers.startswith(b"HTTP/1.1 4"), answers
    assert b"\r\nConnection: close" in answers
    assert demo.records() == []


@pytest.mark.parametrize(
    "header", ["X-Request-Id", "X-Conversation-Id", "X-Session-Id", "Origin", "traceparent", "X-User-Id"]
)
@pytest.mark.parametrize("value", [b"a\rSet-Cookie: x=1", b"a\nSet-Cookie: x=1", b"a\x00b", b"\xe2\x80\xa8x"])
def test_what_a_header_holds_adds_no_header_to_the_answer(
    keyed: RunningProxy, header: str, value: bytes
) -> None:
    head = POST + header.encode() + b": " + value + b"\r\nConnection: close\r\n" + LENGTH + b"\r\n"
    answer = raw(keyed, head + BODY)
    assert answer.split()[1] in (b"200", b"400")
    assert b"set-cookie" not in answer.lower()


def test_what_a_body_holds_adds_no_header_to_the_answer(keyed: RunningProxy) -> None:
    odd = "x\r\nSet-Cookie: a=1"
    body = {"model": "demo-assistant", "messages": [{"role": "user", "content": "Hi"}]}
    for more in (
        {"user": odd},
        {"conversation_id": odd},
        {"model": odd},
        {odd: 1},
        {"metadata": {"conversation_id": odd}},
    ):
        answer = post(keyed, json={**body, **more})
        assert "Set-Cookie" not in answer.headers
        assert "\r" not in "".join(answer.headers.values())
