"""What each scenario plays in: a misbehaving Flowise, the server in front of it, a watch on /health."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.chaos.faults import FaultServer
from tests.chaos.load import percentile, until
from tests.support.running_proxy import RunningProxy

HEALTH = Path(__file__).with_name("health.py")
HEALTH_TARGET_MS = 10.0


@dataclass(slots=True)
class Row:
    """A scenario's line in the table; what stands in `wrong` fails the suite, a missed target does not."""

    promise: str
    target: str
    scale: str = ""
    figure: str = ""
    is_met: bool = True
    wrong: list[str] = field(default_factory=list)

    def check(self, what: str, count: int) -> None:
        """Note how many got what nobody may get."""
        if count:
            self.wrong.append(f"{what}: {count}")


@dataclass(frozen=True, slots=True)
class Stage:
    """One server over one misbehaving Flowise."""

    flowise: FaultServer
    proxy: RunningProxy
    url: str

    def pids(self) -> list[int]:
        """The processes of the workers."""
        children = Path(f"/proc/{self.proxy.pid}/task/{self.proxy.pid}/children").read_text()
        return [int(pid) for pid in children.split()]

    def memory_kib(self) -> int:
        """What the workers hold in memory."""
        return sum(_status(pid, "VmRSS") for pid in self.pids())

    def descriptors(self) -> int:
        """How many files and sockets the workers have open."""
        return sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in self.pids())  # noqa: PTH208

    async def settled(self, row: Row) -> None:
        """Hold the scenario to leaving no run behind: each has ended or was aborted."""
        await until(lambda: not self.flowise.state()["running"], 10)
        row.check("runs left behind", self.flowise.state()["running"])

    def errors(self) -> list[str]:
        """The lines that the server has logged as errors."""
        return [line for line in self.proxy.log().splitlines() if '"level":"error"' in line]


class World:
    """The scale, and the stages."""

    def __init__(self, folder: Path, *, is_short: bool) -> None:
        self.is_short = is_short
        self.health_ms: list[float] = []
        self.health_failures = 0
        self._folder = folder
        self._numbers = itertools.count()

    def count(self, full: int, short: int) -> int:
        """A number by the scale."""
        return short if self.is_short else full

    def folder_for(self, name: str) -> Path:
        """A folder of its own."""
        folder = self._folder / f"{name}{next(self._numbers)}"
        folder.mkdir()
        return folder

    @contextlib.contextmanager
    def stage(self, *, is_watched: bool = True, **settings: str) -> Iterator[Stage]:
        """A server with these settings; its /health is watched unless it is to end."""
        folder = self.folder_for("stage")
        with FaultServer() as flowise:
            own = {
                "FLOWISE_BASE_URL": flowise.base_url,
                "FLOWISE_REQUEST_TIMEOUT": "60",
                "PROXY_LOG_FORMAT": "json",
            }
            with RunningProxy(folder, **{**own, **settings}) as proxy:
                stage = Stage(flowise, proxy, proxy.url)
                with self._watched(proxy.url) if is_watched else contextlib.nullcontext():
                    yield stage

    @contextlib.contextmanager
    def _watched(self, url: str) -> Iterator[None]:
        seen = Health()
        try:
            with health_watched(url) as seen:
                yield
        finally:
            self.health_ms += seen.ms
            self.health_failures += seen.failures

    def health(self) -> Row:
        """The line of /health over all scenarios."""
        p99 = percentile(self.health_ms, 0.99)
        row = Row(
            "/health is answered during all of the above",
            f"100 %, p99 < {HEALTH_TARGET_MS:g} ms on an idle machine",
        )
        row.scale = f"{len(self.health_ms)} calls"
        row.figure = (
            f"{self.health_failures} failed; p50 {percentile(self.health_ms, 0.5):.1f}, p99 {p99:.1f} ms"
        )
        row.is_met = p99 < HEALTH_TARGET_MS and not self.health_failures
        return row


@dataclass(slots=True)
class Health:
    """What a watch on /health has seen, once it has ended."""

    ms: list[float] = field(default_factory=list)
    failures: int = 0


@contextlib.contextmanager
def health_watched(url: str) -> Iterator[Health]:
    """Have a process of its own ask for /health meanwhile."""
    seen = Health()
    command = [sys.executable, str(HEALTH), url]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as watch:
        try:
            yield seen
        finally:
            output, _ = watch.communicate(timeout=30)
            told = json.loads(output)
            seen.ms, seen.failures = told["ms"], told["failures"]


def _status(pid: int, name: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    return 0


Scenario = Callable[[World], Coroutine[Any, Any, Row]]
