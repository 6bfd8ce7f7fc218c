"""What a pipeline costs behind the gateway and behind hayhooks: CPU of requests and tokens, in one run.

`python -m benchmarks.pipelines --python PYTHON`, an interpreter with `haystack-ai`, `hayhooks` and what
serving needs. Both serve the same pipeline, a generator that says words, over OpenAI's chat completions. The
rounds are interleaved, and medians count; CPU is that of a server's whole family of processes, the pipeline's
among it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests

from benchmarks.serving import cpu_seconds, family, free_port, running

PROJECT = Path(__file__).resolve().parents[1]
WARM_REQUESTS = 20
PIPELINE = '''
import time

from haystack import Pipeline, component
from haystack.dataclasses import ChatMessage, StreamingChunk


@component
class Talker:
    """Says as many words as asked, `pause` seconds apart: "100 0.01"."""

    @component.output_types(replies=list[ChatMessage])
    def run(self, messages: list[ChatMessage], streaming_callback=None):
        count, pause = messages[-1].text.split()
        for _ in range(int(count)):
            if streaming_callback:
                streaming_callback(StreamingChunk(content="word "))
                if float(pause):
                    time.sleep(float(pause))
        return {"replies": [ChatMessage.from_assistant("word " * int(count), meta={"finish_reason": "stop"})]}


def talk():
    pipeline = Pipeline()
    pipeline.add_component("llm", Talker())
    return pipeline
'''
WRAPPER = """
import sys

sys.path.append("{folder}")
from talking import talk

from haystack.dataclasses import ChatMessage
from hayhooks import BasePipelineWrapper, get_last_user_message, streaming_generator


class PipelineWrapper(BasePipelineWrapper):
    def setup(self) -> None:
        self.pipeline = talk()

    def run_chat_completion(self, model: str, messages: list[dict], body: dict):
        asked = {{"llm": {{"messages": [ChatMessage.from_user(get_last_user_message(messages))]}}}}
        if body.get("stream"):
            return streaming_generator(pipeline=self.pipeline, pipeline_run_args=asked)
        return self.pipeline.run(asked)["llm"]["replies"][0].text
"""


@dataclass(slots=True)
class Contender:
    """A server with the pipeline, and its figures by scenario."""

    name: str
    url: str
    pid: int
    figures: dict[str, list[float]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Scenario:
    """What is asked: so many requests, so many at a time; `tokens` of each, `pause` seconds apart."""

    name: str
    at_a_time: int
    requests: int
    tokens: int
    pause: float
    is_streamed: bool = True


SCENARIOS = (
    Scenario("JSON request, CPU µs", 8, 400, 5, 0, is_streamed=False),
    Scenario("token, paced, CPU µs", 20, 20, 100, 0.02),
    Scenario("token, at once, CPU µs", 4, 4, 2000, 0),
)


def ask(contender: Contender, scenario: Scenario, session: requests.Session) -> None:
    """One request; the answer must be whole."""
    question = f"{scenario.tokens} {scenario.pause}"
    body: dict[str, Any] = {
        "model": "talk",
        "messages": [{"role": "user", "content": question}],
        "stream": scenario.is_streamed,
    }
    with session.post(f"{contender.url}/v1/chat/completions", json=body, stream=True, timeout=120) as answer:
        content = answer.content
        assert answer.status_code == 200, content[:300]
    assert content.count(b"word") >= scenario.tokens, content[:300]


def measure(contender: Contender, scenario: Scenario) -> None:
    """Ask as the scenario has it, and note the CPU of each request or token."""
    sessions = threading.local()

    def client(_number: int) -> None:
        if not hasattr(sessions, "own"):
            sessions.own = requests.Session()
            sessions.own.trust_env = False
        ask(contender, scenario, sessions.own)

    before = cpu_seconds(contender.pid)
    with ThreadPoolExecutor(scenario.at_a_time) as pool:
        list(pool.map(client, range(scenario.requests)))
    spent = cpu_seconds(contender.pid) - before
    units = scenario.requests * (scenario.tokens if scenario.is_streamed else 1)
    contender.figures.setdefault(scenario.name, []).append(spent / units * 1e6)


@contextlib.contextmanager
def contenders(python: str, folder: Path) -> Iterator[list[Contender]]:
    """Both servers, with the pipeline loaded."""
    (folder / "talking.py").write_text(PIPELINE)
    (folder / "proxy.yaml").write_text('pipelines:\n  - {id: talk, source: "talking:talk"}\n')
    wrapper = folder / "wrapped/talk/pipeline_wrapper.py"
    wrapper.parent.mkdir(parents=True)
    wrapper.write_text(WRAPPER.format(folder=folder))
    ours, theirs = free_port(), free_port()
    quiet = {"HAYSTACK_TELEMETRY_ENABLED": "false", "LOG": "WARNING", "HAYHOOKS_DISABLE_TELEMETRY": "true"}
    gateway = [python, str(PROJECT / "openai_compatible_server.py")]
    options = [
        "--port",
        str(theirs),
        "--pipelines-dir",
        "wrapped",
        "--without-monitoring",
        "--without-tracing",
    ]
    hayhooks = [str(Path(python).with_name("hayhooks")), "run", *options]
    with (
        running(gateway, ours, folder, PORT=str(ours), HOST="127.0.0.1") as one,
        running(hayhooks, theirs, folder, **quiet) as two,
    ):
        yield [
            Contender("gateway", f"http://127.0.0.1:{ours}", one.pid),
            Contender("hayhooks", f"http://127.0.0.1:{theirs}", two.pid),
        ]


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--python", required=True)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, contenders(given.python, Path(name)) as found:
        warm = Scenario("warm", 1, WARM_REQUESTS, 3, 0)
        deadline = time.monotonic() + 60
        for contender in found:
            while True:
                try:
                    measure(contender, warm)
                    break
                except (AssertionError, requests.RequestException):
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(1)
            contender.figures.clear()
        for _ in range(given.rounds):
            for scenario in SCENARIOS:
                for contender in found:
                    measure(contender, scenario)
        print(json.dumps({one.name: {"processes": len(family(one.pid)), **one.figures} for one in found}))
        print("\n| | gateway | hayhooks | ratio | ratios of the rounds |\n|---|---|---|---|---|")
        for scenario in SCENARIOS:
            one, two = (contender.figures[scenario.name] for contender in found)
            ratios = sorted(a / b for a, b in zip(one, two, strict=True))
            print(
                f"| {scenario.name} | {statistics.median(one):.0f} | {statistics.median(two):.0f} "
                f"| {statistics.median(ratios):.2f} | {ratios[0]:.2f} to {ratios[-1]:.2f} |"
            )


if __name__ == "__main__":
    main()
