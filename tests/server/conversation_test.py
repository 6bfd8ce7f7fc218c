"""Conversations over real sockets: what the model behind a flow gets to see is the client's transcript."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import pytest
import requests
from openai import OpenAI

from tests.support.conversations import FILE, Client, Json, assistant, seen, sessions, user
from tests.support.demo_server import DemoServer
from tests.support.processes import wait_for
from tests.support.running_proxy import RunningProxy

WIRE = Path(__file__).parents[1] / "wire/librechat"


@pytest.fixture(scope="module")
def proxy(flowise: DemoServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningProxy]:
    """A server with keys of one person and of many."""
    folder = tmp_path_factory.mktemp("proxy")
    (folder / "proxy.yaml").write_text(FILE)
    with RunningProxy(folder, FLOWISE_BASE_URL=flowise.base_url) as running:
        yield running


@pytest.fixture(autouse=True)
def _clean(flowise: DemoServer) -> None:
    flowise.clear()


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_the_sdk_that_resends_all_stays_in_one_session(
    stream: bool, proxy: RunningProxy, flowise: DemoServer
) -> None:
    with OpenAI(base_url=f"{proxy.url}/v1", api_key="one-person", max_retries=0) as client:
        messages: list[Any] = []
        for number in range(6):
            messages.append(user(f"question {number} {stream}"))
            if stream:
                chunks = client.chat.completions.create(model="demo-agent", messages=messages, stream=True)
                answer = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
            else:
                whole = client.chat.completions.create(model="demo-agent", messages=messages)
                answer = whole.choices[0].message.content or ""
            assert seen(flowise) == messages
            messages.append(assistant(answer))
    assert len(set(sessions(flowise))) == 1
    assert all("history" not in record["body"] for record in flowise.records())


def test_many_people_with_one_key_and_no_ids_share_nothing(proxy: RunningProxy, flowise: DemoServer) -> None:
    client = Client(proxy, "team-a")
    messages = [user("the same opening")]
    answers = {client.text(messages) for _ in range(2)}
    messages += [assistant(answers.pop()), user("and then?")]
    for _ in range(2):
        client.text(messages)
        assert seen(flowise) == messages
    assert len(set(sessions(flowise))) == 4


def test_two_keys_with_the_same_ids_and_words_share_nothing(proxy: RunningProxy, flowise: DemoServer) -> None:
    ids: Json = {"conversation_id": "their-own-id", "user": "ann"}
    for key in ("team-a", "team-b"):
        Client(proxy, key).text([user("hello")], **ids)
        assert seen(flowise) == [user("hello")]
    assert len(set(sessions(flowise))) == 2
    assert not any("their-own-id" in session for session in sessions(flowise))


def test_only_the_new_message_continues_by_the_conversation_id(
    proxy: RunningProxy, flowise: DemoServer
) -> None:
    client, whole = Client(proxy, "team-a"), list[Json]()
    conversation = None
    for number in range(6):
        more: Json = {"conversation_id": conversation} if conversation else {}
        body = client.ask([user(f"only new {number}")], **more)
        whole.append(user(f"only new {number}"))
        assert seen(flowise) == whole
        whole.append(assistant(body["choices"][0]["message"]["content"]))
        assert conversation in (None, body["conversation_id"])
        conversation = body["conversation_id"]
    assert len(set(sessions(flowise))) == 1


@pytest.mark.parametrize(
    "ids",
    [
        {"conversation_id": "mine"},
        {"session_id": "mine"},
        {"metadata": {"conversation_id": "mine"}},
        {"overrideConfig": {"sessionId": "mine"}},
        {"flowise": {"overrideConfig": {"sessionId": "mine"}}},
    ],
    ids=str,
)
def test_a_conversation_has_several_names_in_a_body(
    ids: Json, proxy: RunningProxy, flowise: DemoServer
) -> None:
    client = Client(proxy, "team-a", "demo-assistant")
    salted = json.loads(json.dumps(ids).replace("mine", f"mine-{'-'.join(ids)}"))
    answer = client.post([user("one")], **salted)
    assert "x-flowise-ignored-params" not in answer.headers
    client.text([user("two")], **salted)
    assert [message["content"] for message in seen(flowise)][0::2] == ["one", "two"]
    assert "mine" not in str(sessions(flowise))


@pytest.mark.parametrize("name", ["X-Conversation-Id", "X-Session-Id", "X-OpenWebUI-Chat-Id"])
def test_ids_in_headers_continue_a_resent_conversation_but_never_a_new_one(
    name: str, proxy: RunningProxy, flowise: DemoServer
) -> None:
    client = Client(proxy, "team-a")
    headers = {name: f"chat-{name}"}
    messages = [user(f"by {name}")]
    messages += [assistant(client.text(messages, headers)), user("next")]
    client.text(messages, headers)
    assert (seen(flowise), len(set(sessions(flowise)))) == (messages, 1)
    client.text([user("another branch")], headers)
    assert seen(flowise) == [user("another branch")]


@pytest.mark.parametrize("empty", ["", "{{LIBRECHAT_BODY_CONVERSATIONID}}"])
def test_an_empty_header_is_no_id(empty: str, proxy: RunningProxy, flowise: DemoServer) -> None:
    client = Client(proxy, "team-a")
    headers = {"X-Conversation-Id": empty}
    messages = [user(f"empty {empty}")]
    messages += [assistant(client.text(messages, headers)), user("next")]
    client.text(messages, headers)
    assert len(set(sessions(flowise))) == 2


def test_librechat_turns_titles_and_a_regenerated_answer(proxy: RunningProxy, flowise: DemoServer) -> None:
    """The recorded requests in their order: the title comes beside the first turn, with the same ids."""

    def send(name: str, messages: list[Json] | None = None) -> requests.Response:
        recorded = json.loads((WIRE / f"{name}.json").read_text())["request"]
        kept = {k: v for k, v in recorded["headers"].items() if k.startswith("x-") or k == "user-agent"}
        body = {**recorded["body"], "model": "demo-agent"}
        body["messages"] = messages or body["messages"]
        own = {**kept, "Authorization": "Bearer team-a", "Connection": "close"}
        return requests.post(f"{proxy.url}/v1/chat/completions", json=body, headers=own, timeout=30)

    def streamed(answer: requests.Response) -> str:
        lines = [line[6:] for line in answer.text.splitlines() if line.startswith("data: {")]
        chunks = [choice for line in lines for choice in json.loads(line)["choices"]]
        return "".join(choice["delta"].get("content") or "" for choice in chunks).strip()

    with ThreadPoolExecutor() as pool:
        title, first = pool.map(send, ("02-title-completion", "03-chat-turn1-params"))
    assert title.json()["choices"][0]["message"]["content"] == "First question about cats"
    assert len(flowise.records()) == 1
    body = json.loads((WIRE / "03-chat-turn1-params.json").read_text())["request"]["body"]
    messages = [*body["messages"], assistant(streamed(first)), user("Second question")]
    said = [message["content"] for message in messages if message["role"] != "system"]
    send("03-chat-turn1-params", messages)
    assert [m["content"].split("\n\n")[-1] for m in seen(flowise)][::2] == said[::2]
    assert len(set(sessions(flowise))) == 1
    send("03-chat-turn1-params", messages)  # regenerated
    assert len(set(sessions(flowise))) == 2
    assert [m["content"].split("\n\n")[-1] for m in seen(flowise)][::2] == said[::2]


def test_a_title_as_json_schema_is_bare_json(proxy: RunningProxy, flowise: DemoServer) -> None:
    body = json.loads((WIRE / "16-title-structured.json").read_text())["request"]["body"]
    answer = Client(proxy).text(body["messages"], response_format=body["response_format"])
    assert json.loads(answer)["title"] == "Hi structured"
    assert flowise.records() == []


def test_500_random_conversations_reach_the_model_as_the_client_has_them(
    proxy: RunningProxy, flowise: DemoServer
) -> None:
    """Each sequence: fork, edit, regenerate, leave in mid-answer, send twice at once."""

    def play(seed: int) -> None:
        dice = random.Random(seed)  # noqa: S311 - a dice
        client = Client(proxy, "team-b", dice.choice(["demo-agent", "demo-assistant"]))
        ids: Json = {"user": f"user-{seed}"}
        branches: list[list[Json]] = [[]]
        for step in range(4):
            talk = dice.choice(branches)
            talk = talk[: 2 * dice.randrange(len(talk) // 2 + 1)] if dice.random() < 0.4 else talk
            messages = [*talk, user(f"{seed} {step} {dice.choice(['again', step])}")]
            if dice.random() < 0.1:
                left = client.post([*messages[:-1], user(f"{seed} left {step}")], stream=True, **ids)
                left.close()
            answers = [client.text(messages, **ids) for _ in range(1 + (dice.random() < 0.2))]
            branches += [[*messages, assistant(answer)] for answer in answers]
            asked.append((messages, str(seed)))

    asked: list[tuple[list[Json], str]] = []
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(play, range(500)))
    shown = [record["messages"] for record in flowise.records()]
    shown = [[message for message in messages if message["role"] != "system"] for messages in shown]
    counted: dict[str, int] = {}
    for messages in shown:
        text = json.dumps(messages)
        counted[text] = counted.get(text, 0) + 1
    lost = [messages for messages, _ in asked if json.dumps(messages) not in counted]
    assert lost == []
    foreign = [
        m for m in shown if len({text["content"].split()[0] for text in m if text["role"] == "user"}) > 1
    ]
    assert foreign == []


def test_the_same_conversation_sent_twice_at_once_is_whole_both_times(
    proxy: RunningProxy, flowise: DemoServer
) -> None:
    client = Client(proxy)
    messages = [user("twice at once")]
    messages += [assistant(client.text(messages)), user("now both")]
    barrier = threading.Barrier(4)

    def send(_: int) -> None:
        barrier.wait()
        client.text(messages)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(send, range(4)))
    assert [seen(flowise, run) for run in range(-4, 0)] == [messages] * 4


def test_an_answer_cut_by_a_stop_sequence_closes_its_session(
    proxy: RunningProxy, flowise: DemoServer
) -> None:
    client = Client(proxy, model="demo-assistant")
    messages = [user("cut me")]
    messages += [assistant(client.text(messages, stop=["demo"])), user("next")]
    client.text(messages)
    assert (seen(flowise), len(set(sessions(flowise)))) == (messages, 2)


def test_an_answer_cut_by_a_stop_sequence_is_not_lost_where_only_what_is_new_is_sent(
    proxy: RunningProxy, flowise: DemoServer
) -> None:
    client, ids = Client(proxy, "team-a", "demo-assistant"), cast("Json", {"conversation_id": "cut-short"})
    answer = client.text([user("cut me")], stop=["demo"], **ids)
    client.text([user("next")], **ids)
    assert seen(flowise) == [user("cut me"), assistant(answer), user("next")]
    assert len(set(sessions(flowise))) == 2


def test_a_stream_whose_end_never_came_leaves_its_session_and_chat(
    proxy: RunningProxy, flowise: DemoServer
) -> None:
    """Flowise may hold the stream of the chat id still: a second one there would be closed with the first."""
    client = Client(proxy, model="demo-agent-errors")
    answer = client.post([user("noend")], stream=True)
    lines = [line[6:] for line in answer.text.splitlines() if line.startswith("data: {")]
    chunks = [choice for line in lines for choice in json.loads(line)["choices"]]
    text = "".join(choice["delta"].get("content") or "" for choice in chunks)
    assert chunks[-1]["finish_reason"] == "stop"
    client.text([user("noend"), assistant(text), user("next")])
    first, second = (record["body"] for record in flowise.records())
    assert first["chatId"] != second["chatId"]
    assert [message["content"] for message in second["history"]] == ["noend", text]


def test_a_changed_system_text_reaches_the_model(proxy: RunningProxy, flowise: DemoServer) -> None:
    client = Client(proxy, model="demo-assistant")
    messages: list[Json] = [{"role": "system", "content": "Be a pirate."}, user("system")]
    answer = client.text(messages)
    messages += [assistant(answer), user("next")]
    client.text(messages)
    assert [text["content"].count("Be a pirate.") for text in seen(flowise)][::2] == [1, 0]
    messages[0]["content"] = "Be a {{monk}}."
    client.text([*messages, assistant("x"), user("third")])
    assert [text["content"].count("Be a {{monk}}.") for text in seen(flowise)][::2] == [0, 0, 1]
    assert not any("pirate" in text["content"] for text in seen(flowise)[::2])


def test_a_flow_can_be_told_of_earlier_turns_in_its_question(
    proxy: RunningProxy, flowise: DemoServer
) -> None:
    client = Client(proxy, model="folded")
    messages = [user("first"), assistant("answer"), user("last")]
    client.text(messages)
    [only] = seen(flowise)
    assert "User: first\n\nAssistant: answer" in only["content"]
    assert only["content"].endswith("\n\nlast")


# Overrides


def test_flowises_own_fields_are_for_callers_who_may_set_them(
    proxy: RunningProxy, flowise: DemoServer
) -> None:
    fields: Json = {"overrideConfig": {"temperature": 0.1}, "vars": {"who": "ann"}}
    refused = Client(proxy, "team-a").post([user("x")], **fields)
    assert refused.headers["x-flowise-ignored-params"] == "overrideConfig, vars"
    assert set(flowise.records()[-1]["body"]["overrideConfig"]) == {"sessionId"}
    Client(proxy, "operator").text([user("x")], **fields)
    sent = flowise.records()[-1]["body"]["overrideConfig"]
    assert (sent["temperature"], sent["vars"]) == (0.1, {"who": "ann"})


# Decisions


ASKED = "Waiting for your decision"


@pytest.mark.parametrize("key", ["one-person", "team-a"])
@pytest.mark.parametrize("model", ["demo-approval", "demo-tool-approval"])
@pytest.mark.parametrize(("word", "kind"), [("approve", "proceed"), ("Reject: too dear", "reject")])
def test_a_decision_resumes_the_run_that_asked(
    key: str, model: str, word: str, kind: str, proxy: RunningProxy, flowise: DemoServer
) -> None:
    client = Client(proxy, key, model)
    messages = [user(f"Please do it for {key} with {model}, then {word}, use the calculator: 6*7")]
    answer = client.text(messages)
    assert ASKED in answer
    messages += [assistant(answer), user(word)]
    client.text(messages)
    record = flowise.records()[-1]
    assert record["body"]["humanInput"]["type"] == kind
    assert record["session_id"] == flowise.records()[-2]["session_id"]
    assert record["body"]["humanInput"].get("feedback") == ("too dear" if kind == "reject" else None)
    runs = len(flowise.records())
    late = client.text(messages)
    assert "Nothing was run" in late
    assert len(flowise.records()) == runs


def test_another_word_asks_again_without_running_anything(proxy: RunningProxy, flowise: DemoServer) -> None:
    client = Client(proxy, "one-person", "demo-approval")
    messages = [user("Please do something else")]
    messages += [assistant(client.text(messages)), user("What will it cost?")]
    again = client.text(messages)
    assert ASKED in again
    assert again == messages[1]["content"]
    assert len(flowise.records()) == 1
    messages += [assistant(again), user("yes")]
    client.text(messages)
    assert flowise.records()[-1]["body"]["humanInput"] == {
        "type": "proceed",
        "startNodeId": "humanInputAgentflow_0",
    }


def test_a_decision_survives_a_client_that_leaves_before_it_was_sent(
    flowise: DemoServer, tmp_path: Path
) -> None:
    messages = [user("Please wait for me")]
    with RunningProxy(tmp_path, FLOWISE_BASE_URL=flowise.base_url) as running:
        messages += [assistant(Client(running, model="demo-approval").text(messages)), user("ok")]
    # After a start the flow is asked whether it streams before anything is sent to it.
    with RunningProxy(tmp_path, FLOWISE_BASE_URL=flowise.base_url) as running:
        client = Client(running, model="demo-approval")
        # Flowise stays silent until the gateway has noticed: else it might send the question before that.
        with flowise.paused():
            with pytest.raises(requests.ReadTimeout):
                client.post(messages, stream=True, patience=1)
            assert wait_for(lambda: '"client_gone"' in running.log(), 10)
        # The line may be written before the run that was given up has let go of the question.
        assert wait_for(lambda: "Nothing was run" not in client.text(messages), 20)
    assert flowise.records()[-1]["body"]["humanInput"]["type"] == "proceed"


def test_a_decision_survives_a_restart(flowise: DemoServer, tmp_path: Path) -> None:
    messages = [user("Please wait for me")]
    with RunningProxy(tmp_path, FLOWISE_BASE_URL=flowise.base_url) as running:
        messages += [assistant(Client(running, model="demo-approval").text(messages)), user("ok")]
    with RunningProxy(tmp_path, FLOWISE_BASE_URL=flowise.base_url) as running:
        Client(running, model="demo-approval").text(messages)
    assert flowise.records()[-1]["body"]["humanInput"]["type"] == "proceed"


# The store


def test_a_lost_store_costs_the_session_and_nothing_else(flowise: DemoServer, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    store = f"sqlite:///{tmp_path}/file/store.db"
    with RunningProxy(tmp_path, FLOWISE_BASE_URL=flowise.base_url, PROXY_STORE=store) as running:
        client = Client(running)
        messages = [user("lost")]
        messages += [assistant(client.text(messages)), user("next")]
        client.text(messages)
        assert seen(flowise) == messages
        ready = requests.get(f"{running.url}/ready", headers={"Connection": "close"}, timeout=10).json()
        assert "PROXY_STORE" in ready["store_error"]


def test_several_workers_share_their_conversations(flowise: DemoServer, tmp_path: Path) -> None:
    with RunningProxy(tmp_path, FLOWISE_BASE_URL=flowise.base_url, WORKERS="3") as running:
        client = Client(running)
        messages: list[Json] = []
        for number in range(8):
            messages.append(user(f"worker {number}"))
            answer = client.text(messages)
            assert seen(flowise) == messages
            messages.append(assistant(answer))
    assert len(set(sessions(flowise))) == 1
