"""How the cost of work grows with its input: CPU time of this thread, so that a busy machine changes little."""

from __future__ import annotations

import gc
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any

TextOf = Callable[[int], str]
"""Makes a text of about so many characters."""
Work = Callable[[str], object]

SIZE = 2**20
MAX_SECONDS = 1.0
"""CPU time of a run over SIZE characters; others wait meanwhile. (They wait a tenth of it: machines differ.)"""
CHEAP_SECONDS = 0.1
"""A run that takes no more is not measured further: what grows with the square takes minutes at this size."""
MAX_GROWTH = 2.5
COSTLIEST = 6
_TRIES = 7


class TooSlow(AssertionError):
    """A run took too long."""


@contextmanager
def _limited(seconds: float) -> Iterator[None]:
    """End what is run after so much CPU time; `re` looks for signals while it searches."""

    def end(_signal: int, _frame: Any) -> None:
        raise TooSlow(f"takes more than {seconds:.2f} s")

    before = signal.signal(signal.SIGVTALRM, end)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def _named(text_of: TextOf) -> str:
    """A text of this kind in a few letters."""
    text = text_of(2000)
    return repr(text[:40] + "…" + text[-1:])


def _cost(work: Work, text: str, limit: float = MAX_SECONDS) -> float:
    """The CPU seconds of one run. Raises TooSlow."""
    traced = sys.gettrace()
    gc.disable()
    sys.settrace(None)  # whoever counts the lines that are run is no part of the cost
    try:
        with _limited(limit):
            begun = time.thread_time()
            work(text)
            return time.thread_time() - begun
    except TooSlow as error:
        raise TooSlow(f"{len(text)} characters {text[:40]!r}…: {error}") from None
    finally:
        sys.settrace(traced)
        gc.enable()


def check_growth(work: Work, texts: Iterable[TextOf], size: int = SIZE) -> None:
    """Assert that the work takes no long time over any text, and not much more than twice for twice of it.

    The texts over which a part of the size takes longest are tried with the whole. Raises TooSlow.
    """
    costs = []
    for text_of in texts:
        # Small ones first: not everything that is written in C can be ended.
        for part in (256, 16):
            cost = _cost(work, text_of(size // part), max(CHEAP_SECONDS, MAX_SECONDS / part))
            costs.append((cost * (part == 16), text_of))
    costs.sort(key=lambda each: each[0], reverse=True)
    for _, text_of in costs[:COSTLIEST]:
        _check_whole(work, text_of, size)


def _check_whole(work: Work, text_of: TextOf, size: int) -> None:
    whole = _cost(work, text_of(size))
    if whole <= CHEAP_SECONDS:
        return
    # Pairs: what slows this machine's processor down lasts longer than one.
    growths: list[float] = []
    while len(growths) < _TRIES:
        # Over two doublings: at one of them a text may outgrow a cache of the processor.
        quarter, whole = _cost(work, text_of(size // 4)), _cost(work, text_of(size))
        growths.append((whole / quarter) ** 0.5)
        if len(growths) % 2 and len(growths) > 1 and median(growths) <= MAX_GROWTH:
            return
    raise TooSlow(f"{_named(text_of)}: twice of it takes {median(growths):.1f} times as long ({whole:.3f} s)")
