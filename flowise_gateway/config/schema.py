"""The schema of `proxy.yaml`."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

from flowise_gateway.config.flowises import FLOWISE_NAME, PIPELINES, FlowiseConfig
from flowise_gateway.config.yaml_document import (
    BOOLEAN,
    Spot,
    document,
    list_of,
    mapping,
    moment,
    number,
    one_of,
    one_or_more,
    prose,
    text_like,
    value_of,
    whole_number,
)
from flowise_gateway.flow.model import DEFAULT_FLOWISE, FLOW_ID, MODEL_ID

KEY_NAME = r"[^\W_][\w .@:/-]{0,63}"
KEY_NAME_TEXT = "1 to 64 letters, digits, spaces or . _ @ : / -"
_PLAIN_KEY = "literal keys are not allowed here; set sha256 to the key's SHA-256 (flowise-gateway keys new)"
_MODEL_ID = text_like(MODEL_ID.pattern, "a model id: 1 to 128 of A-Z a-z 0-9 . _ : / @ - (quote a number)")
_MODEL_PATTERN = text_like(r"[A-Za-z0-9._:/@*?-]{1,128}", "a model id, or a pattern with * and ?")
# In YAML, a digest of only digits, or of digits around one e, is a number.
_DIGEST = text_like(
    "[0-9a-fA-F]{64}",
    "the SHA-256 of a key, 64 hexadecimal digits (flowise-gateway keys new)",
    types=("str", "int", "float"),
    lower=True,
)
_FLOW_TYPES = ("CHATFLOW", "AGENTFLOW", "MULTIAGENT", "ASSISTANT")


_PER_MINUTE, _IN_FLIGHT = whole_number(1, 1_000_000), whole_number(1, 100_000)
_REQUESTS_PER_DAY, _MANY_PER_DAY = whole_number(1, 1_000_000_000), whole_number(1, 9_999_999_999)


@dataclass(frozen=True, slots=True)
class Allowance:
    """The limits of a key, of each user of a key, or of a model; None means unlimited."""

    requests_per_minute: Annotated[int | None, _PER_MINUTE] = None
    max_in_flight: Annotated[int | None, _IN_FLIGHT] = None
    requests_per_day: Annotated[int | None, _REQUESTS_PER_DAY] = None
    tokens_per_day: Annotated[int | None, _MANY_PER_DAY] = None


NO_LIMITS = Allowance()


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """A configured model; the flow's id is in lower case.

    `flowise` is the name of its Flowise; empty: the one that lists the flow, otherwise the default one.
    """

    id: Annotated[str, _MODEL_ID]
    flow: Annotated[str, text_like(FLOW_ID.pattern, "a flow id (a UUID)", lower=True)]
    name: Annotated[str, prose(256)] = ""
    description: Annotated[str, prose(4096)] = ""
    aliases: Annotated[tuple[str, ...], list_of(_MODEL_ID, "a list of model ids")] = ()
    history: Annotated[str, one_of("auto", "session", "messages", "question")] = "auto"
    system: Annotated[str, one_of("auto", "override", "question", "drop")] = "auto"
    steps: Annotated[str, one_of("reasoning", "off")] = "reasoning"
    sources: Annotated[str, one_of("auto", "annotations", "footer", "off")] = "auto"
    usage: Annotated[str, one_of("auto", "asked", "always")] = "auto"
    tools: Annotated[str, one_of("report", "prompt", "reject")] = "report"
    request_timeout: Annotated[float | None, number(0.1, 86400)] = None
    fallback: Annotated[str | None, _MODEL_ID] = None
    flowise: Annotated[str, FLOWISE_NAME] = ""
    requests_per_minute: Annotated[int | None, _PER_MINUTE] = None
    max_in_flight: Annotated[int | None, _IN_FLIGHT] = None
    requests_per_day: Annotated[int | None, _REQUESTS_PER_DAY] = None
    tokens_per_day: Annotated[int | None, _MANY_PER_DAY] = None

    @property
    def allowance(self) -> Allowance:
        """The limits of all callers of the model together."""
        return allowance_of(self)


@dataclass(frozen=True, slots=True)
class KeyConfig:
    """A client key, as lower-case digests, and its permissions; `flowises` empty: all of them.

    Each digest is a valid key until `expires`, in seconds since 1970.
    """

    name: Annotated[str, text_like(KEY_NAME, f"{KEY_NAME_TEXT} (quote a number)")]
    sha256: Annotated[tuple[str, ...], one_or_more(_DIGEST)]
    models: Annotated[tuple[str, ...], list_of(_MODEL_PATTERN, "a list of model ids and patterns")] = ("*",)
    requests_per_minute: Annotated[int | None, _PER_MINUTE] = None
    max_in_flight: Annotated[int | None, _IN_FLIGHT] = None
    single_user: Annotated[bool, BOOLEAN] = False
    overrides: Annotated[bool, BOOLEAN] = False
    expires: Annotated[float, moment()] = math.inf
    admin: Annotated[bool, BOOLEAN] = False
    flowises: Annotated[tuple[str, ...], list_of(FLOWISE_NAME, "a list of names of Flowises")] = ()
    requests_per_day: Annotated[int | None, _REQUESTS_PER_DAY] = None
    tokens_per_day: Annotated[int | None, _MANY_PER_DAY] = None
    per_user: Annotated[Allowance | None, mapping(Allowance)] = None
    max_websockets: Annotated[int | None, _IN_FLIGHT] = None
    stored_bytes_per_day: Annotated[int | None, _MANY_PER_DAY] = None

    @property
    def allowance(self) -> Allowance:
        """The limits of the key."""
        return allowance_of(self)


def allowance_of(config: ModelConfig | KeyConfig) -> Allowance:
    """The limits of an entry of the file."""
    return Allowance(
        config.requests_per_minute, config.max_in_flight, config.requests_per_day, config.tokens_per_day
    )


@dataclass(frozen=True, slots=True)
class DiscoveryConfig:
    """Which flows become models without configuration."""

    enabled: Annotated[bool, BOOLEAN] = True
    types: Annotated[
        tuple[str, ...], list_of(one_of(*_FLOW_TYPES), f"a list of {', '.join(_FLOW_TYPES)}")
    ] = _FLOW_TYPES
    refresh_seconds: Annotated[float, number(1, 86400)] = 60.0
    ids: Annotated[str, one_of("name", "uuid")] = "name"


@dataclass(frozen=True, slots=True)
class TasksConfig:
    """What answers title and tag requests: `builtin` (no run), `flow` (the requested one), or a model."""

    model: Annotated[str, text_like(MODEL_ID.pattern, "builtin, flow or a model id")] = "builtin"


_SOCKET = text_like(r"[^\s.]{1,100}(\.[^\s.]{1,100})?\.\w{1,100}", "an input or output: component.socket")


@dataclass(frozen=True, slots=True)
class PipelineConfig:
    """A pipeline as a model; sockets that are not named are found by their types."""

    id: Annotated[str, text_like("[a-z0-9][a-z0-9-]{0,63}", "1 to 64 of a-z 0-9 - (quote a number)")]
    source: Annotated[
        str,
        text_like(
            r"[^\s:]+\.ya?ml|\w+(\.\w+)*:\w+",
            "a YAML file next to proxy.yaml, or module:function that returns a pipeline",
        ),
    ]
    question: Annotated[tuple[str, ...], list_of(_SOCKET, "a list of inputs: component.socket")] = ()
    messages: Annotated[str, _SOCKET] = ""
    answer: Annotated[str, _SOCKET] = ""
    images: Annotated[bool, BOOLEAN] = False
    run_timeout: Annotated[float, number(0.1, 86400)] = 300.0


_MODELS = list_of(mapping(ModelConfig), "a list of models", may_be_empty=True)
_KEY = mapping(
    KeyConfig,
    refused=dict.fromkeys(("key", "secret", "token", "api_key", "password"), _PLAIN_KEY),
    may_hold_secrets=True,
)


_FLOWISE = mapping(
    FlowiseConfig,
    refused=dict.fromkeys(("key", "secret", "token", "password"), "is called api_key: env:NAME or file:PATH"),
    may_hold_secrets=True,
)


@dataclass(frozen=True, slots=True)
class ProxyConfig:
    """The content of the file; the defaults are those of an empty file."""

    models: Annotated[tuple[ModelConfig, ...], _MODELS] = ()
    keys: Annotated[tuple[KeyConfig, ...], list_of(_KEY, "a list of keys", may_be_empty=True)] = ()
    discovery: Annotated[DiscoveryConfig, mapping(DiscoveryConfig, may_be_empty=True)] = DiscoveryConfig()
    tasks: Annotated[TasksConfig, mapping(TasksConfig, may_be_empty=True)] = TasksConfig()
    pipelines: Annotated[
        tuple[PipelineConfig, ...], list_of(mapping(PipelineConfig), "a list of pipelines", may_be_empty=True)
    ] = ()
    flowises: Annotated[
        tuple[FlowiseConfig, ...], list_of(_FLOWISE, "a list of Flowises", may_be_empty=True)
    ] = ()
    flowise_mode: Annotated[str, one_of("auto", "queue")] = "auto"


_ROOT = mapping(ProxyConfig)


def parse_config(file: str, content: bytes) -> ProxyConfig:
    """Read the content of a file. Raises ConfigError."""
    root = document(file, content)
    if root is None:
        return ProxyConfig()
    config: ProxyConfig = value_of(root, _ROOT)
    _check_model_names(root, config.models)
    _check_fallbacks(root, config.models)
    _check_flowises(root, config)
    pipelines = zip(config.pipelines, root.entries("pipelines"), strict=True)
    _check_distinct((pipeline.id, spot["id"]) for pipeline, spot in pipelines)
    keys = root.entries("keys")
    _check_distinct((key.name, spot["name"]) for key, spot in zip(config.keys, keys, strict=True))
    _check_distinct(
        digest
        for key, spot in zip(config.keys, keys, strict=True)
        for digest in zip(key.sha256, spot["sha256"].each(), strict=True)
    )
    return config


def _check_flowises(root: Spot, config: ProxyConfig) -> None:
    """Check that names of Flowises are unique, and that models and keys refer to existing ones."""
    spots = root.entries("flowises")
    _check_distinct((each.name, spot["name"]) for each, spot in zip(config.flowises, spots, strict=True))
    for each, spot in zip(config.flowises, spots, strict=True):
        if bool(each.base_url) == bool(each.base_urls):
            raise spot["name"].error("must come with either base_url or base_urls, a list of at least one")
        addresses = spot["base_urls"].items() if each.base_urls else ()
        _check_distinct(zip(each.base_urls, addresses, strict=True))
        if each.name == DEFAULT_FLOWISE:
            raise spot["name"].error(
                f"must not be {DEFAULT_FLOWISE}, the name of the one of FLOWISE_BASE_URL"
            )
        if each.name == PIPELINES:
            raise spot["name"].error(f"must not be {PIPELINES}, the name of the pipeline host")
    known = {DEFAULT_FLOWISE, PIPELINES, *(each.name for each in config.flowises)}
    named = [
        (model.flowise, spot["flowise"])
        for model, spot in zip(config.models, root.entries("models"), strict=True)
        if model.flowise
    ]
    for key, spot in zip(config.keys, root.entries("keys"), strict=True):
        named += zip(key.flowises, spot["flowises"].items(), strict=True) if key.flowises else ()
    for name, place in named:
        if name not in known:
            raise place.error(f"must be {DEFAULT_FLOWISE} or the name of an entry of flowises")


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
            raise root.entries("models")[at]["fallback"].error("must not refer back to the model itself")
