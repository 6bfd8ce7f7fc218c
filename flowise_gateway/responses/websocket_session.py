"""The Responses API over a WebSocket: one response at a time, conversations that need no store.

The contract is docs/reference/responses.md (WebSocket): the events of a stream as messages, errors as
`error` events.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import orjson
from flask import g
from wsproto.frame_protocol import CloseReason

from flowise_gateway.flow.errors import BadRequest, NotAuthenticated, ProxyError, ServerFault, error_body
from flowise_gateway.flow.lru import LRU
from flowise_gateway.flow.request_summary import RequestSummary
from flowise_gateway.openai.fields import missing, string, wrong_type
from flowise_gateway.openai.json_body import json_object
from flowise_gateway.openai.schema import new_id
from flowise_gateway.openai.sse import DONE, Frame, json_bytes, on_one_line
from flowise_gateway.responses.fields import text_or_null
from flowise_gateway.responses.renderer import ResponsesRenderer
from flowise_gateway.responses.request import parse_response
from flowise_gateway.responses.stored import Context, OwnConversations, Record, StoredResponses
from flowise_gateway.responses.websocket import WebSocket, WebSocketClosed
from flowise_gateway.web.answer import PendingAnswer
from flowise_gateway.web.answering import Answering
from flowise_gateway.web.heartbeat import Heartbeat
from flowise_gateway.web.hooks import Hooks
from flowise_gateway.web.request import current_scope
from flowise_gateway.web.services import Services

log = logging.getLogger(__name__)

CONNECTION_SECONDS = 3600.0
LOOK_SECONDS = 0.5
"""How soon a client that disconnects during a response is detected."""
END_LOOK_SECONDS = 5.0
MAX_LANE = 256
"""The maximum length of a `stream_id`, which each event repeats."""
MAX_STEERABLE = 64
"""How many of the latest response ids a connection remembers, for the right error when steering."""
_STEERING = {
    "steering_not_supported": "A running flow cannot be steered. Send this with the next response.create.",
    "response_already_completed": "The response is complete. Continue it with response.create.",
    "response_not_found": "No response of this connection has this id.",
}


class ResponseSocket:
    """One connection; `serve` returns when it is closed."""

    def __init__(
        self,
        services: Services,
        hooks: Hooks,
        answering: Answering,
        socket: WebSocket,
        is_draining: Callable[[], bool],
    ) -> None:
        """Serve an accepted connection; `is_draining` means that the server is stopping."""
        self._services, self._hooks, self._answering = services, hooks, answering
        self._socket, self._is_draining = socket, is_draining
        self._own = OwnConversations()
        self._lane: str | None = None
        self._lanes: LRU[str, str | None] = LRU(MAX_STEERABLE)
        self._active = ""
        socket.takes_at_once = self._refuses_steering

    def serve(self) -> None:
        """Answer one message after the other."""
        until = time.monotonic() + CONNECTION_SECONDS
        try:
            while not self._is_draining() and (left := until - time.monotonic()) > 0:
                message = self._socket.receive(min(left, END_LOOK_SECONDS))
                if message is not None:
                    self._answer(message)
            if not self._is_draining():
                self._refuse(
                    _OutOfTime(
                        "Send the next request over a new connection: this one has reached its maximum age."
                    )
                )
        except (WebSocketClosed, ProxyError):  # A ProxyError is raised by draining, between two responses.
            pass
        finally:
            self._socket.close(CloseReason.GOING_AWAY)

    def _answer(self, message: str) -> None:
        shared = current_scope()
        connection = shared.summary
        shared.summary = summary = replace(connection)
        summary.begin_response("websocket_response")
        outcome = "client_gone"
        try:
            self._answer_message(message, summary)
            outcome = "ok"
        finally:
            shared.summary = connection
            summary.status = summary.status or 200
            self._services.finished.add(summary, outcome)

    def _answer_message(self, message: str, summary: RequestSummary) -> None:
        body: dict[str, Any] = {}
        self._lane = None
        try:
            body = json_object(message.encode())
            self._lane = text_or_null(body, "stream_id", MAX_LANE)
            _check_message(body)
            with self._hooks.admit_message():
                self._respond({**body, "stream": True})
        except ProxyError as error:
            self._refuse_message(error, body, summary)
        except WebSocketClosed:
            raise
        except Exception:
            log.exception("a message failed")
            self._refuse_message(ServerFault("The server had an error."), body, summary)
        finally:
            self._active = ""

    def _refuse_message(self, error: ProxyError, body: Mapping[str, Any], summary: RequestSummary) -> None:
        error, summary.status = self._hooks.refused(error)
        summary.outcome = error.code or error.type
        self._refuse(error, body.get("previous_response_id"), self._lane)

    def _refuses_steering(self, message: str) -> bool:
        """Refuse a message that steers a response, even while it runs; returns false for other messages.

        A running flow accepts no input, and cannot be stopped safely, since its tools may have side effects.
        """
        if '"response.steer"' not in message:
            return False
        try:
            body = json_object(message.encode())
            if body.get("type") != "response.steer":
                return False
            self._socket.send(json_bytes(self._steering_failed(body)).decode())
        except BadRequest as error:
            self._refuse(error)
        return True

    def _steering_failed(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """The event that returns the refused input to the client, for a later request."""
        response_id, given = string(body, "previous_response_id"), body.get("input")
        if not isinstance(given, (str, list)):
            raise missing("input") if given is None else wrong_type("input", "a string or an array", given)
        code = "steering_not_supported" if response_id == self._active else "response_already_completed"
        code = code if response_id in self._lanes else "response_not_found"
        event: dict[str, Any] = {
            "type": "response.steer.failed",
            "sequence_number": 0,
            "steer": {"previous_response_id": response_id, "input": given},
            "error": {"type": "invalid_request_error", "code": code, "message": _STEERING[code]},
        }
        lane = self._lanes.get(response_id)
        return event if lane is None else {**event, "stream_id": lane}

    def _refuse(self, error: ProxyError, previous: Any = None, lane: str | None = None) -> None:
        """Send an error and forget the response that the message continued; the connection stays open."""
        if isinstance(previous, str):
            self._own.forget(previous)
        error, status = self._hooks.refused(error)
        event = {"type": "error", "status": status, **error_body(error)}
        if lane is not None:
            event["stream_id"] = lane
        self._socket.send(json_bytes(event).decode())
        if isinstance(error, NotAuthenticated):
            self._socket.close(CloseReason.POLICY_VIOLATION, "the key is no longer valid")
            raise WebSocketClosed

    def _respond(self, body: Mapping[str, Any]) -> None:
        responses = stored_responses(self._services)
        may_store = partial(self._services.may_store, g.caller)
        context = Context(responses, scope(), self._own, may_store)
        parsed = parse_response(body, resolve=context.resolve, earlier=context.earlier)
        if parsed.store and not context.fits(parsed.input_items):
            parsed = replace(parsed, store=False, echo={**parsed.echo, "store": False})
        parsed = replace(parsed, response_id=new_id("resp_"))
        place = responses.of(scope(), parsed.response_id)

        def keep(response: Mapping[str, Any]) -> bool:
            record = Record(response, parsed.input_items, context.before)
            if parsed.store and place.save(record):
                return True
            size = context.size_with([*parsed.input_items, *response["output"]])
            self._own.remember(parsed.response_id, record.context, size)
            return not parsed.store

        renderer_of = partial(ResponsesRenderer, store=keep)
        answer = self._answering.prepare(parsed, body, renderer_of, heartbeat=Heartbeat(LOOK_SECONDS))
        self._active = parsed.response_id
        self._lanes[parsed.response_id] = self._lane
        self._send_all(answer)

    def _send_all(self, answer: PendingAnswer) -> None:
        """Send a run's events; an error before the first of them is raised, a later one ends the response."""
        opening = answer.renderer.opening()
        try:
            with contextlib.closing(answer.steps()) as steps:
                for _, frames in steps:
                    self._socket.look()
                    answer.heartbeat.reset()
                    if frames:
                        self._send([*opening, *frames])
                        opening = []
            self._send([*opening, *answer.closing()])
        except ProxyError as error:
            if opening:
                raise
            log.info("a response over a socket ended with an error: %s", error.code)
            self._send(answer.failure(error))

    def _send(self, frames: Sequence[Frame]) -> None:
        end = b"}" if self._lane is None else b',"stream_id":%b}' % orjson.dumps(self._lane)
        for frame in frames:
            if frame is not DONE:
                self._socket.send(on_one_line(frame.data[:-1] + end).decode())


class _OutOfTime(BadRequest):
    """The connection is older than CONNECTION_SECONDS."""

    code = "websocket_connection_limit_reached"


def _check_message(body: Mapping[str, Any]) -> None:
    """Raise BadRequest unless the message is a valid request over a WebSocket."""
    if body.get("type") != "response.create":
        raise BadRequest(
            "Invalid 'type': it must be one of response.create, response.steer.",
            param="type",
            code="invalid_value",
        )
    if body.get("background"):
        raise BadRequest(
            "A response over a WebSocket cannot be a background one.",
            param="background",
            code="invalid_value",
        )


def scope() -> str:
    """The scope of the caller, whose responses this request may see."""
    name: str = g.caller.scope or g.caller.name
    return name


def stored_responses(services: Services) -> StoredResponses:
    """The responses in the store."""
    return StoredResponses(services.store, services.store.secret, services.response_seconds)
