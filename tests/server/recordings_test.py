"""What Open WebUI, n8n, LibreChat and opencode really sent, sent again: each request gets its right answer."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import requests

from flowise_demo.server import DEMO_FLOWS
from tests.support.demo_server import DemoServer
from tests.support.openai_check import valid
from tests.support.processes import wait_for
from tests.support.running_proxy import RunningProxy

WIRE = Path(__file__).parents[1] / "wire"
Json = dict[str, Any]
PROMPTED = {"tools-assistant": "demo-assistant", "tools-agent": "demo-agent-errors"}
"""Models that take a client's tools; the flows under their own names ignore them, as they did then."""
LIBRECHATS = ("flow-a", "flow-title", "flow-params", "flow-responses", "flow-azure")
OPENCODES = ("support",)
"""Flows of LibreChat's and opencode's recordings, which were made without a Flowise."""
READER: Json = {"images": True, "chatbotConfig": json.dumps({"fullFileUpload": {"status": True}})}
FILE = "\n".join(
    [
        "models:",
        *(f"  - {{id: {flow}, flow: {DEMO_FLOWS[flow]}}}" for flow in PROMPTED.values()),
        *(f"  - {{id: {name}, flow: {DEMO_FLOWS[flow]}, tools: prompt}}" for name, flow in PROMPTED.items()),
    ]
)
OF_THE_CONNECTION = {"host", "content-length", "accept-encoding", "connection"}


@pytest.fixture(scope="module")
def flowise() -> Iterator[DemoServer]:
    """The flows that were asked when the requests were recorded."""
    with DemoServer("--token-seconds", "0") as demo:
        for name in LIBRECHATS + OPENCODES:
            demo.control("POST", "/__demo/flows", {"name": name, **READER})
        yield demo


@pytest.fixture(scope="module")
def server(flowise: DemoServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningProxy]:
    """A server with the models that the requests name."""
    folder = tmp_path_factory.mktemp("recordings")
    (folder / "proxy.yaml").write_text(FILE)
    with RunningProxy(folder, FLOWISE_BASE_URL=flowise.base_url) as running:
        yield running


@dataclass
class Replayed:
    """An answer as its client reads it, and the runs that it took."""

    status: int
    headers: Mapping[str, str]
    body: Json = field(default_factory=dict)
    chunks: list[Json] = field(default_factory=list)
    runs: list[Json] = field(default_factory=list)

    @property
    def text(self) -> str:
        """What a person reads."""
        if "choices" in self.body:
            return str(self.body["choices"][0]["message"]["content"])
        if self.chunks and "choices" in self.chunks[0]:
            return "".join(choice["delta"].get("content") or "" for choice in self.choices)
        return "".join(
            part["text"] for item in self.output if item["type"] == "message" for part in item["content"]
        )

    @property
    def choices(self) -> list[Json]:
        """The choices of all chunks."""
        return [choice for chunk in self.chunks for choice in chunk.get("choices", ())]

    @property
    def response(self) -> Json:
        """A response, as it ended."""
        return self.body if "output" in self.body else dict(self.chunks[-1]["response"])

    @property
    def output(self) -> list[Json]:
        """The items of a response."""
        return list(self.response["output"])

    @property
    def finish(self) -> str:
        """Why the answer ended."""
        if "choices" in self.body:
            return str(self.body["choices"][0]["finish_reason"])
        if self.choices:
            return next(str(choice["finish_reason"]) for choice in self.choices if choice["finish_reason"])
        return str(self.response["status"])

    @property
    def calls(self) -> list[Json]:
        """The client's functions that are called, in the form of chat completions."""
        if "choices" in self.body:
            calls = self.body["choices"][0]["message"].get("tool_calls", [])
            return [call["function"] for call in calls]
        if self.choices:
            deltas = [delta for c in self.choices for delta in c["delta"].get("tool_calls", ())]
            names = [d["function"]["name"] for d in deltas if "name" in d["function"]]
            return [
                {"name": name, "arguments": "".join(d["function"].get("arguments", "") for d in deltas)}
                for name in names
            ]
        return [
            {"name": item["name"], "arguments": item["arguments"]}
            for item in self.output
            if item["type"] == "function_call"
        ]

    @property
    def seen(self) -> list[str]:
        """What the model of the only run saw."""
        (run,) = self.runs
        return [message["content"] for message in run["messages"] if message["role"] != "system"]


def recorded(name: str) -> Json:
    """A recorded request."""
    content = json.loads((WIRE / f"{name}.json").read_text())
    return dict(content.get("request", content))


class Replay:
    """Sends what was recorded to the server."""

    def __init__(self, server: RunningProxy, flowise: DemoServer) -> None:
        self.url, self.flowise = server.url, flowise

    def __call__(self, name: str, **changed: Any) -> Replayed:
        """Send a request, with other fields in its body if they are to be those of another answer."""
        answer = self._sent(name, changed)
        replayed = Replayed(answer.status_code, answer.headers, runs=self.flowise.records())
        kind = "chat" if "chat/completions" in answer.url else "response"
        if answer.headers["Content-Type"].startswith("text/event-stream"):
            lines = [line[6:] for line in answer.text.split("\n") if line.startswith("data: {")]
            replayed.chunks = [json.loads(line) for line in lines]
            assert answer.text.endswith("data: [DONE]\n\n")
            if kind == "chat":
                valid("chat.stream", answer.content, strict=False)
        else:
            replayed.body = answer.json()
            if kind == "chat" and answer.ok:
                valid("chat.response", answer.content)
        return replayed

    def left(self, name: str, **changed: Any) -> None:
        """Send a request and leave when the answer has begun."""
        with self._sent(name, changed, stream=True) as answer:
            assert any(b"word1 " in line for line in answer.iter_lines())

    def _sent(self, name: str, changed: Json, *, stream: bool = False) -> requests.Response:
        request = recorded(name)
        self.flowise.clear()
        headers = {k: v for k, v in request["headers"].items() if k.lower() not in OF_THE_CONNECTION}
        # An idle kept-alive connection would hold up the server's end.
        headers["Connection"] = "close"
        body = None if request["body"] is None else json.dumps({**request["body"], **changed}).encode()
        url = self.url + request["path"]
        return requests.request(request["method"], url, data=body, headers=headers, stream=stream, timeout=30)

    def turns(self, name: str) -> list[str]:
        """What the flow of a request must hear: each turn's text, the newest last."""
        return said_in(recorded(name)["body"])


@pytest.fixture
def replay(server: RunningProxy, flowise: DemoServer) -> Replay:
    """Sends what was recorded."""
    return Replay(server, flowise)


FILES = re.compile(r"<attached_files>\n.*?</attached_files>\n\n", re.DOTALL)


def said_in(body: Json) -> list[str]:
    """The turns of a request as people said them: no list of files, no system text, calls in words."""
    turns: list[tuple[str, str]] = []
    names: dict[str, str] = {}
    for message in body.get("messages") or body["input"]:
        kind, content = message.get("type", "message"), message.get("content")
        role = message.get("role", "assistant" if kind == "function_call" else "tool")
        calls = message.get("tool_calls") or ([message] if kind == "function_call" else [])
        names |= {c.get("id") or c["call_id"]: c.get("function", c)["name"] for c in calls}
        parts = content if isinstance(content, list) else [{"text": content or ""}]
        text = "\n".join(part["text"] for part in parts if part.get("text"))
        text = text if role == "assistant" else FILES.sub("", text)
        for call in (call.get("function", call) for call in calls):
            # n8n adds the call's id.
            arguments = re.sub(r',"id":"call_\w+"}$', "}", call["arguments"])
            text += f'<tool_call>{{"name":"{call["name"]}","arguments":{arguments}}}</tool_call>'
        if role == "tool":
            called = names[message.get("tool_call_id") or message["call_id"]]
            text = f"Tool result of {called}: {text or message['output']}"
        who = "assistant" if role == "assistant" else role if role == "system" else "user"
        if turns and turns[-1][0] == who == "user":
            text = f"{turns.pop()[1]}\n\n{text}"
        turns.append((who, text))
    return [text.strip() for who, text in turns if who != "system"]


def heard(replayed: Replayed, turns: Sequence[str]) -> None:
    """The flow heard all turns as they were said, perhaps with what it is told beside them in front."""
    assert len(replayed.seen) == len(turns)
    for seen, turn in zip(map(str.strip, replayed.seen), turns, strict=True):
        assert seen == turn or (seen.startswith("[System instructions]\n") and seen.endswith(turn))


def says(question: str, earlier: int = 0, role: str = "assistant") -> str:
    """What the demo's model says."""
    asked = question if len(question) <= 300 else question[:300] + "…"
    return (
        f'You asked: "{asked}" This is the demo {role}; connect your own Flowise to get real answers. '
        f"I remember {earlier} earlier messages of this conversation."
    )


def agent(question: str, result: str, earlier: int = 0) -> str:
    """What the demo's agent says, which always calculates first."""
    return f"The tool said {result}. {says(question, earlier, 'agent')}"


def with_system(text: str, question: str) -> str:
    """A question as a flow hears it that takes no system text."""
    return f"[System instructions]\n{text}\n[End of system instructions]\n\n{question}"


# ------------------------------------------------------------------------------- requests of the UIs themselves
BUILTIN: Json = {
    "openwebui/02-title": {"title": "What is 6*7?"},
    "openwebui/04-follow-ups": {"follow_ups": []},
    "openwebui/05-tags": {"tags": []},
    "openwebui/15-approval-follow-ups": {"follow_ups": ["Proceed", "Reject"]},
    "openwebui/26-retrieval-queries": {"queries": []},
    "openwebui/35-emoji": "💬",
    "openwebui/36-queries-web-search": {"queries": []},
    "openwebui/37-image-prompt": {"prompt": "Tell me about otters"},
    "openwebui/45-responses-title": {"title": "What is 6 x 7?"},
    "openwebui/47-responses-follow-ups": {"follow_ups": []},
    "openwebui/54-autocomplete": {"text": ""},
    "librechat/02-title-completion": "First question about cats",
    "librechat/16-title-structured": {"language": "", "title": "Hi structured"},
    "librechat/17-title-functions": {"language": "", "title": "Hi functions"},
    "librechat/21-azure-title": "Hi azure",
    "opencode/01-title": "How do I cook rice for ten people?",
    "opencode/04-title-file": 'Sum up @notes.txt please, with a "quote" second…',
    "opencode/06-title-plan-mode": "Plan a thing",
    "opencode/10-title-after-command": "What did it print?",
    "opencode/13-responses-title": "How do I cook rice?",
}


@pytest.mark.parametrize("name", BUILTIN)
def test_a_uis_own_request_is_answered_without_a_run(replay: Replay, name: str) -> None:
    answer, expected = replay(name), BUILTIN[name]
    assert (answer.status, answer.runs) == (200, [])
    assert (answer.text if isinstance(expected, str) else json.loads(answer.text)) == expected


TURNS_OF_OPENCODE = [
    *("opencode/02-turn", "opencode/03-second-turn", "opencode/05-turn-file", "opencode/07-turn-plan-mode"),
    *("opencode/08-subagent-turn", "opencode/09-tool-result", "opencode/11-turn-after-command"),
    *("opencode/12-compaction", "opencode/14-responses-turn"),
]


@pytest.mark.parametrize("name", TURNS_OF_OPENCODE)
def test_each_other_request_of_opencode_is_one_run(replay: Replay, name: str) -> None:
    answer = replay(name)
    assert (answer.status, answer.finish) in ((200, "stop"), (200, "completed"))
    heard(answer, replay.turns(name))


LISTS = [
    *("openwebui/01-models", "openwebui/40-verify-connection", "librechat/01-models-fetch"),
    *("n8n/01-credential-test", "n8n/02-model-list-chat-model-node"),
    *("n8n/03-model-list-filtered", "n8n/04-model-list-openai-node"),
]


@pytest.mark.parametrize("name", LISTS)
def test_a_list_of_models_names_all_of_them(replay: Replay, name: str) -> None:
    answer = replay(name)
    listed = [model["id"] for model in answer.body["data"]]
    assert {*DEMO_FLOWS, *PROMPTED, *LIBRECHATS, *OPENCODES} == set(listed)
    assert len(listed) == len(set(listed))
    assert all(model["object"] == "model" and model["name"] for model in answer.body["data"])


# ----------------------------------------------------------------------------------------------- plain turns
PIRATE, HELPER = "You are a pirate named User. Today is 2026-11-28.", "You are a helpful assistant"
SHALL_I = "Shall I go on?\n\n(Waiting for your decision: Proceed / Reject)"
STATE = '```json\n{"output": {"state": "state", "cities": ["state"]}}\n```'
TIMES = (
    '{"current_timestamp":1795838596,"current_iso":"2026-11-28T04:03:16.227563+00:00",'
    '"user_local_iso":"2026-11-28T04:03:16.227563+00:00","user_timezone":"UTC"}'
)
LOST = 'Case FLOWTOOL\n\n[Previous tool interaction]\nAI: After flow tool. w0 w1 w2 w3 \nAI: [tool_call] flowise_internal_tool({"q":1})\nTool: Error: Tool "flowise_internal_tool" not found.\n Please fix your mistakes.'
NOTE = 'Attached document(s):\n```md# "note.txt"\nThe secret word is ZEBRA.\n\n```\nWhat is the secret word?'
PLAIN: dict[str, str] = {
    "openwebui/03-chat-first-turn-native-tools": agent("What is 6*7? Please tell me.", "42"),
    "openwebui/06-second-turn": agent("Second question: my name is Zoe.", "42", 2),
    "openwebui/07-third-turn": agent("Third: what is my name?", "42", 4),
    "openwebui/08-regenerate": agent("Third: what is my name?", "42", 4),
    "openwebui/09-regenerate-more-concise": agent("More Concise", "42", 6),
    "openwebui/11-edited-second-message": agent("Second question EDITED: my name is Max.", "42", 2),
    "openwebui/13-after-stop": says("And after the stop?", 2, "errors"),
    "openwebui/14-approval-asked": SHALL_I,
    "openwebui/19-sources": says("What is Flowise?", 0, "sources"),
    "openwebui/22-image": agent("What is in this picture?", "42"),
    "openwebui/23-image-in-earlier-turn": agent("And what colour was it?", "42", 2),
    "openwebui/28-two-models-first": says("Two of you: what is 3*4?"),
    "openwebui/29-two-models-second": agent("Two of you: what is 3*4?", "12"),
    "openwebui/30-two-models-second-turn": says("Second turn for both", 2),
    "openwebui/39-own-api-not-streamed": says("hi", 0, "errors"),
    "openwebui/41-system-prompt-parameters-usage": says(
        with_system(PIRATE, "Who are you?"), 0, "agent-errors"
    ),
    "openwebui/43-legacy-function-calling-answer": says("get_weather of Paris", 0, "agent-errors"),
    "openwebui/44-arena": says("Hello arena", 0, "agent-errors"),
    "openwebui/46-responses-first-turn": says("What is 6 x 7?", 0, "agent-errors"),
    "openwebui/48-responses-second-turn": says("And again please", 2, "agent-errors"),
    "openwebui/51-responses-image": says("What is in this picture?", 0, "agent-errors"),
    "n8n/05-basic-llm-chain-chat": says(with_system("You are terse.", "Hello n8n"), 0, "sources"),
    "n8n/06-chain-structured-parser-chat": STATE,
    "n8n/07-agent-no-tools-chat": SHALL_I,
    "n8n/11-basic-llm-chain-responses": says(with_system("You are terse.", "Hello n8n"), 0, "sources"),
    "n8n/12-chain-structured-parser-responses": STATE,
    "n8n/13-agent-no-tools-responses": SHALL_I,
    "n8n/22-openai-node-message": says("Hello from the OpenAI node", 0, "sources"),
    "n8n/23-openai-node-json-schema": '{"a": "node"}',
    "n8n/24-openai-node-image-url": says("What is this?", 0, "agent-errors"),
    "n8n/25-cli-execute-responses": says("Hello from the CLI", 0, "agent-errors"),
    "librechat/03-chat-turn1-params": says(
        with_system("You are a pirate.", "First question about cats"), 0, "flow-a"
    ),
    "librechat/04-chat-turn2": says(
        with_system("You are a pirate.", "Second question, same conversation"), 2, "flow-a"
    ),
    "librechat/05-chat-regenerate": says("First question about cats", 0, "flow-a"),
    "librechat/06-chat-temporary": says("Temp chat", 0, "flow-a"),
    "librechat/07-chat-minimal": says("Hello there, first turn", 0, "flow-a"),
    "librechat/08-chat-reasoning-effort": says("Hi effort", 0, "flow-a"),
    "librechat/09-chat-image": says("What is in this image?", 0, "flow-a"),
    "librechat/10-chat-text-file": says(NOTE, 0, "flow-a"),
    "librechat/12-chat-after-unrequested-tool-call": says(LOST, 0, "flow-a"),
    "librechat/13-agent-tool-turn1": says(with_system("Use the calculator.", "USETOOL please"), 0, "flow-a"),
    "librechat/14-agent-tool-result": "The tool said: 4",
    "librechat/15-agent-tool-turn2": says(
        with_system("Use the calculator.", "Second agent turn"), 4, "flow-a"
    ),
    "librechat/18-direct-endpoint-add-drop": says("Hi params", 0, "flow-params"),
    "librechat/19-responses-chat": says(with_system("Be brief.", "Hi responses"), 0, "flow-responses"),
    "librechat/20-responses-web-search": says("Hi websearch param", 0, "flow-a"),
    "librechat/22-azure-chat": says("Hi azure", 0, "flow-azure"),
}


@pytest.mark.parametrize("name", PLAIN)
def test_a_turn_is_heard_as_it_was_said_and_answered(replay: Replay, name: str) -> None:
    answer = replay(name)
    assert answer.status == 200
    assert answer.text.strip() == PLAIN[name]
    assert answer.finish in ("stop", "completed")
    assert answer.calls == []
    heard(answer, replay.turns(name))


CONTINUED = {
    "openwebui/10-continue-response": ("Go on.", agent("Go on.", "42", 6)),
    "openwebui/25-image-refused-next-turn": (
        (asked := "[image left out]\n\nWhat is in this picture?\n\nGo on without the image please"),
        says(asked),
    ),
}
"""What is asked where the request's own last words are not all."""


@pytest.mark.parametrize("name", CONTINUED)
def test_a_turn_that_asks_nothing_new_or_cannot_be_told_whole(replay: Replay, name: str) -> None:
    answer = replay(name)
    asked, text = CONTINUED[name]
    assert (answer.seen[-1], answer.text) == (asked, text)
    assert answer.finish == "stop"


QUOTED = {
    "openwebui/27-rag-first-turn": "assistant",
    "openwebui/53-rag-second-turn": "assistant",
    "openwebui/38-merge-responses": "errors",
    "openwebui/42-legacy-function-calling": "assistant",
}


@pytest.mark.parametrize("name", QUOTED)
def test_a_prompt_of_the_uis_making_that_only_a_flow_can_answer_runs_it(replay: Replay, name: str) -> None:
    # The flow that was asked for tools in words fails by a word of theirs, "empty".
    answer = replay(name, model=f"demo-{QUOTED[name]}")
    turns = replay.turns(name)
    heard(answer, turns)
    assert answer.text == says(answer.seen[-1], len(turns) - 1, QUOTED[name])


# ------------------------------------------------------------------------------------------ a client's own tools
CALLS: dict[str, Json] = {
    "openwebui/31-tool-call-asked": {"get_current_timestamp": {}},
    "openwebui/33-turn-after-tool-call": {"get_current_timestamp": {}},
    "openwebui/34-temporary-chat": {"get_current_timestamp": {}},
    "openwebui/49-responses-tool-call-asked": {"get_weather": {"city": "Paris"}},
    "n8n/08-agent-tool-chat": {"Calculator": {"input": "42"}},
    "n8n/10-agent-memory-second-turn-chat": {"Calculator": {"input": "7"}},
    "n8n/14-agent-tool-responses": {"Calculator": {"input": "42"}},
    "n8n/16-agent-memory-second-turn-responses": {"Calculator": {"input": "7"}},
    "n8n/17-chat-trigger-stream-tool-chat": {"Calculator": {"input": "42"}},
    "n8n/19-chat-trigger-stream-tool-responses": {"Calculator": {"input": "42"}},
}
RESULTS = {
    "openwebui/32-tool-result": TIMES,
    "openwebui/50-responses-tool-result": "sunny in Paris",
    "n8n/09-agent-tool-result-chat": '[{"response":"42"}]',
    "n8n/15-agent-tool-result-responses": '[{"response":"42"}]',
    "n8n/18-chat-trigger-stream-tool-result-chat": '[{"response":"42"}]',
    "n8n/20-chat-trigger-stream-tool-result-responses": '[{"response":"42"}]',
}


@pytest.mark.parametrize("name", CALLS)
def test_a_tool_is_called(replay: Replay, name: str) -> None:
    answer = replay(name)
    assert answer.finish in ("tool_calls", "completed")
    assert {call["name"]: json.loads(call["arguments"]) for call in answer.calls} == CALLS[name]
    assert "<tool_call>" not in answer.text
    heard(answer, replay.turns(name))


@pytest.mark.parametrize("name", RESULTS)
def test_a_tools_result_is_answered(replay: Replay, name: str) -> None:
    answer = replay(name)
    assert (answer.text, answer.calls) == (f"The tool said: {RESULTS[name]}", [])
    assert answer.finish in ("stop", "completed")
    heard(answer, replay.turns(name))


# ----------------------------------------------------------------------------------------- what else they show
def test_open_webui_stays_in_one_session_until_it_branches(replay: Replay) -> None:
    names = ("03-chat-first-turn-native-tools", "06-second-turn", "07-third-turn", "08-regenerate")
    first, second, third, again = [replay(f"openwebui/{name}").runs[0] for name in names]
    assert first["session_id"] == second["session_id"] == third["session_id"] != again["session_id"]
    assert third["body"]["question"] == "Third: what is my name?"
    assert "history" not in third["body"]
    assert [m["content"] for m in again["messages"]] == [m["content"] for m in third["messages"]]


def test_open_webui_that_leaves_goes_on_from_what_it_has(replay: Replay) -> None:
    replay.left("openwebui/12-slow-stopped-by-user")
    (left,) = replay.flowise.records()
    after = replay("openwebui/13-after-stop")
    assert after.runs[0]["session_id"] != left["session_id"]
    heard(after, replay.turns("openwebui/13-after-stop"))


def test_librechat_that_leaves_ends_the_run(replay: Replay) -> None:
    # Its flow was one that talks for long.
    slowly = [{"role": "user", "content": "please be slow"}]
    replay.left("librechat/23-chat-aborted", model="demo-agent-errors", messages=slowly)
    assert wait_for(lambda: replay.flowise.records()[0]["outcome"] == "aborted", 5)


APPROVALS = {
    "openwebui/16-approval-approve": ("14-approval-asked", "You said yes"),
    "openwebui/18-tool-approval-reject": ("17-tool-approval-asked", "I did not use the tool."),
}


@pytest.mark.parametrize("name", APPROVALS)
def test_a_decision_goes_to_the_run_that_waits(replay: Replay, name: str) -> None:
    before, text = APPROVALS[name]
    asked = replay(f"openwebui/{before}")
    assert asked.text.endswith("(Waiting for your decision: Proceed / Reject)")
    question, _, decision = recorded(name)["body"]["messages"]
    shown = {"role": "assistant", "content": asked.text.strip()}  # as Open WebUI keeps it
    answer = replay(name, messages=[question, shown, decision])
    assert answer.text.strip() == text
    (run,) = answer.runs
    assert run["session_id"] == asked.runs[0]["session_id"]
    human = run["body"]["humanInput"]
    assert human["type"] == ("reject" if "reject" in name else "proceed")
    assert human.get("feedback") == ("because it is too easy" if "reject" in name else None)


def test_a_decision_by_responses_goes_to_the_run_that_waits(replay: Replay) -> None:
    name = "openwebui/52-responses-approval-approve"
    asked = replay(name, input=recorded(name)["body"]["input"][:1])
    assert asked.text == SHALL_I
    answer = replay(name)
    assert (answer.text, answer.finish) == ("You said yes", "completed")
    assert answer.runs[0]["body"]["humanInput"]["type"] == "proceed"


def test_open_webui_gets_its_sources(replay: Replay) -> None:
    answer = replay("openwebui/19-sources")
    events = [chunk["event"]["data"] for chunk in answer.chunks if "event" in chunk]
    assert [event["source"]["name"] for event in events] == ["Introduction", "Prediction", "rivers.txt"]
    assert events[2]["metadata"] == [{"source": "rivers.txt", "name": "rivers.txt", "page": 2}]


def test_a_browser_fetches_what_a_flow_made(replay: Replay) -> None:
    answer = replay("openwebui/20-files-made")
    assert answer.text.startswith(says("Make me a chart", 0, "files"))
    links = re.findall(r"(!?)\[([^\]]*)\]\(([^)]*)\)", answer.text)
    assert [(mark, name) for mark, name, _ in links] == [
        ("!", "chart.png"),
        ("", "page.html"),
        ("!", "not really.png"),
        ("", "report.pdf"),
    ]
    headers = {
        **recorded("openwebui/21-browser-fetches-image")["headers"],
        "Host": replay.url.removeprefix("http://"),
        "Connection": "close",
    }
    file = requests.get(links[0][2], headers=headers, timeout=30)
    assert (file.status_code, file.headers["Content-Type"]) == (200, "image/png")
    assert file.content.startswith(b"\x89PNG")
    foreign = replay("openwebui/21-browser-fetches-image")
    assert (foreign.status, foreign.body["error"]["code"]) == (404, "file_not_found")


@pytest.mark.parametrize(
    ("name", "mime"),
    [
        ("openwebui/22-image", "image/png"),
        ("openwebui/51-responses-image", "image/png"),
        ("librechat/09-chat-image", "image/png"),
    ],
)
def test_a_picture_goes_along(replay: Replay, name: str, mime: str) -> None:
    (upload,) = replay(name).runs[0]["body"]["uploads"]
    assert (upload["type"], upload["mime"]) == ("file", mime)
    assert upload["data"].startswith(f"data:{mime};base64,iVBORw0KGgo")


def test_a_pictures_address_is_passed_on_as_it_is(replay: Replay) -> None:
    (upload,) = replay("n8n/24-openai-node-image-url").runs[0]["body"]["uploads"]
    assert (upload["type"], upload["data"]) == ("url", "http://127.0.0.1:8471/x.png")


def test_a_picture_that_the_flow_cannot_take_is_refused_in_its_own_turn(replay: Replay) -> None:
    answer = replay("openwebui/24-image-refused")
    assert (answer.status, answer.runs) == (400, [])
    error = answer.body["error"]
    assert (error["code"], error["param"]) == ("unsupported_content", "messages[0].content[2].image_url.url")
    assert "does not accept images" in error["message"]


def test_librechats_pdf_goes_into_the_question(replay: Replay) -> None:
    answer = replay("librechat/11-chat-pdf-file")
    assert answer.seen == ['<doc name="doc.pdf">The text of doc.pdf.</doc>\n\nSummarise this pdf']


def test_a_stream_that_fails_midway_is_an_error_to_n8n(replay: Replay) -> None:
    answer = replay("n8n/21-chat-trigger-stream-fails-midway-responses")
    kinds = [chunk["type"] for chunk in answer.chunks]
    assert kinds[-2:] == ["error", "response.failed"]
    assert answer.text == "Reply to [failmid] after "
    assert answer.response["error"]["message"] == answer.chunks[-2]["message"]


ASK_USAGE = [
    "openwebui/41-system-prompt-parameters-usage",
    "n8n/17-chat-trigger-stream-tool-chat",
    "librechat/22-azure-chat",
]
NEVER_ASK = ["librechat/07-chat-minimal"]


@pytest.mark.parametrize("name", [*ASK_USAGE, *NEVER_ASK])
def test_usage_comes_to_whoever_asks_and_to_librechat(replay: Replay, name: str) -> None:
    assert replay(name).chunks[-1]["usage"]["total_tokens"] > 0


IGNORED = {
    "openwebui/03-chat-first-turn-native-tools": "tools",
    "openwebui/41-system-prompt-parameters-usage": "temperature, max_tokens, seed",
    "n8n/22-openai-node-message": "parallel_tool_calls",
    "n8n/23-openai-node-json-schema": "parallel_tool_calls, text.verbosity",
    "n8n/25-cli-execute-responses": "temperature, max_output_tokens",
    "librechat/03-chat-turn1-params": "temperature, presence_penalty, frequency_penalty, max_tokens",
    "librechat/08-chat-reasoning-effort": "reasoning_effort",
    "librechat/20-responses-web-search": "tools",
}


@pytest.mark.parametrize("name", IGNORED)
def test_what_no_flow_can_obey_is_named(replay: Replay, name: str) -> None:
    assert replay(name).headers["x-flowise-ignored-params"] == IGNORED[name]


def test_a_waiting_flow_offers_its_choices_whoever_answers_tasks(flowise: DemoServer, folder: Path) -> None:
    (folder / "proxy.yaml").write_text("tasks: {model: flow}\n")
    with RunningProxy(folder, FLOWISE_BASE_URL=flowise.base_url) as own:
        replay = Replay(own, flowise)
        choices, others = replay("openwebui/15-approval-follow-ups"), replay("openwebui/04-follow-ups")
    assert (json.loads(choices.text), choices.runs) == ({"follow_ups": ["Proceed", "Reject"]}, [])
    assert len(others.runs) == 1


ALONE = {
    *("openwebui/12-slow-stopped-by-user", "openwebui/17-tool-approval-asked", "openwebui/20-files-made"),
    *("openwebui/21-browser-fetches-image", "openwebui/24-image-refused"),
    *("openwebui/52-responses-approval-approve", "n8n/21-chat-trigger-stream-fails-midway-responses"),
    *("librechat/11-chat-pdf-file", "librechat/23-chat-aborted"),
}
"""Recordings that have a test of their own."""


def test_every_recording_is_replayed() -> None:
    tables = (BUILTIN, TURNS_OF_OPENCODE, LISTS, PLAIN, CONTINUED, QUOTED, CALLS, RESULTS, APPROVALS, ALONE)
    replayed = [name for table in tables for name in table]
    folders = ("openwebui", "n8n", "librechat", "opencode")
    there = [f"{folder}/{path.stem}" for folder in folders for path in (WIRE / folder).glob("*.json")]
    assert sorted(replayed) == sorted(there)
