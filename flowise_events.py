"""Flowise's wire into flow events: event stream, JSON answer, failure texts. Upstream layer, pure.

Sources of the rules: `SSEStreamer.ts`, `buildAgentflow.ts`, `buildChatflow.ts` of Flowise 2.1 to 3.1.4 and
the recordings in `tests/wire/flowise-3.1.4`.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import orjson

from flow_turn import (
    ActionAsked,
    ArtifactMade,
    FinishReason,
    FlowEvent,
    ReasoningDelta,
    SourcesFound,
    StepEnded,
    StepStarted,
    TextDelta,
    ToolCalled,
    ToolUsed,
    TurnEnded,
    TurnIdentified,
    UsageReported,
    json_text,
)
from flowise_failures import failure, readable
from proxy_errors import RunFailed

HEARTBEAT = object()
"""What the decoder gives for a comment line: Flowise lives, but has nothing to say."""


_FRAME = b"message:\ndata:"
_TOKEN = b'{"event":"token","data":"'
_TOKEN_TEXT = len(_TOKEN) - 1
_BETWEEN_TOKENS = b'"}\n\n' + _FRAME + _TOKEN
_UNCLEAR_END = b'\\"}\n'

_APART = "\n\n"
"""Between the texts of two nodes that both end their branch: Flowise sends them one behind the other."""


class SseDecoder:
    """Bytes of an event stream into whole events, however they are split. Lines may be of any length.

    `open_bytes` is how much of an event is held that has not ended yet.
    """

    def __init__(self) -> None:
        """Start at the beginning of a stream."""
        self._open: list[bytes] = []
        self._seam = b""
        self.open_bytes = 0

    def feed(self, piece: bytes) -> bytes:
        """Give all events that `piece` completes, each with its empty line; `b""` for none."""
        if not self.open_bytes and piece.endswith(b"\n\n"):
            return piece
        seam = self._seam
        searched = seam + piece
        after_lf, after_crlf = searched.rfind(b"\n\n") + 2, searched.rfind(b"\n\r\n") + 3
        if after_lf == 1 and after_crlf == 2:
            self._open.append(piece)
            self._seam = searched[-2:]
            self.open_bytes += len(piece)
            return b""
        end = max(after_lf, after_crlf) - len(seam)
        self._open.append(piece[:end])
        events = b"".join(self._open)
        rest = piece[end:]
        self._open = [rest]
        self._seam = rest[-2:]
        self.open_bytes = len(rest)
        return events


def payloads(events: bytes) -> Iterator[bytes | object]:
    """The payload of each of some whole events, and HEARTBEAT for each comment.

    Only `data:` lines and comments matter: Flowise puts the event's name into the JSON, and before 3.1.2
    wrote `message` without a colon before some events.
    """
    data: list[bytes] = []
    for line in events.split(b"\n"):
        line = line.removesuffix(b"\r")  # noqa: PLW2901
        if line.startswith(b"data:"):
            data.append(line[5:].removeprefix(b" "))
        elif not line:
            if data:
                yield b"\n".join(data)
                data = []
        elif line.startswith(b":"):
            yield HEARTBEAT


class EventDecoder:
    """The payloads of one run's event stream into flow events, each thing once.

    Flowise resends tools, agents' reasoning and executed nodes as growing lists; what was told before is left
    out. Raises a ProxyError for an `error` event.
    """

    def __init__(self, flow: str = "") -> None:
        """Start before the first event of a run of the flow."""
        self._flow = flow
        self._has_run = False
        self.is_complete = False
        self.has_ended = False
        self.message_id = ""
        self._is_agentflow = self._has_begun = self._has_finished = False
        self._node = ""
        self._spoke = False
        self._speakers: set[str] = set()
        # What goes before the next text: nothing or an empty line where a node's text begins, or half a
        # character, which JavaScript may cut in two. None: nothing is to be done, as for nearly all tokens.
        self._before: str | None = None
        self._half_thought = ""
        # Tools may be used twice alike by two nodes; a source or a file is the same one.
        self._told_of_node: Counter[str] = Counter()
        self._told: Counter[str] = Counter()
        self._agents_told = 0
        self._next_agents: Counter[str] = Counter()
        self._ended_nodes: list[Mapping[str, Any]] = []
        self._files: list[ArtifactMade] = []
        self._executed: list[Any] = []
        self._usage: UsageReported | None = None
        self._asked: ActionAsked | None = None

    def tokens(self, events: bytes) -> str | None:
        """The text of tokens and nothing else as Flowise writes them, None for all other events."""
        # One text with a backslash at its end would hide where it ends.
        if self._before is not None or not events.startswith(_FRAME) or _UNCLEAR_END in events:
            return None
        return self.token(events[len(_FRAME) : -2].replace(_BETWEEN_TOKENS, b""))

    def token(self, payload: bytes) -> str | None:
        """The text of a token as Flowise writes it, None for all else: nearly all go this short way."""
        if self._before is None and payload.startswith(_TOKEN) and payload.endswith(b'"}'):
            try:
                text: str = orjson.loads(payload[_TOKEN_TEXT:-1])
            except orjson.JSONDecodeError:
                return None  # more fields, or half a character
            self._spoke = self._spoke or bool(text)
            return text
        return None

    def decode(self, payload: bytes) -> Iterator[FlowEvent]:
        """Give the events of one payload; unknown and malformed ones give none."""
        message = _message(payload)
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
        if self._before in ("", _APART):
            data = data.lstrip("\r\n")  # a person's question begins with an empty line
        if data:
            self._spoke = True
            text, half = _joined(self._before or "", data)
            self._before = half or None
            if text:
                yield TextDelta(text)

    def _thinking(self, data: Any) -> Iterator[FlowEvent]:
        if isinstance(data, str) and data:
            thought, self._half_thought = _joined(self._half_thought, data)
            if thought:
                yield ReasoningDelta(thought)

    def _source_documents(self, data: Any) -> Iterator[FlowEvent]:
        if fresh := tuple(self._untold(self._told, "source", data)):
            yield SourcesFound(fresh)

    def _used_tools(self, data: Any) -> Iterator[FlowEvent]:
        for tool in self._untold(self._told_of_node, "used", data):
            yield tool_used(tool)

    def _called_tools(self, data: Any) -> Iterator[FlowEvent]:
        for tool in self._untold(self._told_of_node, "called", data):
            yield ToolCalled(_text(tool.get("tool")), tool.get("toolInput"))

    def _artifacts(self, data: Any) -> Iterator[FlowEvent]:
        # Told at the end: a file of an early node would stand before the text here, and a JSON answer has no
        # order of its own.
        self._files += map(artifact_made, self._untold(self._told, "artifact", data))
        return iter(())

    def _agent_reasoning(self, data: Any) -> Iterator[FlowEvent]:
        if isinstance(data, str):
            data = lenient_json(data)
        agents = _dicts(data)
        for agent in agents[self._agents_told :]:
            # The flow's last events tell all agents' tools, sources and files once more.
            name = _text(agent.get("agentName"))
            if not self._next_agents[name]:
                yield StepStarted(name)
            self._next_agents[name] -= bool(self._next_agents[name])
            for tool in _dicts(agent.get("usedTools")):
                self._told_of_node[_key("used", tool)] += 1
                yield tool_used(tool)
            yield from self._source_documents(agent.get("sourceDocuments"))
            for kind in ("artifacts", "fileAnnotations"):
                yield from self._artifacts(agent.get(kind))
        self._agents_told = max(self._agents_told, len(agents))

    def _next_agent(self, data: Any) -> Iterator[FlowEvent]:
        # The agent's own entry in `agentReasoning` follows when it is done.
        if isinstance(data, str) and data:
            self._next_agents[data] += 1
            yield StepStarted(data)

    def _next_agent_flow(self, data: Any) -> Iterator[FlowEvent]:
        if not isinstance(data, dict):
            return
        self._is_agentflow = True
        label, status = _text(data.get("nodeLabel")), _text(data.get("status"))
        if _text(data.get("nodeId")).startswith("startAgentflow"):
            return
        if status == "INPROGRESS":
            yield from self._ended_steps()
            yield from self._lone_half()
            if self._spoke:
                self._speakers.add(self._node)
            self._node, self._spoke = _text(data.get("nodeId")), False
            self._before = _APART if self._speakers else ""
            self._told_of_node.clear()
            yield StepStarted(label)
        elif status:
            # How long it took stands in the executed data, which comes next.
            self._ended_nodes.append(data)

    def _agent_flow_event(self, data: Any) -> Iterator[FlowEvent]:
        self._is_agentflow = True
        self._has_begun = self._has_begun or data == "INPROGRESS"
        self._has_finished = self._has_finished or data in ("FINISHED", "STOPPED")
        # After FINISHED only ids and follow-up prompts come, seconds later (Flowise issue 5346).
        self.is_complete = self.is_complete or data == "FINISHED"
        return iter(())

    def _executed_data(self, data: Any) -> Iterator[FlowEvent]:
        self._executed = _dicts(data) or self._executed
        return self._ended_steps()

    def _ended_steps(self) -> Iterator[FlowEvent]:
        ended, self._ended_nodes = self._ended_nodes, []
        for node in ended:
            entries = [entry for entry in self._executed if entry.get("nodeId") == node.get("nodeId")]
            # Only the last node has its tools' results streamed as events of their own.
            yield from self._used_tools(_output(entries[-1]).get("usedTools") if entries else None)
            yield StepEnded(_text(node.get("nodeLabel")), _text(node.get("status")), _seconds(entries[-1:]))

    def _action(self, data: Any) -> Iterator[FlowEvent]:
        # Told at the end: an answer without tokens must come before its question.
        self._asked = action_asked(data) if isinstance(data, dict) else self._asked
        return iter(())

    def _usage_metadata(self, data: Any) -> Iterator[FlowEvent]:
        if isinstance(data, dict):
            self._usage = _usage_of(data) or self._usage
        return iter(())

    def _metadata(self, data: Any) -> Iterator[FlowEvent]:
        self.is_complete = True
        if isinstance(data, dict):
            identity = identified(data)
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
        """Whether the stream itself tells that nothing is missing, which it does of agentflows alone."""
        return self._has_begun and self._has_finished

    @property
    def is_cut(self) -> bool:
        """Whether the first or the last events of an agentflow are missing."""
        return self._is_agentflow and not self.is_whole

    @property
    def is_silent(self) -> bool:
        """Whether nothing has come that a person could see."""
        has_text = self._spoke or self._speakers or executed_text(self._executed)
        return not (has_text or self._asked or self._files)

    def complete(self, row: Mapping[str, Any], rest: str) -> Iterator[FlowEvent]:
        """Give what the stored message has and the stream lacked: the rest of the text, and all beside it."""
        if rest:
            text = rest.lstrip("\r\n") if self._before in ("", _APART) else rest
            before = _APART if self._before == _APART else ""
            self._before, self._spoke = None, True
            yield TextDelta(before + text)
        execution = _dict(row.get("execution"))
        told = {**row, "agentFlowExecutedData": execution.get("executionData")}
        for name in ("agentFlowExecutedData", "usedTools", "sourceDocuments", "artifacts", "fileAnnotations"):
            yield from self._HANDLERS[name](self, _parsed(told.get(name)))
        yield from self._action(_parsed(row.get("action")))

    def closing(self) -> Iterator[FlowEvent]:
        """Give what is known only when the run is over: text no token carried, files, usage, its end."""
        yield from self._ended_steps()
        yield from self._lone_half()
        if not self._spoke and (text := self._silent_end()):
            yield TextDelta(_APART + text if self._speakers else text)
        if asked := self._asked or executed_action(self._executed):
            yield asked
        yield from self._files
        usage = executed_usage(self._executed) or self._usage
        if usage:
            yield usage
        yield TurnEnded(executed_reason(self._executed))

    def _lone_half(self) -> Iterator[FlowEvent]:
        if self._before not in (None, "", _APART):
            yield TextDelta("\ufffd")
        self._before = None

    def _silent_end(self) -> str:
        """The text of the last node, which is Flowise's answer, if none of its tokens told it."""
        is_told = self._speakers and _text(_last(self._executed).get("nodeId")) != self._node
        return "" if is_told else executed_text(self._executed).lstrip("\r\n")

    @staticmethod
    def _untold(told: Counter[str], kind: str, data: Any) -> list[dict[str, Any]]:
        seen: Counter[str] = Counter()
        fresh = []
        for item in _dicts(data):
            key = _key(kind, item)
            seen[key] += 1
            if seen[key] > told[key]:
                told[key] += 1
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


def answer_events(answer: Any, human_input: Mapping[str, Any] | None = None) -> Iterator[FlowEvent]:
    """A JSON answer into the same events that its stream would have given.

    `human_input` is the decision that resumed the run: what ran before is in the answer, too.
    """
    if not isinstance(answer, dict):
        yield from _text_event(answer)
        yield TurnEnded()
        return
    executed, agents = _dicts(answer.get("agentFlowExecutedData")), _dicts(answer.get("agentReasoning"))
    for node in executed:
        yield from node_events(node)
    for agent in agents:
        yield from agent_events(agent)
    for tool in _dicts(answer.get("usedTools")):
        yield tool_used(tool)
    finds = [*map(_output, executed), *agents, answer]
    if documents := tuple(_once(finds, "sourceDocuments")):
        yield SourcesFound(documents)
    yield from _text_event(answer_text(answer, _resumed(executed, human_input)))
    action = answer.get("action")
    if asked := action_asked(action) if isinstance(action, dict) else executed_action(executed):
        yield asked
    yield from map(artifact_made, _once(finds, "artifacts", "fileAnnotations"))
    if usage := executed_usage(executed):
        yield usage
    yield identified(answer)
    yield TurnEnded(executed_reason(executed))


def _once(finds: list[dict[str, Any]], *names: str) -> list[dict[str, Any]]:
    """What nodes, agents and the flow itself found, each once although several may tell of it."""
    told = {_key("", item): item for find in finds for name in names for item in _dicts(find.get(name))}
    return list(told.values())


_ENVELOPE = frozenset(
    (
        *("question", "form", "chatId", "chatMessageId", "sessionId", "executionId", "memoryType"),
        *("isStreamValid", "followUpPrompts", "flowVariables", "action", "agentReasoning", "assistant"),
        *("agentFlowExecutedData", "sourceDocuments", "usedTools", "artifacts", "fileAnnotations"),
    )
)


def answer_text(answer: Mapping[str, Any], executed: list[Any]) -> Any:
    """The answer itself: `text`, `json`, the nodes' output, else what a custom function returned."""
    text = answer.get("text")
    if isinstance(text, str) and executed:
        last = text if text.strip() else executed_text(executed)
        texts = [*map(executed_text, _earlier_ends(executed)), last]
        return _APART.join(filter(None, (each.lstrip("\r\n") for each in texts)))
    if isinstance(text, str):
        return text if text.strip() else ""
    if text is not None:
        return text
    if answer.get("json") is not None:
        return answer["json"]
    return {name: value for name, value in answer.items() if name not in _ENVELOPE} or ""


def executed_text(executed: list[Any]) -> str:
    """What the last executed node put out, for nodes that send no token; never a second run."""
    output = _output(_last(executed))
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
"""Types of nodes that stream what they say where they end a branch."""


def _earlier_ends(executed: list[Any]) -> list[list[Any]]:
    """The last nodes of all branches of a run but the one that ran last; none of a run that is stopped."""
    if _last(executed).get("status") == "STOPPED":
        return []
    before = [node["previousNodeIds"] for node in executed if isinstance(node.get("previousNodeIds"), list)]
    followed = {name for names in before for name in names if isinstance(name, str)}
    return [
        [node]
        for node in executed[:-1]
        if _text(_dict(node.get("data")).get("name")) in _SPEAKING
        and _text(node.get("nodeId")) not in followed
    ]


def _resumed(executed: list[Any], human_input: Mapping[str, Any] | None) -> list[Any]:
    """The nodes that ran since a decision."""
    if human_input is None:
        return executed
    places = [n for n, node in enumerate(executed) if node.get("nodeId") == human_input.get("startNodeId")]
    return executed[places[-1] if places else -1 :]


def executed_action(executed: list[Any]) -> ActionAsked | None:
    """The decision that a stopped run waits for: before 3.1.2 a JSON answer has it nowhere else."""
    action = _dict(_output(_last(executed)).get("humanInputAction"))
    return action_asked(action) if action and _last(executed).get("status") == "STOPPED" else None


def executed_usage(executed: list[Any]) -> UsageReported | None:
    """Tokens of all nodes of a run, or None when no node reported any."""
    total = None
    for node in executed:
        usage = _output(node).get("usageMetadata")
        if isinstance(usage, dict):
            for part in (usage, *_calls_before_tools(node, usage)):
                total = _added(total, _usage_of(part))
    return total


def _calls_before_tools(node: Mapping[str, Any], usage: Mapping[str, Any]) -> list[Any]:
    # An Agent's own figures count its last model call alone; those before a tool sit in its messages.
    if not usage.get("tool_call_tokens"):
        return []
    messages = _dicts(_dict(_dict(node.get("data")).get("input")).get("messages"))
    return [m["usage_metadata"] for m in messages if isinstance(m.get("usage_metadata"), dict)]


def executed_reason(executed: list[Any]) -> FinishReason:
    """Why the model of the last node stopped, in OpenAI's words."""
    output = _output(_last(executed))
    reason = _dict(output.get("responseMetadata")).get("finish_reason")
    if reason in ("length", "max_tokens", "MAX_TOKENS"):
        return "length"
    return "content_filter" if reason in ("content_filter", "SAFETY") else "stop"


def node_events(node: Mapping[str, Any]) -> Iterator[FlowEvent]:
    """The steps, thoughts and tools of one executed node of an agentflow."""
    output, label = _output(node), _text(node.get("nodeLabel"))
    if _text(node.get("nodeId")).startswith("startAgentflow"):
        return
    yield StepStarted(label)
    thinking = _dict(output.get("reasonContent")).get("thinking")
    if isinstance(thinking, str) and thinking:
        yield ReasoningDelta(thinking)
    tools = _dicts(output.get("usedTools"))
    for tool in tools:
        yield ToolCalled(_text(tool.get("tool")), tool.get("toolInput"))
    for call in _dicts(output.get("calledTools")):  # asked for but not run: a person decides
        yield ToolCalled(_text(call.get("name")), call.get("args"))
    for tool in tools:
        yield tool_used(tool)
    yield StepEnded(label, _text(node.get("status")), _seconds([node]))


def agent_events(agent: Mapping[str, Any]) -> Iterator[FlowEvent]:
    """The step of one agent of a sequential or multi-agent flow."""
    yield StepStarted(_text(agent.get("agentName")))
    for tool in _dicts(agent.get("usedTools")):
        yield tool_used(tool)


def tool_used(tool: Mapping[str, Any]) -> ToolUsed:
    """One entry of `usedTools`."""
    error = tool.get("error")
    shown = readable(json_text(error)) or "no reason given" if error else None
    return ToolUsed(_text(tool.get("tool")), tool.get("toolInput"), tool.get("toolOutput"), shown)


def artifact_made(artifact: Mapping[str, Any]) -> ArtifactMade:
    """A file with the name under which Flowise keeps it, if it does and the name is a plain one."""
    name = artifact.get("fileName") if "filePath" in artifact else artifact.get("data")
    stored = _STORED.fullmatch(name) if isinstance(name, str) else None
    is_kept = stored and ("filePath" in artifact or stored["mark"])
    return ArtifactMade(artifact, stored["name"] if stored and is_kept else "")


_STORED = re.compile(r"(?P<mark>FILE-STORAGE::)?(?P<name>(?!\.)[^/\\\x00-\x1f\x7f]{1,200})")
"""A name that is no path: Flowise itself keeps files flat beside each run."""


def action_asked(action: Mapping[str, Any]) -> ActionAsked:
    """A human-in-the-loop stop with the labels of its buttons."""
    labels = [_text(element.get("label")) for element in _dicts(action.get("elements"))]
    return ActionAsked(action, tuple(label for label in labels if label))


def identified(data: Mapping[str, Any]) -> TurnIdentified:
    """The ids in a JSON answer or a `metadata` event.

    Follow-up prompts are a JSON string within JSON, in a JSON answer within one more.
    """
    prompts = data.get("followUpPrompts")
    for _ in range(2):
        prompts = lenient_json(prompts) if isinstance(prompts, str) else prompts
    return TurnIdentified(
        _text(data.get("chatMessageId")) or None,
        _text(data.get("sessionId")) or None,
        _text(data.get("executionId")) or None,
        _text(data.get("memoryType")) or None,
        tuple(p for p in prompts if isinstance(p, str)) if isinstance(prompts, list) else (),
        _text(data.get("question")) or None,
    )


def _parsed(value: Any) -> Any:
    """A column of Flowise's database, which keeps JSON as text, whether or not it was read already."""
    return lenient_json(value) if isinstance(value, str) else value


def _key(kind: str, item: Any) -> str:
    try:
        return f"{kind} {orjson.dumps(item, option=orjson.OPT_SORT_KEYS).decode()}"
    except TypeError:
        return f"{kind} {item!r}"


def _text_event(value: Any) -> Iterator[FlowEvent]:
    # A flow may return any JSON value; Flowise's own chat shows it as JSON text.
    text = "" if value is None else json_text(value)
    if text:
        yield TextDelta(text)


def _usage_of(usage: Mapping[str, Any]) -> UsageReported | None:
    """What a model reported; None for zeros alone, which stand where it reported nothing."""
    found = UsageReported(
        _count(usage.get("input_tokens")),
        _count(usage.get("output_tokens")),
        _count(_dict(usage.get("output_token_details")).get("reasoning")),
        _count(_dict(usage.get("input_token_details")).get("cache_read")),
    )
    return found if found.input_tokens or found.output_tokens else None


def _added(total: UsageReported | None, more: UsageReported | None) -> UsageReported | None:
    if total is None or more is None:
        return total or more
    return UsageReported(
        total.input_tokens + more.input_tokens,
        total.output_tokens + more.output_tokens,
        total.reasoning_tokens + more.reasoning_tokens,
        total.cached_tokens + more.cached_tokens,
    )


def _output(node: Any) -> dict[str, Any]:
    return _dict(_dict(_dict(node).get("data")).get("output"))


def _last(executed: list[Any]) -> dict[str, Any]:
    return _dict(executed[-1]) if executed else {}


def _seconds(entries: list[Any]) -> float | None:
    """How long the model of an executed node took; Flowise tells it for some kinds of nodes."""
    times = [_dict(_output(entry).get("timeMetadata")).get("delta") for entry in entries]
    known = [time for time in times if isinstance(time, (int, float)) and not isinstance(time, bool)]
    return known[0] / 1000 if known else None


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _count(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def lenient_json(text: str | bytes) -> Any:
    """A JSON value as Flowise writes it, None for what is none."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return _mended(_halved_json(text))


def _message(payload: bytes) -> Any:
    """The message of an event; a text keeps half a character, whose other half the next one brings."""
    try:
        return orjson.loads(payload)
    except orjson.JSONDecodeError:
        message = _halved_json(payload)
        is_text = isinstance(message, dict) and message.get("event") in ("token", "thinking")
        return message if is_text else _mended(message)


def _joined(half: str, text: str) -> tuple[str, str]:
    """A text behind the half of a character that came before it, and the half at its own end."""
    text = half + text
    end = len(text) - ("\ud800" <= text[-1] <= "\udbff")
    return _without_lone_surrogates(text[:end]), text[end:]


def _halved_json(text: str | bytes) -> Any:
    # JavaScript writes half of a surrogate pair as an escape, which orjson refuses and UTF-8 cannot hold.
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _mended(value: Any) -> Any:
    try:
        return _without_lone_surrogates(value)
    except RecursionError:
        return None


def _without_lone_surrogates(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, list):
        return [_without_lone_surrogates(item) for item in value]
    if isinstance(value, dict):
        return {_without_lone_surrogates(k): _without_lone_surrogates(v) for k, v in value.items()}
    return value
