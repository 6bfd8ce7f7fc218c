"""How the demo's agentflows with an LLM or an Agent node run, as a recorded Flowise 3.1.4 does."""

from __future__ import annotations

import json
import re
import time
import uuid
from dataclasses import dataclass, field

from flowise_demo.agent_events import fail_node, human_action, last_events, node_entry, node_event, start_node
from flowise_demo.chatflow import silence, speech, tokens_of
from flowise_demo.flows import AGENT_NODES, Json
from flowise_demo.json_answers import json_answer
from flowise_demo.model import Message, answer_text, words_of
from flowise_demo.steps import Event, Fault, Pause, RunFailed, Steps, Turn

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


def agentflow(turn: Turn) -> Steps:
    """Start, then one LLM or Agent node."""
    node = (f"{_prefix(turn)}Agentflow_0", AGENT_NODES[turn.flow.kind][1][1])
    yield Event("agentFlowEvent", "INPROGRESS")
    entries = turn.execution.entries[:-1] if turn.execution and turn.human_input else []
    if not entries:
        yield from start_node(turn, entries)
    if turn.script.fault_at == "start":
        yield Fault(turn.script.fault)
    yield node_event(*node, "INPROGRESS")
    run = _NodeRun(list(turn.messages))
    try:
        yield from _model_node(turn, run)
    except RunFailed as failure:
        yield from fail_node(node, entries, f"Error in {node[1]} node: {failure}")
    entries.append(_model_entry(turn, run))
    yield from last_events(turn, run.text, entries)


@dataclass(slots=True)
class _NodeRun:
    """What a model node did, for its entry in the executed data."""

    messages: list[Message]
    text: str = ""
    called: list[Json] = field(default_factory=list)
    used: list[Json] = field(default_factory=list)
    thoughts: str = ""
    output_tokens: int = 0
    action: Json | None = None
    started_ms: int = field(default_factory=lambda: int(time.time() * 1000))


def _model_node(turn: Turn, run: _NodeRun) -> Steps:
    if turn.script.failure:
        raise RunFailed(turn.script.failure)
    if turn.flow.kind == "llm_agent" or turn.script.tokens is not None:
        yield from _thinking(run) if turn.script.thinks else ()
        yield from _streamed(turn, run, tokens_of(turn))
    elif turn.execution and turn.human_input:
        yield from _resumed_tool(turn, run)
    else:
        yield from _tool_round(turn, run)
    called = [_called(call, "") for call in run.called]
    yield Event("calledTools", called)
    yield Event("usageMetadata", _usage(run))


def _thinking(run: _NodeRun) -> Steps:
    """The reasoning, each piece with the empty token that Flowise sends beside it."""
    for thought in _THOUGHTS:
        yield Event("thinking", thought)
        yield Event("token", "")
        yield Pause(0.005)
    yield Event("thinking", "", duration=1)
    run.thoughts = "".join(_THOUGHTS)


def _streamed(turn: Turn, run: _NodeRun, tokens: tuple[str, ...]) -> Steps:
    yield Event("token", "")
    yield from silence(turn.script)
    yield from speech(turn, tokens)
    yield Event("token", "")
    yield Event("token", "")
    run.text, run.output_tokens = "".join(tokens), len(tokens)


def _tool_round(turn: Turn, run: _NodeRun) -> Steps:
    """The model asks for its tool; the tool runs, or a person is asked first."""
    yield Event("token", "")
    if turn.flow.kind == "tool_agent":
        yield from _thinking(run)
    for _ in range(4):
        yield Event("token", "")
    call = _tool_call_of(turn)
    yield Event("calledTools", [_called(call, "")])
    run.messages = [_SYSTEM_MESSAGE, *run.messages]
    if turn.flow.kind == "tool_agent":
        run.messages.append(_calling_message(call, "", _usage(run)))
        yield from _tool_answered(turn, run, call)
        return
    shown = json.dumps(call, indent=2)
    run.text, run.called, run.output_tokens = (
        f"\nAttempting to use tool:\n```json\n{shown}\n```",
        [call],
        5,
    )
    run.messages.append(_calling_message(call, run.text, _usage(run)))
    run.action = human_action("agentAgentflow_0", "Agent", _model_input(turn, run))
    yield Event("token", run.text)


def _resumed_tool(turn: Turn, run: _NodeRun) -> Steps:
    """The person has decided about the tool call of the stopped run."""
    stopped, decision = turn.execution, turn.human_input or {}
    run.messages = list(stopped.entries[-1]["data"]["input"]["messages"]) if stopped else []
    call = run.messages[-1]["tool_calls"][0]
    yield Event("calledTools", [_called(call, "")])
    if decision.get("type") == "reject":
        yield from _streamed(turn, run, words_of("I did not use the tool. "))
    else:
        yield from _tool_answered(turn, run, call)


def _tool_answered(turn: Turn, run: _NodeRun, call: Json) -> Steps:
    result = _calculated(call["args"]["input"])
    run.messages.append(
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
    yield from _streamed(turn, run, words_of(text))
    run.used = [_called(call, result)]
    yield Event("usedTools", run.used)


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


def _usage(run: _NodeRun) -> Json:
    taken = sum(len(str(message["content"]).split()) for message in run.messages)
    return {
        "input_tokens": taken,
        "output_tokens": run.output_tokens,
        "total_tokens": taken + run.output_tokens,
        "input_token_details": {},
        "output_token_details": {},
    }


def _model_input(turn: Turn, run: _NodeRun) -> Json:
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
    node: Json = {"messages": run.messages, f"{prefix}Model": "chatOpenAI"}
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


def _model_output(run: _NodeRun) -> Json:
    ended_ms, usage = int(time.time() * 1000), _usage(run)
    model_usage = {
        "prompt_tokens": usage["input_tokens"],
        "completion_tokens": usage["output_tokens"],
        "total_tokens": usage["total_tokens"],
    }
    tool_tokens = usage["total_tokens"] if run.used or run.called else 0
    costs = (round(usage["input_tokens"] * 1.5e-7, 12), round(usage["output_tokens"] * 6e-7, 12))
    return {
        "content": run.text,
        "timeMetadata": {"start": run.started_ms, "end": ended_ms, "delta": ended_ms - run.started_ms},
        "calledTools": run.called,
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
            "finish_reason": "tool_calls" if run.called else "stop",
            "system_fingerprint": "fp_fake",
            "model_name": "gpt-4o-mini",
        },
    }


def _model_entry(turn: Turn, run: _NodeRun) -> Json:
    """The node's entry in the executed data, fields in Flowise's order."""
    prefix, output = _prefix(turn), _model_output(run)
    if run.used:
        output["usedTools"] = run.used
    if prefix == "agent":
        output["availableTools"] = [_CALCULATOR]
    if run.action:
        output |= {"isWaitingForHumanInput": True, "humanInputAction": run.action}
    if run.thoughts:
        output["reasonContent"] = {"thinking": run.thoughts, "thinkingDuration": 1}
    asked = [{"role": "user", "content": turn.spoken}] if turn.spoken else []
    replied: Message = {"role": "user", "content": run.text, "name": prefix}
    if run.used:
        replied["additional_kwargs"] = {"usedTools": run.used}
    parts = {
        "input": _model_input(turn, run),
        "output": output,
        "state": {},
        "chatHistory": [*asked, replied],
    }
    label = AGENT_NODES[turn.flow.kind][1][1]
    status = "STOPPED" if run.action else "FINISHED"
    return node_entry(f"{prefix}Agentflow_0", label, parts, "startAgentflow_0", status)
