"""The fields of a Responses request other than its input: validated, and echoed in the response.

Every field may be null. Unsupported fields are only checked for their type, and are in `parameters`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypedDict

from flowise_gateway.flow.errors import BadRequest
from flowise_gateway.openai.fields import (
    CHECKS,
    MAX_SAFETY_IDENTIFIER,
    NO_LIMIT,
    Check,
    asks_obfuscation,
    boolean,
    checked,
    expect,
    integer,
    missing,
    of_type,
    optional,
    optional_object,
    required,
    string,
    wrong_value,
)
from flowise_gateway.openai.response_format import read_format
from flowise_gateway.openai.tools import checked_function, tool_mode

TOOL_CALLS = "flowise.tool_calls"
"""The entry of `include` that requests the flow's own tool calls as output items."""

MAX_PAIRS, MAX_KEY, MAX_VALUE = 16, 64, 512
"""OpenAI's limits of `metadata`."""

_LARGEST = 2**53
_OBJECT, _TEXT = of_type("an object", dict), of_type("a string", str)
_CHECKED_BY_ECHO = (
    *("temperature", "top_p", "presence_penalty", "frequency_penalty", "top_logprobs", "max_output_tokens"),
    *("max_tool_calls", "tools", "tool_choice", "parallel_tool_calls", "service_tier"),
)
NAMED: Mapping[str, Check] = {
    "prompt": _OBJECT,
    "context_management": of_type("an array", list),
    "moderation": _OBJECT,
    "access_programs": _OBJECT,
    "background_options": _OBJECT,
    "image": _OBJECT,
    "prompt_cache_key": _TEXT,
    "prompt_cache_options": _OBJECT,
    "prompt_cache_retention": _TEXT,
}
"""Unsupported fields: their type is checked, and they are reported as ignored."""

_PARAMETERS: Mapping[str, Callable[[str, Any], None]] = {
    **dict.fromkeys(_CHECKED_BY_ECHO, lambda _name, _value: None),
    **NAMED,
}

_REASONING_DEFAULTS = {"mode": "standard", "context": "auto"}


class Echo(TypedDict):
    """The fields of a request that its response repeats."""

    instructions: str | None
    previous_response_id: str | None
    tools: list[dict[str, Any]]
    tool_choice: Any
    parallel_tool_calls: bool
    truncation: str
    text: dict[str, Any]
    temperature: float
    top_p: float
    presence_penalty: float
    frequency_penalty: float
    top_logprobs: int
    reasoning: dict[str, Any] | None
    max_output_tokens: int | None
    max_tool_calls: int | None
    store: bool
    background: bool
    service_tier: str
    metadata: dict[str, str]
    safety_identifier: str | None
    prompt_cache_key: str | None


def echoed(body: Mapping[str, Any]) -> Echo:
    """The fields that a response repeats, with OpenAI's defaults for missing ones."""
    tools = optional(body.get("tools"), list, "tools") or ()
    text_or_null(body, "service_tier")  # any value is accepted, although there is only one tier
    has_no_limit = body.get("max_output_tokens") == NO_LIMIT
    return {
        "instructions": text_or_null(body, "instructions"),
        "previous_response_id": text_or_null(body, "previous_response_id"),
        "tools": [_tool(tool, f"tools[{n}]") for n, tool in enumerate(tools)],
        "tool_choice": _tool_choice(body.get("tool_choice")),
        "parallel_tool_calls": _boolean_or_true(body, "parallel_tool_calls"),
        "truncation": _truncation(body),
        "text": _text(body),
        "temperature": _number(body, "temperature", 1),
        "top_p": _number(body, "top_p", 1),
        "presence_penalty": _number(body, "presence_penalty", 0),
        "frequency_penalty": _number(body, "frequency_penalty", 0),
        "top_logprobs": integer(body, "top_logprobs", 0, 0, 20),
        "reasoning": _reasoning(body),
        "max_output_tokens": None if has_no_limit else _count(body, "max_output_tokens", 16),
        "max_tool_calls": _count(body, "max_tool_calls", 1),
        "store": _boolean_or_true(body, "store"),
        "background": boolean(body, "background"),
        "service_tier": "default",
        "metadata": _metadata(body),
        "safety_identifier": text_or_null(body, "safety_identifier", MAX_SAFETY_IDENTIFIER),
        "prompt_cache_key": text_or_null(body, "prompt_cache_key"),
    }


def parameters(body: Mapping[str, Any], echo: Echo) -> dict[str, Any]:
    """The parameters that a flow may support."""
    sent = checked(body, _PARAMETERS)
    if set(sent.get("prompt_cache_options", ["mode"])) <= {"prewarm"}:
        del sent["prompt_cache_options"]
    reasoning = echo["reasoning"] or {}
    for name, default in _REASONING_DEFAULTS.items():
        if reasoning.get(name, default) != default:
            sent[f"reasoning.{name}"] = reasoning[name]
    if reasoning.get("effort"):
        sent["reasoning_effort"] = reasoning["effort"]
    if asks_obfuscation(body):
        sent["stream_options.include_obfuscation"] = True
    if echo["text"] != {"format": {"type": "text"}}:
        sent["text"] = echo["text"]
    if echo["truncation"] == "auto":
        sent["truncation"] = "auto"
    if others := set(included(body)) - {TOOL_CALLS}:
        sent["include"] = sorted(others)
    return sent


def included(body: Mapping[str, Any]) -> tuple[str, ...]:
    """The additional output requested with `include`."""
    value = optional(body.get("include"), list, "include") or ()
    return tuple(expect(entry, str, f"include[{n}]") for n, entry in enumerate(value))


def conversation_id(body: Mapping[str, Any]) -> str:
    """The id in `conversation`, a string or an object; empty if there is none."""
    value = body.get("conversation")
    if value is None or isinstance(value, str):
        return value or ""
    expect(value, dict, "conversation", "a string or an object")
    return string(value, "id", "conversation.id")


def generates(body: Mapping[str, Any]) -> bool:
    """Whether the flow should run: clients may send a request in advance, and continue it later."""
    options = optional_object(body, "prompt_cache_options")
    is_prewarm = boolean(options, "prewarm", "prompt_cache_options.prewarm")
    return _boolean_or_true(body, "generate") and not is_prewarm


def text_or_null(body: Mapping[str, Any], name: str, longest: int | None = None) -> str | None:
    """A string or null."""
    value = optional(body.get(name), str, name)
    if value is not None and longest is not None and len(value) > longest:
        raise wrong_value(name, f"at most {longest} characters are allowed")
    return value


def _boolean_or_true(body: Mapping[str, Any], name: str) -> bool:
    return body.get(name) is None or boolean(body, name)


def _number(body: Mapping[str, Any], name: str, default: float) -> float:
    number: float | None = body.get(name)
    if number is None:
        return default
    CHECKS[name](name, number)
    return number


def _count(body: Mapping[str, Any], name: str, low: int) -> int | None:
    return None if body.get(name) is None else integer(body, name, low, low, _LARGEST)


def _truncation(body: Mapping[str, Any]) -> str:
    value = text_or_null(body, "truncation") or "disabled"
    if value not in ("auto", "disabled"):
        raise wrong_value("truncation", f"'{value[:40]}' is not one of auto, disabled")
    return value


def _reasoning(body: Mapping[str, Any]) -> dict[str, Any] | None:
    value = optional_object(body, "reasoning")
    names = ("effort", "summary", "mode", "context", "generate_summary")
    given = {name: string(value, name, f"reasoning.{name}") for name in names if value.get(name) is not None}
    return {"effort": None, "summary": None, **given} if value else None


def _metadata(body: Mapping[str, Any]) -> dict[str, str]:
    value = optional_object(body, "metadata")
    if len(value) > MAX_PAIRS:
        raise wrong_value("metadata", f"at most {MAX_PAIRS} pairs are allowed")
    for key, text in value.items():
        if len(key) > MAX_KEY:
            raise wrong_value("metadata", f"a key has at most {MAX_KEY} characters")
        if len(expect(text, str, f"metadata.{key}")) > MAX_VALUE:
            raise wrong_value(f"metadata.{key}", f"at most {MAX_VALUE} characters are allowed")
    return value


def _text(body: Mapping[str, Any]) -> dict[str, Any]:
    value = optional_object(body, "text")
    given = optional(value.get("format"), dict, "text.format")
    text: dict[str, Any] = {"format": {"type": "text"}}
    if given is not None:
        read, kind = read_format(given, "text.format"), given["type"]
        text["format"] = {"type": kind}
        if kind == "json_schema" and read is not None:
            if given.get("schema") is None:
                raise missing("text.format.schema")
            of_schema = {"name": read.name, "description": read.description, "schema": read.schema}
            text["format"] = {"type": kind, **of_schema, "strict": bool(given.get("strict"))}
    if value.get("verbosity") is not None:
        text["verbosity"] = string(value, "verbosity", "text.verbosity")
    return text


def _tool(tool: Any, param: str) -> dict[str, Any]:
    """A tool unchanged; a function with all keys that Open Responses requires, possibly null."""
    given = expect(tool, dict, param)
    if string(given, "type", f"{param}.type") != "function":
        return given
    string(given, "name", f"{param}.name")
    checked_function(given, param)
    return {"description": None, "parameters": None, "strict": None, **given}


def _tool_choice(choice: Any) -> Any:
    if choice is None or isinstance(choice, str):
        return "auto" if choice is None else tool_mode(choice, "tool_choice")
    expect(choice, dict, "tool_choice", "a string or an object")
    kind = string(choice, "type", "tool_choice.type")
    if kind == "function":
        string(choice, "name", "tool_choice.name")
    if kind == "allowed_tools":
        tool_mode(string(choice, "mode", "tool_choice.mode"), "tool_choice.mode")
        required(choice.get("tools"), list, "tool_choice.tools")
    return choice


def check_exclusive(body: Mapping[str, Any]) -> None:
    """Refuse mutually exclusive fields."""
    if body.get("background") and body.get("store") is False:
        raise BadRequest(
            "A background response must be stored: 'store' cannot be false.",
            param="background",
            code="invalid_value",
        )
    if body.get("previous_response_id") and body.get("conversation"):
        raise BadRequest(
            "Mutually exclusive parameters: 'previous_response_id' and 'conversation'.",
            param="previous_response_id",
            code="mutually_exclusive_parameters",
        )
