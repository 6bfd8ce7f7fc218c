"""Answers parsed requests: selects the model, plans the runs, and sends a stream or a body."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from flask import Response, g, request

from flowise_gateway.access.file_links import FileLinks
from flowise_gateway.access.keys import Caller
from flowise_gateway.access.models import Models
from flowise_gateway.conversation.planner import Plan, at_server, user_of
from flowise_gateway.flow.errors import ModelNotFound, ProxyError
from flowise_gateway.flow.events import TextDelta, TurnEnded
from flowise_gateway.flow.model import Model
from flowise_gateway.flow.request_summary import RequestSummary
from flowise_gateway.flow.transcript import Transcript
from flowise_gateway.openai.client_quirks import style_of
from flowise_gateway.openai.output_rules import is_plain, with_output_rules
from flowise_gateway.openai.renderer import Renderer
from flowise_gateway.openai.request import ParsedRequest
from flowise_gateway.openai.ui_tasks import TaskKind, choices_of_decision, task_answer, task_kind
from flowise_gateway.openai.usage import count_tokens
from flowise_gateway.web.answer import PendingAnswer, refuse_empty
from flowise_gateway.web.heartbeat import Heartbeat
from flowise_gateway.web.hooks import Hooks
from flowise_gateway.web.pump import Pump
from flowise_gateway.web.request import (
    answer_headers,
    current_scope,
    header,
    json_response,
    link_resolver,
    onward_headers,
    reads_raw,
)
from flowise_gateway.web.runs import Runs
from flowise_gateway.web.services import Services
from flowise_gateway.web.streaming import EVENT_STREAM, event_stream

RendererOf = Callable[..., Renderer]


class Answering:
    """Answers the parsed requests of every API."""

    def __init__(self, services: Services, hooks: Hooks) -> None:
        """Answer the requests that the hooks admit."""
        self._services, self._hooks = services, hooks

    def prepare(
        self,
        parsed: ParsedRequest,
        body: Mapping[str, Any],
        renderer_of: RendererOf,
        *,
        heartbeat: Heartbeat | None = None,
        is_deployment: bool = False,
    ) -> PendingAnswer:
        """Plan a request; nothing runs until its batches are read. Raises ProxyError.

        `heartbeat` is given where the answer is not this request's own stream or body.
        """
        services, summary = self._services, current_scope().summary
        summary.stream, summary.response_id = parsed.stream, parsed.response_id
        models = services.models(g.config, g.caller)
        task = task_kind(parsed.turns)
        model = self._model(models, parsed.model, task, is_deployment=is_deployment)
        if task is None:
            parsed = with_output_rules(parsed, model.tools)
        elif g.config.tasks.model != "builtin":  # a chat UI's task never has tools
            parsed = with_output_rules(parsed, "report")
        planner = services.planner
        plan = self._plan(parsed, model, task)
        self._describe(summary, plan, parsed)
        if summary.chat_ids:
            self._admit_runs(plan)
        pump = None
        if heartbeat is None:
            heartbeat = Heartbeat(services.settings.proxy_heartbeat_seconds)
            write_now = current_scope().write_now
            if write_now is not None and parsed.stream and is_plain(parsed):
                pump = Pump(write_now, heartbeat)
        reference = plan.continued.reference if plan.continued else ""
        runs = Runs(
            parsed,
            plan,
            services,
            models,
            g.caller,
            onward_headers(),
            summary,
            link_resolver(reference, self._own_address(), self._file_links),
            pump,
        )
        warnings = [plan.warning] if plan.warning else []
        transcripts = [Transcript(turn.chat_id, warnings=[*warnings]) for turn in plan.turns]
        style = style_of(
            model,
            body,
            header("User-Agent") or "",
            is_raw=reads_raw(),
            is_task=task is not None,
            is_open_webui=bool(header("X-OpenWebUI-User-Id") or header("X-OpenWebUI-Chat-Id")),
        )
        conversation = plan.continued.conversation if plan.continued else ""
        shown = replace(parsed, turns=plan.turns, conversation=conversation)
        renderer = renderer_of(shown, count_tokens=count_tokens, style=style)

        caller: Caller = g.caller  # Flask's own is gone when a background response ends.

        def record() -> None:
            if parsed.stream and not plan.canned_events:
                refuse_empty(transcripts, may_be_cut=bool(parsed.stop))
            also_under = (parsed.response_id,) if parsed.response_id else ()
            if services.may_store(caller):
                planner.record(plan, transcripts, *also_under, stood_in=bool(summary.fallback))

        batches, headers = runs.batches(model, heartbeat), answer_headers(plan)
        return PendingAnswer(batches, renderer, heartbeat, transcripts, record, headers, pump, summary)

    def answer(self, parsed: ParsedRequest, pending: PendingAnswer) -> Response:
        """Run a request, and respond with a stream or a body. Raises ProxyError before the first byte."""
        # From here on the flow runs, and must be aborted if the client disconnects.
        current_scope().watch_client()
        if parsed.stream:
            current_scope().on_close.append(self._services.metrics.stream())
            headers = {**EVENT_STREAM, **pending.headers}
            # Returned directly, since werkzeug would wrap the iterator twice, at a cost for each token.
            return Response(event_stream(pending), headers=headers, direct_passthrough=True)
        with contextlib.closing(pending.steps(renders=False)) as steps:
            for _ in steps:
                pending.heartbeat.reset()
        pending.finish()
        return json_response(pending.renderer.body(pending.transcripts), headers=pending.headers)

    def _model(self, models: Models, name: str, task: TaskKind | None, *, is_deployment: bool) -> Model:
        try:
            model = models.resolve(name)
            if task is not None and g.config.tasks.model not in ("builtin", "flow"):
                model = models.resolve(g.config.tasks.model)
        except ModelNotFound as error:
            if is_deployment:
                error.code = "DeploymentNotFound"
            raise
        summary = current_scope().summary
        summary.model, summary.flowise, summary.flow = model.id, model.flowise, model.flow
        self._services.metrics.admit(model)
        return model

    def _plan(self, parsed: ParsedRequest, model: Model, task: TaskKind | None) -> Plan:
        planner = self._services.planner
        if not parsed.generates:
            return planner.prepare(parsed, model, g.caller)
        if task is not None:
            plan = planner.plan_standalone(parsed, model, g.caller)
            # A run that waits for a decision has choices, so no model needs to invent follow-ups.
            is_known = task == "follow_ups" and choices_of_decision(parsed.user_text)
            if g.config.tasks.model != "builtin" and not is_known:
                return plan
            answer = task_answer(task, parsed.user_text, parsed.parameters.get("response_format"))
            return replace(plan, canned_events=(TextDelta(answer), TurnEnded()))
        if not parsed.is_conversation:
            return planner.plan_standalone(parsed, model, g.caller)
        plan = planner.plan(parsed, model, g.caller, header, self._services.client(model, g.caller))
        return at_server(plan, self._services.flowises.server_of_session(model.flowise))

    def _file_links(self) -> FileLinks:
        """The signer of further links."""
        self._services.metrics.count("file_links_made_total")
        return self._services.file_links

    def _own_address(self) -> Callable[[], str]:
        """The base URL of links: the public URL, otherwise the one that the caller used."""
        services, environ = self._services, request.environ  # Flask's stand-in is gone once the view returns.
        return lambda: services.settings.proxy_public_url or services.proxies.address(environ)

    def _admit_runs(self, plan: Plan) -> None:
        try:
            self._hooks.admit_runs(len(plan.turns))
        except ProxyError:
            self._services.planner.rollback(plan)
            raise

    def _describe(self, summary: RequestSummary, plan: Plan, parsed: ParsedRequest) -> None:
        """Record the conversation and the runs of the request."""
        continued, services = plan.continued, self._services
        summary.conversation = continued.conversation if continued else parsed.conversation
        summary.user = user_of(parsed, header)
        summary.conversation_hash = services.hashed("conversation", summary.conversation)
        summary.user_hash = services.hashed("user", summary.user)
        if not plan.canned_events:
            summary.chat_ids = tuple(turn.chat_id for turn in plan.turns)
        if services.settings.proxy_log_prompts:
            summary.prompt = parsed.user_text
