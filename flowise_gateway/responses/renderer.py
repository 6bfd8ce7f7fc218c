"""Renders a run as the events or the body of a response."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NotRequired, TypedDict, cast

from flowise_gateway.flow.errors import ProxyError, error_body
from flowise_gateway.flow.events import ClientToolCalled, FlowEvent, TextDelta, ToolUsed
from flowise_gateway.flow.lenient_json import json_text
from flowise_gateway.flow.transcript import Transcript
from flowise_gateway.openai.answer_text import answer_text, reasoning_text
from flowise_gateway.openai.citations import citations, source_events
from flowise_gateway.openai.renderer import BaseRenderer
from flowise_gateway.openai.request import ParsedRequest
from flowise_gateway.openai.sse import COMMENT, DONE, Frame
from flowise_gateway.openai.usage import TokensDetails
from flowise_gateway.responses.fields import MAX_PAIRS, MAX_VALUE, TOOL_CALLS, Echo
from flowise_gateway.responses.output_items import Events, Output, OutputItem

Status = Literal["queued", "in_progress", "completed", "failed", "incomplete", "cancelled"]
_REASONS = {"length": "max_output_tokens", "content_filter": "content_filter"}
_ERROR_CODES = ("rate_limit_exceeded", "invalid_prompt")


class InputTokensDetails(TypedDict):
    cached_tokens: int
    cache_write_tokens: int


class ResponseUsage(TypedDict):
    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: TokensDetails
    total_tokens: int


class Response(Echo):
    """A response; Open Responses requires every key but the last."""

    id: str
    object: Literal["response"]
    created_at: int
    completed_at: int | None
    status: Status
    incomplete_details: dict[str, str] | None
    error: dict[str, str] | None
    model: str
    output: list[OutputItem]
    usage: ResponseUsage | None
    conversation: NotRequired[dict[str, str]]


class ResponsesRenderer(BaseRenderer):
    """Renders the flow events of a request as the events of a response or as a response.

    `store` receives the complete response before its end is sent, also for failures.
    """

    def __init__(
        self, request: ParsedRequest, *, store: Callable[[Response], bool] | None = None, **options: Any
    ) -> None:
        """Prepare the response before its output."""
        super().__init__(request, **options)
        self._store = store
        self._shows_tools = TOOL_CALLS in request.include
        self._events = Events()
        self._output = Output(self._events, self._make_id)
        response_id = request.response_id or self._make_id("resp_")
        response = {
            "id": response_id,
            "object": "response",
            "created_at": int(self._started),
            "completed_at": None,
            "status": "in_progress",
            "incomplete_details": None,
            "error": None,
            "model": request.model,
            "output": [],
            "usage": None,
            **request.echo,
        }
        if request.conversation_id:
            response["conversation"] = {"id": request.conversation_id}
        self._response = cast("Response", response)
        self._is_over = False

    def opening(self) -> list[Frame]:
        # The same response twice, as in OpenAI's API.
        return [self._response_event("created"), self._response_event("in_progress")]

    def chunks(self, event: FlowEvent, index: int = 0) -> list[Frame]:  # noqa: ARG002 - there is one choice
        if isinstance(event, TextDelta):  # nearly all events are
            return self._output.add_text(event.text) if event.text else []
        if text := answer_text(event, is_first=not self._output.has_text):
            return self._output.add_text(text)
        if isinstance(event, ClientToolCalled):
            return self._output.add_call(event)
        if isinstance(event, ToolUsed) and self._shows_tools:
            return self._output.add_flow_tool(event)
        thought = reasoning_text(event, steps=self._style.steps, before=self._output.last_thought)
        return self._output.add_thought(thought) if thought else []

    def heartbeat(self) -> bytes:
        return COMMENT  # neither specification has an event without content

    def closing(self, transcripts: Sequence[Transcript]) -> list[Frame]:
        """The ends of all items, the complete response and `[DONE]`."""
        usage = self.usage(transcripts)
        self._response["usage"] = response_usage(
            usage["prompt_tokens"],
            usage["completion_tokens"],
            usage["prompt_tokens_details"]["cached_tokens"],
            usage["completion_tokens_details"]["reasoning_tokens"],
        )
        if not self._request.generates:  # nothing has run, so there is no output and no run id
            self._response["completed_at"] = int(self._clock())
            return self._end([], "completed")
        transcript = transcripts[0]
        reason = _REASONS.get(transcript.finish_reason or "stop")
        status: Literal["completed", "incomplete"] = "incomplete" if reason else "completed"
        footer = self._footer(transcript)
        frames = self._output.add_text(footer) if footer else []
        found = citations(transcript) if self._style.annotations else []
        if self._style.source_events and self._request.stream:
            frames += [
                self._events.frame("flowise.source", event=source) for source in source_events(transcript)
            ]
            found = []  # Open WebUI would list each web source twice, as it reads both
        frames += self._output.close(status, [{"type": "url_citation", **citation} for citation in found])
        if reason:
            self._response["incomplete_details"] = {"reason": reason}
        else:
            self._response["completed_at"] = int(self._clock())
        self._add_metadata(self._details(transcripts))
        return self._end(frames, status)

    def failure(self, error: ProxyError) -> list[Frame]:
        """The ends of all open items, an `error`, the failed response and `[DONE]`."""
        error = self._shown(error)
        code = error.code if error.code in _ERROR_CODES else "server_error"
        event = error_body(error)["error"]
        if self._style.repeats_failures and not error.nothing_ran:
            # The only one of OpenAI's codes after which Codex and opencode do not retry.
            code = event["code"] = "invalid_prompt"
        frames = self._output.interrupt()
        self._response["error"] = {"code": code, "message": error.message}
        self._add_metadata({"error_code": error.code or error.type})
        self._finish("failed")
        return [*frames, *self._events.failed(event, self._response), DONE]

    def cancelled(self) -> list[Frame]:
        """The frames that end a response that its client cancelled.

        Neither specification has an event for it: the stream ends as incomplete, the body as cancelled.
        """
        frames = self._end(self._output.interrupt(), "incomplete")
        self._response["status"] = "cancelled"
        return frames

    def before_output(self, status: Literal["queued", "in_progress"]) -> Response:
        """The response before its output."""
        return {**self._response, "status": status}

    def body(self, transcripts: Sequence[Transcript]) -> Response:
        """The complete response, equal to the one at the end of a stream."""
        if not self._is_over:
            for event in transcripts[0].events():
                self.chunks(event)
            self.closing(transcripts)
        return self._response

    def _end(self, frames: list[Frame], status: Status) -> list[Frame]:
        self._finish(status)
        return [*frames, self._response_event(status), DONE]

    def _finish(self, status: Status) -> None:
        self._is_over = True
        self._response["status"], self._response["output"] = status, self._output.items
        if self._store is not None and not self._store(self._response):
            self._response["store"] = False
            self._add_metadata({"warnings": ["The store is unavailable: this response was not stored."]})

    def _add_metadata(self, details: Mapping[str, Any]) -> None:
        """Add the gateway's metadata to the client's, within OpenAI's limits."""
        metadata = dict(self._response["metadata"])
        for name, value in details.items():
            if len(metadata) < MAX_PAIRS and (text := _metadata_value(value)):
                metadata.setdefault(f"flowise_{name}", text)
        self._response["metadata"] = metadata

    def _response_event(self, name: str) -> Frame:
        return self._events.frame(f"response.{name}", response=self._response)


def response_usage(prompt: int, completion: int = 0, cached: int = 0, reasoning: int = 0) -> ResponseUsage:
    """The usage in the format of Responses."""
    return {
        "input_tokens": prompt,
        "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": 0},
        "output_tokens": completion,
        "output_tokens_details": {"reasoning_tokens": reasoning},
        "total_tokens": prompt + completion,
    }


def _metadata_value(value: Any) -> str:
    """A value as text within OpenAI's limit: strings and lists are truncated; otherwise empty."""
    if isinstance(value, str):
        return value[:MAX_VALUE]
    while isinstance(value, list) and len(json_text(value)) > MAX_VALUE:
        value = value[:-1]
    text = json_text(value)
    return text if value and len(text) <= MAX_VALUE else ""
