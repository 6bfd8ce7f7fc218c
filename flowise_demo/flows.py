"""The demo's flows: what they are made of, and how Flowise lists and describes them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from types import MappingProxyType
from typing import Any

DEMO_FLOWS: Mapping[str, str] = MappingProxyType(
    {
        "demo-assistant": "5518949f-3ebc-4082-af01-fa2a18623da6",
        "demo-agent": "0c6fd9a2-1f53-4a57-9a3e-6d6f0b1c52e1",
        "demo-sources": "2b7f4c68-8d0e-4a86-b1f4-93d7a5c0e812",
        "demo-json": "3d94e1b7-52c8-4f0b-8a6d-7e21c9f4b063",
        "demo-approval": "4ea05c29-b6d1-47f3-9c82-15d8f3a7e694",
        "demo-errors": "6f31d8e4-07ab-4c95-a2e7-c84b96d05f17",
        "demo-keyed": "7a82c5f0-e94d-4b16-8d3f-29f6b0e7c148",
        "demo-agent-errors": "8b53f6a1-3c70-4e29-b5d4-e07a1c86f9d2",
        "demo-tool-approval": "9c64a7b2-4d81-4f3a-86e5-f18b2d97a0e3",
        "demo-files": "ad75b8c3-5e92-4a4b-97f6-029c3ea8b1f4",
    }
)
Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Flow:
    """One flow: `kind` names the machinery that runs it, `scripts` which scripted words it obeys."""

    id: str
    name: str
    kind: str = "conversation"
    streams: bool = True
    memory: bool = True
    images: bool = False
    hears: bool = False
    keyed: bool = False
    scripts: str = "none"  # none | failures | all
    row: Mapping[str, Any] = field(
        default_factory=dict
    )  # fields of the listing that differ from the defaults

    @property
    def type(self) -> str:
        """CHATFLOW or AGENTFLOW, as the listing calls it."""
        return "AGENTFLOW" if self.kind in AGENT_NODES else "CHATFLOW"


_CHAT_MODEL = (
    "chatOpenAI_0",
    "OpenAI",
    "Chat Models",
    {"modelName": "gpt-4o-mini", "temperature": 0.9, "streaming": True},
)
_MEMORY = ("bufferMemory_0", "Buffer Memory", "Memory", {"memoryKey": "chat_history"})
_START = ("startAgentflow_0", "Start", "Agent Flows", {"startInputType": "chatInput"})
_LLM = (
    "llmAgentflow_0",
    "LLM",
    "Agent Flows",
    {"llmModel": "chatOpenAI", "llmMessages": [], "llmEnableMemory": True},
)
_AGENT = (
    "agentAgentflow_0",
    "Agent",
    "Agent Flows",
    {"agentModel": "chatOpenAI", "agentMessages": [], "agentEnableMemory": True},
)
CHAT_NODES: Mapping[str, tuple[tuple[str, str, str, Json], ...]] = MappingProxyType(
    {
        "conversation": (
            _CHAT_MODEL,
            _MEMORY,
            ("conversationChain_0", "Conversation Chain", "Chains", {"systemMessagePrompt": ""}),
        ),
        "retrieval": (
            _CHAT_MODEL,
            _MEMORY,
            ("memoryVectorStore_0", "In-Memory Vector Store", "Vector Stores", {"topK": "2"}),
            (
                "conversationalRetrievalQAChain_0",
                "Conversational Retrieval QA Chain",
                "Chains",
                {"returnSourceDocuments": True},
            ),
        ),
        "files": (_CHAT_MODEL, _MEMORY, ("toolAgent_0", "Tool Agent", "Agents", {"systemMessage": ""})),
        "load": (_CHAT_MODEL,),
    }
)
AGENT_NODES: Mapping[str, tuple[tuple[str, str, str, Json], ...]] = MappingProxyType(
    {
        "llm_agent": (_START, _LLM),
        "tool_agent": (_START, _AGENT),
        "tool_approval": (_START, _AGENT),
        "human_input": (
            _START,
            ("humanInputAgentflow_0", "Human Input", "Agent Flows", {"humanInputEnableFeedback": True}),
            (
                "directReplyAgentflow_0",
                "Direct Reply",
                "Agent Flows",
                {"directReplyMessage": "You said yes"},
            ),
            (
                "directReplyAgentflow_1",
                "Direct Reply",
                "Agent Flows",
                {"directReplyMessage": "You said no"},
            ),
        ),
    }
)


def demo_flows() -> list[Flow]:
    """The flows every demo begins with."""

    def flow(name: str, kind: str = "conversation", **options: Any) -> Flow:
        return Flow(DEMO_FLOWS[name], name, kind, **options)

    return [
        flow("demo-assistant"),
        flow("demo-agent", "tool_agent", images=True, hears=True),
        flow("demo-sources", "retrieval"),
        flow("demo-json", streams=False, scripts="failures"),
        flow("demo-approval", "human_input"),
        flow("demo-errors", scripts="all"),
        flow("demo-keyed", keyed=True),
        flow("demo-agent-errors", "llm_agent", images=True, scripts="all"),
        flow("demo-tool-approval", "tool_approval", images=True),
        flow("demo-files", "files"),
    ]


def flow_row(flow: Flow) -> Json:
    """The flow as Flowise lists it, all fields."""
    row: Json = {
        "id": flow.id,
        "name": flow.name,
        "flowData": flow_graph(flow),
        "deployed": False,
        "isPublic": False,
        "apikeyid": "d5c1f2b8-6a3e-4d97-8f40-b2e9c7a15d36" if flow.keyed else None,
        "chatbotConfig": None,
        "apiConfig": None,
        "analytic": None,
        "speechToText": None,
        "textToSpeech": None,
        "followUpPrompts": None,
        "category": None,
        "type": flow.type,
        "createdDate": "2026-11-21T03:03:59.000Z",
        "updatedDate": "2026-11-21T03:03:59.000Z",
        "mcpServerConfig": None,
        "webhookSecretConfigured": False,
        "workspaceId": "1f0b6c1e-9a57-4c0e-8d2b-5e7a4f3c9b10",
    }
    row.update({name: flow.row[name] for name in row.keys() & flow.row.keys()})
    return row


def flow_graph(flow: Flow) -> str:
    """The flow's canvas as the JSON string that Flowise keeps."""
    nodes = CHAT_NODES.get(flow.kind) or AGENT_NODES[flow.kind]
    if not flow.memory:
        nodes = tuple(node for node in nodes if node[2] != "Memory")
    graph = {
        "nodes": [_graph_node(flow, *node) for node in nodes],
        "edges": [
            {"source": one[0], "target": two[0], "id": f"{one[0]}-{two[0]}", "type": "buttonedge"}
            for one, two in pairwise(nodes)
        ],
        "viewport": {"x": 0, "y": 0, "zoom": 1},
    }
    return json.dumps(graph, separators=(",", ":"))


def _graph_node(flow: Flow, node_id: str, label: str, category: str, inputs: Json) -> Json:
    known = {"streaming": flow.streams, "llmEnableMemory": flow.memory, "agentEnableMemory": flow.memory}
    inputs = inputs | {name: known[name] for name in known.keys() & inputs.keys()}
    if category == "Chat Models":
        inputs["allowImageUploads"] = flow.images
    node = {
        "id": node_id,
        "label": label,
        "name": node_id.rpartition("_")[0],
        "type": label.replace(" ", ""),
        "category": category,
        "inputParams": [{"label": name, "name": name, "type": "string"} for name in inputs],
        "inputs": inputs,
    }
    drawn_as = "agentFlow" if category == "Agent Flows" else "customNode"
    return {"id": node_id, "type": drawn_as, "position": {"x": 0, "y": 0}, "data": node}


def uploads_body(flow: Flow) -> Json:
    """What `chatflows-uploads` says of the flow."""
    types = ["image/gif", "image/jpeg", "image/png", "image/webp", ""]
    return {
        "isSpeechToTextEnabled": flow.hears,
        "isImageUploadAllowed": flow.images,
        "isRAGFileUploadAllowed": False,
        "imgUploadSizeAndTypes": [{"fileTypes": types, "maxUploadSize": 5}] if flow.images else [],
        "fileUploadSizeAndTypes": [],
    }
