"""Ours beside nginx, which only passes on, and beside a textbook proxy: CPU, delay and memory, in one run.

`make bench`, or `python -m benchmarks.serving [--rounds N] [--also FOLDER]`. The rounds of all are
interleaved and medians are printed; on a busy machine only the ratios of one run mean anything. CPU is that
of a server's whole family of processes.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.report import Goal, chart, page, versions

PROJECT = Path(__file__).resolve().parents[1]
TICKS = os.sysconf("SC_CLK_TCK")
NGINX = """worker_processes 1; daemon off; pid {folder}/pid; error_log {folder}/error.log;
worker_rlimit_nofile 20000; events {{ worker_connections 16000; }}
http {{ access_log off; keepalive_requests 1000000000;
  client_body_temp_path {folder}/a; proxy_temp_path {folder}/b; fastcgi_temp_path {folder}/c;
  uwsgi_temp_path {folder}/d; scgi_temp_path {folder}/e;
  upstream up {{ server 127.0.0.1:{upstream}; keepalive 512; }}
  server {{ listen 127.0.0.1:{port} backlog=4096; location / {{ proxy_pass http://up; proxy_http_version 1.1;
    proxy_set_header Connection ""; proxy_buffering off; }} }} }}
"""


@dataclass(frozen=True)
class Scenario:
    """What is asked, over how many connections, and what its cost is counted by."""

    name: str
    flow: str
    stream: bool
    connections: int
    unit: str

    def path(self, gateway: Gateway) -> str:
        """Where it is asked: nginx only passes Flowise's own request on."""
        return f"/api/v1/prediction/{self.flow}" if gateway.speaks_flowise else "/v1/chat/completions"

    def body(self, gateway: Gateway) -> str:
        """The request's body."""
        question = "What is the price for Apple?"
        if gateway.speaks_flowise:
            return json.dumps({"question": question, "streaming": self.stream}, separators=(",", ":"))
        messages = [{"role": "user", "content": question}]
        return json.dumps({"model": self.flow, "messages": messages, "stream": self.stream})


SCENARIOS = (
    Scenario("JSON request", "be7c5f10-0000-0000-0000-000000000000", False, 32, "answers"),
    Scenario("token, paced", "be7c5f10-0100-0010-0000-000000000000", True, 40, "tokens"),
    Scenario("token, batched", "be7c5f10-2000-0000-0000-000000000000", True, 8, "tokens"),
)
UNLOADED = Scenario("one at a time", "be7c5f10-0000-0000-0000-000000000000", False, 1, "answers")


@dataclass
class Gateway:
    """A server under load, and what was measured of it."""

    name: str
    process: subprocess.Popen[bytes]
    port: int
    speaks_flowise: bool = False
    figures: dict[str, list[float]] = field(default_factory=dict)

    def note(self, name: str, figure: float) -> None:
        """Keep a round's figure."""
        self.figures.setdefault(name, []).append(figure)

    def median(self, name: str) -> float:
        """The median of the rounds."""
        return statistics.median(self.figures[name])


def family(pid: int) -> list[int]:
    """A process and its descendants."""
    children = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, check=False).stdout.split()
    return [pid, *(found for child in children for found in family(int(child)))]


def cpu_seconds(pid: int) -> float:
    """User and system time of a process and its descendants."""
    fields = [Path(f"/proc/{found}/stat").read_text().rsplit(")", 1)[1].split() for found in family(pid)]
    return sum(int(found[11]) + int(found[12]) for found in fields) / TICKS


def memory_kib(pid: int) -> float:
    """Memory of a process and its descendants, what they share counted once."""
    rollups = [Path(f"/proc/{found}/smaps_rollup").read_text() for found in family(pid)]
    lines = [line for text in rollups for line in text.splitlines() if line.startswith("Pss:")]
    return sum(float(line.split()[1]) for line in lines)


def free_port() -> int:
    """A loopback port that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def running(
    command: list[str], port: int, folder: Path, **environment: str
) -> Iterator[subprocess.Popen[bytes]]:
    """A server that listens on `port` while the block lasts."""
    log = (folder / f"{port}.log").open("wb")
    with (
        log,
        subprocess.Popen(
            command, env={**os.environ, **environment}, cwd=folder, stdout=log, stderr=log
        ) as it,
    ):
        try:
            deadline = time.monotonic() + 30
            while time.monotonic() < deadline and not _listens(port):
                time.sleep(0.1)
            yield it
        finally:
            it.terminate()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextlib.contextmanager
def gateways(folder: Path, upstream: int, also: str | None) -> Iterator[list[Gateway]]:
    """All servers to compare, in front of the upstream."""
    flowise = {"FLOWISE_BASE_URL": f"http://127.0.0.1:{upstream}", "HOST": "127.0.0.1"}
    found: list[Gateway] = []
    with contextlib.ExitStack() as started:

        def start(
            name: str, port: int, command: list[str], cwd: Path, *, speaks_flowise: bool = False
        ) -> None:
            folder_of = folder if speaks_flowise or cwd != PROJECT / "benchmarks" else cwd
            process = started.enter_context(running(command, port, folder_of, PORT=str(port), **flowise))
            found.append(Gateway(name, process, port, speaks_flowise))

        ports = [free_port() for _ in range(4)]
        if nginx := shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin"):
            config = folder / "nginx.conf"
            config.write_text(NGINX.format(folder=folder, upstream=upstream, port=ports[0]))
            start(
                "nginx", ports[0], [nginx, "-p", str(folder), "-c", str(config)], folder, speaks_flowise=True
            )
        start("ours", ports[1], [sys.executable, str(PROJECT / "openai_compatible_server.py")], folder)
        if also:
            start("also", ports[2], [sys.executable, f"{also}/openai_compatible_server.py"], folder)
        textbook = ["-m", "gunicorn", "-k", "gevent", "-b", f"127.0.0.1:{ports[3]}", "--chdir", str(PROJECT)]
        command = [sys.executable, *textbook, "--worker-connections", "10000", "benchmarks.textbook:app"]
        start("textbook", ports[3], command, folder)
        yield found


def load(gateway: Gateway, scenario: Scenario, seconds: float) -> Mapping[str, float]:
    """One round of one scenario; a fault ends the benchmark."""
    request = [scenario.path(gateway), scenario.body(gateway), str(scenario.connections), str(seconds)]
    command = [sys.executable, "-m", "benchmarks.load", str(gateway.port), *request]
    printed = subprocess.run(command, capture_output=True, check=True, cwd=PROJECT, timeout=120).stdout
    counted: dict[str, float] = json.loads(printed)
    assert not counted["faults"], f"{gateway.name}, {scenario.name}: {counted}"
    return counted


def measure(found: list[Gateway], rounds: int) -> None:
    """All scenarios for all, interleaved."""
    for turn in range(rounds + 1):  # the first warms up
        for scenario in SCENARIOS:
            for gateway in found:
                before = cpu_seconds(gateway.process.pid)
                counted = load(gateway, scenario, 0.3 if turn == 0 else 2.0)
                if turn:
                    spent = cpu_seconds(gateway.process.pid) - before
                    gateway.note(scenario.name, spent * 1e6 / counted[scenario.unit])
        for gateway in found:
            counted = load(gateway, UNLOADED, 0.3 if turn == 0 else 1.0)
            if turn:
                gateway.note(UNLOADED.name, counted["whole"] * 1000)


def open_files(pid: int) -> int:
    """Open files of a process and its descendants; a stream is two."""
    return sum(len(list(Path(f"/proc/{found}/fd").iterdir())) for found in family(pid))


def hold(gateway: Gateway, streams: int) -> str:
    """What many open streams cost, and how long /health takes meanwhile."""
    files = open_files(gateway.process.pid)
    before = memory_kib(gateway.process.pid)
    slow = Scenario("held", "be7c5f10-0060-2000-0000-000000000000", True, streams, "tokens")
    request = [slow.path(gateway), slow.body(gateway), str(streams), "1"]
    command = [sys.executable, "-m", "benchmarks.load", str(gateway.port), *request]
    with subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.DEVNULL) as holding:
        deadline = time.monotonic() + 60
        while open_files(gateway.process.pid) - files < 2 * streams and time.monotonic() < deadline:
            time.sleep(0.5)
        time.sleep(2)  # once the last ones have begun
        live = (open_files(gateway.process.pid) - files) // 2
        each = (memory_kib(gateway.process.pid) - before) / max(live, 1)
        waits = []
        for _ in range(200):
            began = time.monotonic()
            with urllib.request.urlopen(f"http://127.0.0.1:{gateway.port}/health", timeout=10) as answer:
                answer.read()
            waits.append((time.monotonic() - began) * 1000)
            time.sleep(0.02)
        holding.terminate()
    p50, p99 = (statistics.quantiles(waits, n=100)[place] for place in (49, 98))
    return f"{live} streams held: {each:.0f} KiB each, /health p50 {p50:.1f} ms, p99 {p99:.1f} ms"


def table(found: list[Gateway]) -> Iterator[str]:
    """What was measured, and ours over each of the others."""
    others = [gateway for gateway in found if gateway.name != "ours"]
    ours = by_name(found)["ours"]
    names = [gateway.name for gateway in found]
    yield f"| | {' | '.join(names)} | {' | '.join(f'ours / {other.name}' for other in others)} |"
    yield "|---|" + "---|" * (len(found) + len(others))
    for name, unit in [*((s.name, "CPU µs") for s in SCENARIOS), (UNLOADED.name, "ms")]:
        figures = [f"{gateway.median(name):.2f}" for gateway in found]
        ratios = [f"{ours.median(name) / other.median(name):.2f}" for other in others]
        yield f"| {name}, {unit} | {' | '.join([*figures, *ratios])} |"


def by_name(found: list[Gateway]) -> dict[str, Gateway]:
    """The contenders by their names."""
    return {gateway.name: gateway for gateway in found}


def goals(found: list[Gateway]) -> Iterator[Goal]:
    """What ours should need at most; beside nginx only where there is one."""
    named = by_name(found)
    ours, textbook, nginx = named["ours"], named["textbook"], named.get("nginx")
    request, paced, batched = (scenario.name for scenario in SCENARIOS)
    if nginx:
        yield Goal("CPU of a JSON request / nginx", ours.median(request) / nginx.median(request), 30, "x")
        yield Goal("CPU of a paced token / nginx", ours.median(paced) / nginx.median(paced), 3.3, "x")
        added = ours.median(UNLOADED.name) - nginx.median(UNLOADED.name)
        yield Goal("one JSON request at a time, over nginx", added, 0.6, " ms")
    batch = ours.median(batched) / textbook.median(batched)
    yield Goal("CPU of a batched token / textbook", batch, 0.1, "x")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="for CI: one round, few streams, a minute")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--hold", type=int, default=1000, help="streams to hold open")
    parser.add_argument("--also", help="another checkout of this project to compare with")
    parser.add_argument("--write", type=Path, help="a folder for performance.md and performance.svg")
    options = parser.parse_args()
    if options.short:
        options.rounds, options.hold = 1, 200
    upstream = free_port()
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as started:
        folder = Path(name)
        command = [sys.executable, str(PROJECT / "benchmarks" / "upstream.py"), str(upstream)]
        started.enter_context(running(command, upstream, folder))
        found = started.enter_context(gateways(folder, upstream, options.also))
        measure(found, options.rounds)
        rows, aims = list(table(found)), list(goals(found))
        held = hold(by_name(found)["ours"], options.hold)
        print("\n".join([*rows, "", held, *(aim.row() for aim in aims), versions()]))
        if options.write:
            bars = {s.name: {gateway.name: gateway.median(s.name) for gateway in found} for s in SCENARIOS}
            (options.write / "performance.md").write_text(page(rows, aims, held))
            (options.write / "performance.svg").write_text(chart(bars))


if __name__ == "__main__":
    main()
