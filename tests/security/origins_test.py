"""S11: web pages of others get nothing from a server without keys, and no credentials from any."""

from __future__ import annotations

import pytest
import requests

from tests.support.demo_server import DemoServer
from tests.support.hostile import raw
from tests.support.openai_check import valid
from tests.support.running_proxy import RunningProxy


def test_without_keys_pages_of_other_origins_run_nothing(proxy: RunningProxy, demo: DemoServer) -> None:
    demo.clear()
    body = '{"model":"demo-assistant","messages":[{"role":"user","content":"x"}]}'
    for origin in (
        "https://evil.example",
        "null",
        "http://localhost.evil.example",
        "http://127.0.0.1.evil.example",
    ):
        headers = {"Origin": origin, "Content-Type": "text/plain"}
        answer = requests.post(f"{proxy.url}/v1/chat/completions", data=body, headers=headers, timeout=5)
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "origin_not_allowed")
        assert "Access-Control-Allow-Origin" not in answer.headers
    assert demo.records() == []
    for origin in ("http://localhost:3080", "http://127.0.0.1", "http://[::1]:5173"):
        headers = {"Origin": origin, "Content-Type": "text/plain"}
        answer = requests.post(f"{proxy.url}/v1/chat/completions", data=body, headers=headers, timeout=5)
        assert (answer.status_code, answer.headers["Access-Control-Allow-Origin"]) == (200, origin)


REBOUND = b"%b %b HTTP/1.1\r\nHost: evil.com:8000\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


@pytest.mark.parametrize("path", ["/v1/models", "/ready", "/health", "/nothing", "/v1/flowise/files/x"])
@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS"])
def test_without_keys_a_page_whose_name_leads_here_gets_nothing(
    proxy: RunningProxy, method: str, path: str
) -> None:
    head, _, body = raw(proxy, REBOUND % (method.encode(), path.encode())).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 403 ")
    valid("error", body)
    assert b"host_not_allowed" in body


def test_with_keys_any_name_is_answered(keyed: RunningProxy) -> None:
    assert raw(keyed, REBOUND % (b"GET", b"/v1/models")).startswith(b"HTTP/1.1 401 ")
    assert raw(keyed, REBOUND % (b"GET", b"/health")).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("server", ["proxy", "keyed"])
def test_a_request_needs_a_host_since_http_1_1(server: str, request: pytest.FixtureRequest) -> None:
    running = request.getfixturevalue(server)
    head, _, body = raw(running, b"GET /health HTTP/1.1\r\nConnection: close\r\n\r\n").partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    valid("error", body)
    assert b"Host" in body
    assert raw(running, b"GET /health HTTP/1.0\r\n\r\n").partition(b" ")[2].startswith(b"200 ")


def test_a_desktop_program_gets_in_where_a_web_page_does_not(proxy: RunningProxy) -> None:
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Private-Network": "true"}
    for origin in ("tauri://localhost", "app://obsidian.md"):
        answer = requests.options(
            f"{proxy.url}/v1/chat/completions", headers={"Origin": origin, **asked}, timeout=5
        )
        assert answer.headers["Access-Control-Allow-Origin"] == origin
        assert answer.headers["Access-Control-Allow-Private-Network"] == "true"
        assert requests.get(f"{proxy.url}/v1/models", headers={"Origin": origin}, timeout=5).ok
    for origin in ("chrome-extension://abc", "null"):
        refused = requests.options(
            f"{proxy.url}/v1/chat/completions", headers={"Origin": origin, **asked}, timeout=5
        )
        assert not {name for name in refused.headers if name.startswith("Access-Control-")}


def test_a_preflight_needs_no_key_and_names_the_headers(keyed: RunningProxy) -> None:
    headers = {
        "Origin": "https://chat.example.com",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type,x-stainless-lang",
    }
    answer = requests.options(f"{keyed.url}/v1/chat/completions", headers=headers, timeout=5)
    assert answer.status_code == 204
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    assert answer.headers["Access-Control-Allow-Headers"] == headers["Access-Control-Request-Headers"]
    assert "Access-Control-Allow-Credentials" not in answer.headers
    refused = requests.get(
        f"{keyed.url}/v1/models", headers={"Origin": "https://chat.example.com"}, timeout=5
    )
    assert (refused.status_code, refused.headers["Access-Control-Allow-Origin"]) == (401, "*")
