"""Reads and validates fields of a request body; an invalid one is a 400 that names it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from flowise_gateway.flow.errors import BadRequest

T = TypeVar("T")
_KINDS: Mapping[type, str] = {
    bool: "a boolean",
    int: "an integer",
    float: "a number",
    str: "a string",
    list: "an array",
    dict: "an object",
    type(None): "null",
}

MAX_STOPS = 64
"""The maximum number of stop sequences; every token is searched for each of them."""

NO_LIMIT = -1
"""Some clients send this token limit to mean no limit."""


def kind_of(value: Any) -> str:
    """The name of a value's JSON type."""
    return _KINDS.get(type(value), "something else")


def wrong_type(param: str, expected: str, value: Any) -> BadRequest:
    """OpenAI's error for a value of the wrong type."""
    return BadRequest(
        f"Invalid type for '{param}': expected {expected}, but got {kind_of(value)} instead.",
        param=param,
        code="invalid_type",
    )


def wrong_value(param: str, complaint: str) -> BadRequest:
    return BadRequest(f"Invalid value for '{param}': {complaint}.", param=param, code="invalid_value")


def missing(param: str) -> BadRequest:
    return BadRequest(
        f"Missing required parameter: '{param}'.", param=param, code="missing_required_parameter"
    )


def expect(value: Any, kind: type[T], param: str, expected: str = "") -> T:
    """The value, which must be of this type; `expected` names the allowed types if there are several."""
    if not isinstance(value, kind):
        raise wrong_type(param, expected or _KINDS[kind], value)
    return value


def required(value: Any, kind: type[T], param: str) -> T:
    """The value, which must be present and of this type."""
    if value is None:
        raise missing(param)
    return expect(value, kind, param)


def optional(value: Any, kind: type[T], param: str) -> T | None:
    """The value, which must be null or of this type."""
    return None if value is None else expect(value, kind, param)


def string(body: Mapping[str, Any], name: str, param: str | None = None) -> str:
    """A required string."""
    return required(body.get(name), str, param or name)


def boolean(body: Mapping[str, Any], name: str, param: str | None = None) -> bool:
    """A boolean; absent or null is false."""
    return bool(optional(body.get(name), bool, param or name))


def integer(body: Mapping[str, Any], name: str, default: int, low: int, high: int) -> int:
    """An integer within bounds; absent or null is the default."""
    value = body.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int):
        raise wrong_type(name, "an integer", value)
    if not low <= value <= high:
        raise wrong_value(name, f"it must be from {low} to {high}")
    return value


def optional_object(body: Mapping[str, Any], name: str) -> dict[str, Any]:
    """An object; absent or null is empty."""
    return optional(body.get(name), dict, name) or {}


def include_usage(body: Mapping[str, Any]) -> bool:
    """Whether a stream should end with a usage chunk."""
    options = optional_object(body, "stream_options")
    return boolean(options, "include_usage", "stream_options.include_usage")


MAX_STOP_CHARACTERS = 256
"""The maximum length of a stop sequence; each chunk is searched for its prefixes."""


def stop_sequences(body: Mapping[str, Any]) -> tuple[str, ...]:
    """The stop sequences: a string or an array, which may have more than OpenAI's four entries."""
    value = body.get("stop")
    if value is None:
        return ()
    sequences = [value] if isinstance(value, str) else value
    expect(sequences, list, "stop", "a string or an array of strings")
    if len(sequences) > MAX_STOPS:
        raise wrong_value("stop", f"at most {MAX_STOPS} sequences are allowed")
    for n, sequence in enumerate(sequences):
        expect(sequence, str, f"stop[{n}]")
        if len(sequence) > MAX_STOP_CHARACTERS:
            raise wrong_value(f"stop[{n}]", f"at most {MAX_STOP_CHARACTERS} characters are allowed")
    return tuple(sequence for sequence in sequences if sequence)


@dataclass(frozen=True, slots=True)
class Check:
    """A check of a field, called with its name and value; raises BadRequest.

    `schema` is the JSON Schema of the allowed values, for `/openapi.json`.
    """

    check: Callable[[str, Any], None]
    schema: Mapping[str, Any]

    def __call__(self, name: str, value: Any) -> None:
        """Raise BadRequest for a value that is not allowed."""
        self.check(name, value)


def _number(low: float, high: float) -> Check:
    def check(name: str, value: Any) -> None:
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise wrong_type(name, "a number", value)
        if not low <= value <= high:
            raise wrong_value(name, f"it must be from {low:g} to {high:g}")

    return Check(check, {"type": "number", "minimum": low, "maximum": high})


def _integer(low: int, high: int) -> Check:
    within = _number(low, high)

    def check(name: str, value: Any) -> None:
        within(name, value)
        if isinstance(value, float) and not value.is_integer():
            raise wrong_type(name, "an integer", value)

    return Check(check, {**within.schema, "type": "integer"})


_SCHEMA_TYPES: Mapping[type, str] = {
    bool: "boolean",
    int: "integer",
    str: "string",
    list: "array",
    dict: "object",
}


def of_type(expected: str, *types: type) -> Check:
    """A check that a value is of one of these types."""

    def check(name: str, value: Any) -> None:
        if not isinstance(value, types) or (isinstance(value, bool) and bool not in types):
            raise wrong_type(name, expected, value)

    return Check(check, {"type": [_SCHEMA_TYPES[one] for one in types]})


def _metadata(name: str, value: Any) -> None:
    expect(value, dict, name)
    for key, text in value.items():
        expect(text, str, f"{name}.{key[:64]}")


_TOKENS = _integer(0, 2**53)


def _count(name: str, value: Any) -> None:
    if value != NO_LIMIT:
        _TOKENS(name, value)


_LIMIT = Check(_count, {**_TOKENS.schema, "minimum": NO_LIMIT})
_LIST = of_type("an array", list)
_OBJECT = of_type("an object", dict)
_TEXT = of_type("a string", str)
_ANY_CHOICE = of_type("a string or an object", str, dict)

CHECKS: Mapping[str, Check] = {
    "temperature": _number(0, 2),
    "top_p": _number(0, 1),
    "presence_penalty": _number(-2, 2),
    "frequency_penalty": _number(-2, 2),
    "max_tokens": _LIMIT,
    "max_completion_tokens": _LIMIT,
    # The schema has no bounds: numbers beyond 64 bits are parsed as floats and rounded to the bounds.
    "seed": Check(_integer(-(2**63), 2**63), {"type": "integer"}),
    "logit_bias": _OBJECT,
    "tools": _LIST,
    "functions": _LIST,
    "tool_choice": _ANY_CHOICE,
    "function_call": _ANY_CHOICE,
    "parallel_tool_calls": of_type("a boolean", bool),
    "response_format": _OBJECT,
    "reasoning_effort": _TEXT,
    "verbosity": _TEXT,
    "modalities": _LIST,
    "audio": _OBJECT,
    "prediction": _OBJECT,
    "web_search_options": _OBJECT,
    "top_logprobs": _integer(0, 20),
    "logprobs": of_type("a boolean or an integer", bool, int),
    "best_of": _integer(1, 20),
    "suffix": _TEXT,
    "store": of_type("a boolean", bool),
    "moderation": _OBJECT,
    "service_tier": _TEXT,
    "prompt_cache_key": _TEXT,
    "prompt_cache_options": _OBJECT,
    "prompt_cache_retention": _TEXT,
}
"""Fields that no flow supports: their type is checked, and they are reported as ignored."""

MAX_SAFETY_IDENTIFIER = 128


def _safety_identifier(name: str, value: Any) -> None:
    _TEXT(name, value)
    if len(value) > MAX_SAFETY_IDENTIFIER:
        raise wrong_value(name, f"at most {MAX_SAFETY_IDENTIFIER} characters are allowed")


TYPED_ONLY: Mapping[str, Check] = {
    "user": _TEXT,
    "safety_identifier": Check(_safety_identifier, {"type": "string", "maxLength": MAX_SAFETY_IDENTIFIER}),
    "metadata": Check(_metadata, {"type": "object", "additionalProperties": {"type": "string"}}),
}
"""Fields of which only the type is checked."""


def is_done_anyway(name: str, value: Any) -> bool:
    """Whether a field only requests what is done for every request anyway."""
    if name in ("max_tokens", "max_completion_tokens", "max_output_tokens"):
        return bool(value == NO_LIMIT)
    if name == "store":  # chat completions are never stored
        return value is False
    return name == "service_tier" and value in ("auto", "default")


def asks_obfuscation(body: Mapping[str, Any]) -> bool:
    """Whether the client requests padded chunks, which the gateway does not send."""
    options = optional_object(body, "stream_options")
    return boolean(options, "include_obfuscation", "stream_options.include_obfuscation")


def parameters(body: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters that a flow may support. Validates them and the fields that only have a type."""
    checked(body, TYPED_ONLY)
    sent = checked(body, CHECKS)
    if asks_obfuscation(body):
        sent["stream_options.include_obfuscation"] = True
    return sent


def checked(body: Mapping[str, Any], checks: Mapping[str, Callable[[str, Any], None]]) -> dict[str, Any]:
    """The fields of a body that have a check, without those that request what is done anyway."""
    sent = {}
    for name, check in checks.items():
        if (value := body.get(name)) is not None:
            check(name, value)
            if not is_done_anyway(name, value):
                sent[name] = value
    return sent


class Identifiers(NamedTuple):
    """The conversation and user ids in a body, empty if it has none.

    `resends` means that clients that use this field always send the whole conversation.
    """

    conversation: str = ""
    user: str = ""
    resends: bool = False


def identifiers(body: Mapping[str, Any], passed: Mapping[str, Any]) -> Identifiers:
    """The ids in a body; `passed` are its Flowise fields. The conversation id has several names."""
    user = text_or_nothing(body, "user") or text_or_nothing(body, "safety_identifier")
    for place, name, param in (
        (body, "conversation_id", "conversation_id"),
        (body, "session_id", "session_id"),
        (optional_object(body, "metadata"), "conversation_id", "metadata.conversation_id"),
        (passed.get("overrideConfig", {}), "sessionId", "overrideConfig.sessionId"),
    ):
        if conversation := text_or_nothing(place, name, param):
            return Identifiers(conversation, user)
    return Identifiers(text_or_nothing(body, "chat_id"), user, resends=True)


def text_or_nothing(body: Mapping[str, Any], name: str, param: str | None = None) -> str:
    """A string; absent or null is empty."""
    return optional(body.get(name), str, param or name) or ""


PASSED_THROUGH: Mapping[str, Check] = {
    "overrideConfig": _OBJECT,
    "vars": _OBJECT,
    "form": _OBJECT,
    "humanInput": _OBJECT,
    "uploads": _LIST,
    "leadEmail": _TEXT,
}
"""Fields of Flowise's own request that a caller may set if its key allows it."""


def passed_through(body: Mapping[str, Any]) -> dict[str, Any]:
    """Flowise's own fields, from the body itself or from its object `flowise`."""
    nested = optional_object(body, "flowise")
    given = {}
    for name, check in PASSED_THROUGH.items():
        for place, param in ((nested, f"flowise.{name}"), (body, name)):
            if place.get(name) is not None:
                check(param, place[name])
                given[name] = place[name]
    return given
