"""The commands that ask Flowise, make client keys and copy the store. Each returns its exit status."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import itertools
import json
import re
import secrets
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any
from urllib.parse import urlsplit

from flowise_client import ABORT_SECONDS, FlowiseClient, limits_of
from flowise_gateway.access.keys import ANONYMOUS
from flowise_gateway.access.models import Models
from flowise_gateway.config.config_file import config_file
from flowise_gateway.config.schema import KEY_NAME, KEY_NAME_TEXT, ProxyConfig
from flowise_gateway.config.settings import MIN_KEY_CHARACTERS, Settings, misspelt_settings
from flowise_gateway.config.yaml_document import ConfigError
from flowise_gateway.flow.errors import FlowiseUnavailable, ProxyError, SettingsError
from flowise_gateway.flow.model import FLOW_ID, Model
from flowise_gateway.flow.turn import Turn
from flowise_gateway.flowise.profiles import FlowProfile, flow_profiles, with_capabilities
from flowise_gateway.flowise.transport.requests_transport import RequestsTransport
from flowise_gateway.openai.answer_text import answer_text
from flowise_gateway.serving.banner import Overview
from flowise_gateway.serving.embedded_demo import embedded_demo
from flowise_gateway.storage.counts import open_counts
from flowise_gateway.storage.protocol import StoreError
from flowise_gateway.storage.store import open_store
from flowise_gateway.storage.store_file import back_up, open_to_others, store_file
from flowise_gateway.telemetry.usage_report import UsageReport

KEY_PREFIX = "sk-flowise-"


def _with_flowise(
    command: Callable[[argparse.Namespace, Settings], int],
) -> Callable[[argparse.Namespace], int]:
    """A command that asks Flowise: the demo flows where none is named, as in serving."""

    def run(options: argparse.Namespace) -> int:
        settings = Settings.from_env()
        if not settings.flowise_base_url:
            print("No FLOWISE_BASE_URL is set: asking the embedded demo flows.", file=sys.stderr)
        with embedded_demo(settings) as served:
            return command(options, served)

    return run


def _transport(settings: Settings) -> RequestsTransport:
    return RequestsTransport(
        settings.flowise_base_url,
        connect_timeout_seconds=settings.flowise_connect_timeout,
        ca_file=settings.flowise_ca_file,
    )


def _client(
    settings: Settings, model: Model | None = None, transport: RequestsTransport | None = None
) -> FlowiseClient:
    limits = replace(limits_of(settings), max_attempts=1)
    if model and model.request_timeout:
        limits = replace(limits, request_timeout=model.request_timeout)
    return FlowiseClient(
        settings.flowise_base_url,
        model.flow if model else "",
        settings.flowise_api_key,
        transport=transport or _transport(settings),
        limits=limits,
    )


@_with_flowise
def check(options: argparse.Namespace, settings: Settings) -> int:
    """Tell whether Flowise can be reached, which flows there are, and what to do about each problem."""
    config = config_file(settings).current
    report: dict[str, Any] = {
        "flowise": settings.flowise_base_url,
        "version": "",
        "flows": [],
        "problems": [],
    }
    client = _client(settings)
    try:
        report["version"] = client.version()
        report["flows"] = [_flow_report(client, profile) for profile in flow_profiles(client.flows())]
    except ProxyError as error:
        report["problems"].append(_with_advice(error))
    known = {flow["flow"] for flow in report["flows"]}
    report["problems"].extend(
        f"proxy.yaml: the flow of model {model.id} is not in Flowise's list"
        for model in config.models
        if known and model.flow.lower() not in known
    )
    report["problems"].extend(_unknown_names(config, report["flows"]))
    if options.json:
        print(json.dumps(report, indent=2))
    else:
        _print_report(report)
    return 1 if report["problems"] else 0


def _unknown_names(config: ProxyConfig, flows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """A line for each name in `proxy.yaml` that is no model's, as far as Flowise has listed its flows."""
    known = {name for model in config.models for name in (model.id, *model.aliases)}
    known |= {flow["slug"] for flow in flows}
    named = [(f"fallback of model {model.id}", model.fallback) for model in config.models if model.fallback]
    named += [(f"models of key {key.name}", name) for key in config.keys for name in key.models]
    for place, name in named:
        if flows and not (name in known or set(name) & set("*?[") or FLOW_ID.fullmatch(name)):
            yield f"proxy.yaml: {place}: there is no model {name}"


def _with_advice(error: ProxyError) -> str:
    cures = {
        "flowise_unavailable": "Is Flowise running, and does FLOWISE_BASE_URL name its host and port?",
        "flowise_auth": "Copy a key from Flowise (Settings, API Keys) into FLOWISE_API_KEY.",
    }
    return f"{error.message} {cures.get(error.code or '', '')}".strip()


def _flow_report(client: FlowiseClient, profile: FlowProfile) -> dict[str, Any]:
    try:
        streams, uploads = client.capabilities(profile.flow)
        return asdict(with_capabilities(profile, streams, uploads))
    except ProxyError:
        return asdict(profile)


def _print_report(report: dict[str, Any]) -> None:
    print(f"Flowise {report['version'] or '(version unknown)'} at {report['flowise']}")
    if report["flows"]:
        columns = ("slug", "type", "streams", "takes_images", "takes_files", "has_memory", "flow")
        rows = [columns, *([_shown(flow[c]) for c in columns] for flow in report["flows"])]
        _print_table(rows)
    for problem in report["problems"]:
        print(f"PROBLEM: {_visible(problem)}")
    if not report["problems"]:
        print(f"All well: {len(report['flows'])} flow(s).")


def _shown(value: Any) -> str:
    return {True: "yes", False: "no", None: "?"}.get(value, value) if not isinstance(value, str) else value


def _visible(text: str) -> str:
    """The text without what a terminal obeys: names are whatever somebody typed into Flowise."""
    return _TERMINAL_CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


_TERMINAL_CONTROLS = re.compile(
    "[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


def _print_table(cells: Sequence[Sequence[str]]) -> None:
    rows = [[_visible(cell) for cell in row] for row in cells]
    widths = [max(len(row[n]) for row in rows) for n in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


class _ListedFlows:
    """A catalog of one listing; why there is none is raised where more than a flow's id is needed."""

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
        self._check()
        return list(self._profiles.values())

    def by_slug(self, slug: str) -> FlowProfile | None:
        self._check()
        return self._slugs.get(slug)

    def _check(self) -> None:
        if self._error:
            raise self._error

    def by_flow(self, flow: str) -> FlowProfile | None:
        return self._profiles.get(flow)

    def failure(self) -> ProxyError | None:
        return self._error


def _all_models(settings: Settings, config: ProxyConfig) -> Models:
    return Models(config, _ListedFlows(_client(settings).flows()), ANONYMOUS)


@_with_flowise
def models(options: argparse.Namespace, settings: Settings) -> int:
    """List the models that clients see."""
    listed = _all_models(settings, config_file(settings).current).listed()
    if options.json:
        print(json.dumps([{"id": m.id, "flow": m.flow, "name": m.name} for m in listed]))
    elif listed:
        _print_table([("id", "flow", "name"), *((m.id, m.flow, m.name) for m in listed)])
    return 0


def new_key(options: argparse.Namespace) -> int:
    """Make a client key and its lines for `proxy.yaml`."""
    if not re.fullmatch(KEY_NAME, options.name):
        raise ConfigError(f"a key's name must be {KEY_NAME_TEXT}")
    key = KEY_PREFIX + secrets.token_urlsafe(24)
    digest = hashlib.sha256(key.encode()).hexdigest()
    print(f"The key, shown this once:\n\n  {key}\n\nIts lines for proxy.yaml, under keys:\n")
    # In quotes: to YAML a bare yes or 1 is no text, and a digest of digits is a number.
    print(f"  - name: '{options.name}'\n    sha256: '{digest}'\n    models: ['*']")
    return 0


@_with_flowise
def ask(options: argparse.Namespace, settings: Settings) -> int:
    """Ask a model and print its answer as it comes."""
    config = config_file(settings).current
    model = _all_models(settings, config).resolve(options.model)
    client, turn = _client(settings, model), Turn(model.flow, options.question, stream=True)
    client.mode.is_set = config.flowise_mode == "queue"
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
        cure = "it lives with its one process"
        if store != "memory:":
            cure = "copy it with Redis's own means, such as redis-cli --rdb PATH"
        raise SettingsError(f"PROXY_STORE is no file that could be copied: {cure}")
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
    if settings.proxy_store == "memory:" or (file is not None and not file.is_file()):
        raise SettingsError("PROXY_STORE holds no usage that could be read: is it the server's own?")
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
        _print_table([report.columns, *([str(row[name]) for name in report.columns] for row in rows)])
    return 0


START_SECONDS = 2.0
"""What the start waits for Flowise and the store, which may come later, before it says that they are away."""


def overview(settings: Settings, *, is_demo: bool) -> Overview:
    """What a start has to tell: whether Flowise and the store are there, who may call, what is amiss."""
    config = config_file(settings).current
    problems = [*misspelt_settings()]
    limited = replace(settings, flowise_request_timeout=START_SECONDS, flowise_connect_timeout=START_SECONDS)
    version, models = "", "none yet"
    # Closed, since the workers that are forked from this process must not share a connection.
    with contextlib.closing(_transport(limited)) as transport:
        client = _client(limited, transport=transport)
        try:
            version = client.version()
            models = _models_found(client, config)
        except ProxyError as error:
            problems.append(_with_advice(error))
    if reason := _store_problem(settings):
        problems.append(f"PROXY_STORE: {reason}; until then conversations go on by their whole history")
    file = store_file(settings.proxy_store)
    if file and (mode := open_to_others(file)):
        problems.append(
            f"PROXY_STORE: other users of this machine may read {file} (mode {mode}), which holds "
            f"conversations: chmod 600 {file}"
        )
    if settings.proxy_store.startswith("redis") and not settings.proxy_secret:
        problems.append("PROXY_SECRET is not set: set the same one on all machines that share the Redis")
    if settings.proxy_log_prompts:
        problems.append("PROXY_LOG_PROMPTS is on: the log holds what users ask and flows answer")
    short = [key for key in settings.proxy_api_keys if len(key) < MIN_KEY_CHARACTERS]
    if short:
        problems.append(
            f"PROXY_API_KEYS: {len(short)} of the keys can be guessed: "
            f"give each at least {MIN_KEY_CHARACTERS} characters (flowise-gateway keys new makes one)"
        )
    flowise = "the embedded demo flows" if is_demo else settings.flowise_base_url
    state = f"version {_visible(version)}" if version else "not reached"
    return Overview(
        flowise=f"{flowise} ({state})",
        models=models,
        keys=_who_may_call(settings, len(settings.proxy_api_keys) + len(config.keys)),
        store=_store_shown(settings.proxy_store),
        problems=tuple(map(_visible, problems)),
        advice="Set FLOWISE_BASE_URL in .env to serve your own flows." if is_demo else "",
    )


def _models_found(client: FlowiseClient, config: ProxyConfig) -> str:
    """How many models there are, as far as they can be counted without delaying the start."""
    ends = time.monotonic() + START_SECONDS
    rows: list[dict[str, Any]] = []
    with contextlib.suppress(
        FlowiseUnavailable
    ):  # it has told its version, and is only slow to list its flows
        rows.extend(itertools.takewhile(lambda _: time.monotonic() < ends, client.flows()))
    count = len(Models(config, _ListedFlows(rows), ANONYMOUS).listed())
    if time.monotonic() > ends:
        return f"{count} or more: Flowise takes long to list its flows"
    return f"{count}: GET /v1/models lists them" if count else "none: make a flow in Flowise"


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
            # Not opened here: the workers are forked from this process, and must not share a connection.
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
