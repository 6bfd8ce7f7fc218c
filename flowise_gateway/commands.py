"""The commands that call Flowise, generate keys and back up the store. Each returns its exit status."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import itertools
import json
import os
import re
import secrets
import signal
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from flowise_client import ABORT_SECONDS, requests_transport
from flowise_gateway.access.keys import ANONYMOUS
from flowise_gateway.access.models import Models
from flowise_gateway.check import check, client_of, print_table, visible, with_advice, with_flowise
from flowise_gateway.config.config_file import config_file
from flowise_gateway.config.flowises import Upstream, upstreams, variables_of
from flowise_gateway.config.schema import KEY_NAME, KEY_NAME_TEXT, ProxyConfig
from flowise_gateway.config.settings import MIN_KEY_CHARACTERS, Settings, misspelt_settings
from flowise_gateway.config.yaml_document import ConfigError
from flowise_gateway.flow.errors import FlowiseUnavailable, ModelNotFound, ProxyError, SettingsError
from flowise_gateway.flow.turn import Turn
from flowise_gateway.flowise.profiles import FlowProfile, flow_profiles
from flowise_gateway.openai.answer_text import answer_text
from flowise_gateway.serving.banner import Overview
from flowise_gateway.serving.pid_file import PidFile
from flowise_gateway.storage.counts import open_counts
from flowise_gateway.storage.protocol import StoreError
from flowise_gateway.storage.store import open_store
from flowise_gateway.storage.store_file import back_up, open_to_others, store_file
from flowise_gateway.telemetry.tracing import tracing_problem
from flowise_gateway.telemetry.usage_report import UsageReport

__all__ = ["ask", "check", "models", "new_key", "overview"]

KEY_PREFIX = "sk-flowise-"


class _ListedFlows:
    """A catalog of one listing, empty if there is none; `failure` says why."""

    def __init__(self, rows: Iterable[dict[str, Any]]) -> None:
        self._error: ProxyError | None = None
        profiles: list[FlowProfile] = []
        try:
            profiles = flow_profiles(rows)
        except ProxyError as error:
            self._error = error
        self._profiles = {profile.flow: profile for profile in profiles}
        self._slugs = {profile.slug: profile for profile in profiles}

    def profiles(self) -> list[FlowProfile]:
        return list(self._profiles.values())

    def by_flow(self, flow: str) -> FlowProfile | None:
        return self._profiles.get(flow)

    def listed(self, name: str) -> FlowProfile | None:
        return self._profiles.get(name) or self._slugs.get(name)

    find = listed

    def failure(self) -> ProxyError | None:
        return self._error


def _listings(settings: Settings, config: ProxyConfig) -> dict[str, _ListedFlows]:
    """The flows of each Flowise."""
    found = upstreams(settings, config.flowises)
    return {each.name: _ListedFlows(client_of(each.settings, name=each.name).flows()) for each in found}


@with_flowise
def models(options: argparse.Namespace, settings: Settings) -> int:
    """List the models that clients see."""
    config = config_file(settings).current
    listings = _listings(settings, config)
    listed = Models(config, listings, ANONYMOUS).listed()
    failures = {name: failure for name, flows in listings.items() if (failure := flows.failure())}
    for name, failure in failures.items():
        print(f"{name}: {visible(failure.message)}", file=sys.stderr)
    if options.json:
        rows = ({"id": m.id, "flow": m.flow, "name": m.name, "server": m.flowise} for m in listed)
        print(json.dumps(list(rows)))
    elif listed:
        print_table([("id", "flow", "name"), *((m.id, m.flow, m.name) for m in listed)])
    return 1 if failures else 0


def reload(options: argparse.Namespace) -> int:
    """Have the server that was started in this folder, at this port, take new settings or a new release."""
    settings = Settings.from_env()
    config_file(settings)  # reports what the server would refuse
    pid = PidFile(settings.port).pid()
    if pid is None:
        print(f"No running server was started in this directory with PORT={settings.port}.", file=sys.stderr)
        return 1
    os.kill(pid, signal.SIGUSR2 if options.release else signal.SIGHUP)
    print(f"Process {pid} is reloading; see its log.")
    return 0


def new_key(options: argparse.Namespace) -> int:
    """Make a client key and its lines for `proxy.yaml`."""
    if not re.fullmatch(KEY_NAME, options.name):
        raise ConfigError(f"a key's name must be {KEY_NAME_TEXT}")
    key = KEY_PREFIX + secrets.token_urlsafe(24)
    digest = hashlib.sha256(key.encode()).hexdigest()
    print(f"The key, which is not shown again:\n\n  {key}\n\nAdd these lines to proxy.yaml, under keys:\n")
    # In quotes: to YAML a bare yes or 1 is no text, and a digest of digits is a number.
    print(f"  - name: '{options.name}'\n    sha256: '{digest}'\n    models: ['*']")
    return 0


@with_flowise
def ask(options: argparse.Namespace, settings: Settings) -> int:
    """Ask a model and print its answer as it comes."""
    config = config_file(settings).current
    listings = _listings(settings, config)
    try:
        model = Models(config, listings, ANONYMOUS).resolve(options.model)
    except ModelNotFound:
        for failure in filter(None, (flows.failure() for flows in listings.values())):
            raise failure from None
        raise
    found = upstreams(settings, config.flowises, is_queued=config.flowise_mode == "queue")
    upstream = next(each for each in found if each.name == model.flowise)
    client, turn = (
        client_of(upstream.settings, model, name=upstream.name),
        Turn(model.flow, options.question, stream=True),
    )
    client.mode.is_set = upstream.is_queued
    try:
        with contextlib.closing(client.batches(turn)) as batches:
            for batch in batches:
                print("".join(map(answer_text, batch)), end="", flush=True)
    except (KeyboardInterrupt, BrokenPipeError):
        # Closing the stream aborts the run in a thread that ends with the program: abort it here and wait.
        client.abort(turn.chat_id).join(ABORT_SECONDS)
        raise
    print()
    return 0


def backup(options: argparse.Namespace) -> int:
    """Copy the store's file. Raises SettingsError for a store that is none, OSError."""
    store = Settings.from_env().proxy_store
    path = store_file(store)
    if path is None:
        cure = "it only exists in the memory of its process"
        if store != "memory:":
            cure = "use Redis's own tools, such as redis-cli --rdb PATH"
        raise SettingsError(f"PROXY_STORE is not a file that can be copied: {cure}")
    try:
        entries = back_up(path, options.path)
    except StoreError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{options.path}: {entries} entries, {options.path.stat().st_size} bytes")
    return 0


def usage(options: argparse.Namespace) -> int:
    """Print who used what. Raises SettingsError for a store that only its server can read, ProxyError."""
    settings = Settings.from_env()
    file = store_file(settings.proxy_store)
    if settings.proxy_store == "memory:":
        raise SettingsError(
            "PROXY_STORE=memory: only exists in the running server: use GET /v1/flowise/usage"
        )
    if file is not None and not file.is_file():
        raise SettingsError(f"there is no store at {file}: call this where the server was started")
    asked = vars(options)
    report = UsageReport({name: asked[name] or "" for name in ("from", "to", "by")}, time.time())
    try:
        rows = report.rows(open_counts(open_store(settings.proxy_store)).read(report.first, report.last))
    except StoreError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if options.format == "csv":
        print(report.csv(rows), end="")
    elif options.format == "json":
        print(json.dumps(report.body(rows), indent=2))
    else:
        print_table([report.columns, *([str(row[name]) for name in report.columns] for row in rows)])
    return 0


START_SECONDS = 2.0
"""How long the start waits for Flowise and the store before it reports them as unavailable."""


def overview(settings: Settings, *, is_demo: bool) -> Overview:
    """The state at start-up: Flowise, store, access, problems."""
    config = config_file(settings).current
    problems = misspelt_settings(used=variables_of(config.flowises))
    found = upstreams(settings, config.flowises)
    with ThreadPoolExecutor(len(found)) as asking:  # so that unavailable ones delay the start only once
        states = list(asking.map(_state_at_start, found))
    for upstream, state in zip(found, states, strict=True):
        if state.failure is not None:
            problem = with_advice(state.failure, upstream.name)
            problems.append(f"{upstream.name}: {problem}" if len(found) > 1 else problem)
    versions = [f"version {visible(state.version)}" if state.version else "not reached" for state in states]
    if reason := _store_problem(settings):
        problems.append(f"PROXY_STORE: {reason}; until then each request sends its whole history to Flowise")
    file = store_file(settings.proxy_store)
    if file and (mode := open_to_others(file)):
        problems.append(
            f"PROXY_STORE: other users of this machine may read {file} (mode {mode}), which contains "
            f"conversations: chmod 600 {file}"
        )
    if settings.proxy_store.startswith("redis") and not settings.proxy_secret:
        problems.append("PROXY_SECRET is not set: set the same one on all machines that share the Redis")
    if reason := tracing_problem():
        problems.append(reason)
    if settings.proxy_log_prompts:
        problems.append("PROXY_LOG_PROMPTS is on: the log contains prompts and answers")
    short = [key for key in settings.proxy_api_keys if len(key) < MIN_KEY_CHARACTERS]
    if short:
        problems.append(
            f"PROXY_API_KEYS: {len(short)} of the keys are too short: "
            f"use at least {MIN_KEY_CHARACTERS} characters (flowise-gateway keys new generates one)"
        )
    if len(found) > 1:
        shown = ", ".join(f"{u.name} ({version})" for u, version in zip(found, versions, strict=True))
    else:
        address = "the embedded demo flows" if is_demo else found[0].settings.flowise_base_url
        shown = f"{address} ({versions[0]})"
    return Overview(
        flowise=shown,
        models=_models_found(config, {u.name: state for u, state in zip(found, states, strict=True)}),
        keys=_who_may_call(settings, len(settings.proxy_api_keys) + len(config.keys)),
        store=_store_shown(settings.proxy_store),
        problems=tuple(map(visible, problems)),
        advice="Set FLOWISE_BASE_URL in .env to serve your own flows." if is_demo else "",
    )


class _StateAtStart(NamedTuple):
    """The state of a Flowise at start-up; `is_partial`: its list was not read completely."""

    version: str
    rows: list[dict[str, Any]]
    failure: ProxyError | None
    is_partial: bool


def _state_at_start(upstream: Upstream) -> _StateAtStart:
    """Request version and flows within the time that the start may take."""
    seconds = START_SECONDS
    settings = replace(upstream.settings, flowise_request_timeout=seconds, flowise_connect_timeout=seconds)
    rows: list[dict[str, Any]] = []
    # Closed, since forked workers must not share a connection.
    with contextlib.closing(requests_transport(settings)) as transport:
        client = client_of(settings, transport=transport, name=upstream.name)
        try:
            version = client.version()
        except ProxyError as error:
            return _StateAtStart("", rows, error, is_partial=False)
        ends = time.monotonic() + seconds
        try:
            rows.extend(itertools.takewhile(lambda _: time.monotonic() < ends, client.flows()))
        except FlowiseUnavailable:  # it returned its version, and is only slow to list its flows
            return _StateAtStart(version, rows, None, is_partial=True)
        except ProxyError as error:
            return _StateAtStart(version, rows, error, is_partial=False)
        return _StateAtStart(version, rows, None, is_partial=time.monotonic() > ends)


def _models_found(config: ProxyConfig, states: Mapping[str, _StateAtStart]) -> str:
    """The number of models, as far as it is known without delaying the start."""
    listings = {name: _ListedFlows(state.rows) for name, state in states.items()}
    if not any(state.version and state.failure is None for state in states.values()):
        return "none yet"
    count = len(Models(config, listings, ANONYMOUS).listed())
    if any(state.is_partial for state in states.values()):
        return f"{count} or more: Flowise is slow to list its flows"
    return f"{count}: GET /v1/models lists them" if count else "none: create a flow in Flowise"


def _store_shown(address: str) -> str:
    """The store without user, password and options."""
    parts = urlsplit(address)
    if parts.scheme == "redis+sentinel":
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
    if parts.scheme not in ("redis", "rediss"):
        return address
    return f"{parts.scheme}://{parts.hostname}:{parts.port or 6379}{parts.path}"


def _who_may_call(settings: Settings, count: int) -> str:
    if settings.flowise_key_passthrough:
        return "each client's own Flowise key"
    if count:
        return f"required ({count})"
    whom = "this machine" if settings.is_loopback else "ANYBODY WHO REACHES THIS PORT"
    return f"none: {whom} may run every flow"


def _store_problem(settings: Settings) -> str:
    try:
        if file := store_file(settings.proxy_store):
            # Not opened here, since forked workers must not share a connection.
            folder = file.parent
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                return ""
        if settings.proxy_store != "memory:":
            open_store(settings.proxy_store).get("start")
    except OSError as error:
        return f"its folder cannot be written ({error.strerror})"
    except StoreError as error:
        return str(error)
    return ""
