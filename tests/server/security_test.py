"""What a hostile caller can do to the server: nothing but what the API offers."""

from __future__ import annotations

import contextlib
import gc
import http.client
import inspect
import io
import random
import re
import socket
import string
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import pytest
import requests
from werkzeug.test import EnvironBuilder, run_wsgi_app

from flowise_gateway.config.settings import Settings
from openai_compatible_server import create_app
from tests.support.demo_server import DemoServer
from tests.support.openai_check import valid
from tests.support.processes import Server, clean_environment
from tests.support.running_proxy import PROJECT, RunningProxy

CANARY = "sk-canary-5d41402abc4b2a76b9719d911017c592"
HOSTILE = [
    *(
        "..",
        "../..",
        "../../api/v1/apikey",
        "%2e%2e",
        "%2e%2e%2fchatflows",
        "..%2f..",
        "a/../../b",
        "a?x=1",
        "a#b",
    ),
    *(
        "//evil.example",
        "http://evil.example/",
        "a@evil.example",
        "\x00",
        "a\r\nX-Evil: 1",
        "．．／",
        "é",
        "🙂",
        " ",
    ),
    *("5518949f-3ebc-4082-af01-fa2a18623da6/..", "5518949f-3ebc-4082-af01-fa2a18623da6?x", "x" * 5000),
]


def hostile_ids(count: int) -> list[str]:
    """The worst ids known, and random ones of their letters."""
    dice = random.Random(7)  # noqa: S311
    letters = string.printable + "．／%.é🙂\u2028"
    made = ["".join(dice.choices(letters, k=dice.randint(1, 60))) for _ in range(count - len(HOSTILE))]
    return HOSTILE + made


@pytest.fixture(scope="module")
def keyed(demo: DemoServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningProxy]:
    """A server with client keys and small limits."""
    settings = {
        "FLOWISE_BASE_URL": demo.base_url,
        "PROXY_API_KEYS": f"{CANARY}, second-key",
        "PROXY_MAX_BODY_BYTES": "20000",
        "PROXY_BODY_TIMEOUT": "0.7",
        "LOG_LEVEL": "debug",
    }
    with RunningProxy(tmp_path_factory.mktemp("keyed"), **settings) as server:
        yield server


def test_no_hostile_model_leaves_the_prediction_route(proxy: RunningProxy, demo: DemoServer) -> None:
    demo.clear()
    started = demo.stats()["runs_started"]
    with requests.Session() as session:
        for name in hostile_ids(1000):
            body = {"model": name, "messages": [{"role": "user", "content": "x"}]}
            answer = session.post(f"{proxy.url}/v1/chat/completions", json=body, timeout=10)
            assert answer.status_code in (400, 404), name
            assert answer.json()["error"]["code"] in ("model_not_found", None), name
    assert demo.records() == []
    assert demo.stats()["runs_started"] == started


def test_no_hostile_deployment_leaves_the_prediction_route(proxy: RunningProxy, demo: DemoServer) -> None:
    demo.clear()
    address = urlsplit(proxy.url)
    for name in hostile_ids(200):
        path = f"/openai/deployments/{quote(name, safe='')}/chat/completions"
        body = b'{"messages":[{"role":"user","content":"x"}]}'
        with socket.create_connection((address.hostname or "", address.port or 0)) as raw:
            raw.sendall(
                f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode()
                + body
            )
            head, _, body = raw.makefile("rb").read().partition(b"\r\n\r\n")
        assert head.split()[1] in (b"400", b"404", b"405", b"414"), name
        valid("error", body)
    assert demo.records() == []


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": f"Bearer {CANARY[:-1]}"},
        {"Authorization": "Bearer"},
        {"Authorization": f"Basic {CANARY}"},
        {"api-key": "wrong"},
        {"Authorization": "Bearer é".encode("latin-1").decode("latin-1")},
    ],
)
def test_a_wrong_key_is_one_401_everywhere(keyed: RunningProxy, headers: dict[str, str]) -> None:
    answers = [
        requests.get(f"{keyed.url}/v1/models", headers=headers, timeout=5),
        requests.get(f"{keyed.url}/nothing/here", headers=headers, timeout=5),
        requests.post(f"{keyed.url}/v1/chat/completions", data=b"{", headers=headers, timeout=5),
        requests.post(f"{keyed.url}/openai/deployments/x/completions", headers=headers, timeout=5),
        requests.put(f"{keyed.url}/v1/models", headers=headers, timeout=5),
    ]
    for answer in answers:
        valid("error", answer.content)
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")
        assert answer.content == answers[0].content
    assert requests.get(f"{keyed.url}/health", headers=headers, timeout=5).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": f"Bearer {CANARY}"},
        {"authorization": f"bearer  {CANARY}"},
        {"api-key": "second-key"},
        {"api-key": "second-key", "Authorization": "Bearer wrong"},
    ],
)
def test_a_right_key_in_either_header_is_let_in(keyed: RunningProxy, headers: dict[str, str]) -> None:
    assert requests.get(f"{keyed.url}/v1/models", headers=headers, timeout=5).status_code == 200


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
    head, _, body = _raw(proxy, REBOUND % (method.encode(), path.encode())).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 403 ")
    valid("error", body)
    assert b"host_not_allowed" in body


def test_with_keys_any_name_is_answered(keyed: RunningProxy) -> None:
    assert _raw(keyed, REBOUND % (b"GET", b"/v1/models")).startswith(b"HTTP/1.1 401 ")
    assert _raw(keyed, REBOUND % (b"GET", b"/health")).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("server", ["proxy", "keyed"])
def test_a_request_needs_a_host_since_http_1_1(server: str, request: pytest.FixtureRequest) -> None:
    running = request.getfixturevalue(server)
    head, _, body = _raw(running, b"GET /health HTTP/1.1\r\nConnection: close\r\n\r\n").partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    valid("error", body)
    assert b"Host" in body
    assert _raw(running, b"GET /health HTTP/1.0\r\n\r\n").partition(b" ")[2].startswith(b"200 ")


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


def _post(keyed: RunningProxy, **more: Any) -> requests.Response:
    headers = {"api-key": CANARY, **more.pop("headers", {})}
    return requests.post(f"{keyed.url}/v1/chat/completions", headers=headers, timeout=10, **more)


def test_refused_bodies_in_chunks_do_not_fill_the_memory(tmp_path: Path) -> None:
    chunk = b"%x\r\n%b\r\n" % (2**20, b"x" * 2**20)
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    own = {"FLOWISE_BASE_URL": "http://127.0.0.1:9", "PROXY_MAX_BODY_BYTES": "2000000"}

    with RunningProxy(tmp_path, **own) as server:
        worker = Path(f"/proc/{server.pid}/task/{server.pid}/children").read_text().split()[0]

        def resident_mib() -> float:
            status = Path(f"/proc/{worker}/status").read_text()
            return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024  # type: ignore[index]

        before = resident_mib()
        for _ in range(100):
            assert _raw(server, head + 3 * chunk).startswith(b"HTTP/1.1 413")
        assert resident_mib() - before < 50


def test_a_body_that_was_refused_is_let_go_at_once() -> None:
    """A garbage collection may be far away, and bodies are large."""
    settings = Settings(flowise_base_url="http://127.0.0.1:9/api/v1", proxy_max_body_bytes=2000)
    app = create_app(settings)
    body = io.BytesIO(b"x" * 5000)
    own = {"wsgi.input": body, "wsgi.input_terminated": True}
    environ = {**EnvironBuilder("/v1/chat/completions", method="POST").get_environ(), **own}
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        for _ in range(2):  # the first fills caches
            body.seek(0)
            app_iter, status, _ = run_wsgi_app(app, dict(environ))
            assert status.startswith("413")
            app_iter.close()  # type: ignore[attr-defined]
            del app_iter
            gc.garbage.clear()
            gc.collect()
        assert not [found for found in gc.garbage if inspect.isframe(found)]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


def test_a_body_over_the_limit_is_413_with_and_without_a_length(keyed: RunningProxy) -> None:
    for body in (b"x" * 30_000, (b"x" * 1000 for _ in range(30))):
        answer = _post(keyed, data=body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "request_too_large")
        valid("error", answer.content)


@pytest.mark.parametrize("ending", ["keep-alive", "close"])
@pytest.mark.parametrize("is_chunked", [False, True], ids=["with a length", "in chunks"])
def test_a_client_that_sends_all_before_it_reads_is_told_too(
    keyed: RunningProxy, is_chunked: bool, ending: str
) -> None:
    """A connection that is closed on unread data takes back what was answered."""
    for key, size, status in ((CANARY, 8_000_000, 413), ("wrong", 8_000_000, 401), ("wrong", 50_000, 401)):
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\napi-key: {key}\r\nConnection: {ending}\r\n"
        body = b"x" * size
        if is_chunked:
            sent = b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (size, body)
        else:
            sent = b"Content-Length: %d\r\n\r\n%b" % (size, body)
        answer = _raw(keyed, head.encode() + sent)
        assert answer.startswith(b"HTTP/1.1 %d" % status)
        head_of_answer, _, told = answer.partition(b"\r\n\r\n")
        valid("error", told)
        goes_on = ending == "keep-alive" and not is_chunked and size < 100_000
        assert (b"\r\nConnection: close" in head_of_answer) is not goes_on


def test_a_connection_that_was_refused_can_be_used_again(keyed: RunningProxy) -> None:
    with requests.Session() as session:
        for key, status in (("wrong", 401), (CANARY, 400), ("wrong", 401), (CANARY, 400)):
            answer = session.post(
                f"{keyed.url}/v1/chat/completions", data=b"[" + b" " * 15_000 + b"]", headers={"api-key": key}
            )
            assert answer.status_code == status
            assert "close" not in answer.headers.get("Connection", "")


def test_a_compressed_body_is_415(keyed: RunningProxy) -> None:
    answer = _post(keyed, data=b"\x1f\x8b", headers={"Content-Encoding": "gzip"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (415, "unsupported_content_encoding")


def test_a_body_that_does_not_arrive_is_408(keyed: RunningProxy) -> None:
    address = urlsplit(keyed.url)
    with socket.create_connection((address.hostname or "", address.port or 0), timeout=10) as raw:
        raw.sendall(
            f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\napi-key: {CANARY}\r\nContent-Length: 99\r\n\r\n{{".encode()
        )
        began = time.monotonic()
        answer = raw.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"PROXY_BODY_TIMEOUT" in answer
    assert time.monotonic() - began < 5


def _raw(server: RunningProxy, sent: bytes) -> bytes:
    address = urlsplit(server.url)
    with socket.create_connection((address.hostname or "", address.port or 0), timeout=10) as raw:
        raw.sendall(sent)
        return raw.makefile("rb").read()


def test_a_body_with_bad_chunks_is_a_400_that_repeats_nothing(keyed: RunningProxy) -> None:
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\napi-key: {CANARY}\r\nTransfer-Encoding: chunked\r\n\r\n"
    answer = _raw(keyed, head.encode() + b"SECRET-CHUNK\r\n")
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"SECRET" not in answer
    assert "SECRET" not in keyed.log()
    assert "Traceback" not in keyed.log()


def test_a_key_in_a_header_that_cannot_be_parsed_is_nowhere(keyed: RunningProxy) -> None:
    answer = _raw(
        keyed, b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nAuthorization Bearer sk-HEADER-CANARY\r\n\r\n"
    )
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b" 400 " in head
    assert b"x-request-id" in head
    valid("error", body)
    assert _raw(keyed, b"GET /v1/models?key=sk QUERY-CANARY HTTP/1.1\r\nHost: localhost\r\n\r\n")
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
    assert _raw(keyed, _padded(65_536)).startswith(b"HTTP/1.1 200 ")
    # What comes behind it, more than one read of it, does not count.
    body = b"Content-Length: 50000\r\n"
    assert _raw(keyed, _padded(60_000, body) + b"x" * 50_000).startswith(b"HTTP/1.1 200 ")
    for size in (65_537, 720_000):
        head, _, told = _raw(keyed, _padded(size) + b"x" * 1_000_000).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 431 ")
        valid("error", told)


def _chunked(body: bytes, trailers: bytes = b"") -> bytes:
    """A request whose body comes in chunks of a byte each."""
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body)
    return head + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n" + trailers + b"\r\n"


def test_a_body_in_tiny_chunks_is_read_up_to_a_number_of_them(proxy: RunningProxy) -> None:
    body = b'{"model":"demo-assistant","messages":[{"role":"user","content":"Hi"}]}'
    assert _raw(proxy, _chunked(body + b" " * 65_000)).startswith(b"HTTP/1.1 200 ")
    head, _, told = _raw(proxy, _chunked(body + b" " * 66_000)).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    valid("error", told)
    assert b"small chunks" in told
    assert _raw(proxy, _chunked(body, b"X-A: b\r\n")).startswith(b"HTTP/1.1 200 ")
    assert _raw(proxy, _chunked(body, b"X-A: %b\r\n" % (b"b" * 80_000))).startswith(b"HTTP/1.1 400 ")


def test_a_refused_caller_may_go_on_using_its_connection(keyed: RunningProxy) -> None:
    address = urlsplit(keyed.url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=10)
    for _ in range(3):
        connection.request("POST", "/v1/chat/completions", b"x" * 15_000)
        refused = connection.getresponse()
        assert (refused.status, bool(refused.read())) == (401, True)
        connection.request("GET", "/v1/models", headers={"api-key": CANARY})
        answer = connection.getresponse()
        assert (answer.status, bool(answer.read())) == (200, True)
    connection.close()


def test_an_endless_body_without_a_key_holds_nobody_up(keyed: RunningProxy) -> None:
    address = urlsplit(keyed.url)
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    with socket.create_connection((address.hostname or "", address.port or 0), timeout=10) as raw:
        raw.sendall(head)
        stop = time.monotonic() + 3
        with contextlib.suppress(OSError):
            while time.monotonic() < stop:
                raw.sendall(b"1\r\na\r\n" * 20_000)
    began = time.monotonic()
    assert requests.get(f"{keyed.url}/health", timeout=30).status_code == 200
    assert time.monotonic() - began < 2


def test_a_server_that_cannot_start_ends_instead_of_trying_for_ever(tmp_path: Path) -> None:
    (tmp_path / "tenacity.py").write_text("raise ImportError('broken')")
    command = [sys.executable, str(PROJECT / "openai_compatible_server.py")]
    settings = {"PYTHONPATH": str(tmp_path), "PORT": "0", "FLOWISE_BASE_URL": "http://127.0.0.1:9"}
    with Server("broken", command, clean_environment(tmp_path, **settings), tmp_path) as server:
        assert server.ended(20) != 0


def test_no_key_and_no_prompt_is_in_any_log_line(keyed: RunningProxy) -> None:
    prompt = "prompt-canary-73feffa4b7f6bb68e44cf984c85f6e88"
    for text in (prompt, f"{prompt} fail500", f"{prompt} reset"):
        for flow in ("demo-assistant", "demo-errors"):
            body = {"model": flow, "messages": [{"role": "user", "content": text}], "stream": True}
            _post(keyed, json=body)
    requests.get(
        f"{keyed.url}/v1/models/a%0d%0aevil%1b[31m", headers={"api-key": "wrong-key-canary"}, timeout=5
    )
    for path in (f"/v1/models/{CANARY}", f"/{CANARY}/v1/models", f"/v1/responses/{CANARY}/cancel"):
        for key in ("wrong-key-canary", "second-key"):
            requests.get(f"{keyed.url}{path}", headers={"api-key": key}, timeout=5)
    log = keyed.log()
    assert "demo-errors" in log
    for canary in (CANARY, prompt, "wrong-key-canary", "second-key"):
        assert canary not in log
    assert "\x1b" not in log


def _stopped_at_once(folder: Path, **settings: str) -> str:
    command = [sys.executable, str(PROJECT / "openai_compatible_server.py")]
    with Server("refused", command, clean_environment(folder, **settings), folder) as server:
        status = server.ended(15)
    assert status == 2
    return server.tail()


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"PORT": "eighty"}, "PORT='eighty' is not allowed: it must be a whole number from 0 to 65535"),
        ({"FLOWISE_BASE_URL": "flows.example.com"}, "FLOWISE_BASE_URL='flows.example.com' is not allowed"),
        ({"HOST": "0.0.0.0"}, "PROXY_API_KEYS"),
        ({"HOST": "no.such.host.invalid", "PROXY_API_KEYS": "k"}, "HOST='no.such.host.invalid'"),
        ({"FLOWISE_API_KEY": "secret key"}, "FLOWISE_API_KEY=(hidden) is not allowed"),
    ],
)
def test_a_wrong_setting_stops_the_start_with_one_line(
    tmp_path: Path, settings: dict[str, str], expected: str
) -> None:
    output = _stopped_at_once(tmp_path, **settings)
    assert len(output.splitlines()) == 1
    assert expected in output
    assert "secret" not in output


def test_a_taken_port_stops_the_start_with_one_line(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        output = _stopped_at_once(tmp_path, PORT=port)
    assert len(output.splitlines()) == 1
    assert f"PORT={port}" in output
