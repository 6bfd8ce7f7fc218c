"""How an answer is told: the model's choices and the client's traits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from flowise_gateway.flow.model import Model
from flowise_gateway.openai.client_quirks import Style, Traits, style_of, traits_of

LIBRECHAT = Path(__file__).resolve().parents[2] / "wire/librechat"
AGENT, USER = "langchainjs-openai/1.0.0 ((node/v24.21.0; linux; x64))", "6b010cafa0a485bc603a2231"
MODEL = Model("m", "f", "M")


# Its administrator can have the user's id dropped; nothing else tells LibreChat from n8n then.
KNOWN = [path for path in sorted(LIBRECHAT.glob("*.json")) if f'"user": "{USER}"' in path.read_text()]


@pytest.mark.parametrize("path", KNOWN, ids=lambda path: path.stem)
def test_librechat_is_known_by_every_recorded_request_with_its_user(path: Path) -> None:
    request = json.loads(path.read_text())["request"]
    traits = traits_of(request["headers"]["user-agent"], request["body"].get("user"))
    assert traits == Traits(shows_annotations=False, asks_for_usage="azure" in path.stem)


@pytest.mark.parametrize(
    ("agent", "user"),
    [
        ("", None),
        (AGENT, None),
        (AGENT, "n8n"),
        (AGENT, USER.upper()),
        (AGENT, USER + "0"),
        (AGENT, 5),
        ("OpenAI/Python 1.0", USER),
    ],
)
def test_other_clients_are_treated_as_openais_own(agent: str, user: Any) -> None:
    assert traits_of(agent, user) == Traits()
    assert style_of(MODEL, {"user": user}, agent) == Style()


@pytest.mark.parametrize(
    ("choices", "expected"),
    [
        ({}, Style()),
        ({"steps": "off"}, Style(steps=False)),
        ({"sources": "annotations"}, Style()),
        ({"sources": "footer"}, Style(annotations=False, footer=True)),
        ({"sources": "off"}, Style(annotations=False)),
        ({"usage": "always"}, Style(usage=True)),
        ({"usage": "asked"}, Style()),
    ],
)
def test_a_model_chooses(choices: dict[str, Any], expected: Style) -> None:
    assert style_of(Model("m", "f", "M", **choices), {}, "curl/8") == expected


@pytest.mark.parametrize(
    ("choices", "expected"),
    [
        ({}, Style(footer=True, usage=True)),
        ({"sources": "annotations", "usage": "asked"}, Style()),
        ({"sources": "off"}, Style(annotations=False, usage=True)),
    ],
)
def test_librechat_gets_what_it_can_show(choices: dict[str, Any], expected: Style) -> None:
    assert style_of(Model("m", "f", "M", **choices), {"user": USER}, AGENT) == expected


@pytest.mark.parametrize(
    ("agent", "is_codex"),
    [
        ("codex_cli_rs/0.150.1 (Ubuntu 24.4.0; x86_64) xterm-256color", True),
        ("codex-tui/0.150.1 (Mac OS 26.5.0; arm64) iTerm.app/3.6.10 (codex-tui; 0.150.1)", True),
        ("codex_exec/0.98.0 (Windows 11; x86_64) unknown", True),
        ("codex_vscode/0.98.0 (Mac OS 26.5.0; arm64) vscode/1.99", True),
        ("Codex Desktop/26.429.30905 (Mac OS 26.5.0; arm64)", True),
        ("codexample/1.0", False),
        ("my codex_cli_rs/1.0", False),
    ],
)
def test_codex_is_known_by_how_its_user_agent_begins(agent: str, is_codex: bool) -> None:
    assert style_of(MODEL, {}, agent) == Style(repeats_failures=is_codex)


@pytest.mark.parametrize(
    ("sources", "expected"), [("auto", True), ("annotations", True), ("footer", False), ("off", False)]
)
def test_open_webui_gets_its_sources_as_its_own_events(sources: str, expected: bool) -> None:
    model = Model("m", "f", "M", sources=sources)
    assert style_of(model, {}, "", is_open_webui=True).source_events is expected
    assert not style_of(model, {}, "").source_events


def test_what_is_parsed_gets_no_footer() -> None:
    model = Model("m", "f", "M", sources="footer")
    assert not style_of(model, {}, "", is_task=True).footer
    for kind in ("json_object", "json_schema"):
        assert not style_of(model, {"response_format": {"type": kind}}, "").footer
    for plain in ({"type": "text"}, None, "json_object"):
        assert style_of(model, {"response_format": plain}, "").footer
