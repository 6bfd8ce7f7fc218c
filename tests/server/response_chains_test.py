"""Chains of responses, over real sockets: a thousand with forks, deletes and restarts, and a killed worker."""

from __future__ import annotations

import os
import random
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import requests
from openai import (
    NotFoundError,
    OpenAI,
)

from tests.support.demo_server import DemoServer
from tests.support.openai_check import valid
from tests.support.processes import wait_for
from tests.support.running_proxy import RunningProxy

MODEL = "demo-agent"


def sdk(proxy: RunningProxy, key: str = "any") -> OpenAI:
    """OpenAI's own client, which tries once."""
    return OpenAI(base_url=f"{proxy.url}/v1", api_key=key, max_retries=0)


def _has(answered: dict[str, Any], goal: int) -> bool:
    return len(answered) >= goal


# --- a thousand chains ---


@pytest.fixture(scope="module")
def flowise() -> Iterator[DemoServer]:
    """A demo Flowise that does not wait between words."""
    with DemoServer("--token-seconds", "0") as server:
        yield server


CHAINS = 1000
LIVES = 4
THREADS = 8


class Chain:
    """One conversation that somebody builds, forks and prunes by ids alone."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)  # noqa: S311 - a dice
        self.seed = seed
        self.talks: dict[str, list[tuple[str, str]]] = {"": []}
        self.asked: list[list[tuple[str, str]]] = []
        self.deleted: set[str] = set()
        self.left = self.dice.randrange(2, 7)

    def step(self, client: OpenAI) -> None:
        """Ask once, from the last answer or an earlier one, or delete one."""
        names = list(self.talks)
        previous = names[-1] if self.dice.random() < 0.7 else self.dice.choice(names)
        said = f"chain {self.seed} step {self.left} {self.dice.random()}"
        self.left -= 1
        more: Any = {"previous_response_id": previous} if previous else {}
        if self.dice.random() < 0.3:
            with client.responses.stream(model="demo-assistant", input=said, **more) as stream:
                stream.until_done()
                response: Any = stream.get_final_response()
        else:
            response = client.responses.create(model="demo-assistant", input=said, **more)
        talk = [*self.talks[previous], ("user", said)]
        self.asked.append(talk)
        self.talks[response.id] = [*talk, ("assistant", response.output_text)]
        if self.dice.random() < 0.15:
            gone = self.dice.choice(list(self.talks)[1:])
            client.responses.delete(gone)
            del self.talks[gone]
            self.deleted.add(gone)


@pytest.mark.timeout(400)  # five thousand requests: the machine may be busy
def test_a_thousand_chains_with_forks_deletes_and_a_restart_say_what_was_said(
    folder: Path, flowise: DemoServer
) -> None:
    """What each flow's model saw is the chain's transcript, to the letter; several people share the key."""
    chains = [Chain(seed) for seed in range(CHAINS)]
    settings = {"FLOWISE_BASE_URL": flowise.base_url, "PROXY_API_KEYS": "shared", "WORKERS": "2"}
    flowise.clear()
    # Every chain is begun before a restart and ended after it; the demo flows remember 1,000 sessions.
    parts: list[list[Chain]] = [[], *(chains[n::LIVES] for n in range(LIVES)), []]
    for ending, beginning in pairwise(parts):
        with RunningProxy(folder, **settings) as proxy:
            for part, steps in ((ending, 99), (beginning, 1)):
                with ThreadPoolExecutor(THREADS) as pool:
                    list(pool.map(partial(_walk, proxy, steps), [part[n::THREADS] for n in range(THREADS)]))
            _check_lost(proxy, [*ending, *beginning])
    # No two say the same.
    seen = {
        record["messages"][-1]["content"]: [(m["role"], m["content"]) for m in record["messages"]]
        for record in flowise.records()
    }
    for chain in chains:
        for talk in chain.asked:
            assert [said for said in seen[talk[-1][1]] if said[0] != "system"] == talk, f"seed {chain.seed}"
    assert sum(len(chain.asked) for chain in chains) == len(seen) > 2 * CHAINS


def _walk(proxy: RunningProxy, steps: int, chains: list[Chain]) -> None:
    with sdk(proxy, "shared") as client:
        for chain in chains:
            for _ in range(min(steps, chain.left)):
                chain.step(client)


def _check_lost(proxy: RunningProxy, chains: list[Chain]) -> None:
    with sdk(proxy, "shared") as client:
        for chain in chains[::25]:
            for gone in chain.deleted:
                with pytest.raises(NotFoundError):
                    client.responses.retrieve(gone)
            for response_id, talk in chain.talks.items():
                if response_id:
                    assert client.responses.retrieve(response_id).output_text == talk[-1][1]


# --- a worker is killed ---


def test_a_killed_worker_leaves_no_broken_record_and_loses_no_answered_one(
    folder: Path, flowise: DemoServer
) -> None:
    answered: dict[str, dict[str, Any]] = {}
    background: list[str] = []
    is_over = threading.Event()
    with RunningProxy(folder, FLOWISE_BASE_URL=flowise.base_url, WORKERS="2") as proxy:

        def ask(number: int) -> None:
            while not is_over.is_set():
                body = {"model": "demo-assistant", "input": f"q{number}", "background": number == 0}
                try:
                    answer = requests.post(
                        f"{proxy.url}/v1/responses", json=body, headers={"Connection": "close"}, timeout=30
                    )
                except requests.RequestException:
                    continue  # it was with the worker that was killed
                if answer.status_code == 200 and number == 0:
                    background.append(answer.json()["id"])
                elif answer.status_code == 200:
                    answered[answer.json()["id"]] = answer.json()

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        try:
            for goal in (40, 80, 120):
                assert wait_for(partial(_has, answered, goal), 60)
                os.kill(_workers(proxy.pid)[0], signal.SIGKILL)
                assert wait_for(lambda: len(_workers(proxy.pid)) == 2, 30)
        finally:
            is_over.set()
            for thread in threads:
                thread.join()
        with requests.Session() as session:
            for response_id, body in answered.items():
                assert session.get(f"{proxy.url}/v1/responses/{response_id}", timeout=30).json() == body
            for response_id in background:
                found = session.get(f"{proxy.url}/v1/responses/{response_id}", timeout=30)
                valid("response", found.content)
            url = f"{proxy.url}/v1/responses/"

            def all_over() -> bool:
                states = {session.get(url + one, timeout=30).json()["status"] for one in background}
                return states <= {"completed", "failed"}

            assert wait_for(all_over, 40)


def _workers(master: int) -> list[int]:
    children = Path(f"/proc/{master}/task/{master}/children").read_text().split()
    return [int(child) for child in children if _is_worker(int(child))]


def _is_worker(pid: int) -> bool:
    try:
        return b"openai_compatible_server" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
