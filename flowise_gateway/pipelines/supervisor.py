"""Supervises one pipeline: starts a new process after a crash, a change or a timeout."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import gevent
from gevent.event import Event

from flowise_gateway.config.schema import PipelineConfig
from flowise_gateway.pipelines.process import PipelineProcess, PipelineProfile, Run

log = logging.getLogger(__name__)

MAX_RUNS = 500
"""The maximum number of concurrent runs of a pipeline; each has a thread in its process."""

READY_SECONDS = 30.0
"""How long a request waits for a pipeline that is being loaded or restarted."""

FIRST_PAUSE_SECONDS, MAX_PAUSE_SECONDS = 0.5, 30.0
WELL_SECONDS = 60.0
"""The time without a crash after which the restart delay is reset."""


class NotRun(Exception):
    """The pipeline was not run; the text says why."""


class TooManyRuns(Exception):
    """The pipeline was not run, since too many runs are active."""


class Pipeline:
    """One entry of `pipelines:` and the processes that serve it; new runs go to `current`."""

    def __init__(self, config: PipelineConfig, folder: Path) -> None:
        """Start the first process."""
        self.config = config
        self.profile: PipelineProfile | None = None
        self.changed_at = time.time()
        self.problem = ""
        self._folder = folder
        self._crashes = 0
        self._is_closed = False
        self._files: dict[str, float] = {}
        self._settled = Event()  # set when the pipeline is loaded or known to be broken
        self._retired: list[PipelineProcess] = []
        self._next: PipelineProcess | None = None  # being loaded after a change, while the old one serves
        self.current: PipelineProcess | None = self._started()

    def _started(self) -> PipelineProcess:
        return PipelineProcess(self.config, self._folder, self._changed)

    # ------------------------------------------------------------------------------------------------ runs
    def start(self, body: bytes) -> tuple[PipelineProcess, Run]:
        """Start a run. Raises NotRun, TooManyRuns."""
        self._settled.wait(READY_SECONDS)
        process = self.current
        if process is None or process.profile is None:
            raise NotRun(self.problem or "the pipeline is still being loaded; try again later")
        if len(process.runs) >= MAX_RUNS:
            raise TooManyRuns
        return process, process.start(body, self.config.run_timeout)

    def end_overdue(self) -> None:
        """End the runs that exceeded their limit, including abandoned ones."""
        now = time.monotonic()
        for process in filter(None, (self.current, *self._retired)):
            for run in list(process.runs.values()):
                if now >= run.deadline and not run.is_overdue:
                    self._limit(process, run)

    def _limit(self, process: PipelineProcess, run: Run) -> None:
        seconds = self.config.run_timeout
        run.end(None, f"the pipeline ran longer than {seconds:g} s (its run_timeout) and was ended")
        run.is_left = run.is_overdue = True
        log.warning("%s: a run exceeded its limit of %g s; its process is replaced", self.config.id, seconds)
        if process is self.current:
            self._settled.clear()
            self.current = self._started()
        self._retire(process)

    def _retire(self, process: PipelineProcess) -> None:
        """Stop a process when nobody waits for its runs; each run ends at its limit at the latest."""
        if process not in self._retired:
            self._retired.append(process)
        if not process.waited_for:
            process.kill("the process of the pipeline was replaced")

    def end_retired(self) -> bool:
        """Stop the replaced processes whose last run has ended; returns whether all have."""
        for process in list(self._retired):
            if process.has_ended:
                self._retired.remove(process)
            else:
                self._retire(process)
        return not self._retired

    # -------------------------------------------------------------------------------------------- processes
    def _changed(self, process: PipelineProcess) -> None:
        if self._is_closed:
            return
        if process.has_ended:
            self._ended(process)
        elif process is self.current or process is self._next:
            self._is_ready(process)

    def _is_ready(self, process: PipelineProcess) -> None:
        if process is self._next:
            old, self.current, self._next = self.current, process, None
            if old is not None:
                self._retire(old)
            log.info("%s: the change is in effect", self.config.id)
        if process.profile != self.profile:
            self.profile, self.changed_at = process.profile, time.time()
        self.problem = ""
        self._files = {file: _changed_at(file) for file in self._watched()}
        self._settled.set()

    def _ended(self, process: PipelineProcess) -> None:
        if process is self._next:
            self._next = None
            log.error(
                "%s: the change is ignored, the previous version stays in use: %s",
                self.config.id,
                process.problem,
            )
        elif process is self.current:
            was_well = process.ready_since and time.monotonic() - process.ready_since > WELL_SECONDS
            self._crashes = 1 if was_well else self._crashes + 1
            self.problem, self.current = process.problem, None
            pause = min(MAX_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2 ** (self._crashes - 1))
            log.error("%s: %s; restarting in %g s", self.config.id, process.problem, pause)
            if process.profile is None:
                self._files = {file: _changed_at(file) for file in self._watched()}
                self._settled.set()
            else:
                self._settled.clear()
                self.problem = ""
            gevent.spawn_later(pause, self._restart)

    def _restart(self) -> None:
        if self.current is None and not self._is_closed:
            self._settled.clear()
            self.current = self._started()

    def wait_until_settled(self, seconds: float) -> None:
        """Wait until the pipeline is loaded, or is known to be broken."""
        self._settled.wait(seconds)

    def close(self) -> None:
        """End all processes."""
        self._is_closed = True
        for process in (self.current, self._next, *self._retired):
            if process is not None:
                process.kill("the pipeline was removed")

    def retire(self) -> None:
        """Accept no more runs, and stop when the active ones have ended."""
        self._is_closed = True
        for process in (self.current, self._next):
            if process is not None:
                self._retire(process)

    # ---------------------------------------------------------------------------------------------- changes
    def _watched(self) -> list[str]:
        """The files whose change triggers a reload; before the first load, only the source."""
        own = self._folder / self.config.source
        known = self.profile.files if self.profile else ()
        module = self._folder / (self.config.source.partition(":")[0].replace(".", "/") + ".py")
        return sorted({*known, *(str(file) for file in (own, module) if file.is_file())})

    def look_for_change(self) -> None:
        """Reload the pipeline in a second process if one of its files has changed."""
        if self._next is not None or not self._settled.is_set():
            return
        now = {file: _changed_at(file) for file in self._watched()}
        # A file that was just written may not be complete yet.
        if now == self._files or any(time.time() - at < 1 for at in now.values()):
            return
        self._files = now
        log.info("%s: a file has changed; the pipeline is reloaded", self.config.id)
        if self.current is None:
            self._crashes = 0
            self._restart()
        else:
            self._next = self._started()


def _changed_at(file: str) -> float:
    try:
        return Path(file).stat().st_mtime
    except OSError:
        return 0.0
