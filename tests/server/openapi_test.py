"""`/openapi.json` and `/docs` of a running server: who may read them, and whether the server keeps to them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from flowise_gateway.page.page import DOCS_POLICY, SWAGGER, SWAGGER_FILES
from tests.support.demo_server import DemoServer
from tests.support.running_proxy import RunningProxy

KEY = "canary-key-of-the-description"
CLOSE = {"Connection": "close"}
PHASES = os.environ.get("OPENAPI_PHASES", "examples,fuzzing,stateful")
"""`make fuzz` adds the phase coverage, which sends some thousand requests."""


@pytest.fixture(scope="module")
def keyed(demo: DemoServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningProxy]:
    """A server that asks for a key."""
    folder = tmp_path_factory.mktemp("keyed")
    with RunningProxy(folder, FLOWISE_BASE_URL=demo.base_url, PROXY_API_KEYS=KEY) as own:
        yield own


def get(server: RunningProxy, path: str, **headers: str) -> requests.Response:
    return requests.get(server.url + path, headers=CLOSE | headers, timeout=10)


def test_the_description_is_public_and_names_nothing_of_the_flows(keyed: RunningProxy) -> None:
    answer = get(keyed, "/openapi.json")
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "application/json"
    described = answer.json()
    assert described["openapi"].startswith("3.")
    assert described["security"] == [{"bearer": []}, {"api-key": []}]
    assert get(keyed, "/openapi.json", **{"If-None-Match": answer.headers["ETag"]}).status_code == 304


def test_its_page_is_made_of_files_of_this_server_alone(keyed: RunningProxy) -> None:
    answer = get(keyed, "/docs")
    assert answer.status_code == 200
    assert answer.headers["Content-Security-Policy"] == DOCS_POLICY
    assert "unsafe" not in DOCS_POLICY
    assert {"default-src 'none'", "script-src 'self'", "style-src 'self'"} <= set(DOCS_POLICY.split("; "))
    for name in SWAGGER_FILES:
        assert get(keyed, f"/page/swagger-ui/{name}").content == (SWAGGER / name).read_bytes()
    assert get(keyed, "/page/swagger-ui/swagger-ui.js").status_code in (401, 404)


def test_without_the_page_there_is_the_description_but_not_its_page(demo: DemoServer, tmp_path: Path) -> None:
    with RunningProxy(tmp_path, FLOWISE_BASE_URL=demo.base_url, PROXY_PAGE="off") as own:
        assert get(own, "/openapi.json").status_code == 200
        for path in ("/docs", "/page/docs.js", f"/page/swagger-ui/{SWAGGER_FILES[0]}"):
            assert get(own, path).status_code == 404


@pytest.mark.timeout(900)
def test_the_server_keeps_to_the_description(keyed: RunningProxy, tmp_path: Path) -> None:
    command = [
        *(sys.executable, "-m", "schemathesis.cli", "run", f"{keyed.url}/openapi.json"),
        *("--header", f"Authorization: Bearer {KEY}", "--phases", PHASES, "--max-examples", "10"),
        # What a schema cannot say is refused too: data that is no base64, a reference to what is not stored.
        *("--generation-deterministic", "--exclude-checks", "positive_data_acceptance"),
        *("--warnings", "off", "--no-color", "--continue-on-failure"),
    ]
    ended = subprocess.run(command, check=False, capture_output=True, text=True, cwd=tmp_path, timeout=850)
    assert ended.returncode == 0, ended.stdout[-8000:] + ended.stderr[-2000:]
    assert re.search(r"Operations: +(\d\d) selected / \1 total", ended.stdout)
    assert re.search(r"\b[1-9]\d\d+ generated", ended.stdout)
