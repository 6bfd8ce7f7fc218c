"""Pipelines of Haystack as models of the gateway: the documented ones, and every client sample of the card.

The generators of the documented pipelines are OpenAI's: a second gateway on the demo flows answers them.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from openai import OpenAI

from tests.pipelines import environment
from tests.support.demo_server import PROJECT
from tests.support.pipelines.running_host import HERE as KITCHEN
from tests.support.processes import clean_environment
from tests.support.running_proxy import RunningProxy

pytestmark = pytest.mark.clients

Json = dict[str, Any]
ASSISTANT = "5518949f-3ebc-4082-af01-fa2a18623da6"
# The models that Haystack's generators ask for, whatever version of them is the default.
MODELS = f"""
models:
  - {{id: talking, flow: {ASSISTANT}, aliases: [gpt-5-mini]}}
  - {{id: calling, flow: {ASSISTANT}, aliases: [gpt-tools], tools: prompt}}
"""
PIPELINES = """
pipelines:
  - {id: demo-pipeline, source: "flowise_gateway.pipelines.sample:pipeline"}
  - {id: handbook, source: handbook.yaml}
  - {id: support, source: "my_pipelines:support"}
  - {id: helper, source: "my_agent:agent"}
  - {id: slow, source: "kitchen:slow"}
  - {id: stuck, source: "kitchen:talk", run_timeout: 20}
models:
  - {id: demo-pipeline, flow: 940c51ad-65df-59b3-b55c-f91e49510b3f, aliases: [gpt-3.5-turbo]}
"""


def documented(name: str) -> str:
    """A program of the page, by the name in its first line."""
    page = (PROJECT / "docs/pipelines.md").read_text()
    blocks = re.findall(r"```python\n# (\S+)\n(.*?)```", page, re.DOTALL)
    return str(dict(blocks)[name])


@pytest.fixture(scope="module")
def installed() -> Path:
    """The folder with the JavaScript clients."""
    return environment.install()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of proxy.yaml, with the documented programs; the YAML is written by the documented one."""
    made = tmp_path_factory.mktemp("gateway")
    for name in ("my_pipelines.py", "my_agent.py", "write_yaml.py"):
        (made / name).write_text(documented(name))
    (made / "kitchen.py").write_text((KITCHEN / "kitchen.py").read_text())
    home = clean_environment(made, OPENAI_API_KEY="any", HAYSTACK_TELEMETRY_ENABLED="false")
    subprocess.run([environment.python(), "write_yaml.py"], cwd=made, env=home, check=True, timeout=60)
    text = (made / "handbook.yaml").read_text()
    assert "OpenAIChatGenerator" in text
    model = re.search(r"model: (\S+)", text)
    assert model
    # The agent's generator is asked under another name, whose model calls tools.
    agent = (made / "my_agent.py").read_text()
    (made / "my_agent.py").write_text(
        agent.replace("OpenAIChatGenerator()", 'OpenAIChatGenerator(model="gpt-tools")')
    )
    (made / "provider.yaml").write_text(MODELS.replace("gpt-5-mini", model[1]))
    (made / "proxy.yaml").write_text(PIPELINES)
    return made


@pytest.fixture(scope="module")
def gateway(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningProxy]:
    """The gateway with its pipelines, and the provider behind these."""
    home = tmp_path_factory.mktemp("provider")
    with RunningProxy(home, PROXY_CONFIG=str(folder / "provider.yaml")) as provider:
        settings = {"OPENAI_BASE_URL": f"{provider.url}/v1", "OPENAI_API_KEY": "any"}
        with RunningProxy(folder, python=environment.python(), **settings) as running:
            yield running


@pytest.fixture(scope="module")
def client(gateway: RunningProxy) -> Iterator[Any]:
    """OpenAI's client at the gateway."""
    with OpenAI(base_url=f"{gateway.url}/v1", api_key="any-key-works", max_retries=0) as made:
        yield made


def ask(client: Any, model: str, messages: list[Any], *, stream: bool, **more: Any) -> Json:
    """The answer's text, sources, thoughts and usage, streamed or whole."""
    if not stream:
        done = client.chat.completions.create(model=model, messages=messages, **more)
        message = done.choices[0].message.to_dict()
        return {
            **message,
            "usage": done.usage and done.usage.to_dict(),
            "finish": done.choices[0].finish_reason,
        }
    parts: Json = {"content": "", "reasoning_content": "", "annotations": [], "usage": None}
    options = {"include_usage": True}
    chunks = client.chat.completions.create(
        model=model, messages=messages, stream=True, stream_options=options, **more
    )
    for chunk in chunks:
        told = chunk.to_dict()
        parts["usage"] = told.get("usage") or parts["usage"]
        for choice in told["choices"]:
            for name in ("content", "reasoning_content", "annotations"):
                parts[name] += choice["delta"].get(name) or type(parts[name])()
            parts["finish"] = choice["finish_reason"]
    return parts


def sources(answer: Json) -> list[str]:
    """The addresses of an answer's sources."""
    return [one["url_citation"]["url"] for one in answer.get("annotations") or ()]


def user(text: str) -> Json:
    """What a person says."""
    return {"role": "user", "content": text}


BOTH = pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])


# --------------------------------------------------------------------------------------------- the pipelines
def test_every_pipeline_is_a_model(client: Any) -> None:
    names = {model.id for model in client.models.list()}
    assert {"demo-pipeline", "handbook", "support", "helper", "slow", "stuck"} <= {
        name.rpartition("/")[2] for name in names
    }


def test_with_nothing_configured_the_sample_shows_beside_the_demo_flows(tmp_path: Path) -> None:
    with RunningProxy(tmp_path, python=environment.python()) as running:
        listed = requests.get(f"{running.url}/v1/models", timeout=60).json()["data"]
        assert {"demo-pipeline", "demo-assistant"} <= {row["id"] for row in listed}


@BOTH
def test_three_turns_of_the_sample_with_sources_and_usage(client: Any, stream: bool) -> None:
    messages: list[Json] = [{"role": "system", "content": "Be {brief}."}]
    for turn, question in enumerate(("What is FastAPI?", "What is Haystack?", "What is Flowise?")):
        messages.append(user(question))
        answer = ask(client, "demo-pipeline", messages, stream=stream)
        assert question.split()[-1].strip("?") in answer["content"]
        assert (f"I remember {2 * turn} earlier messages" in answer["content"]) is bool(turn)
        assert sources(answer)
        assert answer["usage"]["completion_tokens"] == len(answer["content"].split())
        assert "retriever" in answer["reasoning_content"]
        messages.append({"role": "assistant", "content": answer["content"]})


@BOTH
def test_a_parameter_reaches_the_generator(client: Any, stream: bool) -> None:
    answer = ask(client, "demo-pipeline", [user("What is FastAPI?")], stream=stream, max_tokens=3)
    assert (answer["content"].strip(), answer["finish"]) == ("FastAPI is a", "length")


@BOTH
def test_retrieval_as_documented(client: Any, stream: bool) -> None:
    answer = ask(client, "support", [user("When are parcels picked up?")], stream=stream)
    assert "Parcels are picked up at noon." in answer["content"]  # the demo model says what it was asked
    assert sources(answer) == ["https://example.com/parcels"]
    more = [user("When are parcels picked up?"), {"role": "assistant", "content": "At noon."}]
    answer = ask(client, "support", [*more, user("And the office {{ x }}?")], stream=stream)
    assert "The office opens at nine." in answer["content"]
    assert "And the office {{ x }}?" in answer["content"]
    assert "I remember 2 earlier messages" in answer["content"]


@BOTH
def test_a_pipeline_from_yaml_as_documented(client: Any, stream: bool) -> None:
    messages: list[Json] = []
    for turn, question in enumerate(("First of all", "And then", "At last")):
        messages.append(user(question))
        answer = ask(client, "handbook", messages, stream=stream)
        assert f'You asked: "{question}"' in answer["content"]
        assert f"I remember {2 * turn} earlier messages" in answer["content"]
        messages.append({"role": "assistant", "content": answer["content"]})


@BOTH
def test_an_agent_with_a_tool_as_documented(client: Any, stream: bool) -> None:
    answer = ask(client, "helper", [user("Use opening_hours for Monday")], stream=stream)
    assert answer["content"] == "The tool said: On Monday the office is open from nine to five."
    assert "opening_hours" in answer["reasoning_content"]


def test_the_first_token_is_there_before_the_pipeline_is_done(client: Any) -> None:
    chunks = client.chat.completions.create(model="slow", messages=[user("count")], stream=True)
    arrived = [time.monotonic() for chunk in chunks if chunk.choices and chunk.choices[0].delta.content]
    assert arrived[-1] - arrived[0] > 0.4


def test_the_responses_api_has_pipelines_too(client: Any) -> None:
    answer = client.responses.create(model="demo-pipeline", input="What is FastAPI?")
    assert answer.output_text.startswith("FastAPI is a Python web framework")


# --------------------------------------------------------------------------------------------- what goes wrong
def test_bad_pipelines_harm_no_other_and_the_host_is_started_again(
    client: Any, gateway: RunningProxy
) -> None:
    failed: list[str] = []

    def break_it(deed: str) -> None:
        body = {"model": "stuck", "messages": [user(deed)]}
        answer = requests.post(f"{gateway.url}/v1/chat/completions", json=body, timeout=120)
        failed.append(f"{answer.status_code} {answer.json()['error']['message']}")

    texts: list[str] = []
    threads = [threading.Thread(target=break_it, args=("loop",))]
    threads += [
        threading.Thread(
            target=lambda: texts.append(ask(client, "slow", [user("count")], stream=True)["content"])
        )
        for _ in range(50)
    ]
    for thread in threads:
        thread.start()
    slowest = 0.0
    for _ in range(20):
        begun = time.monotonic()
        assert requests.get(f"{gateway.url}/health", timeout=10).ok
        slowest = max(slowest, time.monotonic() - begun)
    for thread in threads:
        thread.join(120)
    assert texts == ["one two three four "] * 50
    assert slowest < 1
    assert len(failed) == 1
    assert failed[0].startswith("400 The flow failed while it ran: the pipeline ran longer than 20 s")
    break_it("crash")
    assert failed[1].startswith(
        "400 The flow failed while it ran: the process of the pipeline ended (SIGKILL)"
    )
    assert ask(client, "stuck", [user("Hi")], stream=False)["content"] == "you:Hi"
    assert ask(client, "demo-pipeline", [user("What is FastAPI?")], stream=False)["content"]


# ------------------------------------------------------------------------------- the card's samples, as they are
PYTHON_SAMPLE = """
import openai

client = openai.OpenAI(
    api_key="any-key-works",  # API key is ignored but required
    base_url="http://localhost:8001/v1"  # Point to your server
)

response = client.chat.completions.create(
    model="gpt-3.5-turbo",
    messages=[
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "user", "content": "What is FastAPI?"}
    ]
)

print(response.choices[0].message.content)
"""
JAVASCRIPT_SAMPLE = """
import OpenAI from "openai";

const openai = new OpenAI({
  apiKey: "any-key-works",
  baseURL: "http://localhost:8001/v1",
});

async function main() {
  const completion = await openai.chat.completions.create({
    model: "gpt-3.5-turbo",
    messages: [
      { role: "system", content: "You are a helpful assistant." },
      { role: "user", content: "What is FastAPI?" },
    ],
  });

  console.log(completion.choices[0].message.content);
}

main();
"""
# The card's `new OpenAICompatible({…})` is no name of the package: the same options, by the function that it has.
AI_SDK_SAMPLE = """
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { streamText } from "ai";

const provider = createOpenAICompatible({
  // Use explicit IPv4 address to avoid IPv6 issues
  name: "pipelines",
  baseURL: "http://127.0.0.1:8001/v1", // Use 127.0.0.1 instead of localhost
  apiKey: "any-key-works",
});

const { textStream } = streamText({ model: provider("gpt-3.5-turbo"), prompt: "What is FastAPI?" });
for await (const text of textStream) process.stdout.write(text);
"""
CURL_BODY = {
    "model": "gpt-3.5-turbo",
    "messages": [
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "user", "content": "What is FastAPI?"},
    ],
    "temperature": 0.7,
    "stream": False,
}


def run_program(command: list[str], text: str, suffix: str, gateway: RunningProxy, place: Path) -> str:
    """What a program prints, pointed at the gateway."""
    port = gateway.url.rpartition(":")[2]
    program = place / f"sample-{os.getpid()}{suffix}"
    program.write_text(text.replace("localhost:8001", f"127.0.0.1:{port}").replace(":8001", f":{port}"))
    try:
        done = subprocess.run(
            [*command, str(program)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env=clean_environment(place),
        )
    finally:
        program.unlink()
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_python_sample(gateway: RunningProxy, tmp_path: Path) -> None:
    assert "FastAPI is a Python" in run_program([sys.executable], PYTHON_SAMPLE, ".py", gateway, tmp_path)


@pytest.mark.parametrize("sample", [JAVASCRIPT_SAMPLE, AI_SDK_SAMPLE], ids=["openai", "ai-sdk"])
def test_the_javascript_samples(sample: str, gateway: RunningProxy, installed: Path) -> None:
    node = str(environment.node(installed.parent))
    # Modules are looked for beside the program.
    assert "FastAPI is a Python" in run_program([node], sample, ".mjs", gateway, installed)


@BOTH
def test_the_curl_samples(gateway: RunningProxy, stream: bool) -> None:
    body = json.dumps({**CURL_BODY, "stream": stream})
    command = ["curl", "-sS", "-N", "-H", "Content-Type: application/json", "-d", body]
    done = subprocess.run(
        [*command, f"{gateway.url}/v1/chat/completions"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    if stream:
        assert done.stdout.endswith("data: [DONE]\n\n")
        lines = [json.loads(line[6:]) for line in done.stdout.split("\n\n") if line.startswith("data: {")]
        text = "".join(one["delta"].get("content", "") for line in lines for one in line["choices"])
    else:
        text = json.loads(done.stdout)["choices"][0]["message"]["content"]
    assert text.startswith("FastAPI is a Python")
    listed = subprocess.run(
        ["curl", "-sS", f"{gateway.url}/v1/models"], capture_output=True, check=True, timeout=60
    )
    assert "demo-pipeline" in listed.stdout.decode()
