"""Servers that a test run starts: started with a clean environment, ended by their process ids."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

POLL_SECONDS = 0.1
STOP_SECONDS = 45


class Server:
    """One server process, whose output goes to a file."""

    def __init__(
        self, name: str, command: Sequence[str], environment: Mapping[str, str], folder: Path
    ) -> None:
        self.name = name
        self.output = folder / f"{name}.out"
        with self.output.open("wb") as output:
            self._process = subprocess.Popen(
                command,
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def __enter__(self) -> Server:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self.stop()

    def wait_until(self, is_ready: Callable[[], bool], seconds: float) -> None:
        """Returns once the server is ready; an early end or a long silence is an error with its output."""
        deadline = time.monotonic() + seconds
        while not is_ready():
            status = self._process.poll()
            if status is not None:
                raise RuntimeError(f"{self.name} ended with status {status}:\n{self.tail()}")
            if time.monotonic() > deadline:
                raise RuntimeError(f"{self.name} was not ready after {seconds} s:\n{self.tail()}")
            time.sleep(POLL_SECONDS)

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def ended(self, seconds: float) -> int:
        """Waits for the process to end by itself and returns its exit status."""
        return self._process.wait(seconds)

    def terminate(self) -> None:
        """Asks the process to end."""
        self._process.terminate()

    def kill(self) -> None:
        """Ends the process and those that it has started, at once."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def stop(self) -> int:
        """Asks the process to end, insists if it does not, and returns its exit status."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
        return self._process.wait()

    def tail(self, lines: int = 40) -> str:
        """The end of what the process has said."""
        return "\n".join(self.output.read_text(errors="replace").splitlines()[-lines:])


def free_port() -> int:
    """A loopback port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def clean_environment(home: Path, **ours: str) -> dict[str, str]:
    """Nothing of the caller's settings but where to find programs, and whether coverage is measured."""
    measuring = {name: value for name, value in os.environ.items() if name.startswith("COVERAGE_")}
    own = {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(home), "LANG": "C.UTF-8"}
    return {**own, **measuring, **ours}


@contextmanager
def ended_in_order() -> Iterator[None]:
    """A SIGTERM ends the block like Ctrl-C does, so that what it started is ended as well."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def wait_for(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether the condition came true within these seconds."""
    deadline = time.monotonic() + seconds
    while not (came_true := condition()) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS / 2)
    return came_true
