"""Every field of the SDK's requests, and what becomes of it: a new one in a new SDK fails here first."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, get_args, get_type_hints

import pytest
from openai.types import chat, responses, shared_params
from openai.types.chat import chat_completion_content_part_image_param as image_param
from openai.types.chat import chat_completion_content_part_input_audio_param as audio_param
from openai.types.chat import chat_completion_content_part_param as part_param
from openai.types.chat import completion_create_params as chat_params
from openai.types.completion_create_params import CompletionCreateParamsNonStreaming as CompletionParams
from openai.types.responses import response_create_params as response_params
from openai.types.responses import response_input_item_param as item_param
from openai.types.responses.input_token_count_params import InputTokenCountParams
from openai.types.responses.response_compact_params import ResponseCompactParams
from openai.types.responses.responses_client_event import ResponseCreate
from openai.types.shared_params.response_format_json_schema import JSONSchema

from flowise_gateway.flow.errors import BadRequest
from flowise_gateway.flow.model import Model
from flowise_gateway.flowise.overrides import with_overrides
from flowise_gateway.openai.output_rules import with_output_rules
from flowise_gateway.openai.request import ParsedRequest
from flowise_gateway.responses.request import parse_response
from openai_adapter import parse_chat, parse_completion


class How(Enum):
    """What becomes of a field."""

    APPLIED = "it changes what is run, or what is answered"
    PASSED = "it is passed on where the flow has enabled it, else named as ignored"
    NAMED = "it is named as ignored"
    REFUSED = "it is refused by an error that names it"
    LEFT_OUT = "it is a hint on which no answer depends, inside of something else"


APPLIED, PASSED, NAMED, REFUSED, LEFT_OUT = How
Body = dict[str, Any]
Wrap = Callable[[Any], Body]


@dataclass(frozen=True)
class Table:
    """The fields of one type of the SDK's, each with a sample.

    `wrap` makes a body of an object of that type, `base` is what the object holds beside.
    """

    name: str
    type: Any
    parse: Callable[[Body], ParsedRequest]
    fields: Mapping[str, tuple[How, Any]]
    wrap: Wrap
    base: Body

    def parsed(self, **more: Any) -> ParsedRequest:
        """The request with more fields."""
        return self.parse(self.wrap({**self.base, **more}))


def response(body: Body) -> ParsedRequest:
    """Parse a response's request, with ids that never change and one earlier response."""
    earlier = [{"type": "message", "role": "user", "content": "before"}]
    return parse_response(body, earlier={"resp_1": earlier}.get, make_id=lambda prefix: f"{prefix}1")


USER = {"role": "user", "content": "Hello"}
CHAT = {"model": "m", "messages": [USER], "stream": True}
TOOL = {"type": "function", "function": {"name": "f"}}
CALLS = {
    "role": "assistant",
    "tool_calls": [
        {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}},
        {"id": "c2", "type": "function", "function": {"name": "g", "arguments": "{}"}},
    ],
}
COMPLETION = {"model": "m", "prompt": "Hello", "stream": True}
RESPONSE = {"model": "m", "input": "Hello", "stream": True}
PNG, PDF = "data:image/png;base64,AA==", "data:application/pdf;base64,AA=="
CUT = {"type": "object"}


def message(item: Any) -> Body:
    """A chat with this message as its newest, which alone is refused for what it is."""
    return {**CHAT, "messages": [USER, CALLS, item]}


def part(item: Any) -> Body:
    """A chat with this part."""
    return {**CHAT, "messages": [{"role": "user", "content": [{"type": "text", "text": "See"}, item]}]}


def items(*given: Any) -> Body:
    """A response's request with these items as its newest."""
    return {**RESPONSE, "input": [USER, *given]}


def response_part(item: Any) -> Body:
    """A response's request with this part."""
    return items({"role": "user", "content": [{"type": "input_text", "text": "See"}, item]})


TABLES = [
    Table(
        "chat",
        chat_params.CompletionCreateParamsNonStreaming,
        parse_chat,
        {
            "audio": (NAMED, {"format": "wav", "voice": "a"}),
            "frequency_penalty": (PASSED, 1),
            "function_call": (NAMED, "none"),
            "functions": (NAMED, [{"name": "f"}]),
            "logit_bias": (NAMED, {"50256": -100}),
            "logprobs": (NAMED, True),
            "max_completion_tokens": (PASSED, 5),
            "max_tokens": (PASSED, 5),
            "messages": (APPLIED, [{"role": "user", "content": "Bye"}]),
            "metadata": (APPLIED, {"conversation_id": "c"}),
            "modalities": (NAMED, ["text", "audio"]),
            "model": (APPLIED, "other"),
            "moderation": (NAMED, {"model": "omni-moderation-latest"}),
            "n": (APPLIED, 2),
            "parallel_tool_calls": (NAMED, False),
            "prediction": (NAMED, {"type": "content", "content": "a"}),
            "presence_penalty": (PASSED, 1),
            "prompt_cache_key": (NAMED, "k"),
            "prompt_cache_options": (NAMED, {"mode": "explicit"}),
            "prompt_cache_retention": (NAMED, "24h"),
            "reasoning_effort": (PASSED, "low"),
            "response_format": (APPLIED, {"type": "json_object"}),
            "safety_identifier": (APPLIED, "ann"),
            "seed": (NAMED, 1),
            "service_tier": (NAMED, "flex"),
            "stop": (APPLIED, ["END"]),
            "store": (NAMED, True),
            "stream": (APPLIED, False),
            "stream_options": (APPLIED, {"include_usage": True}),
            "temperature": (PASSED, 1),
            "tool_choice": (NAMED, "none"),
            "tools": (NAMED, [TOOL]),
            "top_logprobs": (NAMED, 2),
            "top_p": (PASSED, 0.5),
            "user": (APPLIED, "ann"),
            "verbosity": (NAMED, "low"),
            "web_search_options": (NAMED, {}),
        },
        dict,
        CHAT,
    ),
    Table(
        "completion",
        CompletionParams,
        parse_completion,
        {
            "best_of": (NAMED, 2),
            "echo": (APPLIED, True),
            "frequency_penalty": (PASSED, 1),
            "logit_bias": (NAMED, {}),
            "logprobs": (NAMED, 1),
            "max_tokens": (PASSED, 5),
            "model": (APPLIED, "other"),
            "n": (APPLIED, 2),
            "presence_penalty": (PASSED, 1),
            "prompt": (APPLIED, "Bye"),
            "seed": (NAMED, 1),
            "stop": (APPLIED, "END"),
            "stream": (APPLIED, False),
            "stream_options": (APPLIED, {"include_usage": True}),
            "suffix": (NAMED, "."),
            "temperature": (PASSED, 1),
            "top_p": (PASSED, 0.5),
            "user": (APPLIED, "ann"),
        },
        dict,
        COMPLETION,
    ),
    Table(
        "response",
        ResponseCreate,  # of a WebSocket: what a POST has, and three more
        response,
        {
            "access_programs": (NAMED, {"cyber": "standard"}),
            "background": (APPLIED, True),
            "background_options": (NAMED, {"completion_window": "2h"}),
            "context_management": (NAMED, [{"type": "compaction"}]),
            "conversation": (APPLIED, "c"),
            "generate": (APPLIED, False),
            "image": (NAMED, {"context_compression": "enabled"}),
            "include": (NAMED, ["reasoning.encrypted_content"]),
            "input": (APPLIED, "Bye"),
            "instructions": (APPLIED, "Be brief"),
            "max_output_tokens": (PASSED, 16),
            "max_tool_calls": (NAMED, 1),
            "metadata": (APPLIED, {"a": "b"}),
            "model": (APPLIED, "other"),
            "moderation": (NAMED, {"model": "omni-moderation-latest"}),
            "parallel_tool_calls": (NAMED, False),
            "previous_response_id": (APPLIED, "resp_1"),
            "prompt": (NAMED, {"id": "p"}),
            "prompt_cache_key": (NAMED, "k"),
            "prompt_cache_options": (NAMED, {"mode": "explicit"}),
            "prompt_cache_retention": (NAMED, "24h"),
            "reasoning": (APPLIED, {"summary": "auto"}),
            "safety_identifier": (APPLIED, "ann"),
            "service_tier": (NAMED, "flex"),
            "store": (APPLIED, False),
            "stream": (APPLIED, False),
            "stream_id": (LEFT_OUT, "lane"),  # heeded by the socket, not by the parser
            "stream_options": (NAMED, {"include_obfuscation": True}),
            "temperature": (PASSED, 1),
            "text": (APPLIED, {"format": {"type": "json_object"}}),
            "tool_choice": (NAMED, "none"),
            "tools": (NAMED, [{"type": "function", "name": "f"}]),
            "top_logprobs": (NAMED, 2),
            "top_p": (PASSED, 0.5),
            "truncation": (NAMED, "auto"),
            "type": (LEFT_OUT, "response.create"),  # the same
            "user": (APPLIED, "ann"),
        },
        dict,
        RESPONSE,
    ),
    Table(
        "stream_options",
        chat.ChatCompletionStreamOptionsParam,
        parse_chat,
        {"include_usage": (APPLIED, True), "include_obfuscation": (NAMED, True)},
        lambda options: {**CHAT, "stream_options": options},
        {},
    ),
    Table(
        "response_format.json_schema",
        JSONSchema,
        parse_chat,
        {
            "name": (APPLIED, "other"),
            "schema": (APPLIED, CUT),
            "description": (APPLIED, "d"),
            "strict": (LEFT_OUT, True),
        },
        lambda given: {**CHAT, "response_format": {"type": "json_schema", "json_schema": given}},
        {"name": "n"},
    ),
    Table(
        "tools.function",
        shared_params.FunctionDefinition,
        parse_chat,
        {
            "name": (APPLIED, "g"),
            "description": (APPLIED, "d"),
            "parameters": (APPLIED, CUT),
            "strict": (LEFT_OUT, True),
        },
        lambda given: {**CHAT, "tools": [{"type": "function", "function": given}]},
        {"name": "f"},
    ),
    Table(
        "chat.prompt_cache_options",
        chat_params.PromptCacheOptions,
        parse_chat,
        {"mode": (NAMED, "explicit"), "ttl": (NAMED, "30m")},
        lambda given: {**CHAT, "prompt_cache_options": given} if given else CHAT,
        {},
    ),
    Table(
        "messages.user",
        chat.ChatCompletionUserMessageParam,
        parse_chat,
        {"content": (APPLIED, "b"), "role": (APPLIED, "system"), "name": (LEFT_OUT, "ann")},
        message,
        {"role": "user", "content": "a"},
    ),
    Table(
        "messages.assistant",
        chat.ChatCompletionAssistantMessageParam,
        parse_chat,
        {
            "audio": (LEFT_OUT, {"id": "a"}),
            "content": (APPLIED, "b"),
            "function_call": (APPLIED, {"name": "f", "arguments": "{}"}),
            "name": (LEFT_OUT, "bot"),
            "refusal": (APPLIED, "No."),
            "role": (REFUSED, "nobody"),
            "tool_calls": (APPLIED, CALLS["tool_calls"]),
        },
        message,
        {"role": "assistant", "content": ""},
    ),
    Table(
        "messages.tool",
        chat.ChatCompletionToolMessageParam,
        parse_chat,
        {"content": (APPLIED, "b"), "role": (APPLIED, "user"), "tool_call_id": (APPLIED, "c2")},
        message,
        {"role": "tool", "content": "a", "tool_call_id": "c1"},
    ),
    Table(
        "messages.function",
        chat.ChatCompletionFunctionMessageParam,
        parse_chat,
        {"content": (APPLIED, "b"), "role": (APPLIED, "user"), "name": (APPLIED, "g")},
        message,
        {"role": "function", "content": "a", "name": "f"},
    ),
    Table(
        "image_url",
        image_param.ImageURL,
        parse_chat,
        {"url": (APPLIED, "https://a.example/b.png"), "detail": (LEFT_OUT, "high")},
        lambda given: part({"type": "image_url", "image_url": given}),
        {"url": PNG},
    ),
    Table(
        "input_audio",
        audio_param.InputAudio,
        parse_chat,
        {"data": (APPLIED, "BBBB"), "format": (REFUSED, "mp3")},
        lambda given: part({"type": "input_audio", "input_audio": given}),
        {"data": "AAAA", "format": "ogg"},
    ),
    Table(
        "file",
        part_param.FileFile,
        parse_chat,
        {
            "file_data": (APPLIED, PNG),
            "filename": (APPLIED, "b.pdf"),
            "file_id": (REFUSED, "file-1"),
        },
        lambda given: part({"type": "file", "file": given}),
        {"file_data": PDF, "filename": "a.pdf"},
    ),
    Table(
        "response.stream_options",
        response_params.StreamOptions,
        response,
        {"include_obfuscation": (NAMED, True)},
        lambda options: {**RESPONSE, "stream_options": options},
        {},
    ),
    Table(
        "response.prompt_cache_options",
        response_params.PromptCacheOptions,
        response,
        {
            "comparison_response_id": (NAMED, "r"),
            "mode": (NAMED, "explicit"),
            "prewarm": (APPLIED, True),
            "ttl": (NAMED, "30m"),
        },
        lambda options: {**RESPONSE, "prompt_cache_options": options},
        {},
    ),
    Table(
        "reasoning",
        shared_params.Reasoning,
        response,
        {
            "context": (NAMED, "all_turns"),
            "effort": (PASSED, "low"),
            "generate_summary": (APPLIED, "auto"),
            "mode": (NAMED, "pro"),
            "summary": (APPLIED, "auto"),
        },
        lambda given: {**RESPONSE, "reasoning": given},
        {},
    ),
    Table(
        "text",
        responses.ResponseTextConfigParam,
        response,
        {"format": (APPLIED, {"type": "json_object"}), "verbosity": (NAMED, "low")},
        lambda given: {**RESPONSE, "text": given},
        {},
    ),
    Table(
        "text.format",
        responses.ResponseFormatTextJSONSchemaConfigParam,
        response,
        {
            "type": (APPLIED, "json_object"),
            "name": (APPLIED, "other"),
            "schema": (APPLIED, CUT),
            "description": (APPLIED, "d"),
            "strict": (APPLIED, True),  # repeated
        },
        lambda given: {**RESPONSE, "text": {"format": given}},
        {"type": "json_schema", "name": "n", "schema": {}},
    ),
    Table(
        "tools",
        responses.FunctionToolParam,
        response,
        {
            "name": (APPLIED, "g"),
            "description": (APPLIED, "d"),
            "parameters": (APPLIED, CUT),
            "type": (APPLIED, "custom"),
            **dict.fromkeys(("strict", "async", "defer_loading"), (LEFT_OUT, True)),
            "allowed_callers": (LEFT_OUT, ["direct"]),
            "output_schema": (LEFT_OUT, {}),
        },
        lambda given: {**RESPONSE, "tools": [given]},
        {"type": "function", "name": "f"},
    ),
    Table(
        "input.message",
        responses.EasyInputMessageParam,
        response,
        {
            "content": (APPLIED, "b"),
            "role": (APPLIED, "system"),
            "type": (LEFT_OUT, "message"),
            "phase": (LEFT_OUT, "commentary"),
        },
        items,
        {"role": "user", "content": "a"},
    ),
    Table(
        "input.function_call",
        responses.ResponseFunctionToolCallParam,
        response,
        {
            "arguments": (APPLIED, '{"a":1}'),
            "call_id": (REFUSED, ""),
            "name": (APPLIED, "g"),
            "namespace": (LEFT_OUT, "n"),
            "type": (NAMED, "tool_search_call"),
            "async": (LEFT_OUT, True),
            "caller": (LEFT_OUT, {"type": "direct"}),
            "id": (LEFT_OUT, "fc_2"),
            "status": (LEFT_OUT, "completed"),
        },
        items,
        {"type": "function_call", "arguments": "{}", "call_id": "c", "name": "f"},
    ),
    Table(
        "input.function_call_output",
        item_param.FunctionCallOutput,
        response,
        {
            "call_id": (REFUSED, "of no call"),
            "name": (APPLIED, "g"),
            "output": (APPLIED, "b"),
            "namespace": (LEFT_OUT, "n"),
            "type": (NAMED, "tool_search_output"),
            "caller": (LEFT_OUT, {"type": "direct"}),
            "id": (LEFT_OUT, "fco_2"),
            "status": (LEFT_OUT, "completed"),
        },
        items,
        {"type": "function_call_output", "output": "a"},
    ),
    Table(
        "input.input_image",
        responses.ResponseInputImageParam,
        response,
        {
            "detail": (LEFT_OUT, "high"),
            "file_id": (REFUSED, "file-1"),
            "image_url": (APPLIED, "https://a.example/b.png"),
            "prompt_cache_breakpoint": (LEFT_OUT, {"mode": "explicit"}),
            "type": (REFUSED, "input_video"),
        },
        response_part,
        {"type": "input_image", "image_url": PNG},
    ),
    Table(
        "input.input_file",
        responses.ResponseInputFileParam,
        response,
        {
            "detail": (LEFT_OUT, "high"),
            "file_data": (APPLIED, PNG),
            "file_id": (REFUSED, "file-1"),
            "file_url": (APPLIED, "https://a.example/b.png"),
            "filename": (APPLIED, "b.pdf"),
            "prompt_cache_breakpoint": (LEFT_OUT, {"mode": "explicit"}),
            "type": (REFUSED, "input_video"),
        },
        response_part,
        {"type": "input_file", "file_data": PDF, "filename": "a.pdf"},
    ),
]

ITEMS = {
    **dict.fromkeys(("message", "function_call", "function_call_output"), APPLIED),
    **dict.fromkeys(("compaction", "item_reference"), APPLIED),
    **dict.fromkeys(("mcp_approval_response", "compaction_trigger"), REFUSED),
    "reasoning": LEFT_OUT,
    **dict.fromkeys(("file_search_call", "web_search_call", "image_generation_call"), NAMED),
    **dict.fromkeys(("computer_call", "computer_call_output", "code_interpreter_call"), NAMED),
    **dict.fromkeys(("local_shell_call", "local_shell_call_output", "shell_call"), NAMED),
    **dict.fromkeys(("shell_call_output", "apply_patch_call", "apply_patch_call_output"), NAMED),
    **dict.fromkeys(("mcp_list_tools", "mcp_approval_request", "mcp_call"), NAMED),
    **dict.fromkeys(("custom_tool_call", "custom_tool_call_output", "tool_search_call"), NAMED),
    **dict.fromkeys(("tool_search_output", "additional_tools", "configuration_update"), NAMED),
    **dict.fromkeys(("program", "program_output"), NAMED),
}
"""What becomes of each type of item."""

CASES = [(table, name) for table in TABLES for name in table.fields]
PLAIN = Model("m", "flow", "m")
OPEN = replace(
    PLAIN,
    inputs=dict.fromkeys(
        ("temperature", "topP", "maxTokens", "frequencyPenalty", "presencePenalty", "reasoningEffort"), "n"
    ),
)


def names_of(kind: Any) -> set[str]:
    """The fields of one of the SDK's types."""
    return set(getattr(kind, "model_fields", None) or get_type_hints(kind))


def ignored(request: ParsedRequest, model: Model) -> list[str]:
    """What the answer names as ignored."""
    request = with_output_rules(request, model.tools)
    return list(with_overrides(request.turns[0], model, request.parameters, request.user).ignored)


def essence(request: ParsedRequest, *, echo: bool) -> ParsedRequest:
    """A request without what differs from time to time, and what is only named; perhaps without its echo."""
    turns = tuple(replace(turn, chat_id="") for turn in request.turns)
    request = replace(request, turns=turns, parameters={})
    return request if echo else replace(request, echo={}, input_items=())


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_every_field_of_the_sdk_is_in_its_table(table: Table) -> None:
    assert names_of(table.type) == set(table.fields)


def test_a_post_has_no_field_that_a_socket_lacks() -> None:
    over_socket = names_of(ResponseCreate)
    assert over_socket - names_of(response_params.ResponseCreateParamsNonStreaming) == {
        *("generate", "stream_id", "type")
    }
    assert names_of(response_params.ResponseCreateParamsNonStreaming) <= over_socket


def test_what_is_counted_and_compacted_has_the_fields_of_a_response() -> None:
    known = names_of(ResponseCreate)
    assert names_of(InputTokenCountParams) - known == {"personality"}
    assert names_of(ResponseCompactParams) <= known


@pytest.mark.parametrize(("table", "name"), CASES, ids=[f"{table.name}.{name}" for table, name in CASES])
def test_what_becomes_of_a_field(table: Table, name: str) -> None:
    how, sample = table.fields[name]
    if how is REFUSED:
        with pytest.raises(BadRequest) as caught:
            table.parsed(**{name: sample})
        assert (caught.value.param or "").rpartition(".")[2] == name
        return
    without, request = table.parsed(), table.parsed(**{name: sample})
    named = [each for each in ignored(request, PLAIN) if each not in ignored(without, PLAIN)]
    if how in (NAMED, PASSED):
        assert named
        is_taken = not [each for each in named if each in ignored(request, OPEN)]
        assert is_taken == (how is PASSED)
        return
    assert named == []
    is_same = essence(request, echo=how is APPLIED) == essence(without, echo=how is APPLIED)
    assert is_same == (how is LEFT_OUT)


def test_every_type_of_item_is_in_its_table() -> None:
    found: set[str] = set()
    for kind in get_args(responses.ResponseInputItemParam):
        hint = get_type_hints(kind)["type"]
        words = get_args(hint)
        # `item_reference` may be null: then its words are one level deeper.
        found.update(word for each in words for word in (get_args(each) or (each,)) if isinstance(word, str))
    assert found == set(ITEMS)


@pytest.mark.parametrize("kind", [kind for kind, how in ITEMS.items() if how is NAMED])
def test_an_item_of_another_models_is_named(kind: str) -> None:
    assert ignored(response(items({"type": kind})), PLAIN) == [f"input.{kind}"]


@pytest.mark.parametrize("kind", [kind for kind, how in ITEMS.items() if how is REFUSED])
def test_an_item_that_asks_for_an_action_is_refused(kind: str) -> None:
    with pytest.raises(BadRequest) as caught:
        response(items({"type": kind}))
    assert caught.value.param == "input[1]"
