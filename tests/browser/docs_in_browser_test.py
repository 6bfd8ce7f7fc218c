"""`/docs` in Chromium: Swagger UI shows the whole description, and tries it on this server alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browser.browsing import chromium, opened
from tests.support.demo_server import DemoServer
from tests.support.running_proxy import RunningProxy

pytestmark = pytest.mark.browser

KEY = "canary-key-of-the-docs-page"


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
