"""The misbehaving Flowise as a process of its own, and the scripts that questions carry to it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any

PROJECT = Path(__file__).resolve().parents[2]
FLOW = "c4a05000-0000-4000-8000-000000000001"


class FaultServer:
    """Runs `fault_server.py` while the `with` block lasts; it ends with its standard input."""

    def __enter__(self) -> FaultServer:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.chaos.fault_server"],
            cwd=PROJECT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._port = int(self._line()["port"])
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                pipe.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    @property
    def base_url(self) -> str:
        """What a proxy is given as FLOWISE_BASE_URL."""
        return f"http://127.0.0.1:{self._port}/api/v1"

    def tell(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Give a command and return its answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
        self._process.stdin.flush()
        return self._line()

    def state(self) -> dict[str, Any]:
        """What was counted."""
        return self.tell("state")

    def _line(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the misbehaving Flowise has ended; its message is on standard error")
        return dict(json.loads(line))


def question(name: str, **script: Any) -> str:
    """A question that makes the misbehaving Flowise follow a script."""
    return "chaos " + json.dumps({"id": name, **script})


def text_of(tokens: int = 5) -> str:
    """The whole answer of so many tokens."""
    return "".join(f"{n}." for n in range(tokens))
