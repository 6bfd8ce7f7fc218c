"""What a request costs Redis, and an open stream the gateway: `python -m benchmarks.scaling`, printed.

- commands, bytes and memory of Redis for each kind of request, by its INFO before and after; the gateway's
  CPU over that of Redis for so many commands, as redis-benchmark finds it, and over its own with a file;
- memory and open files of the gateway for streams that are held open, in growing numbers.
"""

from __future__ import annotations

import argparse
import hashlib
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import redis
import requests

from benchmarks.serving import cpu_seconds, memory_kib, open_files
from tests.support.demo_server import DemoServer
from tests.support.processes import clean_environment, free_port
from tests.support.redis_server import RedisServer
from tests.support.running_proxy import RunningProxy

PROJECT = Path(__file__).resolve().parents[1]
KEY = "a-key-of-the-benchmark"
LIMITED = "a-limited-key-of-the-benchmark"
KEYS = f"""keys:
  - name: free
    sha256: {hashlib.sha256(KEY.encode()).hexdigest()}
  - name: limited
    sha256: {hashlib.sha256(LIMITED.encode()).hexdigest()}
    requests_per_minute: 1000
    max_in_flight: 100
"""
HELD = "be7c5f10-0600-2000-0000-000000000000"  # a token every two seconds
MODEL = "demo-assistant"
RAMP = 250
"""So many streams are begun at once: connecting them all at one moment is a test of another thing."""


class Load(NamedTuple):
    """What Redis had done when it was asked."""

    commands: dict[str, int]
    received: int
    sent: int
    cpu_seconds: float
    memory: int


def load_of(client: Any) -> Load:
    """What Redis has done so far, without the questions of this program."""
    commands = {
        name.removeprefix("cmdstat_"): figures["calls"]
        for name, figures in client.info("commandstats").items()
        if not name.startswith(("cmdstat_info", "cmdstat_client", "cmdstat_hello", "cmdstat_ping"))
    }
    whole = client.info()
    cpu = whole["used_cpu_user"] + whole["used_cpu_sys"]
    bytes_ = whole["total_net_input_bytes"], whole["total_net_output_bytes"]
    return Load(commands, *bytes_, cpu, whole["used_memory"])


class Asking:
    """Sends requests of each kind to one gateway."""

    def __init__(self, server: RunningProxy) -> None:
        self._url, self.pid = server.url, server.pid
        self._session = requests.Session()
        self._session.headers["Authorization"] = f"Bearer {KEY}"
        self._last = ""

    def post(self, path: str, body: dict[str, Any], key: str = KEY) -> Any:
        """POST, and give the answer's JSON."""
        headers = {"Authorization": f"Bearer {key}"}
        answer = self._session.post(f"{self._url}{path}", json=body, headers=headers, timeout=60)
        answer.raise_for_status()
        return answer.json()

    def resent(self, number: int) -> None:
        """A chat UI's first turn: the words of nobody else."""
        messages = [{"role": "user", "content": f"Hello {number}"}]
        self.post("/v1/chat/completions", {"model": MODEL, "messages": messages, "user": f"u{number}"})

    def limited(self, number: int) -> None:
        """The same with a key that has limits."""
        messages = [{"role": "user", "content": f"Hello {number}"}]
        body = {"model": MODEL, "messages": messages, "user": f"u{number}"}
        self.post("/v1/chat/completions", body, LIMITED)

    def named(self, number: int) -> None:
        """A new message under a conversation's id."""
        messages = [{"role": "user", "content": f"Hello {number}"}]
        body = {"model": MODEL, "messages": messages, "conversation_id": f"c{number % 10}"}
        self.post("/v1/chat/completions", body)

    def unstored(self, number: int) -> None:
        """A response that is not stored."""
        self.post("/v1/responses", {"model": MODEL, "input": f"Hello {number}", "store": False})

    def stored(self, number: int) -> None:
        """A stored response."""
        self._last = self.post("/v1/responses", {"model": MODEL, "input": f"Hello {number}"})["id"]

    def chained(self, number: int) -> None:
        """A response that continues one; a chain of ten."""
        body = {"model": MODEL, "input": f"Hello {number}"}
        if number % 10:
            body["previous_response_id"] = self._last
        self._last = self.post("/v1/responses", body)["id"]

    def read(self, _: int) -> None:
        """A stored response is read."""
        self._session.get(f"{self._url}/v1/responses/{self._last}", timeout=60).raise_for_status()

    def in_background(self, number: int) -> None:
        """A background response, to its end."""
        body = {"model": MODEL, "input": f"Hello {number}", "background": True}
        path = f"{self._url}/v1/responses/{self.post('/v1/responses', body)['id']}"
        with self._session.get(f"{path}?stream=true", stream=True, timeout=60) as events:
            for _ in events.iter_lines():
                pass


def cpu_of(asking: Asking, ask: Callable[[Asking, int], None], first: int) -> float:
    """The CPU seconds of a gateway for ten requests."""
    before = cpu_seconds(asking.pid)
    for number in range(first, first + 10):
        ask(asking, number)
    return cpu_seconds(asking.pid) - before


def requests_table(
    server: RunningProxy, in_file: RunningProxy, client: Any, command_seconds: float, count: int
) -> Iterator[str]:
    """A row for each kind of request; `in_file` is a gateway whose store is a file.

    `command_seconds` is the CPU time of a command of Redis: its own figures hold its idle work as well.
    """
    asking, other = Asking(server), Asking(in_file)
    kinds: list[tuple[str, Callable[[Asking, int], None]]] = [
        ("chat, all resent", Asking.resent),
        ("the same, a key with limits", Asking.limited),
        ("chat, new message alone (`conversation_id`)", Asking.named),
        ("response, `store: false`", Asking.unstored),
        ("response, stored", Asking.stored),
        ("response, in chains of ten", Asking.chained),
        ("stored response read", Asking.read),
        ("background response, streamed", Asking.in_background),
    ]
    columns = "to Redis | from Redis | stored | CPU, times that of Redis | times that with a file"
    yield f"| a request | commands | {columns} |"
    yield "|---|---|---|---|---|---|---|"
    for name, ask in kinds:
        own, in_files = 0.0, 0.0
        ask(asking, 0)
        ask(other, 0)
        before = load_of(client)
        for first in range(1, count + 1, 10):  # by turns, so that both see the same machine
            own += cpu_of(asking, ask, first)
            in_files += cpu_of(other, ask, first)
        after = load_of(client)
        calls = {
            command: (after.commands[command] - before.commands.get(command, 0)) / count
            for command in sorted(after.commands)
        }
        shown = ", ".join(f"{command} {each:.1f}" for command, each in calls.items() if each >= 0.05)
        of_redis = sum(calls.values()) * command_seconds * count
        sizes = [
            (getattr(after, kind) - getattr(before, kind)) / count for kind in ("received", "sent", "memory")
        ]
        rest = " | ".join(f"{figure:.0f}" for figure in (*sizes, own / of_redis))
        rest += f" | {own / in_files:.2f}"
        yield f"| {name} | {sum(calls.values()):.1f} ({shown}) | {rest} |"


def command_cost(port: int, count: int) -> tuple[float, float]:
    """The CPU seconds of a command of Redis that has nothing else to do, and how many it did in a second."""
    with redis.Redis(port=port) as client:
        before, began = load_of(client).cpu_seconds, time.monotonic()
        command = ["redis-benchmark", "-p", str(port), "-n", str(count), "-c", "20", "-d", "600", "-q", "-t"]
        subprocess.run([*command, "set,get"], check=True, capture_output=True)
        spent, seconds = load_of(client).cpu_seconds - before, time.monotonic() - began
    return spent / count / 2, 2 * count / seconds


def streams_table(server: RunningProxy, counts: list[int]) -> Iterator[str]:
    """What open streams take, in growing numbers."""
    yield "| open streams | memory each | open files each |"
    yield "|---|---|---|"
    time.sleep(1)
    files, memory = open_files(server.pid), memory_kib(server.pid)
    body = f'{{"model":"{HELD}","messages":[{{"role":"user","content":"Hello"}}],"stream":true}}'
    request = [server.url.rpartition(":")[2], "/v1/chat/completions", body]
    with ExitStack() as holding:
        asked = 0
        for count in counts:
            while asked < count:
                step = min(RAMP, count - asked)
                command = [sys.executable, "-m", "benchmarks.load", *request, str(step), "1"]
                load = subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.DEVNULL)
                holding.callback(load.terminate)
                asked += step
                deadline = time.monotonic() + 60
                while open_files(server.pid) - files < 2 * asked and time.monotonic() < deadline:
                    time.sleep(0.2)
            time.sleep(2)  # once the last ones have begun
            each = (memory_kib(server.pid) - memory) / count
            yield f"| {count} | {each:.0f} KiB | {(open_files(server.pid) - files) / count:.2f} |"


def serve(stack: ExitStack, folder: Path, flowise: str, store: str, config: str = "") -> RunningProxy:
    """A gateway of one worker."""
    folder.mkdir()
    (folder / "proxy.yaml").write_text(config)
    settings = {"FLOWISE_BASE_URL": flowise, "PROXY_STORE": store, "LOG_LEVEL": "warning"}
    return stack.enter_context(RunningProxy(folder, **settings, PROXY_SECRET=secrets.token_hex(16)))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="for CI: few requests, few streams")
    options = parser.parse_args()
    count = 20 if options.short else 100
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        running = stack.enter_context(RedisServer(folder))
        demo = stack.enter_context(DemoServer("--token-seconds", "0"))
        server = serve(stack, folder / "requests", demo.base_url, running.url, KEYS)
        in_file = serve(stack, folder / "file", demo.base_url, f"sqlite:///{folder}/store.db", KEYS)
        each, rate = command_cost(running.port, 10_000 if options.short else 100_000)
        print(f"A command: {each * 1e6:.1f} µs of CPU of Redis; {rate:.0f} a second", end="\n\n")
        with redis.Redis(port=running.port) as client:
            print("\n".join(requests_table(server, in_file, client, each, count)), end="\n\n")
        port = free_port()
        command = [sys.executable, "-m", "benchmarks.upstream", str(port)]
        upstream = stack.enter_context(subprocess.Popen(command, cwd=PROJECT, env=clean_environment(folder)))
        stack.callback(upstream.terminate)
        held = serve(stack, folder / "streams", f"http://127.0.0.1:{port}", running.url)
        print("\n".join(streams_table(held, [50] if options.short else [250, 500, 1000, 2000])))


if __name__ == "__main__":
    main()
