"""What `proxy.yaml` may hold."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from flowise_gateway.config.yaml_document import (
    Field,
    Spot,
    Table,
    boolean,
    document,
    list_of,
    lowered,
    mapping,
    number,
    one_of,
    prose,
    text_like,
    value_of,
    whole_number,
)
from flowise_gateway.flow.model import FLOW_ID, MODEL_ID

KEY_NAME = r"[^\W_][\w .@:/-]{0,63}"
KEY_NAME_TEXT = "1 to 64 letters, digits, spaces or . _ @ : / -"


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """A flow under a name of its own; the flow's id is in lower case."""

    id: str
    flow: str
    name: str = ""
    description: str = ""
    aliases: tuple[str, ...] = ()
    request_timeout: float | None = None
    fallback: str | None = None
    history: str = "auto"
    system: str = "auto"
    steps: str = "reasoning"
    sources: str = "auto"
    usage: str = "auto"
    tools: str = "report"


@dataclass(frozen=True, slots=True)
class KeyConfig:
    """A client key, known by its digest in lower case, and what it may use."""

    name: str
    sha256: str
    models: tuple[str, ...] = ("*",)
    requests_per_minute: int | None = None
    max_in_flight: int | None = None
    single_user: bool = False
    overrides: bool = False


@dataclass(frozen=True, slots=True)
class DiscoveryConfig:
    """Which flows become models without being configured."""

    enabled: bool = True
    types: tuple[str, ...] = ("CHATFLOW", "AGENTFLOW", "MULTIAGENT", "ASSISTANT")
    refresh_seconds: float = 60.0
    ids: str = "name"


@dataclass(frozen=True, slots=True)
class TasksConfig:
    """Who answers chat UIs' titles and tags: `builtin` (no flow is run), `flow` (the one asked), a model."""

    model: str = "builtin"


@dataclass(frozen=True, slots=True)
class ProxyConfig:
    """All that the file says; as it stands here, what an empty file says."""

    models: tuple[ModelConfig, ...] = ()
    keys: tuple[KeyConfig, ...] = ()
    discovery: DiscoveryConfig = field(default_factory=DiscoveryConfig)
    tasks: TasksConfig = field(default_factory=TasksConfig)
    flowise_mode: str = "auto"


def _parsed(file: str, content: bytes) -> ProxyConfig:
    root = document(file, content)
    if root is None:
        return ProxyConfig()
    config: ProxyConfig = value_of(root, _ROOT)
    _check_model_names(root, config.models)
    _check_fallbacks(root, config.models)
    keys = root.entries("keys")
    _check_distinct((key.name, spot["name"]) for key, spot in zip(config.keys, keys, strict=True))
    _check_distinct((key.sha256, spot["sha256"]) for key, spot in zip(config.keys, keys, strict=True))
    return config


def _check_model_names(root: Spot, models: tuple[ModelConfig, ...]) -> None:
    spots = root.entries("models")
    ids = [(model.id, spot["id"]) for model, spot in zip(models, spots, strict=True)]
    aliases = [
        named
        for model, spot in zip(models, spots, strict=True)
        if model.aliases
        for named in zip(model.aliases, spot["aliases"].items(), strict=True)
    ]
    _check_distinct([*ids, *aliases])


def _check_distinct(named: Iterable[tuple[str, Spot]]) -> None:
    taken: dict[str, Spot] = {}
    for name, spot in named:
        first = taken.setdefault(name, spot)
        if first is not spot:
            raise spot.error(f"must differ from {first.path} (line {first.line})")


def _check_fallbacks(root: Spot, models: tuple[ModelConfig, ...]) -> None:
    known = {model.flow: n for n, model in reversed(list(enumerate(models)))}
    known |= {name: n for n, model in enumerate(models) for name in (model.id, *model.aliases)}
    next_ones = [known.get(model.fallback or "") for model in models]
    walk_of: dict[int, int] = {}
    for start in range(len(models)):
        at: int | None = start
        while at is not None and at not in walk_of:
            walk_of[at] = start
            at = next_ones[at]
        if at is not None and walk_of[at] == start:
            raise root.entries("models")[at]["fallback"].error("must not lead back to the model itself")


_MODEL_ID_TEXT = "a model id: 1 to 128 of A-Z a-z 0-9 . _ : / @ - (a mere number in quotes)"
_PLAIN_KEY = "plain keys are refused here; put its SHA-256 as sha256 (flowise-gateway keys new)"
_MODEL = Table(
    ModelConfig,
    {
        "id": text_like(MODEL_ID.pattern, _MODEL_ID_TEXT, is_required=True),
        "flow": lowered(text_like(FLOW_ID.pattern, "a flow id (a UUID)", is_required=True)),
        "name": prose(256),
        "description": prose(4096),
        "aliases": list_of(text_like(MODEL_ID.pattern, _MODEL_ID_TEXT), "a list of model ids"),
        "history": one_of("auto", "session", "messages", "question"),
        "system": one_of("auto", "override", "question", "drop"),
        "steps": one_of("reasoning", "off"),
        "sources": one_of("auto", "annotations", "footer", "off"),
        "usage": one_of("auto", "asked", "always"),
        "tools": one_of("report", "prompt", "reject"),
        "request_timeout": number(0.1, 86400),
        "fallback": text_like(MODEL_ID.pattern, _MODEL_ID_TEXT),
    },
)
_KEY = Table(
    KeyConfig,
    {
        "name": text_like(KEY_NAME, f"{KEY_NAME_TEXT} (a mere number in quotes)", is_required=True),
        # A digest of digits alone, or of digits around one e, is a number to YAML.
        "sha256": lowered(
            text_like(
                "[0-9a-fA-F]{64}",
                "the SHA-256 of a key, 64 hexadecimal digits (flowise-gateway keys new)",
                types=("str", "int", "float"),
                is_required=True,
            )
        ),
        "models": list_of(
            text_like(r"[A-Za-z0-9._:/@*?-]{1,128}", "a model id, or a pattern of one with * and ?"),
            "a list of model ids and patterns",
        ),
        "requests_per_minute": whole_number(1, 1_000_000),
        "max_in_flight": whole_number(1, 100_000),
        "single_user": Field("true or false", boolean),
        "overrides": Field("true or false", boolean),
    },
    refused=dict.fromkeys(("key", "secret", "token", "api_key", "password"), _PLAIN_KEY),
    may_hold_secrets=True,
)
_DISCOVERY = Table(
    DiscoveryConfig,
    {
        "enabled": Field("true or false", boolean),
        "types": list_of(
            one_of(*DiscoveryConfig().types), "a list of CHATFLOW, AGENTFLOW, MULTIAGENT, ASSISTANT"
        ),
        "refresh_seconds": number(1, 86400),
        "ids": one_of("name", "uuid"),
    },
)
_TASKS = Table(TasksConfig, {"model": text_like(MODEL_ID.pattern, "builtin, flow or a model id")})
_ROOT = mapping(
    Table(
        ProxyConfig,
        {
            "models": list_of(mapping(_MODEL), "a list of models", may_be_empty=True),
            "keys": list_of(mapping(_KEY), "a list of keys", may_be_empty=True),
            "discovery": mapping(_DISCOVERY, may_be_empty=True),
            "tasks": mapping(_TASKS, may_be_empty=True),
            "flowise_mode": one_of("auto", "queue"),
        },
    )
)
