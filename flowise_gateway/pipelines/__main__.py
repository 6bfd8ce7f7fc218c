"""`python -m flowise_gateway.pipelines` prints its base URL as one line of JSON, and serves until SIGTERM."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from types import FrameType
from urllib.parse import urlsplit

from flowise_gateway.config.settings import Settings
from flowise_gateway.config.yaml_document import ConfigError
from flowise_gateway.flow.errors import SettingsError
from flowise_gateway.pipelines.server import HostOptions, serve
from flowise_gateway.telemetry.log import configure_logging

FIRST_PAUSE_SECONDS, MAX_PAUSE_SECONDS, WELL_SECONDS = 0.2, 30.0, 60.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve from the command line; returns 2 for an invalid setting."""
    parser = argparse.ArgumentParser(description="Serves the pipelines of proxy.yaml through Flowise's API.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument(
        "--sample", action="store_true", help="serve demo-pipeline where proxy.yaml names none"
    )
    parser.add_argument("--exit-with-stdin", action="store_true", help="end when stdin ends")
    parser.add_argument("--restart", action="store_true", help="start again, at the same port, when killed")
    given = parser.parse_args(arguments)
    if given.restart:
        rest = [each for each in (sys.argv[1:] if arguments is None else arguments) if each != "--restart"]
        return _restart_when_killed(rest)
    try:
        settings = Settings.from_env()
        configure_logging(settings.log_level, as_json=settings.log_as_json)
        options = HostOptions(given.host, given.port, given.sample, given.exit_with_stdin)
        return serve(settings, options)
    except (SettingsError, ConfigError, OSError) as error:
        sys.stderr.write(f"pipelines: {error}\n")
        return 2


def _restart_when_killed(arguments: list[str]) -> int:
    """Serve in a child process, and restart it on the same port whenever it was killed."""
    host = _started(arguments)

    def end(_number: int, _frame: FrameType | None) -> None:
        host.terminate()
        sys.exit(0)

    signal.signal(signal.SIGTERM, end)
    line = host.stdout.readline() if host.stdout else b""
    try:
        sys.stdout.buffer.write(line)
        sys.stdout.flush()
    except BrokenPipeError:  # the parent process has exited
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        host.terminate()
        return host.wait()
    if line:
        arguments = [*arguments, "--port", str(urlsplit(json.loads(line)["base_url"]).port)]
    pause, begun = FIRST_PAUSE_SECONDS, time.monotonic()
    while line and host.wait():
        is_well = time.monotonic() - begun > WELL_SECONDS
        pause = FIRST_PAUSE_SECONDS if is_well else min(MAX_PAUSE_SECONDS, pause * 2)
        time.sleep(pause)
        begun = time.monotonic()
        host = _started(arguments)
    return host.wait()


def _started(arguments: list[str]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-P", "-m", "flowise_gateway.pipelines", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE)  # noqa: S603


if __name__ == "__main__":
    sys.exit(main())
