"""The alert rules and the dashboard, as Prometheus itself takes them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.server.monitoring_test import has_asked_for_everything
from tests.support.demo_server import DemoServer
from tests.support.monitoring import FOLDER, panels
from tests.support.processes import Server, clean_environment, free_port, wait_for
from tests.support.running_proxy import RunningProxy

pytestmark = [
    pytest.mark.clients,
    pytest.mark.skipif(shutil.which("promtool") is None, reason="Prometheus is not installed"),
]


@pytest.mark.parametrize(
    "command", [["check", "rules", FOLDER / "alerts.yaml"], ["test", "rules", "alerts_test.yaml"]]
)
def test_the_rules_are_accepted_and_fire_when_they_must(command: list[Any]) -> None:
    done = subprocess.run(
        ["promtool", *command],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_panel_shows_something_of_a_gateway_that_is_used(tmp_path: Path) -> None:
    with (
        DemoServer("--token-seconds", "0") as flowise,
        RunningProxy(tmp_path, FLOWISE_BASE_URL=flowise.base_url) as proxy,
    ):
        target = proxy.url.removeprefix("http://")
        (tmp_path / "prometheus.yml").write_text(
            "global: {scrape_interval: 1s}\n"
            f"scrape_configs: [{{job_name: gateway, static_configs: [{{targets: ['{target}']}}]}}]\n"
        )
        port = free_port()
        command = [
            "prometheus",
            f"--config.file={tmp_path / 'prometheus.yml'}",
            f"--storage.tsdb.path={tmp_path / 'series'}",
            f"--web.listen-address=127.0.0.1:{port}",
        ]
        has_asked_for_everything(proxy)
        prometheus = Server("prometheus", command, clean_environment(tmp_path), tmp_path)
        try:

            def value(query: str) -> Any:
                url = f"http://127.0.0.1:{port}/api/v1/query"
                answer = requests.get(url, params={"query": query}, timeout=10).json()
                assert answer["status"] == "success", (query, answer)
                return answer["data"]["result"]

            def is_up() -> bool:
                try:
                    return bool(value("flowise_proxy_workers"))
                except requests.RequestException:
                    return False

            assert wait_for(is_up, 60)
            has_asked_for_everything(proxy, times=2)
            empty: list[str] = []

            def all_show() -> bool:
                empty[:] = [panel.place for panel in panels() if not value(panel.text)]
                return not empty

            assert wait_for(all_show, 60), empty
        finally:
            prometheus.stop()
