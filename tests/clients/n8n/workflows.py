"""The workflows that n8n is given: a chat trigger before an agent, a chain, or OpenAI's own node."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

Json = dict[str, Any]

LANGCHAIN = "@n8n/n8n-nodes-langchain"
TRIGGER, ANSWER, MODEL = "When chat message received", "Answer", "OpenAI Chat Model"
MEMORY, PARSER, TOOL = "Simple Memory", "Structured Output Parser", "get_weather"
FIRST_FILE = "data0"
"""The name that the chat gives to a message's first file."""
OPENAI = f"{LANGCHAIN}.openAi"
CHAT_MODEL = f"{LANGCHAIN}.lmChatOpenAi"
OPENAI_VERSION, CHAT_MODEL_VERSION = 2.3, 1.3
CREDENTIAL = "openAiApi"
WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "unit": {"type": "string", "enum": ["C", "F"]}},
    "required": ["city", "unit"],
}
"""It takes further properties, since n8n hands a tool the fields of the chat's message as well."""


def chat_trigger(webhook: str, *, stream: bool) -> Json:
    """A chat that anybody may send messages and files to."""
    options = {
        "responseMode": "streaming" if stream else "lastNode",
        "allowFileUploads": True,
        "allowedFilesMimeTypes": "*",
    }
    parameters = {"public": True, "mode": "hostedChat", "options": options}
    return {**_node(TRIGGER, f"{LANGCHAIN}.chatTrigger", 1.4, parameters), "webhookId": webhook}


def chat_model(model: str, credential: Json, *, responses: bool) -> Json:
    """The node *OpenAI Chat Model*."""
    parameters = {"model": chosen(model), "responsesApiEnabled": responses, "options": {}}
    return _node(MODEL, CHAT_MODEL, CHAT_MODEL_VERSION, parameters, credential)


def by_hand() -> Json:
    """A trigger that is clicked on, or started by the command."""
    return _node(TRIGGER, "n8n-nodes-base.manualTrigger", 1, {})


def agent(*, parses: bool = False) -> Json:
    """The node *AI Agent*, without its own system message, which would stand before each question."""
    options = {"systemMessage": "", "passthroughBinaryPdfs": True}
    return _node(ANSWER, f"{LANGCHAIN}.agent", 3.1, {"options": options, "hasOutputParser": parses})


def chain(*, parses: bool = False, prompt: str = "") -> Json:
    """The node *Basic LLM Chain*, with a prompt of its own or the chat's message."""
    asked = {"promptType": "define", "text": prompt} if prompt else {}
    return _node(ANSWER, f"{LANGCHAIN}.chainLlm", 1.9, {"hasOutputParser": parses, **asked})


def memory() -> Json:
    """The node *Simple Memory*, by the chat's session."""
    return _node(MEMORY, f"{LANGCHAIN}.memoryBufferWindow", 1.4, {"contextWindowLength": 20})


def weather() -> Json:
    """A *Code Tool* that gives the weather."""
    parameters = {
        "name": TOOL,
        "description": "The weather of a city.",
        "jsCode": "return 'It is 7 degrees.'",
        "specifyInputSchema": True,
        "schemaType": "manual",
        "inputSchema": json.dumps(WEATHER),
    }
    return _node(TOOL, f"{LANGCHAIN}.toolCode", 1.3, parameters)


def parser(schema: Json) -> Json:
    """The node *Structured Output Parser*."""
    parameters = {"schemaType": "manual", "inputSchema": json.dumps(schema)}
    return _node(PARSER, f"{LANGCHAIN}.outputParserStructured", 1.3, parameters)


def message_a_model(
    model: str,
    credential: Json,
    files: Sequence[str] = (),
    schema: Json | None = None,
    options: Mapping[str, Any] | None = None,
) -> Json:
    """The node *OpenAI*, *Message a model*, which gives the whole response."""
    parts: list[Json] = [{"type": "text", "role": "user", "content": "={{ $json.chatInput }}"}]
    file = {"role": "user", "binaryPropertyName": FIRST_FILE}
    if "image" in files:
        parts.append({**file, "type": "image", "imageType": "base64"})
    if "document" in files:
        parts.append({**file, "type": "file", "fileType": "base64", "fileName": "notes.pdf"})
    all_options: Json = {"previousResponseId": "={{ $json.previous }}", **(options or {})}
    if schema:
        rule = {"type": "json_schema", "name": "answer", "schema": json.dumps(schema)}
        all_options["textFormat"] = {"textOptions": rule}
    parameters = {
        "resource": "text",
        "operation": "response",
        "modelId": chosen(model),
        "responses": {"values": parts},
        "simplify": False,
        "options": all_options,
    }
    return _node(ANSWER, OPENAI, OPENAI_VERSION, parameters, credential)


def analyse_an_image(model: str, credential: Json) -> Json:
    """The node *OpenAI*, *Analyze image*."""
    parameters = {
        "resource": "image",
        "operation": "analyze",
        "modelId": chosen(model),
        "text": "={{ $json.chatInput }}",
        "inputType": "base64",
        "binaryPropertyName": FIRST_FILE,
    }
    return _node(ANSWER, OPENAI, OPENAI_VERSION, parameters, credential)


def chosen(model: str) -> Json:
    """A model chosen *By ID*."""
    return {"__rl": True, "mode": "id", "value": model}


def workflow(name: str, trigger: Json, answer: Json, parts: Mapping[str, Json]) -> Json:
    """A trigger, what answers, and the nodes at its sockets."""
    sockets = {
        part["name"]: {socket: [[{"node": answer["name"], "type": socket, "index": 0}]]}
        for socket, part in parts.items()
    }
    first = {trigger["name"]: {"main": [[{"node": answer["name"], "type": "main", "index": 0}]]}}
    return {
        "name": name,
        "nodes": [trigger, answer, *parts.values()],
        "connections": {**first, **sockets},
        "settings": {"executionOrder": "v1"},
    }


def _node(name: str, kind: str, version: float, parameters: Json, credential: Json | None = None) -> Json:
    node = {
        "id": name,
        "name": name,
        "type": kind,
        "typeVersion": version,
        "position": [0, 0],
        "parameters": parameters,
    }
    return node | {"credentials": {CREDENTIAL: credential}} if credential else node
