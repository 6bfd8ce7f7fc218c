"""The vendor key `flowise` and the standard key `metadata`: details of the run in an answer.

Tools, sources and nodes are listed by name, result and time. Flowise's internals (prompts, credentials, flow
state, node settings, paths on its disk) are never included.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, NotRequired, TypedDict

import orjson

from flowise_gateway.flow.events import StepEnded, ToolUsed
from flowise_gateway.flow.lenient_json import json_text
from flowise_gateway.flow.transcript import Transcript
from flowise_gateway.flow.turn import Turn

MAX_ENTRIES = 50
MAX_VALUE = 2_000
"""The maximum length of a tool's input or output and of a source's text or metadata in an answer."""
SHORTER = (MAX_VALUE, 1_000, 500, 200, 50)
"""Smaller maximum lengths to try if the whole must be short."""


class UsedTool(TypedDict):
    name: str
    input: Any
    output: Any
    error: NotRequired[str]


class SourceDocument(TypedDict):
    pageContent: str
    metadata: Any


class Node(TypedDict):
    name: str
    state: NotRequired[str]
    seconds: NotRequired[float]


class File(TypedDict):
    name: str
    url: str


class FlowiseDetails(TypedDict, total=False):
    """The vendor key `flowise`: details that have no place in OpenAI's schema."""

    chat_id: str
    session_id: str
    chat_message_id: str
    execution_id: str
    memory_type: str
    transcript: str
    execution_time_seconds: float
    nodes: list[Node]
    used_tools: list[UsedTool]
    source_documents: list[SourceDocument]
    files: list[File]
    follow_up_prompts: list[str]
    action: dict[str, Any]
    usage_estimated: bool
    warnings: list[str]


def flowise_details(
    transcripts: Sequence[Transcript],
    seconds: float | None = None,
    turns: Sequence[Turn] = (),
    longest: int = MAX_VALUE,
) -> FlowiseDetails:
    """The vendor key for an answer that took `seconds`; ids are those of the first choice.

    If one of `turns` was audio, the transcript is included. Texts have at most `longest` characters.
    """
    is_spoken = any(upload.type == "audio" for turn in turns for upload in turn.uploads)
    first = transcripts[0]
    identity, action = first.identity, first.action
    tools = [event for one in transcripts for event in one.trail if isinstance(event, ToolUsed)]
    documents = [document for one in transcripts for document in one.sources]
    nodes = [step for one in transcripts for step in one.steps]
    details = {
        "session_id": identity.session_id,
        "chat_message_id": identity.chat_message_id,
        "execution_id": identity.execution_id,
        "memory_type": identity.memory_type,
        "transcript": _cut(identity.question, longest) if is_spoken and identity.question else None,
        "nodes": [_node(step) for step in nodes[:MAX_ENTRIES] if step.label],
        "used_tools": [_used_tool(tool, longest) for tool in tools[:MAX_ENTRIES]],
        "source_documents": [_source_document(document, longest) for document in documents[:MAX_ENTRIES]],
        "files": [{"name": f.stored, "url": f.url} for one in transcripts for f in one.artifacts if f.url],
        "follow_up_prompts": list(identity.follow_up_prompts),
        "action": action and {"id": json_text(action.action.get("id")), "choices": list(action.choices)},
        "usage_estimated": any(one.usage is None for one in transcripts),
        "warnings": _warnings(transcripts, tools, max(len(tools), len(documents), len(nodes))),
    }
    shown: FlowiseDetails = {"chat_id": first.chat_id}
    if seconds is not None:
        shown["execution_time_seconds"] = round(seconds, 3)
    shown.update({name: value for name, value in details.items() if value})  # type: ignore[typeddict-item]
    return shown


def answer_metadata(transcripts: Sequence[Transcript], seconds: float) -> dict[str, str]:
    """The standard key `metadata`, whose values are strings."""
    labels = [step.label for one in transcripts for step in one.steps if step.label]
    return {
        "agents_used": orjson.dumps(list(dict.fromkeys(labels))[:MAX_ENTRIES]).decode(),
        "execution_time_seconds": f"{seconds:.2f}",
        "iterations": str(len(labels)),
    }


def _node(step: StepEnded) -> Node:
    node: Node = {"name": step.label[:200]}
    if step.state:
        node["state"] = step.state
    if step.seconds is not None:
        node["seconds"] = step.seconds
    return node


def _used_tool(tool: ToolUsed, longest: int) -> UsedTool:
    used: UsedTool = {
        "name": tool.tool[:200],
        "input": _bounded(tool.tool_input, longest),
        "output": _bounded(tool.tool_output, longest),
    }
    if tool.error:
        used["error"] = _cut(tool.error, longest)
    return used


def _source_document(document: Mapping[str, Any], longest: int) -> SourceDocument:
    text, metadata = document.get("pageContent"), document.get("metadata")
    return {
        "pageContent": _cut(json_text("" if text is None else text), longest),
        "metadata": _bounded(_public(metadata if isinstance(metadata, Mapping) else {}), longest),
    }


def _warnings(transcripts: Sequence[Transcript], tools: Sequence[ToolUsed], longest: int) -> list[str]:
    failed = dict.fromkeys(tool.tool for tool in tools if tool.error)
    warnings = [f"The tool {name[:100]} failed." for name in failed][:MAX_ENTRIES]
    if longest > MAX_ENTRIES:
        warnings.append(f"Lists are truncated after {MAX_ENTRIES} entries.")
    if all(one.is_empty for one in transcripts):
        warnings.append("The flow returned an empty answer.")
    return [*warnings, *dict.fromkeys(text for one in transcripts for text in one.warnings)]


_INTERNAL_KEY = re.compile(
    r"(?i)^_|flowise|credential|api_?key|secret|password|^(?:chatflow|chat|session|org|workspace|user)_?id$"
)
_LOCAL_PATH = re.compile(r"(?:file://|[A-Za-z]:[\\/]|\\\\|/)[^\n]*[\\/]([^\\/\n]*)")


def _public(value: Any) -> Any:
    """Metadata without Flowise's internal keys and the folders of paths on its disk."""
    if isinstance(value, str):
        path = _LOCAL_PATH.fullmatch(value)
        return path[1] if path else value
    if isinstance(value, Mapping):
        return {key: _public(part) for key, part in value.items() if not _INTERNAL_KEY.search(key)}
    return [_public(part) for part in value] if isinstance(value, list) else value


def _bounded(value: Any, longest: int) -> Any:
    """A JSON value unchanged if it is short, otherwise the beginning of its JSON text."""
    text = json_text(value)
    return _cut(text, longest) if len(text) > longest or text == "…" else value


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else text[:longest] + "…"
