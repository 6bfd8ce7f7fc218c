"""Streams that Flowise's queue mode has cut: completed from what is stored, or an error, never whole in looks."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from flowise_client import FlowiseClient, FlowiseClients
from flowise_gateway.config.flowises import Upstream
from flowise_gateway.config.settings import Settings
from flowise_gateway.flow.errors import RunFailed
from flowise_gateway.flow.events import HumanInputRequested, TextDelta, UsageReported
from flowise_gateway.flow.turn import Turn
from flowise_gateway.flowise.queue_mode import DOUBT_SECONDS, MAX_DOUBTS, AnswerText, QueueMode
from tests.support.running_proxy import RunningProxy
from tests.support.saying_flowise import FLOW, SayingFlowise, Step, event, token

RECORDINGS = Path(__file__).resolve().parents[2] / "wire/flowise-3.1.4-queue"
ANSWER = "".join(f"word{number:04} " for number in range(2000))
MESSAGE = "3fc9fb69-3411-4db8-9c1a-9fedf89133de"
TURN = Turn(FLOW, "flood", stream=True)


def ids(**more: Any) -> bytes:
    """The last events of a run, together."""
    told = {"chatId": "c", "chatMessageId": MESSAGE, "question": "flood", "sessionId": "c", **more}
    return event("metadata", told) + event("end", "[DONE]")


def state(name: str) -> bytes:
    """The event of an agentflow's state."""
    return event("agentFlowEvent", name)


def step(label: str) -> bytes:
    """The event of a node that begins."""
    return event("nextAgentFlow", {"nodeId": f"{label}_0", "nodeLabel": label, "status": "INPROGRESS"})


def row(content: Any, **more: Any) -> dict[str, Any]:
    """A stored message."""
    return {"id": MESSAGE, "role": "apiMessage", "content": content, **more}


@pytest.fixture
def flowise() -> Iterator[SayingFlowise]:
    """A Flowise that streams what a test tells it to."""
    with SayingFlowise() as server:
        yield server


def client_of(flowise: SayingFlowise, *, is_set: bool = False) -> FlowiseClient:
    """A client of its own, which knows nothing yet."""
    client = FlowiseClient(flowise.base_url, FLOW, "key")
    client.mode.is_set = is_set
    return client


def recorded(name: str) -> tuple[bytes, list[dict[str, Any]]]:
    """A recorded stream, and what was stored of its run."""
    body = (RECORDINGS / f"{name}.http").read_bytes().partition(b"\r\n\r\n")[2]
    [stored] = json.loads((RECORDINGS / f"{name.partition('-')[0]}-stored.json").read_bytes())
    [metadata] = [line for line in body.split(b"\n") if line.startswith(b'data:{"event":"metadata"')]
    return body, [{**stored, "id": json.loads(metadata[5:])["data"]["chatMessageId"]}]


RECORDED = ["conv-cut", "conv-silent", "af_llm-cut", "af_llm-begun", "af_llm-silent"]


@pytest.mark.parametrize("name", RECORDED)
def test_a_recorded_stream_is_completed_by_what_was_stored(name: str, flowise: SayingFlowise) -> None:
    body, rows = recorded(name)
    flowise.streams(body)
    flowise.stores(rows)
    client = client_of(flowise)
    transcript = client.predict(TURN)
    assert (transcript.text, transcript.finish_reason) == (ANSWER, "stop")
    assert len(flowise.bodies) == 1, "the flow never runs again"
    assert client.mode.is_on
    if name.startswith("af_llm"):
        assert transcript.usage == UsageReported(7, 2000)


@pytest.mark.parametrize("name", ["af_llm-cut", "af_llm-begun"])
@pytest.mark.parametrize("rows", [None, [], [row("Another answer.")], [row(None)], [row(["a"])]])
def test_an_agentflow_that_cannot_be_completed_is_an_error(
    name: str, rows: list[Any] | None, flowise: SayingFlowise
) -> None:
    body, [stored] = recorded(name)
    flowise.streams(body)
    if name == "af_llm-begun":  # any text would do
        rows = rows and [each for each in rows if not isinstance(each["content"], str)]
    flowise.stores([{**each, "id": stored["id"]} for each in rows] if rows is not None else None)
    with pytest.raises(RunFailed) as caught:
        client_of(flowise).predict(TURN)
    assert (caught.value.code, caught.value.nothing_ran) == ("flowise_bad_answer", False)
    assert len(flowise.bodies) == 1


@pytest.mark.parametrize("ending", ["FINISHED", "STOPPED"])
def test_a_whole_agentflow_is_compared_with_nothing(ending: str, flowise: SayingFlowise) -> None:
    flowise.streams(state("INPROGRESS"), token("Hello"), state(ending) + ids())
    flowise.stores([row("Hello, you")])
    client = client_of(flowise, is_set=True)
    client.can_stream()
    flowise.reads.clear()
    assert client.predict(TURN).text == "Hello"
    assert flowise.reads == []


def test_an_agentflow_without_its_beginning_is_an_error(flowise: SayingFlowise) -> None:
    # Up to 3.1.1 Flowise did not wait for its subscription before it began the run.
    flowise.streams(token("lo there"), state("FINISHED") + ids())
    flowise.stores([row("Hello there")])
    with pytest.raises(RunFailed):
        client_of(flowise).predict(TURN)


def test_an_empty_answer_stays_one(flowise: SayingFlowise) -> None:
    flowise.streams(ids())
    for rows in (None, [], [row("")], [row('{\n  "text": "",\n  "sourceDocuments": []\n}')]):
        flowise.stores(rows)
        client = client_of(flowise)
        assert client.predict(TURN).is_empty
        assert not client.mode.is_on
    assert flowise.reads == [MESSAGE] * 4


# Chatflows tell of nothing that is missing


CUT: list[Step] = [event("start", "") + token("Hel") + token("lo, ") + ids()]


@pytest.mark.parametrize("is_set", [False, True])
def test_a_chatflow_is_completed(is_set: bool, flowise: SayingFlowise) -> None:
    flowise.streams(*CUT)
    flowise.stores([row("Hello, you")])
    client = client_of(flowise, is_set=is_set)
    assert [type(event) for event in client.stream(TURN)].count(TextDelta) <= 3
    assert client.predict(TURN).text == "Hello, you"


def test_what_is_missing_comes_as_one_piece(flowise: SayingFlowise) -> None:
    flowise.streams(*CUT)
    flowise.stores([row("Hello, you and you and you")])
    texts = [event.text for event in client_of(flowise).stream(TURN) if isinstance(event, TextDelta)]
    assert texts[-1] == "you and you and you"


def test_once_found_the_mode_is_known_to_all(
    flowise: SayingFlowise, caplog: pytest.LogCaptureFixture
) -> None:
    clients = FlowiseClients(Upstream("default", Settings(flowise_base_url=flowise.base_url)))
    one, other = clients.client(FLOW, "one"), clients.client(FLOW, "other")
    flowise.streams(*CUT)
    flowise.stores([row("Hello, you")])
    with caplog.at_level(logging.WARNING):
        one.predict(TURN)
        other.predict(TURN)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "flowise_mode: queue" in caplog.text
    assert other.mode.is_on
    while other.mode.may_doubt():
        pass
    assert other.predict(TURN).text == "Hello, you"


def test_few_answers_are_compared_where_nothing_is_lost(flowise: SayingFlowise) -> None:
    flowise.streams(*CUT)
    flowise.stores([row("Hello, ")])
    client = client_of(flowise)
    client.mode = QueueMode(lambda: 0.0)
    for _ in range(MAX_DOUBTS - 5):
        client.mode.may_doubt()
    for _ in range(10):
        assert client.predict(TURN).text == "Hello, "
    assert len(flowise.reads) == 5
    assert not client.mode.is_on


@pytest.mark.parametrize("text", ['{"text": "Hello"}', '{"a": ""}', '{"text": ""', '[{"text": ""}]', "{"])
def test_an_answer_may_look_like_json(text: str, flowise: SayingFlowise) -> None:
    flowise.streams(ids())
    flowise.stores([row(text)])
    assert client_of(flowise).predict(TURN).text == text


@pytest.mark.parametrize("rows", [None, [], [row("Another answer")]])
def test_a_mere_doubt_fails_no_answer(rows: list[Any] | None, flowise: SayingFlowise) -> None:
    flowise.streams(*CUT)
    flowise.stores(rows)
    assert client_of(flowise).predict(TURN).text == "Hello, "


def test_a_chatflow_known_to_lose_is_an_error_where_it_cannot_be_compared(flowise: SayingFlowise) -> None:
    flowise.streams(*CUT)
    flowise.stores([row("Another answer")])
    with pytest.raises(RunFailed):
        client_of(flowise, is_set=True).predict(TURN)


def test_what_could_not_be_completed_is_asked_as_json(flowise: SayingFlowise) -> None:
    flowise.streams(*CUT)
    flowise.says = "Hello, you"
    flowise.stores(None)
    client = client_of(flowise)
    assert client.predict(TURN).text == "Hello, "
    client.mode.find()
    assert client.predict(TURN).text == "Hello, you"
    assert [body.get("streaming", False) for body in flowise.bodies] == [True, False]
    flowise.stores([])
    assert client.predict(TURN).text == "Hello, you", "the probe's answer is kept for a minute"


def test_flowises_word_gets_into_no_address(flowise: SayingFlowise) -> None:
    flowise.streams(event("start", "") + ids(chatMessageId="../../chatflows?x="))
    flowise.stores([row("Hello")])
    assert client_of(flowise).predict(TURN).is_empty
    assert flowise.reads == []


def test_a_flowise_that_breaks_off_meanwhile_completes_nothing(flowise: SayingFlowise) -> None:
    flowise.streams(state("INPROGRESS"), token("Hel"), ids())
    flowise.stores(["no message"])  # which breaks the answer off
    with pytest.raises(RunFailed, match="lost part"):
        client_of(flowise).predict(TURN)


def test_all_that_is_stored_beside_the_text_is_told_once(flowise: SayingFlowise) -> None:
    source = {"pageContent": "a page", "metadata": {"source": "a.txt"}}
    other = {"pageContent": "more", "metadata": {}}
    action = {"id": "1", "elements": [{"type": "approve-button", "label": "Yes"}]}
    flowise.streams(event("sourceDocuments", [source]), token("Hel") + ids())
    kept = {
        "sourceDocuments": [source, other],
        "usedTools": json.dumps([{"tool": "clock", "toolInput": {}, "toolOutput": "12"}]),
        "artifacts": "broken",
        "action": json.dumps(action),
    }
    flowise.stores([row("Hello", **kept)])
    transcript = client_of(flowise).predict(TURN)
    assert transcript.text == "Hello"
    assert transcript.sources == [source, other]
    assert [getattr(told, "tool", None) for told in transcript.trail] == ["clock"]
    assert transcript.action is not None
    assert transcript.action.choices == ("Yes",)


def test_a_question_is_asked_although_its_event_was_lost(flowise: SayingFlowise) -> None:
    action = {"id": "1", "elements": [{"label": "Proceed"}, {"label": "Reject"}]}
    flowise.streams(state("INPROGRESS"), token("Go on?"), state("STOPPED") + ids(action=action))
    told = list(client_of(flowise).stream(TURN))
    assert [each.choices for each in told if isinstance(each, HumanInputRequested)] == [("Proceed", "Reject")]


def test_half_a_character_is_completed_too(flowise: SayingFlowise) -> None:
    half = b'message:\ndata:{"event":"token","data":"\\ud83d"}\n\n'
    flowise.streams(state("INPROGRESS"), token("Hi "), half + ids())
    flowise.stores([row("Hi 🙂!")])
    assert client_of(flowise).predict(TURN).text == "Hi 🙂!"


def test_a_later_node_is_completed_in_a_paragraph_of_its_own(flowise: SayingFlowise) -> None:
    for told, stored in ((token("Two"), "Two three"), (b"", "\nTwo three"), (token("\nTwo "), "\nTwo three")):
        flowise.streams(state("INPROGRESS"), step("a"), token("One"), step("b") + told, ids())
        flowise.stores([row(stored)])
        assert client_of(flowise).predict(TURN).text == "One\n\nTwo three"


# The text alone


def said(*texts: str | None) -> AnswerText:
    """These texts one by one; None for a step or a tool between them."""
    told = AnswerText()
    for text in texts:
        if text is None:
            told.start_step()
        else:
            told.add(text)
    return told


LONG = "".join(f"{number} " for number in range(100))


@pytest.mark.parametrize(
    ("texts", "stored", "rest"),
    [
        ([], "Hello", "Hello"),
        (["Hel", "lo"], "Hello", ""),
        (["Hel"], "Hello", "lo"),
        (["Hello \n"], "Hello", ""),
        ([" Hel"], "Hello", "lo"),
        (["Hel"], "\nHello", "lo"),
        (["Hello"], "", ""),
        (["Hello"], "  ", ""),
        ([], " ", ""),
        (["hel"], "Hello", None),
        (["Hello!"], "Hello", None),
        (["ello"], "Hello", None),
        (["I look it up. ", None, "It is"], "It is 42.", " 42."),
        (["I look it up. ", None, "It is 42."], "It is 42.", ""),
        (["I look it up. ", None], "It is 42.", "It is 42."),
        (["I look ", None, "it up. ", None, "It"], "It is 42.", " is 42."),
        (["I look it up. ", "It is 42."], "It is 42.", ""),
        (["I look it up. ", "It is"], "It is 42.", None),
        (["It is ", None, "other"], "It is 42.", None),
        (["It is 42.", None], "It is 42.", ""),
        ([f"<thinking>hm</thinking>{LONG}"], LONG, ""),
        ([LONG[20:]], LONG, None),
        (["one ", None, "one two"], "one two three", " three"),
    ],
)
def test_what_is_missing_is_told_only_where_it_is_certain(
    texts: list[str | None], stored: str, rest: str | None
) -> None:
    assert said(*texts).rest_of(stored) == rest


def test_doubts_come_back_slowly() -> None:
    now = [0.0]
    mode = QueueMode(lambda: now[0])
    assert [mode.may_doubt() for _ in range(MAX_DOUBTS + 1)] == [True] * MAX_DOUBTS + [False]
    now[0] += DOUBT_SECONDS - 1
    assert not mode.may_doubt()
    now[0] += 1
    assert [mode.may_doubt(), mode.may_doubt()] == [True, False]
    now[0] += DOUBT_SECONDS * MAX_DOUBTS * 5
    assert [mode.may_doubt() for _ in range(MAX_DOUBTS + 1)].count(True) == MAX_DOUBTS


# As a client sees it


@pytest.fixture(scope="module")
def cutting() -> Iterator[SayingFlowise]:
    """A Flowise behind a server."""
    with SayingFlowise() as server:
        yield server


@pytest.fixture(scope="module")
def proxy(cutting: SayingFlowise, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningProxy]:
    """The server as it is by default; its tokens go past their greenlet."""
    folder = tmp_path_factory.mktemp("queue")
    (folder / "proxy.yaml").write_text("flowise_mode: queue\n")
    with RunningProxy(folder, FLOWISE_BASE_URL=cutting.base_url, FLOWISE_API_KEY="key") as server:
        yield server


def answer(proxy: RunningProxy) -> tuple[str, list[str], list[str]]:
    """The text, the finish reasons and the errors of a streamed answer."""
    body = {"model": FLOW, "stream": True, "messages": [{"role": "user", "content": "flood"}]}
    got = requests.post(f"{proxy.url}/v1/chat/completions", json=body, timeout=30)
    frames = [json.loads(line[6:]) for line in got.text.split("\n") if line.startswith("data: {")]
    if got.status_code != 200:
        frames = [got.json()]
    choices = [choice for frame in frames for choice in frame.get("choices", ())]
    text = "".join(choice["delta"].get("content") or "" for choice in choices)
    reasons = [choice["finish_reason"] for choice in choices if choice["finish_reason"]]
    return text, reasons, [frame["error"]["code"] for frame in frames if "error" in frame]


PUMPED: list[Step] = [event("start", ""), token("One "), 0.03, token("two "), 0.03, token("three "), 0.03]


@pytest.mark.parametrize(
    ("steps", "stored", "seen"),
    [
        ([*PUMPED, ids()], "One two three four.", ("One two three four.", ["stop"], [])),
        ([*PUMPED, ids()], "One two three ", ("One two three ", ["stop"], [])),
        ([*PUMPED, ids()], "Two three", ("One two three ", [], ["flowise_bad_answer"])),
        ([state("INPROGRESS"), *PUMPED, ids()], "One two three four.", ("One two three four.", ["stop"], [])),
        ([state("INPROGRESS"), *PUMPED, ids()], "No", ("One two three ", [], ["flowise_bad_answer"])),
        ([ids()], "One two", ("One two", ["stop"], [])),
        ([ids()], "", ("", [], ["empty_answer"])),
    ],
)
def test_no_cut_answer_looks_whole(
    steps: list[Step], stored: str, seen: Any, cutting: SayingFlowise, proxy: RunningProxy
) -> None:
    cutting.streams(*steps)
    cutting.stores([row(stored)])
    cutting.bodies.clear()
    assert answer(proxy) == seen
    assert len(cutting.bodies) == 1
