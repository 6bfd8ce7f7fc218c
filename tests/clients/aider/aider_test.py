"""aider: an agent that edits files by what stands in an answer's text, on LiteLLM."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest

from tests.clients.bench import Bench, Json
from tests.clients.checks import PIXEL, QUESTION, said
from tests.clients.environments import install
from tests.clients.matrix import Cell, Check, Client
from tests.clients.programs import agent_settings, run_agent
from tests.support.documents import PDF
from tests.support.running_proxy import RunningProxy

pytestmark = pytest.mark.clients

FAILURES = ("fail500", "fail429", "cut", "reset")
"""Each fails in words that LiteLLM takes for a passing trouble, after which aider asks eight times more."""


def ask(bench: Bench, cell: Cell, *turns: str | Json, runs: int = 1, **case: Any) -> Json:
    """Its answer to the last message."""
    asked = {"model": "demo-agent", "turns": said(*turns or (QUESTION,)), **case}
    return bench.ask(cell.client, cell.surface, asked, runs)


def plain(bench: Bench, cell: Cell) -> None:
    """Each message is one run, and its answer is shown."""
    assert "This is the demo agent" in ask(bench, cell)["text"]
    assert QUESTION in bench.upstream.messages()[-1]


def stream(bench: Bench, cell: Cell) -> None:
    """The answer is shown piece by piece."""
    assert ask(bench, cell, stream=True)["pieces"] > 10


def memory(bench: Bench, cell: Cell) -> None:
    """The third message is answered in knowledge of the first two."""
    for stream in cell.streams:
        ask(bench, cell, "First of all", "And then", "At last", stream=stream, runs=3)
        messages = bench.upstream.messages()
        assert "At last" in messages[-1]
        for earlier in ("First of all", "And then"):
            assert any(earlier in message for message in messages[:-1])


def error(bench: Bench, cell: Cell) -> None:
    """The flow fails, in whatever words: aider reports it, and does not send the request again."""
    for stream in cell.streams:
        for word in FAILURES:
            case = {"model": "demo-errors", "stream": stream, "turns": said(word)}
            answer = bench.attempt(cell.client, cell.surface, case, runs=1)
            assert "error" in answer, word
            assert word != "fail500" or "The fake model broke" in answer["error"]


def retry(bench: Bench, cell: Cell) -> None:
    """Flowise is away for a moment: aider asks again, and one run answers."""
    for stream in cell.streams:
        with bench.upstream.refuse_once():
            # It reports what it retries as an error, too.
            case = {"model": "demo-agent", "stream": stream, "turns": said(QUESTION)}
            answer = bench.attempt(cell.client, cell.surface, case, runs=1)
        assert "This is the demo agent" in answer["text"]


def image(bench: Bench, cell: Cell) -> None:
    """An image among its files reaches the flow."""
    turn = {"text": "What is this?", "image": f"data:image/png;base64,{PIXEL}"}
    for stream in cell.streams:
        ask(bench, cell, turn, stream=stream)
        assert bench.upstream.image().startswith("data:image/")


def document(bench: Bench, cell: Cell) -> None:
    """The text of a PDF among its files reaches the flow."""
    turn = {"text": "What does it say?", "document": {"name": "notes.pdf", "data": PDF}}
    for stream in cell.streams:
        ask(bench, cell, turn, model="demo-files", stream=stream)
        assert any(bench.upstream.document_text in message for message in bench.upstream.messages())


def tools(bench: Bench, cell: Cell) -> None:
    """The flow answers in aider's form of an edit, and aider writes the file."""
    for stream in cell.streams:
        answer = ask(bench, cell, "markdown", model="demo-errors", tools=True, stream=stream)
        assert answer["file"] == 'print("data: x\\n\\n")\n'


def usage(bench: Bench, cell: Cell) -> None:
    """It shows the tokens that the server counted."""
    sent, received = ask(bench, cell, stream=False)["usage"]
    assert sent > 50
    assert received > 20


def reasoning(bench: Bench, cell: Cell) -> None:
    """The agent's steps are shown as thoughts."""
    for stream in cell.streams:
        assert ask(bench, cell, stream=stream)["reasoning"].strip().startswith("▸ Agent")


OWN = (plain, stream, memory, error, retry, image, document, tools, usage, reasoning)
CLIENT = Client(
    "aider",
    "aider-chat",
    "aider",
    missing={
        "edit": "it has no command that edits a message or asks for an answer again",
        "structured": "it has no setting for structured output",
        "sources": "it does not show citations",
        "approval": "it adds instructions of its own to each message, so that none is just a decision",
    },
    unstreamed={"usage": "it does not request the usage of streams and estimates their tokens itself"},
    own={check.__name__: check for check in OWN},
)


@pytest.mark.parametrize("cell", CLIENT.cells(), ids=str)
def test_aider(cell: Cell, check: Check) -> None:
    check(cell)


def test_aider_takes_the_command_of_the_docs(proxy: RunningProxy, tmp_path: Path) -> None:
    [_, *options] = shlex.split(agent_settings("bash", proxy.url))
    alone = ("--no-git", "--yes-always", "--no-check-update", "--no-show-release-notes")
    command = [str(install("aider").program), "-m", "aider", *options, *alone, "--message", "Hello"]
    said = run_agent(command, tmp_path, LITELLM_LOCAL_MODEL_COST_MAP="True")
    assert "This is the demo assistant" in " ".join(said.split())
