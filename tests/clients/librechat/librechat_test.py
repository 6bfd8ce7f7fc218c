"""LibreChat's own library, set up as LibreChat does: a run of its graph streams each answer, with a title beside."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.clients.bench import Bench, Driver, Json
from tests.clients.checks import FLOWS, QUESTION, said
from tests.clients.matrix import Cell, Check, Client
from tests.support.scripted_server import ScriptedServer, http

pytestmark = pytest.mark.clients

RECORDINGS = Path(__file__).resolve().parents[2] / "wire/librechat"
TURN = json.loads((RECORDINGS / "03-chat-turn1-params.json").read_text())["request"]
SURFACES = ("custom", "azure")
METHODS = ("completion", "structured", "functions")
CLIENT = Client(
    "LibreChat",
    "@librechat/agents",
    "librechat",
    surfaces=SURFACES,
    missing={
        "plain": "LibreChat streams every answer",
        "structured": "LibreChat asks for no structured output in a chat",
        "document": "LibreChat extracts a document's text itself and sends that",
        "sources": "LibreChat does not show `annotations`: it gets the sources as links below the text",
    },
    streams=(True,),
    user_agent=TURN["headers"]["user-agent"],
    meets_flowise=True,
)
# A turn and a title, each with its retries.
MAX_REQUESTS = 16


@pytest.mark.parametrize("cell", CLIENT.cells(), ids=str)
def test_librechat(cell: Cell, check: Check) -> None:
    check(cell)


@pytest.mark.parametrize("surface", SURFACES)
@pytest.mark.parametrize("method", METHODS)
def test_a_conversation_gets_its_title_without_a_run(surface: str, method: str, bench: Bench) -> None:
    assert_titles(bench, surface, method)


def assert_titles(bench: Bench, surface: str, method: str) -> None:
    """With each kind of flow the title is there, and the conversation's own run is the only one."""
    for model in FLOWS:
        case = {"model": model, "stream": True, "titleMethod": method, "turns": said(QUESTION)}
        assert bench.ask(CLIENT, surface, case)["title"] == QUESTION, model


@pytest.mark.parametrize("surface", SURFACES)
def test_thoughts_come_before_the_text_and_each_source_once(surface: str, bench: Bench) -> None:
    thoughtful, sourced = (
        bench.ask(CLIENT, surface, {"model": f"demo-{name}", "stream": True, "turns": said(QUESTION)})
        for name in ("agent", "sources")
    )
    assert thoughtful["kinds"] == ["think", "text"]
    assert sourced["kinds"] == ["text"]
    links = re.findall(r"\]\((http[^)]+)\)", sourced["text"])
    assert links == ["https://docs.flowiseai.com/", "https://docs.flowiseai.com/using-flowise/prediction"]


def test_it_does_without_usage(bench: Bench) -> None:
    answer = bench.ask(CLIENT, "custom", {"model": "uncounted", "stream": True, "turns": said(QUESTION)})
    assert f'You asked: "{QUESTION}"' in answer["text"]
    assert answer["usage"] == {}


@pytest.mark.parametrize(
    ("surface", "question", "recording"),
    [
        ("custom", "First question about cats", "02-title-completion"),
        ("custom", "Hello there, first turn", "07-chat-minimal"),
        ("azure", "Hi azure", "21-azure-title"),
        ("azure", "Hi azure", "22-azure-chat"),
    ],
)
def test_it_asks_as_librechat_was_recorded_to(
    surface: str, question: str, recording: str, bench: Bench, tmp_path: Path
) -> None:
    recorded = json.loads((RECORDINGS / f"{recording}.json").read_text())["request"]
    named = {name: recorded["body"][name] for name in ("model", "user")}
    refusal = http(
        "400 Bad Request", b'{"error": {"message": "no"}}', "application/json", "Connection: close"
    )
    command = bench.environment(CLIENT).script(CLIENT.source(), bench.folder)
    with ScriptedServer(*[[refusal, b""]] * MAX_REQUESTS) as server:
        driver = Driver([*command, server.url], tmp_path)
        refused = driver.ask({"surface": surface, "stream": True, "turns": said(question), **named})
        driver.stop()
        requests_seen = [seen(request) for request in server.requests if request]
    assert "400 no" in refused["error"]
    headers = recorded["headers"]
    assert (recorded["path"], program(headers["user-agent"]), recorded["body"]) in requests_seen


def seen(request: bytes) -> tuple[str, str, Json]:
    """A request's path, program and body."""
    head, _, body = request.partition(b"\r\n\r\n")
    first, *lines = head.decode().splitlines()
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    return first.split()[1], program(headers["user-agent"]), json.loads(body)


def program(user_agent: str) -> str:
    """A user agent without the version of Node.js."""
    return user_agent.split(" ((", maxsplit=1)[0]
