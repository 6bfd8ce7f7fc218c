"""`pip install .` in an empty environment gives a program that serves from any folder."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import requests

from tests.support.processes import Server, clean_environment, free_port

PROJECT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.clients


def test_an_installed_program_serves_the_demo_flows_from_any_folder(tmp_path: Path) -> None:
    place, folder, port = tmp_path / "venv", tmp_path / "elsewhere", free_port()
    folder.mkdir()
    (folder / ".env").write_text(f"PORT={port}\nPROXY_API_KEYS=sk-own-folder\n")
    subprocess.run([sys.executable, "-m", "venv", place], check=True)
    subprocess.run([place / "bin/pip", "install", "--quiet", PROJECT], check=True, cwd=tmp_path)
    environment = clean_environment(folder)
    base_url, headers = f"http://127.0.0.1:{port}", {"Authorization": "Bearer sk-own-folder"}

    def is_ready() -> bool:
        try:
            return requests.get(f"{base_url}/ready", timeout=5).ok
        except requests.ConnectionError:
            return False

    with Server("installed", [str(place / "bin/flowise-gateway"), "serve"], environment, folder) as server:
        server.wait_until(is_ready, 60)
        page = requests.get(base_url, timeout=5)
        assert "page/app.js" in page.text
        for name in (
            "app.js",
            "style.css",
            "vendor/marked.esm.js",
            "vendor/marked.LICENSE.txt",
            "openapi.json",
        ):
            assert requests.get(f"{base_url}/page/{name}", timeout=5).ok, name
        assert requests.get(f"{base_url}/page/swagger-ui/swagger-ui.css", timeout=5).ok
        ids = {
            m["id"] for m in requests.get(f"{base_url}/v1/models", headers=headers, timeout=5).json()["data"]
        }
        assert "demo-assistant" in ids
        body = {"model": "demo-assistant", "messages": [{"role": "user", "content": "Hello"}]}
        answer = requests.post(f"{base_url}/v1/chat/completions", json=body, headers=headers, timeout=30)
        assert answer.json()["choices"][0]["message"]["content"]
    assert (folder / "data").is_dir()
    listed = subprocess.run(
        [place / "bin/flowise-gateway", "models"],
        cwd=folder,
        env=environment,
        capture_output=True,
        check=True,
    )
    assert b"demo-assistant" in listed.stdout
