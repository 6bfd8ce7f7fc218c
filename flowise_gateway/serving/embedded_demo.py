"""The embedded demo Flowise, started where no Flowise is named."""

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
    """The settings, with the demo Flowise behind them when neither they nor `proxy.yaml` name one to ask."""
    config = config_file(settings).current
    has_pipelines = config.pipelines or settings.proxy_pipelines_url
    if settings.flowise_base_url or config.flowises or has_pipelines:
        yield settings
        return
    # --restart: the process that starts the demo again when it was killed is the demo's own, since gunicorn's
    # master, patched by gevent, cannot start any.
    # -P: no module of the folder in which we were started takes the place of the demo's or of Python's own.
    command = [sys.executable, "-P", "-m", "flowise_demo", "--restart", "--port", "0", "--exit-with-stdin"]
    environment = {**os.environ, "PYTHONPATH": str(HERE)}
    # The demo ends when its standard input does, so that it never outlives us, not even after a kill. A key
    # that interrupts us is not one of its business: what still runs then must be ended, not break.
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
