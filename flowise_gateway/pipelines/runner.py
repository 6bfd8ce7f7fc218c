"""The process of one pipeline: loads it, runs it for each prediction, and reports to the host.

Started by the host as `python -m flowise_gateway.pipelines.runner <descriptor> <config as JSON> <folder>`.
A blocking, looping or crashing component only affects this process.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from pathlib import Path
from typing import Any

import orjson

from flowise_gateway.pipelines.channel import Kind, Unpacker, packed
from flowise_gateway.pipelines.loading import LoadedPipeline
from flowise_gateway.pipelines.run_output import RunCancelled, RunOutput

log = logging.getLogger("pipelines")
_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG
MAX_THREADS = 500
"""The maximum number of concurrent runs, as in the host."""

_RECEIVE_BYTES = 65536


def main(arguments: list[str]) -> None:
    """Serve the pipeline until the host closes the channel."""
    with contextlib.suppress(OSError, AttributeError):  # Linux only; elsewhere the channel closes
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.dup2(2, 1)  # output of components must not fill a pipe that nobody reads
    channel = socket.socket(fileno=int(arguments[0]))
    channel.setblocking(True)  # the host's end is non-blocking
    config, folder = orjson.loads(arguments[1]), Path(arguments[2])
    logging.basicConfig(level=os.environ.get("LOG_LEVEL", "info").upper(), stream=sys.stderr)
    logging.getLogger("haystack").setLevel(logging.WARNING)  # info: each component of each run
    # Haystack's telemetry is on by default.
    os.environ.setdefault("HAYSTACK_TELEMETRY_ENABLED", "false")
    Runner(channel, config, folder).serve()
    os._exit(0)  # do not wait for threads of abandoned runs


class Runner:
    """The pipeline and its active runs."""

    def __init__(self, channel: socket.socket, config: Mapping[str, Any], folder: Path) -> None:
        """Use an entry of `proxy.yaml`, and the folder to which its paths and modules are relative."""
        self._channel = channel
        self._config = config
        self._folder = folder
        self._sending = threading.Lock()
        self._runs: dict[int, RunOutput] = {}
        self._pool = ThreadPoolExecutor(MAX_THREADS)

    def serve(self) -> None:
        """Load the pipeline, report the result, then handle predictions until the channel ends."""
        try:
            self._loaded = LoadedPipeline(self._config, self._folder)
            self._send(Kind.READY, 0, orjson.dumps(self._loaded.profile()))
        except Exception as error:  # noqa: BLE001 - whatever the owner's code raises is told
            _log_failure("loading", error)
            self._send(Kind.BROKEN, 0, f"{type(error).__name__}: {error}".encode(errors="replace"))
            return
        unpacker = Unpacker()
        while piece := self._channel.recv(_RECEIVE_BYTES):
            for kind, number, payload in unpacker.feed(piece):
                if kind is Kind.RUN:
                    self._pool.submit(copy_context().run, self._run, number, orjson.loads(payload))
                elif run := self._runs.get(number):
                    run.is_cancelled = True

    def _send(self, kind: Kind, number: int, payload: bytes = b"") -> None:
        with self._sending:
            self._channel.sendall(packed(kind, number, payload))

    def _run(self, number: int, body: Mapping[str, Any]) -> None:
        def send(piece: bytes) -> None:
            self._send(Kind.PIECE, number, piece)

        is_streamed = body.get("streaming") in (True, "true")
        try:
            output = RunOutput(body, self._loaded.wiring, send if is_streamed else None)
            self._runs[number] = output
            self._send(Kind.ANSWER, number, output.ends(self._loaded.run(body, output)))
        except RunCancelled:
            self._send(Kind.FAILED, number, b"This operation was aborted")
        except BaseException as error:  # noqa: BLE001 - a component may raise anything, SystemExit among it
            _log_failure("a run", error)
            self._send(Kind.FAILED, number, failure_text(error).encode(errors="replace"))
        finally:
            self._runs.pop(number, None)


def failure_text(error: BaseException) -> str:
    """The text of a failed run in Flowise's format: component, provider's status, message."""
    name = getattr(error, "component_name", None)
    cause = error.__cause__ if name and error.__cause__ else error
    status = getattr(cause, "status_code", None)
    text = f"{status} {cause}" if isinstance(status, int) else str(cause) or type(cause).__name__
    return f"Error in {name} node: {text}" if name else text


def _log_failure(what: str, error: BaseException) -> None:
    """Log the location of an error without its text, which may contain prompts and keys."""
    while error.__cause__ is not None:
        error = error.__cause__
    place = traceback.extract_tb(error.__traceback__)[-1:]
    where = f" at {place[0].filename}:{place[0].lineno}" if place else ""
    log.error("%s failed: %s%s", what, type(error).__name__, where)
    log.debug("%s failed", what, exc_info=error)


if __name__ == "__main__":
    main(sys.argv[1:])
