"""The server under test, as a user starts it, in front of a Flowise."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import requests

from tests.support.processes import Server, clean_environment, free_port

PROJECT = Path(__file__).resolve().parents[2]
START_SECONDS = 30


class RunningProxy:
    """Context manager; leaving it ends the server by SIGTERM, which must end it with status 0."""

    def __init__(self, folder: Path, *, python: str = sys.executable, **settings: str) -> None:
        self._port = free_port()
        self._folder = folder
        self._python = python
        # The folder is the working folder too: no .env or proxy.yaml of a developer is found there.
        self._port = int(settings.get("PORT", self._port))
        own = {"HOST": "127.0.0.1", "PORT": str(self._port), **settings}
        self._environment = clean_environment(folder, **own)
        self._server: Server | None = None

    def __enter__(self) -> RunningProxy:
        command = [self._python, str(PROJECT / "openai_compatible_server.py")]
        self._server = Server("proxy", command, self._environment, self._folder)
        try:
            self._server.wait_until(self._is_healthy, START_SECONDS)
        except BaseException:
            self._server.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        assert self._server is not None
        status = self._server.stop()
        assert status == 0, f"the server ended with status {status}:\n{self._server.tail()}"

    @property
    def url(self) -> str:
        """Where the server listens."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def pid(self) -> int:
        """The process id of the server."""
        assert self._server is not None
        return self._server.pid

    def log(self) -> str:
        """All that the server has written so far."""
        assert self._server is not None
        return self._server.output.read_text(errors="replace")

    def terminate(self) -> None:
        """Ask the server to end, without waiting for it."""
        assert self._server is not None
        self._server.terminate()

    def ended(self, seconds: float) -> int:
        """Wait for the server to end by itself; its exit status."""
        assert self._server is not None
        return self._server.ended(seconds)

    def _is_healthy(self) -> bool:
        with requests.Session() as session:
            session.trust_env = False
            try:
                return session.get(f"{self.url}/health", timeout=2).ok
            except requests.RequestException:
                return False


StartProxy = Callable[..., RunningProxy]
