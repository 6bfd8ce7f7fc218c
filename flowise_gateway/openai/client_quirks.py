"""How an answer is presented: by the model's settings and by what the client program shows."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flowise_gateway.flow.model import Model


@dataclass(frozen=True, slots=True)
class Style:
    """What a renderer adds to the text; `usage` is a usage chunk that the client did not ask for.

    `repeats_failures`: the client sends the request of a failed response again, whatever has run.
    `source_events`: the client is Open WebUI, whose streams get their sources as events of its own.
    """

    steps: bool = True
    annotations: bool = True
    footer: bool = False
    usage: bool = False
    repeats_failures: bool = False
    source_events: bool = False


@dataclass(frozen=True, slots=True)
class Traits:
    """Where a client program differs from OpenAI's own clients."""

    shows_annotations: bool = True
    asks_for_usage: bool = True
    repeats_failures: bool = False


CLIENTS = (
    # LibreChat's agents run on LangChain, which n8n uses too, but only LibreChat's user ids are MongoDB's.
    (
        re.compile(r"langchainjs-openai/"),
        re.compile(r"[0-9a-f]{24}"),
        Traits(shows_annotations=False, asks_for_usage=False),
    ),
    (re.compile(r"librechat-azure-openai-v2"), None, Traits(shows_annotations=False)),
    # The names of Codex's programs: codex_cli_rs, codex-tui, codex_exec, codex_vscode, "Codex Desktop".
    (re.compile(r"(?i)codex[-_ ]"), None, Traits(repeats_failures=True)),
)
"""Client programs that are treated differently, by the beginning of `User-Agent` and the body's `user`."""


def traits_of(user_agent: str, user: Any) -> Traits:
    for program, users, traits in CLIENTS:
        if program.match(user_agent) and (users is None or (isinstance(user, str) and users.fullmatch(user))):
            return traits
    return Traits()


def style_of(
    model: Model,
    body: Mapping[str, Any],
    user_agent: str,
    *,
    is_task: bool = False,
    is_open_webui: bool = False,
) -> Style:
    """The style for one request. The answer of a UI task and JSON get no footer, since both are parsed."""
    traits = traits_of(user_agent, body.get("user"))
    wants_footer = model.sources == "footer" or (model.sources == "auto" and not traits.shows_annotations)
    return Style(
        steps=model.steps != "off",
        annotations=model.sources in ("auto", "annotations"),
        footer=wants_footer and not is_task and not _is_json(body.get("response_format")),
        usage=model.usage == "always" or (model.usage == "auto" and not traits.asks_for_usage),
        repeats_failures=traits.repeats_failures,
        source_events=is_open_webui and model.sources in ("auto", "annotations"),
    )


def _is_json(response_format: Any) -> bool:
    return isinstance(response_format, dict) and response_format.get("type") in ("json_object", "json_schema")
