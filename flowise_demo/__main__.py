"""`python -m flowise_demo` prints its base URL as one line of JSON, and serves until SIGTERM."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from types import FrameType
from urllib.parse import urlsplit

from flowise_demo.server import DemoFlowise, DemoOptions, serve

RESTART_PAUSE_SECONDS = 0.2


def main(arguments: list[str] | None = None) -> int:
    """Serve from the command line."""
    parser = argparse.ArgumentParser(description="A small Flowise for demos, tests and benchmarks.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--key", default="", help="the API key that the listing asks for")
    parser.add_argument("--record", action="store_true", help="keep the predictions, open /__demo/")
    parser.add_argument("--token-seconds", type=float, default=0.015)
    parser.add_argument("--exit-with-stdin", action="store_true", help="end when stdin ends")
    parser.add_argument("--restart", action="store_true", help="start again, at the same port, when killed")
    given = parser.parse_args(arguments)
    if given.restart:
        return _restart_when_killed([each for each in arguments or sys.argv[1:] if each != "--restart"])
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    options = DemoOptions(given.host, given.port, given.key, given.record, given.token_seconds)
    asyncio.run(_serve_until_stopped(options, exit_with_stdin=given.exit_with_stdin))
    return 0


async def _serve_until_stopped(options: DemoOptions, *, exit_with_stdin: bool) -> None:
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)

    def wait_for_parent() -> None:
        while os.read(0, 65536):
            pass
        with contextlib.suppress(RuntimeError):  # the loop may have ended already
            loop.call_soon_threadsafe(stop.set)

    if exit_with_stdin:
        threading.Thread(target=wait_for_parent, daemon=True).start()
    await serve(options, stop, _print_base_url)


def _print_base_url(_demo: DemoFlowise, base_url: str) -> None:
    sys.stdout.write(json.dumps({"base_url": base_url}) + "\n")
    sys.stdout.flush()


def _restart_when_killed(arguments: list[str]) -> int:
    """Serve in a process of its own, and again, at the same port, whenever that one was killed."""
    demo = _started(arguments)

    def end(_number: int, _frame: FrameType | None) -> None:
        demo.terminate()
        sys.exit(0)

    signal.signal(signal.SIGTERM, end)
    line = demo.stdout.readline() if demo.stdout else b""
    try:
        sys.stdout.buffer.write(line)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever started this has ended meanwhile
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        demo.terminate()
        return demo.wait()
    if line:
        arguments = [*arguments, "--port", str(urlsplit(json.loads(line)["base_url"]).port)]
    while line and demo.wait():
        time.sleep(RESTART_PAUSE_SECONDS)
        demo = _started(arguments)
    return demo.wait()


def _started(arguments: list[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-P", "-m", "flowise_demo", *arguments], stdout=subprocess.PIPE)  # noqa: S603


if __name__ == "__main__":
    sys.exit(main())
