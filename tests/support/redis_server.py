"""A real Redis on a free port, which a test may stop and start again."""

from __future__ import annotations

import os
import shutil
import socket
from pathlib import Path
from types import TracebackType

import pytest

from tests.support.processes import Server, clean_environment, free_port


def redis_program() -> str:
    """Where redis-server is; without one the test is skipped, or fails where REQUIRE_REDIS is set."""
    program = shutil.which("redis-server")
    if not program:
        if os.environ.get("REQUIRE_REDIS"):
            raise RuntimeError("redis-server is needed (apt-get install redis-server)")
        pytest.skip("no redis-server on this machine")
    return program


class RedisServer:
    """Context manager; `options` are redis-server's, such as `"--save", ""`."""

    def __init__(self, folder: Path, *options: str, port: int | None = None, sentinel: str = "") -> None:
        """Run in `folder`; with `sentinel` as a Sentinel whose configuration that is."""
        self.port = port or free_port()
        self._folder = folder
        self._command = [redis_program(), "--port", str(self.port), "--bind", "127.0.0.1", "--save", ""]
        if sentinel:
            config = folder / f"sentinel-{self.port}.conf"
            config.write_text(f"port {self.port}\nbind 127.0.0.1\ndir {folder}\n{sentinel}")
            self._command = [redis_program(), str(config), "--sentinel"]
        self._command += options
        self._server: Server | None = None

    def __enter__(self) -> RedisServer:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start it, and wait until it takes connections."""
        name = f"redis-{self.port}"
        self._server = Server(name, self._command, clean_environment(self._folder), self._folder)
        self._server.wait_until(self._is_listening, 15)

    def stop(self) -> None:
        """End it in order; with `--save ""` and no append-only file its data is gone."""
        assert self._server is not None
        self._server.stop()

    def kill(self) -> None:
        """End it at once."""
        assert self._server is not None
        self._server.kill()

    def _is_listening(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0
