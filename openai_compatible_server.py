"""The server: OpenAI's and Azure's routes for Flowise's flows.

`python3 openai_compatible_server.py` runs it; `create_app` returns the WSGI application for other servers.
"""

from __future__ import annotations

import sys

if __name__ == "__main__":
    # gevent must patch the standard library before anything below imports it.
    from flowise_gateway.cli import main

    sys.exit(main(["serve"]))

import contextlib
import time
from collections.abc import Callable, Mapping
from typing import Any, Literal, NotRequired, TypedDict

from flask import Flask, Response, g, request
from werkzeug.exceptions import NotFound

from flowise_client import FlowiseClients, requests_transport
from flowise_gateway import __version__
from flowise_gateway.access.file_links import file_not_found
from flowise_gateway.access.keys import ANONYMOUS, check_known
from flowise_gateway.config.flowises import Upstream
from flowise_gateway.config.settings import Settings
from flowise_gateway.flow.errors import AdminsOnly, NotAuthenticated, TooManyWrongKeys
from flowise_gateway.flowise.transport.base import Transport
from flowise_gateway.openai.model_list import deployment_body, model_body
from flowise_gateway.openai.request import ParsedRequest
from flowise_gateway.openai.usage import count_tokens
from flowise_gateway.page.page import DOCS, INDEX, OPENAPI, page_file, page_paths
from flowise_gateway.page.page import RULE as PAGE_FILE
from flowise_gateway.responses.routes import ResponseRoutes
from flowise_gateway.storage.protocol import Executor, run_inline
from flowise_gateway.telemetry.log import RequestLog
from flowise_gateway.telemetry.metrics import CONTENT_TYPE, Metrics
from flowise_gateway.telemetry.metrics import ROUTE as METRICS
from flowise_gateway.telemetry.tracing import Tracing
from flowise_gateway.telemetry.usage_report import UsageReport
from flowise_gateway.web.answering import Answering, RendererOf
from flowise_gateway.web.files import check_is_file, file_headers, first_piece, pieces
from flowise_gateway.web.flowises import FlowiseState
from flowise_gateway.web.hooks import FILE_RULE, Hooks
from flowise_gateway.web.request import PlainPaths, current_scope, header, json_body, json_response
from flowise_gateway.web.services import Services
from openai_adapter import ChatRenderer, CompletionRenderer, parse_chat, parse_completion

Parser = Callable[[Mapping[str, Any], str | None], ParsedRequest]

V1 = ("", "/v1", "/openai/v1")
"""The prefixes of a route: none, OpenAI's and Azure's newer one."""
ALL = (*V1, "/openai")
WITH_DEPLOYMENT = (*V1, "/openai/deployments/<path:deployment>")
ALONE = ("",)
AT_END = "flowise_gateway.at_end"
"""The key in `app.extensions` of the function that a worker calls before it exits."""


def load() -> None:
    """Load the tokenizer before the workers are forked, so that they share it."""
    count_tokens("")


def create_app(
    settings: Settings,
    *,
    transport_of: Callable[[Settings], Transport] = requests_transport,
    run: Executor = run_inline,
    metrics: Metrics | None = None,
    tracing: Tracing | None = None,
    needs_key: bool = False,
) -> Flask:
    """Create the application for the Flowises in the settings and `proxy.yaml`.

    `transport_of` creates the transport to a Flowise, `run` executes functions that may block on a disk.
    `needs_key`: the server was started with client keys, and refuses all requests if they are removed.
    """
    app = Flask(__name__, static_folder=None)
    metrics = metrics or Metrics()

    def clients_of(upstream: Upstream) -> FlowiseClients:
        return FlowiseClients(upstream, transport_of)

    services = Services(settings, clients_of, run, metrics, tracing, needs_key=needs_key)
    app.extensions[AT_END] = services.close
    hooks = Hooks(services, page_paths(has_page=settings.proxy_page))
    answering = Answering(services, hooks)
    hooks.install(app)
    views = Views(services, hooks, answering)
    responses = ResponseRoutes(services, hooks, answering)
    routes = (
        (ALL, "/models", "GET", views.models),
        (ALL, "/responses/models", "GET", views.models),
        (ALL, "/models/<path:name>", "GET", views.model),
        (ALL, "/responses", "POST", responses.create),
        (ALL, "/responses", "WEBSOCKET", responses.socket),
        (ALL, "/responses/input_tokens", "POST", responses.input_tokens),
        (ALL, "/responses/compact", "POST", responses.compact),
        (ALL, "/responses/<response_id>", "GET", responses.retrieve),
        (ALL, "/responses/<response_id>", "DELETE", responses.delete),
        (ALL, "/responses/<response_id>/cancel", "POST", responses.cancel),
        (ALL, "/responses/<response_id>/input_items", "GET", responses.input_items),
        (V1, FILE_RULE, "GET", views.file),
        (V1, "/flowise/usage", "GET", views.usage),
        (WITH_DEPLOYMENT, "/chat/completions", "POST", views.chat_completions),
        (WITH_DEPLOYMENT, "/completions", "POST", views.completions),
        (ALONE, "/openai/deployments", "GET", views.deployments),
        (ALONE if settings.proxy_metrics != "off" else (), METRICS, "GET", views.metrics),
        (ALONE if settings.proxy_page else (), "/", "GET", views.page),
        (ALONE if settings.proxy_page else (), PAGE_FILE, "GET", views.page_file),
        (ALONE if settings.proxy_page else (), "/docs", "GET", views.docs),
        (ALONE, "/openapi.json", "GET", views.openapi),
    )
    app.add_url_rule("/health", view_func=views.health)
    app.add_url_rule("/ready", view_func=views.ready)
    for prefixes, path, method, view in routes:
        for prefix in prefixes:
            app.add_url_rule(
                prefix + path,
                endpoint=f"{method} {prefix}{path}",
                view_func=view,
                methods=["GET" if method == "WEBSOCKET" else method],
                websocket=method == "WEBSOCKET",
                provide_automatic_options=False,
            )
    app.wsgi_app = PlainPaths(RequestLog(app.wsgi_app, services.finished.add))  # type: ignore[method-assign]
    return app


class ReadyBody(TypedDict):
    """Readiness of the server; the details are only for callers with a key."""

    status: Literal["ready"]
    version: NotRequired[str]
    flowise: NotRequired[FlowiseState]
    flowises: NotRequired[dict[str, FlowiseState]]
    config_error: NotRequired[str | None]
    store_error: NotRequired[str | None]
    secret_error: NotRequired[str | None]


class Views:
    """The views of all routes except the Responses API."""

    def __init__(self, services: Services, hooks: Hooks, answering: Answering) -> None:
        self._services, self._hooks, self._answering = services, hooks, answering

    def health(self) -> Response:
        """Report that the process is alive, without calling anything else."""
        return json_response({"status": "ok"})

    def ready(self) -> Response:
        """Report that the server is ready; details and problems are only for callers with a key."""
        services = self._services
        body: ReadyBody = {"status": "ready"}
        with contextlib.suppress(NotAuthenticated, TooManyWrongKeys):
            g.caller = services.keys.caller(header, current_scope().summary.client)
            body["version"] = __version__
            states = services.flowise_states(g.config, g.caller)
            # The first one is also under the key from before several Flowises were supported.
            body["flowise"] = next(iter(states.values()), FlowiseState(reachable=False, error=None))
            body["flowises"] = states
            body["config_error"] = services.config_error
            body["secret_error"] = services.store.secret_error
            body["store_error"] = services.store.check()
        return json_response(body)

    def page(self) -> Response:
        """Serve the status page and playground."""
        return self.page_file(INDEX)

    def docs(self) -> Response:
        """Serve the interactive API documentation."""
        return self.page_file(DOCS)

    def openapi(self) -> Response:
        """Serve this description of the API."""
        return self.page_file(OPENAPI)

    def page_file(self, name: str) -> Response:
        """Serve a static file of the pages."""
        file = page_file(name)
        if file is None:
            raise NotFound
        return Response(*file.answer(header("If-None-Match")))

    def metrics(self) -> Response:
        """Serve the metrics, with the names of only those models that the caller may use."""
        caller = g.get("caller", ANONYMOUS)
        check_known(caller, self._services.settings)
        may_see = self._services.may_see(g.config, caller)
        text = self._services.metrics.text(may_see, caller.may_use_flowise)
        return Response(text, content_type=CONTENT_TYPE)

    def usage(self) -> Response:
        """Report usage to a key with `admin: true`."""
        if not g.caller.is_admin:
            raise AdminsOnly(
                "This key may not see the usage of other keys: it needs `admin: true` in proxy.yaml."
            )
        report = UsageReport(request.args, time.time())
        rows = self._services.used(report, request.args.get("user", ""))
        as_csv = request.args.get("format") == "csv" or "text/csv" in (header("Accept") or "")
        if as_csv:
            return Response(report.csv(rows), mimetype="text/csv")
        return json_response(report.body(rows))

    def models(self) -> Response:
        """List the models."""
        models = self._services.models(g.config, g.caller)
        return json_response({"object": "list", "data": [model_body(model) for model in models.listed()]})

    def deployments(self) -> Response:
        """List the models as Azure's deployments."""
        models = self._services.models(g.config, g.caller)
        return json_response(
            {"object": "list", "data": [deployment_body(model) for model in models.listed()]}
        )

    def model(self, name: str) -> Response:
        """Describe one model."""
        return json_response(model_body(self._services.models(g.config, g.caller).known(name)))

    def chat_completions(self, deployment: str | None = None) -> Response:
        """Answer a chat completion."""
        return self._answer(parse_chat, ChatRenderer, deployment)

    def completions(self, deployment: str | None = None) -> Response:
        """Answer a legacy completion."""
        return self._answer(parse_completion, CompletionRenderer, deployment)

    def _answer(self, parse: Parser, renderer_of: RendererOf, deployment: str | None) -> Response:
        body = json_body(self._services.settings)
        parsed = parse(body, deployment)
        self._hooks.admit_choices(parsed, body)
        pending = self._answering.prepare(parsed, body, renderer_of, is_deployment=deployment is not None)
        return self._answering.answer(parsed, pending)

    def file(self, token: str) -> Response:
        """Serve a file generated by a flow; the signed link is the authorization."""
        file = self._services.file_links.opened(token)
        if self._services.flowises.get(file.flowise) is None:
            raise file_not_found()
        client = self._services.flowises.client(file.flowise, file.flow)
        head, reply = client.get_streaming(file.path)
        try:
            check_is_file(head.status, head.headers.get("content-type", ""))
            first = first_piece(reply)
        except BaseException:
            reply.close()
            raise
        response = Response(pieces(first, reply), headers=file_headers(file.name, first))
        response.call_on_close(reply.close)
        return response
