"""A client's requirements for the answer: described to the flow as instructions, and enforced."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from flowise_gateway.flow.errors import BadRequest
from flowise_gateway.flow.events import Batches
from flowise_gateway.flow.filters import stop_at
from flowise_gateway.openai.request import ParsedRequest
from flowise_gateway.openai.response_format import format_instructions, json_guard
from flowise_gateway.openai.schema import new_id
from flowise_gateway.openai.tool_calls import extract_tool_calls
from flowise_gateway.openai.tools import ClientTools, tool_instructions


def with_output_rules(parsed: ParsedRequest, mode: str) -> ParsedRequest:
    """The request with these instructions in its turns; its `tools` are None unless the mode is prompt.

    Enforced fields are removed from `parameters`; the others are reported as ignored. Raises BadRequest if
    the mode is to reject tools, or if the tools cannot be described to a flow.
    """
    if not (parsed.parameters or parsed.tools or parsed.format):
        return parsed
    fields = [name for name in ("tools", "functions") if parsed.parameters.get(name)]
    if mode == "reject" and fields:
        raise BadRequest(
            f"Unsupported parameter: '{fields[0]}' is not supported with this model.",
            param=fields[0],
            code="unsupported_parameter",
        )
    tools = parsed.tools if mode == "prompt" else None
    if tools and tools.refusal:
        raise tools.refusal
    rules = [tool_instructions(tools)] if tools else []
    rules += [format_instructions(parsed.format)] if parsed.format else []
    turns = tuple(replace(turn, rules="\n\n".join(rules)) for turn in parsed.turns)
    return replace(parsed, tools=tools, turns=turns, parameters=_not_obeyed(parsed.parameters, tools))


def _not_obeyed(parameters: Mapping[str, Any], tools: ClientTools | None) -> dict[str, Any]:
    obeyed = {"response_format", "text", *(tools.fields if tools else ())}
    left = {name: value for name, value in parameters.items() if name not in obeyed}
    if tools:
        left.update(dict.fromkeys(tools.ignored, True))
    if (verbosity := parameters.get("text", {}).get("verbosity")) is not None:
        left["text.verbosity"] = verbosity
    return left


def is_plain(parsed: ParsedRequest) -> bool:
    """Whether there is only one choice, and `enforce_output_rules` would not change its text."""
    has_rules = parsed.stop or parsed.format or (parsed.tools and parsed.tools.tools)
    return len(parsed.turns) == 1 and not has_rules


def enforce_output_rules(
    batches: Batches, parsed: ParsedRequest, make_id: Callable[[str], str] = new_id
) -> Batches:
    """The run with tool calls as events, truncated at a stop sequence, its JSON without a code fence.

    In this order: a stop sequence truncates text, never a tool call.
    """
    if parsed.tools and parsed.tools.tools:
        batches = extract_tool_calls(batches, parsed.tools, make_id)
    if parsed.stop:
        batches = stop_at(batches, parsed.stop)
    return json_guard(batches, parsed.format) if parsed.format else batches
