"""The set-up of each client that the page shows, run by the client it is for."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from flowise_gateway.page.page import STATIC
from tests.clients.environments import HERE, install
from tests.clients.programs import run_program
from tests.support.running_proxy import RunningProxy

pytestmark = pytest.mark.clients

PROJECT = Path(__file__).resolve().parents[2]
MODEL = "demo-assistant"
RENDER = """
import { readFileSync } from 'node:fs';
const source = readFileSync(process.argv[1], 'utf8');
const { snippets } = await import('data:text/javascript,' + encodeURIComponent(source));
console.log(JSON.stringify(snippets(JSON.parse(process.argv[2]))));
"""
ENVIRONMENTS = {
    "curl": None,
    "openai-python": "openai_python",
    "azure-openai": "openai_python",
    "openai-js": "openai_js",
    "ai-sdk": "ai_sdk",
    "langchain": "langchain_python",
    "llama-index": "llama_index",
    "websocket": "langchain_python",
}
"""The client whose environment each program of the page runs in; None: the shell's."""


@pytest.fixture(scope="module")
def snippets(proxy: RunningProxy) -> dict[str, str]:
    """The texts of the page, for the server under test."""
    values = json.dumps({"base": proxy.url, "model": MODEL, "key": "any"})
    script = str(STATIC / "snippets.js")
    node = install("openai_js").program
    command = [str(node), "--input-type=module", "-e", RENDER, "--", script, values]
    rendered = subprocess.run(command, capture_output=True, check=True, timeout=60)
    return {one["id"]: one["text"] for one in json.loads(rendered.stdout)}


@pytest.mark.parametrize("client", ENVIRONMENTS)
def test_a_program_of_the_page_prints_an_answer(
    snippets: dict[str, str], client: str, tmp_path: Path
) -> None:
    done = run_program(snippets[client], ENVIRONMENTS[client], tmp_path)
    assert "Hello" in done
    assert "demo" in done


def librechat_reads(config: str) -> dict[str, Any]:
    """What LibreChat makes of a configuration."""
    environment = install("librechat_config")
    folder = environment.folder
    command = [
        str(environment.program),
        "--input-type=module",
        "-e",
        (HERE / "librechat_config/check.mjs").read_text(),
    ]
    done = subprocess.run(
        command,
        input=config,
        cwd=folder,
        # LibreChat puts the variables of its environment into keys, and refuses a name that has no value.
        env={**os.environ, "FLOWISE_GATEWAY_KEY": "any"},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    read: dict[str, Any] = json.loads(done.stdout)
    return read


@pytest.mark.parametrize("client", ["librechat", "librechat-azure"])
def test_librechat_takes_its_file(snippets: dict[str, str], client: str) -> None:
    read = librechat_reads(json.dumps(yaml.safe_load(snippets[client])))
    assert read["success"], read["errors"]
    for model in read.get("models") or []:
        assert model["azureOptions"]["azureOpenAIApiDeploymentName"] == MODEL


def test_librechat_takes_the_files_of_the_documentation() -> None:
    whole, headers, azure = re.findall(
        r"```yaml\n(.*?)```", (PROJECT / "docs/librechat.md").read_text(), re.DOTALL
    )
    files = [whole, whole + headers, azure, (PROJECT / "deploy/librechat.yaml").read_text()]
    for text in files:
        read = librechat_reads(json.dumps(yaml.safe_load(text)))
        assert read["success"], read["errors"]
    assert "X-Conversation-Id" in yaml.safe_load(whole + headers)["endpoints"]["custom"][0]["headers"]


def test_librechats_reader_refuses_what_is_wrong() -> None:
    wrong = {"version": "1", "endpoints": {"custom": [{"name": "a", "baseURL": 5}]}}
    assert not librechat_reads(json.dumps(wrong))["success"]
