"""Requests over two gateways with budgets and limits, and what each place says of them afterwards."""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock, local
from typing import Any

import requests

from flowise_gateway.storage.counts import open_counts
from flowise_gateway.storage.redis_store import RedisStore
from tests.support.log_lines import lines
from tests.support.metrics_text import scraped
from tests.support.processes import wait_for
from tests.support.running_proxy import RunningProxy

KEYS = ("open", "daily", "tokens", "narrow", "admin")
USERS = 10
MODEL = "demo-agent"  # the demo reports the tokens of its runs


def key_of(name: str) -> str:
    return f"a-key-of-{name}-for-tests"


def proxy_yaml(requests_in_all: int) -> str:
    """A file with keys of each kind: a budget of requests, one of tokens, slots, none."""
    limits = {
        "open": "",
        "daily": f"requests_per_day: {requests_in_all // 5}",
        "tokens": f"tokens_per_day: {requests_in_all * 2}",
        "narrow": "max_in_flight: 3",
        "admin": "admin: true",
    }
    text = "keys:\n"
    for name in KEYS:
        digest = hashlib.sha256(key_of(name).encode()).hexdigest()
        text += f"  - name: {name}\n    sha256: {digest}\n"
        text += f"    {limits[name]}\n" if limits[name] else ""
    return text


@dataclass
class Seen:
    """What the clients saw of one key's requests."""

    answers: Counter[str] = field(default_factory=Counter)
    tokens: Counter[str] = field(default_factory=Counter)
    users: Counter[str] = field(default_factory=Counter)


class Load:
    """Sends requests of four keys to all gateways at once, a fifth of them as streams."""

    def __init__(self, proxies: Sequence[RunningProxy], clients: int) -> None:
        self._proxies, self._clients = proxies, clients
        self._local, self._lock = local(), Lock()
        self.seen = {name: Seen() for name in KEYS[:-1]}

    def send(self, count: int) -> None:
        """Send so many in all."""
        names = [KEYS[n % 4] for n in range(count)]
        random.Random(7).shuffle(names)  # noqa: S311 - no secret
        with ThreadPoolExecutor(self._clients) as pool:
            list(pool.map(self._ask, names, range(count)))

    def _ask(self, name: str, number: int) -> None:
        if not hasattr(self._local, "session"):
            self._local.session = requests.Session()
            self._local.session.trust_env = False
        proxy = self._proxies[number % len(self._proxies)]
        streams = number % 5 == 0
        body = {
            "model": MODEL,
            "messages": [{"role": "user", "content": "Hello"}],
            "user": f"user-{number % USERS}",
            "stream": streams,
            **({"stream_options": {"include_usage": True}} if streams else {}),
        }
        answer = self._local.session.post(
            f"{proxy.url}/v1/chat/completions",
            json=body,
            headers={"Authorization": f"Bearer {key_of(name)}"},
            timeout=120,
        )
        self._note(name, body["user"], answer, streams=streams)

    def _note(self, name: str, user: Any, answer: requests.Response, *, streams: bool) -> None:
        seen = self.seen[name]
        if answer.status_code != 200:
            with self._lock:
                seen.answers[f"{answer.status_code} {answer.json()['error']['code']}"] += 1
            return
        usage = _streamed_usage(answer.text) if streams else answer.json()["usage"]
        with self._lock:
            seen.answers["200"] += 1
            seen.users[user] += 1
            seen.tokens["input"] += usage["prompt_tokens"]
            seen.tokens["output"] += usage["completion_tokens"]


def _streamed_usage(text: str) -> dict[str, int]:
    chunks = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
    usage: dict[str, int] = next(chunk["usage"] for chunk in reversed(chunks) if chunk.get("usage"))
    return usage


Figures = dict[str, dict[str, int]]


def in_log(proxies: Sequence[RunningProxy]) -> Figures:
    """What the log lines say of each key."""
    figures: Figures = {name: Counter() for name in KEYS[:-1]}
    for proxy in proxies:
        for line in lines(proxy, "request"):
            if (name := line.get("caller")) in figures:
                of_key = figures[name]
                of_key["answered" if line["status"] == 200 else f"{line['status']} {line['outcome']}"] += 1
                of_key["input"] += line.get("tokens_in", 0)
                of_key["output"] += line.get("tokens_out", 0)
    return figures


def in_usage(proxies: Sequence[RunningProxy], by: str) -> Figures:
    """What the report of usage says, by key or user; nothing as long as the gateways do not agree."""
    reports = [
        requests.get(
            f"{proxy.url}/v1/flowise/usage",
            params={"by": by},
            headers={"Authorization": f"Bearer {key_of('admin')}"},
            timeout=60,
        ).json()
        for proxy in proxies
    ]
    if any(report != reports[0] for report in reports):
        return {}
    return {
        row[by]: {
            "answered": row["requests"],
            "input": row["input_tokens"],
            "output": row["output_tokens"],
        }
        for row in reports[0]["data"]
    }


def in_metrics(proxies: Sequence[RunningProxy]) -> dict[str, int]:
    """What the metrics of all gateways say together."""
    found = [scraped(proxy, key_of("admin")) for proxy in proxies]
    figures = {
        "answered": ("requests_total", {"model": MODEL, "status": "200"}),
        "input": ("tokens_total", {"direction": "input"}),
        "output": ("tokens_total", {"direction": "output"}),
        "429 of requests": ("limit_refusals_total", {"limit": "key_requests_per_day"}),
        "429 of tokens": ("limit_refusals_total", {"limit": "key_tokens_per_day"}),
        "429 of slots": ("limit_refusals_total", {"limit": "key_max_in_flight"}),
    }
    return {
        shown: int(sum(scrape.sum(name, **labels) for scrape in found))
        for shown, (name, labels) in figures.items()
    }


def in_redis(url: str) -> tuple[dict[str, int], int]:
    """The numbers of the budgets in Redis, and how many slots are taken there."""
    store = RedisStore(url)
    numbers = {name: value for _, name, value in open_counts(store).read("2020-01-01", "2099-12-31")}
    slots = store.call(lambda redis: sum(map(redis.zcard, redis.keys("*{slots}*"))))
    return {name: value for name, value in numbers.items() if " of " in name}, int(slots)


def check_all_agree(load: Load, proxies: Sequence[RunningProxy], redis_url: str, limit: int) -> list[str]:
    """Compare what all places say; the lines to print. Raises AssertionError."""
    seen = {name: {"answered": one.answers["200"], **one.tokens} for name, one in load.seen.items()}
    # A client has its answer before its line is written; usage is written, and workers' counts shown to each
    # other, once a second.
    assert wait_for(lambda: in_usage(proxies, "key") == seen, 20), (in_usage(proxies, "key"), seen)
    logged = in_log(proxies)
    for name, one in load.seen.items():
        refused = {text: n for text, n in one.answers.items() if text != "200"}
        assert logged[name] == {**seen[name], **refused}, (name, logged[name], one)
    total = {
        figure: sum(of_key[figure] for of_key in seen.values()) for figure in ("answered", "input", "output")
    }
    over = "429 insufficient_quota"
    told = {
        **total,
        "429 of requests": load.seen["daily"].answers[over],
        "429 of tokens": load.seen["tokens"].answers[over],
        "429 of slots": load.seen["narrow"].answers["429 rate_limit_exceeded"],
    }
    assert wait_for(lambda: in_metrics(proxies) == told, 20), (in_metrics(proxies), told)
    users = in_usage(proxies, "user")
    asked = sum((one.users for one in load.seen.values()), Counter[str]())
    assert sorted(of_user["answered"] for of_user in users.values()) == sorted(asked.values())
    budgets, slots = in_redis(redis_url)
    assert slots == 0
    assert budgets == {
        "requests of daily": limit,
        "tokens of tokens": sum(load.seen["tokens"].tokens.values()),
    }, budgets
    assert load.seen["daily"].answers["200"] == limit
    assert load.seen["open"].answers.keys() == {"200"}
    return [f"{name:7} {dict(one.answers)} tokens {dict(one.tokens)}" for name, one in load.seen.items()] + [
        f"Redis: {budgets}, slots taken: {slots}"
    ]


def write_file(folder: Path, requests_in_all: int) -> Path:
    """A new folder of a gateway, with its file of keys."""
    folder.mkdir()
    (folder / "proxy.yaml").write_text(proxy_yaml(requests_in_all))
    return folder
