"""Client libraries in front of the demo flows: what each understands is what the server's whole answer says."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import requests

from tests.clients.clients_install import Clients, install
from tests.processes import clean_environment
from tests.running_proxy import RunningProxy

pytestmark = pytest.mark.clients

Json = dict[str, Any]
Ask = Callable[..., list[Json]]
FLOWS = ("demo-assistant", "demo-agent", "demo-sources", "demo-json", "demo-approval", "demo-files")
ASSISTANT = "5518949f-3ebc-4082-af01-fa2a18623da6"
FILE = f"""
discovery: {{enabled: true}}
models:
  - {{id: prompted, flow: {ASSISTANT}, tools: prompt}}
"""
QUESTION = "Use the calculator: 6*7"
SCRIPTS = {
    "openai.mjs": ("chat", "azure", "responses"),
    "ai_sdk.mjs": ("responses", "chat", "compatible"),
    "langchain.mjs": ("chat", "responses"),
    "langchain_client.py": ("chat", "responses"),
}
WAYS = [(script, way) for script, ways in SCRIPTS.items() for way in ways]
# What a library has no place for in chat completions, whoever sends it.
UNREAD = {
    ("ai_sdk.mjs", "chat"): ("reasoning",),
    ("ai_sdk.mjs", "compatible"): ("sources",),
    ("langchain.mjs", "chat"): ("sources",),
    ("langchain_client.py", "chat"): ("sources", "reasoning"),
}
USERS = itertools.count()
CLIENT_SECONDS = 120
# The AI SDK sends earlier items back as `item_reference` unless it is told `store: false`.


@pytest.fixture(scope="session")
def clients() -> Clients:
    """The installed libraries."""
    return install()


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningProxy]:
    """A server on the demo flows, one of them with tools in words."""
    folder = tmp_path_factory.mktemp("clients")
    (folder / "proxy.yaml").write_text(FILE)
    with RunningProxy(folder) as running:
        yield running


@pytest.fixture(scope="module")
def ask(clients: Clients, proxy: RunningProxy, tmp_path_factory: pytest.TempPathFactory) -> Ask:
    """Runs a client's script for some cases, each as a user of its own."""
    home = tmp_path_factory.mktemp("home")

    def run(script: str, cases: Sequence[Json]) -> list[Json]:
        told = [{"questions": [QUESTION], "user": f"user-{next(USERS)}", **case} for case in cases]
        done = subprocess.run(
            [*clients.command(script), proxy.url, json.dumps(told)],
            env=clean_environment(home),
            capture_output=True,
            text=True,
            timeout=CLIENT_SECONDS,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        answers = [json.loads(line) for line in done.stdout.splitlines()]
        assert len(answers) == len(cases)
        assert [answer["error"] for answer in answers if "error" in answer] == []
        return answers

    return run


@pytest.fixture(scope="module")
def expected(proxy: RunningProxy) -> dict[str, Json]:
    """The server's own whole answers."""
    return {model: whole(proxy, model) for model in FLOWS}


def whole(proxy: RunningProxy, model: str) -> Json:
    """The message of a plain request, with its usage."""
    body = {
        "model": model,
        "user": f"user-{next(USERS)}",
        "messages": [{"role": "user", "content": QUESTION}],
    }
    answer = requests.post(f"{proxy.url}/v1/chat/completions", json=body, timeout=30)
    assert answer.ok, answer.text
    return {**answer.json()["choices"][0]["message"], "usage": answer.json()["usage"]}


def unsigned(text: str) -> str:
    """A text with the links to files of its run made alike, for every run has its own."""
    return re.sub(r"/v1/flowise/files/[\w-]+", "/v1/flowise/files/…", text)


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
@pytest.mark.parametrize(("script", "way"), WAYS)
def test_each_flow_is_understood(
    script: str, way: str, stream: bool, ask: Ask, expected: dict[str, Json]
) -> None:
    answers = ask(script, [{"way": way, "model": model, "stream": stream} for model in FLOWS])
    for model, answer in zip(FLOWS, answers, strict=True):
        message = expected[model]
        assert unsigned(answer["text"]) == unsigned(message["content"]), model
        assert answer["toolCalls"] == [], model
        assert answer["finish"] in ("stop", "completed"), model
        usage = message["usage"]
        assert answer["usage"] == {
            "input": usage["prompt_tokens"],
            "output": usage["completion_tokens"],
            "total": usage["total_tokens"],
        }, model
        urls = [one["url_citation"]["url"] for one in message.get("annotations", ())]
        unread = UNREAD.get((script, way), ())
        assert answer["sources"] == ([] if "sources" in unread else urls), model
        thought = message.get("reasoning_content", "")
        assert answer["reasoning"] == ("" if "reasoning" in unread else thought), model


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
@pytest.mark.parametrize(
    ("script", "way"), [(script, way) for script, way in WAYS if script in ("openai.mjs", "ai_sdk.mjs")]
)
def test_a_tool_call_is_read(script: str, way: str, stream: bool, ask: Ask) -> None:
    case = {"way": way, "model": "prompted", "stream": stream, "tools": True}
    [answer] = ask(script, [{**case, "questions": ["Use get_weather for Paris"]}])
    assert answer["toolCalls"] == [{"name": "get_weather", "arguments": {"city": "Paris", "unit": "C"}}]
    assert answer["text"] == ""
    assert answer["finish"] in ("tool_calls", "tool-calls", "completed")


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
@pytest.mark.parametrize("way", ["responses", "unstored", "chat", "compatible"])
@pytest.mark.parametrize("model", ["demo-assistant", "demo-agent"])
def test_the_ai_sdk_goes_on_from_its_own_messages(way: str, stream: bool, model: str, ask: Ask) -> None:
    questions = ["First of all", "And then", "At last"]
    [answer] = ask("ai_sdk.mjs", [{"way": way, "model": model, "stream": stream, "questions": questions}])
    assert 'You asked: "At last"' in answer["text"]
    assert "I remember 4 earlier messages" in answer["text"]
