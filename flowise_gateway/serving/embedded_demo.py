"""Starts the embedded demo Flowise if no Flowise is configured."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from flowise_gateway.config.config_file import config_file
from flowise_gateway.config.settings import Settings

HERE = Path(__file__).resolve().parents[2]


@contextlib.contextmanager
def embedded_demo(settings: Settings) -> Iterator[Settings]:
    """The settings, with the demo Flowise if neither they nor `proxy.yaml` configure one."""
    config = config_file(settings).current
    has_pipelines = config.pipelines or settings.proxy_pipelines_url
    if settings.flowise_base_url or config.flowises or has_pipelines:
        yield settings
        return
    # --restart: the demo supervises itself, since gunicorn's master, patched by gevent, cannot start
    # processes.
    # -P: no module in the current directory can shadow the demo's or Python's own modules.
    command = [sys.executable, "-P", "-m", "flowise_demo", "--restart", "--port", "0", "--exit-with-stdin"]
    environment = {**os.environ, "PYTHONPATH": str(HERE)}
    # The demo exits when its standard input is closed, so that it never outlives us, even after a kill.
    # Ctrl-C must not reach it: the runs that are active then must end regularly.
    with subprocess.Popen(  # noqa: S603
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    ) as demo:
        try:
            line = next(iter(demo.stdout or ()), b"")
            if not line:
                raise OSError("the embedded demo flows did not start")
            yield replace(settings, flowise_base_url=json.loads(line)["base_url"])
        finally:
            demo.terminate()
