"""The server: OpenAI's and Azure's routes over Flowise's flows. Composition.

`python3 openai_compatible_server.py` serves; `create_app` is the WSGI application for any other server.
"""

from __future__ import annotations

import sys

if __name__ == "__main__":
    # gevent must patch the standard library before anything below imports it.
    from flowise_gateway.serving.main import main

    sys.exit(main())

import contextlib
import hashlib
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from flask import Flask, Response, g, request
from werkzeug.exceptions import HTTPException

from flowise_client import FlowiseClients
from flowise_gateway.access.file_links import FileLinks
from flowise_gateway.access.keys import ANONYMOUS, LOCAL, Keys, check_known
from flowise_gateway.access.limits import Admission, InFlight, KeyLimits, shared_rates
from flowise_gateway.access.models import Models
from flowise_gateway.access.origins import check_host, check_origin, cors_headers
from flowise_gateway.config.config_file import config_file
from flowise_gateway.config.schema import ProxyConfig
from flowise_gateway.config.settings import Settings
from flowise_gateway.conversation.planner import Plan, Planner
from flowise_gateway.conversation.sessions import Conversations
from flowise_gateway.flow.errors import (
    BadRequest,
    FlowiseRefused,
    MethodNotAllowed,
    ModelNotFound,
    NotAuthenticated,
    ProxyError,
    ServerFault,
    UnknownUrl,
    error_body,
    error_headers,
    error_status,
)
from flowise_gateway.flow.events import TextDelta, TurnEnded
from flowise_gateway.flow.filters import collect
from flowise_gateway.flow.lru import LRU
from flowise_gateway.flow.model import Model
from flowise_gateway.flow.request_scope import request_scope
from flowise_gateway.flow.transcript import Transcript
from flowise_gateway.flowise.catalog import Catalog
from flowise_gateway.flowise.transport.base import Transport
from flowise_gateway.openai.client_quirks import style_of
from flowise_gateway.openai.json_body import json_object
from flowise_gateway.openai.model_list import deployment_body, model_body
from flowise_gateway.openai.output_rules import is_plain, with_output_rules
from flowise_gateway.openai.renderer import Renderer
from flowise_gateway.openai.request import ParsedRequest
from flowise_gateway.openai.ui_tasks import TaskKind, asked_choices, task_answer, task_kind
from flowise_gateway.openai.usage import count_tokens
from flowise_gateway.responses.routes import ResponseRoutes
from flowise_gateway.responses.stored import StoredResponses
from flowise_gateway.storage.protocol import Executor, run_inline
from flowise_gateway.storage.store import WatchedStore, open_store
from flowise_gateway.telemetry.log import RequestLog, request_id
from flowise_gateway.telemetry.metrics import CONTENT_TYPE, Metrics
from flowise_gateway.telemetry.metrics import ROUTE as METRICS
from flowise_gateway.web.files import check_is_file, file_headers, first_piece, pieces
from flowise_gateway.web.pump import Pump
from flowise_gateway.web.request import (
    PlainPaths,
    answer_headers,
    current_request,
    current_scope,
    header,
    json_response,
    link_resolver,
    onward_headers,
    raw_body,
)
from flowise_gateway.web.runs import Runs
from flowise_gateway.web.streaming import EVENT_STREAM, Heartbeat, PendingAnswer, StreamedAnswer, refuse_empty
from openai_adapter import ChatRenderer, CompletionRenderer, parse_chat, parse_completion

log = logging.getLogger(__name__)

_PUBLIC = {"/health", "/ready"}
MAX_CATALOGS = 256
LISTING_SECONDS = 90 * 86400.0
_FILE_RULE = "/flowise/files/<path:token>"

Parser = Callable[[Mapping[str, Any], str | None], ParsedRequest]
RendererOf = Callable[..., Renderer]


def load() -> None:
    """Read what takes long and never changes, before the workers are forked."""
    count_tokens("")


def create_app(
    settings: Settings,
    *,
    transport: Transport | None = None,
    run: Executor = run_inline,
    metrics: Metrics | None = None,
) -> Flask:
    """The application over the Flowise that the settings name; `run` runs what may wait for a disk."""
    app = Flask(__name__, static_folder=None)
    metrics = metrics or Metrics()
    _Server(settings, transport, run, metrics).install(app)
    app.wsgi_app = PlainPaths(RequestLog(app.wsgi_app, metrics.request))  # type: ignore[method-assign]
    return app


class _Server:
    """What the views share."""

    def __init__(
        self, settings: Settings, transport: Transport | None, run: Executor, metrics: Metrics
    ) -> None:
        self.settings = settings
        self._metrics = metrics
        self._public = _PUBLIC | ({METRICS} if settings.proxy_metrics == "open" else set())
        self._config_file = config_file(settings)
        self._config = ProxyConfig()
        self._keys = Keys()
        self._limits = KeyLimits(settings.workers, shared_rates(settings.proxy_store))
        self._in_flight = InFlight(settings.proxy_max_in_flight)
        self._clients = FlowiseClients(settings, transport)
        store = open_store(settings.proxy_store, run)
        self._store = WatchedStore(store, _store_lost, settings.proxy_secret.encode())
        self._secret_users: _SecretUsers | None = None
        self._catalogs: LRU[str, Catalog] = LRU(MAX_CATALOGS)
        self._catalogs_lock = threading.Lock()
        self._follow_config()
        self._watch()

    def _watch(self) -> None:
        """Have counted what others keep."""
        watch, limits = self._metrics.watch, self._limits.refusals
        watch("requests_in_flight", lambda: self._in_flight.count)
        watch("breakers_open", lambda: self._clients.health.is_down)
        watch("retries_total", lambda: self._clients.health.retries)
        watch("store_errors_total", lambda: self._store.failures)
        watch("limit_refusals_total", lambda: self._in_flight.refusals, "max_in_flight")
        for limit in limits:
            watch("limit_refusals_total", partial(limits.__getitem__, limit), limit)

    def _follow_config(self) -> None:
        """Take a changed `proxy.yaml` over; requests begun before keep what they began with."""
        config = self._config_file.current
        if config is not self._config:
            settings = self.settings
            passes_through = settings.flowise_key_passthrough
            anonymous = LOCAL if settings.is_loopback else ANONYMOUS
            keys = Keys(
                settings.proxy_api_keys, config.keys, passes_through=passes_through, anonymous=anonymous
            )
            if keys.is_open and not self._keys.is_open:
                log.error("proxy.yaml holds no key any more: the keys before stay valid until a restart")
            else:
                self._keys = keys
            self._config = config
            self._clients.mode.is_set = config.flowise_mode == "queue"
            for catalog in self._catalogs.values():
                catalog.refresh_seconds = config.discovery.refresh_seconds

    def _models(self) -> Models:
        return Models(g.config, self._catalog(), g.caller)

    def _catalog(self) -> Catalog:
        key = g.caller.flowise_key
        # Reading the saved listing waits for the store: meanwhile others must not make a second catalog.
        with self._catalogs_lock:
            catalog = self._catalogs.get(key) or self._new_catalog(key)
            self._catalogs[key] = catalog
        return catalog

    def _new_catalog(self, key: str) -> Catalog:
        # What one key sees at one address is shown for no other.
        whose = f"{self.settings.flowise_base_url}\n{key or self.settings.flowise_api_key}"
        name = f"listing:{hashlib.sha256(whose.encode()).hexdigest()}"
        owner = g.caller.scope if key else None
        return Catalog(
            self._clients.client("", key),
            self._config.discovery.refresh_seconds,
            saved=lambda: self._store.get(name),
            save=lambda listing: self._store.put({name: listing}, LISTING_SECONDS, owner),
        )

    def install(self, app: Flask) -> None:
        """Add routes, hooks and error handlers to the application."""
        app.before_request(self._admit)
        app.after_request(self._finish)
        app.register_error_handler(ProxyError, self._refuse)
        app.register_error_handler(HTTPException, self._refuse_http)
        app.register_error_handler(Exception, self._refuse_fault)
        app.add_url_rule("/health", view_func=self.health)
        app.add_url_rule("/ready", view_func=self.ready)
        if self.settings.proxy_metrics != "off":
            self._route(app, METRICS, self.metrics)
        for prefix in ("", "/v1", "/openai/v1", "/openai"):
            self._route(app, f"{prefix}/models", self.models)
            self._route(app, f"{prefix}/responses/models", self.models)
            self._route(app, f"{prefix}/models/<path:name>", self.model)
        ResponseRoutes(self).install(app)
        self._route(app, "/openai/deployments", self.deployments)
        for prefix in ("", "/v1", "/openai/v1"):
            self._route(app, prefix + _FILE_RULE, self.file)
        for prefix in ("", "/v1", "/openai/v1", "/openai/deployments/<path:deployment>"):
            self._route(app, f"{prefix}/chat/completions", self.chat_completions, "POST")
            self._route(app, f"{prefix}/completions", self.completions, "POST")

    @staticmethod
    def _route(app: Flask, rule: str, view: Callable[..., Response], method: str = "GET") -> None:
        app.add_url_rule(
            rule, endpoint=rule, view_func=view, methods=[method], provide_automatic_options=False
        )

    def _admit(self) -> Response | None:
        asked = current_request()
        rule = asked.url_rule.rule if asked.url_rule else ""
        g.request_id = request_id(header("X-Request-Id"))
        line = request_scope(asked.environ).log_fields
        line["request_id"] = g.request_id
        line["rule"] = rule
        protocol = asked.environ["SERVER_PROTOCOL"]
        check_host(header("Host"), protocol, self.settings, is_open=self._keys.is_open)
        if asked.method == "OPTIONS":
            return Response(status=204)
        self._follow_config()
        g.config = self._config
        if asked.path in self._public or rule.endswith(_FILE_RULE):
            return None
        g.caller = caller = self._keys.caller(header)
        line["caller"] = caller.name
        check_origin(header("Origin"), self.settings, is_open=self._keys.is_open)
        if asked.method == "POST":
            # Cancelling makes room: it must not be refused for the want of it.
            self._let_in(takes_place=not rule.endswith("/cancel"))
        return None

    def _let_in(self, *, takes_place: bool = True, runs: int = 1) -> None:
        releases = current_scope().on_close
        if takes_place:
            releases.append(self._in_flight.enter(runs))
        admission = self._admission(takes_place=takes_place, runs=runs)
        releases.append(admission.release)
        g.limit_headers = admission.headers

    def _admission(self, *, takes_place: bool = True, runs: int = 1) -> Admission:
        caller = g.caller
        most = caller.max_in_flight if takes_place else None
        return self._limits.admit(caller.name, caller.requests_per_minute, most, runs=runs)

    def _let_in_choices(self, parsed: ParsedRequest, body: Mapping[str, Any]) -> None:
        """Count a request of several choices, which was let in before it was read, as a run for each."""
        runs = len(parsed.turns)
        if runs == 1:
            return
        try:
            self._limits.check_runs(runs, g.caller.requests_per_minute, g.caller.max_in_flight)
        except BadRequest as error:
            error.param = "prompt" if isinstance(body.get("prompt"), list) else "n"
            raise
        self._let_in(runs=runs - 1)

    def admit_message(self) -> contextlib.ExitStack:
        """Let in one more request on a connection that stays: its key may be gone, or at its limit."""
        self._follow_config()
        g.config = self._config
        g.caller = self._keys.caller(header)
        with contextlib.ExitStack() as places:
            places.callback(self._in_flight.enter())
            places.callback(self._admission().release)
            return places.pop_all()

    def _finish(self, response: Response) -> Response:
        response.headers["x-request-id"] = g.request_id
        if origin := header("Origin"):
            is_preflight = request.method == "OPTIONS"
            asked = header("Access-Control-Request-Headers") or "" if is_preflight else None
            response.headers.update(cors_headers(origin, asked, self.settings, is_open=self._keys.is_open))
        response.headers.update(g.get("limit_headers", ()))
        return response

    def health(self) -> Response:
        """Tell that the server lives; asks nobody else."""
        return json_response({"status": "ok"})

    def ready(self) -> Response:
        """Tell that the server can serve; what may be wrong, only to a caller with a key."""
        body: dict[str, Any] = {"status": "ready"}
        with contextlib.suppress(NotAuthenticated):
            g.caller = self._keys.caller(header)
            body["flowise"] = self._flowise_state()
            body["config_error"] = self._config_file.error
            body["store_error"] = self._store.error
        return json_response(body)

    def metrics(self) -> Response:
        """Tell what was counted, with the names of those models alone that the caller may use."""
        caller = g.get("caller", ANONYMOUS)
        check_known(caller, self.settings)
        text = self._metrics.text(lambda model: caller.may_use([model]))
        return Response(text, content_type=CONTENT_TYPE)

    def _flowise_state(self) -> dict[str, Any]:
        try:
            version = self._clients.client("", g.caller.flowise_key).version()
        except ProxyError as error:
            return {"reachable": False, "error": error.message}
        refusal = None
        if g.config.discovery.enabled:
            catalog = self._catalog()
            catalog.profiles()
            refusal = catalog.error
        return {"reachable": True, "version": version, "error": refusal and refusal.message}

    def models(self) -> Response:
        """List the models."""
        return json_response(
            {"object": "list", "data": [model_body(model) for model in self._models().listed()]}
        )

    def deployments(self) -> Response:
        """List the models as Azure's deployments."""
        data = [deployment_body(model) for model in self._models().listed()]
        return json_response({"object": "list", "data": data})

    def model(self, name: str) -> Response:
        """Describe one model."""
        return json_response(model_body(self._models().known(name)))

    def chat_completions(self, deployment: str | None = None) -> Response:
        """Answer a chat completion."""
        return self._answer(parse_chat, ChatRenderer, deployment)

    def completions(self, deployment: str | None = None) -> Response:
        """Answer a legacy completion."""
        return self._answer(parse_completion, CompletionRenderer, deployment)

    def file(self, token: str) -> Response:
        """Give a file that a flow made to whoever holds its link."""
        file = self._files().opened(token)
        head, reply = self._clients.client(file.flow).get_streaming(file.path)
        try:
            check_is_file(head.status, head.headers.get("content-type", ""))
            first = first_piece(reply)
        except BaseException:
            reply.close()
            raise
        response = Response(pieces(first, reply), headers=file_headers(file.name, first))
        response.call_on_close(reply.close)
        return response

    def _answer(self, parse: Parser, renderer_of: RendererOf, deployment: str | None) -> Response:
        body = self.json_body()
        parsed = parse(body, deployment)
        self._let_in_choices(parsed, body)
        return self.answer(
            parsed, self.begin(parsed, body, renderer_of, is_deployment=deployment is not None)
        )

    def json_body(self) -> dict[str, Any]:
        """The request's body. Raises BadRequest."""
        return json_object(raw_body(self.settings.proxy_max_body_bytes))

    def begin(
        self,
        parsed: ParsedRequest,
        body: Mapping[str, Any],
        renderer_of: RendererOf,
        *,
        pace: Heartbeat | None = None,
        is_deployment: bool = False,
    ) -> PendingAnswer:
        """Decide what to run for a request; nothing runs before its batches are read. Raises ProxyError."""
        line = current_scope().log_fields
        line["stream"] = parsed.stream
        models = self._models()
        task = task_kind(parsed.turns)
        model = self._model(models, parsed.model, task, is_deployment=is_deployment)
        parsed = self._ruled(parsed, model, task)
        plan = self._plan(parsed, model, task)
        pump = None
        if pace is None:  # else this request's answer is not the stream
            pace = Heartbeat(self.settings.proxy_heartbeat_seconds)
            pump = self._pump(pace) if parsed.stream and is_plain(parsed) else None
        batches = self._runs(parsed, plan, models, pump).batches(model, pace)
        warnings = [plan.warning] if plan.warning else []
        transcripts = [Transcript(turn.chat_id, warnings=[*warnings]) for turn in plan.turns]
        style = style_of(
            model,
            body,
            header("User-Agent") or "",
            is_task=task is not None,
            is_open_webui=bool(header("X-OpenWebUI-User-Id") or header("X-OpenWebUI-Chat-Id")),
        )
        shown = replace(
            parsed, turns=plan.turns, conversation=plan.exchange.conversation if plan.exchange else ""
        )
        renderer = renderer_of(shown, count_tokens=count_tokens, style=style)
        named = (parsed.response_id,) if parsed.response_id else ()
        planner = self._planner_now()

        def ended() -> None:
            if parsed.stream and not plan.canned_events:
                _refuse_empty(transcripts, line, may_be_cut=bool(parsed.stop))
            if not plan.canned_events:
                self._metrics.tokens(model.id, plan.turns, transcripts)
            planner.record(plan, transcripts, *named, stood_in="fallback" in line)

        return PendingAnswer(batches, renderer, pace, transcripts, ended, answer_headers(plan), pump)

    def _pump(self, pace: Heartbeat) -> Pump | None:
        write_now = current_scope().write_now
        if write_now is None or not self.settings.proxy_event_pump:
            return None
        # What is left is written by the greenlet, which can wait for the client, with a heartbeat behind it.
        return Pump(write_now, pace.reset, partial(pace.due_within, 0))

    def answer(self, parsed: ParsedRequest, begun: PendingAnswer) -> Response:
        """Run what has begun, and answer with a stream or a body. Raises ProxyError before the first byte."""
        # From here on the flow may run: whoever leaves must end it.
        current_scope().watch_client()
        if parsed.stream:
            current_scope().on_close.append(self._metrics.stream())
            answer = StreamedAnswer(begun)
            # As it is: werkzeug's own iterators around it would cost each token a step.
            headers = {**EVENT_STREAM, **begun.headers}
            return Response(answer.begin(), headers=headers, direct_passthrough=True)
        try:
            for _ in collect(begun.batches, begun.transcripts):
                begun.heartbeat.reset()
        finally:
            begun.batches.close()
        begun.record()
        return json_response(begun.renderer.body(begun.transcripts), headers=begun.headers)

    def _ruled(self, parsed: ParsedRequest, model: Model, task: TaskKind | None) -> ParsedRequest:
        """The request with what its flow is told of tools and format; a chat UI's task never has tools."""
        if task is None:
            return with_output_rules(parsed, model.tools)
        return parsed if g.config.tasks.model == "builtin" else with_output_rules(parsed, "report")

    def _plan(self, parsed: ParsedRequest, model: Model, task: TaskKind | None) -> Plan:
        planner = self._planner_now()
        if not parsed.generates:
            return planner.prepare(parsed, model, g.caller)
        if task is not None:
            plan = planner.plan_standalone(parsed, model, g.caller)
            # A run that waits for a decision has told its choices: no model need think of them.
            is_known = task == "follow_ups" and asked_choices(parsed.user_text)
            if g.config.tasks.model != "builtin" and not is_known:
                return plan
            answer = task_answer(task, parsed.user_text, parsed.parameters.get("response_format"))
            return replace(plan, canned_events=(TextDelta(answer), TurnEnded()))
        if not parsed.is_conversation:
            return planner.plan_standalone(parsed, model, g.caller)
        client = self._clients.client(model.flow, g.caller.flowise_key)
        return planner.plan(parsed, model, g.caller, header, client)

    def _secret_users_now(self) -> _SecretUsers:
        """What works with our secret; made anew if the store is back and has another one."""
        secret, users = self._store.secret, self._secret_users
        if users is None or users.secret != secret:
            users = self._secret_users = _SecretUsers(
                self._store, secret, self.settings.proxy_response_ttl_days
            )
        return users

    def _planner_now(self) -> Planner:
        return self._secret_users_now().planner

    def _files(self) -> FileLinks:
        return self._secret_users_now().file_links

    def stored(self) -> StoredResponses:
        """The responses that are kept."""
        return self._secret_users_now().stored

    def forget_answer(self, response_id: str) -> None:
        """Delete what the caller's conversation keeps of an answer."""
        self._planner_now().forget(g.caller, response_id)

    def _model(self, models: Models, name: str, task: TaskKind | None, *, is_deployment: bool) -> Model:
        try:
            model = models.resolve(name)
            if task is not None and g.config.tasks.model not in ("builtin", "flow"):
                model = models.resolve(g.config.tasks.model)
        except ModelNotFound as error:
            if is_deployment:
                error.code = "DeploymentNotFound"
            raise
        current_scope().log_fields["model"] = model.id
        self._metrics.admit(model)
        return model

    def _runs(self, parsed: ParsedRequest, plan: Plan, models: Models, pump: Pump | None) -> Runs:
        reference = plan.exchange.reference if plan.exchange else ""
        return Runs(
            parsed,
            plan,
            self._clients,
            self._planner_now(),
            models,
            self._metrics,
            onward_headers(),
            g.caller.flowise_key,
            current_scope().log_fields,
            link_resolver(reference, self.settings.proxy_public_url, self._files),
            pump,
        )

    def _refuse(self, error: ProxyError) -> Response:
        error, status = self.refused(error)
        return json_response(error_body(error), status, error_headers(error))

    def refused(self, error: ProxyError) -> tuple[ProxyError, int]:
        """An error as its caller is to see it, and its status."""
        if isinstance(error, FlowiseRefused) and g.get("caller", ANONYMOUS).flowise_key:
            error = NotAuthenticated("Flowise refuses this API key.")
        current_scope().log_fields["outcome"] = error.code or error.type
        return error, error_status(error, self.settings.proxy_run_error_status)

    def _refuse_http(self, error: HTTPException) -> Response:
        asked = f"{request.method} {request.path[:200]}"
        if error.code == 405:
            allowed = dict(error.get_headers()).get("Allow", "")
            response = self._refuse(MethodNotAllowed(f"Not allowed to {asked}; allowed: {allowed}."))
            response.headers["Allow"] = allowed
            return response
        if error.code == 404:
            return self._refuse(UnknownUrl(f"Invalid URL ({asked})."))
        return self._refuse_fault(error)

    def _refuse_fault(self, error: Exception) -> Response:
        log.error("a request failed: %s", g.get("request_id"), exc_info=error)
        message = f"The server had an error while processing your request ({g.get('request_id')})."
        return self._refuse(ServerFault(message))


class _SecretUsers:
    """What derives keys and links with our secret; made late, since that is read from the store."""

    def __init__(self, store: WatchedStore, secret: bytes, ttl_days: float) -> None:
        self.secret = secret
        self.planner = Planner(Conversations(store, secret, ttl_days * 86400))
        self.stored = StoredResponses(store, secret, ttl_days * 86400)
        self.file_links = FileLinks(secret, ttl_days)


def _refuse_empty(transcripts: Sequence[Transcript], line: dict[str, Any], *, may_be_cut: bool) -> None:
    try:
        refuse_empty(transcripts, may_be_cut=may_be_cut)
    except ProxyError as error:
        line["outcome"] = error.code
        raise


def _store_lost(reason: str) -> None:
    log.error("conversations cannot be continued: %s", reason)
