"""Holds a server of any kind to OpenAI's contract: `flowise-gateway conformance URL --model M`.

No server can hold up the command: a case that takes too long is broken, and all together have a limit.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from queue import Empty, SimpleQueue
from threading import Thread
from urllib.parse import urlsplit

import requests

try:
    from wsproto.utilities import ProtocolError

    from flowise_gateway.conformance import chat, open_responses
    from flowise_gateway.conformance.websocket_client import connected
except ModuleNotFoundError as error:  # of the extra
    raise OSError(f"{error}: pip install 'flowise-gateway[conformance]'") from error
from flowise_gateway.conformance.target import Case, NotOffered, Target

CASES: tuple[Case, ...] = (*chat.CASES, *open_responses.CASES)
MAX_WORDS = 300
CASE_SECONDS = 60.0
MAX_SLOW_CASES = 10
"""So many cases may take all of their time; after that no further one is tried."""
KEPT, BROKEN, NOT_OFFERED, NOT_TRIED = "kept", "broken", "not offered", "not tried"
EXIT_KEPT, EXIT_BROKEN, EXIT_UNREACHABLE = 0, 1, 2


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one case; `why` is empty unless it is broken."""

    area: str
    promise: str
    outcome: str
    why: str = ""


def result_of(case: Case, target: Target) -> Result:
    """Try one case. A server that breaks off, or answers what cannot be read, has broken it."""
    try:
        case.run(target)
    except NotOffered:
        return Result(case.area, case.promise, NOT_OFFERED)
    except AssertionError as error:
        return Result(case.area, case.promise, BROKEN, _shown(str(error)))
    except requests.RequestException as error:
        return Result(case.area, case.promise, BROKEN, _shown(f"no answer: {_cause(error)}"))
    except _UNREADABLE as error:
        why = _shown(f"cannot be read: {type(error).__name__}: {error}")
        return Result(case.area, case.promise, BROKEN, why)
    return Result(case.area, case.promise, KEPT)


_UNREADABLE = (
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    OSError,
    RecursionError,  # JSON that is nested too deeply
    ProtocolError,
)


def _shown(why: str) -> str:
    """The beginning of a reason, without what the server's text could command a terminal by."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in why[:MAX_WORDS])


def _cause(error: BaseException) -> str:
    """What an error of requests began with: refused, not trusted, no such host."""
    while nested := next(
        (one for one in (getattr(error, "reason", None), *error.args) if _is_error(one)), None
    ):
        error = nested
    return f"{type(error).__name__}: {error}"


def _is_error(value: object) -> bool:
    return isinstance(value, BaseException)


def _within(case: Case, target: Target, seconds: float) -> Result:
    """Try one case for some seconds. What hangs is left to a thread that ends with the process."""
    results = SimpleQueue[Result]()
    Thread(target=lambda: results.put(result_of(case, target)), daemon=True).start()
    try:
        return results.get(timeout=seconds)
    except Empty:
        return Result(case.area, case.promise, BROKEN, f"it took more than {seconds:g} s")


def tried(target: Target, seconds: float = CASE_SECONDS) -> Iterator[Result]:
    """Try the cases one after the other, each for at most so many seconds; give each result as it comes."""
    ends = time.monotonic() + seconds * MAX_SLOW_CASES
    for case in CASES:
        if (left := ends - time.monotonic()) > 0:
            yield _within(case, target, min(seconds, left))
        else:
            why = f"the cases before it took {seconds * MAX_SLOW_CASES:g} s"
            yield Result(case.area, case.promise, NOT_TRIED, why)


def run(target: Target, seconds: float = CASE_SECONDS) -> list[Result]:
    """Try all cases."""
    return [*tried(target, seconds)]


def as_line(result: Result) -> str:
    """A result for a terminal."""
    return f"{result.outcome:11}  {result.area}: {result.promise}{': ' * bool(result.why)}{result.why}"


def sums(results: Iterable[Result]) -> str:
    """How many are kept of each area, and of all."""
    counts: dict[str, list[int]] = {}
    for result in results:
        for area in (result.area, "all"):
            kept, offered = counts.setdefault(area, [0, 0])
            counts[area] = [kept + (result.outcome == KEPT), offered + (result.outcome != NOT_OFFERED)]
    counts["all"] = counts.pop("all")
    return "\n".join(f"{area}: {kept} of {offered} kept" for area, (kept, offered) in counts.items())


def as_json(results: Iterable[Result]) -> str:
    """The results for a program."""
    return json.dumps([asdict(result) for result in results], indent=2, ensure_ascii=False)


def main(options: argparse.Namespace) -> int:
    """Run the command: 0 if the server keeps all that it offers, 1 if not, 2 if there is none."""
    url = options.url.rstrip("/").removesuffix("/v1")
    target = Target(url, options.model, options.key)
    try:
        if urlsplit(url).scheme not in ("http", "https"):
            raise ValueError("an address begins with http:// or https://")
        connected(url).close()
    except (OSError, ValueError) as error:
        print(f"{url} cannot be reached: {_shown(str(error))}", file=sys.stderr)
        return EXIT_UNREACHABLE
    results: list[Result] = []
    for result in tried(target, options.timeout):
        results.append(result)
        if not options.json and result.outcome != KEPT:
            print(as_line(result), flush=True)
    print(as_json(results) if options.json else sums(results))
    is_kept = all(result.outcome in (KEPT, NOT_OFFERED) for result in results)
    return EXIT_KEPT if is_kept else EXIT_BROKEN
