"""The shapes of chat completions and completions as they are sent."""

from __future__ import annotations

import os
from typing import Literal, NotRequired, TypedDict

from flowise_gateway.openai.citations import Annotation
from flowise_gateway.openai.flowise_details import FlowiseDetails
from flowise_gateway.openai.usage import Usage


def new_id(prefix: str) -> str:
    """An unguessable id such as `chatcmpl-9f86d081884c7d659a2feaa0`."""
    return prefix + os.urandom(12).hex()


class CalledFunction(TypedDict):
    """A function of the client's with its arguments, which are JSON text."""

    name: str
    arguments: str


class ToolCall(TypedDict):
    """A call of a client's tool."""

    id: str
    type: Literal["function"]
    function: CalledFunction


class ChatMessage(TypedDict):
    """The message of a choice; `function_call` is what `tool_calls` was before."""

    role: Literal["assistant"]
    content: str | None
    refusal: None
    tool_calls: NotRequired[list[ToolCall]]
    function_call: NotRequired[CalledFunction]
    reasoning_content: NotRequired[str]
    annotations: NotRequired[list[Annotation]]


class ChatChoice(TypedDict):
    """A choice of a chat completion."""

    index: int
    message: ChatMessage
    logprobs: None
    finish_reason: str


class ChatCompletion(TypedDict):
    """The body of a chat completion; with `conversation_id` a client may send only what is new."""

    conversation_id: NotRequired[str]
    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    metadata: dict[str, str]
    flowise: FlowiseDetails


class CompletionChoice(TypedDict):
    """A choice of a legacy completion."""

    text: str
    index: int
    logprobs: None
    finish_reason: str


class Completion(TypedDict):
    """The body of a legacy completion."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage
    flowise: FlowiseDetails
