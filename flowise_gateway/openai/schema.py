"""The types of chat completions and legacy completions in responses."""

from __future__ import annotations

import os
from typing import Any, Literal, NotRequired, TypedDict

from flowise_gateway.openai.citations import Annotation
from flowise_gateway.openai.flowise_details import FlowiseDetails
from flowise_gateway.openai.usage import Usage


def new_id(prefix: str) -> str:
    """An unguessable id such as `chatcmpl-9f86d081884c7d659a2feaa0`."""
    return prefix + os.urandom(12).hex()


class CalledFunction(TypedDict):
    """A call of a client's function; the arguments are JSON text."""

    name: str
    arguments: str


class ToolCall(TypedDict):
    id: str
    type: Literal["function"]
    function: CalledFunction


class ChatMessage(TypedDict):
    """The message of a choice; `function_call` is the old form of `tool_calls`."""

    role: Literal["assistant"]
    content: str | None
    refusal: None
    tool_calls: NotRequired[list[ToolCall]]
    function_call: NotRequired[CalledFunction]
    reasoning_content: NotRequired[str]
    annotations: NotRequired[list[Annotation]]


class ChatChoice(TypedDict):
    index: int
    message: ChatMessage
    logprobs: None
    finish_reason: str


class ChatCompletion(TypedDict):
    """The body of a chat completion; a client that returns `conversation_id` may send new messages only."""

    conversation_id: NotRequired[str]
    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    metadata: dict[str, str]
    flowise: FlowiseDetails


class CalledFunctionDelta(TypedDict, total=False):
    """A delta of a call: first the name, then the arguments."""

    name: str
    arguments: str


class ToolCallDelta(TypedDict):
    """A delta of a call, which is identified by the index of the call."""

    index: int
    id: NotRequired[str]
    type: NotRequired[Literal["function"]]
    function: CalledFunctionDelta


class ChatDelta(TypedDict, total=False):
    """The delta of a choice's message."""

    role: Literal["assistant"]
    content: str | None
    refusal: None
    reasoning_content: str
    tool_calls: list[ToolCallDelta]
    function_call: CalledFunctionDelta
    annotations: list[Annotation]


class ChatChunkChoice(TypedDict):
    index: int
    delta: ChatDelta
    logprobs: None
    finish_reason: str | None


class ChatCompletionChunk(TypedDict):
    """A chunk of a streamed chat completion; the last one with choices has the additional keys of the body.

    `event` is a source or a status line for Open WebUI.
    """

    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: list[ChatChunkChoice]
    usage: NotRequired[Usage | None]
    conversation_id: NotRequired[str]
    flowise: NotRequired[FlowiseDetails]
    event: NotRequired[dict[str, Any]]


class CompletionChoice(TypedDict):
    text: str
    index: int
    logprobs: None
    finish_reason: str


class CompletionChunkChoice(TypedDict):
    text: str
    index: int
    logprobs: None
    finish_reason: str | None


class CompletionChunk(TypedDict):
    """A chunk of a streamed completion."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChunkChoice]
    usage: NotRequired[Usage | None]
    flowise: NotRequired[FlowiseDetails]


class Completion(TypedDict):
    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage
    flowise: FlowiseDetails
