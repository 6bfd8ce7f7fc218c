"""Two Flowises with the same flows behind one server: no request reaches the other one, over real sockets."""

from __future__ import annotations

import base64
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import certifi
import pytest
import requests
from openai import OpenAI

from flowise_gateway.cli import main
from tests.support.conversations import Client, key_lines, user
from tests.support.demo_server import DemoServer
from tests.support.metrics_text import counted, scraped
from tests.support.openai_check import valid
from tests.support.processes import free_port, wait_for
from tests.support.running_proxy import RunningProxy

AGENT = "0c6fd9a2-1f53-4a57-9a3e-6d6f0b1c52e1"
HR_ONLY = "aaaaaaaa-0000-4000-8000-00000000000a"
HR_KEY = "key-of-hr-in-flowise"
NEEDS_RESTART = "pipelines: the first ones need a restart, which starts the pipeline host"
CLOSE = {"Connection": "close"}
KEYS = f"""
keys:
{key_lines("both", "single_user: true", "overrides: true")}
{key_lines("hr-team", "flowises: [hr]", "single_user: true")}
{key_lines("it-team", "flowises: [default]", "single_user: true")}
{key_lines("hr-pattern", "models: ['hr/demo-*']")}
discovery: {{refresh_seconds: 1}}
"""


def flowises(hr: DemoServer, *more: str) -> str:
    """The part of the file that names the second Flowise."""
    lines = [f"  - name: hr\n    base_url: {hr.base_url}\n    api_key: env:HR_FLOWISE_KEY", *more]
    return "flowises:\n" + "\n".join(lines) + "\n"


def models_of(it: DemoServer, key: str = "") -> str:
    """Models whose Flowise is named, found, and left to a fallback in the other one."""
    return f"""
models:
  - {{id: hr-agent, flow: {AGENT}, flowise: hr, fallback: it-agent}}
  - {{id: it-agent, flow: {AGENT}, flowise: default}}
  - {{id: found, flow: {HR_ONLY}}}
"""


@pytest.fixture(scope="module")
def it() -> Iterator[DemoServer]:
    """The default Flowise."""
    with DemoServer("--token-seconds", "0.001") as server:
        yield server


@pytest.fixture(scope="module")
def hr() -> Iterator[DemoServer]:
    """Another one, with the same flows and one more."""
    with DemoServer("--token-seconds", "0.001", "--key", HR_KEY) as server:
        server.control("POST", "/__demo/flows", {"id": HR_ONLY, "name": "HR only"})
        reads = '{"fullFileUpload": {"status": true}}'
        server.control("POST", "/__demo/flows", {"name": "Reader", "chatbotConfig": reads})
        yield server


@pytest.fixture(scope="module")
def proxy(it: DemoServer, hr: DemoServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningProxy]:
    """A server in front of both."""
    folder = tmp_path_factory.mktemp("proxy")
    (folder / "proxy.yaml").write_text(flowises(hr) + models_of(it) + KEYS)
    with RunningProxy(folder, FLOWISE_BASE_URL=it.base_url, HR_FLOWISE_KEY=HR_KEY) as running:
        yield running


@pytest.fixture(autouse=True)
def _clean(it: DemoServer, hr: DemoServer) -> None:
    it.clear()
    hr.clear()


def get(proxy: RunningProxy, path: str, key: str) -> Any:
    answer = requests.get(
        f"{proxy.url}{path}", headers={"Authorization": f"Bearer {key}", **CLOSE}, timeout=30
    )
    assert answer.status_code == 200, answer.text
    return answer.json()


def ids(proxy: RunningProxy, key: str) -> set[str]:
    return {model["id"] for model in get(proxy, "/v1/models", key)["data"]}


def questions(flowise: DemoServer) -> list[str]:
    return [record["body"]["question"] for record in flowise.records()]


def sdk(proxy: RunningProxy, key: str) -> OpenAI:
    return OpenAI(base_url=f"{proxy.url}/v1", api_key=key, max_retries=0)


def test_names_are_bare_where_they_are_unique_and_tell_the_flowise_where_not(proxy: RunningProxy) -> None:
    listed = ids(proxy, "both")
    assert {"found", "hr-agent", "it-agent", "hr/demo-json", "default/demo-json"} <= listed
    assert not listed & {"demo-json", "hr-only", "demo-agent", "hr/demo-agent"}, listed
    assert {name.partition("/")[0] for name in ids(proxy, "hr-team") if "/" in name} == {"hr"}
    assert {name.partition("/")[0] for name in ids(proxy, "it-team") if "/" in name} == {"default"}
    assert ids(proxy, "hr-pattern") == {"hr-agent", *(n for n in listed if n.startswith("hr/demo-"))}
    model = get(proxy, "/v1/models/hr/demo-json", "both")
    assert (model["id"], model["flowise"]["server"]) == ("hr/demo-json", "hr")


@pytest.mark.parametrize(
    ("key", "model", "place"),
    [
        ("both", "hr/demo-agent", "hr"),
        ("both", "default/demo-agent", "it"),
        ("both", "demo-agent", "it"),
        ("both", AGENT, "it"),
        ("both", f"hr/{AGENT.upper()}", "hr"),
        ("both", HR_ONLY, "hr"),
        ("both", "hr-only", "hr"),
        ("both", "hr-agent", "hr"),
        ("both", "found", "hr"),
        ("hr-team", "demo-agent", "hr"),
        ("hr-team", AGENT, "hr"),
        ("it-team", "demo-agent", "it"),
        ("hr-pattern", "hr/demo-agent", "hr"),
        ("it-team", "hr/demo-agent", None),
        ("it-team", "hr-agent", None),
        ("it-team", HR_ONLY, None),
        ("hr-team", "it-agent", None),
        ("hr-team", "default/demo-agent", None),
        ("hr-team", "default/" + AGENT, None),
        ("hr-team", "bbbbbbbb-0000-4000-8000-00000000000b", None),
        ("hr-pattern", "demo-agent", None),
        ("hr-pattern", AGENT, None),
    ],
)
def test_a_name_leads_to_one_flowise_that_the_key_may_use(
    key: str, model: str, place: str | None, proxy: RunningProxy, it: DemoServer, hr: DemoServer
) -> None:
    answer = Client(proxy, key, model).post([user("Where am I?")])
    if place is None:
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")
    asked = {"it": questions(it), "hr": questions(hr)}
    assert {name for name, found in asked.items() if found} == ({place} if place else set())
    sent = {record["headers"].get("authorization") for record in it.records()}
    assert sent <= {None}, "the key of one Flowise must not be sent to the other"
    assert {record["headers"].get("authorization") for record in hr.records()} <= {f"Bearer {HR_KEY}"}


def test_no_request_of_keys_limited_to_one_each_reaches_the_other(
    proxy: RunningProxy, it: DemoServer, hr: DemoServer
) -> None:
    def ask(number: int) -> None:
        key = ("hr-team", "it-team")[number % 2]
        model = ("demo-agent", "demo-assistant", AGENT)[number % 3]
        with sdk(proxy, key) as client:
            text = f"{key} {number}"
            if number % 4 == 0:
                for _ in client.chat.completions.create(model=model, messages=[user(text)], stream=True):  # type: ignore[list-item]
                    pass
            elif number % 4 == 1:
                client.chat.completions.create(model=model, messages=[user(text)])  # type: ignore[list-item]
            else:
                first = client.responses.create(model=model, input=text)
                client.responses.create(model=model, input=f"{key} again", previous_response_id=first.id)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(ask, range(120)))
    for flowise, key in ((it, "it-team"), (hr, "hr-team")):
        asked = questions(flowise)
        assert len(asked) == 60 + 30, len(asked)
        assert all(key in text for text in asked)


def test_a_conversation_of_one_flowise_is_unknown_to_the_other(
    proxy: RunningProxy, it: DemoServer, hr: DemoServer
) -> None:
    for model in ("hr/demo-agent", "default/demo-agent", "hr/demo-agent", "default/demo-agent"):
        Client(proxy, "both", model).text([user(f"I am in {model}")], conversation_id="same")
    sessions = [
        {record["body"]["overrideConfig"]["sessionId"] for record in flowise.records()}
        for flowise in (it, hr)
    ]
    assert [len(found) for found in sessions] == [1, 1]
    assert sessions[0] != sessions[1]
    assert "default" not in str(hr.records()[-1]["messages"])
    with sdk(proxy, "both") as client:
        first = client.responses.create(model="hr/demo-agent", input="In one")
        client.responses.create(model="default/demo-agent", input="In another", previous_response_id=first.id)
    last, before = it.records()[-1]["body"], hr.records()[-1]["body"]
    assert last["overrideConfig"]["sessionId"] != before["overrideConfig"]["sessionId"]
    assert [turn["content"] for turn in last["history"]][:1] == ["In one"]


def test_files_documents_and_background_runs_are_those_of_the_models_flowise(
    proxy: RunningProxy, it: DemoServer, hr: DemoServer
) -> None:
    answer = Client(proxy, "hr-team", "demo-files").ask([user("a file")])
    links = {file["name"]: file["url"] for file in answer["flowise"]["files"]}
    it.control("POST", "/__demo/script", {"file": 500})
    try:
        chart = requests.get(links["chart.png"], headers=CLOSE, timeout=30)
        assert chart.content.startswith(b"\x89PNG")
    finally:
        it.control("POST", "/__demo/script", {"file": None})
    pdf = {
        "filename": "a.pdf",
        "file_data": "data:application/pdf;base64," + base64.b64encode(b"%PDF").decode(),
    }
    it.control("POST", "/__demo/script", {"attachments": 500})
    try:
        Client(proxy, "hr-team", "reader").text(
            [user([{"type": "file", "file": pdf}, {"type": "text", "text": "?"}])]
        )
    finally:
        it.control("POST", "/__demo/script", {"attachments": None})
    with sdk(proxy, "hr-team") as client:
        begun = client.responses.create(model="demo-agent", input="behind", background=True)
        assert wait_for(lambda: client.responses.retrieve(begun.id).status == "completed", 20)
    assert questions(it) == []


def test_a_run_is_aborted_where_it_runs(proxy: RunningProxy, it: DemoServer, hr: DemoServer) -> None:
    before = it.stats()["aborts"], hr.stats()["aborts"]
    body = {"model": "demo-errors", "messages": [user("silent")], "stream": True}
    headers = {"Authorization": "Bearer hr-team", **CLOSE}
    answer = requests.post(
        f"{proxy.url}/v1/chat/completions", json=body, headers=headers, stream=True, timeout=30
    )
    answer.raw.read(1)
    answer.close()
    assert wait_for(lambda: hr.stats()["aborts"] == before[1] + 1, 10)
    assert it.stats()["aborts"] == before[0]


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    status = main(arguments)
    said = capsys.readouterr()
    return status, said.out, said.err


def test_the_file_adds_changes_and_takes_away_flowises_without_a_restart(
    it: DemoServer, tmp_path: Path
) -> None:
    file = tmp_path / "proxy.yaml"
    with DemoServer("--key", HR_KEY) as hr:
        with RunningProxy(tmp_path, FLOWISE_BASE_URL=it.base_url, HR_FLOWISE_KEY=HR_KEY) as server:
            assert "demo-json" in ids(server, "any")
            file.write_text(flowises(hr) + "discovery: {refresh_seconds: 1}\n")
            assert wait_for(lambda: "hr/demo-json" in ids(server, "any"), 10)
            assert counted(server, "flowise_up", flowise="hr")
            session = Client(server, "any", "hr/demo-agent")
            session.text([user("one")], conversation_id="c")
            # What has not changed keeps its state, what has changed is called by its new settings.
            file.write_text(flowises(hr, "    request_timeout: 0.3") + "discovery: {refresh_seconds: 1}\n")

            def is_timed() -> bool:
                error = Client(server, "any", "hr/demo-errors").post([user("silent")]).json()["error"]
                return "request_timeout of hr" in error["message"]

            hr.control("POST", "/__demo/script", {"prediction": "hang"})
            assert wait_for(is_timed, 10)
            hr.control("POST", "/__demo/script", {"prediction": None})
            file.write_text("discovery: {refresh_seconds: 1}\n")
            assert wait_for(lambda: "demo-json" in ids(server, "any"), 10)
            assert session.post([user("two")]).json()["error"]["code"] == "model_not_found"
            assert "flowise_up" in scraped(server).text
            assert scraped(server).labels("flowise") >= {"default"}
            assert not [
                row for row in scraped(server).samples if row[0] == "flowise_up" and row[1]["flowise"] == "hr"
            ]


def test_without_an_address_in_the_settings_the_first_of_the_file_is_the_default_one(
    hr: DemoServer, tmp_path: Path
) -> None:
    (tmp_path / "proxy.yaml").write_text(flowises(hr))
    with RunningProxy(tmp_path, HR_FLOWISE_KEY=HR_KEY) as server:
        assert "demo-json" in ids(server, "any")
        assert list(get(server, "/ready", "any")["flowises"]) == ["hr"]
        Client(server, "any", AGENT).text([user("Hello")])
        assert questions(hr) == ["Hello"]
        (tmp_path / "proxy.yaml").write_text("tasks: {model: builtin}\n")
        assert wait_for(lambda: bool(ids(server, "any")) and "no longer lists a Flowise" in server.log(), 10)
        Client(server, "any", AGENT).text([user("Still there?")])
        (tmp_path / "proxy.yaml").write_text(flowises(hr) + 'pipelines: [{id: a, source: "m:f"}]\n')

        def told() -> str:
            return get(server, "/ready", "any")["config_error"] or ""

        assert wait_for(lambda: told() == NEEDS_RESTART, 10), told()
        assert "not followed in all: pipelines: the first ones need a restart" in server.log()
        os.kill(server.pid, signal.SIGHUP)  # a reload is no restart, and says so again
        assert wait_for(lambda: server.log().count("the first ones need a restart") == 2, 20)
        assert told() == NEEDS_RESTART


def test_one_that_can_no_longer_be_made_stays_as_it_was(hr: DemoServer, tmp_path: Path) -> None:
    authorities = tmp_path / "authorities.pem"
    authorities.write_bytes(Path(certifi.where()).read_bytes())
    (tmp_path / "proxy.yaml").write_text(flowises(hr))
    settings = {"HR_FLOWISE_KEY": HR_KEY, "FLOWISE_CA_FILE": str(authorities)}
    with RunningProxy(tmp_path, **settings) as server:
        assert "demo-json" in ids(server, "any")
        authorities.unlink()
        (tmp_path / "proxy.yaml").write_text(flowises(hr).replace(hr.base_url, "https://127.0.0.1:9/api/v1"))
        told = "flowises: hr cannot be used: the log says why"
        assert wait_for(lambda: told in str(get(server, "/ready", "any")["config_error"]), 10)
        assert "hr cannot be used: the certificate authorities" in server.log()
        Client(server, "any", AGENT).text([user("Still there?")])


def test_one_that_is_down_affects_no_other_and_everything_tells_which_one(
    it: DemoServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    away = f"flowises:\n  - {{name: hr, base_url: 'http://127.0.0.1:{free_port()}'}}\n"
    (tmp_path / "proxy.yaml").write_text(
        away + f"models:\n  - {{id: m, flow: {AGENT}, flowise: hr, fallback: demo-agent}}\n" + KEYS
    )
    with RunningProxy(tmp_path, FLOWISE_BASE_URL=it.base_url) as server:
        assert "demo-json" in ids(server, "both")
        state = get(server, "/ready", "both")
        assert {name: one["reachable"] for name, one in state["flowises"].items()} == {
            "default": True,
            "hr": False,
        }
        assert list(get(server, "/ready", "it-team")["flowises"]) == ["default"]
        assert state["flowise"] == state["flowises"]["default"]
        refused = Client(server, "both", "hr/demo-agent").post([user("Hello")])
        valid("error", refused.content)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "flowise_unavailable")

        def is_open() -> bool:
            assert Client(server, "both", f"hr/{HR_ONLY}").post([user("Hello")]).status_code == 503
            return scraped(server, "both").sum("breakers_open", flowise="hr") == 1

        assert wait_for(is_open, 20)
        found = scraped(server, "both")
        assert (found.sum("flowise_up", flowise="default"), found.sum("flowise_up", flowise="hr")) == (1, 0)
        assert found.sum("breakers_open", flowise="default") == 0
        begin = time.monotonic()
        assert Client(server, "both", "demo-agent").post([user("Hello")]).status_code == 200
        assert time.monotonic() - begin < 5
        assert "Hello" in Client(server, "both", "m").text([user("Hello")]), (
            "the fallback is in the other Flowise"
        )
        assert scraped(server, "hr-team").labels("model") <= {"", "other", "m"}
        assert scraped(server, "hr-team").labels("flowise") == {"hr"}
        assert found.labels("flowise") == {"default", "hr"}
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FLOWISE_BASE_URL", it.base_url)
    status, out, _ = told(capsys, "check")
    assert status == 1
    assert "default: Flowise 3.1.4" in out
    assert "PROBLEM: hr: Flowise cannot be reached" in out
    assert "base_url of hr" in out
    status, out, err = told(capsys, "models")
    assert (status, "demo-json" in out, "hr: Flowise cannot be reached" in err) == (1, True, True)
