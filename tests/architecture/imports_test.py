"""The rule of the house: which room may import which, and where foreign names live."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOP = {"openai_compatible_server", "openai_adapter", "flowise_client"}
BELOW = {"flow", "openai", "flowise", "config", "telemetry", "storage", "access", "conversation"}

MAY_IMPORT: dict[str, set[str]] = {
    "flow": set(),
    "storage": set(),
    "config": {"flow"},
    "telemetry": {"flow"},
    "openai": {"flow"},
    "flowise": {"flow"},
    "access": {"flow", "config", "flowise.profiles"},
    "conversation": {"flow", "openai", "flowise", "access.keys"},
    "web": BELOW,
    "responses": BELOW | {"web"},
    "page": {"web"},
    "serving": {"flow", "config", "telemetry", "storage", "flowise.transport"},
    # A process of its own beside the gateway; nothing but its command line is shared.
    "pipelines": {"flow", "config", "telemetry"},
    # A client of any server: it knows nothing of this one.
    "conformance": set(),
    "cli": {"flow", "config"},
    # Composition, as the server is: the two modules of the package that use the top folder.
    "commands": BELOW | {"check", "serving.banner", "serving.pid_file"} | TOP,
    "check": BELOW | {"serving.embedded_demo", "serving.embedded_pipelines"} | TOP,
    "__main__": {"cli"},
    # The last three for its `main` alone, which converts the samples both ways.
    "openai_adapter": {"flow", "openai", "flowise.answer", "flowise.prediction", "responses.request"},
    "flowise_client": {"flow", "flowise", "config"},
    "openai_compatible_server": BELOW | {"cli", "web", "responses", "page", "serving"} | TOP,
    "flowise_demo": set(),
}
"""What a room may import besides itself; a name with a dot is that one file or folder of a room."""

LIVES_IN: dict[str, set[str]] = {
    "sqlite3": {"storage"},
    "redis": {"storage"},
    "dotenv": {"config"},
    "yaml": {"config"},
    "prometheus_client": {"telemetry"},
    "opentelemetry": {"telemetry.otel", "telemetry.otlp_exporter"},
    "requests": {"flowise", "conformance"},
    "jsonschema": {"conformance"},
    "urllib3": {"flowise", "flowise_client"},
    "geventhttpclient": {"flowise"},
    "tenacity": {"flowise"},
    "limits": {"access"},
    "flask_swagger_ui": {"page"},
    "flask": {
        *("web", "responses.routes", "responses.websocket_session", "openai_compatible_server"),
        "pipelines.host",
    },
    "werkzeug": {"web", "openai_compatible_server"},
    "wsproto": {"responses", "conformance"},
    "gunicorn": {"serving"},
    "gevent": {"serving", "flowise.transport", "pipelines"},
    "haystack": {"pipelines"},
    "h11": {"flowise_demo"},
    "tiktoken": {"openai"},
}
"""Where a foreign name may be imported; everywhere else it may not."""


@cache
def modules() -> dict[str, Path]:
    """All modules of the product by a name without the package: `flow.turn`, `cli`, `openai_adapter`."""
    files = [*ROOT.glob("flowise_gateway/**/*.py"), *ROOT.glob("flowise_demo/**/*.py")]
    files += [ROOT / f"{name}.py" for name in TOP]
    return {name_of(file): file for file in files if file.name != "__init__.py"}


def name_of(file: Path) -> str:
    """A module's name without the package."""
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removeprefix("flowise_gateway.")


@cache
def imports(module: str) -> frozenset[str]:
    """What a module imports, also within functions: ours without the package, foreign names by their first word."""
    found = set()
    for node in ast.walk(ast.parse(modules()[module].read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: a relative import"
            names = [node.module or ""]
        found.update(names)
    return frozenset(name.removeprefix("flowise_gateway.") for name in found)


def is_within(name: str, place: str) -> bool:
    return name == place or name.startswith(f"{place}.")


def room_of(module: str) -> str:
    return module.partition(".")[0]


@pytest.mark.parametrize("module", sorted(modules()))
def test_a_module_imports_only_what_its_room_may(module: str) -> None:
    room = room_of(module)
    assert room in MAY_IMPORT, f"{module} stands in no room of the house"
    ours = {name for name in imports(module) if name in modules()}
    allowed = {room, *MAY_IMPORT[room]}
    wrong = {name for name in ours if not any(is_within(name, place) for place in allowed)}
    assert not wrong, f"{module} must not import {sorted(wrong)}"


@pytest.mark.parametrize("module", sorted(modules()))
def test_foreign_names_live_in_their_rooms(module: str) -> None:
    for name in imports(module):
        places = LIVES_IN.get(name.partition(".")[0])
        assert places is None or any(is_within(module, place) for place in places), f"{module} imports {name}"


def test_no_module_imports_itself_by_way_of_others() -> None:
    reach = dict.fromkeys(modules(), 0)  # 1: on the way, 2: done

    def visit(module: str, way: tuple[str, ...]) -> Iterator[str]:
        if reach[module] == 1:
            yield " -> ".join((*way[way.index(module) :], module))
        if reach[module] == 0:
            reach[module] = 1
            for name in sorted(imports(module) & modules().keys()):
                yield from visit(name, (*way, module))
            reach[module] = 2

    assert not [circle for module in sorted(modules()) for circle in visit(module, ())]


def test_a_folder_has_no_more_modules_than_a_person_overlooks() -> None:
    counts: dict[Path, int] = {}
    for file in modules().values():
        counts[file.parent] = counts.get(file.parent, 0) + 1
    assert not {str(folder): count for folder, count in counts.items() if count > 22}


def test_the_demo_shares_no_code_with_the_gateway() -> None:
    demo = {name for module in modules() if room_of(module) == "flowise_demo" for name in imports(module)}
    assert not {name for name in demo if name in modules() and room_of(name) != "flowise_demo"}
    assert not {room_of(module) for module in modules() if "flowise_demo" in imports(module)} - {
        "flowise_demo"
    }
