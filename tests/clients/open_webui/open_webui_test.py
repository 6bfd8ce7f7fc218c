"""Open WebUI, the whole application from PyPI: its chats in Chromium, its API for whole answers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.browser.browsing import chromium
from tests.clients import checks
from tests.clients.bench import Bench
from tests.clients.matrix import FLOWISE, Cell, Check, Client
from tests.clients.open_webui.application import SURFACES, Application
from tests.clients.open_webui.asker import PREFIXES, OpenWebUI
from tests.support.documents import PDF

pytestmark = pytest.mark.apps

OwnCheck = Callable[[Bench, Cell], None]
DECISION = "Shall I go on?\n\n(Waiting for your decision: Proceed / Reject)"
# By the names in the paths of its API, with what each is asked for beside the chat.
TASKS = {
    "title": {},
    "follow_up": {},
    "tags": {},
    "image_prompt": {"prompt": "A table"},
    "queries": {"type": "web_search"},
    "auto": {"type": "general", "prompt": "Book a tab"},
}
PDF_TEXT = "Pdf words here"


def in_chats(check: OwnCheck) -> OwnCheck:
    """The same in the browser alone."""
    return lambda bench, cell: check(bench, replace(cell, client=replace(cell.client, streams=(True,))))


def document(bench: Bench, cell: Cell) -> None:
    """A PDF, read by the application itself, reaches the flow as text."""
    turn = {"text": "When is it?", "document": {"name": "notes.pdf", "data": PDF}}
    bench.ask(cell.client, cell.surface, {"model": "demo-assistant", "stream": True, "turns": [turn]})
    question = bench.upstream.messages()[-1]
    assert PDF_TEXT in question
    assert "When is it?" in question


def approval(bench: Bench, cell: Cell) -> None:
    """The flow asks a person, who answers in words, or by one of the buttons that its choices become."""
    in_chats(checks.approval)(bench, cell)
    for choice, answer in (("Proceed", "You said yes"), ("Reject", "You said no")):
        turns = checks.said("Please book it", {"text": choice, "button": True})
        case = {"model": "demo-approval", "stream": True, "turns": turns}
        assert bench.ask(cell.client, cell.surface, case, runs=2)["text"].strip() == answer


CLIENT = Client(
    "Open WebUI",
    "open-webui",
    "open_webui",
    surfaces=SURFACES,
    missing={"retry": "it sends a request once"},
    unstreamed={"structured": "its API takes a schema, its chats do not"},
    own={
        "document": document,
        "approval": approval,
        "reasoning": in_chats(checks.reasoning),
        "sources": in_chats(checks.sources),
    },
    is_application=True,
)


# Not its tools: the scripted model behind the real Flowise gives no answer to the prompt that names all of them.
BEFORE_FLOWISE = [cell for cell in CLIENT.cells(FLOWISE) if not cell.reason and cell.feature != "tools"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """One for all."""
    with chromium() as started:
        yield started


@pytest.fixture(scope="module")
def open_webui(bench: Bench, browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenWebUI]:
    """The application in front of the gateway of the demo flows."""
    with started(bench, browser, tmp_path_factory.mktemp("open-webui")) as asker:
        yield asker


@pytest.fixture(scope="module")
def open_webui_before_flowise(
    flowise_bench: Bench, browser: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[OpenWebUI]:
    """Another one, in front of the gateway of a real Flowise."""
    with started(flowise_bench, browser, tmp_path_factory.mktemp("open-webui")) as asker:
        yield asker


@contextmanager
def started(bench: Bench, browser: Any, folder: Path) -> Iterator[OpenWebUI]:
    """The application in front of this bench's gateway, which asks it the cases of the table."""
    with Application(folder, bench.proxy.url) as application:
        asker = OpenWebUI(application, browser)
        bench.started(CLIENT, asker)
        yield asker


@pytest.mark.parametrize("cell", CLIENT.cells(), ids=str)
def test_open_webui(cell: Cell, check: Check, open_webui: OpenWebUI) -> None:
    check(cell)


@pytest.mark.parametrize("one", BEFORE_FLOWISE, ids=str)
def test_open_webui_before_a_real_flowise(
    one: Cell, flowise_bench: Bench, open_webui_before_flowise: OpenWebUI
) -> None:
    (CLIENT.own.get(one.feature) or checks.CHECKS[one.feature])(flowise_bench, one)


@pytest.mark.parametrize("surface", SURFACES)
def test_its_own_questions_run_no_flow(surface: str, bench: Bench, open_webui: OpenWebUI) -> None:
    model = PREFIXES[surface] + "demo-agent"
    messages = [
        {"role": "user", "content": "Book a table in Paris"},
        {"role": "assistant", "content": DECISION},
    ]
    count = bench.upstream.count_runs()
    found = {}
    for task, own in TASKS.items():
        body = {"model": model, "messages": messages, "chat_id": "none", **own}
        answer = open_webui.application.call("POST", f"/api/v1/tasks/{task}/completions", body)
        found[task] = json.loads(answer["choices"][0]["message"]["content"])
    assert count() == 0
    assert found == {
        "title": {"title": "Book a table in Paris"},
        "follow_up": {"follow_ups": ["Proceed", "Reject"]},
        "tags": {"tags": []},
        "image_prompt": {"prompt": "Book a table in Paris"},
        "queries": {"queries": []},
        "auto": {"text": ""},
    }


@pytest.mark.parametrize("surface", SURFACES)
def test_the_page_shows_thoughts_sources_and_choices(surface: str, open_webui: OpenWebUI) -> None:
    prefix = PREFIXES[surface]
    chat = open_webui.chat(f"{prefix}demo-agent")
    answer = chat.turn({"text": checks.QUESTION})
    assert chat.title() == "Use the calculator: 6*7"
    assert answer["content"] in chat.shown.inner_text()
    chat.shown.get_by_text("Thought", exact=surface == "responses").first.click()
    chat.shown.get_by_text("calculator: ").first.wait_for()

    chat = open_webui.chat(f"{prefix}demo-sources")
    chat.turn({"text": checks.QUESTION})
    chat.shown.get_by_label("Toggle 3 sources").click()
    for source in ("docs.flowiseai.com/", "docs.flowiseai.com/using-flowise/prediction", "rivers.txt"):
        chat.shown.get_by_text(source).first.wait_for()

    chat = open_webui.chat(f"{prefix}demo-approval")
    chat.turn({"text": "Please book it"})
    for choice in ("Proceed", "Reject"):
        chat.shown.get_by_label(f"Follow up: {choice}").wait_for()


@pytest.mark.parametrize("surface", SURFACES)
def test_a_chat_goes_on_after_it_was_stopped(surface: str, bench: Bench, open_webui: OpenWebUI) -> None:
    count = bench.upstream.count_runs()
    chat = open_webui.chat(PREFIXES[surface] + "demo-agent-errors")
    stopped = chat.turn({"text": "slow"}, stop_after=2)
    assert "error" not in stopped
    assert bench.upstream.is_aborted()
    assert chat.turn({"text": "Hello"})["content"]
    assert count() == 2


@pytest.mark.parametrize("surface", SURFACES)
def test_a_connection_is_verified(surface: str, bench: Bench, open_webui: OpenWebUI) -> None:
    config = {"api_type": "responses"} if surface == "responses" else {}
    asked = {"url": f"{bench.proxy.url}/v1", "key": "any", "config": config}
    listed = open_webui.application.call("POST", "/openai/verify", asked)
    assert "demo-agent" in [model["id"] for model in listed["data"]]
