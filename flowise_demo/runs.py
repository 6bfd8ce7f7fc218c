"""How the demo's flows run: generators of steps (events, pauses, faults) that end with an `Answer`.

No sockets and no waiting here: `flowise_demo` takes the steps and acts on them. The events of an agentflow,
their order and their fields are those of a recorded Flowise 3.1.4.
"""

from __future__ import annotations

import json
import re
import time
import uuid
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from flowise_demo.json_answers import json_answer
from flowise_demo.scripts import AGENT_NODES, Flow, Json, Message, Script, Wait, answer_text, words_of


class RunFailed(Exception):
    """The run ended with this text; the server adds Flowise's prefix."""


@dataclass(frozen=True, slots=True)
class Event:
    """One SSE message of the run; `duration` is a third key that only `thinking` has."""

    name: str
    data: Any
    duration: int | None = None


@dataclass(frozen=True, slots=True)
class Pause:
    """The run takes this long; nothing is sent."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Raw:
    """Bytes inside the stream that no Flowise 3.1.4 would send, or a heartbeat."""

    frame: bytes


@dataclass(frozen=True, slots=True)
class Fault:
    """The connection breaks in this way; the run goes on unheard."""

    name: str


@dataclass(frozen=True, slots=True)
class Answer:
    """The end of a run: what the JSON answer and the stored message are made of."""

    text: str
    extras: Json = field(default_factory=dict)
    entries: list[Json] = field(default_factory=list)
    action: Json | None = None


Step = Event | Pause | Wait | Raw | Fault | Answer
Steps = Iterator[Step]
HEARTBEAT = Raw(b":heartbeat\n\n")


@dataclass(slots=True)
class Execution:
    """A stopped agentflow run that waits for a person."""

    id: str
    entries: list[Json]


@dataclass(frozen=True, slots=True)
class Turn:
    """One call of a flow, as its nodes see it."""

    flow: Flow
    question: Any
    messages: list[Message]  # history, stored messages, question
    script: Script
    token_seconds: float
    human_input: Json | None = None
    execution: Execution | None = None

    @property
    def spoken(self) -> str:
        """The question if it is text, else nothing: what an agentflow's nodes take as input."""
        return self.question if isinstance(self.question, str) else ""


def steps_of(turn: Turn) -> Steps:
    """The run of this turn, step by step."""
    if turn.script.waits:
        yield turn.script.waits
    if turn.script.quota:
        raise RunFailed(turn.script.failure)
    if turn.flow.type == "CHATFLOW":
        yield from _chatflow(turn)
    elif turn.flow.kind == "human_input":
        yield from _resumed_approval(turn) if turn.human_input else _asked_approval(turn)
    else:
        yield from _agentflow(turn)


def _chatflow(turn: Turn) -> Steps:
    script, sources = turn.script, turn.flow.kind == "retrieval"
    if script.failure:
        raise RunFailed(script.failure)
    tokens = _tokens(turn)
    yield Event("start", tokens[0] if sources and tokens else "")
    if script.fault_at == "start":
        yield Fault(script.fault)
    yield from _silence(script)
    yield from _speech(turn, tokens)
    if sources:
        yield Event("sourceDocuments", SOURCE_DOCUMENTS)
    extras = {"sourceDocuments": SOURCE_DOCUMENTS} if sources else {}
    if turn.flow.kind == "files":
        extras = FILES_MADE
        for name, made in extras.items():
            yield Event(name, made)
    if script.fault_at == "end":
        yield Fault(script.fault)
    yield Answer("".join(tokens), extras)


def _tokens(turn: Turn) -> tuple[str, ...]:
    if turn.script.tokens is not None:
        return turn.script.tokens
    return words_of(answer_text(turn.flow, turn.messages))


def _silence(script: Script) -> Steps:
    left, period = script.silence_seconds, script.heartbeat_seconds
    while left > period > 0:
        yield Pause(period)
        yield HEARTBEAT
        left -= period
    if left > 0:
        yield Pause(left)


def _speech(turn: Turn, tokens: tuple[str, ...]) -> Steps:
    """The tokens at their pace, then the failure or fault that the script puts behind them."""
    script = turn.script
    for frame in script.frames:
        yield Raw(frame)
    seconds = turn.token_seconds if script.token_seconds is None else script.token_seconds
    pause = Pause(seconds)
    for token in tokens:
        yield Event("token", token)
        if seconds:
            yield pause
    if script.breaks_off:
        raise RunFailed(script.breaks_off)
    if script.fault and script.fault_at == "tokens":
        yield Fault(script.fault)


def _chart() -> bytes:
    """A bar chart of 120 by 80 pixels as PNG."""
    heights = (20, 45, 30, 70, 55)
    rows = []
    for y in range(80):
        row = bytearray(b"\xff" * 360)
        for bar, height in enumerate(heights):
            if 80 - y <= height:
                row[bar * 72 + 12 : bar * 72 + 60] = b"\x3b\x82\xf6" * 16
        rows.append(b"\0" + bytes(row))
    size = (120).to_bytes(4, "big") + (80).to_bytes(4, "big")
    parts = ((b"IHDR", size + b"\x08\x02\0\0\0"), (b"IDAT", zlib.compress(b"".join(rows))), (b"IEND", b""))
    chunks = (len(c).to_bytes(4, "big") + k + c + zlib.crc32(k + c).to_bytes(4, "big") for k, c in parts)
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


STORED_FILES: Mapping[str, bytes] = MappingProxyType(
    {
        "chart.png": _chart(),
        "report.pdf": b"%PDF-1.4\n%%EOF\n",
        "page.html": b"<script>document.title = 'run'</script>",
        "not really.png": b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>",
    }
)
"""What a run of the flow `demo-files` leaves in Flowise's storage."""

FILES_MADE: Json = {
    "usedTools": [{"tool": "make_chart", "toolInput": {"title": "Bars"}, "toolOutput": "chart.png"}],
    "artifacts": [
        {"type": "png", "data": "FILE-STORAGE::chart.png"},
        {"type": "html", "data": "<b>hi</b>"},
        {"type": "html", "data": "FILE-STORAGE::page.html"},
        {"type": "png", "data": "FILE-STORAGE::not really.png"},
    ],
    "fileAnnotations": [{"filePath": "FILE-STORAGE::report.pdf", "fileName": "report.pdf"}],
}

SOURCE_DOCUMENTS: list[Json] = [
    {
        "pageContent": "Flowise is an open source tool to build AI agents visually.",
        "metadata": {
            "source": "https://docs.flowiseai.com/",
            "title": "Introduction",
            "loc": {"lines": {"from": 1, "to": 4}},
        },
    },
    {
        "pageContent": "The Prediction API is the primary endpoint for your flows.",
        "metadata": {"source": "https://docs.flowiseai.com/using-flowise/prediction", "title": "Prediction"},
    },
    {
        "pageContent": "The Nile is a river in Africa.",
        "metadata": {"source": "blob", "blobType": "", "fileName": "rivers.txt", "loc": {"pageNumber": 3}},
    },
]

# --------------------------------------------------------------------------------------- agentflow, version 2
_CREDENTIAL = "c7484414-e4da-4a36-890b-3774d08ab67b"
_SYSTEM_MESSAGE = {"role": "system", "content": "You are the flow agent."}
_CALCULATOR = {
    "name": "calculator",
    "description": "Useful for getting the result of a math expression. The input to this tool should be "
    "a valid mathematical expression that could be executed by a simple calculator.",
    "schema": {"type": "object", "properties": {"input": {"type": "string"}}, "additionalProperties": False},
    "toolNode": {"label": "Calculator", "name": "calculator"},
}
_THOUGHTS = ("The user ", "asks me ", "something; ", "I will ", "use my ", "calculator. ")
_SUM = re.compile(r"(\d{1,9})\s*([-+*/])\s*(\d{1,9})")


def _agentflow(turn: Turn) -> Steps:
    """Start, then one LLM or Agent node."""
    node = (f"{_prefix(turn)}Agentflow_0", AGENT_NODES[turn.flow.kind][1][1])
    yield Event("agentFlowEvent", "INPROGRESS")
    entries = turn.execution.entries[:-1] if turn.execution and turn.human_input else []
    if not entries:
        yield from _start_node(turn, entries)
    if turn.script.fault_at == "start":
        yield Fault(turn.script.fault)
    yield _node(*node, "INPROGRESS")
    said = _Said(list(turn.messages))
    try:
        yield from _model_node(turn, said)
    except RunFailed as failure:
        yield from _broken_node(node, entries, f"Error in {node[1]} node: {failure}")
    entries.append(_model_entry(turn, said))
    yield from _ending(turn, said.text, entries)


def _broken_node(node: tuple[str, str], entries: list[Json], error: str) -> Steps:
    entry = {
        "nodeId": node[0],
        "nodeLabel": node[1],
        "previousNodeIds": ["startAgentflow_0"],
        "data": {"id": node[0], "name": node[0].rpartition("_")[0], "error": error},
        "status": "ERROR",
    }
    yield _node(*node, "ERROR", error)
    yield Event("agentFlowExecutedData", [*entries, entry])
    yield Event("agentFlowEvent", "ERROR")
    raise RunFailed(error)


def _ending(turn: Turn, text: str, entries: list[Json]) -> Steps:
    """The events behind the last node: finished, or stopped to ask a person."""
    last = entries[-1]
    action = last["data"]["output"].get("humanInputAction")
    yield _node(last["nodeId"], last["nodeLabel"], last["status"])
    yield Event("agentFlowExecutedData", entries)
    if action:
        yield Event("agentFlowEvent", "STOPPED")
        yield Event("action", action)
    yield Event("agentFlowEvent", last["status"])
    if turn.script.fault_at == "end":
        yield Fault(turn.script.fault)
    yield Answer(text, {}, entries, action)


def _node(node_id: str, label: str, status: str, error: str = "") -> Event:
    described = {"nodeId": node_id, "nodeLabel": label, "status": status}
    return Event("nextAgentFlow", described | ({"error": error} if error else {}))


def _start_node(turn: Turn, entries: list[Json]) -> Steps:
    asked = {"question": turn.question} if turn.question else {}
    yield _node("startAgentflow_0", "Start", "INPROGRESS")
    yield _node("startAgentflow_0", "Start", "FINISHED")
    entries.append(_entry("startAgentflow_0", "Start", {"input": asked, "output": asked, "state": {}}))
    yield Event("agentFlowExecutedData", list(entries))


def _entry(node_id: str, label: str, parts: Json, previous: str = "", status: str = "FINISHED") -> Json:
    return {
        "nodeId": node_id,
        "nodeLabel": label,
        "data": {"id": node_id, "name": node_id.rpartition("_")[0], **parts},
        "previousNodeIds": [previous] if previous else [],
        "status": status,
    }


@dataclass(slots=True)
class _Said:
    """What a model node did, for its entry in the executed data."""

    messages: list[Message]
    text: str = ""
    called: list[Json] = field(default_factory=list)
    used: list[Json] = field(default_factory=list)
    thoughts: str = ""
    output_tokens: int = 0
    action: Json | None = None
    started_ms: int = field(default_factory=lambda: int(time.time() * 1000))


def _model_node(turn: Turn, said: _Said) -> Steps:
    if turn.script.failure:
        raise RunFailed(turn.script.failure)
    if turn.flow.kind == "llm_agent" or turn.script.tokens is not None:
        yield from _thinking(said) if turn.script.thinks else ()
        yield from _streamed(turn, said, _tokens(turn))
    elif turn.execution and turn.human_input:
        yield from _resumed_tool(turn, said)
    else:
        yield from _tool_round(turn, said)
    called = [_called(call, "") for call in said.called]
    yield Event("calledTools", called)
    yield Event("usageMetadata", _usage(said))


def _thinking(said: _Said) -> Steps:
    """The reasoning, each piece with the empty token that Flowise sends beside it."""
    for thought in _THOUGHTS:
        yield Event("thinking", thought)
        yield Event("token", "")
        yield Pause(0.005)
    yield Event("thinking", "", duration=1)
    said.thoughts = "".join(_THOUGHTS)


def _streamed(turn: Turn, said: _Said, tokens: tuple[str, ...]) -> Steps:
    yield Event("token", "")
    yield from _silence(turn.script)
    yield from _speech(turn, tokens)
    yield Event("token", "")
    yield Event("token", "")
    said.text, said.output_tokens = "".join(tokens), len(tokens)


def _tool_round(turn: Turn, said: _Said) -> Steps:
    """The model asks for its tool; the tool runs, or a person is asked first."""
    yield Event("token", "")
    if turn.flow.kind == "tool_agent":
        yield from _thinking(said)
    for _ in range(4):
        yield Event("token", "")
    call = _tool_call_of(turn)
    yield Event("calledTools", [_called(call, "")])
    said.messages = [_SYSTEM_MESSAGE, *said.messages]
    if turn.flow.kind == "tool_agent":
        said.messages.append(_calling_message(call, "", _usage(said)))
        yield from _tool_answered(turn, said, call)
        return
    shown = json.dumps(call, indent=2)
    said.text, said.called, said.output_tokens = (
        f"\nAttempting to use tool:\n```json\n{shown}\n```",
        [call],
        5,
    )
    said.messages.append(_calling_message(call, said.text, _usage(said)))
    said.action = _action("agentAgentflow_0", "Agent", _model_input(turn, said))
    yield Event("token", said.text)


def _resumed_tool(turn: Turn, said: _Said) -> Steps:
    """The person has decided about the tool call of the stopped run."""
    stopped, decision = turn.execution, turn.human_input or {}
    said.messages = list(stopped.entries[-1]["data"]["input"]["messages"]) if stopped else []
    call = said.messages[-1]["tool_calls"][0]
    yield Event("calledTools", [_called(call, "")])
    if decision.get("type") == "reject":
        yield from _streamed(turn, said, words_of("I did not use the tool. "))
    else:
        yield from _tool_answered(turn, said, call)


def _tool_answered(turn: Turn, said: _Said, call: Json) -> Steps:
    result = _calculated(call["args"]["input"])
    said.messages.append(
        {
            "role": "tool",
            "content": result,
            "tool_call_id": call["id"],
            "name": "calculator",
            "additional_kwargs": {},
        }
    )
    text = f"The tool said {result}. "
    if turn.flow.kind == "tool_agent":
        asked = json_answer(turn.messages)
        text = asked or text + answer_text(turn.flow, turn.messages)
    yield from _streamed(turn, said, words_of(text))
    said.used = [_called(call, result)]
    yield Event("usedTools", said.used)


def _tool_call_of(turn: Turn) -> Json:
    found = _SUM.search(turn.spoken)
    return {
        "name": "calculator",
        "args": {"input": "".join(found.groups()) if found else "6*7"},
        "id": f"call_{uuid.uuid4().hex[:8]}",
        "type": "tool_call",
    }


def _calculated(expression: str) -> str:
    one, operator, two = re.split(r"([-+*/])", expression, maxsplit=1)
    left, right = int(one), int(two)
    if operator == "/":
        return f"{left / right:g}" if right else "Infinity"
    return str({"+": left + right, "-": left - right, "*": left * right}[operator])


def _called(call: Json, output: str) -> Json:
    return {"tool": call["name"], "toolInput": call["args"], "toolOutput": output}


def _calling_message(call: Json, content: str, usage: Json) -> Message:
    arguments = json.dumps(call["args"], separators=(",", ":"))
    function = {"name": call["name"], "arguments": arguments}
    return {
        "role": "assistant",
        "content": content,
        "tool_calls": [call],
        "additional_kwargs": {
            "tool_calls": [{"index": 0, "id": call["id"], "type": "function", "function": function}]
        },
        "usage_metadata": usage,
        "id": f"chatcmpl-{call['id']}",
    }


def _usage(said: _Said) -> Json:
    taken = sum(len(str(message["content"]).split()) for message in said.messages)
    return {
        "input_tokens": taken,
        "output_tokens": said.output_tokens,
        "total_tokens": taken + said.output_tokens,
        "input_token_details": {},
        "output_token_details": {},
    }


def _model_input(turn: Turn, said: _Said) -> Json:
    """A model node's settings as the executed data shows them, messages first."""
    prefix = _prefix(turn)
    human = turn.flow.kind == "tool_approval"
    tool = {"agentSelectedTool": "calculator", "agentSelectedToolConfig": {"agentSelectedTool": "calculator"}}
    config = {
        f"{prefix}Model": "chatOpenAI",
        "credential": _CREDENTIAL,
        "FLOWISE_CREDENTIAL_ID": _CREDENTIAL,
        "modelName": "gpt-4o-mini",
        "temperature": 0.9,
        "streaming": True,
        "basepath": "http://127.0.0.1:9911/v1",
        "allowImageUploads": True,
    }
    node: Json = {"messages": said.messages, f"{prefix}Model": "chatOpenAI"}
    if prefix == "agent":
        node["agentTools"] = [tool | {"agentSelectedToolRequiresHumanInput": human}]
    node |= {
        f"{prefix}EnableMemory": turn.flow.memory,
        f"{prefix}MemoryType": "allMessages",
        f"{prefix}MemoryWindowSize": "20",
        f"{prefix}MemoryMaxTokenLimit": "2000",
        f"{prefix}ReturnResponseAs": "userMessage",
        f"{prefix}ModelConfig": config,
    }
    decided = (
        {"humanInput": turn.human_input | {"startNodeId": "agentAgentflow_0"}} if turn.human_input else {}
    )
    return node | decided


def _prefix(turn: Turn) -> str:
    return "llm" if turn.flow.kind == "llm_agent" else "agent"


def _model_output(said: _Said) -> Json:
    ended_ms, usage = int(time.time() * 1000), _usage(said)
    model_usage = {
        "prompt_tokens": usage["input_tokens"],
        "completion_tokens": usage["output_tokens"],
        "total_tokens": usage["total_tokens"],
    }
    tool_tokens = usage["total_tokens"] if said.used or said.called else 0
    costs = (round(usage["input_tokens"] * 1.5e-7, 12), round(usage["output_tokens"] * 6e-7, 12))
    return {
        "content": said.text,
        "timeMetadata": {"start": said.started_ms, "end": ended_ms, "delta": ended_ms - said.started_ms},
        "calledTools": said.called,
        "usageMetadata": usage
        | {"total_tokens": usage["total_tokens"] + tool_tokens}
        | ({"tool_call_tokens": tool_tokens} if tool_tokens else {})
        | {"input_cost": costs[0], "output_cost": costs[1], "total_cost": round(sum(costs), 12)}
        | {"base_input_cost": 1.5e-7, "base_output_cost": 6e-7},
        "responseMetadata": {
            "prompt": 0,
            "completion": 0,
            "model_provider": "openai",
            "usage": model_usage,
            "finish_reason": "tool_calls" if said.called else "stop",
            "system_fingerprint": "fp_fake",
            "model_name": "gpt-4o-mini",
        },
    }


def _model_entry(turn: Turn, said: _Said) -> Json:
    """The node's entry in the executed data, fields in Flowise's order."""
    prefix, output = _prefix(turn), _model_output(said)
    if said.used:
        output["usedTools"] = said.used
    if prefix == "agent":
        output["availableTools"] = [_CALCULATOR]
    if said.action:
        output |= {"isWaitingForHumanInput": True, "humanInputAction": said.action}
    if said.thoughts:
        output["reasonContent"] = {"thinking": said.thoughts, "thinkingDuration": 1}
    asked = [{"role": "user", "content": turn.spoken}] if turn.spoken else []
    replied: Message = {"role": "user", "content": said.text, "name": prefix}
    if said.used:
        replied["additional_kwargs"] = {"usedTools": said.used}
    parts = {
        "input": _model_input(turn, said),
        "output": output,
        "state": {},
        "chatHistory": [*asked, replied],
    }
    label = AGENT_NODES[turn.flow.kind][1][1]
    status = "STOPPED" if said.action else "FINISHED"
    return _entry(f"{prefix}Agentflow_0", label, parts, "startAgentflow_0", status)


def _action(node_id: str, label: str, node_input: Json) -> Json:
    """What a person is asked to decide."""
    buttons = (("approve", "Proceed"), ("reject", "Reject"))
    return {
        "id": str(uuid.uuid4()),
        "mapping": dict(buttons),
        "elements": [{"type": f"agentflowv2-{kind}-button", "label": label} for kind, label in buttons],
        "data": {"nodeId": node_id, "nodeLabel": label, "input": node_input},
    }


_ASKING = ("humanInputAgentflow_0", "Human Input")


def _asked_approval(turn: Turn) -> Steps:
    """Start, then Human Input, which stops the run."""
    entries: list[Json] = []
    yield Event("agentFlowEvent", "INPROGRESS")
    yield from _start_node(turn, entries)
    yield _node(*_ASKING, "INPROGRESS")
    past = _past(turn.messages[:-1] if turn.spoken else turn.messages)
    # Flowise puts the session's last message in front of the fixed text, so the text grows when asked again.
    text = f"{past[-1]['content'] if past else ''}\n\nShall I go on?"
    yield Event("token", text)
    shown = {"messages": past, "humanInputEnableFeedback": True}
    parts = {
        "input": shown,
        "output": {"content": text, "humanInputAction": _action(*_ASKING, shown)},
        "state": {},
        "chatHistory": [{"role": "assistant", "content": text}],
    }
    entries.append(_entry(*_ASKING, parts, "startAgentflow_0", "STOPPED"))
    yield from _ending(turn, text, entries)


def _past(messages: list[Message]) -> list[Message]:
    return [{"content": message["content"], "role": message["role"]} for message in messages]


def _resumed_approval(turn: Turn) -> Steps:
    """The person has decided; the run goes on to the reply of that branch."""
    decision = dict(turn.human_input or {}) | {"startNodeId": _ASKING[0]}
    entries = turn.execution.entries[:-1] if turn.execution else []
    yield Event("agentFlowEvent", "INPROGRESS")
    yield _node(*_ASKING, "INPROGRESS")
    yield _node(*_ASKING, "FINISHED")
    entries.append(_decided_entry(turn, decision))
    yield Event("agentFlowExecutedData", list(entries))
    branch = 0 if decision["type"] == "proceed" else 1
    reply_id, text = f"directReplyAgentflow_{branch}", ("You said yes", "You said no")[branch]
    yield _node(reply_id, "Direct Reply", "INPROGRESS")
    yield Event("token", text)
    parts = {"input": {}, "output": {"content": text}, "state": {}}
    entries.append(_entry(reply_id, "Direct Reply", parts, _ASKING[0]))
    yield from _ending(turn, text, entries)


def _decided_entry(turn: Turn, decision: Json) -> Json:
    said = decision.get("feedback") or decision["type"]
    feedback = {"feedback": decision["feedback"]} if decision.get("feedback") else {}
    conditions = [
        {"type": kind, "startNodeId": _ASKING[0], **feedback, "isFulfilled": kind == decision["type"]}
        for kind in ("proceed", "reject")
    ]
    messages = [*_past(turn.messages), {"role": "user", "content": said}]
    parts: Json = {
        "input": decision | {"messages": messages},
        "output": {"content": said, "conditions": conditions},
        "state": {},
    }
    if feedback:
        parts["chatHistory"] = [{"role": "user", "content": said}]
    return _entry(*_ASKING, parts, "startAgentflow_0")


def without_credentials(entries: Any) -> Any:
    """The executed data as the JSON answer has it: without the credentials' ids."""
    if isinstance(entries, list):
        return [without_credentials(part) for part in entries]
    if isinstance(entries, dict):
        return {
            name: without_credentials(part)
            for name, part in entries.items()
            if name != "FLOWISE_CREDENTIAL_ID"
        }
    return entries
