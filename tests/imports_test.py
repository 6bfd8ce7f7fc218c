"""The import rule of the project: who may import whom, as a table that every module must be in."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent


class Rule(NamedTuple):
    """What a module may import of ours, and which foreign names it must not."""

    ours: frozenset[str]
    banned: frozenset[str] = frozenset()


WEB = frozenset({"flask", "werkzeug"})
IO = frozenset({"os", "socket", "select", "subprocess", "requests", "urllib3", "http", "asyncio"})
LEAVES = frozenset(
    {
        *("flow_turn", "flow_guards", "proxy_errors", "proxy_settings", "openai_wire", "openai_fields"),
        *("openai_files", "openai_sources", "openai_style", "openai_vendor"),
        *("openai_formats", "openai_tools", "proxy_counts", "proxy_yaml"),
        "proxy_turns",
    }
)
UPSTREAM = frozenset(
    {
        *("flowise_transport", "flowise_transport_gevent", "flowise_connection", "flowise_health"),
        *("flowise_failures", "flowise_events", "flowise_client", "flowise_catalog", "flowise_profiles"),
        *("flowise_run", "flowise_attempts", "flowise_prediction", "flowise_queue"),
        *("flowise_actions", "flowise_overrides"),
    }
)
POLICY = frozenset(
    {
        *("proxy_auth", "proxy_config", "proxy_limits", "proxy_models"),
        *("proxy_telemetry", "proxy_streaming", "proxy_tokens", "proxy_identity", "proxy_store"),
        *("proxy_files", "proxy_responses", "proxy_background", "proxy_websocket", "proxy_metrics"),
        *("proxy_pump", "proxy_attachments"),
    }
)
RESPONSES = frozenset({"openai_responses_fields", "openai_responses_input", "openai_responses_output"})
WIRE = frozenset(
    {
        *("openai_messages", "openai_uploads", "openai_adapter", "openai_tasks", "openai_tool_calls"),
        *("openai_rules", "openai_responses", "openai_responses_compact", *RESPONSES),
    }
)
ROUTES = frozenset({"openai_responses_routes", "openai_responses_socket"})
COMPOSITION = frozenset(
    {
        *("openai_compatible_server", "proxy_serving", "proxy_edge", "proxy_worker"),
        *("proxy_cli", "sample_conversion", "proxy_requests", *ROUTES),
    }
)
DEMO = frozenset(
    {
        *("flowise_demo", "flowise_demo_http", "flowise_demo_predictions", "flowise_demo_runs"),
        *("flowise_demo_scripts", "flowise_demo_keeper"),
        "flowise_demo_json",
    }
)
CORE_LEAVES = frozenset({"flow_turn", "flow_guards", "proxy_errors", "proxy_settings", "proxy_turns"})
NOTHING: frozenset[str] = frozenset()

TABLE: dict[str, Rule] = {
    "flow_turn": Rule(NOTHING, WEB | IO),
    "flow_guards": Rule(frozenset({"flow_turn", "proxy_errors"}), WEB | IO),
    "proxy_errors": Rule(NOTHING, WEB | IO),
    "proxy_settings": Rule(NOTHING, WEB | (IO - {"os"})),
    "proxy_counts": Rule(NOTHING, WEB | IO),
    "proxy_turns": Rule(NOTHING, WEB | IO),
    "proxy_yaml": Rule(NOTHING, WEB | IO),
    "openai_files": Rule(frozenset({"flow_turn"}), WEB | IO),
    "openai_sources": Rule(frozenset({"flow_turn", "openai_files"}), WEB | IO),
    "openai_style": Rule(frozenset({"flow_turn"}), WEB | IO),
    "openai_vendor": Rule(frozenset({"flow_turn"}), WEB | IO),
    "openai_wire": Rule(
        frozenset(
            {
                *("flow_turn", "proxy_errors", "openai_files", "openai_sources", "openai_vendor"),
                "proxy_turns",
                *("openai_formats", "openai_tools"),
            }
        ),
        WEB | (IO - {"os"}),
    ),
    "openai_fields": Rule(frozenset({"proxy_errors", "proxy_turns"}), WEB | IO),
    "openai_tools": Rule(frozenset({"flow_turn", "openai_fields", "proxy_errors"}), WEB | IO),
    "openai_formats": Rule(frozenset({"flow_turn", "flow_guards", "openai_fields"}), WEB | IO),
    **{name: Rule(LEAVES | {"openai_messages", "openai_uploads"}, WEB | IO) for name in WIRE},
    "openai_rules": Rule(LEAVES | {"openai_tool_calls"}, WEB | IO),
    # One surface in four files: the parser and renderer over fields, input and output.
    **{
        name: Rule(LEAVES | RESPONSES | {"openai_messages", "openai_uploads"}, WEB | IO)
        for name in WIRE
        if "responses" in name
    },
    "openai_responses_compact": Rule(LEAVES | RESPONSES | {"openai_responses"}, WEB | IO),
    **{name: Rule(CORE_LEAVES | UPSTREAM, WEB) for name in UPSTREAM},
    **{name: Rule(CORE_LEAVES | {"openai_wire"}, WEB) for name in POLICY},
    "proxy_auth": Rule(CORE_LEAVES | {"proxy_config"}, WEB),
    "proxy_config": Rule(CORE_LEAVES | {"proxy_yaml"}, WEB),
    "proxy_metrics": Rule(CORE_LEAVES | {"proxy_counts"}, WEB | IO),
    "proxy_responses": Rule(CORE_LEAVES | {"openai_wire", "proxy_store"}, WEB),
    "proxy_streaming": Rule(CORE_LEAVES | {"openai_wire", "proxy_pump"}, WEB),
    "proxy_background": Rule(CORE_LEAVES | {"openai_wire", "proxy_responses", "proxy_streaming"}, WEB),
    # A file is passed on as Flowise's reply comes.
    "proxy_files": Rule(CORE_LEAVES | {"flowise_transport"}, WEB),
    # Names are made of the file's models and the catalog's flows.
    "proxy_models": Rule(CORE_LEAVES | {"flowise_profiles", "proxy_auth", "proxy_config"}, WEB),
    # Fits a request to its flow and its conversation: needs both sides, but neither the web nor a renderer.
    "proxy_exchange": Rule(LEAVES | UPSTREAM | POLICY | {"openai_messages"}, WEB | IO),
    "proxy_attachments": Rule(CORE_LEAVES | {"flowise_client", "openai_messages"}, WEB | IO),
    "proxy_runs": Rule(LEAVES | UPSTREAM | POLICY | {"openai_rules", "proxy_exchange"}, WEB | IO),
    **{
        name: Rule(LEAVES | UPSTREAM | POLICY | WIRE | {"proxy_exchange", "proxy_runs"})
        for name in COMPOSITION
    },
    **{name: Rule(DEMO, WEB) for name in DEMO},
}

LATE = {
    ("openai_compatible_server", "openai_responses_routes"): "top",
    ("openai_responses_routes", "openai_responses_socket"): "top",
    ("openai_compatible_server", "proxy_requests"): "top",
    ("proxy_cli", "proxy_serving"): "function",
    ("openai_compatible_server", "proxy_serving"): "__main__",
    ("openai_adapter", "sample_conversion"): "__main__",
    ("proxy_serving", "openai_compatible_server"): "function",
    ("proxy_serving", "proxy_edge"): "function",
    ("proxy_worker", "proxy_edge"): "top",
}
"""The imports against the rule, and of one composition by another, and where alone they may stand."""

SERVING = {"proxy_serving", "proxy_edge", "proxy_worker"}
ONLY_IN = {
    "gevent": {"flowise_connection", "flowise_transport_gevent", *SERVING},
    "geventhttpclient": {"flowise_connection", "flowise_transport_gevent"},
    "gunicorn": SERVING,
    "dotenv": {"proxy_settings"},
    "flask": {"proxy_requests", "openai_compatible_server", *ROUTES},
    "prometheus_client": {"proxy_metrics"},
    "wsproto": {"proxy_websocket", "openai_responses_socket"},
}


class Import(NamedTuple):
    """An import statement: the module named, and where it stands."""

    name: str
    place: str


def modules() -> list[str]:
    """All modules of the project's folder but the tests."""
    names = (path.stem for path in ROOT.glob("*.py"))
    return sorted(name for name in names if not name.endswith("_test") and name != "conftest")


def tree(module: str) -> ast.Module:
    """A module of the project, parsed."""
    return ast.parse((ROOT / f"{module}.py").read_text("utf-8"))


def imports(node: ast.AST, place: str = "top") -> Iterator[Import]:
    """All imports below a node, with the place they stand in: top, function, __main__ or typing."""
    for child in ast.iter_child_nodes(node):
        match child:
            case ast.Import(names=names):
                yield from (Import(alias.name.split(".")[0], place) for alias in names)
            case ast.ImportFrom(module=str(name), level=0):
                yield Import(name.split(".")[0], place)
            case ast.ImportFrom():
                yield Import("(relative)", place)
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                yield from imports(child, "function")
            case ast.If(test=test) if "__main__" in ast.dump(test):
                yield from imports(child, "__main__")
            case ast.If(test=ast.Name(id="TYPE_CHECKING")):
                yield from imports(child, "typing")
            case _:
                yield from imports(child, place)


def names_used(module: str) -> set[str]:
    """All attributes and names in a module, as `os.environ` and `getenv`."""
    found = set()
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            found.add(f"{node.value.id}.{node.attr}")
        elif isinstance(node, ast.alias):
            found.add(node.name)
    return found


def test_every_module_has_a_place_in_the_table() -> None:
    assert set(modules()) == set(TABLE)


@pytest.mark.parametrize("module", modules())
def test_a_module_imports_only_what_its_layer_may(module: str) -> None:
    ours = set(modules())
    for name, place in imports(tree(module)):
        assert name != "(relative)"
        if name in ours and name not in TABLE[module].ours:
            assert LATE.get((module, name)) == place, f"{module} must not import {name} at {place}"
        assert name not in TABLE[module].banned, f"{module} must not import {name}"


@pytest.mark.parametrize("module", sorted(WIRE | LEAVES | UPSTREAM | POLICY))
def test_a_module_does_not_import_itself_in_a_circle(module: str) -> None:
    seen: set[str] = set()
    waiting = {found.name for found in imports(tree(module)) if found.place == "top"}
    while waiting:
        name = waiting.pop()
        if name in TABLE and name not in seen:
            seen.add(name)
            waiting |= {found.name for found in imports(tree(name)) if found.place == "top"}
    assert module not in seen


@pytest.mark.parametrize("name", sorted(COMPOSITION))
def test_composition_is_imported_only_late_and_only_where_said(name: str) -> None:
    importers = {
        (module, found.place) for module in modules() for found in imports(tree(module)) if found.name == name
    }
    assert importers == {(module, place) for (module, of), place in LATE.items() if of == name}


@pytest.mark.parametrize("module", sorted(DEMO))
def test_the_demo_flowise_shares_no_code_with_what_it_tests(module: str) -> None:
    for name, _ in imports(tree(module)):
        assert name in sys.stdlib_module_names | DEMO | {"h11"}


@pytest.mark.parametrize(("foreign", "owners"), ONLY_IN.items())
def test_these_modules_alone_import(foreign: str, owners: set[str]) -> None:
    importers = {module for module in modules() for found in imports(tree(module)) if found.name == foreign}
    assert importers == owners


@pytest.mark.parametrize("module", sorted(UPSTREAM | DEMO))
def test_what_faces_flowise_knows_nothing_of_openai(module: str) -> None:
    assert not [found.name for found in imports(tree(module)) if found.name.startswith("openai")]


def test_only_the_settings_read_the_environment() -> None:
    readers = {
        module
        for module in modules()
        if names_used(module) & {"os.environ", "os.environb", "os.getenv", "environ", "getenv"}
    }
    assert readers == {"proxy_settings"}


def test_the_server_imports_serving_before_anything_that_must_be_patched() -> None:
    found = [found for found in imports(tree("openai_compatible_server")) if found.name != "__future__"]
    late = found.index(Import("proxy_serving", "__main__"))
    assert {name for name, _ in found[:late]} <= {"sys"}
