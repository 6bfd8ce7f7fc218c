"""Whatever reads a text of a client, a flow or a file takes no longer than in proportion to it."""

from __future__ import annotations

import base64
import contextlib
import importlib
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import orjson
import pytest

import openai_uploads
from flow_guards import Batch, stopped_at
from flow_turn import (
    ActionAsked,
    ArtifactMade,
    FlowEvent,
    FunctionCalled,
    HistoryMessage,
    Model,
    ReasoningDelta,
    SourcesFound,
    StepStarted,
    TextDelta,
    ToolUsed,
    Transcript,
    Turn,
    TurnEnded,
    with_attached,
)
from flowise_actions import decision
from flowise_events import EventDecoder, SseDecoder, answer_events, lenient_json, payloads
from flowise_failures import document_refused, failure, readable, refused
from flowise_overrides import takes_system_text
from flowise_prediction import prediction_body
from flowise_profiles import slug_of, unpacked
from flowise_transport import ReplyHead
from openai_adapter import ChatRenderer, CompletionRenderer, parse_chat, parse_completion
from openai_fields import MAX_STOP_CHARACTERS, json_object
from openai_files import label, without_links
from openai_formats import JsonFormat, json_guard
from openai_messages import answer_in_history, left_out_note, without_attached_files
from openai_responses import ResponsesRenderer, entries_before, parse_response
from openai_responses_compact import compacted
from openai_responses_input import input_place, sealed
from openai_sources import without_footer
from openai_style import traits_of
from openai_tasks import (
    as_schema,
    asked_choices,
    is_whole_json,
    prompt_text,
    task_answer,
    task_kind,
    title_of,
)
from openai_tool_calls import called
from openai_tools import ClientTool, ClientTools, call_text
from openai_vendor import flowise_details
from openai_wire import Frame, ParsedRequest, on_one_line, stream_bytes, without_decision
from proxy_auth import check_host, cors_headers, is_origin_allowed
from proxy_errors import ProxyError
from proxy_files import FileLinks, check_is_file, file_headers
from proxy_identity import Asked, Conversations, Outcome, folded
from proxy_settings import Settings
from proxy_store import MemoryStore
from proxy_telemetry import request_id
from proxy_tokens import count_tokens
from tests.adversaries import TEXTS
from tests.growth import SIZE, check_growth
from tests.growth_test import MODULES

Reader = Callable[[str], object]
FLOW = "5518949f-3ebc-4082-af01-fa2a18623da6"
PIECE = 256
SETTINGS = Settings()
MODEL = Model("m", FLOW, "m", inputs={"agentMessages": "agent"})
TOOLS = ClientTools((ClientTool("f"),))


def encoded(text: str) -> str:
    """A text as base64."""
    return base64.b64encode(text.encode()).decode()


def chat(*messages: Mapping[str, Any], **more: Any) -> ParsedRequest:
    """A chat completion's request, read."""
    return parse_chat({"model": "m", "messages": [*messages], **more})


def user(content: Any) -> dict[str, Any]:
    """A message of the user."""
    return {"role": "user", "content": content}


def history(text: str) -> ParsedRequest:
    """A text in each part of earlier turns."""
    call = {"id": text[:64], "type": "function", "function": {"name": text, "arguments": text}}
    return chat(
        {"role": "system", "content": text},
        {"role": "assistant", "content": text, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": text, "content": text},
        {"role": "assistant", "content": [{"type": "text", "text": text}, {"type": text}]},
        user(text),
    )


def items(text: str) -> list[dict[str, Any]]:
    """A text in each part of a response's input."""
    return [
        {"role": "user", "content": text},
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": text}]},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": text},
        {"type": "function_call_output", "call_id": "c", "output": text},
        {"role": "assistant", "content": [{"type": "output_text", "text": text}]},
        {"role": "user", "content": [{"type": "input_file", "filename": text, "file_data": "data:,a"}]},
    ]


def pieces(text: str) -> Iterator[Batch]:
    """A flow's answer, a few letters at a time."""
    for at in range(0, len(text), PIECE):
        yield [TextDelta(text[at : at + PIECE])]
    yield [TurnEnded()]


def guarded(guard: Callable[[Any], Iterable[Batch]], text: str) -> int:
    """The number of batches of an answer, whole and in pieces, past a guard."""
    once: Batch = [TextDelta(text), TurnEnded()]
    whole = (batch for batch in [once])
    return sum(1 for batches in (whole, pieces(text)) for _ in guard(batches))


def rendered(renderer_of: Callable[..., Any], text: str, request: ParsedRequest | None = None) -> None:
    """An answer with a text in all its parts, streamed and whole."""
    document = {"pageContent": text, "metadata": {"source": "https://a.b/" + text, "title": text, text: text}}
    web = {"metadata": {"source": "https://a.b/c", "title": text}}
    events: list[FlowEvent] = [
        ReasoningDelta(text),
        StepStarted(text),
        ToolUsed(text, text, {"a": text}),
        TextDelta(text),
        FunctionCalled("c", "f", text),
        SourcesFound((document, web)),
        ArtifactMade({"type": "png", "data": text}),
        ArtifactMade({"type": "markdown", "data": text}),
        ArtifactMade({"type": text, "data": None}),
        ActionAsked({}, (text, "b")),
        TurnEnded(),
    ]
    request = request or ParsedRequest("m", (Turn("m", text),), stream=True)
    streamed, whole = (renderer_of(request, count_tokens=len) for _ in range(2))
    transcript = Transcript()
    frames: list[Frame] = streamed.opening()
    for event in events:
        transcript.add(event)
        frames += streamed.chunks(event)
    stream_bytes([*frames, *streamed.closing([transcript])])
    on_one_line(orjson.dumps(whole.body([transcript])))
    flowise_details([transcript])


def decoded(text: str) -> None:
    """A text in each event of a stream that Flowise may send, and in its JSON answer."""
    values = [text, [text], {"a": text}, [{"usedTools": [{"tool": text}], "agentName": text, "nodeId": text}]]
    names = ("token", "thinking", "nextAgent", "usedTools", "sourceDocuments", "agentReasoning", "action")
    decoder = EventDecoder(FLOW)
    for name in (*names, "artifacts", "metadata", "agentFlowExecutedData", "nextAgentFlow", "usageMetadata"):
        for value in values:
            event = orjson.dumps({"event": name, "data": value})
            decoder.token(event)
            list(decoder.decode(event))
    list(decoder.closing())
    list(answer_events({"text": text, "usedTools": values, "artifacts": values, "followUpPrompts": text}))


def fed(text: str) -> None:
    """Bytes that come from Flowise in pieces."""
    decoder, data = SseDecoder(), text.encode()
    for at in range(0, len(data), 512):
        list(payloads(decoder.feed(data[at : at + 512])))
    EventDecoder(FLOW).tokens(b"message:\ndata:" + data + b"\n\n")


def uploaded(text: str) -> None:
    """A text as each kind of file, as its name, as an address."""
    data, param = encoded(text), "p"
    for uri in (text, f"data:{text}", f"data:image/png;base64,{data}", f"https://a.b/{text}"):
        with contextlib.suppress(ProxyError):
            openai_uploads.image_part({"image_url": uri}, param, 1)
    for kind in ("webm", text):
        with contextlib.suppress(ProxyError):
            openai_uploads.audio_part({"input_audio": {"format": kind, "data": text}}, param, 1)
    for name, content in ((text, data), ("a.txt", data), ("a.pdf", text), (f"a.{text}", f"data:,{text}")):
        with contextlib.suppress(ProxyError):
            openai_uploads.file_part({"file": {"filename": name, "file_data": content}}, param, 1)
        with contextlib.suppress(ProxyError):
            openai_uploads.document(name, content, param, 1)
    openai_uploads.is_image_address(f"https://a{text}.b/{text}")


def stops(text: str) -> None:
    """An answer that goes on being like the beginning of what ends it."""
    unit = text[:MAX_STOP_CHARACTERS]
    guarded(lambda batches: stopped_at(batches, [unit[:-1] + "\1", unit[:20] + "\1", "\1"]), text)


def answered(body: bytes) -> None:
    """What Flowise says instead of an answer."""
    document_refused(body)
    for status in (200, 404, 500):
        refused(ReplyHead(status, {}), body, FLOW)


def conversed(text: str) -> None:
    """A conversation whose last answer is the text, gone on from."""
    said = tuple(HistoryMessage(role, text) for role in ("userMessage", "apiMessage"))
    turn = Turn(FLOW, text, said, text)
    asked = Asked("c", FLOW, "session", (turn,), text, conversation=text, user=text)
    conversations = Conversations(MemoryStore(), b"s" * 32, 60)
    for told in (asked, replace(asked, conversation="", user="")):
        conversations.ended(conversations.begin(told), [Outcome(text, None)])


READERS: Mapping[str, Reader] = {
    "flow_guards.stopped_at": stops,
    "flow_turn.with_attached": lambda text: with_attached(text, text),
    "flowise_actions.decision": lambda text: [
        decision(said, ActionAsked({}, (text, text[:100])))
        for said in (text, "yes" + text, "reject" + text, text[:100] + text)
    ],
    "flowise_events.EventDecoder": decoded,
    "flowise_events.SseDecoder": fed,
    "flowise_events.payloads": lambda text: list(payloads(text.encode())),
    "flowise_events.lenient_json": lambda text: (lenient_json(text), lenient_json(orjson.dumps(text))),
    "flowise_failures.document_refused": lambda text: answered(text.encode()),
    "flowise_failures.refused": lambda text: answered(orjson.dumps({"message": text})),
    "flowise_failures.failure": lambda text: failure(text, FLOW),
    "flowise_failures.readable": readable,
    "flowise_overrides.takes_system_text": lambda text: takes_system_text(MODEL, text),
    "flowise_prediction.prediction_body": lambda text: prediction_body(Turn(FLOW, text, instructions=text)),
    "flowise_profiles.slug_of": slug_of,
    "flowise_profiles.unpacked": lambda text: unpacked(text.encode()),
    "openai_adapter.parse_chat": history,
    "openai_adapter.parse_chat.fields": lambda text: chat(
        user("a"),
        user=text,
        metadata={"conversation_id": text},
        stop=text[:9],
        response_format={"type": "text"},
    ),
    "openai_adapter.parse_completion": lambda text: parse_completion({"model": text, "prompt": [text]}),
    "openai_adapter.ChatRenderer": lambda text: rendered(ChatRenderer, text),
    "openai_adapter.CompletionRenderer": lambda text: rendered(CompletionRenderer, text),
    "openai_fields.json_object": lambda text: (
        json_object(orjson.dumps({"a": text})),
        json_object(b'{"a":"%b\\ud800"}' % orjson.dumps(text)[1:-1]),
        json_object(text.encode()),
    ),
    "openai_files.label": label,
    "openai_files.without_links": without_links,
    "openai_formats.json_guard": lambda text: [
        guarded(lambda batches: json_guard(batches, JsonFormat()), begun + text)
        for begun in ("", "```json\n", "```")
    ],
    "openai_messages.answer_in_history": lambda text: answer_in_history(
        text, [FunctionCalled("c", "f", text)]
    ),
    "openai_messages.left_out_note": left_out_note,
    "openai_responses.ResponsesRenderer": lambda text: rendered(
        ResponsesRenderer, text, parse_response({"model": "m", "input": "a"})
    ),
    "openai_responses.entries_before": lambda text: entries_before(text, lambda _id: None),
    "openai_responses.parse_response": lambda text: (
        parse_response({"model": "m", "input": text, "instructions": text, "tools": [{"type": text}]}),
        parse_response({"model": "m", "input": items(text)}),
    ),
    "openai_responses_compact.compacted": lambda text: compacted({"model": "m", "input": items(text)}, len),
    "openai_responses_input.input_place": lambda text: input_place(text, []),
    "openai_responses_input.sealed": lambda text: [
        parse_response({"model": "m", "input": [{"type": "compaction", "encrypted_content": told}]})
        for told in (sealed(items(text)), text)
    ],
    "openai_sources.without_footer": without_footer,
    "openai_style.traits_of": lambda text: traits_of(text, text),
    "openai_messages.without_attached_files": lambda text: [
        without_attached_files(begun + text) for begun in ("", "<attached_files>", "<attached_files>\n")
    ],
    "openai_tasks.asked_choices": lambda text: asked_choices(f"(Waiting for your decision: {text})"),
    "openai_tasks.as_schema": lambda text: as_schema(text, {"type": "json_schema"}),
    "openai_tasks.is_whole_json": is_whole_json,
    "openai_tasks.prompt_text": prompt_text,
    "openai_tasks.task_answer": lambda text: [task_answer(kind, text) for kind in ("title", "prompt")],
    "openai_tasks.task_kind": lambda text: [task_kind([Turn("m", t)]) for t in (text, "### Task:\n" + text)],
    "openai_tasks.title_of": title_of,
    "openai_tool_calls.called": lambda text: [
        guarded(lambda batches: called(batches, TOOLS), begun + text) for begun in ("", '<tool_call>{"a":"')
    ],
    "openai_tools.call_text": lambda text: call_text(text, text),
    "openai_uploads.audio_part": uploaded,
    "openai_wire.on_one_line": lambda text: on_one_line(orjson.dumps(text)),
    "openai_wire.without_decision": without_decision,
    "proxy_auth.check_host": lambda text: check_host(text, "HTTP/1.1", SETTINGS, is_open=True),
    "proxy_auth.cors_headers": lambda text: cors_headers(text, text, SETTINGS, is_open=True),
    "proxy_auth.is_origin_allowed": lambda text: [
        is_origin_allowed(origin, SETTINGS, is_open=True) for origin in (text, f"http://{text}")
    ],
    "proxy_files.FileLinks": lambda text: FileLinks(b"", 1).opened(text),
    "proxy_files.check_is_file": lambda text: check_is_file(200, text),
    "proxy_files.file_headers": lambda text: file_headers(text[:200], text.encode()),
    "proxy_identity.folded": lambda text: folded((HistoryMessage("userMessage", text),), text),
    "proxy_identity.Conversations": conversed,
    "proxy_telemetry.request_id": request_id,
    "proxy_tokens.count_tokens": count_tokens,
}
"""What reads foreign texts, by its name."""
PARTS = {
    "flow_guards.stopped_at": 4,
    "openai_tool_calls.called": 8,
    "flowise_events.EventDecoder": 16,
    "openai_adapter.ChatRenderer": 8,
    "openai_adapter.CompletionRenderer": 8,
    "openai_responses.ResponsesRenderer": 16,
    "openai_responses_compact.compacted": 4,
    "openai_responses_input.sealed": 4,
    "openai_uploads.audio_part": 8,
    "proxy_identity.Conversations": 4,
}
"""How many times a reader is given its text; over all of them it is a megabyte."""


@pytest.mark.parametrize("name", READERS)
def test_a_reader_takes_a_megabyte_in_proportion(name: str) -> None:
    def work(text: str) -> None:
        with contextlib.suppress(ProxyError, ValueError):
            READERS[name](text)

    work("a")  # what it needs once is not counted
    check_growth(work, TEXTS, SIZE // PARTS.get(name, 1))


LAYERS = (
    "flow_",
    "flowise_",
    "openai_",
    "proxy_auth",
    "proxy_files",
    "proxy_identity",
    "proxy_telemetry",
    "proxy_tokens",
)
NOT_FOREIGN = {
    *("flowise_client", "flowise_catalog", "flowise_transport", "flowise_transport_gevent", "flowise_health"),
    *("openai_compatible_server", "openai_responses_routes", "openai_responses_socket", "openai_rules"),
}
"""Modules without readers of their own: what they pass on is read in others."""
OUR_OWN = {
    *(f"openai_fields.{name}" for name in ("boolean", "integer", "missing", "optional_object", "string")),
    *(f"openai_fields.{name}" for name in ("text_or_nothing", "wrong_type", "wrong_value", "of_type")),
    *("openai_fields.is_done_anyway", "openai_wire.reasoning_text"),
    *("openai_responses_fields.text_or_null", "openai_wire.new_id", "openai_responses.nothing_kept"),
    *(
        "proxy_files.pieces",
        "proxy_identity.way_of",
        "proxy_telemetry.configure_logging",
        "flowise_profiles.public_profile",
    ),
}
"""Functions whose texts are names of ours."""
READ_BY = {
    "flowise_failures.listing_refused": "flowise_failures.refused",
    "flowise_overrides.fitted": "proxy_exchange",
    "flowise_prediction.question_with_instructions": "flowise_prediction.prediction_body",
    "openai_fields.has_too_many_values": "openai_fields.json_object",
    "openai_fields.is_too_deep": "openai_fields.json_object",
    "openai_responses_compact.input_tokens": "openai_responses.parse_response",
    "openai_responses_input.chat_messages": "openai_responses.parse_response",
    "openai_responses_input.kept_entries": "openai_responses.parse_response",
    "openai_responses_input.told": "openai_responses.parse_response",
    "openai_style.style_of": "openai_style.traits_of",
    "openai_uploads.document": "openai_uploads.audio_part",
    "openai_uploads.file_part": "openai_uploads.audio_part",
    "openai_uploads.image_part": "openai_uploads.audio_part",
    "openai_uploads.is_image_address": "openai_uploads.audio_part",
    "proxy_auth.check_origin": "proxy_auth.is_origin_allowed",
}
"""Functions that a reader calls."""


def _text_functions() -> Iterator[str]:
    for module in MODULES:
        if not module.startswith(LAYERS) or module.startswith("flowise_demo") or module in NOT_FOREIGN:
            continue
        for name, function in vars(importlib.import_module(module)).items():
            is_own = inspect.isfunction(function) and function.__module__ == module
            if is_own and not name.startswith("_") and _takes_text(function):
                yield f"{module}.{name}"


def _takes_text(function: Callable[..., object]) -> bool:
    kinds = {str(each.annotation) for each in inspect.signature(function).parameters.values()}
    return not kinds.isdisjoint({"str", "bytes", "str | bytes", "str | None", "bytes | None"})


def test_no_reader_is_forgotten() -> None:
    known = {name.removesuffix(".fields") for name in READERS} | OUR_OWN | set(READ_BY)
    assert sorted(set(_text_functions()) - known) == []
