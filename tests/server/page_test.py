"""The page at `/` over a real socket: what is served, under which headers, and what is not."""

from __future__ import annotations

import hashlib
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests

from flowise_gateway import __version__
from flowise_gateway.page.page import DOCS, DOCS_POLICY, POLICY, STATIC
from tests.support.demo_server import DemoServer
from tests.support.running_proxy import RunningProxy

CLOSE = {"Connection": "close"}
NAMES = sorted(path.relative_to(STATIC).as_posix() for path in STATIC.rglob("*") if path.is_file())
TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "mjs": "text/javascript; charset=utf-8",
    "json": "application/json",
    "svg": "image/svg+xml",
    "txt": "text/plain; charset=utf-8",
}


@pytest.fixture(scope="module")
def keyed(demo: DemoServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningProxy]:
    """A server that asks for a key."""
    folder = tmp_path_factory.mktemp("keyed")
    with RunningProxy(folder, FLOWISE_BASE_URL=demo.base_url, PROXY_API_KEYS="canary-key-of-the-page") as own:
        yield own


def get(server: RunningProxy, path: str, **headers: str) -> requests.Response:
    return requests.get(server.url + path, headers=CLOSE | headers, timeout=10)


def get_raw(server: RunningProxy, path: str) -> bytes:
    """The answer to a path that no HTTP library would send as it is."""
    parts = urlsplit(server.url)
    with socket.create_connection((parts.hostname or "", parts.port or 0), timeout=10) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
    return answer


def test_the_page_is_served_without_a_key_under_a_policy_that_runs_nothing_else(keyed: RunningProxy) -> None:
    answer = get(keyed, "/")
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == TYPES["html"]
    assert answer.headers["Content-Security-Policy"] == POLICY
    assert "unsafe" not in POLICY
    assert {"default-src 'none'", "script-src 'self'", "style-src 'self'", "connect-src 'self'"} <= set(
        POLICY.split("; ")
    )
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Referrer-Policy"] == "no-referrer"
    assert answer.headers["X-Frame-Options"] == "DENY"
    assert answer.content == (STATIC / "index.html").read_bytes()


@pytest.mark.parametrize("name", NAMES)
def test_every_file_is_served_as_it_is_with_its_type_and_its_version(keyed: RunningProxy, name: str) -> None:
    answer = get(keyed, f"/page/{name}")
    assert answer.status_code == 200
    assert answer.content == (STATIC / name).read_bytes()
    assert answer.headers["Content-Type"] == TYPES[name.rpartition(".")[2]]
    assert answer.headers["Content-Security-Policy"] == (DOCS_POLICY if name == DOCS else POLICY)
    known = get(keyed, f"/page/{name}", **{"If-None-Match": answer.headers["ETag"]})
    assert (known.status_code, known.content) == (304, b"")
    assert known.headers["ETag"] == answer.headers["ETag"]
    changed = get(keyed, f"/page/{name}", **{"If-None-Match": '"another"'})
    assert changed.status_code == 200


def test_head_tells_the_same_without_a_body(keyed: RunningProxy) -> None:
    answer = requests.head(keyed.url, headers=CLOSE, timeout=10)
    assert answer.status_code == 200
    assert int(answer.headers["Content-Length"]) == (STATIC / "index.html").stat().st_size


@pytest.mark.parametrize(
    "path",
    [
        "/page/",
        "/page/nothing.js",
        "/page/../page.py",
        "/page/%2e%2e/page.py",
        "/page/..%2fpage.py",
        "/page/vendor/../../page.py",
        "/page/..%5cpage.py",
        "/page/%2fetc/passwd",
        "/page//etc/passwd",
        "/page/page.py",
        "/page/index.html%00.css",
        "/page/vendor",
    ],
)
def test_no_other_file_is_ever_sent(proxy: RunningProxy, keyed: RunningProxy, path: str) -> None:
    assert get_raw(proxy, path).partition(b"\r\n")[0].split()[1] == b"404"
    # Whoever has no key is not told what there is.
    answer = get_raw(keyed, path)
    assert answer.partition(b"\r\n")[0].split()[1] in (b"401", b"404")
    assert b"import" not in answer


def test_nothing_is_inline_and_nothing_is_foreign() -> None:
    for name in ("index.html", DOCS):
        page = (STATIC / name).read_text()
        assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son\w+=", page)
        sources = re.findall(r'(?:src|href)="([^"]*)"', page)
        assert all(source.startswith(("page/", "#", "openapi.json")) for source in sources)
    for path in STATIC.glob("*.js"):
        assert not re.search(
            r"\binnerHTML|insertAdjacentHTML|\beval\(|new Function|document\.write", path.read_text()
        )


def test_the_vendored_libraries_are_those_of_the_list_each_with_its_licence() -> None:
    listed = {}
    for line in (STATIC.parent / "vendor.sha256").read_text().splitlines():
        digest, name = line.split()
        listed[name] = digest
    found = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (STATIC / "vendor").iterdir()
    }
    assert found == listed
    assert {name for name in found if name.endswith(".LICENSE.txt")} == {
        "dompurify.LICENSE.txt",
        "marked.LICENSE.txt",
    }


def test_what_the_page_asks_of_a_server_with_keys_tells_nothing_without_one(keyed: RunningProxy) -> None:
    assert get(keyed, "/ready").json() == {"status": "ready"}
    known = get(keyed, "/ready", Authorization="Bearer canary-key-of-the-page").json()
    assert known["version"] == __version__
    assert get(keyed, "/v1/models").status_code == 401
    assert get(keyed, "/metrics").status_code == 401


def test_the_page_can_be_turned_off(demo: DemoServer, tmp_path: Path) -> None:
    with RunningProxy(tmp_path, FLOWISE_BASE_URL=demo.base_url, PROXY_PAGE="off") as own:
        for path in ("/", "/page/app.js"):
            answer = get(own, path)
            assert answer.status_code == 404
            assert answer.json()["error"]["message"] == f"Invalid URL (GET {path})."


def test_the_page_is_neither_counted_nor_logged_file_by_file(demo: DemoServer, tmp_path: Path) -> None:
    with RunningProxy(tmp_path, FLOWISE_BASE_URL=demo.base_url) as own:
        assert get(own, "/").ok
        assert get(own, "/page/app.js").ok
        counted = get(own, "/metrics").text
        assert not [line for line in counted.splitlines() if line.startswith("flowise_proxy_requests_total{")]
        assert "/page/" not in own.log()


def test_the_page_may_call_the_server_that_served_it_also_where_nobody_needs_a_key(
    demo: DemoServer, tmp_path: Path
) -> None:
    settings = {"HOST": "0.0.0.0", "PROXY_ALLOW_ANONYMOUS": "true", "FLOWISE_BASE_URL": demo.base_url}
    body = {"model": "demo-assistant", "messages": [{"role": "user", "content": "Hello"}]}
    with RunningProxy(tmp_path, **settings) as own:
        for origin, status in (("http://10.1.2.3:8000", 200), ("http://evil.example:8000", 403)):
            headers = CLOSE | {"Host": origin.removeprefix("http://"), "Origin": origin}
            answer = requests.post(f"{own.url}/v1/chat/completions", json=body, headers=headers, timeout=30)
            assert answer.status_code == status


def test_every_module_is_fetched_at_once() -> None:
    preloaded = re.findall(r'rel="modulepreload" href="page/([^"]*)"', (STATIC / "index.html").read_text())
    own = [name for name in NAMES if name.endswith(("js", "mjs")) and name != "docs.js"]
    assert sorted([*preloaded, "app.js"]) == own
