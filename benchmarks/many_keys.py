"""What many keys do to each other: `python -m benchmarks.many_keys [--short]`, printed, nothing asserted.

- one key floods at ten times its limit: the p99 of another key, alone and beside the flood, in one run;
- the file is rewritten ten times, twice broken, under 200 requests a second for 20 s: requests lost;
- 100,000 random models and keys: the growth of the worker's memory and of its metrics.
"""

from __future__ import annotations

import argparse
import hashlib
import http.client
import json
import os
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

from tests.support.demo_server import DemoServer
from tests.support.running_proxy import RunningProxy

FLOW = "be7c5f10-0001-0000-0020-001000000100"  # answers 100 bytes after 20 ms


class Caller:
    """One kept-alive connection."""

    def __init__(self, url: str, key: str) -> None:
        address = urlsplit(url)
        self._connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=30)
        self._headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}

    def ask(self, model: str) -> int:
        """Send one chat completion and return its status."""
        body = json.dumps({"model": model, "messages": [{"role": "user", "content": "Hello"}]})
        self._connection.request("POST", "/v1/chat/completions", body, self._headers)
        answer = self._connection.getresponse()
        answer.read()
        if answer.will_close:
            self._connection.close()
        return answer.status


def paced(
    url: str, key: str, model: str, per_second: float, seconds: float
) -> tuple[list[float], Counter[int]]:
    """Ask at a steady pace; the times in ms and the statuses."""
    caller, statuses = Caller(url, key), Counter[int]()
    times: list[float] = []
    began = time.monotonic()
    for n in range(int(seconds * per_second)):
        time.sleep(max(0.0, began + n / per_second - time.monotonic()))
        start = time.monotonic()
        statuses[caller.ask(model)] += 1
        times.append((time.monotonic() - start) * 1000)
    return times, statuses


def percentile(times: list[float], share: float) -> float:
    """The time that this share of all stayed below."""
    return sorted(times)[min(len(times) - 1, int(len(times) * share))]


def flood(server: RunningProxy, seconds: float) -> None:
    """Print the quiet key's p99 alone and beside a flood at ten times its limit, and their ratio."""
    alone, _ = paced(server.url, "quiet", FLOW, 50, seconds)
    refused: list[Counter[int]] = []
    workers = [
        threading.Thread(target=lambda: refused.append(paced(server.url, "loud", FLOW, 25, seconds)[1]))
        for _ in range(4)
    ]
    for worker in workers:
        worker.start()
    beside, _ = paced(server.url, "quiet", FLOW, 50, seconds)
    for worker in workers:
        worker.join()
    one, two = percentile(alone, 0.99), percentile(beside, 0.99)
    print(f"quiet key alone: p50 {percentile(alone, 0.5):.1f} ms, p99 {one:.1f} ms")
    print(f"beside a flood:  p50 {percentile(beside, 0.5):.1f} ms, p99 {two:.1f} ms = {two / one:.2f}x")
    print(f"the flood got {dict(sum(refused, Counter()))}")


def rewritten(server: RunningProxy, path: Path, seconds: float) -> None:
    """Print how many of 200 requests a second fail while the file changes ten times."""
    good = path.read_text()
    done = threading.Event()

    def rewrite() -> None:
        for n in range(10):
            path.write_text("models: [\n" if n in (3, 7) else good + f"\n# {n}\n")
            done.wait(seconds / 10)
        path.write_text(good)

    writer = threading.Thread(target=rewrite)
    writer.start()
    with ThreadPoolExecutor(8) as threads:
        runs = [threads.submit(paced, server.url, "quiet", "steady", 25, seconds) for _ in range(8)]
        statuses = sum((run.result()[1] for run in runs), Counter[int]())
    done.set()
    writer.join()
    print(f"file rewritten 10 times, twice broken, under load: {dict(statuses)}")


def random_names(server: RunningProxy, count: int) -> None:
    """Print the workers' memory and metrics before and after many random models and keys."""
    before, series = resident_kib(server.pid), metric_lines(server)
    ask = Caller(server.url, "quiet").ask

    def many(numbers: range, call: Callable[[str], int]) -> Counter[int]:
        return Counter(call(f"model-{os.urandom(6).hex()}") for _ in numbers)

    statuses = many(range(count // 2), ask)
    for _ in range(count // 2):
        statuses[Caller(server.url, os.urandom(8).hex()).ask("steady")] += 1
    after = resident_kib(server.pid)
    print(f"{count} random models and keys: {dict(statuses)}, memory {before} -> {after} KiB", end="")
    print(f", lines of metrics {series} -> {metric_lines(server)}")


def metric_lines(server: RunningProxy) -> int:
    """How long the server's metrics are."""
    address = urlsplit(server.url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=30)
    connection.request("GET", "/metrics", headers={"Authorization": "Bearer quiet"})
    return len(connection.getresponse().read().splitlines())


def resident_kib(pid: int) -> int:
    """Resident memory of a process and its children."""
    total = 0
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            status = dict(line.split(":", 1) for line in (entry / "status").read_text().splitlines())
        except OSError:
            continue
        if int(entry.name) == pid or int(status["PPid"]) == pid:
            total += int(status.get("VmRSS", "0 kB").split()[0])
    return total


def main() -> None:
    """Run all three."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true", help="for CI: half a minute")
    is_short = parser.parse_args().short
    key = "  - name: {0}\n    sha256: {1}\n    requests_per_minute: {2}\n"
    digests = {name: hashlib.sha256(name.encode()).hexdigest() for name in ("quiet", "loud")}
    with tempfile.TemporaryDirectory() as folder, DemoServer() as demo:
        path = Path(folder) / "proxy.yaml"
        path.write_text(
            f"models:\n  - id: steady\n    flow: {FLOW}\nkeys:\n"
            + key.format("quiet", digests["quiet"], 1_000_000)
            + key.format("loud", digests["loud"], 600)
        )
        with RunningProxy(Path(folder), FLOWISE_BASE_URL=demo.base_url, LOG_LEVEL="warning") as server:
            flood(server, 8 if is_short else 20)
            rewritten(server, path, 5 if is_short else 20)
            random_names(server, 2_000 if is_short else 100_000)


if __name__ == "__main__":
    main()
