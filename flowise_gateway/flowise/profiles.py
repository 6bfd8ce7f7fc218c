"""Flow profiles, read from Flowise's listing and probes."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from datetime import datetime
from typing import Any

import orjson
from anyascii import anyascii

from flowise_gateway.flow.model import FLOW_ID

Nodes = list[dict[str, Any]]
"""The `data` of a flow's nodes: `{id, label, name, category, inputs, …}` each."""

_STARTS_NOT_BY_CHAT = ("webhookTrigger", "scheduleInput")
_MODEL_NODES = ("llmAgentflow", "agentAgentflow", "conditionAgentAgentflow")
_MAX_NAME = 500
_MEMORY_SWITCHES = ("llmEnableMemory", "agentEnableMemory", "conditionAgentEnableMemory")


@dataclass(frozen=True, slots=True)
class FlowProfile:
    """The type and capabilities of a flow; None if unknown.

    `inputs` and `chains_models` are those of a Model. `first_slug` is the slug from before other scripts were
    transliterated; it still refers to the flow.
    """

    flow: str
    name: str
    slug: str = ""
    first_slug: str = ""
    type: str = "CHATFLOW"
    created: int = 0
    updated: str = ""
    has_memory: bool | None = None
    chains_models: bool = False
    inputs: Mapping[str, str] | None = None
    streams: bool | None = None
    takes_images: bool | None = None
    takes_files: bool | None = None
    takes_audio: bool | None = None
    is_hidden: bool = False


def flow_profiles(rows: Iterable[Mapping[str, Any]]) -> list[FlowProfile]:
    """The profiles for rows of the listing, without hidden flows; the oldest flow of a name keeps it."""
    # Distinct by id: a flow that is saved while the pages are read may appear on two of them.
    distinct = {str(row.get("id")).lower(): row for row in rows}.values()
    ordered = sorted(distinct, key=lambda row: (str(row.get("createdDate")), str(row.get("id"))))
    profiles = [profile for profile in map(_profile, ordered) if profile and not profile.is_hidden]
    taken: dict[str, str] = {}
    first = [
        _claim_slug(_hyphenated(_ascii(profile.name[:_MAX_NAME])), profile, taken) for profile in profiles
    ]
    return [
        replace(profile, slug=_claim_slug(slug_of(profile.name), profile, taken), first_slug=slug)
        for profile, slug in zip(profiles, first, strict=True)
    ]


def _claim_slug(slug: str, profile: FlowProfile, taken: dict[str, str]) -> str:
    """The slug, or the next best one, that no other flow has; marks it as taken."""
    if not slug or FLOW_ID.fullmatch(slug):  # another flow's id must never refer to this flow
        slug = f"flow-{profile.flow[:8]}"
    # The last one is unique, since it is this flow's id.
    candidates = (slug, f"{slug}-{profile.flow[:8]}", f"{slug[:90]}-{profile.flow}", profile.flow)
    return next(slug for slug in candidates if taken.setdefault(slug, profile.flow) == profile.flow)


def with_capabilities(profile: FlowProfile, streams: bool | None, uploads: Mapping[str, Any]) -> FlowProfile:
    """The profile with the results of Flowise's public probes; unknown values are left unchanged."""

    def probed(name: str, before: bool | None) -> bool | None:
        return bool(uploads[name]) if name in uploads else before

    return replace(
        profile,
        streams=profile.streams if streams is None else streams,
        takes_images=probed("isImageUploadAllowed", profile.takes_images),
        takes_files=probed("fileUploadSizeAndTypes", profile.takes_files),
        takes_audio=probed("isSpeechToTextEnabled", profile.takes_audio),
    )


def with_capabilities_of(known: FlowProfile, profile: FlowProfile) -> FlowProfile:
    """The profile with the probe results of an earlier state of the flow."""
    return replace(
        profile,
        streams=known.streams,
        takes_images=known.takes_images,
        takes_files=known.takes_files,
        takes_audio=known.takes_audio,
    )


def public_profile(flow: str, config: Mapping[str, Any]) -> FlowProfile:
    """A profile from Flowise's public route: without a name, with a guessed type and unknown inputs."""
    drawing = _object(config.get("flowData"))
    nodes = flow_nodes(drawing)
    return FlowProfile(
        flow,
        "",
        type="" if nodes is None else _type_of(nodes),
        has_memory=flow_has_memory(drawing),
        chains_models=chains_models(drawing),
        is_hidden=_is_hidden(nodes),
    )


def _type_of(nodes: Nodes) -> str:
    categories = {node.get("category") for node in nodes}
    if "Agent Flows" in categories:
        return "AGENTFLOW"
    return "MULTIAGENT" if categories & {"Multi Agents", "Sequential Agents"} else "CHATFLOW"


def _profile(row: Mapping[str, Any]) -> FlowProfile | None:
    flow, name = row.get("id"), row.get("name")
    if not isinstance(flow, str) or not FLOW_ID.fullmatch(flow) or not isinstance(name, str):
        return None
    drawing = _object(row.get("flowData"))
    nodes = flow_nodes(drawing)
    kind = row.get("type")
    kind = _sendable(kind) if isinstance(kind, str) else "CHATFLOW"
    return FlowProfile(
        flow.lower(),
        _sendable(name),
        type=kind,
        created=_seconds(row.get("createdDate")),
        updated=str(row.get("updatedDate")),
        has_memory=kind == "ASSISTANT" or flow_has_memory(drawing),
        chains_models=chains_models(drawing),
        inputs=enabled_inputs(row, nodes),
        is_hidden=_is_hidden(nodes),
    )


def _sendable(text: str) -> str:
    """The text without lone surrogates, which JSON can represent and UTF-8 cannot."""
    return text.encode(errors="replace").decode()


def flow_nodes(flow_data: Any) -> Nodes | None:
    """The data of a flow's nodes, or None without the flow's definition."""
    drawing = _object(flow_data)
    nodes = drawing.get("nodes") if drawing else None
    if not isinstance(nodes, list):
        return None
    return [node["data"] for node in nodes if isinstance(node, dict) and isinstance(node.get("data"), dict)]


def flow_has_memory(flow_data: Any) -> bool | None:
    """Whether any node of a flow has memory; None without the flow's definition.

    In a chatflow, multi-agent or sequential flow, memory is a separate node, which is only used if an edge
    leads from it to another node. An OpenAI Assistant keeps its threads at OpenAI. In an agentflow, each node
    has a switch, and the start node has one that clears the memory of all nodes.
    """
    drawing = _object(flow_data)
    nodes = flow_nodes(drawing)
    if nodes is None or drawing is None:
        return None
    edges = drawing.get("edges")
    edges = edges if isinstance(edges, list) else []
    if any(_is_on(node, "startEphemeralMemory") for node in nodes if node.get("name") == "startAgentflow"):
        return False
    used = {str(edge.get("source")) for edge in edges if isinstance(edge, dict)}
    return any(_remembers(node, used) for node in nodes)


def _remembers(node: Mapping[str, Any], used: set[str]) -> bool:
    if node.get("category") == "Memory":
        return str(node.get("id")) in used
    return node.get("name") == "openAIAssistant" or any(_is_on(node, switch) for switch in _MEMORY_SWITCHES)


def _is_on(node: Mapping[str, Any], switch: str) -> bool:
    inputs = node.get("inputs")
    return isinstance(inputs, dict) and inputs.get(switch) in (True, "true")


def chains_models(flow_data: Any) -> bool:
    """Whether an agentflow runs several models in sequence; only the first one sees a `history`."""
    drawing = _object(flow_data) or {}
    models = {
        str(node["id"])
        for node in flow_nodes(drawing) or ()
        if "id" in node and node.get("name") in _MODEL_NODES
    }
    edges = drawing.get("edges")
    following: dict[str, list[str]] = {}
    for edge in edges if isinstance(edges, list) else ():
        if isinstance(edge, dict):
            following.setdefault(str(edge.get("source")), []).append(str(edge.get("target")))
    to_see = [target for model in models for target in following.get(model, ())]
    seen: set[str] = set()
    while to_see:
        node = to_see.pop()
        if node in models:
            return True
        if node not in seen:
            seen.add(node)
            to_see += following.get(node, ())
    return False


def enabled_inputs(row: Mapping[str, Any], nodes: Nodes | None) -> dict[str, str] | None:
    """The inputs that `overrideConfig` may set, each with the name of a node that has it; None: unknown.

    Flowise stores them by node label, and ignores labels that no node has any more. Variables are named
    `vars.<name>`, with "variable" as their node.
    """
    if "apiConfig" not in row:
        return None
    allowed = _object((_object(row["apiConfig"]) or {}).get("overrideConfig")) or {}
    if not allowed.get("status"):
        return {}
    if nodes is None:
        return None
    inputs: dict[str, str] = {}
    by_label = _object(allowed.get("nodes")) or {}
    for node in nodes:
        for name in _enabled(by_label.get(str(node.get("label")))):
            inputs.setdefault(name, str(node.get("name")))
    return inputs | {f"vars.{name}": "variable" for name in _enabled(allowed.get("variables"))}


def _enabled(parameters: Any) -> Iterator[str]:
    for parameter in parameters if isinstance(parameters, list) else ():
        if (
            isinstance(parameter, dict)
            and parameter.get("enabled")
            and isinstance(parameter.get("name"), str)
        ):
            yield parameter["name"]


def _object(value: Any) -> dict[str, Any] | None:
    """A JSON object, either parsed or as text."""
    try:
        value = orjson.loads(value) if isinstance(value, str) else value
    except orjson.JSONDecodeError:
        return None
    return value if isinstance(value, dict) else None


def _is_hidden(nodes: Nodes | None) -> bool:
    """Whether the flow can only be started by a webhook or a schedule."""
    starts = [node.get("inputs") for node in nodes or () if node.get("name") == "startAgentflow"]
    return any(isinstance(s, dict) and s.get("startInputType") in _STARTS_NOT_BY_CHAT for s in starts)


def slug_of(name: str) -> str:
    """A flow's name, in any script, as lower-case ASCII letters, digits and hyphens; may be empty."""
    composed = unicodedata.normalize("NFC", name[:_MAX_NAME])
    if composed.isascii():
        return _hyphenated(composed)
    return _hyphenated("".join(char if char.isascii() else _transliterated(char) for char in composed))


def _transliterated(char: str) -> str:
    """A letter in ASCII, without transcription marks, which would split a word; others unchanged."""
    kind = unicodedata.category(char)[0]
    if kind in "LM":
        return "".join(filter(str.isalnum, anyascii(char)))
    return anyascii(char) if kind == "N" else _ascii(char) or "-"


def _ascii(text: str) -> str:
    return unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()


def _hyphenated(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:100].strip("-")


def _seconds(date: Any) -> int:
    try:
        return int(datetime.fromisoformat(date).timestamp())
    except (TypeError, ValueError):
        return 0


def pack_profiles(profiles: Iterable[FlowProfile], former: Mapping[str, str]) -> bytes:
    """Serialize profiles and the flows of former names; equal input gives equal bytes."""
    flows = sorted(profiles, key=lambda profile: profile.flow)
    return orjson.dumps({"fields": _FIELDS, "flows": flows, "former": dict(former)})


def unpack_profiles(content: bytes) -> tuple[list[FlowProfile], dict[str, str]]:
    """Undo `pack_profiles`; empty if another version created it. Raises for invalid JSON."""
    saved = orjson.loads(content) if content else {"fields": []}
    if saved["fields"] != _FIELDS:
        return [], {}
    return [FlowProfile(**flow) for flow in saved["flows"]], dict(saved["former"])


_FIELDS = [field.name for field in fields(FlowProfile)]
