"""Hooks around every view: admission, response headers, error responses."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping
from functools import partial
from typing import Any

from flask import Flask, Response, g, request
from werkzeug.exceptions import HTTPException

from flowise_gateway.access.keys import ANONYMOUS
from flowise_gateway.access.limits import Admission
from flowise_gateway.access.origins import check_host, check_origin, cors_headers
from flowise_gateway.flow.errors import (
    BadRequest,
    FlowiseRefused,
    MethodNotAllowed,
    NotAuthenticated,
    ProxyError,
    ServerFault,
    UnknownUrl,
    error_body,
    error_headers,
    error_status,
)
from flowise_gateway.flow.request_summary import RequestSummary
from flowise_gateway.openai.client_quirks import traits_of
from flowise_gateway.openai.request import ParsedRequest
from flowise_gateway.telemetry.log import request_id
from flowise_gateway.telemetry.metrics import ROUTE as METRICS
from flowise_gateway.web.request import (
    current_request,
    current_scope,
    header,
    json_response,
    reads_raw,
    trace_id,
    traceparent,
)
from flowise_gateway.web.services import Services

log = logging.getLogger(__name__)

_PUBLIC = {"/health", "/ready"}
FILE_RULE = "/flowise/files/<path:token>"
"""The route of files, which anyone with a signed link may open."""


class Hooks:
    """Admission before a view, headers after it, errors in OpenAI's shape."""

    def __init__(self, services: Services, public: frozenset[str] = frozenset()) -> None:
        """Admit requests by keys, origins and limits; `public` paths are open to everyone."""
        self._services = services
        self._settings = settings = services.settings
        self._public = _PUBLIC | public | ({METRICS} if settings.proxy_metrics == "open" else set())

    def install(self, app: Flask) -> None:
        """Register the hooks with the application."""
        app.before_request(self._admit)
        app.after_request(self._finish)
        app.register_error_handler(ProxyError, self._refuse)
        app.register_error_handler(HTTPException, self._refuse_http)
        app.register_error_handler(Exception, self._refuse_fault)

    def _admit(self) -> Response | None:
        http_request = current_request()
        rule = http_request.url_rule.rule if http_request.url_rule else ""
        g.request_id = request_id(header("X-Request-Id"))
        services, summary = self._services, current_scope().summary
        summary.request_id, summary.rule = g.request_id, rule
        summary.client = services.proxies.client(http_request.environ)
        summary.user_agent, summary.trace_id = header("User-Agent") or "", trace_id(traceparent())
        protocol = http_request.environ["SERVER_PROTOCOL"]
        check_host(header("Host"), protocol, self._settings, is_open=services.keys.is_open)
        if http_request.method == "OPTIONS":
            return Response(status=204)
        services.follow_config()
        g.config = services.config
        if http_request.path in self._public or rule.endswith(FILE_RULE):
            return None
        if services.tracing is not None and rule != METRICS:
            summary.span = services.tracing.request(summary, traceparent())
            summary.trace_id = summary.span.trace_id
        g.caller = caller = services.keys.caller(header, summary.client)
        summary.caller = caller.name
        check_origin(header("Origin"), header("Host"), self._settings, is_open=services.keys.is_open)
        if http_request.method == "POST":
            # A cancel frees a slot; if it needed one itself, it could never free it.
            self._take_places(1, takes_slots=not rule.endswith("/cancel"))
        return None

    def admit_choices(self, parsed: ParsedRequest, body: Mapping[str, Any]) -> None:
        """Count a request with several choices, which was admitted before it was parsed, once per choice."""
        runs = len(parsed.turns)
        if runs == 1:
            return
        try:
            self._services.limits.check_runs(g.caller, runs)
        except BadRequest as error:
            error.param = "prompt" if isinstance(body.get("prompt"), list) else "n"
            raise
        # All are counted together or not at all, so that a refusal leaves nothing counted.
        g.admission.give_back()
        g.limit_headers = {}
        self._take_places(runs)

    def admit_socket(self) -> None:
        """Admit a WebSocket until its connection ends. Raises RateLimited."""
        current_scope().on_close.append(self._services.limits.admit_socket(g.caller).release)

    def admit_reader(self) -> None:
        """Admit a reader of events until its response ends. Raises RateLimited, FlowiseUnavailable."""
        current_scope().on_close.append(self._services.limits.admit_reader(g.caller).release)

    def admit_message(self) -> contextlib.ExitStack:
        """Admit another request of an open connection; its key may have been removed or be at its limit."""
        services = self._services
        services.follow_config()
        g.config = services.config
        g.caller = services.keys.caller(header, current_scope().summary.client)
        places = contextlib.ExitStack()
        g.at_end = places.callback
        places.callback(_settle, services.limits.admit(g.caller), current_scope().summary)
        return places

    def admit_runs(self, runs: int) -> None:
        """Admit a request by the limits of its user and model, which are known after parsing."""
        summary = current_scope().summary
        subjects = self._services.subjects(g.caller, summary)
        if subjects:
            g.at_end(partial(_settle, self._services.limits.admit_further(subjects, runs), summary))

    def _take_places(self, runs: int, *, takes_slots: bool = True) -> None:
        """Take a slot for each run until the response has ended."""
        scope = current_scope()
        admission = self._services.limits.admit(g.caller, runs, takes_slots=takes_slots)
        g.at_end = scope.on_close.append
        g.at_end(partial(_settle, admission, scope.summary))
        g.admission, g.limit_headers = admission, admission.headers

    def _finish(self, response: Response) -> Response:
        response.headers["x-request-id"] = g.request_id
        if origin := header("Origin"):
            is_preflight = request.method == "OPTIONS"
            wanted = header("Access-Control-Request-Headers") or "" if is_preflight else None
            is_open = self._services.keys.is_open
            response.headers.update(cors_headers(origin, wanted, self._settings, is_open=is_open))
        response.headers.update(g.get("limit_headers", ()))
        return response

    def refused(self, error: ProxyError) -> tuple[ProxyError, int]:
        """The error as the caller sees it, and its status."""
        if isinstance(error, FlowiseRefused) and g.get("caller", ANONYMOUS).flowise_key:
            error = NotAuthenticated("Flowise refuses this API key.")
        return error, error_status(error, self._settings.proxy_run_error_status)

    def _refuse(self, error: ProxyError) -> Response:
        error, status = self.refused(error)
        current_scope().summary.outcome = error.code or error.type
        wording = traits_of(header("User-Agent") or "", None, is_raw=reads_raw()).wording
        # A client sends a request again after any 5xx, whatever the words.
        shown = error if wording is None or status >= 500 else wording.reworded(error)
        return json_response(error_body(shown), status, error_headers(error))

    def _refuse_http(self, error: HTTPException) -> Response:
        what = f"{request.method} {request.path[:200]}"
        if error.code == 405:
            allowed = dict(error.get_headers()).get("Allow", "")
            response = self._refuse(MethodNotAllowed(f"Not allowed to {what}; allowed: {allowed}."))
            response.headers["Allow"] = allowed
            return response
        if error.code == 404:
            return self._refuse(UnknownUrl(f"Invalid URL ({what})."))
        return self._refuse_fault(error)

    def _refuse_fault(self, error: Exception) -> Response:
        log.error("a request failed: %s", g.get("request_id"), exc_info=error)
        message = f"The server had an error while processing your request ({g.get('request_id')})."
        return self._refuse(ServerFault(message))


def _settle(admission: Admission, summary: RequestSummary) -> None:
    """Free the slots of a request, and charge its usage to the budgets."""
    tokens = summary.tokens.input + summary.tokens.output if summary.tokens else 0
    admission.settle(summary.runs, tokens)
    while summary.charges:  # those of several choices share the tokens, which are known of all together
        summary.charges.pop()(min(1, summary.runs), tokens // max(1, summary.runs))
