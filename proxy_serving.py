"""Serving: gunicorn with gevent workers, sockets, clients that leave, the embedded demo. Composition.

Only this module and the serving transport know of gevent. A WSGI server with threads cannot hold thousands of
streams, and none notices a client that leaves while Flowise is silent.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import math
import os
import resource
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from proxy_config import config_file
from proxy_counts import Board
from proxy_errors import BadRequest, ProxyError, error_body
from proxy_settings import Settings, SettingsError
from proxy_store import Run
from proxy_telemetry import configure_logging, request_id
from proxy_yaml import ConfigError

if TYPE_CHECKING:
    from flowise_transport import Transport

log = logging.getLogger(__name__)

HERE = Path(__file__).resolve().parent
DEMO_FLOW = "5518949f-3ebc-4082-af01-fa2a18623da6"
WANTED_DESCRIPTORS = 65_536
DRAIN_MARGIN_SECONDS = 5


def main() -> int:
    """Read the settings and serve until a signal ends it; the exit status."""
    try:
        settings = Settings.from_env()
        settings.check_admission(has_keys=bool(config_file(settings).current.keys))
        listeners = open_sockets(settings.host, settings.port)
    except (SettingsError, ConfigError, OSError) as error:
        print(f"openai_compatible_server: {error}", file=sys.stderr)  # noqa: T201 - before logging is set up
        return 2
    configure_logging(settings.log_level, as_json=settings.log_as_json)
    raise_descriptor_limit()
    with embedded_demo(settings) as served:
        try:
            return serve(served, listeners, is_demo=served is not settings)
        except SettingsError as error:
            print(f"openai_compatible_server: {error}", file=sys.stderr)  # noqa: T201 - as those above
            return 2


def open_sockets(host: str, port: int) -> list[socket.socket]:
    """Bind the listening sockets: both loopbacks for `localhost`, IPv4 too for `::`. Raises OSError."""
    families = _addresses(host)
    sockets: list[socket.socket] = []
    for family, address in families:
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(host != "::"))
        try:
            listener.bind((address, port))
        except OSError as error:
            listener.close()
            if sockets and error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                continue  # a machine without IPv6
            for opened in sockets:
                opened.close()
            raise OSError(f"PORT={port} on HOST={host}: {error.strerror}") from None
        port = listener.getsockname()[1]
        sockets.append(listener)
    return sockets


def _addresses(host: str) -> list[tuple[socket.AddressFamily, str]]:
    if host == "localhost":
        both = [(socket.AF_INET, "127.0.0.1")]
        return [*both, (socket.AF_INET6, "::1")] if socket.has_ipv6 else both
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        raise OSError(f"HOST={host!r} is no address of this machine") from None
    return [(found[0][0], str(found[0][4][0]))]


@contextlib.contextmanager
def embedded_demo(settings: Settings) -> Iterator[Settings]:
    """The settings, with the demo Flowise running behind them when no Flowise is named."""
    if settings.flowise_base_url:
        yield settings
        return
    command = [sys.executable, str(HERE / "flowise_demo_keeper.py"), "--port", "0", "--exit-with-stdin"]
    # The demo ends when its standard input does, so that it never outlives us, not even after a kill. A key
    # that interrupts us is none of its business: what still runs then must be ended, not break.
    with subprocess.Popen(  # noqa: S603
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    ) as demo:
        try:
            line = next(iter(demo.stdout or ()), b"")
            if not line:
                raise OSError("the embedded demo flows did not start")
            yield replace(settings, flowise_base_url=json.loads(line)["base_url"])
        finally:
            demo.terminate()


def store_thread() -> Run:
    """One native thread of a worker for the store: a slow disk must not hold up the streams."""
    from gevent.threadpool import ThreadPool  # noqa: PLC0415

    pool = ThreadPool(1)

    def run(function: Callable[[], Any]) -> Any:
        # gevent prints a traceback for whatever a thread of its pool raises, also if the caller expects it.
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


def serve(settings: Settings, listeners: list[socket.socket], *, is_demo: bool) -> int:
    """Run gunicorn in this process until a signal ends it; the exit status."""
    from gevent import monkey  # noqa: PLC0415 - nothing before this line may be slowed by it

    monkey.patch_all()
    from gunicorn import util  # type: ignore[import-untyped]  # noqa: PLC0415
    from gunicorn.app.base import BaseApplication  # type: ignore[import-untyped]  # noqa: PLC0415
    from gunicorn.http.parser import RequestParser  # type: ignore[import-untyped]  # noqa: PLC0415

    serving_transport(settings).close()  # what it cannot be made of stops the start, not each worker
    from proxy_edge import BoundedHead, ServingEdge, guard_body  # noqa: PLC0415
    from proxy_metrics import Metrics  # noqa: PLC0415
    from proxy_tokens import count_tokens  # noqa: PLC0415

    count_tokens("")  # loads the vocabulary, for all workers and before any stream would wait for it
    # What gunicorn cannot parse never reaches the application; clients want JSON there too.
    util.write_error = write_parse_error
    RequestParser.mesg_class = BoundedHead
    port = listeners[0].getsockname()[1]
    options = gunicorn_options(settings, listeners)
    options["pre_request"] = guard_body
    board = share_board(options, settings.workers)
    options["when_ready"] = lambda _arbiter: announce(settings, port, is_demo=is_demo)

    class Server(BaseApplication):  # type: ignore[misc]
        """Gunicorn, told what to do by our settings alone."""

        body_timeout_seconds = settings.proxy_body_timeout
        drain_seconds = settings.proxy_drain_seconds

        def load_config(self) -> None:
            for name, value in options.items():
                self.cfg.set(name, value)

        def load(self) -> Any:
            from openai_compatible_server import create_app  # noqa: PLC0415 - after patching

            transport, metrics = serving_transport(settings), Metrics(board)
            app = create_app(settings, transport=transport, run=store_thread(), metrics=metrics)
            return ServingEdge(app, metrics)

    master = os.getpid()
    try:
        Server().run()
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 0
        if os.getpid() != master:
            # A worker: nothing of what the master began is its to end, and its status tells the master why.
            os._exit(status)
        return status
    return 0


def share_board(options: dict[str, Any], workers: int) -> Board:
    """A board for what workers count; gunicorn's master gives each its slot before the fork."""
    board = Board(2 * workers + 2)  # a reload starts the new workers before it ends the old ones

    def pre_fork(arbiter: Any, worker: Any) -> None:
        worker.slot = board.take({other.slot for other in arbiter.WORKERS.values()})

    def child_exit(_arbiter: Any, worker: Any) -> None:
        board.leave(worker.slot)

    options["pre_fork"], options["child_exit"] = pre_fork, child_exit
    return board


def serving_transport(settings: Settings) -> Transport:
    """The calls to Flowise, waiting in gevent's loop unless an outgoing proxy of the environment is asked."""
    # Late, after patching: both import sockets and TLS.
    from flowise_transport import RequestsTransport, environment_settings  # noqa: PLC0415
    from flowise_transport_gevent import GeventTransport  # noqa: PLC0415

    base_url, seconds = settings.flowise_base_url, settings.flowise_connect_timeout
    ca_file = settings.flowise_ca_file
    if environment_settings(base_url, ca_file).proxy(base_url):
        return RequestsTransport(base_url, connect_timeout_seconds=seconds, ca_file=ca_file)
    return GeventTransport(base_url, connect_timeout_seconds=seconds, ca_file=ca_file)


def gunicorn_options(settings: Settings, listeners: Iterable[socket.socket]) -> dict[str, Any]:
    """What gunicorn is told; admission and time limits are ours, so its own are out of the way."""
    options: dict[str, Any] = {
        "bind": [f"fd://{listener.detach()}" for listener in listeners],
        "workers": settings.workers,
        "worker_class": "proxy_worker.Worker",
        "worker_connections": 20_000,  # past it connections would hang instead of being refused
        "keepalive": 5,
        "timeout": 60,
        # Past it the worker is killed; its own end comes before.
        "graceful_timeout": math.ceil(settings.proxy_drain_seconds) + DRAIN_MARGIN_SECONDS,
        "accesslog": None,
        "control_socket_disable": True,
        "forwarder_headers": "",
        "logger_class": "proxy_serving.GunicornLog",
        "loglevel": settings.log_level,
    }
    if Path("/dev/shm").is_dir():  # noqa: S108 - gunicorn's heartbeat file, kept off slow disks
        options["worker_tmp_dir"] = "/dev/shm"  # noqa: S108
    return options


class GunicornLog:
    """Gunicorn's log through ours; its start-up lines only when asked for."""

    def __init__(self, cfg: Any) -> None:
        """Take gunicorn's configuration, which it expects to be kept."""
        self.cfg = cfg
        self._log = logging.getLogger("gunicorn")
        self.info = self.debug
        self.error = self._log.error
        self.critical = self._log.critical

    def exception(self, message: object, *_: Any, **__: Any) -> None:
        """Write a failure; of a client that left or took nothing, and of a run ended with us, only that."""
        error = sys.exc_info()[1]
        if isinstance(error, (OSError, ProxyError)):
            self._log.warning("an answer was cut off: %s", type(error).__name__)
        else:  # without the address that gunicorn names: it may hold a key
            self._log.exception("%s", str(message).partition(" %s")[0])

    def debug(self, message: object, *arguments: Any, **named: Any) -> None:
        """Write gunicorn's own steps, but no request line: it may hold a key."""
        if not str(message).startswith(("%s %s", "Ignored", "Invalid")):
            self._log.debug(message, *arguments, **named)

    def warning(self, message: object, *arguments: Any, **named: Any) -> None:
        """Write a warning; of what could not be parsed only that it was so."""
        if str(message).startswith("Invalid request"):
            message, arguments = "something that is no HTTP request was refused", ()
        self._log.warning(message, *arguments, **named)

    def setup(self, cfg: Any) -> None:
        """Take a new configuration."""
        self.cfg = cfg

    def access(self, *_: Any) -> None:
        """Write nothing: the request line is ours."""

    def reopen_files(self) -> None:
        """Nothing to reopen."""

    def close_on_exec(self) -> None:
        """Nothing to close."""


def write_parse_error(client: Any, status: int, reason: str, message: str) -> None:
    """Answer what is no HTTP request, in OpenAI's shape; takes the place of gunicorn's page."""
    _ = message  # it repeats what was sent, a key perhaps
    body = json.dumps(error_body(BadRequest(f"The request could not be read: {reason}."))).encode()
    lines = [
        f"HTTP/1.1 {status} {reason}",
        "Connection: close",
        "Content-Type: application/json",
        f"x-request-id: {request_id(None)}",
        f"Content-Length: {len(body)}",
    ]
    client.sendall("\r\n".join([*lines, "", ""]).encode() + body)
    client.linger()  # what it was still sending would take the answer back


def raise_descriptor_limit() -> None:
    """Allow as many open connections as the system does; a stream takes two."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = WANTED_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, WANTED_DESCRIPTORS)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def announce(settings: Settings, port: int, *, is_demo: bool) -> None:
    """Say where the server listens, which Flowise it asks and who may call."""
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    log.info("Listening on http://%s:%s/v1 (%s worker(s))", host, port, settings.workers)
    if is_demo:
        log.info("No FLOWISE_BASE_URL is set: serving the embedded demo flows, such as %s", DEMO_FLOW)
    else:
        log.info("Flowise: %s", settings.flowise_base_url)
    if settings.is_anonymous and not config_file(settings).current.keys:
        whom = "this machine's programs" if settings.is_loopback else "ANYBODY WHO REACHES THIS PORT"
        log.info("No client key is set (PROXY_API_KEYS): %s may run every flow", whom)
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    log.info("Open connections allowed: %s, two for each stream (ulimit -n)", soft)
