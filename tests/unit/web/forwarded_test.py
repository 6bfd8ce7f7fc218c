"""What is believed of the headers that a reverse proxy sets, and of whom."""

from __future__ import annotations

from typing import Any

import pytest

from flowise_gateway.web.forwarded import TrustedProxies

INNER = ("127.0.0.0/8", "::1/128", "10.0.0.0/8", "fd00::/8")


def environ(peer: str, chain: str | None = None, **headers: str) -> dict[str, Any]:
    """A request of this peer with an X-Forwarded-For and others."""
    made = {"REMOTE_ADDR": peer, "wsgi.url_scheme": "http", "HTTP_HOST": "gateway:8000"}
    more = {f"HTTP_X_FORWARDED_{name.upper()}": value for name, value in headers.items()}
    return {**made, **more, **({} if chain is None else {"HTTP_X_FORWARDED_FOR": chain})}


@pytest.mark.parametrize(
    ("peer", "chain", "client"),
    [
        ("203.0.113.9", None, "203.0.113.9"),
        ("203.0.113.9", "198.51.100.7", "203.0.113.9"),  # no proxy of ours: it says what it likes
        ("127.0.0.1", None, "127.0.0.1"),
        ("127.0.0.1", "", "127.0.0.1"),
        ("127.0.0.1", "198.51.100.7", "198.51.100.7"),
        ("::1", "2001:db8::7", "2001:db8::7"),
        ("10.0.0.2", "1.2.3.4, 198.51.100.7, 10.0.0.1", "198.51.100.7"),  # what a client made up comes first
        ("10.0.0.2", "10.9.9.9, 10.0.0.1", "10.9.9.9"),
        ("10.0.0.2", "made up, 10.0.0.1", "10.0.0.1"),
        ("10.0.0.2", "unknown", "10.0.0.2"),
        ("10.0.0.2", "1.2.3.4\nx", "10.0.0.2"),
        ("10.0.0.2", "198.51.100.7:4711", "198.51.100.7"),
        ("10.0.0.2", "[2001:db8::7]:4711", "2001:db8::7"),
        ("::ffff:10.0.0.2", "::ffff:198.51.100.7", "198.51.100.7"),
        ("fd00::2", " 198.51.100.7 ", "198.51.100.7"),
        ("", "198.51.100.7", ""),
        ("127.0.0.1", "1.1.1.1," + "10.0.0.1," * 500 + "10.0.0.1", "10.0.0.1"),
        ("127.0.0.1", "x" * 10_000, "127.0.0.1"),
    ],
)
def test_the_client_is_the_last_address_that_is_no_proxy(peer: str, chain: str | None, client: str) -> None:
    assert TrustedProxies(INNER).client(environ(peer, chain)) == client


def test_whoever_connects_is_believed_where_all_are() -> None:
    everybody = TrustedProxies(("*",))
    assert everybody.client(environ("203.0.113.9", "198.51.100.7, 192.0.2.1")) == "198.51.100.7"
    assert everybody.client(environ("203.0.113.9", "?")) == "203.0.113.9"
    assert TrustedProxies(()).client(environ("127.0.0.1", "198.51.100.7")) == "127.0.0.1"


def test_the_zone_of_an_address_which_may_be_any_text_is_left_out() -> None:
    everybody = TrustedProxies(("*",))
    assert everybody.client(environ("fe80::1%eth0", None)) == "fe80::1"
    assert everybody.client(environ("10.0.0.2", "fe80::7%\x1b[2J level=error\xe9")) == "fe80::7"


def test_a_proxy_that_is_not_believed_is_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    proxies = TrustedProxies(())
    for peer in ("9.9.9.9", "8.8.8.8", "", "10.0.0.2", "10.0.0.2", "10.0.0.3"):
        proxies.client(environ(peer, "198.51.100.7"))
    [record] = caplog.records
    assert record.getMessage().startswith("X-Forwarded-For from 10.0.0.2")
    assert "PROXY_TRUSTED_PROXIES" in record.getMessage()


@pytest.mark.parametrize(
    ("peer", "headers", "address"),
    [
        ("10.0.0.2", {}, "http://gateway:8000"),
        ("10.0.0.2", {"proto": "https"}, "https://gateway:8000"),
        (
            "10.0.0.2",
            {"proto": "HTTPS", "host": "ai.example.com", "prefix": "/flows/"},
            "https://ai.example.com/flows",
        ),
        ("10.0.0.2", {"host": "made.up, ai.example.com"}, "http://ai.example.com"),
        ("203.0.113.9", {"proto": "https", "host": "evil.example", "prefix": "/x"}, "http://gateway:8000"),
        ("10.0.0.2", {"proto": "javascript"}, ""),
        ("10.0.0.2", {"host": "a(b)<c>"}, ""),
        ("10.0.0.2", {"host": "x" * 300}, ""),
        ("10.0.0.2", {"prefix": "//evil.example"}, ""),
        ("10.0.0.2", {"prefix": "/a/../b)"}, ""),
        ("10.0.0.2", {"prefix": "/a" * 20}, ""),
    ],
)
def test_links_begin_with_the_address_that_the_client_used(
    peer: str, headers: dict[str, str], address: str
) -> None:
    assert TrustedProxies(INNER).address(environ(peer, **headers)) == address


def test_an_address_without_a_host_is_none_to_link_to() -> None:
    assert TrustedProxies(INNER).address({"wsgi.url_scheme": "http"}) == ""
