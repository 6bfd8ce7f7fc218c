"""The host's view of a pipeline's process: its runs, its state, its end."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import gevent
import orjson
from gevent import socket
from gevent.event import Event

from flowise_gateway.config.schema import PipelineConfig
from flowise_gateway.pipelines.channel import Kind, Unpacker, packed

PACKAGES = Path(__file__).resolve().parents[2]
MAX_WAITING_BYTES = 16 * 1024**2
"""The maximum size of a run's output that its client has not read yet."""

_RECEIVE_BYTES = 256 * 1024
_POLLS, _POLL_SECONDS = 20, 0.05
_NUMBERS = itertools.count(1)


def with_packages() -> str:
    """PYTHONPATH for a child process: this program first, then the operator's value."""
    return os.pathsep.join(filter(None, (str(PACKAGES), os.environ.get("PYTHONPATH", ""))))


@dataclass(frozen=True, slots=True)
class PipelineProfile:
    """The description that a loaded pipeline reports."""

    inputs: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    components: dict[str, str] = field(default_factory=dict)


class Run:
    """One active prediction: its unread output, and its result."""

    def __init__(self, number: int, deadline: float) -> None:
        """Start without output."""
        self.number = number
        self.deadline = deadline
        self.answer: bytes | None = None
        self.error: str | None = None
        self.is_left = self.is_overdue = False
        self._pieces: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._change = Event()

    @property
    def has_ended(self) -> bool:
        """Whether the run has ended."""
        return self.answer is not None or self.error is not None

    def put(self, piece: bytes) -> bool:
        """Add a chunk of the stream; False if too much is unread."""
        self._pieces.append(piece)
        self._waiting_bytes += len(piece)
        self._change.set()
        return self._waiting_bytes <= MAX_WAITING_BYTES

    def end(self, answer: bytes | None, error: str | None) -> None:
        """Record the result of the run; only the first one counts."""
        if not self.has_ended:
            self.answer, self.error = answer, error
            self._change.set()

    def take(self, seconds: float) -> bytes:
        """Wait up to `seconds` for a change, and return all unread chunks."""
        if not self._pieces and not self.has_ended:
            self._change.wait(seconds)
        self._change.clear()
        pieces = b"".join(self._pieces)
        self._pieces.clear()
        self._waiting_bytes = 0
        return pieces


class PipelineProcess:
    """A process that loads and runs a pipeline; `on_change` is called when it is ready or has exited."""

    def __init__(
        self, config: PipelineConfig, folder: Path, on_change: Callable[[PipelineProcess], None]
    ) -> None:
        """Start it; its modules and paths are relative to the folder."""
        self.profile: PipelineProfile | None = None
        self.problem = ""
        self.has_ended = False
        self.ready_since = 0.0
        self.runs: dict[int, Run] = {}
        self._on_change = on_change
        ours, theirs = socket.socketpair()
        arguments = [str(theirs.fileno()), orjson.dumps(asdict(config)).decode(), str(folder)]
        command = [sys.executable, "-P", "-m", "flowise_gateway.pipelines.runner", *arguments]
        self._process = subprocess.Popen(  # noqa: S603
            command,
            env={**os.environ, "PYTHONPATH": with_packages()},
            stdin=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
        )
        theirs.close()
        self._channel = ours
        self._outgoing: deque[bytes] = deque()
        self._may_send = Event()
        self._reader = gevent.spawn(self._read)
        self._writer = gevent.spawn(self._write)

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def start(self, body: bytes, seconds: float) -> Run:
        """Start a run with a timeout in seconds."""
        run = Run(next(_NUMBERS), time.monotonic() + seconds)
        self.runs[run.number] = run
        self._send(Kind.RUN, run.number, body)
        return run

    def cancel(self, run: Run) -> None:
        """Tell the process that nobody waits for the run any more; it remains listed until it ends."""
        run.is_left = True
        if run.number in self.runs and not self.has_ended:
            self._send(Kind.CANCEL, run.number)

    def kill(self, reason: str) -> None:
        """End the process at once; its runs fail with this reason."""
        self.problem = self.problem or reason
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    @property
    def waited_for(self) -> int:
        """The number of runs with a waiting client."""
        return sum(not (run.is_left or run.has_ended) for run in self.runs.values())

    def _send(self, kind: Kind, number: int, payload: bytes = b"") -> None:
        # In a greenlet, since a blocked process does not read, and must only delay its own runs.
        self._outgoing.append(packed(kind, number, payload))
        self._may_send.set()

    def _write(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                self._may_send.wait()
                self._may_send.clear()
                while self._outgoing:
                    self._channel.sendall(self._outgoing.popleft())

    def _read(self) -> None:
        unpacker = Unpacker()
        with contextlib.suppress(OSError, ValueError):
            while piece := self._channel.recv(_RECEIVE_BYTES):
                for kind, number, payload in unpacker.feed(piece):
                    self._take(kind, number, payload)
        self._end()

    def _take(self, kind: Kind, number: int, payload: bytes) -> None:
        if kind is Kind.READY:
            told: dict[str, Any] = orjson.loads(payload)
            self.profile = PipelineProfile(tuple(told["inputs"]), tuple(told["files"]), told["components"])
            self.ready_since = time.monotonic()
            self._on_change(self)
        elif kind is Kind.BROKEN:
            self.problem = f"the pipeline cannot be loaded: {payload.decode(errors='replace')}"
        elif run := self.runs.get(number):
            if kind is Kind.PIECE:
                if not run.put(payload):
                    run.end(None, "the client reads its answer too slowly")
                    self.cancel(run)
            else:
                del self.runs[number]
                run.end(payload, None) if kind is Kind.ANSWER else run.end(
                    None, payload.decode(errors="replace")
                )

    def _end(self) -> None:
        """Record the exit of the process, whose channel is closed; if it is still running, kill it."""
        self._writer.kill(block=False)
        self._channel.close()
        for _ in range(_POLLS):  # after a crash, the channel closes shortly before its status is available
            if self._process.poll() is not None:
                break
            gevent.sleep(_POLL_SECONDS)
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        status = self._process.wait()
        self.has_ended = True
        if not self.problem:
            cause = signal.Signals(-status).name if status < 0 else f"status {status}"
            self.problem = f"the process of the pipeline ended ({cause})"
        runs, self.runs = list(self.runs.values()), {}
        for run in runs:
            run.end(None, self.problem)
        self._on_change(self)
