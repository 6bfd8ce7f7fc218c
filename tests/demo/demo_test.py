"""The demo Flowise remembers and streams as Flowise does, and its scripted flows fail as they are told to."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from flowise_demo.scripts import SCRIPTS
from flowise_demo.server import DEMO_FLOWS, DemoOptions
from tests.support.demo_client import (
    Client,
    is_silent,
    parsed_events,
    read_for,
    read_to_end,
    read_until,
    running,
    wait_for,
)

SCRIPTED = ("demo-errors", "demo-agent-errors")


def seen(demo: Client) -> list[str]:
    """What the model of the last prediction saw, role and text."""
    return [f"{message['role']}: {message['content']}" for message in demo.records()[-1]["messages"]]


def test_the_assistant_repeats_the_question_and_counts_what_it_remembers(demo: Client) -> None:
    first = demo.ask("demo-assistant", "Hello there", chatId="counting").said
    second = demo.ask("demo-assistant", "And now?", chatId="counting").said
    assert first.startswith('You asked: "Hello there" This is the demo assistant;')
    assert "I remember 0 earlier messages" in first
    assert "I remember 2 earlier messages" in second


def test_a_long_question_is_not_repeated_in_full(demo: Client) -> None:
    assert len(demo.ask("demo-assistant", "x" * 5_000).said) < 600


def test_tokens_are_words_and_come_at_the_pace_that_was_set() -> None:
    with running(DemoOptions(token_seconds=0.01)) as client:
        started = time.monotonic()
        reply = client.ask("demo-assistant", "Hello there")
        tokens = [data for name, data in reply.events if name == "token"]
        assert tokens[:3] == ["You ", "asked: ", '"Hello ']
        assert time.monotonic() - started >= 0.01 * len(tokens)


def test_the_agent_thinks_uses_its_tool_and_reports_usage(demo: Client) -> None:
    reply = demo.ask("demo-agent", "What is 12 * 12?")
    thoughts = [one for one in reply.text.split("\n") if '"event":"thinking"' in one]
    assert thoughts[-1] == 'data:{"event":"thinking","data":"","duration":1}'
    used = [data for name, data in reply.events if name == "usedTools"]
    assert used == [[{"tool": "calculator", "toolInput": {"input": "12*12"}, "toolOutput": "144"}]]
    assert reply.said.startswith("The tool said 144. You asked:")


@pytest.mark.parametrize(
    ("asked", "result"), [("7 - 9", "-2"), ("1+1", "2"), ("3/2", "1.5"), ("1/0", "Infinity")]
)
def test_the_agents_calculator_calculates(demo: Client, asked: str, result: str) -> None:
    assert f"The tool said {result}. " in demo.ask("demo-agent", asked, streaming=False).body["text"]


def test_the_sources_are_pages_and_one_file_without_an_address(demo: Client) -> None:
    documents = demo.ask("demo-sources", "Where is the Nile?", streaming=False).body["sourceDocuments"]
    addresses = [document["metadata"]["source"] for document in documents]
    assert [address.startswith("https://") for address in addresses] == [True, True, False]


def test_the_session_wins_over_the_chat_for_memory(demo: Client) -> None:
    session: dict[str, Any] = {"overrideConfig": {"sessionId": "session-1"}}
    demo.ask("demo-assistant", "one", chatId="chat-1", **session)
    demo.ask("demo-assistant", "two", chatId="chat-2", **session)
    assert [line.partition(": ")[0] for line in seen(demo)] == ["user", "assistant", "user"]
    demo.ask("demo-assistant", "three", chatId="chat-1")
    assert seen(demo) == ["user: three"]


def test_history_goes_in_front_of_the_stored_messages_and_is_not_stored(demo: Client) -> None:
    history = [{"role": "userMessage", "content": "H-user"}, {"role": "apiMessage", "content": "H-api"}]
    for flow in ("demo-assistant", "demo-agent-errors"):
        demo.ask(flow, "first", chatId=f"history {flow}")
        demo.ask(flow, "second", chatId=f"history {flow}", history=history)
        with_history = seen(demo)
        assert with_history[:3] == ["user: H-user", "assistant: H-api", "user: first"]
        demo.ask(flow, "third", chatId=f"history {flow}")
        assert "user: H-user" not in seen(demo)


def test_a_chatflow_drops_roles_that_it_does_not_know(demo: Client) -> None:
    history = [{"role": "system", "content": "S"}, {"role": "user", "content": "U"}, 5]
    demo.ask("demo-assistant", "q", history=[*history, {"type": "userMessage", "message": "legacy"}])
    assert seen(demo) == ["user: ", "user: q"]
    demo.ask("demo-assistant", "q", history="text")
    assert seen(demo) == ["user: q"]


@pytest.mark.parametrize(
    "history", ["text", [5], [{"role": "user", "content": "U"}], [{"role": "apiMessage", "content": 5}]]
)
def test_an_agentflow_refuses_a_history_that_is_not_its_own(demo: Client, history: Any) -> None:
    reply = demo.ask("demo-agent", "q", streaming=False, history=history)
    assert reply.status == 500
    assert "Invalid history format." in reply.body["message"]
    assert demo.ask("demo-agent", "q", history=history).names == ["error", "end"]


def test_flows_without_memory_start_anew_each_time(demo: Client) -> None:
    history = [{"role": "userMessage", "content": "H"}]
    chain = demo.create(name="Chain", memory=False)
    agent = demo.create(name="Forgetful agent", type="AGENTFLOW", memory=False)
    for flow, expected in ((chain, ["user: q"]), (agent, ["user: H", "user: q"])):
        demo.ask(flow, "before", chatId="same")
        demo.ask(flow, "q", chatId="same", history=history)
        assert seen(demo) == expected


def test_a_run_goes_on_when_its_client_leaves_and_is_stored(demo: Client) -> None:
    left = demo.open("demo-errors", "stall0.1", chatId="left")
    read_until(left, b'"start"')
    left.close()
    wait_for(lambda: demo.records()[0]["outcome"] == "finished")
    stored = demo.call("GET", f"/api/v1/chatmessage/{DEMO_FLOWS['demo-errors']}?chatId=left").body
    assert (len(stored), stored[0]["content"]) == (2, "stall0.1")


def test_the_oldest_sessions_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowise_demo.memory.MAX_SESSIONS", 1)
    with running(DemoOptions(record=True, token_seconds=0.0)) as client:
        for chat, question in (("old", "one"), ("old", "two"), ("new", "three"), ("old", "four")):
            client.ask("demo-assistant", question, chatId=chat)
        assert [len(record["messages"]) for record in client.records()] == [1, 3, 1, 1]


def test_a_full_text_file_goes_in_front_of_the_question(demo: Client) -> None:
    upload = {"type": "file:full", "name": "a.txt", "mime": "text/plain", "data": "full text"}
    demo.ask("demo-assistant", "q", uploads=[upload])
    assert seen(demo) == ["user: <doc name='a.txt'>full text</doc>\n\n\n\nq"]


def test_an_upload_without_a_data_uri_fails(demo: Client) -> None:
    reply = demo.ask("demo-assistant", "q", uploads=[{"type": "file", "name": "a.png", "data": "iVBOR"}])
    assert "reading 'split'" in dict(reply.events)["error"]


SYSTEM = [{"name": "systemMessagePrompt", "enabled": True}, {"name": "llmMessages", "enabled": True}]


def test_an_enabled_override_becomes_the_system_message(demo: Client) -> None:
    enabled = json.dumps({"overrideConfig": {"status": True, "nodes": {"Conversation Chain": SYSTEM}}})
    chat = demo.create(name="Chat", apiConfig=enabled)
    agent = demo.create(name="Agent", type="AGENTFLOW", apiConfig=enabled)
    for flow, override, expected in (
        (chat, {"systemMessagePrompt": 'Say {{"a": 1}}'}, 'system: Say {"a": 1}'),
        (chat, {"systemMessagePrompt": {"conversationChain_0": "By node"}}, "system: By node"),
        (agent, {"llmMessages": [{"role": "system", "content": "{x}"}]}, "system: {x}"),
    ):
        demo.ask(flow, "q", overrideConfig=override)
        assert seen(demo) == [expected, "user: q"]
    braces = demo.ask(chat, "q", streaming=False, overrideConfig={"systemMessagePrompt": "json {x}"})
    assert "Missing value for input variable `x`" in braces.body["message"]
    demo.ask("demo-assistant", "q", overrideConfig={"systemMessagePrompt": "not enabled"})
    assert seen(demo) == ["user: q"]


def test_a_question_and_a_form_exclude_each_other(demo: Client) -> None:
    reply = demo.ask("demo-agent", "q", streaming=False, form={"city": "Paris"})
    assert "cannot be provided at the same time" in reply.body["message"]


@pytest.mark.parametrize("body", [{"overrideConfig": [1]}, {"uploads": [1]}, {"history": [{"role": [1]}]}])
def test_a_body_of_unexpected_types_is_a_failed_run_not_a_hang(demo: Client, body: dict[str, Any]) -> None:
    assert demo.ask("demo-assistant", "q", streaming=False, **body).status == 500


def test_a_second_stream_of_a_chat_takes_the_first_ones_place(demo: Client) -> None:
    first = demo.open("demo-errors", "stall0.4", chatId="shared")
    read_until(first, b'"start"')
    second = demo.ask("demo-agent-errors", "Second question", chatId="shared")
    assert second.names[-2:] == ["metadata", "end"]
    assert "Second question" in second.said
    wait_for(lambda: demo.records()[0]["outcome"] == "finished")
    rest, has_ended = read_for(first, 0.1)
    assert not has_ended
    assert b"token" not in rest
    assert b"end" not in rest


def test_the_run_that_ends_first_ends_the_stream_of_its_chat(demo: Client) -> None:
    first = demo.open("demo-errors", "stall0.1", chatId="mixed")
    read_until(first, b'"start"')
    second = demo.ask("demo-errors", "stall30", chatId="mixed")
    assert "stall0.1" in second.said
    assert second.names[-2:] == ["metadata", "end"]


def test_an_abort_leaves_a_chatflow_running(demo: Client) -> None:
    stream = demo.open("demo-errors", "stall0.2", chatId="unstoppable")
    got = read_until(stream, b'"start"')
    assert demo.abort("demo-errors", "unstoppable").body == {"status": 200, "message": "Chat message aborted"}
    got += read_until(stream, b'"end"')
    assert b'"metadata"' in got


def test_an_agentflow_is_aborted_once_and_counted(demo: Client) -> None:
    before = demo.stats()
    stream = demo.open("demo-agent-errors", "stall30", chatId="aborted")
    read_until(stream, b'"token"')
    assert demo.stats()["active_runs"] == before["active_runs"] + 1
    for _ in range(2):
        demo.abort("demo-agent-errors", "aborted")
    read_until(stream, b"This operation was aborted")
    after = demo.stats()
    assert after["runs_aborted"] == before["runs_aborted"] + 1
    assert after["aborts"] == before["aborts"] + 2
    assert after["active_runs"] == before["active_runs"]
    assert demo.records()[-1]["outcome"] == "aborted"


def test_the_agent_is_aborted_while_it_thinks(demo: Client) -> None:
    stream = demo.open("demo-agent", "Hello", chatId="thinking")
    read_until(stream, b'"thinking"')
    demo.abort("demo-agent", "thinking")
    text = read_until(stream, b"\r\n0\r\n\r\n").decode()
    names = [name for name, _ in parsed_events(text)]
    assert names[-5:] == ["nextAgentFlow", "agentFlowExecutedData", "agentFlowEvent", "error", "end"]
    assert "calledTools" not in names


def test_a_client_that_does_not_read_holds_up_its_own_run_only(demo: Client) -> None:
    stalled = demo.open("be7c5f10-4000-0000-0000-819200000000", "q")
    read_until(stalled, b'"token"')
    assert demo.ask("demo-assistant", "Hello").status == 200
    time.sleep(0.1)
    assert demo.records()[0]["outcome"] == "running"
    stalled.close()
    wait_for(lambda: demo.records()[0]["outcome"] == "finished")


@pytest.mark.parametrize("flow", SCRIPTED)
@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("failfilter", "content management policy"),
        ("failquota", "Predictions limit exceeded"),
        ("fail500", "500 "),
    ],
)
def test_a_refusal_is_an_error_in_the_stream_and_a_500_else(
    demo: Client, flow: str, word: str, said: str
) -> None:
    stream = demo.ask(flow, f"please {word}.")
    assert stream.names[-2:] == ["error", "end"]
    assert said in dict(stream.events)["error"]
    assert ("agentFlowEvent" in stream.names) == (flow == "demo-agent-errors" and word != "failquota")
    answer = demo.ask(flow, word, streaming=False)
    assert answer.status == 500
    assert said in answer.body["message"]


@pytest.mark.parametrize("streaming", [True, False])
@pytest.mark.parametrize(
    ("word", "status", "kind", "text"),
    [
        ("ratelimit", 429, "text/html", "Slow down please"),
        ("unavailable", 503, "text/plain", "Service Unavailable"),
        ("badgateway", 502, "text/html", "<html>"),
        ("gatewaytimeout", 504, "text/html", "<html>"),
        ("emptybody", 200, "application/json", ""),
        ("html", 200, "text/html", "<!DOCTYPE html>"),
        ("redirect", 302, "text/html", "Found."),
        ("badjson", 200, "application/json", '{"text":"This'),
    ],
)
def test_a_scripted_answer_is_given_whatever_was_asked(
    demo: Client, word: str, status: int, kind: str, text: str, streaming: bool
) -> None:
    reply = demo.ask("demo-errors", f"please {word} now", streaming=streaming)
    assert reply.status == status
    assert reply.header("Content-Type").startswith(kind)
    assert reply.text.startswith(text)
    assert demo.records()[0]["outcome"] == "refused"


def test_the_rate_limit_says_when_to_come_back(demo: Client) -> None:
    assert demo.ask("demo-errors", "ratelimit").header("Retry-After") == "1"
    assert demo.ask("demo-errors", "ratelimit7").header("Retry-After") == "7"


@pytest.mark.parametrize("flow", SCRIPTED)
@pytest.mark.parametrize(
    ("word", "ending"),
    [
        ("cut", b"\n\n\r\n0\r\n\r\n"),
        ("cutchunk", b"\n\n\r\n"),
        ("badchunk", b"zz\r\nno chunk size\r\n"),
        ("nolength", b"\n\n"),
    ],
)
def test_a_broken_stream_ends_after_its_tokens_and_never_says_end(
    demo: Client, flow: str, word: str, ending: bytes
) -> None:
    got = read_to_end(demo.open(flow, word))
    assert b'"token"' in got
    assert got.endswith(ending)
    assert b'"event":"end"' not in got
    assert (b"Transfer-Encoding" in got) == (word != "nolength")
    wait_for(lambda: demo.records()[-1]["outcome"] == "finished")


@pytest.mark.parametrize("streaming", [True, False])
def test_a_reset_connection_is_reset(demo: Client, streaming: bool) -> None:
    connection = demo.open("demo-errors", "reset", streaming=streaming)
    got = read_until(connection, b'"token"' if streaming else b'{"text"')
    with pytest.raises(ConnectionResetError):
        got += read_to_end(connection)


@pytest.mark.parametrize("word", ["cut", "cutchunk", "badchunk", "nolength"])
def test_a_broken_json_answer_ends_in_the_middle(demo: Client, word: str) -> None:
    got = read_to_end(demo.open("demo-errors", word, streaming=False))
    assert b'{"text":' in got
    assert b"sessionId" not in got
    assert (b"Content-Length" in got) == (word in ("cut", "cutchunk"))


@pytest.mark.parametrize("flow", SCRIPTED)
@pytest.mark.parametrize(
    ("word", "comes", "stays_away"),
    [
        ("noend", b'"token"', b'"event":"end"'),
        ("startonly", b"data:", b'"token"'),
        ("silent", b"\r\n\r\n", b"data:"),
        ("hang", b"", b"HTTP"),
    ],
)
def test_a_stream_without_an_end_stays_open(
    demo: Client, flow: str, word: str, comes: bytes, stays_away: bytes
) -> None:
    before = demo.stats()["active_runs"]
    stream, answer = demo.open(flow, word), demo.open(flow, word, streaming=False)
    got = read_until(stream, comes)
    rest, has_ended = read_for(stream, 0.06)
    assert not has_ended
    assert stays_away not in got + rest
    assert b'"event":"end"' not in got + rest
    assert is_silent(answer, 0.05)
    for connection in (stream, answer):
        connection.close()
    wait_for(lambda: demo.stats()["active_runs"] == before)


def test_heartbeats_come_for_ever(demo: Client) -> None:
    stream = demo.open("demo-errors", "heartbeats")
    got = read_until(stream, b":heartbeat\n\n\r\nc\r\n:heartbeat\n\n")
    assert b"data:" not in got


def test_a_waiting_stream_gets_heartbeats_of_the_common_timer(demo: Client) -> None:
    stream = demo.open("demo-errors", "noend")
    read_until(stream, b":heartbeat\n\n")
    stream.close()


def test_odd_frames_come_before_an_ordinary_answer(demo: Client) -> None:
    reply = demo.ask("demo-errors", "oddframes")
    assert reply.text.count("message\ndata:") == 1
    assert 'message:\r\ndata:{"event":"token","data":"crlf "}\r\n\r\n' in reply.text
    assert ("token", None) in parsed_events(reply.text.replace("\r", ""))
    assert reply.names[-1] == "end"


def test_the_old_framing_lacks_a_colon_before_error_and_end(demo: Client) -> None:
    assert "message\ndata:" + '{"event":"end"' in demo.ask("demo-errors", "oldframing").text
    assert 'message:\ndata:{"event":"end"' in demo.ask("demo-errors", "Hello").text


def test_long_answers_come_whole(demo: Client) -> None:
    assert demo.ask("demo-errors", "tokens1000").said == "".join(f"t{number} " for number in range(1000))
    assert len(demo.ask("demo-errors", "huge", streaming=False).body["text"]) == 2_000_000


def test_a_slow_answer_takes_its_time(demo: Client) -> None:
    stream = demo.open("demo-errors", "slow")
    started = time.monotonic()
    read_until(stream, b"word2 ")
    assert 0.4 < time.monotonic() - started < 1.5


def test_the_last_scripted_word_counts_and_parts_of_words_do_not(demo: Client) -> None:
    assert demo.ask("demo-errors", "empty, then unicode!").said.startswith("Grüße")
    assert demo.ask("demo-errors", "emptyish cutting").said.startswith("You asked")
    assert demo.ask("demo-assistant", "failmid").said.startswith("You asked")


def test_the_json_flow_only_obeys_the_words_of_failure(demo: Client) -> None:
    assert demo.ask("demo-json", "unicode").body["text"].startswith("You asked")
    assert demo.ask("demo-json", "failctx", streaming=False).status == 500
    assert is_silent(demo.open("demo-json", "failctx"))


def test_every_promised_word_has_a_script() -> None:
    promised = """
        fail400 fail500 fail401 fail429 failctx failfilter failquota failmid ratelimit unavailable
        badgateway gatewaytimeout cut cutchunk reset badchunk nolength empty emptybody html redirect badjson stall hang
        silent heartbeats slow huge unicode markdown think noend startonly oddframes oldframing tokens1000
    """
    assert set(promised.split()) == set(SCRIPTS)
