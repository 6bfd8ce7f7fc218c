"""Each snippet of the section Connect is run, or read by what reads its language."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.browser.browsing import chromium, opened
from tests.support.running_proxy import RunningProxy

pytestmark = pytest.mark.browser

MODEL = "demo-assistant"
CLIENTS = (
    *("curl", "librechat", "librechat-azure", "open-webui", "openai-python", "openai-js", "azure-openai"),
    *("langchain", "llama-index", "ai-sdk", "n8n", "continue", "websocket"),
)
RUN = {
    "curl": ["sh", "{file}"],
    "openai-python": [sys.executable, "{file}"],
    "azure-openai": [sys.executable, "{file}"],
}


@pytest.fixture(scope="module")
def found(proxy: RunningProxy) -> Iterator[dict[str, tuple[str, str]]]:
    """The language and the text of each snippet, as somebody copies it."""
    with chromium() as browser, opened(browser, proxy, "/#/connect") as page:
        page.get_by_label("Model").select_option(MODEL)
        links = [link.get_attribute("href") for link in page.locator(".chips a").all()]
        snippets = {}
        for link in links:
            page.locator(f".chips a[href='{link}']").click()
            name = link.rpartition("/")[2]
            figure = page.locator(f"[data-snippet={name}]")
            figure.get_by_role("button").click()
            figure.get_by_text("Copied").wait_for()
            copied = page.evaluate("navigator.clipboard.readText()")
            assert copied.strip() == figure.locator("pre").inner_text().strip()
            snippets[name] = (str(figure.get_attribute("data-language")), copied)
        yield snippets


def test_there_is_one_for_each_client(found: dict[str, tuple[str, str]]) -> None:
    assert tuple(found) == CLIENTS


@pytest.mark.parametrize("client", CLIENTS)
def test_a_snippet_is_right_and_names_the_server_and_the_model(
    found: dict[str, tuple[str, str]], client: str, proxy: RunningProxy, tmp_path: Path
) -> None:
    language, text = found[client]
    port = proxy.url.rpartition(":")[2]
    assert f":{port}" in text
    assert MODEL in text or client == "open-webui"
    file = tmp_path / f"snippet.{'mjs' if language == 'javascript' else language}"
    file.write_text(text)
    parsed: Any = None
    if language == "yaml":
        parsed = yaml.safe_load(text)
    elif language == "json":
        parsed = json.loads(text)
    elif language == "python":
        compile(text, client, "exec")
    elif language == "javascript":
        node = shutil.which("node")
        if node is None:
            pytest.skip("no node on the PATH reads JavaScript")
        subprocess.run([node, "--check", file], check=True, timeout=60)
    if parsed is not None:
        assert isinstance(parsed, dict)
    if client in RUN:
        command = [part.format(file=file) for part in RUN[client]]
        answered = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        assert "demo" in answered.stdout
        assert "Hello" in answered.stdout


def test_librechats_files_name_what_it_reads(found: dict[str, tuple[str, str]]) -> None:
    [endpoint] = yaml.safe_load(found["librechat"][1])["endpoints"]["custom"]
    assert endpoint["baseURL"].endswith("/v1")
    assert endpoint["headers"] == {"X-Conversation-Id": "{{LIBRECHAT_BODY_CONVERSATIONID}}"}
    [group] = yaml.safe_load(found["librechat-azure"][1])["endpoints"]["azureOpenAI"]["groups"]
    assert group["baseURL"].endswith("/openai/deployments/${DEPLOYMENT_NAME}")
    assert group["models"] == {MODEL: {"deploymentName": MODEL, "version": "2024-10-21"}}
