"""A headless Chromium for tests of the page: every page is watched for errors and for requests to elsewhere."""

from __future__ import annotations

import contextlib
import importlib
import importlib.resources
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from tests.support.running_proxy import RunningProxy

SECTIONS = ("status", "try", "connect", "keys", "live")


@dataclass
class Watched:
    """What a page has done: lines of its console that are no mere information, requests to other servers."""

    base: str
    console: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)

    def see_console(self, message: Any) -> None:
        """Note a line of the console."""
        if message.type in ("error", "warning"):
            self.console.append(message.text)

    def see_request(self, request: Any) -> None:
        """Note a request to another server."""
        address = urlsplit(request.url)
        if address.scheme not in ("data", "blob") and f"{address.scheme}://{address.netloc}" != self.base:
            self.foreign.append(request.url)


@contextlib.contextmanager
def chromium() -> Iterator[Any]:
    """A browser. Raises RuntimeError if there is none."""
    program = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if not program:
        raise RuntimeError("no chromium on the PATH, and CHROMIUM names none")
    # Not imported above: tests without a browser are collected where Playwright is not installed.
    with importlib.import_module("playwright.sync_api").sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


@contextlib.contextmanager
def opened(
    browser: Any,
    server: RunningProxy,
    path: str = "/",
    *,
    failures: bool = False,
    width: int = 1200,
    theme: str = "light",
) -> Iterator[Any]:
    """The page; at the end nothing may have gone wrong in it but, with `failures`, calls that the server refused."""
    base = f"http://localhost:{urlsplit(server.url).port}"
    context = browser.new_context(color_scheme=theme, viewport={"width": width, "height": 800})
    context.grant_permissions(["clipboard-read", "clipboard-write"], origin=base)
    page = context.new_page()
    page.set_default_timeout(15_000)
    watched = Watched(base)
    page.on("console", watched.see_console)
    page.on("pageerror", lambda error: watched.console.append(str(error)))
    page.on("request", watched.see_request)
    page.on("dialog", lambda dialog: watched.console.append(f"a dialog: {dialog.message}"))
    try:
        page.goto(base + path)
        yield page
        # Chromium itself logs each answer with the status of an error.
        expected = [
            line for line in watched.console if failures and line.startswith("Failed to load resource")
        ]
        assert watched.console == expected, watched.console
        assert watched.foreign == []
    finally:
        context.close()


def axe() -> str:
    """The source of axe-core."""
    return importlib.resources.files("axe_playwright_python").joinpath("axe.min.js").read_text()


def findings(page: Any) -> list[str]:
    """What axe-core finds in the page as it is now, however slight, with the elements."""
    page.evaluate(axe())
    found = page.evaluate("() => axe.run(document, {resultTypes: ['violations']})")
    return [
        f"{one['impact']} {one['id']}: {node['html'][:150]} {node.get('failureSummary', '')}"
        for one in found["violations"]
        for node in one["nodes"]
    ]


def ask(page: Any, model: str, text: str) -> Any:
    """Send a message to a model; gives the answer's element when the answer is complete."""
    page.get_by_label("Model").select_option(model)
    return send(page, text)


def send(page: Any, text: str) -> Any:
    """Send a message; gives the answer's element when the answer is complete."""
    before = page.locator(".answer").count()
    page.get_by_label("Message", exact=True).fill(text)
    page.get_by_label("Message", exact=True).press("Enter")
    answer = page.locator(".answer").nth(before)
    answer.get_by_role("button", name="Show the request").wait_for()
    return answer
