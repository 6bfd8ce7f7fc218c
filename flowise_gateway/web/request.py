"""Reads Flask's request, and builds the headers and bodies of responses."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any

from flask import Request, Response, g, request

from flowise_gateway.access.file_links import FileLinks, StoredFile
from flowise_gateway.config.settings import Settings
from flowise_gateway.conversation.planner import Plan
from flowise_gateway.flow.errors import BadRequest, BodyTooLarge, EncodingNotSupported
from flowise_gateway.flow.events import ArtifactMade, FlowEvent, HumanInputRequested
from flowise_gateway.flow.model import Model
from flowise_gateway.flow.request_scope import RequestScope, request_scope
from flowise_gateway.openai.artifacts import FILES_PATH
from flowise_gateway.openai.json_body import json_object
from flowise_gateway.openai.sse import json_bytes
from flowise_gateway.web.runs import LinkResolver

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

_HEADER_TEXT = re.compile(r"[!-~]{1,256}")
_NO_NAME = re.compile(r"[^!-+\--~]")
MAX_NAME_CHARACTERS = 64
MAX_NAMES = 50
_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


class PlainPaths:
    """Removes double and trailing slashes from paths, since a redirect would turn a POST into a GET."""

    def __init__(self, application: WSGIApplication) -> None:
        """Wrap an application."""
        self._application = application

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Pass a request on."""
        environ["PATH_INFO"] = re.sub("/{2,}", "/", environ["PATH_INFO"]).rstrip("/") or "/"
        return self._application(environ, start_response)


def current_request() -> Request:
    """The request object itself, since each use of Flask's proxy costs a lookup."""
    return request._get_current_object()  # type: ignore[attr-defined, no-any-return]


def current_scope() -> RequestScope:
    """The request scope shared with the serving process."""
    return request_scope(request.environ)


def header(name: str) -> str | None:
    """A header of the request; faster than Flask's own lookup."""
    value: str | None = request.environ.get(_key_of(name))
    return value


def reads_raw() -> bool:
    """Whether the client says that it reads the answers of OpenAI's library raw."""
    return header("X-Stainless-Raw-Response") == "true"


@cache
def _key_of(name: str) -> str:
    return "HTTP_" + name.upper().replace("-", "_")


def raw_body(limit: int) -> bytes:
    """The request's body. Raises BodyTooLarge, EncodingNotSupported, BadRequest if it is incomplete."""
    encoding = (header("Content-Encoding") or "").strip().lower()
    if encoding not in ("", "identity"):
        raise EncodingNotSupported(
            f"Content-Encoding '{encoding[:40]}' is not supported; send the body uncompressed."
        )
    http_request = current_request()
    stream, length = http_request.environ["wsgi.input"], http_request.content_length
    if length is None and not http_request.environ.get("wsgi.input_terminated"):
        return b""
    if length is not None and length > limit:
        raise _too_large(limit)
    wanted = limit + 1 if length is None else length
    pieces: list[bytes] = []
    while wanted and (piece := stream.read(wanted)):
        pieces.append(piece)
        wanted -= len(piece)
    if length is None and not wanted:
        raise _too_large(limit)
    if length is not None and wanted:
        raise BadRequest("The body is shorter than its Content-Length.")
    return b"".join(pieces)


def _too_large(limit: int) -> BodyTooLarge:
    # A separate function: as a local of the reading function, the exception would reference itself through
    # its traceback, and keep the body in memory until a garbage collection.
    return BodyTooLarge(f"The body is larger than {limit} bytes (PROXY_MAX_BODY_BYTES).")


def json_body(settings: Settings) -> dict[str, Any]:
    """The request's body. Raises BodyTooLarge, BadRequest."""
    return json_object(raw_body(settings.proxy_max_body_bytes))


def onward_headers() -> dict[str, str]:
    """Headers of the call to Flowise: request id, client address, trace."""
    headers = {"x-request-id": g.request_id, "X-Forwarded-For": current_scope().summary.client}
    if trace := traceparent():
        headers["traceparent"] = trace
    return headers


def traceparent() -> str:
    """The `traceparent` of the request, empty if there is none (W3C Trace Context)."""
    trace = header("traceparent")
    return trace if trace and _TRACEPARENT.fullmatch(trace) else ""


def trace_id(trace: str) -> str:
    """The trace id for the log."""
    return trace[3:35]


def link_resolver(reference: str, address: Callable[[], str], links: Callable[[], FileLinks]) -> LinkResolver:
    """A function that completes the events of a run: the reference of a question, the URL of a file.

    `address` returns the base URL of the gateway, empty if links must be relative.
    """

    def of_run(model: Model, chat_id: str) -> Callable[[HumanInputRequested | ArtifactMade], FlowEvent]:
        def amend(event: HumanInputRequested | ArtifactMade) -> FlowEvent:
            if isinstance(event, HumanInputRequested):
                return replace(event, reference=reference)
            if not event.stored:
                return event
            token = links().token(StoredFile(model.flow, chat_id, event.stored, model.flowise))
            return replace(event, url=f"{address()}{FILES_PATH}{token}")

        return amend

    return of_run


def answer_headers(plan: Plan) -> dict[str, str]:
    """Headers with the chat id, the conversation id, and the ignored parameters."""
    # A canned answer outside a conversation has no chat in Flowise.
    has_chat = plan.continued is not None or not plan.canned_events
    headers = {"x-flowise-chat-id": ", ".join(turn.chat_id for turn in plan.turns)} if has_chat else {}
    if plan.ignored:
        headers["x-flowise-ignored-params"] = ignored_names(plan.ignored)
    if plan.continued and _HEADER_TEXT.fullmatch(plan.continued.conversation):
        headers["x-conversation-id"] = plan.continued.conversation
    return headers


def ignored_names(names: Sequence[str]) -> str:
    """Names in a form that is valid in a header, since clients may invent names."""
    shown = [_NO_NAME.sub("?", name[:MAX_NAME_CHARACTERS]) for name in names[:MAX_NAMES]]
    more = len(names) - len(shown)
    return ", ".join([*shown, *([f"and {more} more"] if more > 0 else [])])


def json_response(body: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A JSON response."""
    return Response(json_bytes(body), status, headers, mimetype="application/json")
