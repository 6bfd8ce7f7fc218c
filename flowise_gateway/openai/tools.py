"""The client's functions that a flow may call: parsed from a request, and described in the prompt.

Chat completions nest a function in its tool, Responses do not; `functions` is the old form of both.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import orjson

from flowise_gateway.flow.errors import BadRequest
from flowise_gateway.flow.lenient_json import json_text
from flowise_gateway.openai.fields import (
    boolean,
    expect,
    missing,
    optional,
    required,
    string,
    text_or_nothing,
    wrong_value,
)

ToolChoice = Literal["none", "auto", "required"]

MAX_TOOLS = 128
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass(frozen=True, slots=True)
class ClientTool:
    """A function of the client; `parameters` is a JSON Schema."""

    name: str
    description: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ClientTools:
    """The functions that may be called in this answer, none if `choice` is none.

    `is_legacy` means that they were sent as `functions`. `ignored` names tools of other types.
    `refusal` is the reason why the tools cannot be described to a flow; it is raised only in prompt mode.
    """

    tools: tuple[ClientTool, ...]
    choice: ToolChoice = "auto"
    is_parallel: bool = True
    is_legacy: bool = False
    ignored: tuple[str, ...] = ()
    refusal: BadRequest | None = None

    @property
    def names(self) -> frozenset[str]:
        return frozenset(tool.name for tool in self.tools)

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields of the request that are applied."""
        if self.is_legacy:
            return ("functions", "function_call")
        return ("tools", "tool_choice", "parallel_tool_calls")


class UnsupportedTools(BadRequest):
    """Tools that are well formed, but cannot be described to a flow."""


def read_tools(body: Mapping[str, Any]) -> ClientTools | None:
    """The functions that a client sends, or why they cannot be described; None if there are none.

    Raises BadRequest for tools that are not well formed.
    """
    try:
        return parse_tools(body)
    except UnsupportedTools as refusal:
        return ClientTools((), refusal=refusal)


def parse_tools(body: Mapping[str, Any]) -> ClientTools | None:
    tools, functions = _array(body, "tools"), _array(body, "functions")
    if tools:
        return _of_tools(body, tools)
    return _of_functions(body, functions) if functions else None


def _of_tools(body: Mapping[str, Any], given: Sequence[Any]) -> ClientTools | None:
    tools: dict[str, ClientTool] = {}
    ignored = []
    for n, tool in enumerate(given):
        param = f"tools[{n}]"
        expect(tool, dict, param)
        if string(tool, "type", f"{param}.type") == "function":
            _add(tools, *_function(tool, param))
        else:
            ignored.append(param)
    if not tools:
        return None
    is_parallel = body.get("parallel_tool_calls") is None or boolean(body, "parallel_tool_calls")
    choice, allowed = _choice(body.get("tool_choice"), tools)
    if choice is None:
        choice, ignored = "auto", [*ignored, "tool_choice"]
    return ClientTools(_offered(tools, choice, allowed), choice, is_parallel, ignored=tuple(ignored))


def _of_functions(body: Mapping[str, Any], given: Sequence[Any]) -> ClientTools:
    tools: dict[str, ClientTool] = {}
    for n, function in enumerate(given):
        _add(tools, function, f"functions[{n}]")
    call = body.get("function_call")
    if call is None or call in ("none", "auto"):
        choice: ToolChoice = call or "auto"
        return ClientTools(_offered(tools, choice, tools), choice, is_parallel=False, is_legacy=True)
    if isinstance(call, str):
        raise wrong_value("function_call", f"'{call[:40]}' is not one of none, auto")
    expect(call, dict, "function_call", "a string or an object")
    named = _known(call, "function_call", tools)
    return ClientTools((tools[named],), "required", is_parallel=False, is_legacy=True)


def _array(body: Mapping[str, Any], name: str) -> Sequence[Any]:
    value = optional(body.get(name), list, name)
    if value and len(value) > MAX_TOOLS:
        raise _unsupported(name, f"at most {MAX_TOOLS} are allowed")
    return value or ()


def _unsupported(param: str, complaint: str) -> UnsupportedTools:
    error = wrong_value(param, complaint)
    return UnsupportedTools(error.message, param=error.param, code=error.code)


def _function(tool: Mapping[str, Any], param: str) -> tuple[Any, str]:
    """A tool's function and its path: nested, or the tool itself."""
    if tool.get("function") is not None:
        return tool["function"], f"{param}.function"
    if "name" not in tool:
        raise missing(f"{param}.function")
    return tool, param


def _add(tools: dict[str, ClientTool], function: Any, param: str) -> None:
    expect(function, dict, param)
    name = string(function, "name", f"{param}.name")
    tool = checked_function(function, param)
    if not _NAME.fullmatch(name):
        raise _unsupported(f"{param}.name", "it must match ^[a-zA-Z0-9_-]{1,64}$")
    if name in tools:
        raise _unsupported(f"{param}.name", f"'{name}' is defined twice")
    tools[name] = tool


def checked_function(function: Mapping[str, Any], param: str) -> ClientTool:
    """A function whose name has been checked. Raises BadRequest for another field of the wrong type."""
    parameters = optional(function.get("parameters"), dict, f"{param}.parameters")
    boolean(function, "strict", f"{param}.strict")
    description = text_or_nothing(function, "description", f"{param}.description")
    return ClientTool(function["name"], description, parameters or {})


def _choice(value: Any, tools: Mapping[str, ClientTool]) -> tuple[ToolChoice | None, Sequence[str]]:
    """The mode in `tool_choice`, None for a tool of another type, and the names it allows."""
    if value is None or isinstance(value, str):
        return tool_mode(value or "auto", "tool_choice"), [*tools]
    expect(value, dict, "tool_choice", "a string or an object")
    kind = string(value, "type", "tool_choice.type")
    if kind == "function":
        return "required", [_known(*_function(value, "tool_choice"), tools)]
    if kind == "allowed_tools":
        return _allowed(value, tools)
    return None, [*tools]


def tool_mode(value: str, param: str) -> ToolChoice:
    """Whether tools may or must be called. Raises BadRequest."""
    for mode in get_args(ToolChoice):
        if mode == value:
            return mode  # type: ignore[no-any-return]
    raise wrong_value(param, f"'{value[:40]}' is not one of none, auto, required")


def _allowed(value: Mapping[str, Any], tools: Mapping[str, ClientTool]) -> tuple[ToolChoice, Sequence[str]]:
    given, param = value, "tool_choice"
    if value.get("allowed_tools") is not None:
        param = "tool_choice.allowed_tools"
        given = expect(value["allowed_tools"], dict, param)
    mode = tool_mode(string(given, "mode", f"{param}.mode"), f"{param}.mode")
    listed = required(given.get("tools"), list, f"{param}.tools")
    names = []
    for n, tool in enumerate(listed):
        place = f"{param}.tools[{n}]"
        expect(tool, dict, place)
        if tool.get("type") == "function":
            names.append(_known(*_function(tool, place), tools))
    return (mode if names else "none"), names


def _known(function: Any, param: str, tools: Mapping[str, ClientTool]) -> str:
    expect(function, dict, param)
    name = string(function, "name", f"{param}.name")
    if name not in tools:
        raise wrong_value(f"{param}.name", f"'{name[:64]}' is not one of the tools")
    return name


def _offered(
    tools: Mapping[str, ClientTool], choice: ToolChoice, allowed: Sequence[str] | Mapping[str, ClientTool]
) -> tuple[ClientTool, ...]:
    return () if choice == "none" else tuple(tool for name, tool in tools.items() if name in allowed)


def call_text(name: str, arguments: str, call_id: Any = None) -> str:
    """A call as the flow should write it; arguments that are not a JSON object become a JSON string.

    Clients parse the arguments and serialize them again, with other whitespace and escapes, and n8n adds the
    call's id: a call must have one text whoever wrote it, or its session would not be found again.
    """
    try:
        value = orjson.loads(arguments or "{}")
    except orjson.JSONDecodeError:
        value = None
    if isinstance(value, dict) and call_id is not None and value.get("id") == call_id:
        del value["id"]
    text = (
        orjson.dumps(value).decode() if isinstance(value, dict) else json.dumps(arguments, ensure_ascii=False)
    )
    return f'<tool_call>{{"name":{json.dumps(name, ensure_ascii=False)},"arguments":{text}}}</tool_call>'


_CALL_FORM = """\
To call a tool, write the call in exactly this form, on lines of its own and in no code block:
<tool_call>{"name": "the tool's name", "arguments": {"parameter": "value"}}</tool_call>
The arguments are one JSON object that fits the tool's parameters. End your answer after the call: what \
the tool gives comes with the next message, in a line that begins with "Tool result of" and the tool's name. \
Never make up such a result."""
_PARALLEL = "To call several tools at once, write one call after the other, each in its own tags."
_SINGLE = "Call at most one tool in an answer."
_IF_NEEDED = "Call a tool only where it is needed, and only one that is listed above; otherwise just answer."
_NO_TOOL = "Call no tool in this answer, even if tools were called before: answer in words."


def tool_instructions(tools: ClientTools) -> str:
    """Instructions that describe the tools, how to call them, and whether a call is required."""
    if not tools.tools:
        return _NO_TOOL
    listed = [
        json_text(
            {
                "name": tool.name,
                "description": tool.description,
                "parameters": tool.parameters or {"type": "object", "properties": {}},
            }
        )
        for tool in tools.tools
    ]
    duty = _IF_NEEDED
    if tools.choice == "required":
        one = f"the tool {tools.tools[0].name}" if len(tools.tools) == 1 else "one of these tools"
        duty = f"This answer must be a call of {one}."
    parts = [
        "\n".join(["Available tools, one JSON object a line:", *listed]),
        _CALL_FORM,
        " ".join([_PARALLEL if tools.is_parallel else _SINGLE, duty]),
    ]
    return "\n\n".join(parts)
