"""S4: who has no right key gets one answer, everywhere."""

from __future__ import annotations

import pytest
import requests

from tests.support.hostile import CANARY
from tests.support.openai_check import valid
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
