"""All scenarios, by the names of the catalogue."""

from __future__ import annotations

from tests.chaos import runs, streams
from tests.chaos.world import Scenario

SCENARIOS: dict[str, Scenario] = {
    "R1": streams.silent_streams,
    "R2": streams.silent_json,
    "R3": streams.killed_streams,
    "R4": runs.no_run_twice,
    "R5": runs.few_retries,
    "R6": runs.breaker,
    "R7": streams.drained,
    "R8": streams.killed_worker,
    "R9": streams.heartbeats,
    "R10": runs.limits,
    "R13": streams.token_delay,
    "R15": runs.soak,
}
