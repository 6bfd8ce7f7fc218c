"""The demo Flowise as a process of its own, for tests."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

PROJECT = Path(__file__).parents[2]


class DemoServer:
    """Runs `python -m flowise_demo --record` on a free port while the `with` block lasts."""

    def __init__(self, *arguments: str) -> None:
        """Keep the extra command line arguments, for example `"--key", "secret"`."""
        self._arguments = arguments
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        self.base_url = ""

    def __enter__(self) -> DemoServer:
        """Start the demo and wait until it listens."""
        command = [sys.executable, "-m", "flowise_demo", "--port", "0", "--record", "--exit-with-stdin"]
        self._process = subprocess.Popen(
            [*command, *self._arguments],
            cwd=PROJECT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._stop()
            raise RuntimeError("the demo Flowise did not start; its message is on standard error")
        self.base_url = str(json.loads(line)["base_url"])
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the demo."""
        self._process.terminate()
        self._stop()

    def _stop(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                pipe.close()
        self._process.wait(timeout=10)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Have it answer nothing meanwhile; connections and requests wait."""
        self._process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._process.send_signal(signal.SIGCONT)

    def records(self) -> list[dict[str, Any]]:
        """What the predictions got: body, headers, the messages the model saw, and how each run ended."""
        return list(self.control("GET", "/__demo/records")["records"])

    def clear(self) -> None:
        """Forget what the predictions got."""
        self.control("DELETE", "/__demo/records")

    def stats(self) -> dict[str, int]:
        """The demo's counters."""
        return dict(self.control("GET", "/__demo/stats"))

    def control(self, method: str, path: str, body: Any = None) -> Any:
        """Call a control route, for example `control("POST", "/__demo/script", {"listing_status": 500})`."""
        origin = self.base_url.removesuffix("/api/v1")
        content = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(origin + path, content, method=method)  # noqa: S310 - our own address
        request.add_header("Content-Type", "application/json")
        with self._opener.open(request, timeout=10) as response:
            return json.load(response)
