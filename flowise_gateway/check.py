"""The command `check`, and helpers of all commands that call Flowise."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from flowise_client import FlowiseClient, limits_of, requests_transport
from flowise_gateway.config.config_file import config_file
from flowise_gateway.config.flowises import Upstream, upstreams
from flowise_gateway.config.schema import ProxyConfig
from flowise_gateway.config.settings import Settings
from flowise_gateway.flow.errors import ProxyError
from flowise_gateway.flow.model import DEFAULT_FLOWISE, FLOW_ID, Model
from flowise_gateway.flowise.failures import naming_settings_of
from flowise_gateway.flowise.profiles import FlowProfile, flow_profiles, with_capabilities
from flowise_gateway.flowise.transport.requests_transport import RequestsTransport
from flowise_gateway.serving.embedded_demo import embedded_demo
from flowise_gateway.serving.embedded_pipelines import embedded_pipelines


def with_flowise(
    command: Callable[[argparse.Namespace, Settings], int],
) -> Callable[[argparse.Namespace], int]:
    """Decorate a command that calls Flowise, with the demo flows if no Flowise is configured."""

    def run(options: argparse.Namespace) -> int:
        settings = Settings.from_env()
        with embedded_demo(settings) as beside_demo:
            is_demo = beside_demo is not settings
            if is_demo:
                print("No FLOWISE_BASE_URL is set: using the embedded demo flows.", file=sys.stderr)
            with embedded_pipelines(beside_demo, is_demo=is_demo) as served:
                return command(options, served)

    return run


def client_of(
    settings: Settings,
    model: Model | None = None,
    transport: RequestsTransport | None = None,
    name: str = DEFAULT_FLOWISE,
) -> FlowiseClient:
    """A client without retries, since a person waits."""
    limits = replace(limits_of(settings), max_attempts=1)
    if model and model.request_timeout:
        limits = replace(limits, request_timeout=model.request_timeout)
    client = FlowiseClient(
        settings.flowise_base_url,
        model.flow if model else "",
        settings.flowise_api_key,
        transport=transport or requests_transport(settings),
        limits=limits,
    )
    client.name = name
    return client


@with_flowise
def check(options: argparse.Namespace, settings: Settings) -> int:
    """Print whether Flowise can be reached, its flows, and how to fix problems."""
    config = config_file(settings).current
    found = [_upstream_report(upstream) for upstream in upstreams(settings, config.flowises)]
    problems = [_named(report, problem, found) for report in found for problem in report.pop("problems")]
    flows = [flow for report in found for flow in report.pop("flows")]
    report = {**found[0], "flows": flows, "problems": problems, "flowises": found}
    for model in config.models:
        theirs = [flow for flow in flows if not model.flowise or flow["server"] == model.flowise]
        if theirs and model.flow.lower() not in {flow["flow"] for flow in theirs}:
            problems.append(f"proxy.yaml: the flow of model {model.id} is not in Flowise's list")
    problems.extend(_unknown_names(config, flows))
    if options.json:
        print(json.dumps(report, indent=2))
    else:
        _print_report(report)
    return 1 if problems else 0


def _upstream_report(upstream: Upstream) -> dict[str, Any]:
    """Version, flows and problems of one Flowise."""
    report: dict[str, Any] = {
        "name": upstream.name,
        "flowise": upstream.settings.flowise_base_url,
        "version": "",
        "flows": [],
        "problems": [],
    }
    client = client_of(upstream.settings, name=upstream.name)
    try:
        report["version"] = client.version()
        flows = [_flow_report(client, profile) for profile in flow_profiles(client.flows())]
        report["flows"] = [{**flow, "server": upstream.name} for flow in flows]
    except ProxyError as error:
        report["problems"].append(with_advice(error, upstream.name))
    for number, settings in enumerate(upstream.server_settings[1:], 2):
        try:
            client_of(settings, name=upstream.name).version()
        except ProxyError as error:
            report["problems"].append(f"server {number}: {with_advice(error, upstream.name)}")
    return report


def _named(report: Mapping[str, Any], problem: str, among: Sequence[Any]) -> str:
    """A problem, prefixed with the Flowise's name if there are several."""
    return f"{report['name']}: {problem}" if len(among) > 1 else problem


def _unknown_names(config: ProxyConfig, flows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """A line for each name in `proxy.yaml` that is not a model, if Flowise listed its flows."""
    known = {name for model in config.models for name in (model.id, *model.aliases)}
    known |= {name for flow in flows for name in (flow["slug"], f"{flow['server']}/{flow['slug']}")}
    named = [(f"fallback of model {model.id}", model.fallback) for model in config.models if model.fallback]
    named += [(f"models of key {key.name}", name) for key in config.keys for name in key.models]
    for place, name in named:
        is_pattern, flow = set(name) & set("*?["), name.rpartition("/")[2]
        if flows and not (name in known or is_pattern or FLOW_ID.fullmatch(flow)):
            yield f"proxy.yaml: {place}: there is no model {name}"


def with_advice(error: ProxyError, flowise: str) -> str:
    """The message of a failure, with advice."""
    cures = {
        "flowise_unavailable": "Is Flowise running, and does FLOWISE_BASE_URL name its host and port?",
        "flowise_auth": "Copy a key from Flowise (Settings, API Keys) into FLOWISE_API_KEY.",
    }
    cure = naming_settings_of(flowise, cures.get(error.code or "", ""))
    return f"{error.message} {cure}".strip()


def _flow_report(client: FlowiseClient, profile: FlowProfile) -> dict[str, Any]:
    try:
        streams, uploads = client.capabilities(profile.flow)
        return asdict(with_capabilities(profile, streams, uploads))
    except ProxyError:
        return asdict(profile)


def _print_report(report: dict[str, Any]) -> None:
    several = len(report["flowises"]) > 1
    for each in report["flowises"]:
        name = f"{each['name']}: " if several else ""
        print(f"{name}Flowise {each['version'] or '(version unknown)'} at {each['flowise']}")
    if report["flows"]:
        columns: tuple[str, ...] = (
            "slug",
            "type",
            "streams",
            "takes_images",
            "takes_files",
            "has_memory",
            "flow",
        )
        columns = ("server", *columns) if several else columns
        rows = [columns, *([_shown(flow[c]) for c in columns] for flow in report["flows"])]
        print_table(rows)
    for problem in report["problems"]:
        print(f"PROBLEM: {visible(problem)}")
    if not report["problems"]:
        print(f"OK: {len(report['flows'])} flow(s).")


def _shown(value: Any) -> str:
    return {True: "yes", False: "no", None: "?"}.get(value, value) if not isinstance(value, str) else value


def visible(text: str) -> str:
    """The text with control characters escaped, since names in Flowise may contain any."""
    return _TERMINAL_CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


_TERMINAL_CONTROLS = re.compile(
    "[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)


def print_table(cells: Sequence[Sequence[str]]) -> None:
    """Print rows in columns."""
    rows = [[visible(cell) for cell in row] for row in cells]
    widths = [max(len(row[n]) for row in rows) for n in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
