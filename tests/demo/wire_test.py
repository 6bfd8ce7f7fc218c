"""The demo Flowise answers as the recorded Flowise 3.1.4 does: heads, events and their order, fields."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from flowise_demo.server import DEMO_FLOWS, DemoOptions
from tests.support.demo_client import Client, Reply, collapsed, is_silent, read_until, running, wait_for

WIRE = Path(__file__).parents[1] / "wire" / "flowise-3.1.4"
INDEX: dict[str, Any] = json.loads((WIRE / "index.json").read_text())
KEY = "right-key"
AGENT_ERRORS = "a1d6c2f4-58b3-4e0d-9f27-36c8e5b09a74"
AGENT_KEYED = "b2e7d3a5-69c4-4f1e-8a38-47d9f6c1ab85"
CHAIN = "c3f8e4b6-7ad5-402f-9b49-58ea07d2bc96"


@pytest.fixture(scope="module")
def keyed_demo() -> Iterator[Client]:
    """A demo with a key, as the recorded server had one, and flows like those of the recordings."""
    with running(DemoOptions(record=True, token_seconds=0.0, key=KEY)) as client:
        client.call("POST", "/__demo/flows", {"id": AGENT_ERRORS, "kind": "tool_agent", "scripts": "all"})
        client.call("POST", "/__demo/flows", {"id": AGENT_KEYED, "kind": "llm_agent", "keyed": True})
        client.call("POST", "/__demo/flows", {"id": CHAIN, "kind": "conversation", "memory": False})
        yield client


# -------------------------------------------------------------------------------------------- the comparison
EXACT = {"status", "nodeId", "nodeLabel", "role", "name", "type", "tool", "memoryType", "finish_reason"}
FREE = {"metadata", "reasonContent"}  # documents differ; the recorded model did not show its reasoning


def shape(value: Any, key: str = "") -> Any:
    """The value with all gone but its fields, their order, and the words that are part of the contract."""
    if isinstance(value, dict):
        return [(name, shape(part, name)) for name, part in value.items() if name not in FREE]
    if isinstance(value, list):
        shapes = [shape(part, key) for part in value]
        return [one for at, one in enumerate(shapes) if one not in shapes[:at]]
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int | float):
        return "number"
    return value if key in EXACT and value in CONTRACT_WORDS else "text"


CONTRACT_WORDS = {
    *("[DONE]", "INPROGRESS", "FINISHED", "STOPPED", "ERROR", "user", "assistant", "system", "tool", "stop"),
    *("tool_calls", "calculator", "function", "tool_call", "Start", "LLM", "Agent", "Human Input", "llm"),
    *("Direct Reply", "agent", "agentflowv2-approve-button", "agentflowv2-reject-button", "Buffer Memory"),
    *("startAgentflow_0", "llmAgentflow_0", "agentAgentflow_0", "humanInputAgentflow_0", "startAgentflow"),
    *("directReplyAgentflow_0", "directReplyAgentflow_1", "llmAgentflow", "agentAgentflow"),
}


def event_shapes(events: list[tuple[str, Any]]) -> list[Any]:
    """What the stream is made of: the order of the events, and the shape of each that is no token."""
    silent = ("token", "thinking", "start")
    shapes = [(name, shape(data, "status")) for name, data in events if name not in silent]
    return [collapsed(events), shapes]


@dataclass(frozen=True)
class Recording:
    name: str

    @property
    def reply(self) -> Reply:
        raw = (WIRE / f"{self.name}.http").read_bytes().removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")
        head, _, body = raw.decode().partition("\r\n\r\n")
        first, *lines = head.split("\r\n")
        headers = [(name, value) for name, _, value in (line.partition(": ") for line in lines)]
        return Reply(int(first.split()[1]), headers, body)

    @property
    def request(self) -> dict[str, Any]:
        return dict(INDEX[self.name])


FLOWS_OF_RECORDINGS = {
    "conv": "demo-assistant",
    "rag": "demo-sources",
    "llmchain": CHAIN,
    "conv_nostream": "demo-json",
    "conv_keyed": "demo-keyed",
    "af_llm": "demo-agent-errors",
    "af_llm_keyed": AGENT_KEYED,
    "af_agent": "demo-agent",
    "af_human": "demo-approval",
    "af_agent_human": "demo-tool-approval",
}
VOLATILE_HEADERS = {"Date", "Content-Length", "ETag", "X-RateLimit-Reset", "Retry-After"}


def same_headers(ours: Reply, recorded: Reply) -> None:
    def stable(reply: Reply) -> list[tuple[str, str]]:
        known = [(name, "" if name in VOLATILE_HEADERS else value) for name, value in reply.headers]
        return known if "event-stream" in reply.header("Content-Type") else sorted(known)

    assert stable(ours) == stable(recorded)


def same_content(ours: Reply, recorded: Reply) -> None:
    kind = recorded.header("Content-Type")
    if "event-stream" in kind:
        assert event_shapes(ours.events) == event_shapes(recorded.events)
        errors = [[data for name, data in one.events if name == "error"] for one in (ours, recorded)]
        assert errors[0] == errors[1]
    elif "json" not in kind:
        assert ours.text.strip() == recorded.text.strip()
    elif recorded.status >= 400:
        assert without_ids(ours.text) == without_ids(recorded.text.strip())
    else:
        assert shape(ours.body) == shape(recorded.body)


def without_ids(text: str) -> str:
    return re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "ID", text)


def replayed(client: Client, name: str, flow: str = "", **changed: Any) -> Reply:
    """The recorded request sent to the demo, its flow replaced by the demo's flow of that kind."""
    request = Recording(name).request
    flow = flow or FLOWS_OF_RECORDINGS.get(request["flow"] or "", "")
    path = (
        re.sub(r"[0-9a-f-]{36}", DEMO_FLOWS.get(flow, flow), request["path"], count=1)
        if flow
        else request["path"]
    )
    body = request.get("body")
    if isinstance(body, dict):
        body = body | changed
        if "head" in body:
            body = str(body["head"]).encode()
    keys = {
        "<API_KEY_ALL>": client.key,
        "<API_KEY_VIEW>": client.key if name.startswith("route-") else "other",
    }
    headers = {}
    for header, value in (request.get("headers") or {}).items():
        for placeholder, real in keys.items():
            value = value.replace(placeholder, real)  # noqa: PLW2901 - a chain of replacements
        headers[header] = value
    return client.call(request["method"], path, body, headers)


# ---------------------------------------------------------------------------------------------- the replays
SAME = [
    "ok-conv-stream",
    "ok-conv-json",
    "ok-rag-stream",
    "ok-rag-json",
    "ok-af_agent-stream",
    "ok-af_agent-json",
    "ok-conv_nostream-json",
    "ok-conv_nostream-stream",
    "ok-llmchain-stream",
    "ok-llmchain-json",
    "ok-af_llm-stream",
    "ok-af_llm-json",
    "ok-af_agent_human-stream",
    "ok-af_agent_human-json",
    "ok-key-right-conv_keyed-json",
    "ok-key-right-conv_keyed-stream",
    "ok-key-right-af_llm_keyed-json",
    "ok-key-right-af_llm_keyed-stream",
    "ok-key-right-lowercase-bearer",
    "ok-key-right-no-bearer",
    "ok-public-flow-with-wrong-key",
    "ok-form-urlencoded",
    "ok-accept-encoding-gzip",
    "ok-streaming-string-true",
    "ok-streaming-number-1",
    "ok-accept-sse-header-only",
    "ok-markup-in-question",
    "ok-think-af-stream",
    "ok-think-af-json",
    "err-unknown-flow-json",
    "err-unknown-flow-stream-false-string",
    "err-malformed-id-json",
    "err-no-id",
    "err-no-id-slash",
    "err-wrong-case",
    "err-key-missing-conv_keyed-json",
    "err-key-missing-conv_keyed-stream",
    "err-key-wrong-conv_keyed-json",
    "err-key-wrong-conv_keyed-stream",
    "err-key-other-valid-conv_keyed-json",
    "err-key-other-valid-conv_keyed-stream",
    "err-key-missing-af_llm_keyed-json",
    "err-key-missing-af_llm_keyed-stream",
    "err-key-x-api-key",
    "err-body-empty-object-conv-json",
    "err-body-empty-object-conv-stream",
    "err-question-empty-conv-json",
    "err-question-empty-conv-stream",
    "err-question-number-conv",
    "err-question-object-conv",
    "err-body-empty-object-af_llm-json",
    "err-body-empty-object-af_llm-stream",
    "err-question-empty-af_llm-json",
    "err-question-empty-af_llm-stream",
    "err-question-number-af_llm",
    "err-question-object-af_llm",
    "err-body-none",
    "err-body-text-plain",
    "err-nonstreamable-flow-json",
    "err-chatid-number",
    "err-sessionid-number",
    "err-unknown-api-path-nokey",
    "abort-unknown-chatid",
    "abort-unknown-flow",
    "abort-malformed-flow",
    "route-version",
    "route-ping",
    "route-head-ping",
    "route-uploads-unknown",
    "route-streaming-unknown",
    "route-streaming-malformed",
    "route-config-unknown",
    "route-list-page-negative",
    "route-list-paged-nokey",
    "route-list-wrongkey",
    "route-get-one-nokey",
    "route-get-unknown-key",
    "route-get-malformed-key",
    "route-chatmessage-nokey",
    "route-metrics",
    "human-6-no-such-execution",
]
REPLACED = {
    "route-uploads-conv": "demo-assistant",
    "route-uploads-af_llm": "demo-agent-errors",
    "route-uploads-rag": "demo-sources",
    "err-llm-fail401-conv-json": "demo-errors",
    "err-llm-fail401-conv-stream": "demo-errors",
    "err-llm-fail401-af_llm-json": "demo-agent-errors",
    "err-llm-fail401-af_llm-stream": "demo-agent-errors",
    "err-llm-fail401-af_agent-stream": AGENT_ERRORS,
    "err-llm-failctx-conv-json": "demo-errors",
    "err-llm-failctx-conv-stream": "demo-errors",
    "err-llm-failctx-af_llm-json": "demo-agent-errors",
    "err-llm-failctx-af_llm-stream": "demo-agent-errors",
    "err-llm-failctx-af_agent-json": AGENT_ERRORS,
    "err-llm-failctx-af_agent-stream": AGENT_ERRORS,
    "err-llm-failmid-conv-json": "demo-errors",
    "err-llm-failmid-conv-stream": "demo-errors",
    "err-llm-failmid-af_llm-json": "demo-agent-errors",
    "err-llm-failmid-af_llm-stream": "demo-agent-errors",
    "err-llm-failmid-af_agent-json": AGENT_ERRORS,
    "err-llm-failmid-af_agent-stream": AGENT_ERRORS,
    "err-llm-429-conv-json": "demo-errors",
    "err-llm-429-af-stream": "demo-agent-errors",
    "err-llm-500-conv-stream": "demo-errors",
    "ok-empty-answer-conv-json": "demo-errors",
    "ok-empty-answer-conv-stream": "demo-errors",
    "ok-empty-answer-af-json": "demo-agent-errors",
    "ok-empty-answer-af-stream": "demo-agent-errors",
    "ok-unicode-conv-json": "demo-errors",
    "ok-unicode-conv-stream": "demo-errors",
    "ok-markdown-conv-json": "demo-errors",
    "ok-markdown-conv-stream": "demo-errors",
}


@pytest.mark.parametrize("name", [*SAME, *REPLACED])
def test_the_demo_answers_as_recorded(keyed_demo: Client, name: str) -> None:
    recorded = Recording(name).reply
    ours = replayed(keyed_demo, name, REPLACED.get(name, ""))
    assert ours.status == recorded.status
    same_headers(ours, recorded)
    same_content(ours, recorded)


@pytest.mark.parametrize("name", ["ok-unicode-conv-stream", "ok-markdown-conv-stream"])
def test_scripted_texts_are_the_recorded_ones_to_the_letter(keyed_demo: Client, name: str) -> None:
    assert replayed(keyed_demo, name, "demo-errors").said == Recording(name).reply.said


@pytest.mark.parametrize("name", ["err-ratelimit-call3-json", "err-ratelimit-stream"])
def test_the_rate_limit_answers_as_recorded(keyed_demo: Client, name: str) -> None:
    ours, recorded = replayed(keyed_demo, name, "demo-errors", question="ratelimit"), Recording(name).reply
    assert ours.status == recorded.status
    same_headers(ours, recorded)
    same_content(ours, recorded)


def test_a_stalled_stream_sends_heartbeats_and_then_all_events_as_recorded(keyed_demo: Client) -> None:
    ours = keyed_demo.ask("demo-agent-errors", "stall0.06")
    recorded = Recording("heartbeat-stall-af-stream").reply
    assert ours.text.count(":heartbeat\n\n") == 2
    same_content(ours, recorded)


def test_a_person_is_asked_and_the_run_goes_on_as_recorded(keyed_demo: Client) -> None:
    for name in (f"human-{number}" for number in (1, 2, 3, 4, 5, 7, 8)):
        full_name = next(known for known in INDEX if known.startswith(name))
        ours, recorded = replayed(keyed_demo, full_name), Recording(full_name).reply
        assert ours.status == recorded.status, full_name
        same_content(ours, recorded)


def test_an_answered_question_cannot_be_answered_again(keyed_demo: Client) -> None:
    keyed_demo.ask("demo-approval", "go", chatId="once")
    decision: dict[str, Any] = {
        "humanInput": {"type": "reject", "feedback": "no"},
        "chatId": "once",
        "streaming": False,
    }
    assert keyed_demo.ask("demo-approval", "", **decision).body["text"] == "You said no"
    again = keyed_demo.ask("demo-approval", "", **decision)
    assert "because it is in 'FINISHED' state" in again.body["message"]
    wrong = keyed_demo.ask("demo-approval", "", humanInput={"type": "maybe"}, streaming=False)
    assert "Invalid human input type" in wrong.body["message"]


def test_a_rejected_tool_is_not_used(keyed_demo: Client) -> None:
    keyed_demo.ask("demo-tool-approval", "go", chatId="tool")
    ours = keyed_demo.ask("demo-tool-approval", "", chatId="tool", humanInput={"type": "reject"})
    assert ours.said == "I did not use the tool. "
    assert "usedTools" not in ours.names


@pytest.mark.parametrize(
    ("name", "flow"),
    [("abort-af_llm", "demo-agent-errors"), ("abort-af_agent", AGENT_ERRORS)],
)
def test_an_abort_stops_an_agentflow_as_recorded(keyed_demo: Client, name: str, flow: str) -> None:
    stream = keyed_demo.open(flow, "slow", chatId=f"{name}-stream")
    got = read_until(stream, b"word1 ")
    same_content(keyed_demo.abort(flow, f"{name}-stream"), Recording(f"{name}-stream-abortcall").reply)
    got += read_until(stream, b"\r\n0\r\n\r\n")
    ours = Reply(200, [], re.sub(rb"\r\n[0-9a-f]+\r\n", b"", got).decode())
    same_content(ours, Recording(f"{name}-stream").reply)
    answer = keyed_demo.open(flow, "slow", chatId=f"{name}-json", streaming=False)
    wait_for(lambda: keyed_demo.records()[-1]["messages"] != [])
    keyed_demo.abort(flow, f"{name}-json")
    body = read_until(answer, b'"stack":{}}').decode()
    assert body.endswith(Recording(f"{name}-json").reply.text.strip())


def test_each_message_of_a_stream_is_one_chunk_as_recorded(keyed_demo: Client) -> None:
    recorded = (WIRE / "ok-conv-stream-rawchunks.http").read_bytes().partition(b"\r\n\r\n")[2]
    stream = keyed_demo.open("demo-assistant", "Hello there")
    ours = read_until(stream, b"\r\n0\r\n\r\n").partition(b"\r\n\r\n")[2]
    frame = rb'([0-9a-f]+\r\nmessage:\ndata:\{"event":"[^\n]+\}\n\n\r\n)+0\r\n\r\n'
    assert re.fullmatch(frame, ours)
    assert re.fullmatch(frame, recorded.rstrip(b"\r\n") + b"\r\n\r\n")


@pytest.mark.parametrize(
    "name", ["err-unknown-flow-stream", "err-malformed-id-stream", "err-nonstreamable-flow-stream"]
)
def test_a_stream_that_fails_before_its_head_gets_not_one_byte(keyed_demo: Client, name: str) -> None:
    assert (WIRE / f"{name}.http").read_bytes() == b""
    request = Recording(name).request
    flow = FLOWS_OF_RECORDINGS.get(request["flow"] or "") or request["path"].rpartition("/")[2]
    assert is_silent(keyed_demo.open(flow, request["body"]["question"]))


@pytest.mark.parametrize(
    "name", ["route-root", "err-get-method", "err-unknown-path-post", "err-unknown-api-path-key"]
)
def test_any_other_path_is_the_page_of_the_user_interface(keyed_demo: Client, name: str) -> None:
    ours, recorded = replayed(keyed_demo, name), Recording(name).reply
    assert ours.status == recorded.status
    assert ours.text.startswith(recorded.text[:100])
    assert {header for header, _ in ours.headers} == {header for header, _ in recorded.headers}


@pytest.mark.parametrize("name", ["route-list-paged-all", "route-get-one-all"])
def test_the_rows_of_the_listing_begin_as_recorded(keyed_demo: Client, name: str) -> None:
    ours, recorded = (
        replayed(keyed_demo, name, "demo-assistant" if "one" in name else ""),
        Recording(name).reply,
    )
    beginning = re.compile(
        r'^(\{"data":\[)?\{"id":"[0-9a-f-]{36}","name":"[^"]*","flowData":"\{\\"nodes\\": ?\['
    )
    assert beginning.match(ours.text)
    assert beginning.match(recorded.text)


def test_stored_messages_have_the_recorded_fields(keyed_demo: Client) -> None:
    keyed_demo.ask("demo-assistant", "Hello there", chatId="stored")
    path = f"/api/v1/chatmessage/{DEMO_FLOWS['demo-assistant']}?chatId=stored"
    ours = keyed_demo.call("GET", path, headers={"Authorization": f"Bearer {KEY}"}).body
    recorded, _ = json.JSONDecoder().raw_decode(Recording("route-chatmessage-all").reply.text, 1)
    assert [shape(row) for row in ours] == [shape(recorded)] * 2
    assert [row["role"] for row in ours] == ["userMessage", "apiMessage"]


@pytest.mark.parametrize("name", ["err-body-bad-json", "err-body-bad-json-streaming"])
def test_a_broken_body_is_refused_even_if_it_asks_for_a_stream(keyed_demo: Client, name: str) -> None:
    ours, recorded = replayed(keyed_demo, name), Recording(name).reply
    assert ours.status == recorded.status == 400
    assert shape(ours.body) == shape(recorded.body)


ATTACHMENT = (
    b'--edge\r\nContent-Disposition: form-data; name="files"; filename="a.txt"\r\nContent-Type: text/plain\r\n'
    b'\r\nattached text\n\r\n--edge\r\nContent-Disposition: form-data; name="base64"\r\n\r\nfalse\r\n--edge--\r\n'
)


@pytest.mark.parametrize("name", ["route-attachments-conv", "route-attachments-conv_fullfile"])
def test_files_are_read_by_flows_that_take_whole_files(keyed_demo: Client, name: str) -> None:
    config = {"fullFileUpload": {"status": name.endswith("fullfile")}}
    flow = keyed_demo.create(name="Reader", chatbotConfig=json.dumps(config))
    headers = {"Content-Type": "multipart/form-data; boundary=edge"}
    ours = keyed_demo.call("POST", f"/api/v1/attachments/{flow}/some-chat", ATTACHMENT, headers)
    recorded = Recording(name).reply
    assert ours.status == recorded.status
    same_headers(ours, recorded)
    assert ours.body == recorded.body


# ------------------------------------------------------------------------------- the comparison can also fail
def altered(old: str, new: str, name: str = "ok-af_agent-stream") -> Reply:
    recorded = Recording(name).reply
    assert old in recorded.text
    return Reply(recorded.status, recorded.headers, recorded.text.replace(old, new, 1))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"event":"usedTools"', '"event":"toolsUsed"'),
        ('"event":"calledTools","data":[]', '"event":"token","data":""'),
        ('"event":"agentFlowEvent","data":"FINISHED"', '"event":"end","data":"[DONE]"'),
        ('"toolOutput":"42"', '"output":"42"'),
        ('"input_tokens":28,"output_tokens":4', '"output_tokens":4,"input_tokens":28'),
        ('"total_tokens":32', '"total_tokens":"32"'),
        ('"status":"FINISHED"', '"status":"INPROGRESS"'),
        ('"agentFlowEvent","data":"FINISHED"', '"agentFlowEvent","data":"STOPPED"'),
        ('"nodeLabel":"Agent"', '"nodeLabel":"LLM"'),
        ('"executionId"', '"runId"'),
    ],
)
def test_the_comparison_sees_any_change_of_events_fields_or_order(old: str, new: str) -> None:
    name = "ok-af_agent-json" if "executionId" in old else "ok-af_agent-stream"
    with pytest.raises(AssertionError):
        same_content(altered(old, new, name), Recording(name).reply)


def test_the_comparison_sees_a_changed_head_error_or_text() -> None:
    recorded = Recording("err-key-missing-conv_keyed-stream").reply
    with pytest.raises(AssertionError):
        same_headers(Reply(200, [*recorded.headers, ("X-New", "1")], ""), recorded)
    for name, old in (
        ("err-key-missing-conv_keyed-stream", "Unauthorized"),
        ("err-unknown-flow-json", "not found"),
        ("route-ping", "pong"),
    ):
        with pytest.raises(AssertionError):
            same_content(altered(old, "else", name), Recording(name).reply)
