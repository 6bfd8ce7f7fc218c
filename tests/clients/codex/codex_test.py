"""OpenAI's Codex CLI: a coding agent, whose prompts have much beside the user's words."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.clients.bench import Bench, Json
from tests.clients.checks import PIXEL, QUESTION, SCHEMA, said
from tests.clients.environments import install
from tests.clients.matrix import Cell, Check, Client
from tests.clients.programs import agent_settings, run_agent
from tests.support.running_proxy import RunningProxy

pytestmark = pytest.mark.clients


def answered(bench: Bench, cell: Cell, *turns: str | Json, runs: int = 1, **case: object) -> Json:
    """What the agent says at last."""
    asked = {"model": "demo-agent", "turns": said(*(turns or (QUESTION,))), **case}
    return bench.ask(cell.client, cell.surface, asked, runs)


def plain(bench: Bench, cell: Cell) -> None:
    """One task is one run, and its answer is shown."""
    answer = answered(bench, cell)
    assert QUESTION in bench.upstream.messages()[-1]
    assert "This is the demo agent" in answer["text"]


def stream(bench: Bench, cell: Cell) -> None:
    """The answer is shown word by word."""
    answer = answered(bench, cell)
    assert answer["pieces"] > 1
    assert "This is the demo agent" in answer["text"]


def memory(bench: Bench, cell: Cell) -> None:
    """A thread goes on from its own messages: the last is answered in knowledge of the first."""
    answered(bench, cell, "First of all", "And then", "At last", runs=3)
    messages = bench.upstream.messages()
    assert any("First of all" in message for message in messages)
    assert "At last" in messages[-1]


def edit(bench: Bench, cell: Cell) -> None:
    """A thread is forked before the second message, twice: the old branch is not remembered."""
    edited: Json = {"text": "And otherwise", "keep": 1}
    answered(bench, cell, "First of all", "And then", edited, edited, "At last", runs=5)
    messages = "\n".join(bench.upstream.messages())
    assert "First of all" in messages
    assert messages.count("And otherwise") == 1
    assert "And then" not in messages


def tools(bench: Bench, cell: Cell) -> None:
    """The flow calls the agent's command line, which runs, and answers with what it gave: two runs."""
    answer = answered(bench, cell, "Use exec_command with true", runs=2, model="prompted")
    [command] = answer["commands"]
    assert "true" in command
    assert "The tool said" in answer["text"]


def image(bench: Bench, cell: Cell) -> None:
    """An image reaches the flow as the user's file."""
    answered(bench, cell, {"text": "What is this?", "image": f"data:image/png;base64,{PIXEL}"})
    assert bench.upstream.image().startswith("data:image/png")


def structured(bench: Bench, cell: Cell) -> None:
    """The last message is an object of a schema."""
    answer = answered(bench, cell, "The weather in Paris", schema=SCHEMA)
    assert answer["object"].keys() == {"city", "degrees"}
    assert answer["object"]["degrees"] == 42


def usage(bench: Bench, cell: Cell) -> None:
    """It counts the tokens of its whole task."""
    answer = answered(bench, cell)
    assert answer["usage"]["input"] > 1000
    assert answer["usage"]["output"] > 0


def reasoning(bench: Bench, cell: Cell) -> None:
    """The flow's steps are the agent's reasoning."""
    assert "▸ calculator" in answered(bench, cell)["reasoning"]


def retry(bench: Bench, cell: Cell) -> None:
    """Flowise is away for a moment: it asks again, and one run answers."""
    with bench.upstream.refuse_once():
        plain(bench, cell)


OWN = (plain, stream, memory, edit, tools, image, structured, usage, reasoning, retry)
CLIENT = Client(
    "Codex CLI",
    "@openai/codex",
    "codex",
    surfaces=("exec", "app server"),
    missing={
        "sources": "its messages have no citations",
        "document": "a message has text and images; other files are read by its tools",
        ("exec", "stream"): "`codex exec` prints whole messages; its app server streams",
        ("exec", "edit"): "`codex exec resume` goes on from a session's end; its app server forks a thread",
        ("exec", "stop"): "`codex exec` has no interrupt; its app server has one",
    },
    own={check.__name__: check for check in OWN},
    streams=(False,),
)


@pytest.mark.parametrize("cell", CLIENT.cells(), ids=str)
def test_codex(cell: Cell, check: Check) -> None:
    check(cell)


def test_codex_takes_the_settings_of_the_docs(proxy: RunningProxy, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(agent_settings("toml", proxy.url))
    codex = install("codex")
    program = codex.folder / "node_modules/@openai/codex/bin/codex.js"
    command = [str(codex.program), str(program), "exec", "--skip-git-repo-check", "Hello"]
    assert "This is the demo assistant" in run_agent(command, tmp_path, CODEX_HOME=str(tmp_path))
