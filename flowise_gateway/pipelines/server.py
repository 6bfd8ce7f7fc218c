"""The host as a server: runs the pipelines in `proxy.yaml`, and applies its changes."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import logging
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import gevent
from gevent.event import Event
from gevent.os import tp_read
from gevent.pywsgi import WSGIServer

from flowise_gateway.config.config_file import ConfigFile, config_file, config_path
from flowise_gateway.config.schema import PipelineConfig
from flowise_gateway.config.setting_values import is_loopback_host
from flowise_gateway.config.settings import Settings
from flowise_gateway.flow.errors import SettingsError
from flowise_gateway.pipelines.host import Host
from flowise_gateway.pipelines.listing import flow_id
from flowise_gateway.pipelines.supervisor import Pipeline

log = logging.getLogger(__name__)

LIBRARY = "haystack"
SAMPLE = PipelineConfig("demo-pipeline", "flowise_gateway.pipelines.sample:pipeline")
WATCH_SECONDS = 1.0
LOADING_SECONDS = 20.0
"""How long the start waits for pipelines to load, since their inputs are only listed after that."""

DRAIN_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class HostOptions:
    """Options of the host; port 0 selects a free one."""

    host: str = "127.0.0.1"
    port: int = 0
    has_sample: bool = False  # serve the sample if no pipeline is configured
    ends_with_stdin: bool = False


class Pipelines:
    """The pipelines of the current file."""

    def __init__(self, file: ConfigFile, folder: Path, *, has_sample: bool) -> None:
        """Start the pipelines in the file."""
        self._file = file
        self._folder = folder
        self._has_sample = has_sample
        self._serving: dict[str, Pipeline] = {}
        self._leaving: list[Pipeline] = []
        self._take_over()

    def current(self) -> dict[str, Pipeline]:
        """The pipelines by their flow ids."""
        return self._serving

    def wait_until_settled(self, seconds: float) -> None:
        """Wait until each pipeline is loaded or known to be broken."""
        deadline = time.monotonic() + seconds
        for pipeline in self._serving.values():
            pipeline.wait_until_settled(max(0.0, deadline - time.monotonic()))

    def watch(self) -> None:
        """Forever apply changes of the file and of the pipelines' files, and stop replaced processes."""
        while True:
            gevent.sleep(WATCH_SECONDS)
            self._take_over()
            for pipeline in (*self._serving.values(), *self._leaving):
                pipeline.end_overdue()
            self._leaving = [pipeline for pipeline in self._leaving if not pipeline.end_retired()]
            for pipeline in self._serving.values():
                pipeline.end_retired()
                pipeline.look_for_change()

    def close(self) -> None:
        """End all processes."""
        for pipeline in (*self._serving.values(), *self._leaving):
            pipeline.close()

    def _take_over(self) -> None:
        named = self._file.current.pipelines or ((SAMPLE,) if self._has_sample else ())
        wanted = {flow_id(config.id): config for config in named}
        kept = {flow: one for flow, one in self._serving.items() if wanted.get(flow) == one.config}
        for flow, pipeline in self._serving.items():
            if flow not in kept:
                pipeline.retire()
                self._leaving.append(pipeline)
        self._serving = {
            flow: kept.get(flow) or Pipeline(config, self._folder) for flow, config in wanted.items()
        }


def serve(settings: Settings, options: HostOptions) -> int:
    """Serve until a signal or the end of standard input; returns the exit status."""
    if importlib.util.find_spec(LIBRARY) is None:
        raise SettingsError("pipelines need Haystack: pip install 'flowise-gateway[haystack]'")
    if not is_loopback_host(options.host) and not settings.proxy_pipelines_key:
        raise SettingsError(
            f"--host {options.host} lets other machines run the pipelines: set PROXY_PIPELINES_KEY"
        )
    stop = Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        gevent.signal_handler(number, stop.set)
    if options.ends_with_stdin:
        gevent.spawn(_set_at_end_of_stdin, stop)
    file = config_file(settings)
    folder = config_path(settings).resolve().parent
    pipelines = Pipelines(file, folder, has_sample=options.has_sample)
    app = Host(pipelines.current, settings.proxy_pipelines_key).app()
    server = WSGIServer((options.host, options.port), app, log=None, backlog=1024)
    try:
        server.start()
        watcher = gevent.spawn(pipelines.watch)
        pipelines.wait_until_settled(LOADING_SECONDS)
        host = f"[{options.host}]" if ":" in options.host else options.host
        line = json.dumps({"base_url": f"http://{host}:{server.server_port}/api/v1"})
        with contextlib.suppress(BrokenPipeError):
            sys.stdout.write(line + "\n")
            sys.stdout.flush()
        stop.wait()
        watcher.kill()
        server.stop(DRAIN_SECONDS)
    finally:
        pipelines.close()
    return 0


def _set_at_end_of_stdin(stop: Event) -> None:
    while tp_read(0, 65536):
        pass
    stop.set()
