"""All scenarios, by the names of the catalogue."""

from __future__ import annotations

from tests.chaos import abuse, attacks, frames, reloads, runs, streams, swarms
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
    "R11": frames.split_anywhere,
    "R12": frames.odd_frames,
    "R13": streams.token_delay,
    "R14": frames.no_answers,
    "R15": runs.soak,
    "G1": reloads.reloaded,
    "G2": reloads.changed_over,
    "G3": reloads.released,
    "L1": abuse.many_streams,
    "L2": abuse.shedding,
    "L3": abuse.slow_clients,
    "L4": abuse.huge_bodies,
    "L5": abuse.stalls,
    "L6": abuse.fairness,
    "L7": abuse.few_descriptors,
    "L8": abuse.many_names,
    "L9": frames.odd_http,
    **{name: attacks.scenario(name) for name in attacks.ATTACKS},
    **{name: swarms.scenario(name) for name in swarms.SWARMS},
}
