"""Pictures of Flowise's own switches, for the documentation."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browser.browsing import chromium
from tests.live.flowise_bootstrap import LOGIN
from tests.live.real_flowise import RealFlowise

SHOTS = Path(os.environ.get("PAGE_SHOTS", ""))
pytestmark = [pytest.mark.live, pytest.mark.skipif(not SHOTS.name, reason="PAGE_SHOTS names no folder")]


@pytest.fixture
def editor(flowise: RealFlowise) -> Iterator[Any]:
    """Flowise's editor, for whoever is logged in."""
    with chromium() as browser:
        page = browser.new_context(viewport={"width": 1000, "height": 620}, color_scheme="light").new_page()
        page.set_default_timeout(60_000)
        page.goto(f"{flowise.root}/signin")
        page.locator("input").first.fill(LOGIN["email"])
        page.locator("input[type=password]").fill(LOGIN["password"])
        page.get_by_role("button", name="Login").first.click()
        page.wait_for_url(lambda address: "signin" not in address)
        yield page


@pytest.mark.timeout(300)
def test_where_keys_are_made_and_inputs_are_opened(flowise: RealFlowise, editor: Any) -> None:
    editor.goto(f"{flowise.root}/apikey")
    editor.get_by_role("button", name="Create Key").wait_for()
    for close in editor.get_by_role("button", name="close").all():
        close.click()
    editor.wait_for_timeout(1000)
    editor.screenshot(path=SHOTS / "flowise-keys.png")
    editor.goto(f"{flowise.root}/canvas/{flowise.flows['toolagent_override']}")
    editor.locator("[title=Settings]").first.click()
    editor.get_by_text("Configuration", exact=True).first.click()
    editor.get_by_text("Override Config", exact=True).click()
    editor.get_by_text("toolAgent_0").click()
    editor.get_by_role("dialog").get_by_role("row", name="systemMessage").scroll_into_view_if_needed()
    editor.wait_for_timeout(1500)
    editor.screenshot(path=SHOTS / "flowise-overrides.png")
