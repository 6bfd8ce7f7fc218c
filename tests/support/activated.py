"""A server that is started the way systemd starts one with a socket unit."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

from tests.support.processes import clean_environment, wait_for
from tests.support.running_proxy import PROJECT

START_SECONDS = 90


class Activated:
    """A server that is started as systemd does, with a listening socket that stays open without it."""

    def __init__(self, folder: Path, listener: socket.socket, **settings: str) -> None:
        self._folder = folder
        number = listener.fileno()
        # The process becomes the server, so that its number is the one that LISTEN_PID has to name.
        start = (
            f"import os, sys; os.dup2({number}, 3); os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1'); "
            "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
        )
        command = [sys.executable, "-c", start, str(PROJECT / "openai_compatible_server.py")]
        with (folder / "server.out").open("wb") as output:
            self._process = subprocess.Popen(
                command,
                cwd=folder,
                env=clean_environment(folder, **settings),
                pass_fds=[number],
                stdin=subprocess.DEVNULL,
                stderr=output,
            )

    def wait_until_it_serves(self) -> None:
        """Returns once its workers serve, of which the file with its number tells."""
        if not wait_for(lambda: bool(list((self._folder / "data").glob("*.pid"))), START_SECONDS):
            raise RuntimeError((self._folder / "server.out").read_text())

    def end(self) -> int:
        """Ask it to end; the exit status."""
        self._process.terminate()
        return self.ended()

    def ended(self) -> int:
        """Wait for its end; the exit status."""
        return self._process.wait(START_SECONDS)
