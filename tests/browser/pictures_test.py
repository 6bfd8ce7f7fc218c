"""Pictures of the page: those of the readme and the documentation, and one of each section to look at."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browser.browsing import SECTIONS, ask, chromium, opened
from tests.support.running_proxy import RunningProxy

SHOTS = Path(os.environ.get("PAGE_SHOTS", ""))
"""A folder for the pictures; those in `docs/images` are taken anew by `make pictures`."""

pytestmark = [pytest.mark.browser, pytest.mark.skipif(not SHOTS.name, reason="PAGE_SHOTS names no folder")]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium, for all tests of this file."""
    with chromium() as started:
        yield started


def test_the_documentation_gets_its_pictures(browser: Any, proxy: RunningProxy) -> None:
    with opened(browser, proxy, "/#/try") as page:
        page.set_viewport_size({"width": 1200, "height": 860})
        ask(page, "demo-agent", "What is 2+3?")
        ask(page, "demo-sources", "What is Flowise?")
        page.screenshot(path=SHOTS / "page.png")
        page.set_viewport_size({"width": 1000, "height": 620})
        for section, name in (("status", "status.png"), ("connect/librechat", "connect.png")):
            page.goto(page.url.partition("#")[0] + f"#/{section}")
            page.locator(f"main[data-section={section.partition('/')[0]}] h1").wait_for()
            page.wait_for_timeout(300)
            page.screenshot(path=SHOTS / name)


@pytest.mark.parametrize(("theme", "width"), [("light", 1200), ("dark", 1200), ("light", 360)])
def test_each_section_can_be_looked_at(browser: Any, proxy: RunningProxy, theme: str, width: int) -> None:
    folder = SHOTS / "build"
    folder.mkdir(exist_ok=True)
    with opened(browser, proxy, "/#/live", theme=theme, width=width) as page:
        page.set_viewport_size({"width": width, "height": 860})
        for section in SECTIONS:
            page.goto(page.url.partition("#")[0] + f"#/{section}")
            page.locator(f"main[data-section={section}] h1").wait_for()
            page.wait_for_timeout(4000 if section == "live" else 300)
            page.screenshot(path=folder / f"{section}-{theme}-{width}.png")
