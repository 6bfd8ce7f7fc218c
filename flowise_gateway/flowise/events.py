"""Converts the events of Flowise's stream to flow events."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import orjson

from flowise_gateway.flow.errors import RunFailed
from flowise_gateway.flow.events import (
    ArtifactMade,
    FlowEvent,
    FlowToolCalled,
    HumanInputRequested,
    ReasoningDelta,
    SourcesFound,
    StepEnded,
    StepStarted,
    TextDelta,
    TurnEnded,
    UsageReported,
)
from flowise_gateway.flow.lenient_json import join_halves, lenient_json, read_message
from flowise_gateway.flowise.answer import (
    APART,
    artifact_made,
    as_dict,
    as_dicts,
    as_text,
    executed_action,
    executed_reason,
    executed_text,
    executed_usage,
    identity_of,
    input_request,
    item_key,
    last_node,
    node_output,
    node_seconds,
    parse_column,
    tool_used,
    usage_of,
)
from flowise_gateway.flowise.failures import failure
from flowise_gateway.flowise.sse import BETWEEN_TOKENS, FRAME, TOKEN, TOKEN_TEXT, UNCLEAR_END


class EventDecoder:
    """Decodes the event stream of one run into flow events, without duplicates.

    Flowise resends tools, agents' reasoning and executed nodes as growing lists; only new entries produce
    events. Raises a ProxyError for an `error` event.
    """

    def __init__(self, flow: str = "") -> None:
        """Start a new run of the flow."""
        self._flow = flow
        self._has_run = False
        self.is_complete = False
        self.has_ended = False
        self.message_id = ""
        self._is_agentflow = self._has_begun = self._has_finished = False
        self._node = ""
        self._spoke = False
        self._speakers: set[str] = set()
        # The prefix of the next text: empty or an empty line at the start of a node's text, or half a
        # character, since JavaScript may split one. None: nothing to do, as for nearly all tokens.
        self._before: str | None = None
        self._half_thought = ""
        # The same tool call of two nodes counts twice; the same source or file counts once.
        self._seen_in_node: Counter[str] = Counter()
        self._seen: Counter[str] = Counter()
        self._agents_seen = 0
        self._next_agents: Counter[str] = Counter()
        self._ended_nodes: list[Mapping[str, Any]] = []
        self._files: list[ArtifactMade] = []
        self._executed: list[Any] = []
        self._usage: UsageReported | None = None
        self._input_request: HumanInputRequested | None = None

    def tokens(self, events: bytes) -> str | None:
        """The text if the events are only tokens in Flowise's usual form, otherwise None."""
        # After a text that ends in a backslash, the closing quote would look escaped.
        if self._before is not None or not events.startswith(FRAME) or UNCLEAR_END in events:
            return None
        return self.token(events[len(FRAME) : -2].replace(BETWEEN_TOKENS, b""))

    def token(self, payload: bytes) -> str | None:
        """The text of a token in Flowise's usual form, otherwise None: the fast path of nearly all tokens."""
        if self._before is None and payload.startswith(TOKEN) and payload.endswith(b'"}'):
            try:
                text: str = orjson.loads(payload[TOKEN_TEXT:-1])
            except orjson.JSONDecodeError:
                return None  # more fields, or half a character
            self._spoke = self._spoke or bool(text)
            return text
        return None

    def decode(self, payload: bytes) -> Iterator[FlowEvent]:
        """The events of one payload; none if it is unknown or malformed."""
        message = read_message(payload)
        if not isinstance(message, dict):
            return
        name = message.get("event")
        handler = self._HANDLERS.get(name) if isinstance(name, str) else None
        if handler is not None:
            yield from handler(self, message.get("data"))
        self._has_run = True

    def _token(self, data: Any) -> Iterator[FlowEvent]:
        if not isinstance(data, str):
            return
        if self._before in ("", APART):
            data = data.lstrip("\r\n")  # the question begins with an empty line
        if data:
            self._spoke = True
            text, half = join_halves(self._before or "", data)
            self._before = half or None
            if text:
                yield TextDelta(text)

    def _thinking(self, data: Any) -> Iterator[FlowEvent]:
        if isinstance(data, str) and data:
            thought, self._half_thought = join_halves(self._half_thought, data)
            if thought:
                yield ReasoningDelta(thought)

    def _source_documents(self, data: Any) -> Iterator[FlowEvent]:
        if fresh := tuple(self._unseen(self._seen, "source", data)):
            yield SourcesFound(fresh)

    def _used_tools(self, data: Any) -> Iterator[FlowEvent]:
        for tool in self._unseen(self._seen_in_node, "used", data):
            yield tool_used(tool)

    def _called_tools(self, data: Any) -> Iterator[FlowEvent]:
        for tool in self._unseen(self._seen_in_node, "called", data):
            yield FlowToolCalled(as_text(tool.get("tool")), tool.get("toolInput"))

    def _artifacts(self, data: Any) -> Iterator[FlowEvent]:
        # Files are reported at the end of the run, since a JSON answer does not say where they belong.
        self._files += map(artifact_made, self._unseen(self._seen, "artifact", data))
        return iter(())

    def _agent_reasoning(self, data: Any) -> Iterator[FlowEvent]:
        if isinstance(data, str):
            data = lenient_json(data)
        agents = as_dicts(data)
        for agent in agents[self._agents_seen :]:
            # Flowise repeats the tools, sources and files of all agents in its last events: mark as seen.
            name = as_text(agent.get("agentName"))
            if not self._next_agents[name]:
                yield StepStarted(name)
            self._next_agents[name] -= bool(self._next_agents[name])
            for tool in as_dicts(agent.get("usedTools")):
                self._seen_in_node[item_key("used", tool)] += 1
                yield tool_used(tool)
            yield from self._source_documents(agent.get("sourceDocuments"))
            for kind in ("artifacts", "fileAnnotations"):
                yield from self._artifacts(agent.get(kind))
        self._agents_seen = max(self._agents_seen, len(agents))

    def _next_agent(self, data: Any) -> Iterator[FlowEvent]:
        # The agent's entry in `agentReasoning` arrives when it is done, and must not start a second step.
        if isinstance(data, str) and data:
            self._next_agents[data] += 1
            yield StepStarted(data)

    def _next_agent_flow(self, data: Any) -> Iterator[FlowEvent]:
        if not isinstance(data, dict):
            return
        self._is_agentflow = True
        label, status = as_text(data.get("nodeLabel")), as_text(data.get("status"))
        if as_text(data.get("nodeId")).startswith("startAgentflow"):
            return
        if status == "INPROGRESS":
            yield from self._ended_steps()
            yield from self._lone_half()
            if self._spoke:
                self._speakers.add(self._node)
            self._node, self._spoke = as_text(data.get("nodeId")), False
            self._before = APART if self._speakers else ""
            self._seen_in_node.clear()
            yield StepStarted(label)
        elif status:
            # Its duration is in the executed data, which comes next.
            self._ended_nodes.append(data)

    def _agent_flow_event(self, data: Any) -> Iterator[FlowEvent]:
        self._is_agentflow = True
        self._has_begun = self._has_begun or data == "INPROGRESS"
        self._has_finished = self._has_finished or data in ("FINISHED", "STOPPED")
        # After FINISHED, only ids and follow-up prompts arrive, seconds later (Flowise issue 5346).
        self.is_complete = self.is_complete or data == "FINISHED"
        return iter(())

    def _executed_data(self, data: Any) -> Iterator[FlowEvent]:
        self._executed = as_dicts(data) or self._executed
        return self._ended_steps()

    def _ended_steps(self) -> Iterator[FlowEvent]:
        ended, self._ended_nodes = self._ended_nodes, []
        for node in ended:
            entries = [entry for entry in self._executed if entry.get("nodeId") == node.get("nodeId")]
            # Only the last node streams its tools' results as separate events.
            yield from self._used_tools(node_output(entries[-1]).get("usedTools") if entries else None)
            yield StepEnded(
                as_text(node.get("nodeLabel")), as_text(node.get("status")), node_seconds(entries[-1:])
            )

    def _action(self, data: Any) -> Iterator[FlowEvent]:
        # The question is reported at the end, after the text of an answer without tokens.
        self._input_request = input_request(data) if isinstance(data, dict) else self._input_request
        return iter(())

    def _usage_metadata(self, data: Any) -> Iterator[FlowEvent]:
        if isinstance(data, dict):
            self._usage = usage_of(data) or self._usage
        return iter(())

    def _metadata(self, data: Any) -> Iterator[FlowEvent]:
        self.is_complete = True
        if isinstance(data, dict):
            identity = identity_of(data)
            self.message_id = identity.chat_message_id or ""
            yield from self._action(data.get("action"))
            yield identity

    def _error(self, data: Any) -> Iterator[FlowEvent]:
        self.has_ended = True
        raise failure(data if isinstance(data, str) else "", self._flow, has_run=self._has_run)

    def _abort(self, _data: Any) -> Iterator[FlowEvent]:
        self.has_ended = True
        raise RunFailed("The run was stopped in Flowise.")

    def _end(self, _data: Any) -> Iterator[FlowEvent]:
        self.has_ended = True
        return iter(())

    @property
    def is_whole(self) -> bool:
        """Whether the stream shows that it is complete, which only streams of agentflows do."""
        return self._has_begun and self._has_finished

    @property
    def is_cut(self) -> bool:
        """Whether the first or the last events of an agentflow are missing."""
        return self._is_agentflow and not self.is_whole

    @property
    def is_silent(self) -> bool:
        """Whether the run has produced nothing visible so far."""
        has_text = self._spoke or self._speakers or executed_text(self._executed)
        return not (has_text or self._input_request or self._files)

    def complete(self, row: Mapping[str, Any], rest: str) -> Iterator[FlowEvent]:
        """The events of the stored message that the stream lacked, after the `rest` of the text."""
        if rest:
            text = rest.lstrip("\r\n") if self._before in ("", APART) else rest
            before = APART if self._before == APART else ""
            self._before, self._spoke = None, True
            yield TextDelta(before + text)
        execution = as_dict(row.get("execution"))
        columns = {**row, "agentFlowExecutedData": execution.get("executionData")}
        for name in ("agentFlowExecutedData", "usedTools", "sourceDocuments", "artifacts", "fileAnnotations"):
            yield from self._HANDLERS[name](self, parse_column(columns.get(name)))
        yield from self._action(parse_column(row.get("action")))

    def closing(self) -> Iterator[FlowEvent]:
        """The events at the end of the run: text that no token carried, files, usage, the end."""
        yield from self._ended_steps()
        yield from self._lone_half()
        if not self._spoke and (text := self._silent_end()):
            yield TextDelta(APART + text if self._speakers else text)
        if asked := self._input_request or executed_action(self._executed):
            yield asked
        yield from self._files
        usage = executed_usage(self._executed) or self._usage
        if usage:
            yield usage
        yield TurnEnded(executed_reason(self._executed))

    def _lone_half(self) -> Iterator[FlowEvent]:
        if self._before not in (None, "", APART):
            yield TextDelta("\ufffd")
        self._before = None

    def _silent_end(self) -> str:
        """The text of the last node, which is the answer, if no token carried it."""
        is_carried = self._speakers and as_text(last_node(self._executed).get("nodeId")) != self._node
        return "" if is_carried else executed_text(self._executed).lstrip("\r\n")

    @staticmethod
    def _unseen(before: Counter[str], kind: str, data: Any) -> list[dict[str, Any]]:
        seen: Counter[str] = Counter()
        fresh = []
        for item in as_dicts(data):
            key = item_key(kind, item)
            seen[key] += 1
            if seen[key] > before[key]:
                before[key] += 1
                fresh.append(item)
        return fresh

    _HANDLERS: Mapping[str, Callable[[EventDecoder, Any], Iterator[FlowEvent]]] = {
        "token": _token,
        "thinking": _thinking,
        "sourceDocuments": _source_documents,
        "usedTools": _used_tools,
        "calledTools": _called_tools,
        "artifacts": _artifacts,
        "fileAnnotations": _artifacts,
        "agentReasoning": _agent_reasoning,
        "nextAgent": _next_agent,
        "nextAgentFlow": _next_agent_flow,
        "agentFlowEvent": _agent_flow_event,
        "agentFlowExecutedData": _executed_data,
        "action": _action,
        "usageMetadata": _usage_metadata,
        "metadata": _metadata,
        "error": _error,
        "abort": _abort,
        "end": _end,
    }
