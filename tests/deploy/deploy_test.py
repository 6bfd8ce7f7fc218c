"""What stands in `deploy/` is accepted by the programs it is for, and two gateways behind nginx lose nothing."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from flowise_gateway.config.settings import Settings
from tests.support.demo_server import DemoServer
from tests.support.processes import wait_for
from tests.support.two_gateways import TwoGateways, answers

PROJECT = Path(__file__).resolve().parents[2]
DEPLOY = PROJECT / "deploy"
STREAMS = 20
KILLED_STREAMS = int(os.environ.get("STREAMS", "40"))
"""STREAMS=500 asks for as many as a busy machine has."""

pytestmark = pytest.mark.clients


BIN = Path(sys.executable).parent


def run(*command: str | Path, **more: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, **more)


def settings_of(text: str) -> set[str]:
    return set(
        re.findall(r"^\s*((?:FLOWISE|PROXY)_[A-Z_]+|HOST|PORT|WORKERS|LOG_LEVEL):", text, re.MULTILINE)
    )


def test_hadolint_accepts_the_dockerfile() -> None:
    done = run(BIN / "hadolint", DEPLOY / "Dockerfile")
    assert (done.returncode, done.stdout) == (0, "")


def test_the_images_command_is_the_installed_one() -> None:
    text = (DEPLOY / "Dockerfile").read_text()
    assert 'CMD ["flowise-gateway", "serve"]' in text
    assert "USER 10001" in text


@pytest.mark.parametrize("name", ["gateway.yaml", "network.yaml"])
def test_kubernetes_accepts_the_manifests(name: str) -> None:
    done = run(BIN / "kubernetes-validate", "--strict", DEPLOY / "kubernetes" / name)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "INFO" in done.stdout + done.stderr or "valid" in done.stdout + done.stderr


def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    # The program of the unit is installed elsewhere; all else is judged as it stands.
    unit, its_socket = tmp_path / "flowise-gateway.service", tmp_path / "flowise-gateway.socket"
    its_socket.write_text((DEPLOY / its_socket.name).read_text())
    text = (DEPLOY / "flowise-gateway.service").read_text()
    unit.write_text(re.sub(r"ExecStart=\S+", "ExecStart=/bin/true", text))
    done = run("systemd-analyze", "verify", unit, its_socket)
    assert (done.returncode, done.stderr.strip()) == (0, "")


def test_caddy_accepts_its_file() -> None:
    done = run("caddy", "validate", "--adapter", "caddyfile", "--config", DEPLOY / "Caddyfile")
    assert done.returncode == 0, done.stderr


def test_compose_keeps_flowise_inside() -> None:
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    published = {
        name: ports for name, service in compose["services"].items() if (ports := service.get("ports"))
    }
    assert [
        port for name, ports in published.items() for port in ports if not port.startswith("127.0.0.1:")
    ] == ["8080:8080"]
    assert compose["networks"]["inner"] == {"internal": True}
    example = (DEPLOY / "compose.env.example").read_text()
    asked = set(re.findall(r"\$\{(\w+)", (DEPLOY / "compose.yaml").read_text()))
    assert asked <= set(re.findall(r"^(\w+)=", example, re.MULTILINE))


def test_every_setting_that_is_named_exists() -> None:
    names = {name.upper() for name in Settings.__dataclass_fields__}
    for path in (DEPLOY / "compose.yaml", DEPLOY / "kubernetes/gateway.yaml"):
        assert settings_of(path.read_text()) - names - {"FLOWISE_GATEWAY_KEY"} == set(), path.name


@pytest.fixture
def behind(demo: DemoServer, redis_url: str, tmp_path: Path) -> Iterator[TwoGateways]:
    with ExitStack() as stack:
        yield TwoGateways(stack, demo.base_url, redis_url, tmp_path)


def streamed(behind: TwoGateways, arrivals: list[float] | None = None) -> str:
    body = {"model": "demo-errors", "messages": [{"role": "user", "content": "slow"}], "stream": True}
    with behind.post(body, stream=True) as answer:
        assert answer.status_code == 200, answer.text
        lines = []
        for line in answer.iter_lines():
            if line and arrivals is not None:
                arrivals.append(time.monotonic())
            lines.append(line.decode())
    return "\n".join(lines)


def test_tokens_pass_nginx_as_they_come(behind: TwoGateways) -> None:
    arrivals: list[float] = []
    assert streamed(behind, arrivals).endswith("data: [DONE]\n")
    assert arrivals[-1] - arrivals[0] > 0.5, "all came at once"


def test_one_gateway_ends_and_no_stream_is_lost(behind: TwoGateways) -> None:
    texts: list[str] = []
    threads = [threading.Thread(target=lambda: texts.append(streamed(behind))) for _ in range(STREAMS)]
    for thread in threads:
        thread.start()
    time.sleep(0.5)
    behind.gateways[0].terminate()
    for thread in threads:
        thread.join(60)
    assert len(texts) == STREAMS
    assert all(text.endswith("data: [DONE]\n") and '"error"' not in text for text in texts)
    assert wait_for(lambda: not answers(f"http://127.0.0.1:{behind.ports[0]}/health"), 30)
    body = {"model": "demo-assistant", "messages": [{"role": "user", "content": "Hello"}]}
    assert [behind.post(body).status_code for _ in range(10)] == [200] * 10


def test_a_gateway_is_killed_and_the_streams_of_the_other_are_whole(behind: TwoGateways) -> None:
    begun = threading.Semaphore(0)
    body = {"model": "demo-errors", "messages": [{"role": "user", "content": "slow"}], "stream": True}

    def stream(_: int) -> str:
        pieces: list[bytes] = []
        with behind.post(body, stream=True) as answer:
            assert answer.status_code == 200, answer.text
            try:
                for piece in answer.iter_content(None):
                    if not pieces:
                        begun.release()
                    pieces.append(piece)
            except requests.RequestException:
                return "cut"
        text = b"".join(pieces)
        assert text.endswith(b"data: [DONE]\n\n"), text[-200:]
        assert b"word59" in text
        return "whole"

    with ThreadPoolExecutor(KILLED_STREAMS) as threads:
        streams = [threads.submit(stream, number) for number in range(KILLED_STREAMS)]
        for _ in range(KILLED_STREAMS):
            assert begun.acquire(timeout=60)
        behind.gateways[0].kill()
        hello = {"model": "demo-assistant", "messages": [{"role": "user", "content": "Hello"}]}
        after = [behind.post(hello).status_code for _ in range(10)]
        ends = Counter(one.result(120) for one in streams)
    assert after == [200] * 10
    assert set(ends) == {"cut", "whole"}
    assert KILLED_STREAMS * 0.4 <= ends["whole"] <= KILLED_STREAMS * 0.6, "nginx shares them out evenly"
