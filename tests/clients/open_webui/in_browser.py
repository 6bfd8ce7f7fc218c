"""A chat of Open WebUI in Chromium: what a user types, clicks and sees; what the application stored beside it."""

from __future__ import annotations

import time
from typing import Any

from tests.clients.bench import ANSWER_SECONDS, Json
from tests.clients.open_webui.application import Application

POLL_MILLISECONDS = 100
PAGE_SECONDS = 30
# A file that is still being read has a spinner, and the message would go without it.
FILES_ARE_READ = """() => {
  const entry = document.querySelector('#message-input-container').innerHTML;
  return entry.includes('Remove') && !/animate-spin|spinner/.test(entry);
}"""
# The texts that the last answer showed one after the other.
WATCH_PIECES = """() => {
  window.pieces = new Set();
  const look = () => {
    const shown = [...document.querySelectorAll('.chat-assistant')].at(-1)?.innerText.trim();
    if (shown) window.pieces.add(shown);
  };
  new MutationObserver(look).observe(document.body, { subtree: true, childList: true, characterData: true });
}"""


class Chat:
    """One chat, from its first message on."""

    def __init__(self, page: Any, application: Application, model: str) -> None:
        self.page = page
        self._application = application
        self._texts: list[str] = []
        page.goto(f"{application.url}/?models={model}")
        page.get_by_label(f"Selected model: {application.name_of(model)}", exact=True).wait_for()
        page.evaluate(WATCH_PIECES)

    def turn(self, asked: Json, stop_after: int | None = None) -> Json:
        """Says one thing, or another one in the place of an earlier one, and waits for the answer."""
        known = self._stored()["messages"] if self._texts else {}
        self.page.evaluate("() => window.pieces.clear()")
        kept = asked.get("keep", len(self._texts))
        if kept < len(self._texts):
            self._say_instead(kept, asked["text"])
        elif asked.get("button"):
            self.shown.get_by_label(f"Follow up: {asked['text']}").click()
        else:
            self._say(asked)
        self._texts[kept:] = [asked["text"]]
        self.page.wait_for_url("**/c/*")
        if stop_after is not None:
            self.page.wait_for_function("count => window.pieces.size >= count", arg=stop_after)
            self.page.get_by_label("Stop", exact=True).click()
        message = self._answer(set(known))
        return {**message, "pieces": self.page.evaluate("() => window.pieces.size")}

    @property
    def shown(self) -> Any:
        """The last answer in the page."""
        return self.page.locator(".message-listitem").last

    def title(self) -> str:
        """The chat's title."""
        return str(self._application.call("GET", f"/api/v1/chats/{self._id}")["title"])

    @property
    def _id(self) -> str:
        return str(self.page.url.rpartition("/c/")[2])

    def _say(self, asked: Json) -> None:
        files = [asked[kind] for kind in ("image", "document") if kind in asked]
        if files:
            self.page.locator("input[type=file]").first.set_input_files(files)
            self.page.wait_for_function(FILES_ARE_READ)
        entry = self.page.locator("#chat-input")
        entry.fill(asked["text"])
        entry.press("Enter")

    def _say_instead(self, place: int, text: str) -> None:
        if text == self._texts[place]:
            self.shown.get_by_label("Regenerate").click()
            self.page.get_by_text("Try Again", exact=True).click()
            return
        message = self.page.locator(".user-message").nth(place)
        message.hover()
        message.get_by_label("Edit").click()
        message.locator("textarea").fill(text)
        message.locator("#confirm-edit-message-button").click()

    def _answer(self, known: set[str]) -> Json:
        """The stored answer, once it and the application's own questions about it (title, tags) are done."""
        deadline = time.monotonic() + ANSWER_SECONDS
        while time.monotonic() < deadline:
            history = self._stored()
            message = history["messages"].get(history["currentId"], {})
            is_new = message.get("role") == "assistant" and message["id"] not in known
            if is_new and message.get("done") and not self._tasks():
                return dict(message)
            self.page.wait_for_timeout(POLL_MILLISECONDS)
        raise AssertionError(f"the chat got no answer: {self.page.locator('body').inner_text()[-2000:]}")

    def _stored(self) -> Json:
        return dict(self._application.call("GET", f"/api/v1/chats/{self._id}")["chat"]["history"])

    def _tasks(self) -> list[str]:
        return list(self._application.call("GET", f"/api/tasks/chat/{self._id}")["task_ids"])
