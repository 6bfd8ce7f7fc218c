"""Starts the pipeline host if `proxy.yaml` has pipelines; a separate process supervises it."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from flowise_gateway.config.config_file import config_file
from flowise_gateway.config.settings import Settings
from flowise_gateway.flow.errors import SettingsError

HERE = Path(__file__).resolve().parents[2]
LIBRARY = "haystack"


@contextlib.contextmanager
def embedded_pipelines(settings: Settings, *, is_demo: bool) -> Iterator[Settings]:
    """The settings, with a pipeline host if one is needed; with the demo Flowise, it serves the sample."""
    is_named = bool(config_file(settings).current.pipelines)
    has_library = importlib.util.find_spec(LIBRARY) is not None
    has_sample = is_demo and has_library and not settings.flowise_key_passthrough
    if settings.proxy_pipelines_url or not (is_named or has_sample):
        yield settings
        return
    if not has_library:
        raise SettingsError("proxy.yaml names pipelines, which need: pip install 'flowise-gateway[haystack]'")
    # As for the demo: the host supervises itself and exits when its standard input is closed, and no module
    # in the current directory can shadow the host's or Python's own modules.
    command = [sys.executable, "-P", "-m", "flowise_gateway.pipelines", "--restart", "--exit-with-stdin"]
    # The key prevents other users of this machine from bypassing the gateway.
    key = settings.proxy_pipelines_key or secrets.token_urlsafe(24)
    paths = os.pathsep.join(filter(None, (str(HERE), os.environ.get("PYTHONPATH", ""))))
    environment = {**os.environ, "PYTHONPATH": paths, "PROXY_PIPELINES_KEY": key}
    environment.pop("PROXY_PIPELINES_KEY_FILE", None)
    with subprocess.Popen(  # noqa: S603
        [*command, *(["--sample"] if has_sample else [])],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    ) as host:
        try:
            line = next(iter(host.stdout or ()), b"")
            if not line:
                raise SettingsError("the pipeline host did not start; see its message above")
            url = json.loads(line)["base_url"]
            yield replace(settings, proxy_pipelines_url=url, proxy_pipelines_key=key)
        finally:
            host.terminate()
