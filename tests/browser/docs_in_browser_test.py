"""`/docs` in Chromium: Swagger UI shows the whole description, and tries it on this server alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browser.browsing import chromium, findings, opened
from tests.support.demo_server import DemoServer
from tests.support.running_proxy import RunningProxy

pytestmark = pytest.mark.browser

KEY = "canary-key-of-the-docs-page"
SWAGGER_STRUCTURE = {
    "heading-order",
    "landmark-unique",
    "nested-interactive",
    "region",
    "scrollable-region-focusable",
    "select-name",
}
"""The rules of axe-core that Swagger UI's own elements break; its colours are ours (docs.css)."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium, for all tests of this file."""
    with chromium() as started:
        yield started


def test_every_operation_is_shown_and_one_is_tried_with_the_key_of_the_tab(
    browser: Any, demo: DemoServer, tmp_path: Path
) -> None:
    with (
        RunningProxy(tmp_path, FLOWISE_BASE_URL=demo.base_url, PROXY_API_KEYS=KEY) as own,
        opened(browser, own, "/#/keys") as page,
    ):
        page.get_by_label("Client key").fill(KEY)
        page.get_by_role("button", name="Use this key").click()
        page.get_by_role("main").get_by_text("Right: ").wait_for()
        page.goto(page.url.partition("#")[0] + "docs")
        page.locator(".opblock").first.wait_for()
        described = page.evaluate("fetch('openapi.json').then((answer) => answer.json())")["paths"].values()
        operations = [name for item in described for name in item if name != "x-aliases"]
        assert page.locator(".opblock").count() == len(operations)
        chat = page.locator("#operations-Chat_completions-post_v1_chat_completions")
        chat.locator(".opblock-summary-control").click()
        chat.get_by_role("button", name="Try it out").click()
        chat.get_by_role("button", name="Execute").click()
        answered = chat.locator(".live-responses-table")
        answered.get_by_text("This is the demo assistant").wait_for()
        assert answered.locator(".response-col_status").last.inner_text().startswith("200")
        chat.get_by_role("tab", name="Schema").first.click()
        chat.get_by_text("ChatCompletionRequest").first.wait_for()


def test_the_colours_and_fields_pass_axe_with_operations_closed_and_open(
    browser: Any, demo: DemoServer, tmp_path: Path
) -> None:
    with (
        RunningProxy(tmp_path, FLOWISE_BASE_URL=demo.base_url) as own,
        opened(browser, own, "/docs") as page,
    ):
        page.locator(".opblock").first.wait_for()
        page.get_by_label("Server").wait_for()
        assert [found for found in findings(page) if not _is_structure(found)] == []
        for method in ("get", "post", "delete"):
            page.locator(f".opblock-{method} .opblock-summary-control").first.click()
        page.get_by_role("button", name="Try it out").first.click()
        page.get_by_role("tab", name="Schema").first.click()
        page.get_by_text("ChatCompletionRequest").first.wait_for()
        assert [found for found in findings(page) if not _is_structure(found)] == []


def _is_structure(finding: str) -> bool:
    """Whether it is about the elements that Swagger UI makes, which no style sheet can change."""
    return finding.split()[1].rstrip(":") in SWAGGER_STRUCTURE
