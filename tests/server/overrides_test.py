"""Flowise's own fields of a request: what is passed, what is named because Flowise would not heed it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from tests.server.models_test import key_lines
from tests.support.demo_server import DemoServer
from tests.support.openai_check import valid
from tests.support.processes import wait_for
from tests.support.running_proxy import RunningProxy

AGENT = "demo-agent"
ENABLED = [{"name": name, "enabled": True} for name in ("systemMessage", "topP")]


@pytest.fixture(scope="module")
def server(flowise: DemoServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningProxy]:
    """A server in front of it, with a key that may override and one that may not."""
    folder = tmp_path_factory.mktemp("overrides")
    keys = [key_lines("free", "key-free", "overrides: true"), key_lines("bound", "key-bound")]
    (folder / "proxy.yaml").write_text("keys:\n" + "\n".join(keys) + "\ndiscovery: {refresh_seconds: 1}\n")
    with RunningProxy(folder, FLOWISE_BASE_URL=flowise.base_url) as running:
        yield running


def post(server: RunningProxy, path: str, key: str = "key-free", **body: Any) -> requests.Response:
    """POST with a key."""
    headers = {"Authorization": f"Bearer {key}"}
    return requests.post(f"{server.url}{path}", json={"model": AGENT, **body}, headers=headers, timeout=30)


@pytest.mark.parametrize("messages", [None, [], [{"role": "user", "content": ""}]])
@pytest.mark.parametrize("stream", [False, True])
def test_a_form_without_text_runs(
    server: RunningProxy, flowise: DemoServer, messages: Any, stream: bool
) -> None:
    body: dict[str, Any] = {"form": {"city": "Rome"}, "stream": stream}
    answer = post(
        server, "/v1/chat/completions", **body, **({} if messages is None else {"messages": messages})
    )
    assert answer.status_code == 200, answer.text
    sent = flowise.records()[-1]["body"]
    assert sent["form"] == {"city": "Rome"}
    assert "question" not in sent
    assert "x-flowise-ignored-params" not in answer.headers


@pytest.mark.parametrize("given", [{}, {"input": ""}, {"input": []}])
def test_a_form_without_text_runs_as_a_response_too(
    server: RunningProxy, flowise: DemoServer, given: dict[str, Any]
) -> None:
    answer = post(server, "/v1/responses", flowise={"form": {"city": "Rome"}}, **given)
    assert answer.status_code == 200, answer.text
    assert flowise.records()[-1]["body"]["form"] == {"city": "Rome"}


def test_without_the_right_to_send_a_form_there_must_be_text(server: RunningProxy) -> None:
    refused = post(server, "/v1/chat/completions", "key-bound", messages=[], form={"city": "Rome"})
    valid("error", refused.content)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "messages")
    told = [{"role": "user", "content": "Hello"}]
    answer = post(server, "/v1/chat/completions", "key-bound", messages=told, form={"city": "Rome"})
    assert answer.headers["x-flowise-ignored-params"] == "form"


def test_text_beside_a_form_is_named_since_flowise_takes_one_of_them(server: RunningProxy) -> None:
    told = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
    answer = post(server, "/v1/chat/completions", messages=told, form={"city": "Rome"})
    assert answer.headers["x-flowise-ignored-params"] == "messages, system"


@pytest.fixture(scope="module")
def flow(server: RunningProxy, flowise: DemoServer) -> str:
    """A flow that has opened two inputs of its node."""
    config = {"overrideConfig": {"status": True, "nodes": {"Tool Agent": ENABLED}}}
    drawing = {
        "nodes": [{"data": {"id": "toolAgent_0", "name": "toolAgent", "label": "Tool Agent"}}],
        "edges": [],
    }
    row = {"name": "open flow", "apiConfig": json.dumps(config), "flowData": json.dumps(drawing)}
    flow = flowise.control("POST", "/__demo/flows", row)["id"]

    def is_known() -> bool:
        headers = {"Authorization": "Bearer key-free"}
        return "open-flow" in requests.get(f"{server.url}/v1/models", headers=headers, timeout=5).text

    assert wait_for(is_known, 10)
    return str(flow)


def test_an_override_and_a_system_text_reach_the_flow_and_what_is_closed_is_named(
    server: RunningProxy, flowise: DemoServer, flow: str
) -> None:
    answer = post(
        server,
        "/v1/chat/completions",
        model=flow,
        messages=[{"role": "system", "content": "Of OpenAI's."}, {"role": "user", "content": "Hello"}],
        overrideConfig={"systemMessage": "Of Flowise's.", "temperature": 1, "ключ\n": 1, "x" * 500: 2},
        top_p=0.5,
        seed=7,
    )
    assert answer.status_code == 200, answer.text
    sent = flowise.records()[-1]["body"]
    assert sent["overrideConfig"]["systemMessage"] == "Of Flowise's."
    assert sent["overrideConfig"]["topP"] == 0.5
    assert "Of OpenAI's." in sent["question"]
    named = answer.headers["x-flowise-ignored-params"].split(", ")
    assert named[:3] == ["seed", "overrideConfig.temperature", "overrideConfig.?????"]
    assert len(named[3]) == 64


def test_names_beyond_what_a_header_holds_are_counted(server: RunningProxy, flow: str) -> None:
    given = {f"a{number}": 1 for number in range(5000)}
    told = [{"role": "user", "content": "Hello"}]
    answer = post(server, "/v1/chat/completions", model=flow, messages=told, overrideConfig=given)
    assert answer.status_code == 200
    assert answer.headers["x-flowise-ignored-params"].endswith(", overrideConfig.a49, and 4950 more")
