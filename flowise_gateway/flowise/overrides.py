"""Converts parameters and system text of a request to the override inputs that are enabled for the flow.

Flowise silently ignores any other input (docs/reference/flowise.md, Overrides), so inputs that are not in the
flow's profile are reported to the caller as ignored. The caller's own `overrideConfig` takes precedence over
OpenAI's fields: the system text then goes into the question, and a parameter is reported as ignored.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import orjson

from flowise_gateway.flow.errors import BadRequest
from flowise_gateway.flow.model import Model
from flowise_gateway.flow.turn import Turn, Upload

_NOTHING: Mapping[str, Any] = {}
_SYSTEM_TEXTS = ("systemMessagePrompt", "systemMessage", "systemPrompt", "agentInstructions")
_SYSTEM_MESSAGES = ("agentMessages", "llmMessages")
_MODEL_CONFIGS = ("agentModelConfig", "llmModelConfig", "conditionAgentModelConfig")
_INPUTS: Mapping[str, tuple[str, ...]] = {
    "temperature": ("temperature",),
    "top_p": ("topP",),
    "max_tokens": ("maxTokens", "maxOutputTokens", "maxTokensToSample", "numPredict"),
    "max_completion_tokens": ("maxTokens", "maxOutputTokens", "maxTokensToSample", "numPredict"),
    "max_output_tokens": ("maxTokens", "maxOutputTokens", "maxTokensToSample", "numPredict"),
    "frequency_penalty": ("frequencyPenalty",),
    "presence_penalty": ("presencePenalty",),
    "reasoning_effort": ("reasoningEffort",),
}
"""OpenAI's parameters and the corresponding inputs of chat model nodes."""

_ALWAYS_OPEN = ("sessionId", "analytics")
"""Inputs that can be overridden in every flow."""

_is_node_id = re.compile(r"\w+_\d+").fullmatch
"""A node id, as in `{"systemMessage": {"toolAgent_0": …}}`."""

_USER_VARIABLES = ("user", "user_id", "userId")


class OverriddenTurn(NamedTuple):
    """A turn with its overrides, and the names of the ignored parameters."""

    turn: Turn
    ignored: tuple[str, ...]


def takes_system_text(model: Model, text: str, passed: Mapping[str, Any] = _NOTHING) -> bool:
    """Whether the system text can go into an override input that the caller does not set itself."""
    if model.system not in ("auto", "override"):
        return False
    inputs = model.inputs or {}
    given = _caller_overrides(passed)
    if any(name in inputs and name in given for name in (*_SYSTEM_TEXTS, *_SYSTEM_MESSAGES)):
        return False
    if any(name in inputs for name in _SYSTEM_TEXTS):
        return True
    # An agentflow resolves {{…}} in such messages, and there is no way to escape braces.
    return any(name in inputs for name in _SYSTEM_MESSAGES) and "{{" not in text


def with_overrides(
    turn: Turn, model: Model, parameters: Mapping[str, Any], user: str, passed: Mapping[str, Any] = _NOTHING
) -> OverriddenTurn:
    """The turn with all overrides that are enabled for the flow, including the system text.

    `passed` are Flowise's own fields as the caller sent them. Raises BadRequest for invalid uploads.
    """
    overrides = dict(turn.overrides)
    inputs, given = model.inputs or {}, _caller_overrides(passed)
    ignored = []
    if turn.system_text and takes_system_text(model, turn.system_text, passed):
        overrides.update(_system(inputs, turn.system_text))
        turn = replace(turn, instructions="", rules="")
    elif turn.system_text and passed.get("form"):
        ignored.append("system")  # a form replaces the question, and the system text before it
    for name, value in parameters.items():
        found = _parameter(inputs, name, value)
        if not found or _is_set_by_caller(found, given):
            ignored.append(name)
        else:
            _merge(overrides, found)
    variables = [name for name in _USER_VARIABLES if f"vars.{name}" in inputs]
    if user and variables:
        _merge(overrides, {"vars": dict.fromkeys(variables, user)})
    turn = replace(turn, overrides=overrides) if overrides else turn
    return OverriddenTurn(
        _with_passed_fields(turn, passed, given), (*ignored, *_not_overridable(model, given))
    )


def _caller_overrides(passed: Mapping[str, Any]) -> dict[str, Any]:
    """The overrides as the caller sent them, with the `vars` of both places, and without a session id."""
    given = {name: value for name, value in passed.get("overrideConfig", {}).items() if name != "sessionId"}
    _merge(given, {"vars": passed["vars"]} if passed.get("vars") else {})
    return given


def _is_set_by_caller(found: Mapping[str, Any], given: Mapping[str, Any]) -> bool:
    """Whether the caller set one of these itself, possibly in a model configuration."""
    for name, value in found.items():
        own = given.get(name)
        if name in given and not (
            isinstance(value, dict) and isinstance(own, dict) and not value.keys() & own
        ):
            return True
    return False


def _not_overridable(model: Model, given: Mapping[str, Any]) -> list[str]:
    """The overrides that Flowise will ignore, by their path in the request; none if that is unknown."""
    inputs = model.inputs
    if inputs is None:
        return []
    variables = given.get("vars")
    names = [f"vars.{name}" for name in variables if f"vars.{name}" not in inputs] if variables else []
    for name, value in given.items():
        if name == "vars" or name in _ALWAYS_OPEN:
            continue
        # Flowise merges an object that is not keyed by node ids without checking.
        is_merged = isinstance(value, dict) and not all(map(_is_node_id, value))
        if value in ("", None) or (name not in inputs and not (inputs and is_merged)):
            names.append(f"overrideConfig.{name}")
    return names


def _system(inputs: Mapping[str, str], text: str) -> dict[str, Any]:
    for name in _SYSTEM_TEXTS:
        if name in inputs:
            # A chatflow's system text is a template, in which braces are escaped by doubling.
            return {name: text.replace("{", "{{").replace("}", "}}")}
    message = [{"role": "system", "content": text}]
    return {name: message for name in _SYSTEM_MESSAGES if name in inputs}


def _parameter(inputs: Mapping[str, str], name: str, value: Any) -> dict[str, Any]:
    known = _INPUTS.get(name, ())
    plain = {found: _as_flowise_takes(value) for found in known if found in inputs}
    if plain or not known:
        return plain
    # Each model node reads the input that it has, and ignores the others.
    config = dict.fromkeys(known, _as_flowise_takes(value))
    return {name: config for name in _MODEL_CONFIGS if name in inputs}


def _as_flowise_takes(value: Any) -> Any:
    """A value in a form that Flowise accepts: it treats values that are falsy in JavaScript as missing."""
    is_false = isinstance(value, (int, float)) and not value
    return orjson.dumps(value).decode() if is_false else value


def _merge(overrides: dict[str, Any], more: Mapping[str, Any]) -> None:
    for name, value in more.items():
        before = overrides.get(name)
        both = isinstance(before, dict) and isinstance(value, dict)
        overrides[name] = {**before, **value} if both and isinstance(before, dict) else value


def _with_passed_fields(turn: Turn, passed: Mapping[str, Any], given: Mapping[str, Any]) -> Turn:
    """The turn with Flowise's own fields as a caller sent them."""
    if not passed:
        return turn
    overrides = dict(turn.overrides)
    _merge(overrides, {name: _as_flowise_takes(value) for name, value in given.items()})
    extra = {name: passed[name] for name in ("form", "leadEmail") if name in passed}
    uploads = tuple(_upload(upload, n) for n, upload in enumerate(passed.get("uploads", ())))
    return replace(
        turn,
        overrides=overrides,
        extra={**turn.extra, **extra},
        uploads=turn.uploads + uploads,
        human_input=passed.get("humanInput", turn.human_input),
    )


def _upload(given: Any, number: int) -> Upload:
    kinds = ("file", "url", "audio", "file:full", "file:rag")
    names = ("type", "name", "mime", "data")
    is_one = isinstance(given, dict) and all(isinstance(given.get(name), str) for name in names)
    if not is_one or given["type"] not in kinds:
        raise BadRequest(
            f"An upload needs the strings {', '.join(names)}, the type one of {', '.join(kinds)}.",
            param=f"uploads[{number}]",
            code="invalid_value",
        )
    return Upload(given["type"], given["name"], given["mime"], given["data"])
