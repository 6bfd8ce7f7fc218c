"""Converts Flowise's JSON answer to flow events."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from flowise_gateway.flow.events import (
    ArtifactMade,
    FinishReason,
    FlowEvent,
    FlowToolCalled,
    HumanInputRequested,
    ReasoningDelta,
    SourcesFound,
    StepEnded,
    StepStarted,
    TextDelta,
    ToolUsed,
    TurnEnded,
    TurnIdentified,
    UsageReported,
)
from flowise_gateway.flow.lenient_json import json_text, lenient_json
from flowise_gateway.flowise.failures import readable

APART = "\n\n"
"""Separates the texts of two nodes that each end a branch, which Flowise sends without a separator."""

MAX_TOKENS = 10**9
"""More than any run uses; budgets, metrics and the store can add up such numbers within 64 bits."""


def answer_events(answer: Any, human_input: Mapping[str, Any] | None = None) -> Iterator[FlowEvent]:
    """Convert a JSON answer to the events that a stream would have produced.

    `human_input` is the decision that resumed the run; the answer also contains what ran before it.
    """
    if not isinstance(answer, dict):
        yield from _text_event(answer)
        yield TurnEnded()
        return
    executed, agents = as_dicts(answer.get("agentFlowExecutedData")), as_dicts(answer.get("agentReasoning"))
    for node in executed:
        yield from node_events(node)
    for agent in agents:
        yield from agent_events(agent)
    for tool in as_dicts(answer.get("usedTools")):
        yield tool_used(tool)
    finds = [*map(node_output, executed), *agents, answer]
    if documents := tuple(_once(finds, "sourceDocuments")):
        yield SourcesFound(documents)
    yield from _text_event(answer_text(answer, _resumed(executed, human_input)))
    action = answer.get("action")
    if asked := input_request(action) if isinstance(action, dict) else executed_action(executed):
        yield asked
    yield from map(artifact_made, _once(finds, "artifacts", "fileAnnotations"))
    if usage := executed_usage(executed):
        yield usage
    yield identity_of(answer)
    yield TurnEnded(executed_reason(executed))


def _once(finds: list[dict[str, Any]], *names: str) -> list[dict[str, Any]]:
    """The findings of nodes, agents and the flow, each once even if several of them report it."""
    found = {
        item_key("", item): item for find in finds for name in names for item in as_dicts(find.get(name))
    }
    return list(found.values())


_ENVELOPE = frozenset(
    (
        *("question", "form", "chatId", "chatMessageId", "sessionId", "executionId", "memoryType"),
        *("isStreamValid", "followUpPrompts", "flowVariables", "action", "agentReasoning", "assistant"),
        *("agentFlowExecutedData", "sourceDocuments", "usedTools", "artifacts", "fileAnnotations"),
    )
)


def answer_text(answer: Mapping[str, Any], executed: list[Any]) -> Any:
    """The answer: `text`, `json`, the output of the nodes, or the result of a custom function."""
    text = answer.get("text")
    if isinstance(text, str) and executed:
        last = text if text.strip() else executed_text(executed)
        texts = [*map(executed_text, _earlier_ends(executed)), last]
        return APART.join(filter(None, (each.lstrip("\r\n") for each in texts)))
    if isinstance(text, str):
        return text if text.strip() else ""
    if text is not None:
        return text
    if answer.get("json") is not None:
        return answer["json"]
    return {name: value for name, value in answer.items() if name not in _ENVELOPE} or ""


def executed_text(executed: list[Any]) -> str:
    """The output of the last executed node, for nodes that send no tokens."""
    output = node_output(last_node(executed))
    content = output.get("content")
    if isinstance(content, str) and content.strip():
        return content
    http = output.get("http")
    if isinstance(http, dict) and http.get("data") not in (None, ""):
        return json_text(http["data"])
    return "" if content is None or isinstance(content, str) else json_text(content)


_SPEAKING = frozenset(
    f"{name}Agentflow" for name in ("llm", "agent", "directReply", "tool", "retriever", "executeFlow")
)
"""Node types that stream their text when they end a branch."""


def _earlier_ends(executed: list[Any]) -> list[list[Any]]:
    """The last nodes of all branches except the one that ran last; none if the run is stopped."""
    if last_node(executed).get("status") == "STOPPED":
        return []
    before = [node["previousNodeIds"] for node in executed if isinstance(node.get("previousNodeIds"), list)]
    followed = {name for names in before for name in names if isinstance(name, str)}
    return [
        [node]
        for node in executed[:-1]
        if as_text(as_dict(node.get("data")).get("name")) in _SPEAKING
        and as_text(node.get("nodeId")) not in followed
    ]


def _resumed(executed: list[Any], human_input: Mapping[str, Any] | None) -> list[Any]:
    """The nodes that ran after a decision."""
    if human_input is None:
        return executed
    places = [n for n, node in enumerate(executed) if node.get("nodeId") == human_input.get("startNodeId")]
    return executed[places[-1] if places else -1 :]


def executed_action(executed: list[Any]) -> HumanInputRequested | None:
    """The decision that a stopped run waits for; before 3.1.2, JSON answers contain it only here."""
    action = as_dict(node_output(last_node(executed)).get("humanInputAction"))
    return input_request(action) if action and last_node(executed).get("status") == "STOPPED" else None


def executed_usage(executed: list[Any]) -> UsageReported | None:
    """Tokens of all nodes of a run, or None if no node reported any."""
    total = None
    for node in executed:
        usage = node_output(node).get("usageMetadata")
        if isinstance(usage, dict):
            for part in (usage, *_calls_before_tools(node, usage)):
                total = _added(total, usage_of(part))
    return total


def _calls_before_tools(node: Mapping[str, Any], usage: Mapping[str, Any]) -> list[Any]:
    # An Agent's own figures only cover its last model call; those before a tool call are in its messages.
    if not usage.get("tool_call_tokens"):
        return []
    messages = as_dicts(as_dict(as_dict(node.get("data")).get("input")).get("messages"))
    return [m["usage_metadata"] for m in messages if isinstance(m.get("usage_metadata"), dict)]


def executed_reason(executed: list[Any]) -> FinishReason:
    """The finish reason of the last node's model, in OpenAI's terms."""
    output = node_output(last_node(executed))
    reason = as_dict(output.get("responseMetadata")).get("finish_reason")
    if reason in ("length", "max_tokens", "MAX_TOKENS"):
        return "length"
    return "content_filter" if reason in ("content_filter", "SAFETY") else "stop"


def node_events(node: Mapping[str, Any]) -> Iterator[FlowEvent]:
    """The steps, reasoning and tools of one executed node of an agentflow."""
    output, label = node_output(node), as_text(node.get("nodeLabel"))
    if as_text(node.get("nodeId")).startswith("startAgentflow"):
        return
    yield StepStarted(label)
    thinking = as_dict(output.get("reasonContent")).get("thinking")
    if isinstance(thinking, str) and thinking:
        yield ReasoningDelta(thinking)
    tools = as_dicts(output.get("usedTools"))
    for tool in tools:
        yield FlowToolCalled(as_text(tool.get("tool")), tool.get("toolInput"))
    for call in as_dicts(output.get("calledTools")):  # called but not run, until a person approves
        yield FlowToolCalled(as_text(call.get("name")), call.get("args"))
    for tool in tools:
        yield tool_used(tool)
    yield StepEnded(label, as_text(node.get("status")), node_seconds([node]))


def agent_events(agent: Mapping[str, Any]) -> Iterator[FlowEvent]:
    """The step of one agent of a sequential or multi-agent flow."""
    yield StepStarted(as_text(agent.get("agentName")))
    for tool in as_dicts(agent.get("usedTools")):
        yield tool_used(tool)


def tool_used(tool: Mapping[str, Any]) -> ToolUsed:
    """One entry of `usedTools`."""
    error = tool.get("error")
    shown = readable(json_text(error)) or "no reason given" if error else None
    return ToolUsed(as_text(tool.get("tool")), tool.get("toolInput"), tool.get("toolOutput"), shown)


def artifact_made(artifact: Mapping[str, Any]) -> ArtifactMade:
    """A file, with its name in Flowise's storage if it is stored and the name is valid."""
    name = artifact.get("fileName") if "filePath" in artifact else artifact.get("data")
    stored = _STORED.fullmatch(name) if isinstance(name, str) else None
    is_file = stored and ("filePath" in artifact or stored["mark"])
    return ArtifactMade(artifact, stored["name"] if stored and is_file else "")


_STORED = re.compile(r"(?P<mark>FILE-STORAGE::)?(?P<name>(?!\.)[^/\\\x00-\x1f\x7f]{1,200})")
"""A name without a path: Flowise stores the files of a run in one folder."""


def input_request(action: Mapping[str, Any]) -> HumanInputRequested:
    """A human-in-the-loop request with the labels of its buttons."""
    labels = [as_text(element.get("label")) for element in as_dicts(action.get("elements"))]
    return HumanInputRequested(action, tuple(label for label in labels if label))


def identity_of(data: Mapping[str, Any]) -> TurnIdentified:
    """The ids in a JSON answer or a `metadata` event.

    Follow-up prompts are JSON in a string, nested once more in a JSON answer.
    """
    prompts = data.get("followUpPrompts")
    for _ in range(2):
        prompts = lenient_json(prompts) if isinstance(prompts, str) else prompts
    return TurnIdentified(
        as_text(data.get("chatMessageId")) or None,
        as_text(data.get("sessionId")) or None,
        as_text(data.get("executionId")) or None,
        as_text(data.get("memoryType")) or None,
        tuple(p for p in prompts if isinstance(p, str)) if isinstance(prompts, list) else (),
        as_text(data.get("question")) or None,
    )


def parse_column(value: Any) -> Any:
    """A column of Flowise's database, which stores JSON as text, parsed unless it already is."""
    return lenient_json(value) if isinstance(value, str) else value


def item_key(kind: str, item: Any) -> str:
    try:
        return f"{kind} {orjson.dumps(item, option=orjson.OPT_SORT_KEYS).decode()}"
    except TypeError:
        return f"{kind} {item!r}"


def _text_event(value: Any) -> Iterator[FlowEvent]:
    # A flow may return any JSON value; Flowise's own chat shows it as JSON text, too.
    text = "" if value is None else json_text(value)
    if text:
        yield TextDelta(text)


def usage_of(usage: Mapping[str, Any]) -> UsageReported | None:
    """The reported usage of a model; None if all values are zero, which means nothing was reported."""
    found = UsageReported(
        _count(usage.get("input_tokens")),
        _count(usage.get("output_tokens")),
        _count(as_dict(usage.get("output_token_details")).get("reasoning")),
        _count(as_dict(usage.get("input_token_details")).get("cache_read")),
    )
    return found if found.input_tokens or found.output_tokens else None


def _added(total: UsageReported | None, more: UsageReported | None) -> UsageReported | None:
    if total is None or more is None:
        return total or more
    return UsageReported(
        _count(total.input_tokens + more.input_tokens),
        _count(total.output_tokens + more.output_tokens),
        _count(total.reasoning_tokens + more.reasoning_tokens),
        _count(total.cached_tokens + more.cached_tokens),
    )


def node_output(node: Any) -> dict[str, Any]:
    return as_dict(as_dict(as_dict(node).get("data")).get("output"))


def last_node(executed: list[Any]) -> dict[str, Any]:
    return as_dict(executed[-1]) if executed else {}


def node_seconds(entries: list[Any]) -> float | None:
    """The duration of an executed node's model call, which Flowise reports for some node types."""
    times = [as_dict(node_output(entry).get("timeMetadata")).get("delta") for entry in entries]
    known = [time for time in times if isinstance(time, (int, float)) and not isinstance(time, bool)]
    return known[0] / 1000 if known else None


def as_dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def as_dicts(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def as_text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _count(value: Any) -> int:
    is_count = isinstance(value, int) and not isinstance(value, bool) and value > 0
    return min(value, MAX_TOKENS) if is_count else 0
