"""Holds a server of any kind to OpenAI's contract: `flowise-gateway conformance URL --model M`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass

import requests

try:
    from wsproto.utilities import ProtocolError

    from flowise_gateway.conformance import chat, open_responses
except ModuleNotFoundError as error:  # of the extra
    raise OSError(f"{error}: pip install 'flowise-gateway[conformance]'") from error
from flowise_gateway.conformance.target import Case, NotOffered, Target

CASES: tuple[Case, ...] = (*chat.CASES, *open_responses.CASES)
MAX_WORDS = 300
KEPT, BROKEN, NOT_OFFERED = "kept", "broken", "not offered"


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
        return Result(case.area, case.promise, BROKEN, f"no answer: {type(error).__name__}")
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


def run(target: Target) -> list[Result]:
    """Try all cases, one after the other."""
    return [result_of(case, target) for case in CASES]


def as_text(results: Iterable[Result]) -> str:
    """The results for a terminal: what is broken with its reason, and a sum for each area."""
    lines: list[str] = []
    sums: dict[str, list[int]] = {}
    for result in results:
        kept, offered = sums.setdefault(result.area, [0, 0])
        sums[result.area] = [kept + (result.outcome == KEPT), offered + (result.outcome != NOT_OFFERED)]
        if result.outcome != KEPT:
            lines.append(
                f"{result.outcome:11}  {result.area}: {result.promise}{': ' * bool(result.why)}{result.why}"
            )
    lines += [f"{area}: {kept} of {offered} kept" for area, (kept, offered) in sums.items()]
    return "\n".join(lines)


def as_json(results: Iterable[Result]) -> str:
    """The results for a program."""
    return json.dumps([asdict(result) for result in results], indent=2, ensure_ascii=False)


def main(options: argparse.Namespace) -> int:
    """Run the command; 0 if the server keeps all that it offers."""
    url = options.url.rstrip("/").removesuffix("/v1")
    results = run(Target(url, options.model, options.key))
    print(as_json(results) if options.json else as_text(results))
    return int(any(result.outcome == BROKEN for result in results))
