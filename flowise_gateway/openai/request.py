"""A parsed request of any OpenAI API."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from flowise_gateway.flow.turn import Attachment, Turn
from flowise_gateway.openai.response_format import JsonFormat
from flowise_gateway.openai.tools import ClientTools


@dataclass(frozen=True, slots=True)
class ParsedRequest:
    """A request of any OpenAI API: one turn per choice, whose `flow` is still the model's name.

    `user_text` is the question as the client sent it (a turn's question is never empty), `left_out` the kinds
    of unreadable parts of earlier messages. `conversation` and `user` are the client's ids; `resends`
    means that this client always sends the whole conversation. `parameters` are OpenAI's fields that a flow
    may support, `passed` Flowise's own fields. `is_conversation` means that another request may
    continue from the answer; `tools` and `format` are rules for the answer.

    The last nine fields are only for Responses: `input_items` are the input's items with all their fields,
    `echo` are the fields of the request that the answer repeats, `conversation_id` the field `conversation`,
    `response_id` the answer's id if it must be known in advance. If `generates` is false, the
    request is stored for later requests to continue from, and no flow runs.
    """

    model: str
    turns: tuple[Turn, ...]
    stream: bool = False
    include_usage: bool = False
    stop: tuple[str, ...] = ()
    prefixes: tuple[str, ...] = ()
    user_text: str = ""
    attachments: tuple[Attachment, ...] = ()
    left_out: tuple[str, ...] = ()
    conversation: str = ""
    user: str = ""
    resends: bool = False
    parameters: Mapping[str, Any] = field(default_factory=dict)
    passed: Mapping[str, Any] = field(default_factory=dict)
    is_conversation: bool = False
    tools: ClientTools | None = None
    format: JsonFormat | None = None
    previous_response_id: str = ""
    conversation_id: str = ""
    store: bool = False
    background: bool = False
    input_items: tuple[Mapping[str, Any], ...] = ()
    include: tuple[str, ...] = ()
    echo: Mapping[str, Any] = field(default_factory=dict)
    response_id: str = ""
    generates: bool = True
