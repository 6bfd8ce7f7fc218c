"""Translates chat completions and legacy completions: requests to turns, flow events to OpenAI's format.

Run as a program it converts the files of `sample_payload/` both ways and prints them.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import orjson

from flowise_gateway.flow.errors import ProxyError
from flowise_gateway.flow.events import ClientToolCalled, FlowEvent, TextDelta
from flowise_gateway.flow.transcript import Transcript
from flowise_gateway.flow.turn import Turn
from flowise_gateway.openai.answer_text import answer_text, reasoning_text, whole_reasoning, whole_text
from flowise_gateway.openai.citations import source_events, url_annotations
from flowise_gateway.openai.fields import (
    boolean,
    expect,
    identifiers,
    include_usage,
    integer,
    missing,
    parameters,
    passed_through,
    stop_sequences,
    string,
    wrong_value,
)
from flowise_gateway.openai.flowise_details import answer_metadata
from flowise_gateway.openai.messages import conversation
from flowise_gateway.openai.renderer import BaseRenderer
from flowise_gateway.openai.request import ParsedRequest
from flowise_gateway.openai.response_format import parse_format
from flowise_gateway.openai.schema import CalledFunction, ChatChoice, ChatCompletion, ChatMessage, Completion
from flowise_gateway.openai.sse import DONE, MAX_DELTA, Frame, error_frame, in_pieces, stream_bytes
from flowise_gateway.openai.tools import read_tools

SAMPLES = Path(__file__).resolve().parent / "sample_payload"
MAX_CHOICES = 8
"""Each choice is a separate run of the flow."""


def parse_chat(body: Mapping[str, Any], deployment: str | None = None) -> ParsedRequest:
    """Parse a chat completion request; a deployment in the path overrides `model`. Raises BadRequest."""
    model = deployment or string(body, "model")
    stream = boolean(body, "stream")
    passed = passed_through(body)
    chat = conversation(body.get("messages"), may_be_silent=bool(passed.get("form")))
    count = integer(body, "n", 1, 1, MAX_CHOICES)
    turns = tuple(
        Turn(model, chat.question, chat.history, chat.instructions, stream=stream) for _ in range(count)
    )
    conversation_id, user, resends = identifiers(body, passed)
    return ParsedRequest(
        model,
        turns,
        stream,
        include_usage(body) and stream,
        stop_sequences(body),
        user_text=chat.user_text,
        attachments=chat.attachments,
        left_out=chat.left_out,
        conversation=conversation_id,
        user=user,
        resends=resends,
        parameters=parameters(body),
        passed=passed,
        is_conversation=True,
        tools=read_tools(body),
        format=parse_format(body),
    )


def parse_completion(body: Mapping[str, Any], deployment: str | None = None) -> ParsedRequest:
    """Parse a legacy completion request, with `n` choices for each prompt. Raises BadRequest."""
    model = deployment or string(body, "model")
    stream = boolean(body, "stream")
    passed = passed_through(body)
    prompts = _prompts(body.get("prompt"))
    count = integer(body, "n", 1, 1, MAX_CHOICES)
    if len(prompts) * count > MAX_CHOICES:
        raise wrong_value("prompt", f"prompts times n must be at most {MAX_CHOICES}")
    texts = [prompt for prompt in prompts for _ in range(count)]
    return ParsedRequest(
        model,
        tuple(Turn(model, text, stream=stream) for text in texts),
        stream,
        include_usage(body) and stream,
        stop_sequences(body),
        tuple(texts) if boolean(body, "echo") else (),
        user_text=prompts[0],
        user=identifiers(body, passed).user,
        parameters=parameters(body),
        passed=passed,
    )


def _prompts(prompt: Any) -> list[str]:
    if prompt is None:
        raise missing("prompt")
    prompts = [prompt] if isinstance(prompt, str) else prompt
    expect(prompts, list, "prompt", "a string or an array of strings")
    if not 1 <= len(prompts) <= MAX_CHOICES:
        raise wrong_value("prompt", f"1 to {MAX_CHOICES} prompts are allowed")
    for n, text in enumerate(prompts):
        expect(text, str, f"prompt[{n}]", "a string (token lists are not supported)")
    return prompts


class _ChunkRenderer(BaseRenderer):
    """The common part of both renderers: every chunk of an answer has the same id, time and model."""

    _id_prefix: ClassVar[str]
    _object: ClassVar[str]
    _text_format: ClassVar[bytes]
    _nothing: ClassVar[bytes]

    def __init__(self, request: ParsedRequest, **options: Any) -> None:
        """Serialize the part with which all chunks begin."""
        super().__init__(request, **options)
        self._id, self._created = self._make_id(self._id_prefix), int(self._started)
        identity = {"id": self._id, "object": self._object, "created": self._created, "model": request.model}
        self._head = orjson.dumps(identity)[:-1]
        self._includes_usage = request.include_usage or self._style.usage
        # OpenAI: with include_usage every chunk before the usage chunk carries `usage: null`.
        self._tail = b',"usage":null}' if self._includes_usage else b"}"
        self._has_text = [False] * len(request.turns)

    def _chunk(self, index: int, content: bytes, finish: bytes = b"null", extra: bytes = b"") -> Frame:
        """A chunk of one choice; `content` is the serialized member with the delta."""
        return Frame(
            b'%b,"choices":[{"index":%d,%b,"logprobs":null,"finish_reason":%b}]%b%b'
            % (self._head, index, content, finish, extra, self._tail)
        )

    def _text_chunks(self, index: int, text: str) -> list[Frame]:
        return [self._chunk(index, self._text_format % orjson.dumps(piece)) for piece in in_pieces(text)]

    def chunks(self, event: FlowEvent, index: int = 0) -> list[Frame]:
        if isinstance(event, TextDelta):  # nearly all events are
            text = event.text
        else:
            text = answer_text(event, is_first=not self._has_text[index])
        if not text:
            return self._chunks_beside_text(event, index)
        self._has_text[index] = True
        if len(text) > MAX_DELTA:  # a flow that does not stream says all at once
            return self._text_chunks(index, text)
        return [self._chunk(index, self._text_format % orjson.dumps(text))]

    def _chunks_beside_text(self, event: FlowEvent, index: int) -> list[Frame]:  # noqa: ARG002
        return []

    def heartbeat(self) -> bytes:
        # A chunk, because some clients end the stream at an SSE comment, or if no chunk arrives.
        return stream_bytes([self._chunk(0, self._nothing)])

    def closing(self, transcripts: Sequence[Transcript]) -> list[Frame]:
        """Send sources, the finish reason of each choice, usage if requested, and `[DONE]`."""
        frames = [frame for n, transcript in enumerate(transcripts) for frame in self._sources(n, transcript)]
        # The last finishing chunk carries the keys that are not part of OpenAI's API.
        extras = [b""] * len(transcripts)
        extras[-1] = b',"flowise":' + self._short_details(transcripts)
        if self._request.conversation:
            extras[-1] += b',"conversation_id":' + orjson.dumps(self._request.conversation)
        for index, (transcript, extra) in enumerate(zip(transcripts, extras, strict=True)):
            frames.append(self._chunk(index, self._nothing, orjson.dumps(self._finish(transcript)), extra))
        if self._includes_usage:
            usage = orjson.dumps(self.usage(transcripts))
            frames.append(Frame(b'%b,"choices":[],"usage":%b}' % (self._head, usage)))
        return [*frames, DONE]

    def _sources(self, index: int, transcript: Transcript) -> list[Frame]:
        return self._text_chunks(index, self._footer(transcript))

    def _finish(self, transcript: Transcript) -> str:
        return transcript.finish_reason or "stop"

    def failure(self, error: ProxyError) -> list[Frame]:
        # Without a finish_reason, so that nobody takes the text so far for an answer.
        return [error_frame(self._shown(error)), DONE]


class ChatRenderer(_ChunkRenderer):
    """Renders the flow events of a request as chat completion chunks or a chat completion."""

    _id_prefix, _object = "chatcmpl-", "chat.completion.chunk"
    _text_format, _nothing = b'"delta":{"content":%b}', b'"delta":{}'

    def __init__(self, request: ParsedRequest, **options: Any) -> None:
        """Track the number of tool calls and the last reasoning text of each choice."""
        super().__init__(request, **options)
        self._calls = [0] * len(request.turns)
        self._thoughts = [""] * len(request.turns)
        # Clients that send `functions` expect a call as `function_call`.
        self._is_legacy = request.tools is not None and request.tools.is_legacy

    def opening(self) -> list[Frame]:
        # Some clients fail without `content: ""`.
        delta = b'"delta":{"role":"assistant","content":"","refusal":null}'
        return [self._chunk(index, delta) for index in range(len(self._request.turns))]

    def _chunks_beside_text(self, event: FlowEvent, index: int) -> list[Frame]:
        """Render reasoning and steps as a reasoning chunk, and a tool call as two chunks."""
        if isinstance(event, ClientToolCalled):
            return [self._chunk(index, delta) for delta in self._call(event, index)]
        before = self._thoughts[index]
        if thought := reasoning_text(event, steps=self._style.steps, before=before):
            self._thoughts[index] = thought
            delta = b'"delta":{"content":"","reasoning_content":%b}'
            return [self._chunk(index, delta % orjson.dumps(piece)) for piece in in_pieces(thought)]
        return []

    def _call(self, event: ClientToolCalled, index: int) -> list[bytes]:
        """The id and the name first, then the arguments, as OpenAI streams them."""
        empty = orjson.dumps(_function(event, ""))
        arguments = [orjson.dumps(piece) for piece in in_pieces(event.arguments)]
        if self._is_legacy:
            more = b'"delta":{"function_call":{"arguments":%b}}'
            return [b'"delta":{"function_call":%b}' % empty, *(more % piece for piece in arguments)]
        number, self._calls[index] = self._calls[index], self._calls[index] + 1
        first = b'"delta":{"tool_calls":[{"index":%d,"id":%b,"type":"function","function":%b}]}'
        more = b'"delta":{"tool_calls":[{"index":%d,"function":{"arguments":%b}}]}'
        return [
            first % (number, orjson.dumps(event.call_id), empty),
            *(more % (number, piece) for piece in arguments),
        ]

    def _sources(self, index: int, transcript: Transcript) -> list[Frame]:
        # Citations are sent once, at the end: the AI SDK shows them again for every chunk with citations.
        frames = super()._sources(index, transcript)
        if self._style.source_events:
            extras = [b',"event":%b' % orjson.dumps(event) for event in source_events(transcript)]
            nothing = b'"delta":{"content":""}'
            frames += [self._chunk(index, nothing, extra=extra) for extra in extras]
        elif self._style.annotations and (found := url_annotations(transcript)):
            delta = b'"delta":{"content":"","annotations":%b}' % orjson.dumps(found)
            frames.append(self._chunk(index, delta))
        return frames

    def _finish(self, transcript: Transcript) -> str:
        reason = super()._finish(transcript)
        return "function_call" if reason == "tool_calls" and self._is_legacy else reason

    def body(self, transcripts: Sequence[Transcript]) -> ChatCompletion:
        body: ChatCompletion = {
            "id": self._id,
            "object": "chat.completion",
            "created": self._created,
            "model": self._request.model,
            "choices": [self._choice(index, transcript) for index, transcript in enumerate(transcripts)],
            "usage": self.usage(transcripts),
            "metadata": answer_metadata(transcripts, self._seconds()),
            "flowise": self._details(transcripts),
        }
        if self._request.conversation:
            body["conversation_id"] = self._request.conversation
        return body

    def _choice(self, index: int, transcript: Transcript) -> ChatChoice:
        text, calls = whole_text(transcript) + self._footer(transcript), transcript.calls
        content = text if text or not calls else None
        message: ChatMessage = {"role": "assistant", "content": content, "refusal": None}
        if calls and self._is_legacy:
            message["function_call"] = _function(calls[0], calls[0].arguments)
        elif calls:
            message["tool_calls"] = [
                {"id": call.call_id, "type": "function", "function": _function(call, call.arguments)}
                for call in calls
            ]
        if reasoning := whole_reasoning(transcript, steps=self._style.steps):
            message["reasoning_content"] = reasoning
        if self._style.annotations and (found := url_annotations(transcript)):
            message["annotations"] = found
        finish = self._finish(transcript)
        return {"index": index, "message": message, "logprobs": None, "finish_reason": finish}


def _function(call: ClientToolCalled, arguments: str) -> CalledFunction:
    return {"name": call.name, "arguments": arguments}


class CompletionRenderer(_ChunkRenderer):
    """Renders the flow events of a request as legacy completion chunks or a completion, without reasoning."""

    _id_prefix, _object = "cmpl-", "text_completion"
    _text_format, _nothing = b'"text":%b', b'"text":""'

    def opening(self) -> list[Frame]:
        """Give the prompts back if `echo` asks for it."""
        prefixes = enumerate(self._request.prefixes)
        return [chunk for index, prefix in prefixes for chunk in self._text_chunks(index, prefix)]

    def body(self, transcripts: Sequence[Transcript]) -> Completion:
        prefixes = self._request.prefixes or ("",) * len(transcripts)
        return {
            "id": self._id,
            "object": "text_completion",
            "created": self._created,
            "model": self._request.model,
            "choices": [
                {
                    "text": prefix + whole_text(transcript) + self._footer(transcript),
                    "index": index,
                    "logprobs": None,
                    "finish_reason": self._finish(transcript),
                }
                for index, (prefix, transcript) in enumerate(zip(prefixes, transcripts, strict=True))
            ],
            "usage": self.usage(transcripts),
            "flowise": self._details(transcripts),
        }


def convert_sample(sample: Mapping[str, Any]) -> tuple[str, Any]:
    """A title for a file of `sample_payload/`, and its translation to the other API."""
    # Imported here: only the command-line program may import Flowise's side.
    from flowise_gateway.flowise.answer import answer_events  # noqa: PLC0415
    from flowise_gateway.flowise.prediction import prediction_body  # noqa: PLC0415
    from flowise_gateway.openai.output_rules import with_output_rules  # noqa: PLC0415
    from flowise_gateway.openai.usage import count_tokens  # noqa: PLC0415
    from flowise_gateway.responses.request import parse_response  # noqa: PLC0415

    for field, kind, parse in (
        ("messages", "chat completion", parse_chat),
        ("prompt", "completion", parse_completion),
        ("input", "response", parse_response),
    ):
        if field in sample:
            turns = with_output_rules(parse(sample), "prompt").turns
            bodies = [{"flow": turn.flow, "body": prediction_body(turn)} for turn in turns]
            return f"a {kind}'s request, as Flowise gets it", bodies
    transcript = Transcript(str(sample.get("chatId", "")))
    for event in answer_events(sample):
        transcript.add(event)
    request = ParsedRequest("sample-flow", (Turn("sample-flow", str(sample.get("question", ""))),))
    renderer = ChatRenderer(request, count_tokens=count_tokens)
    return "Flowise's answer, as a chat completion", renderer.body([transcript])


def main() -> None:
    """Print each sample and its translation."""
    for path in sorted(SAMPLES.glob("*.json")):
        title, converted = convert_sample(orjson.loads(path.read_bytes()))
        text = orjson.dumps(converted, option=orjson.OPT_INDENT_2).decode()
        sys.stdout.write(f"=== {path.name}: {title}\n{text}\n\n")


if __name__ == "__main__":
    main()
