"""How the demo's agentflow with a Human Input node stops, and goes on once a person has decided."""

from __future__ import annotations

from flowise_demo.agent_events import human_action, last_events, node_entry, node_event, start_node
from flowise_demo.flows import Json
from flowise_demo.model import Message
from flowise_demo.steps import Event, Steps, Turn

_HUMAN_INPUT = ("humanInputAgentflow_0", "Human Input")


def ask_approval(turn: Turn) -> Steps:
    """Start, then Human Input, which stops the run."""
    entries: list[Json] = []
    yield Event("agentFlowEvent", "INPROGRESS")
    yield from start_node(turn, entries)
    yield node_event(*_HUMAN_INPUT, "INPROGRESS")
    past = _past(turn.messages[:-1] if turn.spoken else turn.messages)
    # Flowise puts the session's last message in front of the fixed text, so the text grows when asked again.
    text = f"{past[-1]['content'] if past else ''}\n\nShall I go on?"
    yield Event("token", text)
    shown = {"messages": past, "humanInputEnableFeedback": True}
    parts = {
        "input": shown,
        "output": {"content": text, "humanInputAction": human_action(*_HUMAN_INPUT, shown)},
        "state": {},
        "chatHistory": [{"role": "assistant", "content": text}],
    }
    entries.append(node_entry(*_HUMAN_INPUT, parts, "startAgentflow_0", "STOPPED"))
    yield from last_events(turn, text, entries)


def _past(messages: list[Message]) -> list[Message]:
    return [{"content": message["content"], "role": message["role"]} for message in messages]


def resume_approval(turn: Turn) -> Steps:
    """The person has decided; the run goes on to the reply of that branch."""
    decision = dict(turn.human_input or {}) | {"startNodeId": _HUMAN_INPUT[0]}
    entries = turn.execution.entries[:-1] if turn.execution else []
    yield Event("agentFlowEvent", "INPROGRESS")
    yield node_event(*_HUMAN_INPUT, "INPROGRESS")
    yield node_event(*_HUMAN_INPUT, "FINISHED")
    entries.append(_decided_entry(turn, decision))
    yield Event("agentFlowExecutedData", list(entries))
    branch = 0 if decision["type"] == "proceed" else 1
    reply_id, text = f"directReplyAgentflow_{branch}", ("You said yes", "You said no")[branch]
    yield node_event(reply_id, "Direct Reply", "INPROGRESS")
    yield Event("token", text)
    parts = {"input": {}, "output": {"content": text}, "state": {}}
    entries.append(node_entry(reply_id, "Direct Reply", parts, _HUMAN_INPUT[0]))
    yield from last_events(turn, text, entries)


def _decided_entry(turn: Turn, decision: Json) -> Json:
    said = decision.get("feedback") or decision["type"]
    feedback = {"feedback": decision["feedback"]} if decision.get("feedback") else {}
    conditions = [
        {"type": kind, "startNodeId": _HUMAN_INPUT[0], **feedback, "isFulfilled": kind == decision["type"]}
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
    return node_entry(*_HUMAN_INPUT, parts, "startAgentflow_0")
