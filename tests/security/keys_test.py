"""S4: who has no right key gets one answer, everywhere."""

from __future__ import annotations

import hashlib
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import requests

from flowise_gateway.config.settings import Settings
from openai_compatible_server import create_app
from tests.support.hostile import CANARY
from tests.support.openai_check import valid
from tests.support.processes import wait_for
from tests.support.running_proxy import RunningProxy


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": f"Bearer {CANARY[:-1]}"},
        {"Authorization": "Bearer"},
        {"Authorization": f"Basic {CANARY}"},
        {"api-key": "wrong"},
        {"Authorization": "Bearer é".encode("latin-1").decode("latin-1")},
    ],
)
def test_a_wrong_key_is_one_401_everywhere(keyed: RunningProxy, headers: dict[str, str]) -> None:
    answers = [
        requests.get(f"{keyed.url}/v1/models", headers=headers, timeout=5),
        requests.get(f"{keyed.url}/nothing/here", headers=headers, timeout=5),
        requests.post(f"{keyed.url}/v1/chat/completions", data=b"{", headers=headers, timeout=5),
        requests.post(f"{keyed.url}/openai/deployments/x/completions", headers=headers, timeout=5),
        requests.put(f"{keyed.url}/v1/models", headers=headers, timeout=5),
    ]
    for answer in answers:
        valid("error", answer.content)
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")
        assert answer.content == answers[0].content
    assert requests.get(f"{keyed.url}/health", headers=headers, timeout=5).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": f"Bearer {CANARY}"},
        {"authorization": f"bearer  {CANARY}"},
        {"api-key": "second-key"},
        {"api-key": "second-key", "Authorization": "Bearer wrong"},
    ],
)
def test_a_right_key_in_either_header_is_let_in(keyed: RunningProxy, headers: dict[str, str]) -> None:
    assert requests.get(f"{keyed.url}/v1/models", headers=headers, timeout=5).status_code == 200


def test_a_worker_that_begins_once_the_file_has_lost_its_keys_lets_in_nobody(tmp_path: Path) -> None:
    file = tmp_path / "proxy.yaml"
    file.write_text("keys: []\n")
    base_url, digest = "http://127.0.0.1:9/api/v1", hashlib.sha256(CANARY.encode()).hexdigest()
    named = Settings(host="0.0.0.0", flowise_base_url=base_url, proxy_store="memory:", proxy_config=str(file))
    key = {"Authorization": f"Bearer {CANARY}"}

    def statuses(now: Settings) -> list[int]:
        client = create_app(now).test_client()
        return [client.get("/v1/flowise/usage", headers=headers).status_code for headers in ({}, key)]

    assert statuses(named) == [401, 401]
    assert statuses(replace(named, proxy_allow_anonymous=True)) == [403, 403]
    file.write_text(f"keys: [{{name: boss, sha256: {digest}}}]\n")
    assert statuses(named) == [401, 403]


def test_a_worker_of_this_machine_s_server_that_began_with_keys_lets_in_nobody_without(
    tmp_path: Path,
) -> None:
    """Behind a proxy on the same machine, callers of a server on loopback are anybody."""
    file = tmp_path / "proxy.yaml"
    digest = hashlib.sha256(CANARY.encode()).hexdigest()
    file.write_text(f"keys: [{{name: boss, sha256: {digest}}}]\n")
    own = {
        "FLOWISE_BASE_URL": "http://127.0.0.1:9/api/v1",
        "PROXY_CONFIG": str(file),
        "PROXY_STORE": "memory:",
    }
    with RunningProxy(tmp_path, **own) as server:
        assert requests.get(f"{server.url}/v1/models", timeout=10).status_code == 401
        file.write_text("keys: []\n")
        os.kill(server.pid, signal.SIGHUP)
        assert wait_for(lambda: "all requests are refused" in server.log(), 20)
        assert wait_for(lambda: "finish their answers" in server.log(), 20)
        answers = [requests.get(f"{server.url}/v1/models", timeout=10).status_code for _ in range(5)]
        assert answers == [401] * 5
