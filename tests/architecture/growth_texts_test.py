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

from flowise_gateway.access.file_links import FileLinks
from flowise_gateway.access.origins import check_host, cors_headers, is_origin_allowed
from flowise_gateway.config.settings import Settings
from flowise_gateway.conversation.planner import transcript_as_text
from flowise_gateway.conversation.sessions import (
    ConversationRequest,
    Conversations,
    Outcome,
)
from flowise_gateway.flow.errors import ProxyError
from flowise_gateway.flow.events import (
    ArtifactMade,
    Batch,
    ClientToolCalled,
    FlowEvent,
    HumanInputRequested,
    ReasoningDelta,
    SourcesFound,
    StepStarted,
    TextDelta,
    ToolUsed,
    TurnEnded,
)
from flowise_gateway.flow.filters import stop_at
from flowise_gateway.flow.lenient_json import lenient_json
from flowise_gateway.flow.model import Model
from flowise_gateway.flow.transcript import Transcript
from flowise_gateway.flow.turn import HistoryMessage, Turn, with_attached
from flowise_gateway.flowise.answer import answer_events
from flowise_gateway.flowise.events import EventDecoder
from flowise_gateway.flowise.failures import document_refused, failure, readable, refused
from flowise_gateway.flowise.human_input import decision
from flowise_gateway.flowise.overrides import takes_system_text
from flowise_gateway.flowise.prediction import prediction_body
from flowise_gateway.flowise.profiles import slug_of, unpack_profiles
from flowise_gateway.flowise.sse import SseDecoder, payloads
from flowise_gateway.flowise.transport.base import ReplyHead
from flowise_gateway.openai import attachments as openai_uploads
from flowise_gateway.openai.answer_text import without_decision
from flowise_gateway.openai.artifacts import label, without_links
from flowise_gateway.openai.citations import without_footer
from flowise_gateway.openai.client_quirks import traits_of
from flowise_gateway.openai.conversation_builder import (
    answer_in_history,
    is_thought,
    left_out_note,
    without_attached_files,
)
from flowise_gateway.openai.fields import MAX_STOP_CHARACTERS
from flowise_gateway.openai.flowise_details import flowise_details
from flowise_gateway.openai.json_body import json_object
from flowise_gateway.openai.request import ParsedRequest
from flowise_gateway.openai.response_format import JsonFormat, json_guard
from flowise_gateway.openai.sse import Frame, in_pieces, on_one_line, stream_bytes
from flowise_gateway.openai.tool_calls import extract_tool_calls
from flowise_gateway.openai.tools import ClientTool, ClientTools, call_text
from flowise_gateway.openai.ui_tasks import (
    as_schema,
    choices_of_decision,
    prompt_text,
    task_answer,
    task_kind,
    title_of,
)
from flowise_gateway.openai.usage import count_tokens
from flowise_gateway.responses.compaction import compacted
from flowise_gateway.responses.input_items import pack_compaction
from flowise_gateway.responses.renderer import ResponsesRenderer
from flowise_gateway.responses.request import earlier_entries, parse_response
from flowise_gateway.storage.memory_store import MemoryStore
from flowise_gateway.telemetry.log import request_id
from flowise_gateway.web.files import check_is_file, file_headers
from openai_adapter import ChatRenderer, CompletionRenderer, parse_chat, parse_completion
from tests.architecture.growth_test import MODULES
from tests.support.adversaries import TEXTS
from tests.support.growth import SIZE, check_growth

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
        ClientToolCalled("c", "f", text),
        SourcesFound((document, web)),
        ArtifactMade({"type": "png", "data": text}),
        ArtifactMade({"type": "markdown", "data": text}),
        ArtifactMade({"type": text, "data": None}),
        HumanInputRequested({}, (text, "b")),
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
    guarded(lambda batches: stop_at(batches, [unit[:-1] + "\1", unit[:20] + "\1", "\1"]), text)


def answered(body: bytes) -> None:
    """What Flowise says instead of an answer."""
    document_refused(body)
    for status in (200, 404, 500):
        refused(ReplyHead(status, {}), body, FLOW)


def conversed(text: str) -> None:
    """A conversation whose last answer is the text, gone on from."""
    said = tuple(HistoryMessage(role, text) for role in ("userMessage", "apiMessage"))
    turn = Turn(FLOW, text, said, text)
    asked = ConversationRequest("c", FLOW, "session", (turn,), text, conversation=text, user=text)
    conversations = Conversations(MemoryStore(), [b"s" * 32], 60)
    for told in (asked, replace(asked, conversation="", user="")):
        conversations.record(conversations.join(told), [Outcome(text, None)])


READERS: Mapping[str, Reader] = {
    "flowise_gateway.flow.filters.stop_at": stops,
    "flowise_gateway.flow.turn.with_attached": lambda text: with_attached(text, text),
    "flowise_gateway.flowise.human_input.decision": lambda text: [
        decision(said, HumanInputRequested({}, (text, text[:100])))
        for said in (text, "yes" + text, "reject" + text, text[:100] + text)
    ],
    "flowise_gateway.flowise.events.EventDecoder": decoded,
    "flowise_gateway.flowise.sse.SseDecoder": fed,
    "flowise_gateway.flowise.sse.payloads": lambda text: list(payloads(text.encode())),
    "flowise_gateway.flow.lenient_json.lenient_json": lambda text: (
        lenient_json(text),
        lenient_json(orjson.dumps(text)),
    ),
    "flowise_gateway.flowise.failures.document_refused": lambda text: answered(text.encode()),
    "flowise_gateway.flowise.failures.refused": lambda text: answered(orjson.dumps({"message": text})),
    "flowise_gateway.flowise.failures.failure": lambda text: failure(text, FLOW),
    "flowise_gateway.flowise.failures.readable": readable,
    "flowise_gateway.flowise.overrides.takes_system_text": lambda text: takes_system_text(MODEL, text),
    "flowise_gateway.flowise.prediction.prediction_body": lambda text: prediction_body(
        Turn(FLOW, text, instructions=text)
    ),
    "flowise_gateway.flowise.profiles.slug_of": slug_of,
    "flowise_gateway.flowise.profiles.unpack_profiles": lambda text: unpack_profiles(text.encode()),
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
    "flowise_gateway.openai.json_body.json_object": lambda text: (
        json_object(orjson.dumps({"a": text})),
        json_object(b'{"a":"%b\\ud800"}' % orjson.dumps(text)[1:-1]),
        json_object(text.encode()),
    ),
    "flowise_gateway.openai.artifacts.label": label,
    "flowise_gateway.openai.artifacts.without_links": without_links,
    "flowise_gateway.openai.response_format.json_guard": lambda text: [
        guarded(lambda batches: json_guard(batches, JsonFormat()), begun + text)
        for begun in ("", "```json\n", "```")
    ],
    "flowise_gateway.openai.conversation_builder.answer_in_history": lambda text: answer_in_history(
        text, [ClientToolCalled("c", "f", text)]
    ),
    "flowise_gateway.openai.conversation_builder.left_out_note": left_out_note,
    "flowise_gateway.openai.conversation_builder.is_thought": lambda text: [
        is_thought(begun + text) for begun in ("", "<think>")
    ],
    "flowise_gateway.responses.renderer.ResponsesRenderer": lambda text: rendered(
        ResponsesRenderer, text, parse_response({"model": "m", "input": "a"})
    ),
    "flowise_gateway.responses.request.earlier_entries": lambda text: earlier_entries(text, lambda _id: None),
    "flowise_gateway.responses.request.parse_response": lambda text: (
        parse_response({"model": "m", "input": text, "instructions": text, "tools": [{"type": text}]}),
        parse_response({"model": "m", "input": items(text)}),
    ),
    "flowise_gateway.responses.compaction.compacted": lambda text: compacted(
        {"model": "m", "input": items(text)}, len
    ),
    "flowise_gateway.responses.input_items.pack_compaction": lambda text: [
        parse_response({"model": "m", "input": [{"type": "compaction", "encrypted_content": told}]})
        for told in (pack_compaction(items(text)), text)
    ],
    "flowise_gateway.openai.citations.without_footer": without_footer,
    "flowise_gateway.openai.client_quirks.traits_of": lambda text: traits_of(text, text),
    "flowise_gateway.openai.conversation_builder.without_attached_files": lambda text: [
        without_attached_files(begun + text) for begun in ("", "<attached_files>", "<attached_files>\n")
    ],
    "flowise_gateway.openai.ui_tasks.choices_of_decision": lambda text: choices_of_decision(
        f"(Waiting for your decision: {text})"
    ),
    "flowise_gateway.openai.ui_tasks.as_schema": lambda text: as_schema(text, {"type": "json_schema"}),
    "flowise_gateway.openai.ui_tasks.prompt_text": prompt_text,
    "flowise_gateway.openai.ui_tasks.task_answer": lambda text: [
        *(task_answer(kind, text) for kind in ("title", "prompt")),
        *(
            task_answer("title", begun + text)
            for begun in ("Generate a title for this conversation:\n", "Tool result of ", "### Task:")
        ),
    ],
    "flowise_gateway.openai.ui_tasks.task_kind": lambda text: [
        task_kind([Turn("m", t)]) for t in (text, "### Task:\n" + text)
    ],
    "flowise_gateway.openai.ui_tasks.title_of": title_of,
    "flowise_gateway.openai.tool_calls.extract_tool_calls": lambda text: [
        guarded(lambda batches: extract_tool_calls(batches, TOOLS), begun + text)
        for begun in ("", '<tool_call>{"a":"')
    ],
    "flowise_gateway.openai.tools.call_text": lambda text: call_text(text, text),
    "flowise_gateway.openai.attachments.audio_part": uploaded,
    "flowise_gateway.openai.sse.on_one_line": lambda text: on_one_line(orjson.dumps(text)),
    "flowise_gateway.openai.sse.in_pieces": in_pieces,
    "flowise_gateway.openai.answer_text.without_decision": without_decision,
    "flowise_gateway.access.origins.check_host": lambda text: check_host(
        text, "HTTP/1.1", SETTINGS, is_open=True
    ),
    "flowise_gateway.access.origins.cors_headers": lambda text: cors_headers(
        text, text, SETTINGS, is_open=True
    ),
    "flowise_gateway.access.origins.is_origin_allowed": lambda text: [
        is_origin_allowed(origin, SETTINGS, is_open=True) for origin in (text, f"http://{text}")
    ],
    "flowise_gateway.access.file_links.FileLinks": lambda text: FileLinks(b"", 1).opened(text),
    "flowise_gateway.web.files.check_is_file": lambda text: check_is_file(200, text),
    "flowise_gateway.web.files.file_headers": lambda text: file_headers(text[:200], text.encode()),
    "flowise_gateway.conversation.planner.transcript_as_text": lambda text: transcript_as_text(
        (HistoryMessage("userMessage", text),), text
    ),
    "flowise_gateway.conversation.sessions.Conversations": conversed,
    "flowise_gateway.telemetry.log.request_id": request_id,
    "flowise_gateway.openai.usage.count_tokens": count_tokens,
}
"""What reads foreign texts, by its name."""
PARTS = {
    "flowise_gateway.flow.filters.stop_at": 4,
    "flowise_gateway.openai.tool_calls.extract_tool_calls": 8,
    "flowise_gateway.flowise.events.EventDecoder": 16,
    "openai_adapter.ChatRenderer": 8,
    "openai_adapter.CompletionRenderer": 8,
    "flowise_gateway.responses.renderer.ResponsesRenderer": 16,
    "flowise_gateway.responses.compaction.compacted": 4,
    "flowise_gateway.responses.input_items.pack_compaction": 4,
    "flowise_gateway.openai.attachments.audio_part": 8,
    "flowise_gateway.conversation.sessions.Conversations": 4,
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
    "openai_adapter",
    "flowise_gateway.flow.",
    "flowise_gateway.flowise.",
    "flowise_gateway.openai.",
    "flowise_gateway.responses.",
    "flowise_gateway.access.",
    "flowise_gateway.conversation.",
    "flowise_gateway.telemetry.log",
)
NOT_FOREIGN = {
    "flowise_gateway.access.limits",
    "flowise_gateway.access.rates",
    "flowise_gateway.access.models",
    "flowise_gateway.flowise.catalog",
    "flowise_gateway.flowise.retries",
    "flowise_gateway.flowise.transport.base",
    "flowise_gateway.flowise.transport.gevent_transport",
    "flowise_gateway.flowise.transport.requests_transport",
    "flowise_gateway.openai.output_rules",
    "flowise_gateway.responses.background",
    "flowise_gateway.responses.routes",
    "flowise_gateway.responses.stored",
    "flowise_gateway.responses.websocket",
    "flowise_gateway.responses.websocket_session",
}
"""Modules without readers of their own: what they pass on is read in others."""
OUR_OWN = {
    "flowise_gateway.responses.input_items.too_large_context",
    "flowise_gateway.flowise.failures.naming_settings_of",
    *(
        f"flowise_gateway.openai.fields.{name}"
        for name in ("boolean", "integer", "missing", "optional_object", "string")
    ),
    *(
        f"flowise_gateway.openai.fields.{name}"
        for name in (
            "text_or_nothing",
            "wrong_type",
            "wrong_value",
            "of_type",
            "expect",
            "optional",
            "required",
        )
    ),
    *("flowise_gateway.openai.fields.is_done_anyway", "flowise_gateway.openai.answer_text.reasoning_text"),
    *(
        "flowise_gateway.responses.fields.text_or_null",
        "flowise_gateway.openai.schema.new_id",
        "flowise_gateway.responses.request.nothing_stored",
    ),
    *(
        "flowise_gateway.web.files.pieces",
        "flowise_gateway.conversation.planner.history_mode",
        "flowise_gateway.telemetry.log.configure_logging",
        "flowise_gateway.flowise.profiles.public_profile",
    ),
}
"""Functions whose texts are names of ours."""
READ_BY = {
    "flowise_gateway.flow.lenient_json.join_halves": "flowise_gateway.flowise.events.EventDecoder",
    "flowise_gateway.flow.lenient_json.read_message": "flowise_gateway.flowise.events.EventDecoder",
    "flowise_gateway.flowise.answer.item_key": "flowise_gateway.flowise.events.EventDecoder",
    "flowise_gateway.flow.readable.readable": "flowise_gateway.conversation.sessions.Conversations",
    "flowise_gateway.flow.cooperative.compressed": "flowise_gateway.conversation.sessions.Conversations",
    "flowise_gateway.flow.cooperative.decompressed": "flowise_gateway.conversation.sessions.Conversations",
    "flowise_gateway.flowise.overrides.with_overrides": "flowise_gateway.conversation.planner",
    "flowise_gateway.flowise.prediction.question_with_instructions": "flowise_gateway.flowise.prediction.prediction_body",
    "flowise_gateway.openai.json_body.has_too_many_values": "flowise_gateway.openai.json_body.json_object",
    "flowise_gateway.openai.json_body.value_count": "flowise_gateway.openai.json_body.json_object",
    "flowise_gateway.openai.json_body.is_too_deep": "flowise_gateway.openai.json_body.json_object",
    "flowise_gateway.responses.compaction.input_tokens": "flowise_gateway.responses.request.parse_response",
    "flowise_gateway.responses.input_items.stored_entries": "flowise_gateway.responses.request.parse_response",
    "flowise_gateway.openai.tools.checked_function": "flowise_gateway.responses.request.parse_response",
    "flowise_gateway.openai.tools.tool_mode": "flowise_gateway.responses.request.parse_response",
    "flowise_gateway.openai.response_format.read_format": "flowise_gateway.responses.request.parse_response",
    "flowise_gateway.responses.items.complete": "flowise_gateway.responses.request.parse_response",
    "flowise_gateway.responses.items.check_length": "flowise_gateway.responses.request.parse_response",
    "flowise_gateway.responses.input_items.read_conversation": "flowise_gateway.responses.request.parse_response",
    "flowise_gateway.openai.client_quirks.style_of": "flowise_gateway.openai.client_quirks.traits_of",
    "flowise_gateway.openai.attachments.image_at": "flowise_gateway.openai.attachments.audio_part",
    "flowise_gateway.openai.attachments.document": "flowise_gateway.openai.attachments.audio_part",
    "flowise_gateway.openai.attachments.file_part": "flowise_gateway.openai.attachments.audio_part",
    "flowise_gateway.openai.attachments.image_part": "flowise_gateway.openai.attachments.audio_part",
    "flowise_gateway.openai.attachments.is_image_address": "flowise_gateway.openai.attachments.audio_part",
    "flowise_gateway.access.origins.check_origin": "flowise_gateway.access.origins.is_origin_allowed",
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
