"""A request of any OpenAI surface, parsed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from flowise_gateway.flow.turn import Attachment, Turn
from flowise_gateway.openai.response_format import JsonFormat
from flowise_gateway.openai.tools import ClientTools


@dataclass(frozen=True, slots=True)
class ParsedRequest:
    """A request of any surface: one turn for each choice to come, its `flow` still the model's name.

    `user_text` is the question as the client has it (the turns' own is never empty), `left_out` the kinds of
    what could not be read of earlier messages. `conversation` and `user` are the client's ids; `resends`
    tells that it always sends the whole conversation. `parameters` are OpenAI's fields that a flow may or
    may not obey, `passed` Flowise's own fields. `is_conversation` tells that another request may go on from
    the answer, `tools` and `format` what it must keep to.

    The last nine are of Responses alone: `input_items` is the input made whole, `echo` what the answer
    repeats of the request, `conversation_id` its field `conversation`, `response_id` the answer's own id, if
    it is to be known before. Where `generates` is false, the request is kept to be gone on from, and nothing
    runs.
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
