"""What the demo's flows are, what their model says, and which words make the scripted flows fail.

Values and pure functions: `flowise_demo_runs` makes runs of them, `flowise_demo` serves those.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from types import MappingProxyType
from typing import Any

from flowise_demo.json_answers import json_answer, sample

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
UNAUTHORIZED_PROVIDER = (
    "401 Unauthorized – check your API key and ensure it has access to the requested model."
)
INVALID_HISTORY = (
    "Invalid history format. Each history item must have: "
    '{ role: "apiMessage" | "userMessage", content: string }'
)
ABORTED = "This operation was aborted"
LANGCHAIN_ERRORS = "\n\nTroubleshooting URL: https://docs.langchain.com/oss/javascript/langchain/errors/"
HTML_PAGE = (
    '<!DOCTYPE html>\r\n<html lang="en">\r\n    <head>\r\n'
    "        <title>Flowise - Build AI Agents, Visually</title>\r\n"
    '    </head>\r\n    <body>\r\n        <div id="root"></div>\r\n    </body>\r\n</html>\r\n'
)

Message = dict[str, Any]
Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Response:
    """One whole HTTP answer."""

    status: int
    body: bytes = b""
    content_type: str = "application/json; charset=utf-8"
    headers: tuple[tuple[str, str], ...] = ()


# ------------------------------------------------------------------------------------------------ flows
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


# ---------------------------------------------------------------------------------------------- scripts
@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing more happens until the client leaves, but heartbeats if a period is given."""

    heartbeat_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Script:
    """What a word in the question makes a scripted flow do."""

    failure: str = ""  # the provider refuses with this text before the first token
    quota: bool = False  # … and it is Flowise that refuses, before any node runs
    breaks_off: str = ""  # the provider fails with this text after the tokens
    tokens: tuple[str, ...] | None = None
    token_seconds: float | None = None
    silence_seconds: float = 0.0
    heartbeat_seconds: float = 0.0
    waits: Wait | None = None  # instead of everything, after the head of the stream
    is_headless: bool = False  # not even the head comes
    fault: str = ""
    fault_at: str = "tokens"  # start | tokens | end
    frames: tuple[bytes, ...] = ()
    has_old_framing: bool = False
    thinks: bool = False
    response: Response | None = None


NO_SCRIPT = Script()
_MIDWAY = ("Reply ", "to ", "[failmid] ", "after ")
_SLOW = tuple(f"word{number} " for number in range(60))
_UNICODE = ("Grüße ", "世界 ", "🙂👩‍👩‍👧 ", "naïve ", "façade ", "— ", "done. ")
_MARKDOWN = (
    *("# ", "Title\n\n", "- ", '"quoted" ', "\\ ", "back\n", "- ", "<b>tag</b> ", "& ", "amp\n\n"),
    *("```python\n", 'print("data: ', 'x\\n\\n")\n', "```\n"),
)
_ODD_FRAMES = (
    b'message\ndata:{"event":"token","data":"odd "}\n\n',
    b":a comment\n\n",
    b': a comment before the lines\nmessage:\ndata:{"event":"token","data":"comment "}\n\n',
    b'message:\r\ndata:{"event":"token","data":"crlf "}\r\n\r\n',
    b'message:\ndata:{"event":"brandNew","data":{"a":1}}\n\n',
    b'message:\ndata:{"event":"token"}\n\n',
    b'message:\ndata:{"event":"token","data":null}\n\n',
    b'message:\ndata:{"event":"token","data":5}\n\n',
    b'message:\ndata:{"event":"token","data":{"a":1}}\n\n',
)
_HTML = "text/html; charset=utf-8"


def _gateway_page(status: int, title: str) -> Response:
    page = f"<html>\r\n<head><title>{status} {title}</title></head>\r\n<body>\r\n<center><h1>{status} {title}"
    page += "</h1></center>\r\n<hr><center>nginx</center>\r\n</body>\r\n</html>\r\n"
    return Response(status, page.encode(), "text/html")


def rate_limit_response(seconds: int) -> Response:
    """Flowise's own rate limiter: plain text in an HTML content type."""
    limits = (("X-RateLimit-Limit", "2"), ("X-RateLimit-Remaining", "0"))
    reset = ("X-RateLimit-Reset", str(int(time.time()) + seconds))
    return Response(429, b"Slow down please", _HTML, (*limits, reset, ("Retry-After", str(seconds))))


SCRIPTS: Mapping[str, Script] = MappingProxyType(
    {
        "fail500": Script(failure="500 The fake model broke"),
        "fail401": Script(
            failure=f"401 Incorrect API key provided: sk-fake{LANGCHAIN_ERRORS}MODEL_AUTHENTICATION/\n"
        ),
        "fail429": Script(
            failure=f"429 Rate limit reached for fake model{LANGCHAIN_ERRORS}MODEL_RATE_LIMIT/\n"
        ),
        "failctx": Script(failure="400 This model's maximum context length is 10 tokens."),
        "failfilter": Script(
            failure="400 The response was filtered due to the prompt triggering Azure OpenAI's content "
            "management policy. Please modify your prompt and retry."
        ),
        "failquota": Script(failure="Predictions limit exceeded", quota=True),
        "failmid": Script(tokens=_MIDWAY, breaks_off="terminated"),
        "ratelimit": Script(response=rate_limit_response(1)),
        "unavailable": Script(response=Response(503, b"Service Unavailable", "text/plain; charset=utf-8")),
        "badgateway": Script(response=_gateway_page(502, "Bad Gateway")),
        "gatewaytimeout": Script(response=_gateway_page(504, "Gateway Time-out")),
        "emptybody": Script(response=Response(200)),
        "html": Script(response=Response(200, HTML_PAGE.encode(), "text/html; charset=UTF-8")),
        "redirect": Script(
            response=Response(302, b"Found. Redirecting to /login", _HTML, (("Location", "/login"),))
        ),
        "badjson": Script(response=Response(200, b'{"text":"This never en')),
        "cut": Script(fault="cut"),
        "cutchunk": Script(fault="cutchunk"),
        "reset": Script(fault="reset"),
        "badchunk": Script(fault="badchunk"),
        "nolength": Script(fault="nolength"),
        "noend": Script(fault="mute", fault_at="end"),
        "startonly": Script(fault="mute", fault_at="start"),
        "hang": Script(waits=Wait(), is_headless=True),
        "silent": Script(waits=Wait()),
        "heartbeats": Script(waits=Wait(0.2)),
        "stall": Script(silence_seconds=35.0, heartbeat_seconds=30.0),
        "slow": Script(tokens=_SLOW, token_seconds=0.25),
        "tokens1000": Script(tokens=tuple(f"t{number} " for number in range(1000)), token_seconds=0.0),
        "huge": Script(tokens=("x" * 2_000_000,)),
        "empty": Script(tokens=()),
        "unicode": Script(tokens=_UNICODE),
        "markdown": Script(tokens=_MARKDOWN),
        "think": Script(thinks=True),
        "oddframes": Script(frames=_ODD_FRAMES),
        "oldframing": Script(has_old_framing=True),
    }
)
_WORD = re.compile(r"[A-Za-z]+[0-9.]*")
_NUMBERED = re.compile(r"(stall|ratelimit)([0-9]+(?:\.[0-9]+)?)")


def script_for(flow: Flow, question: str) -> Script:
    """The script of the last scripted word of the question, if the flow obeys it."""
    if flow.scripts == "none":
        return NO_SCRIPT
    for word in reversed(_WORD.findall(question)):
        script = _script(word.rstrip("."))
        if script and (flow.scripts == "all" or script.failure):
            return script
    return NO_SCRIPT


def _script(word: str) -> Script | None:
    numbered = _NUMBERED.fullmatch(word)
    if not numbered:
        return SCRIPTS.get(word)
    number = float(numbered[2])
    if numbered[1] == "ratelimit":
        return Script(response=rate_limit_response(int(number)))
    return Script(silence_seconds=number, heartbeat_seconds=min(30.0, number / 3))


# ------------------------------------------------------------------------------------------- the "model"
_TOOLS_HEADING = "Available tools, one JSON object a line:"
_TOOL_RESULT = "Tool result"
_TOOL_CALL = "<tool_call>"


def answer_text(flow: Flow, messages: list[Message]) -> str:
    """What the model behind the flow says to these messages."""
    question = str(messages[-1]["content"]) if messages else ""
    earlier_words = [str(message["content"]) for message in messages[:-1] if message["role"] != "assistant"]
    spoken = _tool_answer("\n".join(earlier_words), question)
    if spoken is None or not spoken.startswith(_TOOL_CALL):
        spoken = json_answer(messages) or spoken
    if spoken is not None:
        return spoken
    earlier = sum(message["role"] != "system" for message in messages[:-1])
    asked = question if len(question) <= 300 else question[:300] + "…"
    role = flow.name.removeprefix("demo-")
    return (
        f'You asked: "{asked}" This is the demo {role}; connect your own Flowise to get real answers. '
        f"I remember {earlier} earlier messages of this conversation."
    )


def _tool_answer(earlier: str, question: str) -> str | None:
    """A tool call if tools are described and none has answered since, the result if one has, else nothing."""
    lines = question.splitlines()
    described = _last_heading(lines)
    answered = max((at for at, line in enumerate(lines) if line.startswith(_TOOL_RESULT)), default=-1)
    tools = _described_tools(lines[described + 1 :]) if described >= 0 else []
    said = lines[:described] + lines[described + 1 + len(tools) :] if tools else lines
    if described < 0:
        before = earlier.splitlines()
        heading = _last_heading(before)
        tools = _described_tools(before[heading + 1 :]) if heading >= 0 else []
    if tools and (answered < 0 or answered < described):
        return _tool_call(tools, "\n".join(said))
    if answered >= 0:
        label, colon, result = "\n".join(lines[answered:]).split("\n\n")[0].partition(":")
        return f"The tool said: {result.strip() if colon else label.removeprefix(_TOOL_RESULT).strip()}"
    return None


def _last_heading(lines: list[str]) -> int:
    return max((at for at, line in enumerate(lines) if line == _TOOLS_HEADING), default=-1)


def _described_tools(lines: list[str]) -> list[Json]:
    tools = []
    for line in lines:
        try:
            tool = json.loads(line)
        except ValueError:
            break
        if not isinstance(tool, dict) or "name" not in tool:
            break
        tools.append(tool)
    return tools


def _tool_call(tools: list[Json], said: str) -> str:
    tool = next((one for one in tools if re.search(rf"\b{re.escape(str(one['name']))}\b", said)), tools[0])
    words = re.findall(r"\w+", said) or ["something"]
    arguments = sample(tool.get("parameters") or {"type": "object"}, words[-1])
    call = json.dumps(
        {"name": tool["name"], "arguments": arguments}, ensure_ascii=False, separators=(",", ":")
    )
    return f"{_TOOL_CALL}{call}</tool_call>"


def words_of(text: str) -> tuple[str, ...]:
    """The text as tokens, word by word, each with the white space after it."""
    return tuple(re.findall(r"\S+\s*|\s+", text))
