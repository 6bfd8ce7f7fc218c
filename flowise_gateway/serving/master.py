"""Gunicorn's master: new workers, or a new master, serve before the old ones stop accepting."""

from __future__ import annotations

import logging
import math
import os
import signal
import sys
import time
from typing import Any

from gunicorn import sock, systemd  # type: ignore[import-untyped]
from gunicorn.arbiter import Arbiter  # type: ignore[import-untyped]
from gunicorn.errors import HaltServer  # type: ignore[import-untyped]

from flowise_gateway.config.yaml_document import ConfigError
from flowise_gateway.flow.errors import SettingsError

log = logging.getLogger(__name__)
BOOT_SECONDS = 30.0
"""How long a reload waits for its new workers; the master handles no other signal meanwhile."""

_STEP_SECONDS = 0.05
_HANGUP_SECONDS = 5.0
"""How long after the terminal was last seen a SIGHUP means that it was closed."""


def _has_terminal() -> bool:
    """Whether this process has an open terminal."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True


class Master(Arbiter):  # type: ignore[misc]
    """Maintains the number of serving workers; retired ones, which only drain, do not count."""

    def __init__(self, app: Any) -> None:
        super().__init__(app)
        # Opened by us, so that gunicorn does not look for sockets in the environment.
        self.LISTENERS = sock.create_sockets(self.cfg, self.log)
        # A successor is started like this process; gunicorn would run a module by its file.
        self.START_CTX["args"] = [sys.executable, *sys.orig_argv[1:]]
        self._has_begun = self._is_leaving = False
        # nohup ignores SIGHUP, so that the process outlives its terminal.
        self._may_hang_up = signal.getsignal(signal.SIGHUP) != signal.SIG_IGN
        self._terminal_seen = -math.inf

    def handle_hup(self) -> None:
        """Stop if the signal means that the terminal was closed, otherwise reload.

        A server that reloaded instead would continue unnoticed, and block its port for the next start.
        """
        if not self._sees_terminal() and time.monotonic() - self._terminal_seen < _HANGUP_SECONDS:
            self.handle_term()
        super().handle_hup()

    def reload(self) -> None:
        """Apply new settings: start new workers, and retire the old ones once the new ones serve.

        Gunicorn's own method stops the old workers before the new ones serve, ignores other signals while it
        waits for them, and stops the server if a new worker cannot start.
        """
        try:
            self.app.reload()
        except (SettingsError, ConfigError, OSError) as error:
            # Without a traceback, since the message says what the operator must correct.
            log.error("The reload was cancelled, the previous settings stay in effect: %s", error)  # noqa: TRY400
            return
        self.setup(self.app)
        old = self._serving()
        new = [self.spawn_worker() for _ in range(self.num_workers)]
        if not self._all_serve(new):
            log.error("The reload was cancelled, the old workers continue: the new ones did not start")
            old = [self.WORKERS[pid] for pid in new if pid in self.WORKERS]
        for worker in old:
            self._retire(worker)
        self._sees_terminal()  # starting workers may have taken longer than _HANGUP_SECONDS
        log.info("%s old worker(s) finish their answers, %s new one(s) serve", len(old), len(self._serving()))

    def manage_workers(self) -> None:
        """Start missing workers and retire excess ones; called at least once a second."""
        self._sees_terminal()
        serving = self._serving()
        for _ in range(self.num_workers - len(serving)):
            self.spawn_worker()
        for worker in serving[: max(0, len(serving) - self.num_workers)]:
            self._retire(worker)
        if self._is_leaving and not self.WORKERS:
            raise StopIteration  # gunicorn's way to stop the master
        if not self._has_begun and serving and all(worker.has_started for worker in serving):
            self._begin()

    def _sees_terminal(self) -> bool:
        """Check whether the terminal is open, and record when it last was."""
        is_open = self._may_hang_up and _has_terminal()
        if is_open:
            self._terminal_seen = time.monotonic()
        return is_open

    def _begin(self) -> None:
        """Record that this process serves, and let its predecessor stop."""
        self._has_begun = True
        try:
            self.app.pid_file.write()
        except OSError as error:
            log.warning("`flowise-gateway reload` will not find this process: %s", error)
        if self.master_pid and self.master_pid == os.getppid():
            systemd.sd_notify(f"MAINPID={self.pid}", self.log)
            os.kill(self.master_pid, signal.SIGWINCH)

    def reexec(self) -> None:
        """Start a successor with the current program and settings, on the same sockets.

        It signals this process (SIGWINCH) once it serves; if it cannot, this process continues.
        """
        if os.getpid() == 1:
            log.error("A container stops with its first process: start another container for a new release")
        else:
            super().reexec()

    def handle_winch(self) -> None:
        """A successor serves: stop accepting, and exit when the last worker has finished."""
        if self.reexec_pid and not self._is_leaving:
            self._is_leaving = True
            self.num_workers = 0
            sock.close_sockets(self.LISTENERS, unlink=False)
            self.LISTENERS = []

    def _serving(self) -> list[Any]:
        """The workers that are not retired, oldest first."""
        return sorted((w for w in self.WORKERS.values() if not w.is_retired), key=lambda worker: worker.age)

    def _retire(self, worker: Any) -> None:
        worker.is_retired = True
        self.kill_worker(worker.pid, signal.SIGHUP)

    def _all_serve(self, pids: list[int]) -> bool:
        """Whether all of these workers started to serve in time."""
        deadline = time.monotonic() + BOOT_SECONDS
        while time.monotonic() < deadline:
            try:
                self.reap_workers()
            except HaltServer:  # A worker could not start: it is gone from WORKERS.
                return False
            workers = [self.WORKERS.get(pid) for pid in pids]
            if not all(workers):
                return False
            if all(worker.has_started for worker in workers):
                return True
            time.sleep(_STEP_SECONDS)
        return False
