"""n8n, the whole application: its chats, agents, chains and nodes, driven by its APIs and its command."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.clients import checks
from tests.clients.bench import Bench
from tests.clients.checks import QUESTION, SCHEMA, said
from tests.clients.environments import install
from tests.clients.matrix import Cell, Check, Client
from tests.clients.n8n import workflows
from tests.clients.n8n.asker import MESSAGE, Asker, files_of
from tests.clients.n8n.server import N8n
from tests.clients.n8n.workflows import ANSWER, CHAT_MODEL, CHAT_MODEL_VERSION, OPENAI, OPENAI_VERSION, Json
from tests.support.running_proxy import RunningProxy

pytestmark = pytest.mark.apps

FOLDER = "n8n"


def retry(bench: Bench, cell: Cell) -> None:
    """Flowise is briefly unavailable: the node's *Retry On Fail* sends the request again, and one run answers."""
    for stream in cell.streams:
        case = {"model": "demo-assistant", "stream": stream, "turns": said(QUESTION), "retries": True}
        with bench.upstream.refuse_once():
            answer = bench.ask(cell.client, cell.surface, case)
        assert bench.upstream.repeats(answer["text"], QUESTION)


def usage(bench: Bench, cell: Cell) -> None:
    """As for others, but for whole answers of the Responses API, whose tokens n8n estimates by itself."""
    if cell.surface != "responses":
        checks.usage(bench, cell)
        return
    for model in checks.FLOWS:
        case = {"model": model, "stream": True, "turns": said(QUESTION)}
        counted = bench.whole(cell.client, model, QUESTION)["usage"]
        assert bench.ask(cell.client, cell.surface, case)["usage"] == {
            "input": counted["prompt_tokens"],
            "output": counted["completion_tokens"],
            "total": counted["total_tokens"],
        }


BY_NODE = "With Retry On Fail in the settings of the node"
BY_ID = "With the option Previous Response ID"
TEXT_ALONE = "its AI Agent gives the text of an answer alone"
CHAT = Client(
    "n8n",
    "n8n",
    FOLDER,
    surfaces=("chat", "responses"),
    missing={
        "edit": "its chat neither edits a message nor regenerates an answer",
        "reasoning": TEXT_ALONE,
        "sources": TEXT_ALONE,
    },
    unstreamed={
        "structured": "its Basic LLM Chain does not stream, and its AI Agent repeats a streamed call of the output"
        " parser until Max Iterations"
    },
    notes={
        "retry": BY_NODE,
        ("responses", "usage"): "Of a streamed answer; the tokens of others are n8n's own estimate",
    },
    own={"retry": retry, "usage": usage},
    is_application=True,
)
NODE = Client(
    "n8n, OpenAI node",
    "n8n",
    FOLDER,
    surfaces=(MESSAGE,),
    missing={
        "stream": "its node gives whole answers only",
        "stop": "it lets the request of this node run on when the execution is stopped",
    },
    streams=(False,),
    notes={"retry": BY_NODE, "memory": BY_ID, "edit": BY_ID},
    own={"retry": retry},
    is_application=True,
)
CLIENTS = (CHAT, NODE)
CELLS = [pytest.param(cell, id=str(cell)) for client in CLIENTS for cell in client.cells()]


@pytest.fixture(scope="module")
def n8n(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Iterator[N8n]:
    """A server with its owner, and a credential for the gateway."""
    with N8n(install(FOLDER), tmp_path_factory.mktemp("n8n")) as server:
        assert server.add_credential(bench.proxy.url, "sk-anything") == "OK: Connection successful!"
        for client in CLIENTS:
            bench.started(client, Asker(server))
        yield server


@pytest.mark.usefixtures("n8n")
@pytest.mark.parametrize("cell", CELLS)
def test_n8n(cell: Cell, check: Check) -> None:
    check(cell)


def test_the_lists_of_both_nodes_name_the_models(n8n: N8n) -> None:
    listed = n8n.models(CHAT_MODEL, CHAT_MODEL_VERSION, "searchModels")
    # A flow with a model of its own in proxy.yaml is listed by that name.
    assert {*checks.FLOWS, "prompted"} - {"demo-assistant"} <= set(listed)
    assert len(listed) == len(set(listed))
    assert n8n.models(OPENAI, OPENAI_VERSION, "modelSearch") == sorted(listed)


def test_a_list_is_searched(n8n: N8n) -> None:
    assert n8n.models(CHAT_MODEL, CHAT_MODEL_VERSION, "searchModels", "SOURCES") == ["demo-sources"]


def test_a_credential_with_a_key_that_is_none_fails_its_test(n8n: N8n, bench: Bench, tmp_path: Path) -> None:
    settings = {**bench.upstream.settings, "PROXY_API_KEYS": "sk-right"}
    with RunningProxy(tmp_path, **settings) as proxy:
        assert n8n.tested(proxy.url, "sk-right") == "OK: Connection successful!"
        assert n8n.tested(proxy.url, "sk-wrong").startswith("Error: ")


@pytest.mark.parametrize("responses", [False, True], ids=["chat", "responses"])
def test_a_chain_answers(n8n: N8n, bench: Bench, *, responses: bool) -> None:
    model = workflows.chat_model("demo-sources", n8n.credential, responses=responses)
    answer = _answer(n8n, bench, workflows.chain(), {"ai_languageModel": model})
    assert answer["text"] == bench.whole(CHAT, "demo-sources", QUESTION)["content"]


@pytest.mark.parametrize("responses", [False, True], ids=["chat", "responses"])
def test_an_agent_calls_its_output_parser(n8n: N8n, bench: Bench, *, responses: bool) -> None:
    parts = {
        "ai_languageModel": workflows.chat_model("prompted", n8n.credential, responses=responses),
        "ai_outputParser": workflows.parser(SCHEMA),
    }
    answer = _answer(n8n, bench, workflows.agent(parses=True), parts, {"text": "The weather in Paris"})
    assert answer["output"] == {"city": "Paris", "degrees": 42}


def test_an_image_is_analysed(n8n: N8n, bench: Bench) -> None:
    turn = {"text": "What is it?", "image": f"data:image/png;base64,{checks.PIXEL}"}
    [message] = [
        item
        for item in _answer(n8n, bench, workflows.analyse_an_image("demo-agent", n8n.credential), {}, turn)
        if item["type"] == "message"
    ]
    assert bench.upstream.repeats(message["content"][0]["text"], "What is it?")
    assert bench.upstream.image().endswith(checks.PIXEL)


def test_a_response_in_the_background_is_waited_for(n8n: N8n, bench: Bench) -> None:
    options = {"backgroundMode": {"values": {"enabled": True, "timeout": 60}}}
    node = workflows.message_a_model("demo-assistant", n8n.credential, options=options)
    answer = _answer(n8n, bench, node, {})
    assert answer["status"] == "completed"
    assert bench.upstream.repeats(answer["output"][-1]["content"][0]["text"], QUESTION)


def test_the_command_executes_a_workflow(n8n: N8n, bench: Bench) -> None:
    count = bench.upstream.count_runs()
    model = workflows.chat_model("demo-assistant", n8n.credential, responses=True)
    chain = workflows.chain(prompt="Hello from the command")
    workflow = workflows.workflow("cli", workflows.by_hand(), chain, {"ai_languageModel": model})
    result = n8n.execute(workflow)["data"]["resultData"]
    answer = result["runData"][ANSWER][0]["data"]["main"][0][0]["json"]
    assert bench.upstream.repeats(answer["text"], "Hello from the command")
    assert count() == 1


def _answer(n8n: N8n, bench: Bench, node: Json, parts: Mapping[str, Json], turn: Json | None = None) -> Any:
    """The output of a workflow for one message, for which Flowise has run a flow once."""
    asked = turn or {"text": QUESTION}
    count = bench.upstream.count_runs()
    trigger = workflows.chat_trigger(str(uuid.uuid4()), stream=False)
    workflow = n8n.activate(workflows.workflow("one answer", trigger, node, parts))
    message = {"sessionId": str(uuid.uuid4()), "chatInput": asked["text"], "previous": ""}
    workflow.send(message, files_of(asked)).close()
    result = workflow.execution()["data"]["resultData"]
    assert "error" not in result, result["error"]
    assert count() == 1
    [item] = result["runData"][ANSWER][-1]["data"]["main"][0]
    return item["json"]
