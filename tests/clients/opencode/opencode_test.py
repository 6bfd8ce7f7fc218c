"""opencode: a coding agent with much of its own before the user's words, and the AI SDK's providers below it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.clients.bench import Bench, Json
from tests.clients.checks import QUESTION, SCHEMA, said
from tests.clients.environments import install
from tests.clients.matrix import Cell, Check, Client
from tests.clients.programs import agent_settings, run_agent
from tests.support.running_proxy import RunningProxy

pytestmark = pytest.mark.clients

FLOWS = ("demo-agent", "demo-sources", "demo-files")
BRANCHES = (
    "First of all",
    "And then",
    {"text": "And otherwise", "keep": 1},
    {"text": "And otherwise", "keep": 1},
)
FAILURES = ("fail500", "fail429", "cut", "reset")
"""Each fails in words that opencode takes for a passing trouble."""


def ask(bench: Bench, cell: Cell, *turns: str | Json, runs: int = 1, **case: object) -> Json:
    """Its answer to the last turn."""
    asked = {"model": "demo-agent", "turns": said(*turns or (QUESTION,)), **case}
    return bench.ask(cell.client, cell.surface, asked, runs)


def plain(bench: Bench, cell: Cell) -> None:
    """Each message is one run, and its answer is shown."""
    for model in FLOWS:
        answer = ask(bench, cell, model=model)
        assert QUESTION in bench.upstream.messages()[-1]
        assert f"This is the demo {model.removeprefix('demo-')}" in answer["text"]
        assert answer["finish"] == "stop"


def stream(bench: Bench, cell: Cell) -> None:
    """The answer is shown piece by piece."""
    assert ask(bench, cell)["pieces"] > 1


def memory(bench: Bench, cell: Cell) -> None:
    """The third message of a session is answered in knowledge of the first two."""
    answer = ask(bench, cell, "First of all", "And then", "At last", runs=3)
    assert bench.upstream.repeats(answer["text"], "At last")
    assert bench.upstream.remembered(answer["text"]) == 4


def edit(bench: Bench, cell: Cell) -> None:
    """What is undone is not remembered."""
    answer = ask(bench, cell, *BRANCHES, "At last", runs=5)
    assert [bench.upstream.remembered(text) for text in answer["texts"]] == [0, 2, 2, 2, 4]


def error(bench: Bench, cell: Cell) -> None:
    """The flow fails, in whatever words: opencode reports it, and does not send the request again."""
    for word in FAILURES:
        case = {"model": "demo-errors", "turns": said(word)}
        answer = bench.attempt(cell.client, cell.surface, case, runs=1)
        assert "error" in answer, word
        assert word != "fail500" or "The fake model broke" in answer["error"]


def retry(bench: Bench, cell: Cell) -> None:
    """Flowise is away for a moment: opencode asks again, and one run answers."""
    with bench.upstream.refuse_once():
        assert "This is the demo agent" in ask(bench, cell)["text"]


def tools(bench: Bench, cell: Cell) -> None:
    """The flow calls the agent's shell, and answers with what it printed: two runs."""
    answer = ask(bench, cell, "Use bash with pwd", model="prompted", tools=True, runs=2)
    [used] = answer["used"]
    assert used["tool"] == "bash"
    assert used["input"]["command"] == "pwd"
    assert "The tool said" in answer["text"]


def structured(bench: Bench, cell: Cell) -> None:
    """It asks for an object through a tool of its own, which the flow calls."""
    answer = ask(bench, cell, "The weather in Paris", model="prompted", schema=SCHEMA)
    assert answer["object"] == {"city": "Paris", "degrees": 42}


def usage(bench: Bench, cell: Cell) -> None:
    """It counts the tokens of the message and of all that it sends before it."""
    counted = ask(bench, cell)["usage"]
    assert counted["input"] > 1000
    assert counted["output"] > 0


def reasoning(bench: Bench, cell: Cell) -> None:
    """The agent's steps are shown as thoughts."""
    assert ask(bench, cell)["reasoning"].startswith("▸ Agent\n")


OWN = (plain, stream, memory, edit, error, retry, tools, structured, usage, reasoning)
CLIENT = Client(
    "opencode",
    # The program that `opencode-ai` starts: its lock would need the programs of all other systems too.
    "opencode-linux-x64",
    "opencode",
    surfaces=("chat", "responses"),
    missing={"sources": "its messages have no parts for citations"},
    own={check.__name__: check for check in OWN},
    streams=(True,),
)


@pytest.mark.parametrize("cell", CLIENT.cells(), ids=str)
def test_opencode(cell: Cell, check: Check) -> None:
    check(cell)


def test_opencode_takes_the_settings_of_the_docs(proxy: RunningProxy, tmp_path: Path) -> None:
    (tmp_path / "opencode.json").write_text(agent_settings("json", proxy.url))
    program = install("opencode").folder / "node_modules/opencode-linux-x64/bin/opencode"
    said = run_agent([str(program), "run", "Hello"], tmp_path, OPENCODE_DISABLE_MODELS_FETCH="1")
    assert "This is the demo assistant" in said
