"""S3, S9, S10: keys, prompts and answers are nowhere but where they belong."""

from __future__ import annotations

import requests

from tests.support.hostile import CANARY, post
from tests.support.running_proxy import RunningProxy


def test_no_key_and_no_prompt_is_in_any_log_line(keyed: RunningProxy) -> None:
    prompt = "prompt-canary-73feffa4b7f6bb68e44cf984c85f6e88"
    for text in (prompt, f"{prompt} fail500", f"{prompt} reset"):
        for flow in ("demo-assistant", "demo-errors"):
            body = {"model": flow, "messages": [{"role": "user", "content": text}], "stream": True}
            post(keyed, json=body)
    requests.get(
        f"{keyed.url}/v1/models/a%0d%0aevil%1b[31m", headers={"api-key": "wrong-key-canary"}, timeout=5
    )
    for path in (f"/v1/models/{CANARY}", f"/{CANARY}/v1/models", f"/v1/responses/{CANARY}/cancel"):
        for key in ("wrong-key-canary", "second-key"):
            requests.get(f"{keyed.url}{path}", headers={"api-key": key}, timeout=5)
    log = keyed.log()
    assert "demo-errors" in log
    for canary in (CANARY, prompt, "wrong-key-canary", "second-key"):
        assert canary not in log
    assert "\x1b" not in log
