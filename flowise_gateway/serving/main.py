"""Starts and runs the server."""

from __future__ import annotations

import importlib
import logging
import math
import mmap
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flowise_gateway.config.config_file import config_file
from flowise_gateway.config.flowises import upstreams
from flowise_gateway.config.settings import Settings
from flowise_gateway.config.yaml_document import ConfigError
from flowise_gateway.flow.errors import SettingsError
from flowise_gateway.serving.banner import Overview, banner
from flowise_gateway.serving.embedded_demo import embedded_demo
from flowise_gateway.serving.embedded_pipelines import embedded_pipelines
from flowise_gateway.serving.gunicorn_log import write_parse_error
from flowise_gateway.serving.pid_file import PidFile
from flowise_gateway.serving.sockets import inherited_sockets, open_sockets, raise_descriptor_limit
from flowise_gateway.storage.protocol import AddressError, Executor
from flowise_gateway.storage.store import open_store
from flowise_gateway.telemetry.log import configure_logging
from flowise_gateway.telemetry.shared_counts import Board
from flowise_gateway.telemetry.tracing import open_tracing

if TYPE_CHECKING:
    from flowise_gateway.flowise.transport.base import Transport

log = logging.getLogger(__name__)
APPLICATION, COMMANDS = "openai_compatible_server", "flowise_gateway.commands"
DRAIN_MARGIN_SECONDS = 5
GENERATIONS = 8
"""The number of reloads whose workers are counted in the metrics at the same time."""


def main() -> int:
    """Read the settings and run the server; returns the exit status."""
    try:
        settings = Settings.from_env()
        if inherited := inherited_sockets():
            settings = replace(settings, host=inherited.host)
        settings.check_admission(has_keys=bool(config_file(settings).current.keys))
        listeners = inherited.sockets if inherited else open_sockets(settings.host, settings.port)
    except (SettingsError, ConfigError, OSError) as error:
        print(f"flowise-gateway: {error}", file=sys.stderr)  # noqa: T201 - before logging is set up
        return 2
    configure_logging(settings.log_level, as_json=settings.log_as_json)
    raise_descriptor_limit()
    is_shared = bool(inherited and inherited.is_shared)
    try:
        with embedded_demo(settings) as beside_demo:
            is_demo = beside_demo is not settings
            with embedded_pipelines(beside_demo, is_demo=is_demo) as served:
                return serve(served, listeners, is_demo=is_demo, is_shared=is_shared)
    except SettingsError as error:
        print(f"flowise-gateway: {error}", file=sys.stderr)  # noqa: T201 - as those above
        return 2


def store_thread() -> Executor:
    """A native thread per worker for the store, so that a slow disk does not delay streams."""
    from gevent.threadpool import ThreadPool  # noqa: PLC0415

    pool = ThreadPool(1)

    def run(function: Callable[[], Any]) -> Any:
        # gevent prints a traceback for every exception in its pool threads, even if the caller expects it.
        result, error = pool.apply(_outcome, (function,))
        if error is not None:
            raise error
        return result

    return run


def _outcome(function: Callable[[], Any]) -> tuple[Any, Exception | None]:
    try:
        return function(), None
    except Exception as error:  # noqa: BLE001 - raised again where the caller waits
        return None, error


def serve(settings: Settings, listeners: list[socket.socket], *, is_demo: bool, is_shared: bool) -> int:
    """Run gunicorn in this process until a signal ends it; returns the exit status.

    `is_shared` means that the listening sockets stay open without this process.
    """
    from gevent import monkey  # noqa: PLC0415 - nothing before this line may be slowed by it

    monkey.patch_all()
    from gunicorn import util  # type: ignore[import-untyped]  # noqa: PLC0415
    from gunicorn.app.base import BaseApplication  # type: ignore[import-untyped]  # noqa: PLC0415
    from gunicorn.http.parser import RequestParser  # type: ignore[import-untyped]  # noqa: PLC0415

    # Invalid settings must stop the start, not each worker.
    check_transports(settings)
    check_store(settings)
    from flowise_gateway.serving.edge import ServingEdge  # noqa: PLC0415
    from flowise_gateway.serving.master import Master  # noqa: PLC0415
    from flowise_gateway.serving.request_body import BoundedHead, guard_body  # noqa: PLC0415
    from flowise_gateway.serving.stray_errors import log_stray_errors  # noqa: PLC0415
    from flowise_gateway.telemetry.metrics import Metrics  # noqa: PLC0415

    log_stray_errors()
    # Imported by name, as gunicorn does, since this package does not depend on the application. Loaded before
    # the workers are forked, it is shared by them, and no stream waits for the tokenizer's vocabulary.
    application = importlib.import_module(APPLICATION)
    application.load()
    # Requests that gunicorn cannot parse never reach the application, but need a JSON error, too.
    util.write_error = write_parse_error
    RequestParser.mesg_class = BoundedHead
    port = listeners[0].getsockname()[1]
    hooks: dict[str, Any] = {"bind": [f"fd://{listener.detach()}" for listener in listeners]}
    hooks["pre_request"] = guard_body
    board = share_board(hooks, settings.workers)
    overview = importlib.import_module(COMMANDS).overview(settings, is_demo=is_demo)
    hooks["when_ready"] = lambda _arbiter: announce(settings, port, overview)
    has_proxy = mmap.mmap(-1, 1)  # shared by all workers
    first_settings = settings

    class Server(BaseApplication):  # type: ignore[misc]
        """Gunicorn, configured only by our settings."""

        settings = first_settings
        pid_file = PidFile(first_settings.port)
        shares_sockets = is_shared
        needs_key = not first_settings.is_anonymous or bool(config_file(first_settings).current.keys)

        def load_config(self) -> None:
            self.body_timeout_seconds = self.settings.proxy_body_timeout
            self.drain_seconds = self.settings.proxy_drain_seconds
            for name, value in {**gunicorn_options(self.settings), **hooks}.items():
                self.cfg.set(name, value)

        def reload(self) -> None:
            """Reread the settings. Raises SettingsError, ConfigError, OSError."""
            self.settings = settings_for_reload(self.settings, is_demo=is_demo)
            configure_logging(self.settings.log_level, as_json=self.settings.log_as_json)
            super().reload()

        def load(self) -> Any:
            metrics, tracing = Metrics(board), open_tracing()
            app = application.create_app(
                self.settings,
                transport_of=serving_transport,
                run=store_thread(),
                metrics=metrics,
                tracing=tracing,
                needs_key=self.needs_key,
            )
            edge = ServingEdge(app, metrics, notice_proxy)
            edge.at_end = app.extensions[application.AT_END]
            return edge

        def run(self) -> None:
            Master(self).run()

        def others_serve(self) -> bool:
            """Whether other servers answer new connections once this server's sockets are closed.

            A load balancer tries the next server after a refused connection, but not after a 503.
            """
            return is_shared or bool(has_proxy[0])

    def notice_proxy() -> None:
        has_proxy[0] = 1

    end_new_workers_at_signals()
    return run(Server(), has_terminal=sys.stderr.isatty() and not settings.log_as_json)


def run(server: Any, *, has_terminal: bool) -> int:
    """Run a gunicorn application until a signal ends it; returns the exit status."""
    master = os.getpid()
    try:
        server.run()
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 0
        if os.getpid() != master:
            # A worker must not clean up for the master, which needs the worker's exit status.
            os._exit(status)
        server.pid_file.remove()  # before the message, which fails on a closed terminal
        if has_terminal:
            print("\nflowise-gateway has stopped.", file=sys.stderr)  # noqa: T201 - no log line
        return status
    return 0


def end_new_workers_at_signals() -> None:
    """Let a signal end a new worker that has no request yet; must be called before the first fork.

    A worker starts with the master's handlers, which only queue signals. A signal before the worker has its
    own handlers would be lost, and the shutdown would wait until that worker is killed.
    """
    signals = {signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM}

    def default() -> None:
        for number in signals:
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)

    os.register_at_fork(
        before=lambda: signal.pthread_sigmask(signal.SIG_BLOCK, signals),
        after_in_parent=lambda: signal.pthread_sigmask(signal.SIG_UNBLOCK, signals),
        after_in_child=default,
    )


def share_board(options: dict[str, Any], workers: int) -> Board:
    """A board for the counts of workers; gunicorn's master assigns slots before the fork."""
    board = Board(GENERATIONS * workers)

    def pre_fork(arbiter: Any, worker: Any) -> None:
        worker.slot = board.take({other.slot for other in arbiter.WORKERS.values()})

    def child_exit(_arbiter: Any, worker: Any) -> None:
        board.leave(worker.slot)

    options["pre_fork"], options["child_exit"] = pre_fork, child_exit
    return board


def serving_transport(settings: Settings) -> Transport:
    """The transport to Flowise: gevent, unless the environment has an outgoing proxy."""
    # Imported after patching, since both import sockets and TLS.
    from flowise_gateway.flowise.transport.base import environment_settings  # noqa: PLC0415
    from flowise_gateway.flowise.transport.gevent_transport import GeventTransport  # noqa: PLC0415
    from flowise_gateway.flowise.transport.requests_transport import RequestsTransport  # noqa: PLC0415

    base_url, seconds = settings.flowise_base_url, settings.flowise_connect_timeout
    ca_file = settings.flowise_ca_file
    if environment_settings(base_url, ca_file).proxy(base_url):
        return RequestsTransport(base_url, connect_timeout_seconds=seconds, ca_file=ca_file)
    return GeventTransport(base_url, connect_timeout_seconds=seconds, ca_file=ca_file)


def settings_for_reload(current: Settings, *, is_demo: bool) -> Settings:
    """The current settings. Raises SettingsError, ConfigError if they cannot be used."""
    new = Settings.from_env()
    if new.port != current.port:
        log.warning("PORT changes only at a restart")
    new = replace(new, host=current.host, port=current.port)
    new.check_admission(has_keys=bool(config_file(new).current.keys))
    if not (new.flowise_base_url or config_file(new).current.flowises):
        if not is_demo:
            raise SettingsError("FLOWISE_BASE_URL: the embedded demo flows need a restart")
        new = replace(new, flowise_base_url=current.flowise_base_url)
    if not new.proxy_pipelines_url:  # The pipeline host that was started with this process keeps running.
        url, key = current.proxy_pipelines_url, current.proxy_pipelines_key
        new = replace(new, proxy_pipelines_url=url, proxy_pipelines_key=key)
    check_transports(new)
    check_store(new)
    return new


def check_transports(settings: Settings) -> None:
    """Create a transport to each Flowise as a check. Raises SettingsError."""
    for upstream in upstreams(settings, config_file(settings).current.flowises):
        for each in upstream.server_settings:
            serving_transport(each).close()


def check_store(settings: Settings) -> None:
    """Open the store in PROXY_STORE without using it. Raises SettingsError if it can never work."""
    try:
        open_store(settings.proxy_store)
    except AddressError as error:
        raise SettingsError(f"PROXY_STORE={error}") from None


def gunicorn_options(settings: Settings) -> dict[str, Any]:
    """Gunicorn's options; its own admission and timeouts are disabled in favour of ours."""
    options: dict[str, Any] = {
        "workers": settings.workers,
        "worker_class": "flowise_gateway.serving.worker.Worker",
        "worker_connections": 20_000,  # above it, connections would hang instead of being refused
        "keepalive": 5,
        "timeout": 60,
        # The worker is killed after it; its own shutdown is earlier.
        "graceful_timeout": math.ceil(settings.proxy_drain_seconds) + DRAIN_MARGIN_SECONDS,
        "accesslog": None,
        "control_socket_disable": True,
        "forwarder_headers": "",
        "forwarded_allow_ips": "",  # PROXY_TRUSTED_PROXIES is used instead
        "logger_class": "flowise_gateway.serving.gunicorn_log.GunicornLog",
        "loglevel": settings.log_level,
    }
    if Path("/dev/shm").is_dir():  # noqa: S108 - gunicorn's heartbeat file, kept off slow disks
        options["worker_tmp_dir"] = "/dev/shm"  # noqa: S108
    return options


def announce(settings: Settings, port: int, overview: Overview) -> None:
    """Log the address, the Flowise and the access settings; on a terminal, print a banner."""
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    if not settings.log_as_json and sys.stderr.isatty():
        coloured = "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
        text = banner(f"http://{host}:{port}", overview, coloured=coloured)
        print(f"\n{text}\n", file=sys.stderr, flush=True)  # noqa: T201 - no log line
        return
    for problem in overview.problems:
        log.warning("%s", problem)
    log.info("Listening on http://%s:%s/v1 (%s worker(s))", host, port, settings.workers)
    log.info("Flowise: %s; models: %s", overview.flowise, overview.models)
    log.info("Client keys: %s; store: %s", overview.keys, overview.store)
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    log.info("Open connections allowed: %s, two for each stream (ulimit -n)", soft)
