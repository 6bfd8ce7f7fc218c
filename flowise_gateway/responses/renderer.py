"""A run's events as the events and the whole body of a response."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NotRequired, TypedDict, cast

from flowise_gateway.flow.errors import ProxyError, error_body
from flowise_gateway.flow.events import ClientToolCalled, FlowEvent, TextDelta, ToolUsed
from flowise_gateway.flow.lenient_json import json_text
from flowise_gateway.flow.transcript import Transcript
from flowise_gateway.openai.answer_text import answer_text, reasoning_text
from flowise_gateway.openai.citations import citations, source_events, sources_footer
from flowise_gateway.openai.client_quirks import Style
from flowise_gateway.openai.flowise_details import flowise_details
from flowise_gateway.openai.request import ParsedRequest
from flowise_gateway.openai.schema import new_id
from flowise_gateway.openai.sse import COMMENT, DONE, Frame
from flowise_gateway.openai.usage import Usage, usage_of
from flowise_gateway.responses.fields import MAX_PAIRS, MAX_VALUE, TOOL_CALLS, Echo
from flowise_gateway.responses.output_items import Citation, Events, Output, OutputItem

Status = Literal["queued", "in_progress", "completed", "failed", "incomplete", "cancelled"]
_REASONS = {"length": "max_output_tokens", "content_filter": "content_filter"}
_ERROR_CODES = ("rate_limit_exceeded", "invalid_prompt")


class TokensDetails(TypedDict):
    """Details of the output's tokens."""

    reasoning_tokens: int


class InputTokensDetails(TypedDict):
    """Details of the input's tokens."""

    cached_tokens: int
    cache_write_tokens: int


class ResponseUsage(TypedDict):
    """The tokens of a response."""

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


class ResponsesRenderer:
    """Flow events of one request as a response's events or a response."""

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
        self._request = request
        self._count_tokens = count_tokens
        self._style = style
        self._clock, self._started = clock, clock()
        self._shows_tools = TOOL_CALLS in request.include
        self._events = Events()
        self._output = Output(self._events, make_id)
        self._response = _response_before_output(
            request, request.response_id or make_id("resp_"), int(self._started)
        )
        self._is_over = False

    def opening(self) -> list[Frame]:
        """Give the response as it begins, twice, as OpenAI does."""
        return [self._told("created"), self._told("in_progress")]

    def chunks(self, event: FlowEvent, index: int = 0) -> list[Frame]:  # noqa: ARG002 - there is one choice
        """Give the events for text, thoughts, steps and calls."""
        if isinstance(event, TextDelta):  # nearly all are
            return self._output.say(event.text) if event.text else []
        if text := answer_text(event, is_first=not self._output.has_text):
            return self._output.say(text)
        if isinstance(event, ClientToolCalled):
            return self._output.call(event)
        if isinstance(event, ToolUsed) and self._shows_tools:
            return self._output.tool(event)
        thought = reasoning_text(event, steps=self._style.steps, before=self._output.last_thought)
        return self._output.think(thought) if thought else []

    def heartbeat(self) -> bytes:
        """Give a comment: neither contract has an event without news."""
        return COMMENT

    def closing(self, transcripts: Sequence[Transcript]) -> list[Frame]:
        """Give the ends of all items, the whole response and `[DONE]`."""
        if not self._request.generates:
            return self._prepared(transcripts)
        transcript = transcripts[0]
        reason = _REASONS.get(transcript.finish_reason or "stop")
        status: Literal["completed", "incomplete"] = "incomplete" if reason else "completed"
        footer = sources_footer(transcript) if self._style.footer else ""
        cited = citations(transcript) if self._style.annotations else []
        frames = self._output.say(footer) if footer else []
        if self._style.source_events:
            frames += [
                self._events.frame("flowise.source", event=found) for found in source_events(transcript)
            ]
        frames += self._output.end(status, [_citation(found) for found in cited])
        if reason:
            self._response["incomplete_details"] = {"reason": reason}
        else:
            self._response["completed_at"] = int(self._clock())
        self._response["usage"] = self._usage(transcripts)
        seconds = max(0.0, self._clock() - self._started)
        self._add_metadata(flowise_details(transcripts, seconds, self._request.turns))
        return self._over(frames, status)

    def _prepared(self, transcripts: Sequence[Transcript]) -> list[Frame]:
        """The end of a request for which nothing was run: no output, and none of a run's ids."""
        self._response["completed_at"] = int(self._clock())
        self._response["usage"] = self._usage(transcripts)
        return self._over([], "completed")

    def _usage(self, transcripts: Sequence[Transcript]) -> ResponseUsage:
        return _usage(usage_of(self._request.turns, transcripts, self._count_tokens))

    def failure(self, error: ProxyError) -> list[Frame]:
        """Give the ends of what is open, an `error`, the failed response and `[DONE]`."""
        code = error.code if error.code in _ERROR_CODES else "server_error"
        if self._style.repeats_failures and not error.nothing_ran:
            code = "invalid_prompt"  # of OpenAI's codes the only one after which Codex does not ask again
        frames = self._output.broken()
        self._response["error"] = {"code": code, "message": error.message}
        self._add_metadata({"error_code": error.code or error.type})
        self._set_over("failed")
        return [*frames, *self._events.failed(error_body(error)["error"], self._response), DONE]

    def cancelled(self) -> list[Frame]:
        """Give the end of an answer whose run was ended on demand.

        No event of either contract says so: the stream ends as an incomplete one, the body as cancelled.
        """
        frames = self._over(self._output.broken(), "incomplete")
        self._response["status"] = "cancelled"
        return frames

    def begun(self, status: Literal["queued", "in_progress"]) -> Response:
        """Give the response as it is before its output."""
        return {**self._response, "status": status}

    def body(self, transcripts: Sequence[Transcript]) -> Response:
        """Give the whole response: the one that ended the stream, or would have ended it."""
        if not self._is_over:
            for event in transcripts[0].events():
                self.chunks(event)
            self.closing(transcripts)
        return self._response

    def _over(self, frames: list[Frame], status: Status) -> list[Frame]:
        self._set_over(status)
        return [*frames, self._told(status), DONE]

    def _set_over(self, status: Status) -> None:
        self._is_over = True
        self._response["status"], self._response["output"] = status, self._output.items

    def _add_metadata(self, details: Mapping[str, Any]) -> None:
        self._response["metadata"] = _metadata(details, self._response["metadata"])

    def _told(self, what: str) -> Frame:
        return self._events.frame(f"response.{what}", response=self._response)


def _response_before_output(request: ParsedRequest, response_id: str, created: int) -> Response:
    whole = {
        "id": response_id,
        "object": "response",
        "created_at": created,
        "completed_at": None,
        "status": "in_progress",
        "incomplete_details": None,
        "error": None,
        "model": request.model,
        "output": [],
        "usage": None,
        **request.echo,
    }
    response = cast("Response", whole)
    if request.conversation_id:
        response["conversation"] = {"id": request.conversation_id}
    return response


def _citation(found: Mapping[str, Any]) -> Citation:
    return {
        "type": "url_citation",
        "url": found["url"],
        "title": found["title"],
        "start_index": found["start_index"],
        "end_index": found["end_index"],
    }


def _usage(usage: Usage) -> ResponseUsage:
    return {
        "input_tokens": usage["prompt_tokens"],
        "input_tokens_details": {
            "cached_tokens": usage["prompt_tokens_details"]["cached_tokens"],
            "cache_write_tokens": 0,
        },
        "output_tokens": usage["completion_tokens"],
        "output_tokens_details": {"reasoning_tokens": usage["completion_tokens_details"]["reasoning_tokens"]},
        "total_tokens": usage["total_tokens"],
    }


def _metadata(details: Mapping[str, Any], given: Mapping[str, str]) -> dict[str, str]:
    """The client's own pairs, and ours as far as OpenAI's limits leave room; a list loses its end."""
    metadata = dict(given)
    for name, value in details.items():
        if len(metadata) < MAX_PAIRS and (text := _metadata_value(value)):
            metadata.setdefault(f"flowise_{name}", text)
    return metadata


def _metadata_value(value: Any) -> str:
    """A value as text within OpenAI's limit: a string is cut, a list loses its end; else empty."""
    if isinstance(value, str):
        return value[:MAX_VALUE]
    while isinstance(value, list) and len(json_text(value)) > MAX_VALUE:
        value = value[:-1]
    text = json_text(value)
    return text if value and len(text) <= MAX_VALUE else ""
