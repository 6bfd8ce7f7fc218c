"""The flows that the tests run: every kind of flow whose answers differ on the wire."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.live.flowise_canvas import Json, agentflow, chatflow, overridable, sequence

NOWHERE = "http://127.0.0.1:9/v1"
ORIGINS: Json = {
    "allowedOrigins": ["https://allowed.example"],
    "allowedOriginsError": "This site may not use it",
}
LIMIT: Json = {
    "rateLimit": {"status": True, "limitMax": 2, "limitDuration": 60, "limitMsg": "Slow down please"}
}
POST_PROCESSING: Json = {
    "postProcessing": {"enabled": True, "customFunction": json.dumps("return 'POST:' + $flow.rawOutput")}
}
FULL_FILES: Json = {
    "fullFileUpload": {
        "status": True,
        "allowedUploadFileTypes": "text/plain,text/csv,application/json,application/pdf",
    }
}
STRUCTURE = [
    {"key": "city", "type": "string", "enumValues": "", "jsonSchema": "", "description": "city name"},
    {"key": "size", "type": "number", "enumValues": "", "jsonSchema": "", "description": "size"},
]
FORM: Json = {
    "startInputType": "formInput",
    "formTitle": "T",
    "formDescription": "D",
    "formInputTypes": [{"type": "string", "label": "City", "name": "city", "addOptions": ""}],
}


@dataclass(frozen=True, slots=True)
class Flow:
    """One flow to create; `settings` are further columns of its row."""

    name: str
    canvas: Json
    type: str = "CHATFLOW"
    settings: Json = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Parts:
    """What the flows are built from; `key_id` protects the keyed ones, `tools` are the custom tools by kind."""

    node: Callable[..., Json]
    model_url: str
    credential: str
    key_id: str
    tools: dict[str, str]

    def chat_model(self, **inputs: Any) -> Json:
        """The fake model as a chatflow's node."""
        settings = {"modelName": "gpt-4o-mini", "basepath": self.model_url, "streaming": True}
        return self.node("chatOpenAI_0", credential=self.credential, **settings | inputs)

    def conversation(self, **model: Any) -> Json:
        """Conversation Chain with Buffer Memory."""
        chain = "conversationChain_0"
        nodes = [self.chat_model(**model), self.node("bufferMemory_0"), self.node(chain)]
        return chatflow(nodes, [("chatOpenAI_0", chain, "model"), ("bufferMemory_0", chain, "memory")])

    def tool_agent(self, tool: Json | None = None, **inputs: Any) -> Json:
        """Tool Agent with Buffer Memory and one tool, the calculator unless told otherwise."""
        agent, tool = "toolAgent_0", tool or self.node("calculator_0")
        nodes = [self.chat_model(), self.node("bufferMemory_0"), tool, self.node(agent, **inputs)]
        links = [
            ("chatOpenAI_0", agent, "model"),
            ("bufferMemory_0", agent, "memory"),
            (tool["id"], agent, "tools"),
        ]
        return chatflow(nodes, links)

    def model_of(self, name: str, **settings: Any) -> Json:
        """The fake model as an agentflow's node input `name` with its configuration."""
        config = {
            name: "chatOpenAI",
            "credential": self.credential,
            "FLOWISE_CREDENTIAL_ID": self.credential,
            "modelName": "gpt-4o-mini",
            "temperature": 0.9,
            "streaming": True,
            "basepath": self.model_url,
            "allowImageUploads": True,
        }
        return {name: "chatOpenAI", f"{name}Config": config | settings}

    def start(self, **inputs: Any) -> Json:
        """The Start node, fed by the chat unless told otherwise."""
        return self.node("startAgentflow_0", **{"startInputType": "chatInput"} | inputs)

    def llm(self, model: Json | None = None, number: int = 0, **inputs: Any) -> Json:
        """An LLM node with memory."""
        defaults = {
            "llmEnableMemory": True,
            "llmMemoryType": "allMessages",
            "llmReturnResponseAs": "userMessage",
            **self.model_of("llmModel", **model or {}),
        }
        return self.node(f"llmAgentflow_{number}", **defaults | inputs)

    def agent(self, tool: Json | None = None, *, asks_human: bool = False) -> Json:
        """An Agent node with memory and one tool, the calculator unless told otherwise."""
        config = tool or {"agentSelectedTool": "calculator"}
        selected = {
            "agentSelectedTool": config["agentSelectedTool"],
            "agentSelectedToolConfig": config,
            "agentSelectedToolRequiresHumanInput": asks_human,
        }
        inputs = {
            "agentEnableMemory": True,
            "agentMemoryType": "allMessages",
            "agentReturnResponseAs": "userMessage",
            "agentMessages": [{"role": "system", "content": "You are the flow agent."}],
            "agentTools": [selected],
            **self.model_of("agentModel"),
        }
        return self.node("agentAgentflow_0", **inputs)

    def function(self, code: str) -> Json:
        """A Custom Function node of an agentflow."""
        inputs = {"customFunctionInputVariables": "", "customFunctionUpdateState": ""}
        return self.node("customFunctionAgentflow_0", customFunctionJavascriptFunction=code, **inputs)

    def reply(self, text: str, number: int = 0) -> Json:
        """A Direct Reply node."""
        return self.node(f"directReplyAgentflow_{number}", directReplyMessage=text)


def chatflows(parts: Parts) -> Iterator[Flow]:
    """The flows that every release knows."""
    yield from _conversations(parts)
    yield from _tool_agents(parts)
    yield from _other_chatflows(parts)


def agentflows(parts: Parts) -> Iterator[Flow]:
    """The flows of Flowise 3 and later."""
    for flow in (*_llm_agentflows(parts), *_agent_agentflows(parts), *_other_agentflows(parts)):
        yield Flow(flow.name, flow.canvas, "AGENTFLOW", flow.settings)


def _conversations(parts: Parts) -> Iterator[Flow]:
    yield Flow("conv", parts.conversation())
    yield Flow("conv_public", parts.conversation(), settings={"isPublic": True})
    yield Flow("conv_keyed", parts.conversation(), settings={"apikeyid": parts.key_id})
    canvas = parts.conversation()
    free = overridable(
        canvas, ("systemMessagePrompt", "temperature", "maxTokens", "modelName", "sessionId"), ("who",)
    )
    yield Flow("conv_override", canvas, settings={"apiConfig": free})
    yield Flow("conv_nostream", parts.conversation(streaming=False))
    yield Flow("conv_down", parts.conversation(basepath=NOWHERE))
    yield Flow("conv_vision", parts.conversation(allowImageUploads=True))
    yield Flow("conv_ratelimit", parts.conversation(), settings={"apiConfig": LIMIT})
    yield Flow("conv_origins", parts.conversation(), settings={"chatbotConfig": ORIGINS})
    yield Flow("conv_postproc", parts.conversation(), settings={"chatbotConfig": POST_PROCESSING})
    yield Flow("conv_fullfile", parts.conversation(), settings={"chatbotConfig": FULL_FILES})


def _tool_agents(parts: Parts) -> Iterator[Flow]:
    yield Flow("toolagent", parts.tool_agent(systemMessage="You are a helpful AI assistant."))
    yield Flow("toolagent_detailed", parts.tool_agent(enableDetailedStreaming=True))
    canvas = parts.tool_agent()
    yield Flow("toolagent_override", canvas, settings={"apiConfig": overridable(canvas, ("systemMessage",))})
    for kind, tool in parts.tools.items():
        yield Flow(f"toolagent_{kind}", parts.tool_agent(parts.node("customTool_0", selectedTool=tool)))
    canvas = parts.tool_agent(parts.node("customTool_0", selectedTool=parts.tools["artifacts"]))
    yield Flow("toolagent_files", canvas, settings={"chatbotConfig": FULL_FILES})


def _other_chatflows(parts: Parts) -> Iterator[Flow]:
    prompt = parts.node("promptTemplate_0", template="Answer: {question}")
    links = [("chatOpenAI_0", "llmChain_0", "model"), ("promptTemplate_0", "llmChain_0", "prompt")]
    yield Flow("llmchain", chatflow([parts.chat_model(), prompt, parts.node("llmChain_0")], links))
    yield Flow("rag", _retrieval(parts))
    for name, code in (
        ("customfn_end", "return {answer: 'object from function', n: 3}"),
        ("customfn_end_text", "return 'plain text from function'"),
    ):
        yield Flow(
            name, chatflow([parts.node("customFunction_0", javascriptFunction=code, output="EndingNode")])
        )


def _retrieval(parts: Parts) -> Json:
    """Conversational Retrieval QA over two texts, which returns its sources."""
    store, chain = "memoryVectorStore_0", "conversationalRetrievalQAChain_0"
    nodes = [
        parts.chat_model(),
        parts.node("openAIEmbeddings_0", credential=parts.credential, basepath=parts.model_url),
        parts.node("plainText_0", text="Paris is the capital of France. " * 3, metadata=page("paris")),
        parts.node("plainText_1", text="The Nile is a river in Africa. " * 3, metadata=page("nile")),
        parts.node(store, topK="2"),
        parts.node("bufferMemory_0"),
        parts.node(chain, returnSourceDocuments=True),
    ]
    links = [
        ("plainText_0", store, "document"),
        ("plainText_1", store, "document"),
        ("openAIEmbeddings_0", store, "embeddings"),
        ("chatOpenAI_0", chain, "model"),
        (store, chain, "vectorStoreRetriever"),
        ("bufferMemory_0", chain, "memory"),
    ]
    return chatflow(nodes, links)


def page(name: str) -> str:
    """The metadata of a text that stands on a page of the web."""
    return json.dumps({"source": f"https://docs.example/{name}"})


def _llm_agentflows(parts: Parts) -> Iterator[Flow]:
    yield Flow("af_llm", sequence(parts.start(), parts.llm()))
    yield Flow("af_llm_keyed", sequence(parts.start(), parts.llm()), settings={"apikeyid": parts.key_id})
    yield Flow("af_llm_nomem", sequence(parts.start(), parts.llm(llmEnableMemory=False)))
    yield Flow("af_two_llms", sequence(parts.start(), parts.llm(), parts.llm(number=1)))
    forgetful = sequence(parts.start(startEphemeralMemory=True), parts.llm())
    yield Flow("af_ephemeral", forgetful)
    final = parts.reply("Final: {{ llmAgentflow_0 }}")
    yield Flow("af_llm_reply", sequence(parts.start(), parts.llm(), final))
    yield Flow("af_llm_nostream", sequence(parts.start(), parts.llm({"streaming": False})))
    yield Flow("af_down", sequence(parts.start(), parts.llm({"basepath": NOWHERE})))
    yield Flow("af_structured", sequence(parts.start(), parts.llm(llmStructuredOutput=STRUCTURE)))
    tone = [{"role": "system", "content": "Tone is {{ $flow.state.tone }}."}]
    canvas = sequence(
        parts.start(startState=[{"key": "tone", "value": "neutral"}]),
        parts.llm(llmMessages=tone),
    )
    free = overridable(canvas, ("llmMessages", "llmModelConfig", "startState", "llmModel"), ("who",))
    yield Flow("af_override", canvas, settings={"apiConfig": free})


def _agent_agentflows(parts: Parts) -> Iterator[Flow]:
    yield Flow("af_agent", sequence(parts.start(), parts.agent()))
    said = parts.reply("Agent said: {{ agentAgentflow_0 }}")
    yield Flow("af_agent_reply", sequence(parts.start(), parts.agent(), said))
    for kind, tool in parts.tools.items():
        custom = {"agentSelectedTool": "customTool", "selectedTool": tool}
        yield Flow(f"af_agent_{kind}", sequence(parts.start(), parts.agent(custom)))
    yield Flow("af_agent_human", sequence(parts.start(), parts.agent(asks_human=True)))


def _other_agentflows(parts: Parts) -> Iterator[Flow]:
    answer = parts.function("return 'function answer for ' + $flow.input")
    yield Flow("af_function", sequence(parts.start(), answer))
    wrap = parts.function("return 'FN(' + $flow.input + ')'")
    yield Flow("af_function_llm", sequence(parts.start(), wrap, parts.llm()))
    broken = parts.function("throw new Error('function broke')")
    yield Flow("af_function_error", sequence(parts.start(), broken))
    yield Flow("af_human", _human_in_the_loop(parts))
    ends = [parts.llm(), parts.reply("Said beside it"), parts.llm(number=1)]
    links = [("startAgentflow_0", end["id"], 0) for end in ends]
    yield Flow("af_branches", agentflow([parts.start(), *ends], links))
    yield Flow("af_form", sequence(parts.start(**FORM), parts.llm()))


def _human_in_the_loop(parts: Parts) -> Json:
    """Asks a person, and replies according to the decision."""
    ask = parts.node(
        "humanInputAgentflow_0",
        humanInputDescriptionType="fixed",
        humanInputDescription="Shall I go on?",
        humanInputEnableFeedback=True,
    )
    ask["data"]["outputAnchors"] = [{"id": f"{ask['id']}-output-{n}", "label": n, "name": n} for n in (0, 1)]
    yes, no = parts.reply("You said yes", 0), parts.reply("You said no", 1)
    start = parts.start()
    links = [(start["id"], ask["id"], 0), (ask["id"], yes["id"], 0), (ask["id"], no["id"], 1)]
    return agentflow([start, ask, yes, no], links)
