"""A real Flowise and the demo behind one server, with the same flows: nothing crosses, and one may die."""

from __future__ import annotations

import contextlib
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from tests.live.real_flowise import RealFlowise
from tests.support.conversations import key_lines
from tests.support.demo_server import DemoServer
from tests.support.running_proxy import RunningProxy, StartProxy

pytestmark = [pytest.mark.live, pytest.mark.timeout(240, func_only=True)]
FLOWS = ("conv", "af_llm")


def ask(
    server: RunningProxy, key: str, model: str, text: str, *, stream: bool = False
) -> tuple[int, str, float]:
    """The status, the answer and the seconds of a chat completion."""
    body = {"model": model, "messages": [{"role": "user", "content": text}], "stream": stream}
    headers = {"Authorization": f"Bearer {key}", "Connection": "close"}
    begin = time.monotonic()
    answer = requests.post(f"{server.url}/v1/chat/completions", json=body, headers=headers, timeout=120)
    return answer.status_code, answer.text, time.monotonic() - begin


def p99(seconds: list[float]) -> float:
    return sorted(seconds)[max(0, -(-len(seconds) * 99 // 100) - 1)]


def test_keys_of_one_flowise_each_never_reach_the_other_and_one_that_dies_slows_nobody(
    flowise: RealFlowise, start_proxy: StartProxy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with contextlib.ExitStack() as running:
        demo = DemoServer("--token-seconds", "0.001")
        demo.__enter__()
        running.callback(demo.__exit__, None, None, None)
        for name in FLOWS:  # the same names, and the same ids as well
            demo.control("POST", "/__demo/flows", {"id": flowise.flows[name], "name": name})
        config = tmp_path / "two.yaml"
        config.write_text(
            f"flowises:\n  - {{name: demo, base_url: {demo.base_url}}}\nkeys:\n"
            + "\n".join(
                [key_lines("real-team", "flowises: [default]"), key_lines("demo-team", "flowises: [demo]")]
            )
        )
        server = running.enter_context(start_proxy(PROXY_CONFIG=str(config)))
        before = len(flowise.llm_log())

        def one(number: int) -> None:
            key = ("real-team", "demo-team")[number % 2]
            model = ("conv", "af-llm", flowise.flows["conv"])[number % 3]
            status, text, _ = ask(server, key, model, f"question of {key} {number}", stream=number % 4 < 2)
            assert status == 200, text

        with ThreadPoolExecutor(4) as threads:
            list(threads.map(one, range(48)))
        at_demo = [record["body"]["question"] for record in demo.records()]
        at_real = [str(entry) for entry in flowise.llm_log()[before:]]
        assert len(at_demo) == 24
        assert len(at_real) >= 24
        assert all("demo-team" in text for text in at_demo)
        assert not [text for text in at_real if "demo-team" in text]
        assert any("real-team" in text for text in at_real)

        def times(key: str) -> list[float]:
            results = [ask(server, key, "conv", f"timed {number}") for number in range(60)]
            assert {status for status, _, _ in results} == {200}
            return [seconds for _, _, seconds in results]

        times("real-team")  # both runs are measured warm
        alive = times("real-team")
        demo._process.kill()
        demo._process.wait()
        with ThreadPoolExecutor(1) as threads:
            dead = threads.submit(lambda: [ask(server, "demo-team", "conv", "gone") for _ in range(30)])
            beside = times("real-team")
            assert {status for status, _, _ in dead.result()} == {503}
        with capsys.disabled():
            sys.stderr.write(
                f"\np99 with both up {p99(alive):.3f} s, with the other one dead {p99(beside):.3f} s\n"
            )
        assert p99(beside) < 2 * p99(alive) + 0.1
