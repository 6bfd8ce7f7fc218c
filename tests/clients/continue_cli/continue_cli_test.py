"""Continue's command line: a coding agent with its instructions and tools before the user's words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.clients.bench import Bench, Json
from tests.clients.checks import QUESTION, said
from tests.clients.environments import install
from tests.clients.matrix import Cell, Check, Client
from tests.clients.programs import agent_settings, run_agent
from tests.support.running_proxy import RunningProxy

pytestmark = pytest.mark.clients

FAILURES = ("fail500", "fail429", "cut", "reset")
"""Flows that fail in the words of a passing trouble."""


def ask(bench: Bench, cell: Cell, *turns: str | Json, runs: int = 1, **case: Any) -> Json:
    """Its answer to the last message."""
    asked = {"model": "demo-agent", "turns": said(*turns or (QUESTION,)), **case}
    return bench.ask(cell.client, cell.surface, asked, runs)


def plain(bench: Bench, cell: Cell) -> None:
    """Each message is one run, and its answer is shown."""
    for model in ("demo-agent", "demo-sources"):
        assert f"This is the {model.replace('-', ' ')}" in ask(bench, cell, model=model)["text"]
        assert QUESTION in bench.upstream.messages()[-1]


def memory(bench: Bench, cell: Cell) -> None:
    """The third message of a session is answered in knowledge of the first two."""
    answer = ask(bench, cell, "First of all", "And then", "At last", runs=3)
    assert bench.upstream.repeats(answer["text"], "At last")
    assert bench.upstream.remembered(answer["text"]) == 4


def error(bench: Bench, cell: Cell) -> None:
    """The flow fails, in whatever words: it is reported, and the request is not sent again."""
    for word in FAILURES:
        case = {"model": "demo-errors", "turns": said(word)}
        answer = bench.attempt(cell.client, cell.surface, case, runs=1)
        assert "error" in answer, word
        assert word != "fail500" or "The fake model broke" in answer["error"]


def stop(bench: Bench, cell: Cell) -> None:
    """The command is ended by Ctrl-C while the flow answers: Flowise's run is aborted."""
    ask(bench, cell, "slow", model="demo-agent-errors", stopAfter=2)
    assert bench.upstream.is_aborted()


def retry(bench: Bench, cell: Cell) -> None:
    """Flowise is away for a moment: it asks again, and one run answers."""
    with bench.upstream.refuse_once():
        assert "This is the demo agent" in ask(bench, cell)["text"]


def tools(bench: Bench, cell: Cell) -> None:
    """The flow calls the agent's tool that writes a file, and answers with what it gave: two runs."""
    answer = ask(bench, cell, "Use Write for notes", model="prompted", tools=True, runs=2)
    [used] = answer["used"]
    assert used["name"] == "Write"
    assert "notes" in answer["files"]
    assert "The tool said: Successfully created file" in answer["text"]


def usage(bench: Bench, cell: Cell) -> None:
    """It notes the tokens of each answer in its session."""
    counted = ask(bench, cell)["usage"]
    assert counted["input"] > 100
    assert counted["output"] > 0


OWN = (plain, memory, error, stop, retry, tools, usage)

CLIENT = Client(
    "Continue CLI",
    "@continuedev/cli",
    "continue_cli",
    missing={
        "stream": "its command for scripts (`cn -p`) prints whole answers",
        "edit": "only its interactive terminal can edit a message",
        "image": "its command for scripts (`cn -p`) takes text only",
        "document": "it reads files itself, as text, and sends no documents",
        "structured": "it has no setting for structured output",
        "reasoning": "it does not show reasoning",
        "sources": "it does not show citations",
    },
    own={check.__name__: check for check in OWN},
    streams=(True,),
)


@pytest.mark.parametrize("cell", CLIENT.cells(), ids=str)
def test_continue_cli(cell: Cell, check: Check) -> None:
    check(cell)


def test_continue_takes_the_settings_of_the_docs(proxy: RunningProxy, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(agent_settings("yaml", proxy.url))
    cn = install("continue_cli")
    program = cn.folder / "node_modules/@continuedev/cli/dist/cn.js"
    command = [str(cn.program), str(program), "--config", "config.yaml", "-p", "Hello"]
    assert "This is the demo assistant" in run_agent(command, tmp_path)
