"""The bodies of requests in JSON Schema, for `openapi.py`.

What a single value must be is taken from the checks that refuse it; what is read by functions is described
here with their own limits. `tests/unit/openapi_test.py` puts values to both: neither may take what the other
refuses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, get_args

from flowise_gateway.openai.conversation_builder import MAX_MESSAGES
from flowise_gateway.openai.fields import (
    CHECKS,
    MAX_SAFETY_IDENTIFIER,
    MAX_STOP_CHARACTERS,
    MAX_STOPS,
    NO_LIMIT,
    PASSED_THROUGH,
    TYPED_ONLY,
    Check,
)
from flowise_gateway.openai.messages import ROLES
from flowise_gateway.openai.tools import ToolChoice
from flowise_gateway.responses.fields import MAX_KEY, MAX_PAIRS, MAX_VALUE, NAMED
from openai_adapter import MAX_CHOICES

Schema = dict[str, Any]

STRING: Schema = {"type": "string"}
BOOLEAN: Schema = {"type": "boolean"}
OBJECT: Schema = {"type": "object"}


def nullable(schema: Mapping[str, Any]) -> Schema:
    """A schema that allows null too: a field that is null is a field that was not sent."""
    if "type" not in schema:
        return {"anyOf": [dict(schema), {"type": "null"}]}
    types = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    # A list of allowed values holds for null as well.
    values = {"enum": [*schema["enum"], None]} if "enum" in schema else {}
    return {**schema, "type": [*types, "null"], **values}


def array(items: Schema, low: int = 0, high: int | None = None) -> Schema:
    return {
        "type": "array",
        "items": items,
        **({"minItems": low} if low else {}),
        **({} if high is None else {"maxItems": high}),
    }


def record(required: Sequence[str] = (), /, **properties: Schema) -> Schema:
    """An object; it may hold other fields, which are not looked at."""
    return {
        "type": "object",
        "properties": properties,
        **({"required": list(required)} if required else {}),
    }


def of_kind(kind: str, required: Sequence[str], **properties: Schema) -> Schema:
    """An object whose `type` says what it is."""
    return record(["type", *required], type={"const": kind}, **properties)


def described(text: str, schema: Schema) -> Schema:
    return {**schema, "description": text}


def _checked(checks: Mapping[str, Check]) -> dict[str, Schema]:
    return {name: nullable(check.schema) for name, check in checks.items()}


PASSED = described(
    "A field of Flowise's own request; only for keys with `overrides: true`, else named as ignored.", {}
)
_PASSED_THROUGH = {name: {**schema, **PASSED} for name, schema in _checked(PASSED_THROUGH).items()}
_STREAM_OPTIONS = nullable(record(include_usage=nullable(BOOLEAN), include_obfuscation=nullable(BOOLEAN)))
_STOP = nullable(
    {
        "anyOf": [
            {"type": "string", "maxLength": MAX_STOP_CHARACTERS},
            array({"type": "string", "maxLength": MAX_STOP_CHARACTERS}, high=MAX_STOPS),
        ]
    }
)
_MODES: Schema = {"type": "string", "enum": list(get_args(ToolChoice))}
_FUNCTION = record(
    ["name"],
    name=STRING,
    description=nullable(STRING),
    parameters=nullable(described("A JSON Schema.", OBJECT)),
    strict=nullable(BOOLEAN),
)
_FLAT_FUNCTION = of_kind("function", ["name"], **_FUNCTION["properties"])
_JSON_SCHEMA = record(
    ["name"],
    name={"type": "string", "pattern": "^[A-Za-z0-9_-]{1,64}$"},
    description=nullable(STRING),
    schema=nullable(OBJECT),
    strict=nullable(BOOLEAN),
)
_ID = described("The conversation's id: with it a client may send the new message alone.", nullable(STRING))
_COMMON: dict[str, Schema] = {
    "model": described("The id of a flow, as `GET /v1/models` lists them.", STRING),
    "stream": nullable(BOOLEAN),
    "stream_options": _STREAM_OPTIONS,
    "conversation_id": _ID,
    "session_id": _ID,
    "chat_id": _ID,
    **_PASSED_THROUGH,
    "flowise": described("Flowise's own fields in one object.", nullable(record((), **_PASSED_THROUGH))),
}
_CHOICES = described(
    "That many answers, each of a run of its own.",
    {"type": ["integer", "null"], "minimum": 1, "maximum": MAX_CHOICES},
)

# ------------------------------------------------------------------------------------------------ messages
_TEXT_PART = record(["type", "text"], type={"enum": ["text", "input_text", "output_text"]}, text=STRING)
_CHAT_PARTS = [
    STRING,
    _TEXT_PART,
    of_kind("refusal", ["refusal"], refusal=STRING),
    of_kind(
        "image_url",
        ["image_url"],
        image_url={
            "anyOf": [
                described("A data URI, or an address that the model's provider fetches.", STRING),
                record(["url"], url=STRING),
            ]
        },
    ),
    of_kind(
        "input_audio", ["input_audio"], input_audio=record(["data", "format"], data=STRING, format=STRING)
    ),
    of_kind("file", ["file"], file=record(["file_data"], file_data=STRING, filename=nullable(STRING))),
]
_CONTENT: Schema = {"anyOf": [STRING, array({"anyOf": _CHAT_PARTS})]}
_CALLED = record(["name"], name=STRING, arguments={})
_MESSAGE_ROLES = {
    "developer": record(["role", "content"], content=_CONTENT),
    "system": record(["role", "content"], content=_CONTENT),
    "user": record(["role", "content"], content=_CONTENT),
    "assistant": record(
        ["role"],
        content=nullable(_CONTENT),
        refusal=described("A string, read where there is no content.", {}),
        tool_calls=nullable(array(record(["function"], id=described("A string.", {}), function=_CALLED))),
        function_call=nullable(_CALLED),
    ),
    "tool": record(["role", "tool_call_id"], tool_call_id=STRING, content=nullable(_CONTENT)),
    "function": record(
        ["role"], name=described("Of the function, a string.", {}), content=nullable(_CONTENT)
    ),
}


def _message() -> Schema:
    kinds = [
        {**schema, "title": role, "properties": {"role": {"const": role}, **schema["properties"]}}
        for role in ROLES
        for schema in [_MESSAGE_ROLES[role]]
    ]
    return {
        "oneOf": kinds,
        "description": "Only the newest is refused; of an earlier one a note replaces what cannot be read.",
    }


def chat_completion(*, names_model: bool = True) -> Schema:
    """A chat completion's request; Azure's has its model in the path."""
    own = {
        "messages": array({"$ref": "#/components/schemas/ChatRequestMessage"}, 1, MAX_MESSAGES),
        "n": _CHOICES,
        "stop": _STOP,
        "response_format": {
            "anyOf": [
                {"type": "null"},
                {"type": "object", "maxProperties": 0},
                of_kind("text", []),
                of_kind("json_object", []),
                of_kind("json_schema", ["json_schema"], json_schema=_JSON_SCHEMA),
            ]
        },
        "tools": nullable(
            array(
                {
                    "anyOf": [
                        of_kind("function", ["function"], function=_FUNCTION),
                        {
                            **_FLAT_FUNCTION,
                            "description": "A function that is not nested, as Responses have it.",
                        },
                        described("Tools of other types are named as ignored.", _other_than("function")),
                    ]
                }
            )
        ),
        "functions": nullable(array(_FUNCTION)),
    }
    checks = _checked(CHECKS) | _checked(TYPED_ONLY)
    for name, text in _CHOICES_OF_TOOLS.items():
        checks[name] = described(text, checks[name])
    return _request({**_COMMON, **checks, **own}, ["messages"], names_model)


_CHOICES_OF_TOOLS = {
    "tool_choice": "With `tools`: `none`, `auto`, `required`, a function by its name, or `allowed_tools`.",
    "function_call": "With `functions`: `none`, `auto`, or a function by its name.",
}
"""Read only beside what may be called; without it their type alone is looked at."""


def _other_than(*kinds: str) -> Schema:
    return record(["type"], type={"type": "string", "not": {"enum": list(kinds)}})


def completion(*, names_model: bool = True) -> Schema:
    """A legacy completion's request."""
    own = {
        "prompt": {"anyOf": [STRING, array(STRING, 1, MAX_CHOICES)]},
        "n": _CHOICES,
        "stop": _STOP,
        "echo": nullable(BOOLEAN),
    }
    return _request({**_COMMON, **_checked(CHECKS), **_checked(TYPED_ONLY), **own}, ["prompt"], names_model)


def _request(properties: dict[str, Schema], required: list[str], names_model: bool) -> Schema:
    if names_model:
        return record(["model", *required], **properties)
    in_path = described("The deployment in the path wins.", {})
    return record(required, **{**properties, "model": in_path})


# ------------------------------------------------------------------------------------------------ responses
_OUTPUT_CONTENT: Schema = {
    "anyOf": [
        STRING,
        array(
            {
                "anyOf": [
                    _TEXT_PART,
                    of_kind("refusal", ["refusal"], refusal=STRING),
                ]
            }
        ),
    ]
}
_INPUT_CONTENT: Schema = {
    "anyOf": [
        STRING,
        array(
            {
                "anyOf": [
                    _TEXT_PART,
                    of_kind("input_image", ["image_url"], image_url=STRING, detail=nullable(STRING)),
                    of_kind("input_file", ["file_data"], file_data=STRING, filename=nullable(STRING)),
                    of_kind(
                        "input_audio",
                        ["input_audio"],
                        input_audio=record(["data", "format"], data=STRING, format=STRING),
                    ),
                ]
            }
        ),
    ]
}


def input_item() -> Schema:
    """An item of the input of a response."""
    asked: Schema = {"type": "string", "enum": ["user", "system", "developer"]}
    message: Schema = {"type": "string", "const": "message"}
    kinds = [
        record(["role", "content"], type=message, role=asked, content=_INPUT_CONTENT),
        record(["role", "content"], type=message, role={"const": "assistant"}, content=_OUTPUT_CONTENT),
        of_kind(
            "function_call", ["call_id", "name", "arguments"], call_id=_TEXT, name=_TEXT, arguments=STRING
        ),
        of_kind("function_call_output", ["output"], call_id=nullable(_TEXT), output=nullable(_INPUT_CONTENT)),
        of_kind("reasoning", ["summary"], summary=array(of_kind("summary_text", ["text"], text=STRING))),
        of_kind("compaction", ["encrypted_content"], encrypted_content=STRING),
        of_kind("item_reference", ["id"], id=STRING),
    ]
    return {"anyOf": kinds, "description": "Items of other types are taken, and named as ignored."}


_TEXT: Schema = {"type": "string", "minLength": 1}
_INPUT = {
    "anyOf": [STRING, array({"$ref": "#/components/schemas/ResponseInputItem"}, high=MAX_MESSAGES)],
    "description": "A text, or the items that the response is to answer.",
}


def _count(low: int) -> Schema:
    return {"type": ["integer", "null"], "minimum": low, "maximum": 2**53}


def response(*, needs_model: bool = True) -> Schema:
    """A request for a response."""
    texts = ("effort", "summary", "mode", "context", "generate_summary")
    own: dict[str, Schema] = {
        "input": _INPUT,
        "stream_options": nullable(record(include_obfuscation=nullable(BOOLEAN))),
        "instructions": nullable(STRING),
        "previous_response_id": nullable(STRING),
        "conversation": {"anyOf": [nullable(STRING), record(["id"], id=STRING)]},
        "background": nullable(BOOLEAN),
        "store": nullable(BOOLEAN),
        "generate": described("False: nothing runs; the input is stored to be continued.", nullable(BOOLEAN)),
        "include": nullable(array(STRING)),
        "truncation": {"type": ["string", "null"], "enum": ["auto", "disabled", "", None]},
        "max_output_tokens": {"anyOf": [_count(16), {"const": NO_LIMIT}]},
        "max_tool_calls": _count(1),
        "parallel_tool_calls": nullable(BOOLEAN),
        "service_tier": nullable(STRING),
        "safety_identifier": {"type": ["string", "null"], "maxLength": MAX_SAFETY_IDENTIFIER},
        "user": nullable(STRING),
        "reasoning": nullable(record((), **dict.fromkeys(texts, nullable(STRING)))),
        "metadata": {
            "type": ["object", "null"],
            "maxProperties": MAX_PAIRS,
            "propertyNames": {"maxLength": MAX_KEY},
            "additionalProperties": {"type": "string", "maxLength": MAX_VALUE},
        },
        "text": nullable(
            record(
                format={
                    "anyOf": [
                        {"type": "null"},
                        of_kind("text", []),
                        of_kind("json_object", []),
                        {
                            **_JSON_SCHEMA,
                            "required": ["type", "name", "schema"],
                            "properties": {
                                "type": {"const": "json_schema"},
                                **_JSON_SCHEMA["properties"],
                                "schema": OBJECT,
                            },
                        },
                    ]
                },
                verbosity=nullable(STRING),
            )
        ),
        "tools": nullable(
            array(
                {
                    "anyOf": [
                        _FLAT_FUNCTION,
                        described("Tools of other types are named as ignored.", _other_than("function")),
                    ]
                }
            )
        ),
        "tool_choice": {
            "anyOf": [
                nullable(_MODES),
                of_kind("function", ["name"], name=STRING),
                of_kind("allowed_tools", ["mode", "tools"], mode=_MODES, tools=array({})),
                _other_than("function", "allowed_tools"),
            ]
        },
    }
    numbers = ("temperature", "top_p", "presence_penalty", "frequency_penalty", "top_logprobs")
    checks = {**{name: CHECKS[name] for name in numbers}, **NAMED}
    if not needs_model:
        own["model"] = nullable(_COMMON["model"])
    return record(["model"] if needs_model else [], **{**_COMMON, **_checked(checks), **own})


def compaction() -> Schema:
    """A request to pack a conversation: of a request for a response what says what it is about."""
    whole = response()
    unread = {*_COMMON, "user", "conversation", "generate"} - {"model"}
    properties = {name: schema for name, schema in whole["properties"].items() if name not in unread}
    return {**whole, "properties": properties}


REQUESTS: dict[str, Schema] = {
    "ChatRequestMessage": _message(),
    "ChatCompletionRequest": chat_completion(),
    "AzureChatCompletionRequest": chat_completion(names_model=False),
    "CompletionRequest": completion(),
    "AzureCompletionRequest": completion(names_model=False),
    "ResponseInputItem": input_item(),
    "ResponseRequest": response(),
    "CompactionRequest": compaction(),
    "InputTokensRequest": response(needs_model=False),
}
