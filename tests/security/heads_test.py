"""S6: heads that are broken, too large, or to be read in two ways."""

from __future__ import annotations

from tests.support.hostile import raw
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
