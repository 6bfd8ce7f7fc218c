"""The page in Chromium: what a person sees and does in each section, in front of the demo Flowise."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from flowise_gateway import __version__
from tests.browser.browsing import SECTIONS, ask, chromium, findings, opened, send
from tests.support.demo_server import DemoServer
from tests.support.flow_rows import enabled, overridable
from tests.support.running_proxy import RunningProxy
from tests.support.saying_flowise import FLOW, SayingFlowise

pytestmark = pytest.mark.browser

KEY = "canary-key-of-the-browser"
PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium, for all tests of this file."""
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def keyed(demo: DemoServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningProxy]:
    """A server that asks for a key, and has one for two models alone."""
    folder = tmp_path_factory.mktemp("keyed")
    digest = hashlib.sha256(f"{KEY}-narrow".encode()).hexdigest()
    (folder / "proxy.yaml").write_text(
        f"keys: [{{name: narrow, sha256: {digest}, models: [demo-json, demo-agent]}}]\n"
    )
    with RunningProxy(folder, FLOWISE_BASE_URL=demo.base_url, PROXY_API_KEYS=KEY) as own:
        yield own


# ------------------------------------------------------------------------------------------------ status
def test_the_status_shows_flowise_the_store_and_the_models(
    browser: Any, demo: DemoServer, tmp_path: Path
) -> None:
    allowed = {"Agent": [enabled("systemMessage")], "OpenAI": [enabled("temperature")]}
    nodes = [{"data": {"id": f"{name}_0", "name": name, "label": name}} for name in allowed]
    drawing = json.dumps({"nodes": nodes, "edges": []})
    row = {"name": "open to overrides", "apiConfig": overridable(allowed), "flowData": drawing}
    flow = demo.control("POST", "/__demo/flows", row)["id"]
    try:
        with RunningProxy(tmp_path, FLOWISE_BASE_URL=demo.base_url) as own:
            _check_status(browser, own)
    finally:
        demo.control("DELETE", f"/__demo/flows/{flow}")


def _check_status(browser: Any, proxy: RunningProxy) -> None:
    with opened(browser, proxy) as page:
        page.get_by_role("rowheader", name="demo-assistant").wait_for()
        cards = page.locator(".cards").inner_text()
        assert "Version 3.1.4" in cards
        assert f"version {__version__} at http://localhost:" in cards
        assert "answered in" in cards
        assert "Working" in cards
        assert "In order" in cards
        row = page.locator("tr", has_text="demo-agent").first.inner_text()
        assert "Agentflow" in row
        open_row = page.locator("tr", has_text="open to overrides").first.inner_text()
        assert "systemMessage" in open_row
        assert "temperature" in open_row
        search = page.get_by_label("Search")
        search.fill("APPROVAL")
        assert page.locator(".models tbody tr").count() == 2
        search.fill("nothing like this")
        assert page.get_by_text("No model fits.").is_visible()
        search.fill("")
        page.get_by_role("link", name="Try demo-sources").click()
        assert page.get_by_label("Model").input_value() == "demo-sources"
        page.go_back()
        assert page.get_by_role("link", name="Connect demo-sources").is_visible()


def test_a_flowise_out_of_reach_and_a_broken_file_are_told(browser: Any, tmp_path: Path) -> None:
    (tmp_path / "proxy.yaml").write_text("models:\n  - {id: a, flow: 5518949f-3ebc-4082-af01-fa2a18623da6}\n")
    with RunningProxy(tmp_path, FLOWISE_BASE_URL="http://127.0.0.1:9/api/v1") as own:
        (tmp_path / "proxy.yaml").write_text("models:\n  - {id: a, flow: 5518949f}\n")
        with opened(browser, own, failures=True) as page:
            page.get_by_text("Not reached", exact=True).wait_for()
            for _ in range(20):
                if page.get_by_text("proxy.yaml:2").is_visible():
                    break
                page.wait_for_timeout(300)
                page.get_by_role("button", name="Ask again").click()
            assert "proxy.yaml:2: models[0].flow" in page.locator(".cards").inner_text()
            assert page.locator("#health").inner_text() == "Flowise not reached"


# ------------------------------------------------------------------------------------------------ try it
def test_an_answer_is_streamed_with_its_steps_tools_and_measures(browser: Any, proxy: RunningProxy) -> None:
    with opened(browser, proxy, "/#/try") as page:
        answer = ask(page, "demo-agent", "What is 2+3?")
        assert "The tool said 5." in answer.locator(".markdown").inner_text()
        reasoning = answer.locator("details.reasoning")
        assert not reasoning.evaluate("fold => fold.open")
        reasoning.locator("summary").click()
        assert "calculator" in reasoning.inner_text()
        answer.locator("summary", has_text="Tools (1)").click()
        assert "→ 5" in answer.locator("pre.value").inner_text()
        assert answer.locator("summary", has_text="Nodes (1)").is_visible()
        assert re.search(r"\d+ tokens in, \d+ out · .*s · first after", answer.locator(".meta").inner_text())
        assert page.locator("#announcer").inner_text() == "The answer is complete."
        assert "I remember 2 earlier messages" in send(page, "And now?").inner_text()


def test_the_request_is_shown_as_a_command_that_runs_and_as_raw_events(
    browser: Any, proxy: RunningProxy
) -> None:
    with opened(browser, proxy, "/#/try") as page:
        answer = ask(page, "demo-assistant", "It's `$HOME`")
        answer.get_by_role("button", name="Show the request").click()
        command, events = answer.locator("figure.code pre").all_inner_texts()
        assert "data: [DONE]" in events
        assert "x-request-id: req_" in events
        assert events.count('"object":"chat.completion.chunk"') > 5
        answered = subprocess.run(
            ["sh", "-c", command], capture_output=True, text=True, timeout=30, check=True
        )
        assert "data: [DONE]" in answered.stdout
        assert "It's `$HOME`" in json.loads(shlex.split(command)[-1])["messages"][0]["content"]


def test_an_answer_can_be_stopped_and_asked_again(browser: Any, proxy: RunningProxy) -> None:
    with opened(browser, proxy, "/#/try") as page:
        page.get_by_label("Model").select_option("demo-errors")
        page.get_by_label("Message", exact=True).fill("stall5")
        page.get_by_role("button", name="Send").click()
        page.get_by_role("button", name="Stop").click()
        page.get_by_text("Stopped here").wait_for()
        assert page.get_by_role("button", name="Send").is_visible()
        page.get_by_label("Model").select_option("demo-assistant")
        page.get_by_role("button", name="Regenerate").click()
        page.get_by_text("This is the demo assistant").wait_for()
        assert page.locator(".question").count() == page.locator(".answer").count() == 1


def test_an_earlier_message_can_be_edited_and_what_followed_is_gone(
    browser: Any, proxy: RunningProxy
) -> None:
    with opened(browser, proxy, "/#/try") as page:
        ask(page, "demo-assistant", "First")
        send(page, "Second")
        page.get_by_role("button", name="Edit").first.click()
        editor = page.get_by_label("Edit the message")
        editor.press("Escape")
        assert page.locator(".question").count() == 2
        page.get_by_role("button", name="Edit").first.click()
        editor.fill("Third")
        page.get_by_role("button", name="Send anew").click()
        page.get_by_text('You asked: "Third"').wait_for()
        assert page.locator(".question").count() == 1
        page.get_by_role("button", name="Show the request").wait_for()
        assert "I remember 0 earlier messages" in page.locator(".answer").inner_text()
        page.get_by_role("button", name="New chat").click()
        assert page.locator(".message").count() == 0


def test_sources_are_links_that_tell_nobody_where_they_come_from(browser: Any, proxy: RunningProxy) -> None:
    with opened(browser, proxy, "/#/try") as page:
        answer = ask(page, "demo-sources", "Of Flowise")
        source = answer.get_by_role("link", name="Introduction")
        assert source.get_attribute("href") == "https://docs.flowiseai.com/"
        assert source.get_attribute("target") == "_blank"
        assert "noreferrer" in source.get_attribute("rel")
        assert "rivers.txt, page 3" in answer.inner_text()


def test_images_and_files_of_a_flow_are_shown(browser: Any, proxy: RunningProxy) -> None:
    with opened(browser, proxy, "/#/try", failures=True) as page:
        answer = ask(page, "demo-files", "Draw")
        picture = answer.locator("img[alt='chart.png']")
        page.wait_for_timeout(300)
        assert picture.evaluate("image => image.naturalWidth") > 0
        # A download that only has an image's name is a link.
        assert answer.get_by_role("link", name="not really.png").first.is_visible()
        with page.expect_download() as downloaded:
            answer.get_by_role("link", name="report.pdf").first.click()
        assert downloaded.value.suggested_filename == "report.pdf"


def test_an_image_and_a_document_are_attached(browser: Any, proxy: RunningProxy, demo: DemoServer) -> None:
    demo.clear()
    with opened(browser, proxy, "/#/try") as page:
        page.get_by_label("Model").select_option("demo-agent")
        page.locator("input[type=file]").set_input_files(
            [
                {"name": "pixel.png", "mimeType": "image/png", "buffer": PIXEL},
                {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"The word is xyzzy."},
                {"name": "gone.txt", "mimeType": "text/plain", "buffer": b"no"},
            ]
        )
        page.get_by_role("button", name="Remove gone.txt").click()
        answer = send(page, "Look")
        assert "Look" in answer.inner_text()
        assert page.locator(".question .file").all_inner_texts()[1].startswith("notes.txt")
    [record] = demo.records()
    assert record["body"]["uploads"][0]["name"].endswith(".png")
    assert "The word is xyzzy." in record["body"]["question"]
    assert "gone" not in record["body"]["question"]


def test_a_recording_is_attached_and_what_was_heard_is_shown(
    browser: Any, proxy: RunningProxy, demo: DemoServer
) -> None:
    demo.clear()
    with opened(browser, proxy, "/#/try", failures=True) as page:
        page.get_by_label("Model").select_option("demo-agent")
        recording = {"name": "words.weba", "mimeType": "audio/webm;codecs=opus", "buffer": b"spoken" * 100}
        page.locator("input[type=file]").set_input_files(recording)
        answer = send(page, "")
        assert "Heard: The spoken words of audio-" in answer.inner_text()
        answer.get_by_role("button", name="Show the request").click()
        command = answer.locator("figure.code pre").first.inner_text()
        assert '"format": "webm"' in command
        assert "…" in command
        assert len(command) < 1000
        page.locator("input[type=file]").set_input_files({**recording, "mimeType": "audio/wav"})
        refused = send(page, "And this?").get_by_role("alert").inner_text()
        assert "Flowise does not transcribe 'wav' audio; send webm, mp4 or ogg." in refused
    [record] = demo.records()
    [upload] = record["body"]["uploads"]
    assert (upload["type"], upload["mime"]) == ("audio", "audio/webm")


@pytest.mark.parametrize(("choice", "said"), [("Proceed", "Proceed"), ("Reject", "Reject")])
def test_a_decision_is_a_button(browser: Any, proxy: RunningProxy, choice: str, said: str) -> None:
    with opened(browser, proxy, "/#/try") as page:
        first = ask(page, "demo-approval", "Delete it")
        first.get_by_role("group", name="Decision").get_by_role("button", name=choice).click()
        page.get_by_role("button", name="Show the request").nth(1).wait_for()
        assert page.locator(".question").nth(1).inner_text().endswith(said)
        assert page.locator(".answer").nth(1).locator(".choices").count() == 0
        assert first.get_by_role("button", name=choice).is_disabled()


def test_an_error_is_told_with_its_code(browser: Any, proxy: RunningProxy) -> None:
    with opened(browser, proxy, "/#/try", failures=True) as page:
        notice = ask(page, "demo-errors", "fail500").get_by_role("alert").inner_text()
        assert "The flow failed while it ran" in notice
        assert "flow_failed" in notice
        assert "HTTP 400" in notice
        assert "req_" in notice
        broken = send(page, "failmid")
        assert "flow_failed" in broken.get_by_role("alert").inner_text()
        assert "Reply to" in broken.locator(".markdown").inner_text()


def test_the_chat_can_be_used_by_keyboard_alone(browser: Any, proxy: RunningProxy) -> None:
    with opened(browser, proxy) as page:
        page.get_by_role("link", name="Try demo-agent", exact=True).wait_for()
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.textContent") == "Skip to content"
        for _ in range(3):
            page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        page.wait_for_function(
            "document.activeElement.id === 'message'"
        )  # the page moves there when it is shown
        page.keyboard.type("Hello")
        page.keyboard.press("Enter")
        page.get_by_role("button", name="Show the request").wait_for()
        page.wait_for_function("document.activeElement.id === 'message'")


# ------------------------------------------------------------------------------------------------ keys
def test_nothing_of_the_models_is_shown_without_a_right_key(browser: Any, keyed: RunningProxy) -> None:
    with opened(browser, keyed) as page:
        page.get_by_text("Key needed").wait_for()
        for section in SECTIONS:
            page.goto(page.url.partition("#")[0] + f"#/{section}")
            page.locator(f"main[data-section={section}] h1").wait_for()
            assert "demo-" not in page.content()
            assert "3.1.4" not in page.content()
        page.goto(page.url.partition("#")[0] + "#/keys")
        field = page.get_by_label("Client key")
        field.fill("a-wrong-key-of-some-length")
        page.get_by_role("button", name="Use this key").click()
        page.get_by_role("main").get_by_text("The server does not know this key.").wait_for()
        assert page.evaluate("sessionStorage.length") == 0
        field.fill(f"{KEY}-narrow")
        page.get_by_role("button", name="Use this key").click()
        page.get_by_role("main").get_by_text("Right: 2 models.").wait_for()
        assert field.input_value() == ""
        assert page.evaluate("Object.values(sessionStorage)") == [f"{KEY}-narrow"]
        assert KEY not in page.evaluate("JSON.stringify(localStorage) + document.cookie")
        page.goto(page.url.partition("#")[0] + "#/try")
        answer = ask(page, "demo-json", "Hello")
        answer.get_by_role("button", name="Show the request").click()
        assert KEY not in page.content()
        assert "Bearer $FLOWISE_GATEWAY_KEY" in answer.locator("figure.code pre").first.inner_text()
        page.reload()
        page.get_by_text("Flowise 3.1.4").wait_for()
        page.goto(page.url.partition("#")[0] + "#/keys")
        page.get_by_role("button", name="Forget the key").click()
        page.get_by_text("Key needed").wait_for()
        assert page.evaluate("sessionStorage.length") == 0
        page.goto(page.url.partition("#")[0] + "#/status")
        assert page.locator(".models").count() == 0


def test_a_key_of_flowise_is_asked_for_where_it_is_passed_through(browser: Any, tmp_path: Path) -> None:
    with DemoServer("--key", KEY) as keyed_flowise:
        settings = {"FLOWISE_BASE_URL": keyed_flowise.base_url, "FLOWISE_KEY_PASSTHROUGH": "true"}
        with RunningProxy(tmp_path, **settings) as own, opened(browser, own, failures=True) as page:
            page.get_by_text("Key needed").wait_for()
            assert "demo-" not in page.content()
            page.goto(page.url.partition("#")[0] + "#/keys")
            field = page.get_by_label("Client key")
            field.fill("a-key-that-flowise-refuses")
            page.get_by_role("button", name="Use this key").click()
            page.get_by_role("main").get_by_text("Flowise refuses this API key.").wait_for()
            assert page.evaluate("sessionStorage.length") == 0
            assert "demo-" not in page.content()
            field.fill(KEY)
            page.get_by_role("button", name="Use this key").click()
            page.get_by_role("main").get_by_text(re.compile(r"Right: \d\d models\.")).wait_for()
            assert page.evaluate("Object.values(sessionStorage)") == [KEY]
            page.goto(page.url.partition("#")[0] + "#/try")
            assert "Hello" in ask(page, "demo-assistant", "Hello").inner_text()
        assert keyed_flowise.records()[-1]["headers"]["authorization"] == f"Bearer {KEY}"


# ------------------------------------------------------------------------------------------------ live
def test_the_charts_show_what_was_served(browser: Any, demo: DemoServer, tmp_path: Path) -> None:
    with (
        RunningProxy(tmp_path, FLOWISE_BASE_URL=demo.base_url) as own,
        opened(browser, own, "/#/live", failures=True) as page,
    ):
        page.get_by_text("Since the start: ").wait_for()
        page.goto(page.url.partition("#")[0] + "#/try")
        ask(page, "demo-assistant", "Hello")
        ask(page, "demo-errors", "fail500")
        page.goto(page.url.partition("#")[0] + "#/live")
        page.locator("[data-chart=errors].bad").wait_for()
        for chart in ("requests", "tokens", "errors", "first-token", "first-token-95"):
            label = page.locator(f"[data-chart={chart}] svg").get_attribute("aria-label")
            assert re.search(r"peak [\d.]*[1-9]", label), label
            assert page.locator(f"[data-chart={chart}] svg .line").count() == 1
        assert "1 error," in page.get_by_text("Since the start: ").inner_text()


def test_metrics_that_are_off_are_told(browser: Any, demo: DemoServer, tmp_path: Path) -> None:
    with RunningProxy(tmp_path, FLOWISE_BASE_URL=demo.base_url, PROXY_METRICS="off") as own:
        with opened(browser, own, "/#/live", failures=True) as page:
            page.get_by_text("Metrics are off (PROXY_METRICS=off).").wait_for()


# ------------------------------------------------------------------------------------------------ everywhere
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_nobody_is_shut_out(browser: Any, proxy: RunningProxy, keyed: RunningProxy, theme: str) -> None:
    with opened(browser, proxy, "/#/try", theme=theme, failures=True) as page:
        ask(page, "demo-agent", "What is 2+3?").locator("summary").first.click()
        ask(page, "demo-sources", "Of Flowise").get_by_role("button", name="Show the request").click()
        ask(page, "demo-errors", "markdown")
        ask(page, "demo-errors", "fail500")
        ask(page, "demo-approval", "Go")
        assert findings(page) == []
        for section in ("status", "connect", "keys", "live"):
            page.goto(page.url.partition("#")[0] + f"#/{section}")
            page.locator(f"main[data-section={section}] h1").wait_for()
            page.wait_for_timeout(3500 if section == "live" else 100)
            assert findings(page) == [], section
    with opened(browser, keyed, "/#/keys", theme=theme) as page:
        page.get_by_text("Key needed").wait_for()
        assert findings(page) == []


@pytest.mark.parametrize("section", SECTIONS)
def test_a_narrow_screen_shows_everything(browser: Any, proxy: RunningProxy, section: str) -> None:
    with opened(browser, proxy, f"/#/{section}", width=360, failures=True) as page:
        page.get_by_text("Flowise 3.1.4").wait_for()
        if section == "try":
            ask(page, "demo-errors", "markdown").get_by_role("button", name="Show the request").click()
            ask(page, "demo-files", "w" * 200)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_the_theme_is_chosen_and_stays(browser: Any, proxy: RunningProxy) -> None:
    def ground(page: Any) -> str:
        return str(page.evaluate("getComputedStyle(document.body).backgroundColor"))

    with opened(browser, proxy) as page:
        light = ground(page)
        page.get_by_role("button", name="Theme: auto").click()
        assert ground(page) == light
        page.get_by_role("button", name="Theme: light").click()
        dark = ground(page)
        assert dark != light
        page.reload()
        assert ground(page) == dark


HOSTILE = (
    "<img src=x onerror=\"document.title='hacked'\"><script>document.title='hacked'</script>"
    "<svg onload=\"document.title='hacked'\"></svg><iframe srcdoc=\"<script>top.document.title='hacked'</script>\"></iframe>"
    '<a href="javascript:document.title=\'hacked\'">one</a> [two](javascript:document.title="hacked") '
    "![three](https://evil.example/pixel.png?secret) <img src=//evil.example/a.png alt=four> "
    "<style>body{display:none}</style><form action=https://evil.example><button>five</button></form>"
    '<div style="position:fixed;inset:0;background:url(https://evil.example/b.png)">six</div>'
    "[seven](data:text/html,<script>alert(1)</script>) <base href=https://evil.example/>"
    "![eight](http://evil.example/v1/flowise/files/x)"
)


def test_hostile_names_answers_and_files_execute_nothing(browser: Any, tmp_path: Path) -> None:
    model = {"id": "hostile", "flow": FLOW, "name": HOSTILE[:180], "description": HOSTILE}
    (tmp_path / "proxy.yaml").write_text(json.dumps({"models": [model], "discovery": {"enabled": False}}))
    with SayingFlowise() as flowise, RunningProxy(tmp_path, FLOWISE_BASE_URL=flowise.base_url) as own:
        flowise.says = HOSTILE
        with opened(browser, own, failures=True) as page:
            page.get_by_role("link", name="Try hostile").click()
            page.locator("input[type=file]").set_input_files(
                {"name": HOSTILE[:60].replace("/", "") + ".txt", "mimeType": "text/plain", "buffer": b"hello"}
            )
            answer = send(page, HOSTILE)
            answer.get_by_role("button", name="Show the request").click()
            text = answer.locator(".markdown").inner_text()
            assert all(
                word in text
                for word in ("<img src=x onerror", "two", "image: three", "alt=four", "six", "seven")
            )
            answer.get_by_text("two", exact=True).click()
            page.wait_for_timeout(300)
            for tag in ("script", "iframe", "svg", "style", "form", "base", "[style]", "[onerror]"):
                assert answer.locator(f".markdown {tag}").count() == 0, tag
            assert answer.locator(".markdown a[href^='javascript'], .markdown a[href^='data']").count() == 0
            page.goto(page.url.partition("#")[0] + "#/connect")
            page.locator("figure.code").wait_for()
            assert page.title() == "Connect · Flowise gateway"
