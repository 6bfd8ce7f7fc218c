"""S2, L4: bodies that are too large, too slow, broken or endless cost others nothing."""

from __future__ import annotations

import contextlib
import gc
import http.client
import inspect
import io
import re
import socket
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests
from werkzeug.test import EnvironBuilder, run_wsgi_app

from flowise_gateway.config.settings import Settings
from openai_compatible_server import create_app
from tests.support.hostile import CANARY, post, raw
from tests.support.openai_check import valid
from tests.support.running_proxy import RunningProxy


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
            assert raw(server, head + 3 * chunk).startswith(b"HTTP/1.1 413")
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
        answer = post(keyed, data=body)
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
        answer = raw(keyed, head.encode() + sent)
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
    answer = post(keyed, data=b"\x1f\x8b", headers={"Content-Encoding": "gzip"})
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


def test_a_body_with_bad_chunks_is_a_400_that_repeats_nothing(keyed: RunningProxy) -> None:
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\napi-key: {CANARY}\r\nTransfer-Encoding: chunked\r\n\r\n"
    answer = raw(keyed, head.encode() + b"SECRET-CHUNK\r\n")
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"SECRET" not in answer
    assert "SECRET" not in keyed.log()
    assert "Traceback" not in keyed.log()


def _chunked(body: bytes, trailers: bytes = b"") -> bytes:
    """A request whose body comes in chunks of a byte each."""
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body)
    return head + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n" + trailers + b"\r\n"


def test_a_body_in_tiny_chunks_is_read_up_to_a_number_of_them(proxy: RunningProxy) -> None:
    body = b'{"model":"demo-assistant","messages":[{"role":"user","content":"Hi"}]}'
    assert raw(proxy, _chunked(body + b" " * 65_000)).startswith(b"HTTP/1.1 200 ")
    head, _, told = raw(proxy, _chunked(body + b" " * 66_000)).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    valid("error", told)
    assert b"small chunks" in told
    assert raw(proxy, _chunked(body, b"X-A: b\r\n")).startswith(b"HTTP/1.1 200 ")
    assert raw(proxy, _chunked(body, b"X-A: %b\r\n" % (b"b" * 80_000))).startswith(b"HTTP/1.1 400 ")


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
