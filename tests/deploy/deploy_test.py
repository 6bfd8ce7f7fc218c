"""What stands in `deploy/` is accepted by the programs it is for, and two gateways behind nginx lose nothing."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from flowise_gateway.config.settings import Settings
from tests.support.demo_server import DemoServer
from tests.support.processes import Server, clean_environment, free_port, wait_for

PROJECT = Path(__file__).resolve().parents[2]
DEPLOY = PROJECT / "deploy"
GATEWAYS = ("gateway-a:8000", "gateway-b:8000")
STREAMS = 20

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


def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    # The program of the unit is installed elsewhere; all else is judged as it stands.
    unit = tmp_path / "flowise-gateway.service"
    text = (DEPLOY / "flowise-gateway.service").read_text()
    unit.write_text(re.sub(r"ExecStart=\S+", "ExecStart=/bin/true", text))
    done = run("systemd-analyze", "verify", unit)
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


class Behind:
    """nginx, as `deploy/` has it, in front of two gateways of this machine."""

    def __init__(self, stack: ExitStack, demo: DemoServer, redis_url: str, folder: Path) -> None:
        self.ports = [free_port(), free_port()]
        self.port = free_port()
        self.gateways = []
        for number, port in enumerate(self.ports):
            environment = clean_environment(
                folder,
                PYTHONPATH=str(PROJECT),
                PORT=str(port),
                FLOWISE_BASE_URL=demo.base_url,
                PROXY_STORE=redis_url,
                PROXY_API_KEYS="sk-of-the-deploy-test",
                PROXY_DRAIN_SECONDS="20",
            )
            command = [sys.executable, "-m", "flowise_gateway", "serve"]
            server = Server(f"gateway-{number}", command, environment, folder)
            self.gateways.append(stack.enter_context(server))
            server.wait_until(lambda port=port: answers(f"http://127.0.0.1:{port}/health"), 60)  # type: ignore[misc]
        text = (DEPLOY / "nginx.conf").read_text()
        for name, port in zip(GATEWAYS, self.ports, strict=True):
            assert text.count(name) == 1
            text = text.replace(name, f"127.0.0.1:{port}")
        text = text.replace("listen 8080;", f"listen 127.0.0.1:{self.port};").replace("/tmp/", f"{folder}/")  # noqa: S108
        text = text.replace("worker_processes auto;", "worker_processes 1;\ndaemon off;")
        config = folder / "nginx.conf"
        config.write_text(text)
        tested = run(str(shutil.which("nginx", path="/usr/sbin:/usr/bin")), "-t", "-c", config)
        assert tested.returncode == 0, tested.stderr
        command = [str(shutil.which("nginx", path="/usr/sbin:/usr/bin")), "-c", str(config)]
        nginx = stack.enter_context(Server("nginx", command, clean_environment(folder), folder))
        nginx.wait_until(lambda: answers(f"{self.url}/health"), 20)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def post(self, body: dict[str, Any], **more: Any) -> requests.Response:
        headers = {"Authorization": "Bearer sk-of-the-deploy-test"}
        return requests.post(
            f"{self.url}/v1/chat/completions", json=body, headers=headers, timeout=60, **more
        )


def answers(url: str) -> bool:
    try:
        return requests.get(url, timeout=5).ok
    except requests.RequestException:
        return False


@pytest.fixture
def behind(demo: DemoServer, redis_url: str, tmp_path: Path) -> Iterator[Behind]:
    with ExitStack() as stack:
        yield Behind(stack, demo, redis_url, tmp_path)


def streamed(behind: Behind, arrivals: list[float] | None = None) -> str:
    body = {"model": "demo-errors", "messages": [{"role": "user", "content": "slow"}], "stream": True}
    with behind.post(body, stream=True) as answer:
        assert answer.status_code == 200, answer.text
        lines = []
        for line in answer.iter_lines():
            if line and arrivals is not None:
                arrivals.append(time.monotonic())
            lines.append(line.decode())
    return "\n".join(lines)


def test_tokens_pass_nginx_as_they_come(behind: Behind) -> None:
    arrivals: list[float] = []
    assert streamed(behind, arrivals).endswith("data: [DONE]\n")
    assert arrivals[-1] - arrivals[0] > 0.5, "all came at once"


def test_one_gateway_ends_and_no_stream_is_lost(behind: Behind) -> None:
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
