"""What a request asks of the flow beside its question, by the override inputs that the flow has enabled.

Flowise ignores any other input without a word (flowise-api.md §1.3), so what is not in the flow's profile is
not sent but told to the caller as ignored. Upstream, pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from flow_turn import Model, Turn, Upload
from proxy_errors import BadRequest

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
"""OpenAI's parameters and the inputs that chat model nodes have for them."""

_USER_VARIABLES = ("user", "user_id", "userId")


class Fitted(NamedTuple):
    """A turn with its overrides, and the names of what was asked for but cannot be obeyed."""

    turn: Turn
    ignored: tuple[str, ...]


def takes_system_text(model: Model, text: str) -> bool:
    """Whether the flow has an override input for a system text, and this one passes it unharmed."""
    if model.system not in ("auto", "override"):
        return False
    inputs = model.inputs or {}
    if any(name in inputs for name in _SYSTEM_TEXTS):
        return True
    # An agentflow resolves {{…}} in such messages, and has no way to say that a brace is a brace.
    return any(name in inputs for name in _SYSTEM_MESSAGES) and "{{" not in text


def fitted(turn: Turn, model: Model, parameters: Mapping[str, Any], user: str) -> Fitted:
    """The turn with all that the flow lets a caller set; its system text too, where the flow takes one."""
    overrides = dict(turn.overrides)
    inputs = model.inputs or {}
    ignored = []
    if turn.system_text and takes_system_text(model, turn.system_text):
        overrides.update(_system(inputs, turn.system_text))
        turn = replace(turn, instructions="", rules="")
    for name, value in parameters.items():
        found = _parameter(inputs, name, value)
        if not found:
            ignored.append(name)
        _merge(overrides, found)
    variables = [name for name in _USER_VARIABLES if f"vars.{name}" in inputs]
    if user and variables:
        _merge(overrides, {"vars": dict.fromkeys(variables, user)})
    return Fitted(replace(turn, overrides=overrides) if overrides else turn, tuple(ignored))


def _system(inputs: Mapping[str, str], text: str) -> dict[str, Any]:
    for name in _SYSTEM_TEXTS:
        if name in inputs:
            # A chatflow's system text is a template, where a doubled brace is a brace.
            return {name: text.replace("{", "{{").replace("}", "}}")}
    message = [{"role": "system", "content": text}]
    return {name: message for name in _SYSTEM_MESSAGES if name in inputs}


def _parameter(inputs: Mapping[str, str], name: str, value: Any) -> dict[str, Any]:
    known = _INPUTS.get(name, ())
    plain = {found: value for found in known if found in inputs}
    if plain or not known:
        return plain
    return {config: {known[0]: value} for config in _MODEL_CONFIGS if config in inputs}


def _merge(overrides: dict[str, Any], more: Mapping[str, Any]) -> None:
    for name, value in more.items():
        before = overrides.get(name)
        both = isinstance(before, dict) and isinstance(value, dict)
        overrides[name] = {**before, **value} if both and isinstance(before, dict) else value


def passed_on(turn: Turn, passed: Mapping[str, Any]) -> Turn:
    """The turn with Flowise's own fields as a caller sent them; a session id among them is not passed on.

    Raises BadRequest for uploads that are none.
    """
    if not passed:
        return turn
    overrides = {k: v for k, v in passed.get("overrideConfig", {}).items() if k != "sessionId"}
    _merge(overrides, {"vars": passed["vars"]} if passed.get("vars") else {})
    merged = dict(turn.overrides)
    _merge(merged, overrides)
    extra = {name: passed[name] for name in ("form", "leadEmail") if name in passed}
    uploads = tuple(_upload(upload, n) for n, upload in enumerate(passed.get("uploads", ())))
    return replace(
        turn,
        overrides=merged,
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
            f"An upload needs the texts {', '.join(names)}, the type one of {', '.join(kinds)}.",
            param=f"uploads[{number}]",
            code="invalid_value",
        )
    return Upload(given["type"], given["name"], given["mime"], given["data"])
