"""Flows that come, change their names and go in a real Flowise, while the server runs."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from tests.live.real_flowise import RealFlowise
from tests.support.processes import wait_for
from tests.support.running_proxy import RunningProxy, StartProxy

pytestmark = pytest.mark.live
REFRESH_SECONDS = 2


@pytest.fixture(scope="module")
def limited(start_proxy: StartProxy, flowise: RealFlowise) -> Iterator[RunningProxy]:
    """A server that looks often, with a key for all and one for sales."""
    lines = [f"discovery: {{refresh_seconds: {REFRESH_SECONDS}}}", "keys:"]
    for name, models in (("all", "['*']"), ("sales", "['sales-*']")):
        digest = hashlib.sha256(name.encode()).hexdigest()
        lines += [f"  - name: {name}", f"    sha256: {digest}", f"    models: {models}"]
    path = flowise.folder / "limited.yaml"
    path.write_text("\n".join(lines))
    with start_proxy(PROXY_CONFIG=str(path)) as running:
        yield running


def change(flowise: RealFlowise, method: str, path: str, body: Any = None) -> Any:
    """Change Flowise's flows by its API."""
    headers = {"Authorization": f"Bearer {flowise.keys['all']}"}
    answer = requests.request(method, f"{flowise.base_url}{path}", json=body, headers=headers, timeout=30)
    assert answer.ok, answer.text
    return answer.json()


def ids(server: RunningProxy, key: str) -> list[str]:
    """What a key sees."""
    answer = requests.get(f"{server.url}/v1/models", headers={"api-key": key}, timeout=5)
    return [model["id"] for model in answer.json()["data"]]


def status(server: RunningProxy, key: str, model: str) -> int:
    """The status of a chat completion."""
    body = {"model": model, "messages": [{"role": "user", "content": "Hello there"}]}
    headers = {"api-key": key, "Connection": "close"}
    return requests.post(
        f"{server.url}/v1/chat/completions", json=body, headers=headers, timeout=30
    ).status_code


def test_a_flow_is_a_model_as_long_as_it_exists(limited: RunningProxy, flowise: RealFlowise) -> None:
    patience = REFRESH_SECONDS * 3
    row = change(flowise, "GET", f"/chatflows/{flowise.flows['llmchain']}")
    made = {name: row[name] for name in ("flowData", "type")}
    flow = change(flowise, "POST", "/chatflows", {**made, "name": "Sales Größe", "deployed": False})["id"]
    assert wait_for(lambda: "sales-grosse" in ids(limited, "sales"), patience)
    assert status(limited, "sales", "sales-grosse") == status(limited, "sales", flow) == 200
    change(flowise, "PUT", f"/chatflows/{flow}", {"name": "Sales Team"})
    assert wait_for(lambda: ids(limited, "sales") == ["sales-team"], patience)
    assert status(limited, "sales", "sales-grosse") == status(limited, "sales", "sales-team") == 200
    change(flowise, "DELETE", f"/chatflows/{flow}")
    assert wait_for(lambda: ids(limited, "sales") == [], patience)
    assert {status(limited, "all", name) for name in ("sales-team", "sales-grosse", flow)} == {404}


def test_a_key_uses_no_flow_but_its_own(limited: RunningProxy, flowise: RealFlowise) -> None:
    assert wait_for(lambda: "af-llm" in ids(limited, "all"), 10)
    headers = {"api-key": "sales"}
    chat = {"messages": [{"role": "user", "content": "Hello"}]}
    for model in ("af-llm", flowise.flows["af_llm"]):
        asked = [
            ("POST", "/v1/chat/completions", {"model": model, **chat}),
            ("POST", "/v1/completions", {"model": model, "prompt": "Hello"}),
            ("POST", "/v1/responses", {"model": model, "input": "Hello"}),
            ("POST", f"/openai/deployments/{model}/chat/completions", chat),
            ("GET", f"/v1/models/{model}", None),
        ]
        for method, path, body in asked:
            answer = requests.request(method, limited.url + path, json=body, headers=headers, timeout=30)
            assert answer.status_code == 404, path
        assert status(limited, "all", model) == 200


def test_abilities_are_those_that_flowise_tells(limited: RunningProxy) -> None:
    def abilities(model: str) -> dict[str, Any]:
        answer = requests.get(f"{limited.url}/v1/models/{model}", headers={"api-key": "all"}, timeout=5)
        told: dict[str, Any] = answer.json().get("capabilities", {})
        return told

    assert wait_for(lambda: abilities("llmchain").get("streaming") is not None, 20)
    assert abilities("conv")["memory"] is True
    assert abilities("llmchain")["memory"] is False
    assert abilities("af-llm-nomem")["memory"] is False
    assert abilities("conv-nostream")["streaming"] is False
    assert (abilities("conv-vision")["vision"], abilities("conv")["vision"]) == (True, False)
    assert abilities("conv-fullfile")["files"] is not None


def test_flows_are_described_where_the_key_may_not_list_them(
    start_proxy: StartProxy, flowise: RealFlowise
) -> None:
    with start_proxy(FLOWISE_API_KEY=flowise.keys["other"]) as server:

        def told(flow: str) -> dict[str, Any]:
            answer = requests.get(f"{server.url}/v1/models/{flowise.flows[flow]}", timeout=5)
            body: dict[str, Any] = answer.json()
            return body

        def abilities(flow: str) -> tuple[str, bool | None, bool | None]:
            body = told(flow)
            return body["type"], body["capabilities"]["memory"], body["capabilities"]["streaming"]

        for flow, expected in {
            "conv": ("CHATFLOW", True, True),
            "llmchain": ("CHATFLOW", False, True),
            "conv_nostream": ("CHATFLOW", True, False),
            "af_llm": ("AGENTFLOW", True, True),
            "af_llm_nomem": ("AGENTFLOW", False, True),
        }.items():
            assert wait_for(lambda flow=flow, expected=expected: abilities(flow) == expected, 20), told(flow)  # type: ignore[misc]
        refused = requests.get(f"{server.url}/v1/models", headers={"api-key": "any"}, timeout=5)
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "flowise_misconfigured")
        assert "may not list Flowise's flows" in refused.json()["error"]["message"]
