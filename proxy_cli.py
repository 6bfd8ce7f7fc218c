"""The command line: `python3 proxy_cli.py serve | check | models | keys new | ask`. Composition."""

from __future__ import annotations

import argparse
import hashlib
import secrets
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import orjson

from flow_turn import Turn
from flowise_client import FlowiseClient, Limits
from flowise_profiles import FlowProfile, profiled, with_abilities
from openai_wire import answer_text
from proxy_auth import ANONYMOUS
from proxy_config import ConfigError, ProxyConfig, config_file
from proxy_errors import ProxyError
from proxy_models import Models
from proxy_settings import Settings, SettingsError

KEY_PREFIX = "sk-flowise-"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; 0 when all is well, 1 when something is not, 2 for a wrong call or setting."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except (SettingsError, ConfigError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except ProxyError as error:
        print(f"error: {error.message}", file=sys.stderr)
        return 1
    except BrokenPipeError:
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="proxy_cli.py", description="OpenAI's API for Flowise flows.")
    commands = parser.add_subparsers(required=True, metavar="command")
    commands.add_parser("serve", help="serve until a signal ends it").set_defaults(run=_serve)
    check = commands.add_parser("check", help="tell whether Flowise can be reached, and what it offers")
    check.add_argument("--json", action="store_true", help="print JSON")
    check.set_defaults(run=_check)
    models = commands.add_parser("models", help="list the models that clients see")
    models.add_argument("--json", action="store_true", help="print JSON")
    models.set_defaults(run=_models)
    keys = commands.add_parser("keys", help="client keys").add_subparsers(required=True, metavar="command")
    new = keys.add_parser("new", help="make a key and its lines for proxy.yaml")
    new.add_argument("name", nargs="?", default="client")
    new.set_defaults(run=_new_key)
    ask = commands.add_parser("ask", help="ask a model and print its answer as it comes")
    ask.add_argument("model")
    ask.add_argument("question")
    ask.set_defaults(run=_ask)
    return parser


def _serve(_options: argparse.Namespace) -> int:
    from proxy_serving import main as serve  # noqa: PLC0415 - it patches the standard library

    return serve()


def _settings() -> Settings:
    settings = Settings.from_env()
    if not settings.flowise_base_url:
        raise SettingsError("FLOWISE_BASE_URL is not set: there is no Flowise to ask")
    return settings


def _client(settings: Settings, flow: str = "") -> FlowiseClient:
    limits = replace(Limits.from_settings(settings), max_attempts=1)
    return FlowiseClient(settings.flowise_base_url, flow, settings.flowise_api_key, limits=limits)


def _check(options: argparse.Namespace) -> int:
    settings = _settings()
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
        report["flows"] = [_flow_report(client, profile) for profile in profiled(client.flows())]
    except ProxyError as error:
        report["problems"].append(_cure(error))
    known = {flow["flow"] for flow in report["flows"]}
    report["problems"].extend(
        f"proxy.yaml: the flow of model {model.id} is not in Flowise's list"
        for model in config.models
        if known and model.flow.lower() not in known
    )
    if options.json:
        print(orjson.dumps(report, option=orjson.OPT_INDENT_2).decode())
    else:
        _print_report(report)
    return 1 if report["problems"] else 0


def _cure(error: ProxyError) -> str:
    cures = {
        "flowise_unavailable": "Is Flowise running, and does FLOWISE_BASE_URL name its host and port?",
        "flowise_misconfigured": "FLOWISE_BASE_URL must end with /api/v1, and the key may view flows.",
        "flowise_auth": "Copy a key from Flowise (Settings, API Keys) into FLOWISE_API_KEY.",
    }
    return f"{error.message} {cures.get(error.code or '', '')}".strip()


def _flow_report(client: FlowiseClient, profile: FlowProfile) -> dict[str, Any]:
    try:
        streams, uploads = client.abilities(profile.flow)
        return asdict(with_abilities(profile, streams, uploads))
    except ProxyError:
        return asdict(profile)


def _print_report(report: dict[str, Any]) -> None:
    print(f"Flowise {report['version'] or '(version unknown)'} at {report['flowise']}")
    if report["flows"]:
        columns = ("slug", "type", "streams", "takes_images", "takes_files", "has_memory", "flow")
        rows = [columns, *([_shown(flow[c]) for c in columns] for flow in report["flows"])]
        _print_table(rows)
    for problem in report["problems"]:
        print(f"PROBLEM: {problem}")
    if not report["problems"]:
        print(f"All well: {len(report['flows'])} flow(s).")


def _shown(value: Any) -> str:
    return {True: "yes", False: "no", None: "?"}.get(value, value) if not isinstance(value, str) else value


def _print_table(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[n]) for row in rows) for n in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


class _Listed:
    """A catalog's source that was asked once."""

    def __init__(self, profiles: Sequence[FlowProfile]) -> None:
        self._profiles = {profile.flow: profile for profile in profiles}
        self._slugs = {profile.slug: profile for profile in profiles}

    def profiles(self) -> list[FlowProfile]:
        return list(self._profiles.values())

    def by_slug(self, slug: str) -> FlowProfile | None:
        return self._slugs.get(slug)

    def by_flow(self, flow: str) -> FlowProfile | None:
        return self._profiles.get(flow)

    def failure(self) -> ProxyError | None:
        return None


def _all_models(settings: Settings, config: ProxyConfig) -> Models:
    return Models(config, _Listed(profiled(_client(settings).flows())), ANONYMOUS)


def _models(options: argparse.Namespace) -> int:
    settings = _settings()
    models = _all_models(settings, config_file(settings).current).listed()
    if options.json:
        print(orjson.dumps([{"id": m.id, "flow": m.flow, "name": m.name} for m in models]).decode())
    elif models:
        _print_table([("id", "flow", "name"), *((m.id, m.flow, m.name) for m in models)])
    return 0


def _new_key(options: argparse.Namespace) -> int:
    key = KEY_PREFIX + secrets.token_urlsafe(24)
    digest = hashlib.sha256(key.encode()).hexdigest()
    print(f"The key, shown this once:\n\n  {key}\n\nIts lines for proxy.yaml, under keys:\n")
    print(f"  - name: {options.name}\n    sha256: {digest}\n    models: ['*']")
    return 0


def _ask(options: argparse.Namespace) -> int:
    settings = _settings()
    model = _all_models(settings, config_file(settings).current).resolve(options.model)
    for event in _client(settings, model.flow).stream(Turn(model.flow, options.question, stream=True)):
        if text := answer_text(event):
            print(text, end="", flush=True)
    print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
