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
"""How long a reload waits for its new workers; the master obeys no other signal meanwhile."""

_STEP_SECONDS = 0.05
_HANGUP_SECONDS = 5.0
"""How long after a terminal was last there a SIGHUP is taken for the news that it was closed."""


def _has_terminal() -> bool:
    """Whether this process belongs to a terminal that is open."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True


class Master(Arbiter):  # type: ignore[misc]
    """Keeps as many serving workers as there shall be; retired ones, which only finish, do not count."""

    def __init__(self, app: Any) -> None:
        super().__init__(app)
        # Opened by us, so that gunicorn looks for none in the environment.
        self.LISTENERS = sock.create_sockets(self.cfg, self.log)
        # A successor is started as this process was; gunicorn would run the file of a module run by its name.
        self.START_CTX["args"] = [sys.executable, *sys.orig_argv[1:]]
        self._has_begun = self._is_leaving = False
        # nohup has SIGHUP ignored: what was started by it outlives its terminal.
        self._may_hang_up = signal.getsignal(signal.SIGHUP) != signal.SIG_IGN
        self._terminal_seen = -math.inf

    def handle_hup(self) -> None:
        """End if the signal says that the terminal was closed, else reload.

        A server that reloads then would serve on unseen, and hold its port against the next start.
        """
        if not self._sees_terminal() and time.monotonic() - self._terminal_seen < _HANGUP_SECONDS:
            self.handle_term()
        super().handle_hup()

    def reload(self) -> None:
        """Serve with new settings: start new workers, and retire the old ones once the new ones serve.

        Gunicorn's own method ends the old workers before the new ones serve, waits for their end deaf to
        other signals, and ends the server if a new worker cannot start.
        """
        try:
            self.app.reload()
        except (SettingsError, ConfigError, OSError) as error:
            # Without a traceback: the message says what the operator has to correct.
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
        self._sees_terminal()  # starting workers may have taken longer than a closed terminal is remembered
        log.info("%s old worker(s) finish their answers, %s new one(s) serve", len(old), len(self._serving()))

    def manage_workers(self) -> None:
        """Have as many workers serve as there shall be; called once a second at least."""
        self._sees_terminal()
        serving = self._serving()
        for _ in range(self.num_workers - len(serving)):
            self.spawn_worker()
        for worker in serving[: max(0, len(serving) - self.num_workers)]:
            self._retire(worker)
        if self._is_leaving and not self.WORKERS:
            raise StopIteration  # gunicorn's way to end the master
        if not self._has_begun and serving and all(worker.has_started for worker in serving):
            self._begin()

    def _sees_terminal(self) -> bool:
        """Look whether the terminal is open, and note when it was last."""
        is_open = self._may_hang_up and _has_terminal()
        if is_open:
            self._terminal_seen = time.monotonic()
        return is_open

    def _begin(self) -> None:
        """Say that this process serves, and let the one that it takes over from stop."""
        self._has_begun = True
        try:
            self.app.pid_file.write()
        except OSError as error:
            log.warning("`flowise-gateway reload` will not find this process: %s", error)
        if self.master_pid and self.master_pid == os.getppid():
            systemd.sd_notify(f"MAINPID={self.pid}", self.log)
            os.kill(self.master_pid, signal.SIGWINCH)

    def reexec(self) -> None:
        """Start a successor from the program and the settings as they now stand, on the same sockets.

        It tells this process (SIGWINCH) once it serves; if it cannot, this process goes on.
        """
        if os.getpid() == 1:
            log.error("A container stops with its first process: start another container for a new release")
        else:
            super().reexec()

    def handle_winch(self) -> None:
        """A successor serves: stop accepting, and end when the last worker has finished."""
        if self.reexec_pid and not self._is_leaving:
            self._is_leaving = True
            self.num_workers = 0
            sock.close_sockets(self.LISTENERS, unlink=False)
            self.LISTENERS = []

    def _serving(self) -> list[Any]:
        """The workers that are not retired, the oldest first."""
        return sorted((w for w in self.WORKERS.values() if not w.is_retired), key=lambda worker: worker.age)

    def _retire(self, worker: Any) -> None:
        worker.is_retired = True
        self.kill_worker(worker.pid, signal.SIGHUP)

    def _all_serve(self, pids: list[int]) -> bool:
        """Whether all of these workers came to serve in time."""
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
