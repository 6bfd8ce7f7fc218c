"""The views of the Responses API."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any, cast

from flask import Response, g, request

from flowise_gateway.flow.errors import BadRequest, QuotaExhausted, ResponseNotFound, StoreUnavailable
from flowise_gateway.openai.renderer import Renderer
from flowise_gateway.openai.request import ParsedRequest
from flowise_gateway.openai.schema import new_id
from flowise_gateway.openai.usage import count_tokens
from flowise_gateway.responses.background import BackgroundRun, cancelled, replayed
from flowise_gateway.responses.compaction import compacted, input_tokens
from flowise_gateway.responses.items import Item
from flowise_gateway.responses.renderer import ResponsesRenderer
from flowise_gateway.responses.request import parse_response
from flowise_gateway.responses.stored import STORE_RETRY_SECONDS, Context, Record, StoredResponse, page
from flowise_gateway.responses.websocket import WebSocket
from flowise_gateway.responses.websocket_session import (
    ResponseSocket,
    scope,
    stored_responses,
)
from flowise_gateway.web.answering import Answering
from flowise_gateway.web.heartbeat import Heartbeat
from flowise_gateway.web.hooks import Hooks
from flowise_gateway.web.request import current_scope, json_body, json_response
from flowise_gateway.web.services import Services
from flowise_gateway.web.streaming import EVENT_STREAM

BACKGROUND_STEP_SECONDS = 0.25
MAX_LISTED = 100
_MAX_NUMBER = 10**9


class ResponseRoutes:
    """The views of the Responses API."""

    def __init__(self, services: Services, hooks: Hooks, answering: Answering) -> None:
        self._services, self._hooks, self._answering = services, hooks, answering

    def create(self) -> Response:
        """Create a response."""
        body = json_body(self._services.settings)
        context = self._context()
        parsed = parse_response(body, resolve=context.resolve, earlier=context.earlier)
        parsed = storable(parsed, context)
        if parsed.background:
            return self._in_background(parsed, body, context)
        renderer_of: Callable[..., Renderer] = ResponsesRenderer
        if parsed.store:
            parsed = replace(parsed, response_id=new_id("resp_"))
            place = self._place(parsed.response_id)
            keep = partial(_keep, place, parsed.input_items, context.before)
            renderer_of = partial(ResponsesRenderer, store=keep)
        return self._answering.answer(parsed, self._answering.prepare(parsed, body, renderer_of))

    def retrieve(self, response_id: str) -> Response:
        """Return a response, or with `stream=true` its events."""
        place, record = self._found(response_id)
        if request.args.get("stream", "false").lower() != "true":
            return json_response(record.response)
        if not record.response["background"]:
            raise BadRequest(
                "Only background responses store their events, and this one has no background=true.",
                param="stream",
            )
        after = _number("starting_after", -1, low=0, high=_MAX_NUMBER)
        self._hooks.admit_reader()
        # Waiting for events must end when the client disconnects.
        current_scope().watch_client()
        return Response(replayed(place, after), headers=EVENT_STREAM)

    def delete(self, response_id: str) -> Response:
        """Delete a response, and abort its run if it is active."""
        if not self._place(response_id).delete():
            raise _not_found(response_id)
        self._services.planner.forget(g.caller, response_id)
        return json_response({"id": response_id, "object": "response", "deleted": True})

    def cancel(self, response_id: str) -> Response:
        """Cancel a background response; a finished response is unchanged."""
        place, record = self._found(response_id)
        if not record.response["background"]:
            raise BadRequest("Only a response created with background=true can be cancelled.")
        if not record.is_over:
            record = cancelled(place) or record
        return json_response(record.response)

    def input_items(self, response_id: str) -> Response:
        """List the input items of a response."""
        _, record = self._found(response_id)
        order = request.args.get("order", "desc")
        if order not in ("asc", "desc"):
            raise BadRequest(
                "Invalid 'order': it must be one of asc, desc.", param="order", code="invalid_value"
            )
        limit = _number("limit", 20, low=1, high=MAX_LISTED)
        return json_response(
            page(record.input_items, order=order, limit=limit, after=request.args.get("after"))
        )

    def input_tokens(self) -> Response:
        """Count the input tokens of a request."""
        context = self._context()
        body = json_body(self._services.settings)
        return json_response(
            input_tokens(body, count_tokens, resolve=context.resolve, earlier=context.earlier)
        )

    def compact(self) -> Response:
        """Compact a conversation into one item."""
        context = self._context()
        body = json_body(self._services.settings)
        return json_response(compacted(body, count_tokens, resolve=context.resolve, earlier=context.earlier))

    def socket(self) -> Response:
        """Serve responses over a WebSocket."""
        shared = current_scope()
        if shared.connection is None:
            raise BadRequest("This server does not support WebSockets.")
        self._hooks.admit_socket()
        settings = self._services.settings
        socket = WebSocket(shared.connection, settings.proxy_max_body_bytes, settings.proxy_body_timeout)
        socket.accept(request.headers.items(), {"x-request-id": g.request_id})
        shared.summary.status = 101
        with shared.ended_with_runs():
            ResponseSocket(self._services, self._hooks, self._answering, socket, shared.is_draining).serve()
        shared.summary.outcome = "ok"
        return _Upgraded()

    def _in_background(self, parsed: ParsedRequest, body: Mapping[str, Any], context: Context) -> Response:
        parsed = replace(parsed, response_id=new_id("resp_"))
        place = self._place(parsed.response_id)
        answer = self._answering.prepare(
            parsed, body, ResponsesRenderer, heartbeat=Heartbeat(BACKGROUND_STEP_SECONDS)
        )
        renderer = cast("ResponsesRenderer", answer.renderer)
        record = Record({}, parsed.input_items, context.before)
        run = BackgroundRun(place, answer, record, renderer)
        if not run.queue():
            raise StoreUnavailable(
                "Background responses need the store, which is currently unavailable.",
                retry_after_seconds=STORE_RETRY_SECONDS,
            )
        # The request ends here; its slots in flight are freed at the end of its run.
        # The run uses the summary it was prepared with; the rest of the request has a copy.
        shared = current_scope()
        summary, shared.summary = shared.summary, replace(shared.summary, chat_ids=())
        releases = list(shared.on_close)
        shared.on_close.clear()
        summary.begin_response("background_response")
        releases.append(partial(self._services.finished.add, summary, "ok"))

        def run_and_release() -> None:
            try:
                with shared.ended_with_runs():  # A stopping server waits for it, or ends it in time.
                    run.run()
            finally:
                for release in releases:
                    release()

        threading.Thread(target=run_and_release, daemon=True).start()
        if parsed.stream:
            shared.watch_client()
            return Response(replayed(place, -1), headers={**EVENT_STREAM, **answer.headers})
        return json_response(renderer.before_output("queued"), headers=answer.headers)

    def _found(self, response_id: str) -> tuple[StoredResponse, Record]:
        place = self._place(response_id)
        record = place.record()
        if record is None:
            raise _not_found(response_id)
        return place, record

    def _place(self, response_id: str) -> StoredResponse:
        return stored_responses(self._services).of(scope(), response_id)

    def _context(self) -> Context:
        may_store = partial(self._services.may_store, g.caller)
        return Context(stored_responses(self._services), scope(), may_store=may_store)


class _Upgraded(Response):
    """The end of a WebSocket connection, which has no HTTP response."""

    def __call__(self, *_: Any) -> Any:
        """End the connection: gunicorn closes it at a StopIteration."""
        raise StopIteration


def storable(parsed: ParsedRequest, context: Context) -> ParsedRequest:
    """The request, with `store` false if it may not be stored; the response says so."""
    if not parsed.store or context.fits(parsed.input_items):
        return parsed
    if parsed.background:
        if not context.may_store():
            raise QuotaExhausted(
                "This key has used up its storage for today (stored_bytes_per_day), and a background "
                "response must be stored; the limit is reset at 00:00 UTC."
            )
        raise BadRequest("The conversation is too large to be stored.", param="background")
    named = {**parsed.parameters, "store": True}
    return replace(parsed, store=False, echo={**parsed.echo, "store": False}, parameters=named)


def _keep(
    place: StoredResponse, items: Sequence[Item], before: Sequence[Item], response: Mapping[str, Any]
) -> bool:
    return place.save(Record(response, items, before))


def _number(name: str, default: int, *, low: int, high: int) -> int:
    text = request.args.get(name)
    if text is None:
        return default
    with suppress(ValueError):
        if low <= (number := int(text)) <= high:
            return number
    raise BadRequest(f"Invalid '{name}': it must be {low} to {high}.", param=name, code="invalid_value")


def _not_found(response_id: str) -> ResponseNotFound:
    return ResponseNotFound(f"Response with id '{response_id[:100]}' not found.")
