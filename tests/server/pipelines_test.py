"""The pipeline host over real sockets: Flowise's wire, and pipelines that crash, loop, block and change.

`make clients` runs these on Haystack, `make check` on a stand-in of it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.support.pipelines.running_host import (
    PYTHON,
    RunningHost,
    events,
    pipelines_environment,
    text_of,
)

PIPELINES = """
  - {id: talk, source: "kitchen:talk"}
  - {id: pictures, source: "kitchen:talk", images: true}
  - {id: slow, source: "kitchen:slow"}
  - {id: rag, source: "kitchen:rag"}
  - {id: agent, source: "kitchen:agent"}
  - {id: shout, source: "kitchen:shout"}
  - {id: unclear, source: "kitchen:unclear"}
  - {id: missing, source: "no_such_module:pipeline"}
"""
HISTORY = [{"role": "userMessage", "content": "Hi {{ x }}"}, {"role": "apiMessage", "content": "Hello"}]
PIXEL = "data:image/png;base64,iVBORw0KGgo="


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningHost]:
    """A host with good and bad pipelines."""
    with RunningHost(tmp_path_factory.mktemp("pipelines"), PIPELINES) as running:
        yield running


# -------------------------------------------------------------------------------------------------- the wire
def test_pipelines_are_listed_as_agentflows(host: RunningHost) -> None:
    rows = {row["name"]: row for row in host.get("/chatflows").json()}
    assert set(rows) == {"talk", "pictures", "slow", "rag", "agent", "shout", "unclear", "missing"}
    assert {row["type"] for row in rows.values()} == {"AGENTFLOW"}
    paged = host.get("/chatflows?page=2&limit=3").json()
    assert (len(paged["data"]), paged["total"]) == (3, 8)
    talk = rows["talk"]["id"]
    assert host.get(f"/chatflows/{talk}").json()["name"] == "talk"
    assert host.get(f"/chatflows-streaming/{talk}").json() == {"isStreaming": True}
    assert host.get(f"/chatflows-uploads/{talk}").json()["isImageUploadAllowed"] is False
    assert host.get(f"/chatflows-uploads/{rows['pictures']['id']}").json()["isImageUploadAllowed"] is True
    assert '"Talker"' in host.get(f"/public-chatbotConfig/{talk}").json()["flowData"]
    assert host.get(f"/chatmessage/{talk}?chatId=x").json() == []
    assert (host.get("/ping").text, host.get("/version").json()) == ("pong", {"version": "3.1.4"})


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("chatflows", 404),
        ("chatflows-streaming", 500),
        ("chatflows-uploads", 500),
        ("public-chatbotConfig", 404),
    ],
)
def test_an_unknown_pipeline_is_no_flow(host: RunningHost, path: str, status: int) -> None:
    unknown = "00000000-0000-4000-8000-000000000000"
    answer = host.get(f"/{path}/{unknown}")
    assert (answer.status_code, f"Chatflow {unknown} not found" in answer.text) == (status, True)
    asked = host.session.post(f"{host.base_url}/prediction/{unknown}", json={"question": "x"}, timeout=9)
    assert asked.status_code == 404
    assert host.session.post(f"{host.base_url}/attachments/{unknown}/c", timeout=9).status_code == 500


@pytest.mark.parametrize("body", [b"[]", b"{", b"null"])
def test_a_body_that_is_no_object_is_refused(host: RunningHost, body: bytes) -> None:
    url = f"{host.base_url}/prediction/{host.ids()['talk']}"
    answer = host.session.post(url, data=body, headers={"Content-Type": "application/json"}, timeout=9)
    assert (answer.status_code, answer.json()["success"]) == (500, False)


def test_history_system_text_and_parameters_reach_the_generator(host: RunningHost) -> None:
    overrides = {"systemMessagePrompt": "Be {{brief}}", "temperature": "0", "topP": 0.5, "maxTokens": 7}
    answer = host.ask(
        "talk", "Now", history=HISTORY, overrideConfig={**overrides, "sessionId": "s"}, chatId="c"
    )
    assert answer["text"] == (
        "system:Be {brief} user:Hi {{ x }} assistant:Hello max_tokens=7 temperature=0 top_p=0.5 you:Now"
    )
    assert (answer["chatId"], answer["sessionId"], answer["question"]) == ("c", "s", "Now")
    [node] = answer["agentFlowExecutedData"]
    assert node["data"]["output"]["usageMetadata"]["total_tokens"] > 11
    assert node["data"]["output"]["timeMetadata"]["delta"] >= 0
    assert node["data"]["output"]["responseMetadata"] == {"finish_reason": "stop"}


def test_a_stream_has_its_first_token_before_the_pipeline_is_done(host: RunningHost) -> None:
    url = f"{host.base_url}/prediction/{host.ids()['slow']}"
    body = {"question": "count", "streaming": True}
    arrived = [
        (event, data, time.monotonic())
        for event, data in events(host.session.post(url, json=body, stream=True, timeout=60))
    ]
    tokens = [(data, at) for event, data, at in arrived if event == "token"]
    assert [data for data, _ in tokens] == ["one ", "two ", "three ", "four "]
    assert arrived[-1][2] - tokens[0][1] > 0.5
    assert [event for event, _, _ in arrived[-4:]] == [
        "agentFlowExecutedData",
        "agentFlowEvent",
        "metadata",
        "end",
    ]
    steps = [data["status"] for event, data, _ in arrived if event == "nextAgentFlow"]
    assert steps == ["INPROGRESS", "FINISHED"]


def test_retrieval_gives_the_answers_own_sources(host: RunningHost) -> None:
    whole = host.ask("rag", "whales", history=HISTORY)
    assert whole["text"] == "user:Hi {{ x }} assistant:Hello you:2 documents for whales"
    assert whole["sourceDocuments"] == [
        {"pageContent": "about whales", "metadata": {"url": "https://example.com/1"}}
    ]
    names = [node["nodeLabel"] for node in whole["agentFlowExecutedData"]]
    assert names == ["finder", "teller", "llm", "answerer"]
    streamed = host.stream("rag", "whales", history=HISTORY)
    assert text_of(streamed).strip() == whole["text"]
    assert ("sourceDocuments", whole["sourceDocuments"]) in streamed


def test_an_agents_tools_and_thoughts_are_told(host: RunningHost) -> None:
    used = {"tool": "clock", "toolInput": {"zone": "UTC"}, "toolOutput": "noon"}
    told = host.stream("agent", "What time is it?")
    assert ("thinking", "Hm.") in told
    assert ("calledTools", [{**used, "toolOutput": ""}]) in told
    assert ("usedTools", [used]) in told
    assert text_of(told) == "I look.\n\nIt is noon."
    whole = host.ask("agent", "What time is it?")
    assert whole["text"] == "It is noon."
    [node] = whole["agentFlowExecutedData"]
    assert node["data"]["output"]["usedTools"] == [used]
    assert node["data"]["output"]["usageMetadata"]["total_tokens"] == 16


def test_a_generator_of_texts_gets_the_conversation_as_text(host: RunningHost) -> None:
    overrides = {"systemMessagePrompt": "Be brief"}
    whole = host.ask("shout", "And now?", history=HISTORY, overrideConfig=overrides)
    assert whole["text"] == (
        "[SYSTEM INSTRUCTIONS]\nBE BRIEF\n[END OF SYSTEM INSTRUCTIONS]\n\n[EARLIER CONVERSATION]\n"
        "USER: HI {{ X }}\n\nASSISTANT: HELLO\n[END OF EARLIER CONVERSATION]\n\nAND NOW?"
    )
    assert text_of(host.stream("shout", "And now?")) == "AND NOW?"


def test_a_picture_goes_to_a_pipeline_that_takes_it(host: RunningHost) -> None:
    upload = {"type": "file", "name": "a.png", "mime": "image/png", "data": PIXEL}
    assert host.ask("pictures", "What?", uploads=[upload])["text"] == "image:image/png you:What?"
    assert "images: true" in host.ask("talk", "What?", uploads=[upload])["message"]
    link = {**upload, "type": "url", "data": "https://example.com/a.png"}
    assert "images: true" in host.ask("pictures", "What?", uploads=[link])["message"]


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"history": [{"role": "user", "content": "x"}]}, "each history item"),
        ({"history": "x"}, "history must be a list"),
        ({"uploads": "x"}, "uploads must be a list"),
        ({"form": {"a": 1}}, "does not accept form"),
        ({"question": {"a": 1}}, "question must be a string"),
    ],
)
def test_what_a_pipeline_cannot_take_is_told(host: RunningHost, body: dict[str, Any], told: str) -> None:
    answer = host.predict("talk", **{"question": "x", **body})
    assert (answer.status_code, told in answer.json()["message"]) == (500, True)


def test_a_failed_component_is_named(host: RunningHost) -> None:
    assert host.ask("talk", "fail")["message"].startswith(
        "Error: predictionsServices.buildChatflow - Error in llm node: the documents are gone"
    )
    told = host.stream("talk", "refuse")
    assert told[-2:] == [
        (
            "error",
            "Error: predictionsServices.buildChatflow - Error in llm node: 429 Too many requests for you",
        ),
        ("end", "[DONE]"),
    ]
    assert ("nextAgentFlow", {"nodeId": "llm", "nodeLabel": "llm", "status": "ERROR"}) in told
    assert "sk-abcdefghijklmnop" not in host.log()


def test_a_pipeline_that_cannot_be_loaded_says_why(host: RunningHost) -> None:
    assert "question: or messages:" in host.ask("unclear", "x")["message"] or (
        "is mandatory" in host.ask("unclear", "x")["message"]
    )
    assert "No module named 'no_such_module'" in host.ask("missing", "x")["message"]


# -------------------------------------------------------------------------------------- what goes wrong in it
def eventually(is_so: Callable[[], bool], seconds: float = 30) -> None:
    """Wait until it is so."""
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.parametrize(("deed", "told"), [("crash", "SIGKILL"), ("exit", "status 3")])
def test_a_crash_is_told_and_the_pipeline_is_started_again(host: RunningHost, deed: str, told: str) -> None:
    assert told in host.ask("talk", deed)["message"]
    assert host.ask("talk", "Hi")["text"] == "you:Hi"
    streamed = host.stream("talk", deed)
    assert streamed[-1] == ("end", "[DONE]")
    assert told in streamed[-2][1]
    assert host.ask("rag", "whales")["text"] == "you:2 documents for whales"


def test_a_component_that_leaves_fails_its_run_alone(host: RunningHost) -> None:
    assert host.ask("talk", "leave")["message"].endswith("4")
    assert host.ask("talk", "Hi")["text"] == "you:Hi"


def test_a_pipeline_that_loops_or_blocks_harms_no_other(tmp_path: Path) -> None:
    limited = """
  - {id: stuck, source: "kitchen:talk", run_timeout: 3}
  - {id: slow, source: "kitchen:slow"}
"""
    with RunningHost(tmp_path, limited) as host:
        stuck: list[dict[str, Any]] = []
        threads = [
            threading.Thread(target=lambda deed=deed: stuck.append(host.ask("stuck", deed)))
            for deed in ("loop", "block")
        ]
        texts: list[str] = []
        threads += [
            threading.Thread(target=lambda: texts.append(text_of(fresh_stream(host, "slow", "count"))))
            for _ in range(50)
        ]
        for thread in threads:
            thread.start()
        slowest = max(timed(lambda: host.get("/ping")) for _ in range(20))
        for thread in threads:
            thread.join(60)
        assert texts == ["one two three four "] * 50
        assert slowest < 2
        assert [
            one["message"].endswith("longer than 3 s (its run_timeout) and was ended") for one in stuck
        ] == [
            True,
            True,
        ]
        assert host.ask("stuck", "Hi")["text"] == "you:Hi"


def test_a_run_that_nobody_waits_for_has_the_same_limit(tmp_path: Path) -> None:
    with RunningHost(tmp_path, '  - {id: stuck, source: "kitchen:talk", run_timeout: 2}\n') as host:
        flow, [before] = host.ids()["stuck"], children_of(host.pid)
        url, body = (
            f"{host.base_url}/prediction/{flow}",
            {"question": "loop", "streaming": True, "chatId": "left"},
        )
        with requests.post(url, json=body, stream=True, timeout=60) as answer:
            for event, _ in events(answer):
                if event == "nextAgentFlow":  # from here on the component looks at nothing any more
                    requests.put(f"{host.base_url}/chatmessage/abort/{flow}/left", timeout=9)
        eventually(lambda: not is_alive(before))
        assert "a run exceeded its limit of 2 s" in host.log()
        assert host.ask("stuck", "Hi")["text"] == "you:Hi"


def fresh_stream(host: RunningHost, name: str, question: str) -> list[tuple[str, Any]]:
    """A streamed prediction over a connection of its own."""
    url = f"{host.base_url}/prediction/{host.ids()[name]}"
    body = {"question": question, "streaming": True}
    with requests.post(url, json=body, stream=True, timeout=60) as answer:
        return list(events(answer))


def timed(call: Callable[[], object]) -> float:
    """How many seconds a call takes."""
    begun = time.monotonic()
    call()
    return time.monotonic() - begun


def test_an_aborted_run_ends(host: RunningHost) -> None:
    flow = host.ids()["slow"]
    body = {"question": "count", "streaming": True, "chatId": "to-abort"}
    told = []
    with requests.post(f"{host.base_url}/prediction/{flow}", json=body, stream=True, timeout=60) as answer:
        for event in events(answer):
            told.append(event)
            if event[0] == "token":
                requests.put(f"{host.base_url}/chatmessage/abort/{flow}/to-abort", timeout=9)
    assert told[-2] == ("error", "Error: predictionsServices.buildChatflow - This operation was aborted")
    assert text_of(told) != "one two three four "
    gone = requests.put(f"{host.base_url}/chatmessage/abort/{flow}/nobody", timeout=9)
    assert gone.status_code == 200


# ------------------------------------------------------------------------------------------ changes, sources
def test_a_changed_file_is_loaded_anew_and_a_broken_one_is_not_taken_over(tmp_path: Path) -> None:
    module = tmp_path / "own.py"
    module.write_text("from kitchen import talk\n\ndef made():\n    return talk()\n")
    with RunningHost(tmp_path, '  - {id: own, source: "own:made"}\n') as host:
        assert host.ask("own", "Hi")["text"] == "you:Hi"
        module.write_text("from kitchen import shout\n\ndef made():\n    return shout()\n")
        eventually(lambda: host.ask("own", "Hi").get("text") == "HI")
        module.write_text("def made(:\n")
        eventually(lambda: "the change is ignored" in host.log())
        assert host.ask("own", "Hi")["text"] == "HI"
        (tmp_path / "proxy.yaml").write_text('pipelines:\n  - {id: other, source: "kitchen:talk"}\n')
        eventually(lambda: set(host.ids()) == {"other"})
        assert host.ask("other", "Hi")["text"] == "you:Hi"


def test_a_pipeline_that_was_broken_is_served_once_it_is_right(tmp_path: Path) -> None:
    module = tmp_path / "own.py"
    module.write_text("raise RuntimeError('not yet')\n")
    with RunningHost(tmp_path, '  - {id: own, source: "own:talk"}\n') as host:
        assert "RuntimeError: not yet" in host.ask("own", "Hi")["message"]
        module.write_text("from kitchen import talk\n")
        eventually(lambda: host.ask("own", "Hi").get("text") == "you:Hi")


YAML = """
components:
  llm:
    init_parameters: {pause: 0.0}
    type: kitchen.Talker
connections: []
metadata: {}
"""


def test_a_pipeline_from_yaml_and_named_sockets(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(YAML)
    named = """
  - {id: own, source: own.yaml}
  - {id: bare, source: "kitchen:rag", question: [finder.query, teller.question, answerer.query], answer: llm.replies}
  - {id: wrong, source: "kitchen:talk", question: [llm.nothing]}
  - {id: lost, source: "kitchen:talk", answer: llm.nothing}
"""
    with RunningHost(tmp_path, named) as host:
        assert host.ask("own", "Hi")["text"] == "you:Hi"
        bare = host.ask("bare", "whales", history=HISTORY)
        assert bare["text"] == "user:Hi {{ x }} assistant:Hello you:2 documents for whales"
        assert len(bare["sourceDocuments"]) == 2
        assert "there is no unconnected input llm.nothing" in host.ask("wrong", "Hi")["message"]
        assert "there is no output llm.nothing" in host.ask("lost", "Hi")["message"]


def test_an_async_pipeline_runs_in_its_loop(tmp_path: Path) -> None:
    look = [PYTHON, "-c", "from haystack import AsyncPipeline"]
    if subprocess.run(look, env=pipelines_environment(tmp_path), capture_output=True, check=False).returncode:
        pytest.skip("Haystack 3 has one class for both")
    (tmp_path / "own.py").write_text(
        "from haystack import AsyncPipeline\nfrom kitchen import Talker\n\n"
        "def made():\n    pipeline = AsyncPipeline()\n    pipeline.add_component('llm', Talker())\n"
        "    return pipeline\n"
    )
    with RunningHost(tmp_path, '  - {id: own, source: "own:made"}\n') as host:
        assert host.ask("own", "Hi")["text"] == "you:Hi"
        assert text_of(host.stream("own", "count")) == "one two three four "
        assert "Error in llm node" in host.ask("own", "fail")["message"]


# ------------------------------------------------------------------------------------------------ the server
def test_a_key_is_asked_for(tmp_path: Path) -> None:
    key = "k" * 20
    with RunningHost(tmp_path, '  - {id: talk, source: "kitchen:talk"}\n', PROXY_PIPELINES_KEY=key) as host:
        assert host.get("/chatflows").status_code == 401
        assert host.get("/ping").status_code == 200
        assert host.get("/chatflows", headers={"Authorization": "Bearer wrong"}).status_code == 401
        assert host.get("/chatflows", headers={"Authorization": f"Bearer {key}"}).status_code == 200


def test_no_process_outlives_its_host(tmp_path: Path) -> None:
    with RunningHost(tmp_path, '  - {id: talk, source: "kitchen:talk"}\n') as host:
        children = children_of(host.pid)
        assert len(children) == 1
    eventually(lambda: not any(map(is_alive, children)))


def children_of(pid: int) -> list[int]:
    """The processes that a process has started."""
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return list(map(int, text.split()))


def is_alive(pid: int) -> bool:
    """Whether there is such a process."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_killed_hosts_processes_end_with_it(tmp_path: Path) -> None:
    host = RunningHost(tmp_path, '  - {id: talk, source: "kitchen:talk"}\n')
    host.__enter__()
    children = children_of(host.pid)
    os.kill(host.pid, signal.SIGKILL)
    eventually(lambda: not any(map(is_alive, children)))
    with pytest.raises(AssertionError, match="status -9"):
        host.__exit__(None, None, None)
