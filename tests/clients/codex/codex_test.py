"""OpenAI's Codex CLI: a coding agent, whose prompts have much beside the user's words."""

from __future__ import annotations

import pytest

from tests.clients.bench import Bench
from tests.clients.checks import QUESTION, said
from tests.clients.matrix import FEATURES, Cell, Check, Client

pytestmark = pytest.mark.clients


def plain(bench: Bench, cell: Cell) -> None:
    """One task is one run, and its answer is shown."""
    answer = bench.ask(cell.client, cell.surface, {"model": "demo-agent", "turns": said(QUESTION)})
    assert QUESTION in bench.upstream.messages()[-1]
    assert "This is the demo agent" in answer["text"]


def memory(bench: Bench, cell: Cell) -> None:
    """A session that is resumed goes on from its own messages: the last is answered in knowledge of the first."""
    case = {"model": "demo-agent", "turns": said("First of all", "And then", "At last")}
    bench.ask(cell.client, cell.surface, case, runs=3)
    messages = bench.upstream.messages()
    assert any("First of all" in message for message in messages)
    assert "At last" in messages[-1]


def tools(bench: Bench, cell: Cell) -> None:
    """The flow calls the agent's command line, which runs, and answers with what it gave: two runs."""
    case = {"model": "prompted", "turns": said("Use exec_command with true")}
    answer = bench.ask(cell.client, cell.surface, case, runs=2)
    [command] = answer["commands"]
    assert "true" in command
    assert "The tool said" in answer["text"]


def usage(bench: Bench, cell: Cell) -> None:
    """It counts the tokens of its whole task."""
    answer = bench.ask(cell.client, cell.surface, {"model": "demo-agent", "turns": said(QUESTION)})
    assert answer["usage"]["input"] > 1000
    assert answer["usage"]["output"] > 0


def retry(bench: Bench, cell: Cell) -> None:
    """Flowise is away for a moment: it asks again, and one run answers."""
    with bench.upstream.refuse_once():
        plain(bench, cell)


OWN = {"plain": plain, "memory": memory, "tools": tools, "usage": usage, "retry": retry}
CLIENT = Client(
    "Codex CLI",
    "@openai/codex",
    "codex",
    surfaces=("responses",),
    missing={
        feature: "its command for scripts shows whole items of a task, and takes a task's text"
        for feature in FEATURES
        if feature not in {*OWN, "error", "midway"}
    },
    own=OWN,
    streams=(False,),
)


@pytest.mark.parametrize("cell", CLIENT.cells(), ids=str)
def test_codex(cell: Cell, check: Check) -> None:
    check(cell)
