"""Chat completions and completions: their requests into turns, flow events into their wire. Pure.

Run as a program it converts the files of `sample_payload/` both ways and prints them.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import orjson

from flowise_gateway.flow.errors import ProxyError
from flowise_gateway.flow.events import ClientToolCalled, FlowEvent, TextDelta
from flowise_gateway.flow.transcript import Transcript
from flowise_gateway.flow.turn import Turn
from flowise_gateway.openai.answer_text import answer_text, reasoning_text, whole_reasoning, whole_text
from flowise_gateway.openai.citations import source_events, sources_footer, url_annotations
from flowise_gateway.openai.client_quirks import Style
from flowise_gateway.openai.fields import (
    boolean,
    identifiers,
    include_usage,
    integer,
    missing,
    parameters,
    passed_through,
    stop_sequences,
    string,
    wrong_type,
    wrong_value,
)
from flowise_gateway.openai.flowise_details import FlowiseDetails, answer_metadata, flowise_details
from flowise_gateway.openai.messages import conversation
from flowise_gateway.openai.request import ParsedRequest
from flowise_gateway.openai.response_format import parse_format
from flowise_gateway.openai.schema import (
    CalledFunction,
    ChatChoice,
    ChatCompletion,
    ChatMessage,
    Completion,
    ToolCall,
    new_id,
)
from flowise_gateway.openai.sse import DONE, Frame, error_frame, stream_bytes
from flowise_gateway.openai.tools import read_tools
from flowise_gateway.openai.usage import Usage, usage_of

SAMPLES = Path(__file__).resolve().parent / "sample_payload"
MAX_CHOICES = 8
"""Each choice is a run of the flow of its own."""


def parse_chat(body: Mapping[str, Any], deployment: str | None = None) -> ParsedRequest:
    """A chat completion's request; a deployment in the path wins over `model`. Raises BadRequest."""
    model = deployment or string(body, "model")
    stream = boolean(body, "stream")
    passed = passed_through(body)
    chat = conversation(body.get("messages"), may_be_silent=bool(passed.get("form")))
    count = integer(body, "n", 1, 1, MAX_CHOICES)
    turns = tuple(
        Turn(model, chat.question, chat.history, chat.instructions, stream=stream) for _ in range(count)
    )
    conversation_id, user, resends = identifiers(body)
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
    """A legacy completion's request: each prompt, `n` times, is a choice. Raises BadRequest."""
    model = deployment or string(body, "model")
    stream = boolean(body, "stream")
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
        user=identifiers(body).user,
        parameters=parameters(body),
        passed=passed_through(body),
    )


def _prompts(prompt: Any) -> list[str]:
    if prompt is None:
        raise missing("prompt")
    prompts = [prompt] if isinstance(prompt, str) else prompt
    if not isinstance(prompts, list):
        raise wrong_type("prompt", "a string or an array of strings", prompt)
    if not 1 <= len(prompts) <= MAX_CHOICES:
        raise wrong_value("prompt", f"1 to {MAX_CHOICES} prompts are allowed")
    for n, text in enumerate(prompts):
        if not isinstance(text, str):
            raise wrong_type(f"prompt[{n}]", "a string (token lists cannot be read here)", text)
    return prompts


class _Answer:
    """What both surfaces do alike: one id, time and model for the whole answer, chunks around what is new."""

    def __init__(
        self,
        request: ParsedRequest,
        identity: Mapping[str, Any],
        count: Callable[[str], int],
        style: Style,
        clock: Callable[[], float],
    ) -> None:
        self.request = request
        self.style = style
        self._count_tokens = count
        self._clock, self._begun = clock, clock()
        identity = {**identity, "created": int(self._begun), "model": request.model}
        self.id, self.created = identity["id"], identity["created"]
        self._includes_usage = request.include_usage or style.usage
        self._head = orjson.dumps(identity)[:-1]
        # OpenAI: with include_usage every chunk before the usage chunk carries `usage: null`.
        self._tail = b',"usage":null}' if self._includes_usage else b"}"
        self._has_text = [False] * len(request.turns)

    def text(self, event: FlowEvent, index: int) -> str:
        """What an event adds to the text of a choice."""
        if isinstance(event, TextDelta):  # nearly all are
            text = event.text
        else:
            text = answer_text(event, is_first=not self._has_text[index])
        if text:
            self._has_text[index] = True
        return text

    def chunk(self, index: int, content: bytes, finish: bytes = b"null", extra: bytes = b"") -> Frame:
        """A chunk of one choice; `content` is the member that tells what is new."""
        return Frame(
            b'%b,"choices":[{"index":%d,%b,"logprobs":null,"finish_reason":%b}]%b%b'
            % (self._head, index, content, finish, extra, self._tail)
        )

    def heartbeat(self, nothing: bytes) -> bytes:
        """A chunk that tells nothing new: some clients end a stream at a comment, or when no chunk comes."""
        return stream_bytes([self.chunk(0, nothing)])

    def closing(self, transcripts: Sequence[Transcript], nothing: bytes) -> list[Frame]:
        """The finish of each choice, the vendor key on the last, usage if asked for, and `[DONE]`."""
        extras = [b""] * len(transcripts)
        extras[-1] = b',"flowise":' + orjson.dumps(self.details(transcripts))
        if self.request.conversation:
            extras[-1] += b',"conversation_id":' + orjson.dumps(self.request.conversation)
        frames = [
            self.chunk(index, nothing, orjson.dumps(self.finish(transcript)), extra)
            for index, (transcript, extra) in enumerate(zip(transcripts, extras, strict=True))
        ]
        if self._includes_usage:
            usage = orjson.dumps(self.usage(transcripts))
            frames.append(Frame(b'%b,"choices":[],"usage":%b}' % (self._head, usage)))
        return [*frames, DONE]

    def failure(self, error: ProxyError) -> list[Frame]:
        """The error and `[DONE]`; no finish_reason, so that nobody takes it for an answer."""
        return [error_frame(error), DONE]

    @property
    def is_legacy(self) -> bool:
        """Whether the client offered `functions`, which are called by `function_call`."""
        return self.request.tools is not None and self.request.tools.is_legacy

    def finish(self, transcript: Transcript) -> str:
        """Why an answer ended, in the client's words."""
        reason = transcript.finish_reason or "stop"
        return "function_call" if reason == "tool_calls" and self.is_legacy else reason

    def usage(self, transcripts: Sequence[Transcript]) -> Usage:
        """Tokens of all choices."""
        return usage_of(self.request.turns, transcripts, self._count_tokens)

    def seconds(self) -> float:
        """How long the answer has taken so far."""
        return max(0.0, self._clock() - self._begun)

    def details(self, transcripts: Sequence[Transcript]) -> FlowiseDetails:
        """The vendor key."""
        return flowise_details(transcripts, self.seconds(), self.request.turns)

    def footer(self, transcript: Transcript) -> str:
        """The sources as text, where the style wants them so."""
        return sources_footer(transcript) if self.style.footer else ""


class ChatRenderer:
    """Flow events of one request as chat completion chunks or a chat completion."""

    def __init__(
        self,
        request: ParsedRequest,
        *,
        count_tokens: Callable[[str], int],
        style: Style = Style(),  # noqa: B008 - frozen
        clock: Callable[[], float] = time.time,
        make_id: Callable[[str], str] = new_id,
    ) -> None:
        """Prepare for one answer; clock and id source are arguments so that tests can fix them."""
        identity = {"id": make_id("chatcmpl-"), "object": "chat.completion.chunk"}
        self._answer = _Answer(request, identity, count_tokens, style, clock)
        self._calls = [0] * len(request.turns)
        self._thoughts = [""] * len(request.turns)
        self.failure = self._answer.failure

    def opening(self) -> list[Frame]:
        """Give the role first, with `content: ""`, which some clients cannot do without."""
        delta = b'"delta":{"role":"assistant","content":"","refusal":null}'
        return [self._answer.chunk(index, delta) for index in range(len(self._answer.request.turns))]

    def chunks(self, event: FlowEvent, index: int = 0) -> list[Frame]:
        """Give a content chunk for text, a reasoning chunk for thoughts and steps, two chunks for a call."""
        if text := self._answer.text(event, index):
            return [self._answer.chunk(index, b'"delta":{"content":%b}' % orjson.dumps(text))]
        if isinstance(event, ClientToolCalled):
            return [self._answer.chunk(index, delta) for delta in self._call(event, index)]
        before = self._thoughts[index]
        if thought := reasoning_text(event, steps=self._answer.style.steps, before=before):
            self._thoughts[index] = thought
            delta = b'"delta":{"content":"","reasoning_content":%b}' % orjson.dumps(thought)
            return [self._answer.chunk(index, delta)]
        return []

    def _call(self, event: ClientToolCalled, index: int) -> list[bytes]:
        """The id and the name first, then the arguments, as OpenAI streams them."""
        empty, arguments = orjson.dumps(_function(event, "")), orjson.dumps(event.arguments)
        if self._answer.is_legacy:
            return [
                b'"delta":{"function_call":%b}' % empty,
                b'"delta":{"function_call":{"arguments":%b}}' % arguments,
            ]
        number, self._calls[index] = self._calls[index], self._calls[index] + 1
        call_id = orjson.dumps(event.call_id)
        return [
            b'"delta":{"tool_calls":[{"index":%d,"id":%b,"type":"function","function":%b}]}'
            % (number, call_id, empty),
            b'"delta":{"tool_calls":[{"index":%d,"function":{"arguments":%b}}]}' % (number, arguments),
        ]

    def heartbeat(self) -> bytes:
        """Give a chunk with an empty delta."""
        return self._answer.heartbeat(b'"delta":{}')

    def closing(self, transcripts: Sequence[Transcript]) -> list[Frame]:
        """Give the sources, the finish of each choice, usage if asked for, and `[DONE]`."""
        late = [self._late(index, transcript) for index, transcript in enumerate(transcripts)]
        return [*chain.from_iterable(late), *self._answer.closing(transcripts, b'"delta":{}')]

    def _late(self, index: int, transcript: Transcript) -> list[Frame]:
        """Sources are told once: the AI SDK shows them again for each chunk that carries them."""
        frames = []
        if footer := self._answer.footer(transcript):
            frames.append(self._answer.chunk(index, b'"delta":{"content":%b}' % orjson.dumps(footer)))
        if self._answer.style.source_events:
            extras = [b',"event":%b' % orjson.dumps(event) for event in source_events(transcript)]
            nothing = b'"delta":{"content":""}'
            frames += [self._answer.chunk(index, nothing, extra=extra) for extra in extras]
        elif self._answer.style.annotations and (found := url_annotations(transcript)):
            delta = b'"delta":{"content":"","annotations":%b}' % orjson.dumps(found)
            frames.append(self._answer.chunk(index, delta))
        return frames

    def body(self, transcripts: Sequence[Transcript]) -> ChatCompletion:
        """Give the whole chat completion."""
        body: ChatCompletion = {
            "id": self._answer.id,
            "object": "chat.completion",
            "created": self._answer.created,
            "model": self._answer.request.model,
            "choices": [self._choice(index, transcript) for index, transcript in enumerate(transcripts)],
            "usage": self._answer.usage(transcripts),
            "metadata": answer_metadata(transcripts, self._answer.seconds()),
            "flowise": self._answer.details(transcripts),
        }
        if self._answer.request.conversation:
            body["conversation_id"] = self._answer.request.conversation
        return body

    def _choice(self, index: int, transcript: Transcript) -> ChatChoice:
        style = self._answer.style
        text = whole_text(transcript) + self._answer.footer(transcript)
        content = text if text or not transcript.calls else None
        message: ChatMessage = {"role": "assistant", "content": content, "refusal": None}
        if transcript.calls and self._answer.is_legacy:
            message["function_call"] = _function(transcript.calls[0], transcript.calls[0].arguments)
        elif transcript.calls:
            message["tool_calls"] = [_tool_call(call) for call in transcript.calls]
        if reasoning := whole_reasoning(transcript, steps=style.steps):
            message["reasoning_content"] = reasoning
        if style.annotations and (found := url_annotations(transcript)):
            message["annotations"] = found
        finish = self._answer.finish(transcript)
        return {"index": index, "message": message, "logprobs": None, "finish_reason": finish}


def _tool_call(call: ClientToolCalled) -> ToolCall:
    return {"id": call.call_id, "type": "function", "function": _function(call, call.arguments)}


def _function(call: ClientToolCalled, arguments: str) -> CalledFunction:
    return {"name": call.name, "arguments": arguments}


class CompletionRenderer:
    """Flow events of one request as legacy completion chunks or a completion."""

    def __init__(
        self,
        request: ParsedRequest,
        *,
        count_tokens: Callable[[str], int],
        style: Style = Style(),  # noqa: B008 - frozen
        clock: Callable[[], float] = time.time,
        make_id: Callable[[str], str] = new_id,
    ) -> None:
        """Prepare for one answer; clock and id source are arguments so that tests can fix them."""
        identity = {"id": make_id("cmpl-"), "object": "text_completion"}
        self._answer = _Answer(request, identity, count_tokens, style, clock)
        self.failure = self._answer.failure

    def opening(self) -> list[Frame]:
        """Give the prompts back if `echo` asks for it; a completion has no role."""
        return [self._text(index, prefix) for index, prefix in enumerate(self._answer.request.prefixes)]

    def chunks(self, event: FlowEvent, index: int = 0) -> list[Frame]:
        """Give a text chunk for text; thoughts have no place in a completion."""
        text = self._answer.text(event, index)
        return [self._text(index, text)] if text else []

    def _text(self, index: int, text: str) -> Frame:
        return self._answer.chunk(index, b'"text":%b' % orjson.dumps(text))

    def heartbeat(self) -> bytes:
        """Give a chunk without text."""
        return self._answer.heartbeat(b'"text":""')

    def closing(self, transcripts: Sequence[Transcript]) -> list[Frame]:
        """Give the finish of each choice, usage if asked for, and `[DONE]`."""
        footers = [(index, self._answer.footer(each)) for index, each in enumerate(transcripts)]
        late = [self._text(index, footer) for index, footer in footers if footer]
        return [*late, *self._answer.closing(transcripts, b'"text":""')]

    def body(self, transcripts: Sequence[Transcript]) -> Completion:
        """Give the whole completion."""
        prefixes = self._answer.request.prefixes or ("",) * len(transcripts)
        return {
            "id": self._answer.id,
            "object": "text_completion",
            "created": self._answer.created,
            "model": self._answer.request.model,
            "choices": [
                {
                    "text": prefix + whole_text(transcript) + self._answer.footer(transcript),
                    "index": index,
                    "logprobs": None,
                    "finish_reason": transcript.finish_reason or "stop",
                }
                for index, (prefix, transcript) in enumerate(zip(prefixes, transcripts, strict=True))
            ],
            "usage": self._answer.usage(transcripts),
            "flowise": self._answer.details(transcripts),
        }


def convert_sample(sample: Mapping[str, Any]) -> tuple[str, Any]:
    """What a file of `sample_payload/` is, and what it becomes on the other side."""
    # Here alone the adapter knows Flowise's side: as a program it is composition.
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
    """Print each sample and what it becomes."""
    for path in sorted(SAMPLES.glob("*.json")):
        title, converted = convert_sample(orjson.loads(path.read_bytes()))
        text = orjson.dumps(converted, option=orjson.OPT_INDENT_2).decode()
        sys.stdout.write(f"=== {path.name}: {title}\n{text}\n\n")


if __name__ == "__main__":
    main()
