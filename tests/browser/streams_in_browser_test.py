"""The page in front of a Flowise that says what the demo never does: a stream that pauses, hostile steps and sources."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browser.browsing import chromium, findings, opened, send
from tests.browser.page_in_browser_test import HOSTILE
from tests.support.running_proxy import RunningProxy
from tests.support.saying_flowise import FLOW, SayingFlowise, ending, event, token

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium, for all tests of this file."""
    with chromium() as started:
        yield started


@pytest.fixture
def flowise() -> Iterator[SayingFlowise]:
    """A Flowise that says what the test wants."""
    with SayingFlowise() as saying:
        yield saying


@pytest.fixture
def own(flowise: SayingFlowise, tmp_path: Path) -> Iterator[RunningProxy]:
    """A server with one model over it."""
    models = [{"id": "saying", "flow": FLOW}]
    (tmp_path / "proxy.yaml").write_text(json.dumps({"models": models, "discovery": {"enabled": False}}))
    with RunningProxy(tmp_path, FLOWISE_BASE_URL=flowise.base_url) as running:
        yield running


def test_the_first_words_are_shown_while_the_flow_still_writes(
    browser: Any, flowise: SayingFlowise, own: RunningProxy
) -> None:
    go_on = threading.Event()
    flowise.streams(token("The first words"), lambda: go_on.wait(30), token(" and the last."), ending())
    with opened(browser, own, "/#/try") as page:
        page.get_by_label("Message", exact=True).fill("Hello")
        page.get_by_label("Message", exact=True).press("Enter")
        writing = page.locator(".answer[aria-busy=true]")
        writing.get_by_text("The first words", exact=True).wait_for()
        assert flowise.is_streaming
        assert page.get_by_role("button", name="Stop").is_visible()
        go_on.set()
        page.get_by_text("The first words and the last.").wait_for()
        page.locator(".answer[aria-busy=false]").wait_for()


def test_hostile_steps_tools_sources_and_errors_execute_nothing(
    browser: Any, flowise: SayingFlowise, own: RunningProxy
) -> None:
    script = "javascript:document.title='hacked'"
    tool = {"tool": HOSTILE, "toolInput": {HOSTILE: HOSTILE}, "toolOutput": HOSTILE}
    sources = [
        {"pageContent": HOSTILE, "metadata": {"source": script, "title": HOSTILE}},
        {
            "pageContent": HOSTILE,
            "metadata": {"source": 'https://evil.example/"onerror="x', "fileName": HOSTILE},
        },
    ]
    prompts = json.dumps([HOSTILE[:100], script])
    flowise.streams(
        event("agentFlowEvent", "INPROGRESS"),
        event("nextAgentFlow", {"nodeId": "a_0", "nodeLabel": HOSTILE, "status": "INPROGRESS"}),
        event("thinking", HOSTILE),
        event("usedTools", [tool]),
        event("sourceDocuments", sources),
        token("Done."),
        event("metadata", {"chatId": "c", "sessionId": "c", "followUpPrompts": prompts}),
        event("agentFlowEvent", "FINISHED"),
        event("end", "[DONE]"),
    )
    with opened(browser, own, "/#/try", failures=True) as page:
        answer = send(page, "Go")
        for fold in answer.locator("summary").all():
            if not fold.locator("xpath=..").evaluate("fold => fold.open"):
                fold.click()
        assert "<img src=x onerror" in answer.locator("pre.value").inner_text()
        for tag in ("script", "iframe", "style", "form", "base", "img", "[style]", "[onerror]", "[onload]"):
            assert answer.locator(tag).count() == 0, tag
        for link in answer.locator("a").all():
            assert str(link.get_attribute("href")).startswith("https://")
            assert "noreferrer" in str(link.get_attribute("rel"))
        assert page.evaluate("document.documentElement.scrollWidth") <= 1200
        assert findings(page) == []
        flowise.streams(token("Half"), event("error", HOSTILE))
        failed = send(page, "Go on")
        assert failed.get_by_role("alert").locator("script, img, iframe").count() == 0
        assert page.title() == "Try it · Flowise gateway"
