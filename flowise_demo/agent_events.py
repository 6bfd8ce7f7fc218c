"""The events and entries of an agentflow's nodes, their fields in the order of a recorded Flowise 3.1.4."""

from __future__ import annotations

import uuid
from typing import Any

from flowise_demo.flows import Json
from flowise_demo.steps import Answer, Event, Fault, RunFailed, Steps, Turn


def node_event(node_id: str, label: str, status: str, error: str = "") -> Event:
    described = {"nodeId": node_id, "nodeLabel": label, "status": status}
    return Event("nextAgentFlow", described | ({"error": error} if error else {}))


def start_node(turn: Turn, entries: list[Json]) -> Steps:
    asked = {"question": turn.question} if turn.question else {}
    yield node_event("startAgentflow_0", "Start", "INPROGRESS")
    yield node_event("startAgentflow_0", "Start", "FINISHED")
    entries.append(node_entry("startAgentflow_0", "Start", {"input": asked, "output": asked, "state": {}}))
    yield Event("agentFlowExecutedData", list(entries))


def node_entry(node_id: str, label: str, parts: Json, previous: str = "", status: str = "FINISHED") -> Json:
    return {
        "nodeId": node_id,
        "nodeLabel": label,
        "data": {"id": node_id, "name": node_id.rpartition("_")[0], **parts},
        "previousNodeIds": [previous] if previous else [],
        "status": status,
    }


def fail_node(node: tuple[str, str], entries: list[Json], error: str) -> Steps:
    entry = {
        "nodeId": node[0],
        "nodeLabel": node[1],
        "previousNodeIds": ["startAgentflow_0"],
        "data": {"id": node[0], "name": node[0].rpartition("_")[0], "error": error},
        "status": "ERROR",
    }
    yield node_event(*node, "ERROR", error)
    yield Event("agentFlowExecutedData", [*entries, entry])
    yield Event("agentFlowEvent", "ERROR")
    raise RunFailed(error)


def last_events(turn: Turn, text: str, entries: list[Json]) -> Steps:
    """The events behind the last node: finished, or stopped to ask a person."""
    last = entries[-1]
    action = last["data"]["output"].get("humanInputAction")
    yield node_event(last["nodeId"], last["nodeLabel"], last["status"])
    yield Event("agentFlowExecutedData", entries)
    if action:
        yield Event("agentFlowEvent", "STOPPED")
        yield Event("action", action)
    yield Event("agentFlowEvent", last["status"])
    if turn.script.fault_at == "end":
        yield Fault(turn.script.fault)
    yield Answer(text, {}, entries, action)


def human_action(node_id: str, label: str, node_input: Json) -> Json:
    """What a person is asked to decide."""
    buttons = (("approve", "Proceed"), ("reject", "Reject"))
    return {
        "id": str(uuid.uuid4()),
        "mapping": dict(buttons),
        "elements": [{"type": f"agentflowv2-{kind}-button", "label": label} for kind, label in buttons],
        "data": {"nodeId": node_id, "nodeLabel": label, "input": node_input},
    }


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
