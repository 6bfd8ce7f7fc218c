"""Runs several choices of a request concurrently, each in a thread."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from itertools import repeat

from flowise_gateway.flow.errors import ProxyError, RunFailed
from flowise_gateway.flow.events import Batch, Batches

POLL_SECONDS = 0.25
"""How soon one of several runs notices that its consumer is gone."""

RUN_THREAD = "flowise run"
"""The prefix of the names of threads that run flows; a stopping worker waits for them."""

_BATCHES_AHEAD = 64


NumberedBatches = Iterator[tuple[int, Batch]]


class ChoiceBatches:
    """The batches of a request's runs as they arrive, each with its choice index; closing aborts the runs."""

    def __init__(self, numbered: NumberedBatches, close: Callable[[], None]) -> None:
        self._numbered = numbered
        self.close = close

    def __iter__(self) -> NumberedBatches:
        return self._numbered


def only_choice(batches: Batches) -> ChoiceBatches:
    """The batches of a request's only run."""
    return ChoiceBatches(zip(repeat(0), batches), batches.close)


def run_concurrently(
    runs: Sequence[Batches], left: threading.Event | None = None
) -> Generator[tuple[int, Batch], None, None]:
    """Run several concurrently, each in a thread, and yield their batches as they arrive, with their index.

    The first failure ends all; `left` is set when the consumer is gone. A run must yield a KeepAlive every
    POLL_SECONDS, otherwise it outlives its consumer.
    """
    results: queue.Queue[tuple[int, Batch | Exception | None]] = queue.Queue(_BATCHES_AHEAD)
    left = left or threading.Event()
    open_runs = len(runs)
    try:
        for number, run in enumerate(runs):
            threading.Thread(
                target=_feed, args=(number, run, results, left), name=RUN_THREAD, daemon=True
            ).start()
        while open_runs:
            number, result = results.get()
            if isinstance(result, Exception):
                raise _of_several(result)
            if result is None:
                open_runs -= 1
            else:
                yield number, result
    finally:
        left.set()


def _of_several(error: Exception) -> Exception:
    """The failure of one of several runs; its status never means "nothing has run", since others may have."""
    if isinstance(error, ProxyError) and (error.status >= 500 or error.status in (408, 429)):
        return RunFailed(
            f"One of several choices failed, others may have run: {error.message}", code=error.code
        )
    return error


def _feed(
    number: int,
    run: Batches,
    results: queue.Queue[tuple[int, Batch | Exception | None]],
    left: threading.Event,
) -> None:
    def put(result: Batch | Exception | None) -> None:
        while not left.is_set():
            with contextlib.suppress(queue.Full):
                results.put((number, result), timeout=POLL_SECONDS)
                return

    try:
        with contextlib.closing(run):
            if left.is_set():
                return
            for batch in run:
                put(batch)
                if left.is_set():
                    return
        put(None)
    except Exception as error:  # noqa: BLE001 - handed over to the reader, which raises it
        put(error)


def cancellable_wait(left: threading.Event, wake: Callable[[], float]) -> Callable[[], float]:
    """`wake`, limited to POLL_SECONDS; raises RunFailed once the consumer is gone."""

    def remaining() -> float:
        if left.is_set():
            raise RunFailed("Nobody waits for this run any more.")
        return min(POLL_SECONDS, wake())

    return remaining
