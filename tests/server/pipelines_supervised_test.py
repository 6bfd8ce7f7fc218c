"""The pipeline host as the gateway starts it: one more Flowise, started again when it was killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import requests

from tests.support.demo_server import DemoServer
from tests.support.pipelines.running_host import IS_REAL, PROJECT, PYTHON, RunningHost, pipelines_environment
from tests.support.processes import clean_environment, wait_for
from tests.support.running_proxy import RunningProxy

PIPELINES = 'pipelines:\n  - {id: talk, source: "kitchen:talk"}\n  - {id: slow, source: "kitchen:slow"}\n'
SECONDS = 30


def served(folder: Path, **settings: str) -> RunningProxy:
    """A gateway whose proxy.yaml names pipelines, with what runs them."""
    (folder / "proxy.yaml").write_text(PIPELINES)
    paths = pipelines_environment(folder)["PYTHONPATH"]
    return RunningProxy(folder, python=PYTHON, PYTHONPATH=paths, **settings)


def ask(proxy: RunningProxy, question: str, model: str = "talk") -> requests.Response:
    """A chat completion."""
    body = {"model": model, "messages": [{"role": "user", "content": question}]}
    return requests.post(f"{proxy.url}/v1/chat/completions", json=body, timeout=60)


def content(answer: requests.Response) -> Any:
    """Its text, or its error's message."""
    told = answer.json()
    return told["choices"][0]["message"]["content"] if answer.ok else told["error"]["message"]


def children_of(pid: int) -> list[int]:
    """The processes that a process has started."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return list(map(int, children))


def host_of(proxy: RunningProxy) -> int:
    """The host's process: a child of the one that starts it again."""
    for child in children_of(proxy.pid):
        if b"--restart" in Path(f"/proc/{child}/cmdline").read_bytes():
            [host] = children_of(child)
            return host
    raise AssertionError("no host runs")


def test_pipelines_stand_beside_flows(flowise: DemoServer, tmp_path: Path) -> None:
    with served(tmp_path, FLOWISE_BASE_URL=flowise.base_url) as proxy:
        models = {row["id"] for row in requests.get(f"{proxy.url}/v1/models", timeout=30).json()["data"]}
        assert {"talk", "slow", "demo-assistant"} <= models
        assert content(ask(proxy, "Hi")) == "you:Hi"
        assert content(ask(proxy, "Hi", "demo-assistant")).startswith('You asked: "Hi"')
        failed = ask(proxy, "fail")
        assert (failed.status_code, failed.json()["error"]["code"]) == (400, "flow_failed")
        assert "the documents are gone" in content(failed)
        assert "sk-abcdefghijklmnop" not in failed.text
        refused = ask(proxy, "refuse")
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "provider_rate_limited")
        assert "SIGKILL" in content(ask(proxy, "crash"))
        assert content(ask(proxy, "Hi")) == "you:Hi"


def test_a_host_that_was_killed_is_started_again_at_its_address(tmp_path: Path) -> None:
    with served(tmp_path) as proxy:
        models = {row["id"] for row in requests.get(f"{proxy.url}/v1/models", timeout=30).json()["data"]}
        assert models == {"talk", "slow"}  # no demo flows where pipelines are served
        host = host_of(proxy)
        os.kill(host, signal.SIGKILL)
        assert requests.get(f"{proxy.url}/health", timeout=5).ok
        assert wait_for(lambda: ask(proxy, "Hi").ok, SECONDS)
        assert host_of(proxy) != host
        again = host_of(proxy)
    assert wait_for(lambda: not Path(f"/proc/{again}").exists(), SECONDS)


def test_a_host_that_runs_by_itself_is_asked_with_its_key(tmp_path: Path) -> None:
    own, beside = tmp_path / "host", tmp_path / "gateway"
    own.mkdir()
    beside.mkdir()
    key = "k" * 20
    lines = PIPELINES.partition("\n")[2]
    with RunningHost(own, lines, PROXY_PIPELINES_KEY=key) as host:
        settings = {"PROXY_PIPELINES_URL": host.base_url, "PROXY_PIPELINES_KEY": key}
        with RunningProxy(beside, **settings) as proxy:
            assert content(ask(proxy, "Hi")) == "you:Hi"


def test_pipelines_without_their_library_stop_the_start(tmp_path: Path) -> None:
    if IS_REAL:
        return
    (tmp_path / "proxy.yaml").write_text(PIPELINES)
    done = subprocess.run(
        [sys.executable, str(PROJECT / "openai_compatible_server.py")],
        env=clean_environment(tmp_path, PORT="0"),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert "pip install 'flowise-gateway[haystack]'" in done.stderr
