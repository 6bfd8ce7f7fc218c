"""Two gateways that share a Redis, behind nginx as `deploy/` has it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.support.processes import Server, clean_environment, free_port

PROJECT = Path(__file__).resolve().parents[2]
NGINX_PATH = "/usr/sbin:/usr/bin"
KEY = "sk-of-the-deploy-test"
NAMES = ("gateway-a:8000", "gateway-b:8000")


class TwoGateways:
    """nginx in front of two gateways of this machine, each a process that can be ended by itself."""

    def __init__(
        self, stack: ExitStack, flowise_url: str, redis_url: str, folder: Path, **settings: str
    ) -> None:
        """Start them; `stack` ends them."""
        program = shutil.which("nginx", path=NGINX_PATH)
        if program is None:
            pytest.skip("no nginx on this machine")
        self.ports = [free_port(), free_port()]
        self.port = free_port()
        self.gateways: list[Server] = []
        for number, port in enumerate(self.ports):
            own = {
                "PYTHONPATH": str(PROJECT),
                "PORT": str(port),
                "FLOWISE_BASE_URL": flowise_url,
                "PROXY_STORE": redis_url,
                "PROXY_API_KEYS": KEY,
                "PROXY_DRAIN_SECONDS": "20",
                **settings,
            }
            command = [sys.executable, "-m", "flowise_gateway", "serve"]
            server = Server(f"gateway-{number}", command, clean_environment(folder, **own), folder)
            self.gateways.append(stack.enter_context(server))
        for gateway, url in zip(self.gateways, self.urls, strict=True):
            gateway.wait_until(lambda url=url: answers(f"{url}/health"), 60)  # type: ignore[misc]
        config = self._nginx_config(folder)
        tested = subprocess.run([program, "-t", "-c", config], capture_output=True, text=True, check=False)
        assert tested.returncode == 0, tested.stderr
        nginx = Server("nginx", [program, "-c", str(config)], clean_environment(folder), folder)
        stack.enter_context(nginx).wait_until(lambda: answers(f"{self.url}/health"), 20)

    def _nginx_config(self, folder: Path) -> Path:
        text = (PROJECT / "deploy/nginx.conf").read_text()
        for name, port in zip(NAMES, self.ports, strict=True):
            assert text.count(name) == 1
            text = text.replace(name, f"127.0.0.1:{port}")
        text = text.replace("listen 8080;", f"listen 127.0.0.1:{self.port};").replace("/tmp/", f"{folder}/")  # noqa: S108
        text = text.replace("worker_processes auto;", "worker_processes 1;\ndaemon off;")
        config = folder / "nginx.conf"
        config.write_text(text)
        return config

    @property
    def url(self) -> str:
        """Where nginx listens."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def urls(self) -> list[str]:
        """Where each gateway listens."""
        return [f"http://127.0.0.1:{port}" for port in self.ports]

    def post(
        self, body: dict[str, Any], path: str = "/v1/chat/completions", at: str = "", **more: Any
    ) -> requests.Response:
        """POST to nginx, or to the gateway `at` an address."""
        return requests.post(f"{at or self.url}{path}", json=body, headers=HEADERS, timeout=60, **more)

    def get(self, path: str, at: str = "", **more: Any) -> requests.Response:
        """GET from nginx, or from the gateway `at` an address."""
        return requests.get(f"{at or self.url}{path}", headers=HEADERS, timeout=60, **more)


HEADERS = {"Authorization": f"Bearer {KEY}"}


def answers(url: str) -> bool:
    """Whether a GET succeeds."""
    try:
        return requests.get(url, timeout=5).ok
    except requests.RequestException:
        return False
