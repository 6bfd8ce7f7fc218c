"""The conformance kit run against this gateway and two peers, as a table of docs/comparison.md.

`python -m benchmarks.peers --litellm BIN --hayhooks BIN [--write docs]`, programs of environments with
`litellm[proxy]` and `hayhooks`. LiteLLM stands in front of this gateway, hayhooks a pipeline of its own
that says each question again; all are asked one after the other, so that load matters to none.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from flowise_demo.flows import DEMO_FLOWS
from flowise_gateway import __version__
from flowise_gateway.conformance.run import BROKEN, KEPT, NOT_OFFERED, Result, run
from flowise_gateway.conformance.target import Target
from tests.support.demo_server import DemoServer
from tests.support.processes import Server, clean_environment, free_port
from tests.support.running_proxy import RunningProxy

OURS = "this gateway"
SOCKETS = "responses over WebSocket"
START = "<!-- made by python -m benchmarks.peers -->"
END = "<!-- end -->"
COMMAND = "python -m benchmarks.peers --litellm BIN --hayhooks BIN --write docs"
MAX_REASON = 120
WRAPPER = """
from haystack import Pipeline, component
from haystack.dataclasses import ChatMessage, StreamingChunk
from hayhooks import BasePipelineWrapper, get_last_user_message, streaming_generator


@component
class Echo:
    @component.output_types(replies=list[ChatMessage])
    def run(self, messages: list[ChatMessage], streaming_callback=None):
        text = f"You said: {messages[-1].text}"
        for word in text.split(" ") if streaming_callback else ():
            streaming_callback(StreamingChunk(content=f"{word} "))
        return {"replies": [ChatMessage.from_assistant(text)]}


class PipelineWrapper(BasePipelineWrapper):
    def setup(self) -> None:
        self.pipeline = Pipeline()
        self.pipeline.add_component("llm", Echo())

    def run_chat_completion(self, model: str, messages: list[dict], body: dict):
        asked = {"llm": {"messages": [ChatMessage.from_user(get_last_user_message(messages) or "")]}}
        if body.get("stream"):
            return streaming_generator(pipeline=self.pipeline, pipeline_run_args=asked)
        return self.pipeline.run(asked)["llm"]["replies"][0].text
"""


@contextlib.contextmanager
def running(name: str, command: list[str], port: int, folder: Path, **variables: str) -> Iterator[str]:
    """A peer, and its address once it answers."""
    with Server(name, command, clean_environment(folder, **variables), folder) as server:

        def is_up() -> bool:
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", port)) == 0

        server.wait_until(is_up, 120)
        yield f"http://127.0.0.1:{port}"


def version_of(program: str, package: str) -> str:
    """The version of a package in the environment of a program."""
    python = str(Path(program).with_name("python"))
    asked = f"from importlib.metadata import version; print(version({package!r}))"
    return subprocess.run([python, "-c", asked], capture_output=True, text=True, check=True).stdout.strip()


def compared(litellm: str, hayhooks: str) -> dict[str, list[Result]]:
    """The results of each, by name and version."""
    results: dict[str, list[Result]] = {}
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        demo = stack.enter_context(DemoServer("--token-seconds", "0"))
        (folder / "proxy.yaml").write_text(
            f"models: [{{id: prompted, flow: {DEMO_FLOWS['demo-agent']}, tools: prompt}}]\n"
        )
        ours = stack.enter_context(RunningProxy(folder, FLOWISE_BASE_URL=demo.base_url, PROXY_API_KEYS="key"))
        results[f"{OURS} {__version__}"] = run(Target(ours.url, "prompted"))
        port = free_port()
        upstream = {"model": "openai/prompted", "api_base": f"{ours.url}/v1", "api_key": "key"}
        settings = {
            "model_list": [{"model_name": "prompted", "litellm_params": upstream}],
            "general_settings": {"master_key": "sk-key"},
            "litellm_settings": {"telemetry": False, "num_retries": 0},
        }
        (folder / "litellm.json").write_text(json.dumps(settings))
        command = [litellm, "--config", "litellm.json", "--host", "127.0.0.1", "--port", str(port)]
        quiet = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_TELEMETRY": "False"}
        with running("litellm", command, port, folder, **quiet) as url:
            found = run(Target(url, "prompted", "sk-key"))
            # LiteLLM opens WebSockets to https servers alone, and the gateway behind it serves http here.
            results[f"LiteLLM {version_of(litellm, 'litellm')}"] = [
                one for one in found if one.area != SOCKETS
            ]
        port = free_port()
        wrapper = folder / "pipelines/echo/pipeline_wrapper.py"
        wrapper.parent.mkdir(parents=True)
        wrapper.write_text(WRAPPER)
        command = [
            hayhooks,
            "run",
            "--host",
            "127.0.0.1",
            "--port",
            str(port),
            "--pipelines-dir",
            "pipelines",
        ]
        command += ["--without-monitoring", "--without-tracing"]
        with running("hayhooks", command, port, folder, HAYSTACK_TELEMETRY_ENABLED="False") as url:
            results[f"hayhooks {version_of(hayhooks, 'hayhooks')}"] = run(Target(url, "echo"))
    return results


def table(results: dict[str, list[Result]]) -> str:
    """The sums by area, and what each peer does otherwise."""
    areas = list(dict.fromkeys(result.area for result in next(iter(results.values()))))
    lines = [f"| {' | '.join(['', *results])} |", "|---" * (len(results) + 1) + "|"]
    for area in areas:
        cells = []
        for each in results.values():
            mine = [result for result in each if result.area == area]
            offered = [result for result in mine if result.outcome != NOT_OFFERED]
            kept = sum(result.outcome == KEPT for result in offered)
            none = "not offered" if mine else "not compared"
            cells.append(f"{kept} of {len(offered)}" if offered else none)
        lines.append(f"| {area} | {' | '.join(cells)} |")
    for name, each in results.items():
        if broken := [result for result in each if result.outcome == BROKEN]:
            lines += ["", f"{name} differs in:", "", *differences(broken)]
    return "\n".join(lines)


def differences(broken: list[Result]) -> list[str]:
    """What a peer does otherwise; cases of one area that fail alike are one entry."""
    alike: dict[tuple[str, str], list[str]] = {}
    for result in broken:
        alike.setdefault((result.area, told(result.why)), []).append(result.promise)
    return [
        f"- {area}: {promises[0] if len(promises) == 1 else f'{len(promises)} cases'} (`{why}`)"
        for (area, why), promises in alike.items()
    ]


def told(why: str) -> str:
    """The beginning of a reason, fit for a table."""
    return " ".join(why.replace("`", "'").replace("|", "/").split())[:MAX_REASON]


def main() -> int:
    """Compare, and print or write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--litellm", required=True, help="the program")
    parser.add_argument("--hayhooks", required=True, help="the program")
    parser.add_argument("--write", type=Path, help="the folder of comparison.md")
    given = parser.parse_args()
    day = f"{datetime.now(UTC):%Y-%m-%d}"
    sums = table(compared(given.litellm, given.hayhooks))
    block = f"{START}\n\nMade on {day} by `{COMMAND}`; kept of what is offered:\n\n{sums}\n\n{END}"
    if given.write:
        page = given.write / "comparison.md"
        text = page.read_text()
        page.write_text(re.sub(f"{START}.*{END}", lambda _: block, text, flags=re.DOTALL))
    else:
        print(block)
    return 0


if __name__ == "__main__":
    sys.exit(main())
