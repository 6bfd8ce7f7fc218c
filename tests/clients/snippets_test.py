"""The set-up of each client that the page shows, run by the client it is for."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from flowise_gateway.page.page import STATIC
from tests.clients.clients_install import PYTHONS, Clients, install, install_librechat_config
from tests.support.processes import clean_environment
from tests.support.running_proxy import RunningProxy

pytestmark = pytest.mark.clients

MODEL = "demo-assistant"
RENDER = """
import { readFileSync } from 'node:fs';
const source = readFileSync(process.argv[1], 'utf8');
const { snippets } = await import('data:text/javascript,' + encodeURIComponent(source));
console.log(JSON.stringify(snippets(JSON.parse(process.argv[2]))));
"""
INTERPRETERS = {
    "curl": "sh",
    "openai-python": sys.executable,
    "azure-openai": sys.executable,
    "openai-js": "node",
    "ai-sdk": "node",
    "langchain": PYTHONS["langchain_client.py"],
    "llama-index": PYTHONS["llama_index_client.py"],
    "websocket": PYTHONS["langchain_client.py"],
}


@pytest.fixture(scope="module")
def clients() -> Clients:
    """The client libraries."""
    return install()


@pytest.fixture(scope="module")
def snippets(clients: Clients, proxy: RunningProxy) -> dict[str, str]:
    """The texts of the page, for the server under test."""
    values = json.dumps({"base": proxy.url, "model": MODEL, "key": "any"})
    script = str(STATIC / "snippets.js")
    command = [str(clients.node), "--input-type=module", "-e", RENDER, "--", script, values]
    rendered = subprocess.run(command, capture_output=True, check=True, timeout=60)
    return {one["id"]: one["text"] for one in json.loads(rendered.stdout)}


@pytest.mark.parametrize("client", INTERPRETERS)
def test_a_program_of_the_page_prints_an_answer(
    snippets: dict[str, str], clients: Clients, client: str, tmp_path: Path
) -> None:
    named = INTERPRETERS[client]
    interpreter = {"node": str(clients.node)}.get(named, named)
    if (clients.folder / named / "bin/python").exists():
        interpreter = str(clients.folder / named / "bin/python")
    # Modules are looked for beside the program.
    with tempfile.TemporaryDirectory(dir=clients.folder) as folder:
        program = Path(folder) / f"snippet.{'mjs' if named == 'node' else 'txt'}"
        program.write_text(snippets[client])
        done = subprocess.run(
            [interpreter, str(program)],
            cwd=tmp_path,
            env=clean_environment(tmp_path),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    assert "Hello" in done.stdout
    assert "demo" in done.stdout


@pytest.mark.parametrize("client", ["librechat", "librechat-azure"])
def test_librechat_takes_its_file(snippets: dict[str, str], client: str) -> None:
    config = json.dumps(yaml.safe_load(snippets[client]))
    done = subprocess.run(
        install_librechat_config(), input=config, capture_output=True, text=True, check=True, timeout=120
    )
    read: dict[str, Any] = json.loads(done.stdout)
    assert read["success"], read["errors"]
    for model in read.get("models") or []:
        assert model["azureOptions"]["azureOpenAIApiDeploymentName"] == MODEL


def test_librechats_reader_refuses_what_is_wrong() -> None:
    done = subprocess.run(
        install_librechat_config(),
        input=json.dumps({"version": "1", "endpoints": {"custom": [{"name": "a", "baseURL": 5}]}}),
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert not json.loads(done.stdout)["success"]
