"""Client libraries in front of the demo flows: what each understands is what the server's whole answer says."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.clients.clients_install import Clients, install
from tests.support.processes import clean_environment
from tests.support.running_proxy import RunningProxy
from tests.support.saying_flowise import FLOW, SayingFlowise, ending, token
from tests.support.scripted_server import ScriptedServer, http

pytestmark = pytest.mark.clients

Json = dict[str, Any]
Ask = Callable[..., list[Json]]
Whole = Callable[[str, str], Json]
FLOWS = ("demo-assistant", "demo-agent", "demo-sources", "demo-json", "demo-approval", "demo-files")
ASSISTANT = "5518949f-3ebc-4082-af01-fa2a18623da6"
FILE = f"""
discovery: {{enabled: true}}
models:
  - {{id: prompted, flow: {ASSISTANT}, tools: prompt}}
  - {{id: uncounted, flow: {ASSISTANT}, usage: asked}}
"""
QUESTION = "Use the calculator: 6*7"
LIBRECHAT = "librechat/librechat.mjs"
SCRIPTS = {
    "openai.mjs": ("chat", "azure", "responses"),
    "ai_sdk.mjs": ("responses", "chat", "compatible"),
    "langchain.mjs": ("chat", "responses"),
    "langchain_client.py": ("chat", "responses"),
    "llama_index_client.py": ("chat", "completions"),
    LIBRECHAT: ("custom", "azure"),
}
WAYS = [(script, way) for script, ways in SCRIPTS.items() for way in ways]
# LibreChat streams every answer.
UNDERSTOOD = [(*each, stream) for each in WAYS for stream in (True, False) if stream or each[0] != LIBRECHAT]
# What a library has no place for in chat completions, whoever sends it.
UNREAD = {
    ("ai_sdk.mjs", "chat"): ("reasoning",),
    ("ai_sdk.mjs", "compatible"): ("sources",),
    ("langchain.mjs", "chat"): ("sources",),
    ("langchain_client.py", "chat"): ("sources", "reasoning"),
    ("llama_index_client.py", "chat"): ("sources",),
    ("llama_index_client.py", "completions"): ("sources", "reasoning"),
    (LIBRECHAT, "custom"): ("sources",),
    (LIBRECHAT, "azure"): ("sources",),
}
RECORDINGS = Path(__file__).resolve().parents[1] / "wire/librechat"
LIBRECHAT_TURN = json.loads((RECORDINGS / "03-chat-turn1-params.json").read_text())["request"]
LIBRECHAT_AGENT: str = LIBRECHAT_TURN["headers"]["user-agent"]
USERS = itertools.count()
CLIENT_SECONDS = 120
# A turn and a title, each with a retry.
MAX_REQUESTS = 8


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
        answers = answers_of([*clients.command(script), proxy.url], script, cases, home)
        assert [answer["error"] for answer in answers if "error" in answer] == []
        return answers

    return run


def answers_of(command: Sequence[str], script: str, cases: Sequence[Json], home: Path) -> list[Json]:
    """What a script prints for its cases."""
    told = [{"questions": [QUESTION], "user": new_user(script), **case} for case in cases]
    done = subprocess.run(
        [*command, json.dumps(told)],
        env=clean_environment(home),
        capture_output=True,
        text=True,
        timeout=CLIENT_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(answers) == len(cases)
    return answers


@pytest.fixture(scope="module")
def whole(proxy: RunningProxy) -> Whole:
    """The server's own whole answers, told as for the client of a script."""
    known: dict[tuple[str, bool], Json] = {}

    def answer(script: str, model: str) -> Json:
        kind = (model, script == LIBRECHAT)
        if kind not in known:
            known[kind] = ask_plainly(proxy, script, model)
        return known[kind]

    return answer


def ask_plainly(proxy: RunningProxy, script: str, model: str) -> Json:
    """The message of a plain request, with its usage."""
    messages = [{"role": "user", "content": QUESTION}]
    body = {"model": model, "user": new_user(script), "messages": messages}
    agent = {"User-Agent": LIBRECHAT_AGENT} if script == LIBRECHAT else {}
    answer = requests.post(f"{proxy.url}/v1/chat/completions", json=body, headers=agent, timeout=30)
    assert answer.ok, answer.text
    return {**answer.json()["choices"][0]["message"], "usage": answer.json()["usage"]}


def new_user(script: str) -> str:
    """A user who has asked nothing before; LibreChat's have the ids of its database."""
    number = next(USERS)
    return f"{number:024x}" if script == LIBRECHAT else f"user-{number}"


def unsigned(text: str) -> str:
    """A text with the links to files of its run made alike, for every run has its own."""
    return re.sub(r"/v1/flowise/files/[\w-]+", "/v1/flowise/files/…", text)


@pytest.mark.parametrize(("script", "way", "stream"), UNDERSTOOD)
def test_each_flow_is_understood(script: str, way: str, stream: bool, ask: Ask, whole: Whole) -> None:
    answers = ask(script, [{"way": way, "model": model, "stream": stream} for model in FLOWS])
    unread = UNREAD.get((script, way), ())
    for model, answer in zip(FLOWS, answers, strict=True):
        message = whole(script, model)
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


# The AI SDK sends earlier items back as `item_reference` unless it is told `store: false`.
GOING_ON = [
    *(
        ("ai_sdk.mjs", way, stream)
        for way in (*SCRIPTS["ai_sdk.mjs"], "unstored")
        for stream in (True, False)
    ),
    *(("llama_index_client.py", "chat", stream) for stream in (True, False)),
    *((LIBRECHAT, way, True) for way in SCRIPTS[LIBRECHAT]),
]


@pytest.mark.parametrize(("script", "way", "stream"), GOING_ON)
@pytest.mark.parametrize("model", ["demo-assistant", "demo-agent"])
def test_a_client_goes_on_from_its_own_messages(
    script: str, way: str, stream: bool, model: str, ask: Ask
) -> None:
    questions = ["First of all", "And then", "At last"]
    [answer] = ask(script, [{"way": way, "model": model, "stream": stream, "questions": questions}])
    assert 'You asked: "At last"' in answer["text"]
    assert "I remember 4 earlier messages" in answer["text"]


@pytest.mark.parametrize(
    ("way", "question", "recording"),
    [
        ("custom", "First question about cats", "02-title-completion"),
        ("custom", "Hello there, first turn", "07-chat-minimal"),
        ("azure", "Hi azure", "21-azure-title"),
        ("azure", "Hi azure", "22-azure-chat"),
    ],
)
def test_librechats_library_asks_as_librechat_was_recorded_to(
    way: str, question: str, recording: str, clients: Clients, tmp_path: Path
) -> None:
    recorded = json.loads((RECORDINGS / f"{recording}.json").read_text())["request"]
    case = {
        "way": way,
        "questions": [question],
        **{name: recorded["body"][name] for name in ("model", "user")},
    }
    refusal = http(
        "400 Bad Request", b'{"error": {"message": "no"}}', "application/json", "Connection: close"
    )
    with ScriptedServer(*[[refusal, b""]] * MAX_REQUESTS) as server:
        [refused] = answers_of([*clients.command(LIBRECHAT), server.url], LIBRECHAT, [case], tmp_path)
        requests_seen = [seen(request) for request in server.requests]
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


@pytest.mark.parametrize(("script", "way"), WAYS)
def test_a_stream_that_fails_midway_is_no_success(
    script: str, way: str, clients: Clients, proxy: RunningProxy, tmp_path: Path
) -> None:
    case = {"way": way, "model": "demo-errors", "stream": True, "questions": ["failmid"]}
    [answer] = answers_of([*clients.command(script), proxy.url], script, [case], tmp_path)
    assert "The flow failed" in answer["error"]


@pytest.mark.parametrize(("script", "way"), WAYS)
def test_heartbeats_disturb_no_stream(script: str, way: str, clients: Clients, tmp_path: Path) -> None:
    with SayingFlowise() as flowise:
        flowise.streams(0.5, token("Hel"), 0.5, token("lo"), 0.5, ending())
        settings = {"FLOWISE_BASE_URL": flowise.base_url, "PROXY_HEARTBEAT_SECONDS": "0.1"}
        with RunningProxy(tmp_path, **settings) as proxy:
            case = {"way": way, "model": FLOW, "stream": True}
            [answer] = answers_of([*clients.command(script), proxy.url], script, [case], tmp_path)
    assert answer.get("text") == "Hello", answer


@pytest.mark.parametrize("way", SCRIPTS[LIBRECHAT])
def test_librechat_shows_a_conversations_title(way: str, ask: Ask) -> None:
    methods = ("completion", "structured", "functions")
    cases = [{"way": way, "model": model, "titleMethod": method} for method in methods for model in FLOWS]
    titles = [answer["title"] for answer in ask(LIBRECHAT, cases)]
    assert titles == ["Use the calculator: 6*7"] * len(cases)


@pytest.mark.parametrize("way", SCRIPTS[LIBRECHAT])
def test_librechat_shows_thoughts_before_the_text_and_each_source_once(way: str, ask: Ask) -> None:
    thoughtful, sourced = ask(
        LIBRECHAT, [{"way": way, "model": f"demo-{name}"} for name in ("agent", "sources")]
    )
    assert thoughtful["kinds"] == ["think", "text"]
    assert sourced["kinds"] == ["text"]
    links = re.findall(r"\]\((http[^)]+)\)", sourced["text"])
    assert links == ["https://docs.flowiseai.com/", "https://docs.flowiseai.com/using-flowise/prediction"]


def test_librechat_does_without_usage(ask: Ask) -> None:
    [answer] = ask(LIBRECHAT, [{"way": "custom", "model": "uncounted"}])
    assert f'You asked: "{QUESTION}"' in answer["text"]
    assert answer["usage"] == {}


@pytest.mark.parametrize("way", SCRIPTS[LIBRECHAT])
def test_librechats_agent_runs_the_tool_that_the_model_calls(way: str, ask: Ask) -> None:
    question = "Use get_weather for Paris"
    [answer] = ask(LIBRECHAT, [{"way": way, "model": "prompted", "tools": True, "questions": [question]}])
    called = {
        "name": "get_weather",
        "arguments": {"city": "Paris", "unit": "C"},
        "output": "It is 7 degrees.",
    }
    assert answer["toolCalls"] == [called]
    assert answer["kinds"] == ["tool_call", "text"]
    assert answer["text"] == "The tool said: It is 7 degrees."
    assert answer["finish"] == "stop"
