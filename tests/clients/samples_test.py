"""The samples of four documents that others wrote, each run as printed but for base URL and model.

What cannot run as printed has its nearest form here, with the reason.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from tests.clients.programs import run_program
from tests.clients.snippets_test import librechat_reads
from tests.clients.upstreams import ASSISTANT
from tests.support.demo_server import DemoServer
from tests.support.running_proxy import RunningProxy

pytestmark = pytest.mark.clients

SAMPLES = Path(__file__).resolve().parents[1] / "wire/samples"
# The models that the samples name are other names of one flow.
CONFIG = f"""
models:
  - id: support
    flow: {ASSISTANT}
    aliases: [gpt-3.5-turbo, cortex-flow, flow-id-1, flow-id-2, agent_id_here]
"""
PRINT = 'print("It was asked:", response.choices[0].message.content)\n'


@dataclass(frozen=True, slots=True)
class Sample:
    """A program, its environment, how many runs it is, and what has to be changed for it to run."""

    name: str
    environment: str | None
    runs: int = 1
    after: str = ""
    """The sample of the same page whose client it goes on with."""
    then: str = ""
    """What prints, where it does not."""
    nearest: tuple[tuple[str, str], ...] = ()


PYTHON = "openai_python"
CORTEX = "cortex-flow/chat.py.txt"
# The SDK refuses keywords that it does not know: further fields of a body go into `extra_body`.
NO_KEYWORD = tuple(
    (f"conversation_id={value}", f'extra_body={{"conversation_id": {value}}}')
    for value in ('"user_123_conv_1"', "self.conversation_id")
)
RUN = [
    # As printed one line is a patch's: "\n+# Streaming example".
    Sample(
        "integration/azure.py.txt", PYTHON, 2, nearest=(("\\n+# Streaming example", "# Streaming example"),)
    ),
    Sample("integration/chat.sh", None),
    Sample("integration/stream.sh", None),
    # As printed the messages are an ellipsis.
    Sample(
        "integration/flows.py.txt",
        PYTHON,
        4,
        "integration/azure.py.txt",
        "print(response1, response2)\n",
        (
            ("messages=[...]", 'messages=[{"role": "user", "content": "Hello"}]'),
            ("\\n+# Streaming example", "# Streaming example"),
        ),
    ),
    Sample("haystack-server/chat.py.txt", PYTHON),
    Sample("haystack-server/chat.mjs.txt", "openai_js"),
    # The package has no such class: what it has is a function that makes a provider.
    Sample(
        "haystack-server/ai-sdk.ts.txt",
        "ai_sdk",
        then="""
import { generateText } from "ai";
console.log((await generateText({ model, prompt: "Hello" })).text);
""",
        nearest=(
            ("import { OpenAICompatible }", "import { createOpenAICompatible }"),
            ("new OpenAICompatible({", 'createOpenAICompatible({\n  name: "gateway",'),
            ('  model: "gpt-3.5-turbo",\n});', '})("gpt-3.5-turbo");'),
        ),
    ),
    Sample(CORTEX, PYTHON),
    Sample("cortex-flow/stream.py.txt", PYTHON, 2, CORTEX),
    Sample(
        "cortex-flow/conversation.py.txt",
        PYTHON,
        3,
        CORTEX,
        'print(response2.choices[0].message.content)\nassert "I remember 2" in response2.choices[0].message.content\n',
        NO_KEYWORD,
    ),
    Sample("cortex-flow/conversation-id.py.txt", PYTHON, 2, CORTEX, PRINT + "assert conv_id\n"),
    Sample("cortex-flow/flush.py.txt", PYTHON, 2, CORTEX),
    # The class has moved to a package of its own since.
    Sample(
        "cortex-flow/langchain.py.txt",
        "langchain_python",
        nearest=(("from langchain.chat_models import", "from langchain_openai import"),),
    ),
    Sample("cortex-flow/chatbot.py.txt", PYTHON, 3, CORTEX, nearest=NO_KEYWORD),
    Sample("cortex-flow/tokens.py.txt", PYTHON, 2, CORTEX, PRINT),
    Sample(
        "cortex-flow/metadata.py.txt",
        PYTHON,
        2,
        CORTEX,
        PRINT + "assert float(response.metadata['iterations']) >= 0\n",
    ),
]
BODIES = [
    "haystack-server/body.json",
    "cortex-flow/body.json",
]


@pytest.fixture(scope="module")
def demo() -> Iterator[DemoServer]:
    """A Flowise that counts."""
    with DemoServer("--token-seconds", "0") as demo:
        yield demo


@pytest.fixture(scope="module")
def gateway(demo: DemoServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A gateway that knows the samples' models."""
    folder = tmp_path_factory.mktemp("samples")
    (folder / "proxy.yaml").write_text(CONFIG)
    with RunningProxy(folder, FLOWISE_BASE_URL=demo.base_url) as proxy:
        yield proxy.url


def printed(name: str, gateway: str) -> str:
    """A sample with this gateway's address."""
    text = (SAMPLES / name).read_text()
    for port in (8000, 8001):
        for host in ("localhost", "127.0.0.1"):
            text = text.replace(f"http://{host}:{port}", gateway)
    return text


@pytest.mark.parametrize("sample", RUN, ids=lambda sample: sample.name)
def test_a_program_runs(sample: Sample, gateway: str, demo: DemoServer, tmp_path: Path) -> None:
    before = printed(sample.after, gateway) if sample.after else ""
    text = before + printed(sample.name, gateway) + sample.then
    for theirs, ours in sample.nearest:
        text = text.replace(theirs, ours)
    demo.clear()
    said = run_program(text, sample.environment, tmp_path)
    assert "You asked" in said
    assert len(demo.records()) == sample.runs


def test_flowise_is_asked_without_a_server(demo: DemoServer, tmp_path: Path) -> None:
    text = (SAMPLES / "integration/flowise-client.py.txt").read_text()
    text = text.replace("https://demo.flow.legaleagle-ai.com/api/v1", demo.base_url)
    project = Path(__file__).resolve().parents[2]
    code = f"import sys\nsys.path.insert(0, {str(project)!r})\n{text}"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60
    )
    assert "You asked" in done.stdout


@pytest.mark.parametrize("name", BODIES)
def test_a_body_is_answered(name: str, gateway: str) -> None:
    body = json.loads((SAMPLES / name).read_text())
    answer = requests.post(f"{gateway}/v1/chat/completions", json=body, timeout=30)
    assert answer.ok, answer.text
    message = answer.json()
    assert "You asked" in message["choices"][0]["message"]["content"]
    assert message.get("conversation_id", "") == body.get(
        "conversation_id", message.get("conversation_id", "")
    )
    assert message["usage"]["total_tokens"] > 0


def test_cortex_flows_models_and_error_have_their_fields(gateway: str) -> None:
    models = requests.get(f"{gateway}/v1/models", timeout=30).json()
    named = requests.get(f"{gateway}/v1/models/cortex-flow", timeout=30).json()
    assert models["object"] == "list"
    for model in [*models["data"], named]:
        assert {"id", "object", "created", "owned_by"} <= model.keys()
    body = {"model": "invalid-model", "messages": [{"role": "user", "content": "Hello"}]}
    refused = requests.post(f"{gateway}/v1/chat/completions", json=body, timeout=30)
    assert refused.status_code == 404
    error = refused.json()["error"]
    assert (error["type"], error["code"]) == ("invalid_request_error", "model_not_found")
    assert "invalid-model" in error["message"]


@pytest.mark.parametrize("name", ["librechat.yaml", "phase-1.yaml"])
def test_librechat_takes_the_files(name: str) -> None:
    config: dict[str, Any] = yaml.safe_load((SAMPLES / "integration" / name).read_text())
    # A whole file has a version.
    config["version"] = "1.2.1"
    read = librechat_reads(json.dumps(config))
    assert read["success"], read["errors"]


def test_librechats_agents_routes_have_their_bodies(gateway: str) -> None:
    chat = {
        "model": "agent_id_here",
        "messages": [{"role": "user", "content": "Hello!"}],
        "stream": True,
        "conversation_id": "optional",
        "parent_message_id": "optional",
    }
    streamed = requests.post(f"{gateway}/v1/chat/completions", json=chat, timeout=30)
    assert streamed.ok, streamed.text
    assert streamed.text.rstrip().endswith("data: [DONE]")
    assert requests.get(f"{gateway}/v1/models/agent_id_here", timeout=30).json()["id"]


def test_librechats_responses_routes_have_their_bodies(gateway: str) -> None:
    url = f"{gateway}/v1/responses"
    first = requests.post(url, json={"model": "agent_id_here", "input": "Hello!"}, timeout=30).json()
    assert first["status"] == "completed"
    assert requests.get(f"{url}/{first['id']}", timeout=30).json()["output"] == first["output"]
    assert requests.get(f"{url}/models", timeout=30).json()["data"]
    message = {"type": "message", "role": "user", "content": "Hello!"}
    more = {"model": "agent_id_here", "input": [message], "stream": True, "previous_response_id": first["id"]}
    events = requests.post(url, json=more, timeout=30).text
    for name in (
        *("in_progress", "output_item.added", "content_part.added", "output_text.delta"),
        *("output_text.done", "output_item.done", "completed"),
    ):
        assert f"event: response.{name}\n" in events, name
    assert events.rstrip().endswith("data: [DONE]")
