"""OpenTelemetry spans, sent by the SDK; only imported if tracing is on, since the import takes 0.3 s.

Names follow the semantic conventions for HTTP and generative AI (1.41): a flow is an invoked agent. Spans are
created when they end, as the SDK's `ReadableSpan`: recording them step by step costs thirty times more, and
all their data is known at the end.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import DEFAULT_ON, Decision
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)

from flowise_gateway import __version__
from flowise_gateway.flow.events import SUBSTANCE, Batch, StepStarted, ToolUsed, TurnEnded, UsageReported
from flowise_gateway.flow.model import Model
from flowise_gateway.flow.request_summary import RequestKind, RequestSummary
from flowise_gateway.flow.spans import AttemptSpan, RunWatch
from flowise_gateway.flow.turn import Turn
from flowise_gateway.telemetry.otlp_exporter import LeanExporter

END_SECONDS = 2.0
MAX_NAME = 200
MAX_EVENTS = 128
_FINE = ("ok", "client_gone", "cancelled", "aborted")
_SCOPE = InstrumentationScope("flowise_gateway", __version__)
_SAMPLED, _NOT_SAMPLED = TraceFlags(TraceFlags.SAMPLED), TraceFlags(TraceFlags.DEFAULT)
_OK, _ERROR = Status(), Status(StatusCode.ERROR)


class OtelTracing:
    """Starts a span for each request; `counts` has the numbers of exported and failed spans."""

    def __init__(self) -> None:
        """Read the standard environment variables; after the fork, since a thread sends the spans."""
        own_name = "service.name=" in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
        attributes = {
            "service.version": __version__,
            "service.instance.id": f"{socket.gethostname()}:{os.getpid()}",
        }
        if not own_name:
            attributes["service.name"] = os.environ.get("OTEL_SERVICE_NAME") or "flowise-gateway"
        exporter = LeanExporter()
        self.counts = exporter.counts
        self._provider = TracerProvider(resource=Resource.create(attributes), shutdown_on_exit=False)
        self._processor = BatchSpanProcessor(exporter)
        self._provider.add_span_processor(self._processor)

    def request(self, summary: RequestSummary, traceparent: str) -> TracedRequest:
        """Start the span of a request, in the trace of its caller if there is one."""
        provider, parent = self._provider, _remote(traceparent) if traceparent else None
        trace_id = parent.trace_id if parent else provider.id_generator.generate_trace_id()
        name = f"{summary.method} {summary.rule}".rstrip()
        flags = _SAMPLED if self._is_sampled(trace_id, name, parent) else _NOT_SAMPLED
        root = SpanContext(trace_id, provider.id_generator.generate_span_id(), False, flags)
        return TracedRequest(_Span(self, name, SpanKind.SERVER, root, parent))

    def _is_sampled(self, trace_id: int, name: str, parent: SpanContext | None) -> bool:
        sampler = self._provider.sampler
        if sampler is DEFAULT_ON:  # follow the caller; calling the sampler would cost a third of a span
            return parent is None or parent.trace_flags.sampled
        context = set_span_in_context(NonRecordingSpan(parent), Context()) if parent else Context()
        decision = sampler.should_sample(context, trace_id, name, SpanKind.SERVER).decision
        return decision is Decision.RECORD_AND_SAMPLE

    def child(self, parent: SpanContext) -> SpanContext:
        """The ids of a child span."""
        span_id = self._provider.id_generator.generate_span_id()
        return SpanContext(parent.trace_id, span_id, False, parent.trace_flags)

    def emit(self, name: str, context: SpanContext, **fields: Any) -> None:
        """Queue a finished span for sending."""
        resource = self._provider.resource
        self._processor.on_end(
            ReadableSpan(name, context, resource=resource, instrumentation_scope=_SCOPE, **fields)
        )

    def shutdown(self) -> None:
        """Send the remaining spans within END_SECONDS, so that a silent collector does not delay exit."""
        ending = threading.Thread(target=self._provider.shutdown, daemon=True)
        ending.start()
        ending.join(END_SECONDS)


class _Span:
    """An active span; one that is not sampled is discarded."""

    __slots__ = ("_events", "_kind", "_name", "_parent", "_started", "_tracing", "context")

    def __init__(
        self,
        tracing: OtelTracing,
        name: str,
        kind: SpanKind,
        context: SpanContext,
        parent: SpanContext | None,
    ) -> None:
        self._tracing, self._name, self._kind = tracing, name, kind
        self.context, self._parent = context, parent
        self._started = time.time_ns()
        self._events: list[Event] = []

    def child(self, name: str, kind: SpanKind) -> _Span:
        """Start a child span."""
        return _Span(self._tracing, name, kind, self._tracing.child(self.context), self.context)

    def event(self, name: str, attributes: Mapping[str, Any] | None = None) -> None:
        """Record an event."""
        if self.context.trace_flags.sampled and len(self._events) < MAX_EVENTS:
            self._events.append(Event(name, attributes, time.time_ns()))

    def end(self, attributes: dict[str, Any], outcome: str) -> None:
        """End it, as an error if the outcome is one."""
        if not self.context.trace_flags.sampled:
            return
        is_fine = outcome in _FINE
        if not is_fine:
            attributes["error.type"] = outcome
        self._tracing.emit(
            self._name,
            self.context,
            parent=self._parent,
            attributes=attributes,
            events=self._events,
            kind=self._kind,
            status=_OK if is_fine else _ERROR,
            start_time=self._started,
            end_time=time.time_ns(),
        )


class TracedRequest:
    """The span of a request or of one of its responses."""

    def __init__(self, span: _Span) -> None:
        self._span = span
        self.trace_id = f"{span.context.trace_id:032x}"

    def run(self, watch: RunWatch, model: Model, turn: Turn) -> RunWatch:
        """Start the span of a run."""
        return TracedRun(self._span, watch, model, turn)

    def response(self, kind: RequestKind) -> TracedRequest:
        """Start the span of a response over a WebSocket, or of a background response."""
        return TracedRequest(self._span.child(kind, SpanKind.INTERNAL))

    def ended(self, summary: RequestSummary) -> None:
        """End it."""
        attributes: dict[str, Any] = {
            "http.route": summary.rule,
            "client.address": summary.client,
            "flowise.request_id": summary.request_id,
            "flowise.outcome": summary.outcome,
            "flowise.caller": summary.caller,
        }
        if summary.kind == "request":
            attributes["http.request.method"] = summary.method
        if summary.status:
            attributes["http.response.status_code"] = summary.status
        if summary.model:
            attributes["flowise.model"] = summary.model[:MAX_NAME]
        if summary.user_hash:
            attributes["enduser.pseudo.id"] = summary.user_hash
        if summary.response_id:
            attributes["gen_ai.response.id"] = summary.response_id
        if summary.fallback:
            attributes["flowise.fallback"] = summary.fallback
        if tokens := summary.tokens:
            # Not as gen_ai.usage, which the run has if Flowise reports it, so that sums count it once.
            attributes["flowise.tokens.input"] = tokens.input
            attributes["flowise.tokens.output"] = tokens.output
            attributes["flowise.tokens.source"] = tokens.source
        self._span.end(attributes, summary.outcome)


class TracedRun:
    """The span of one run of a flow, in addition to its metrics."""

    def __init__(self, parent: _Span, watch: RunWatch, model: Model, turn: Turn) -> None:
        self._watch = watch
        self._awaits_first = turn.stream
        self._attempts, self._started = 0, time.monotonic()
        name = model.id[:MAX_NAME]
        self._span = parent.child(f"invoke_agent {name}", SpanKind.CLIENT)
        self._attributes: dict[str, Any] = {
            "gen_ai.operation.name": "invoke_agent",
            "gen_ai.provider.name": "flowise",
            "gen_ai.agent.id": model.flow,
            "gen_ai.agent.name": name,
            "gen_ai.request.model": name,
            "gen_ai.conversation.id": turn.chat_id,
        }
        if turn.stream:
            self._attributes["gen_ai.request.stream"] = True
        self.begin_attempt: Callable[[], AttemptSpan] | None = self._begin_attempt

    def _begin_attempt(self) -> TracedAttempt:
        self._attempts += 1
        return TracedAttempt(self._span, self._attempts)

    def add(self, batch: Batch) -> None:
        """Record first token, steps, usage and end."""
        self._watch.add(batch)
        more = self._attributes
        for event in batch:
            if self._awaits_first and isinstance(event, SUBSTANCE):
                self._awaits_first = False
                self._span.event("first_token")
                more["gen_ai.response.time_to_first_chunk"] = time.monotonic() - self._started
            elif isinstance(event, StepStarted):
                self._span.event("step", {"flowise.step": event.label[:MAX_NAME]})
            elif isinstance(event, ToolUsed):
                self._span.event("tool", {"gen_ai.tool.name": event.tool[:MAX_NAME]})
            elif isinstance(event, UsageReported):
                more["gen_ai.usage.input_tokens"] = event.input_tokens
                more["gen_ai.usage.output_tokens"] = event.output_tokens
                if event.reasoning_tokens:
                    more["gen_ai.usage.reasoning.output_tokens"] = event.reasoning_tokens
                if event.cached_tokens:
                    more["gen_ai.usage.cache_read.input_tokens"] = event.cached_tokens
            elif isinstance(event, TurnEnded):
                more["gen_ai.response.finish_reasons"] = (event.reason,)

    def ended(self, result: str) -> None:
        """End it."""
        self._watch.ended(result)
        self._span.end(self._attributes, result)


class TracedAttempt:
    """The span of one call to Flowise, until the response headers."""

    def __init__(self, parent: _Span, number: int) -> None:
        self._attributes: dict[str, Any] = {
            "http.request.method": "POST",
            "url.template": "/prediction/{flow}",
        }
        if number > 1:
            self._attributes["http.request.resend_count"] = number - 1
        self._span = parent.child("POST /prediction/{flow}", SpanKind.CLIENT)
        context = self._span.context
        trace = f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}"
        self.headers: Mapping[str, str] = {"traceparent": trace}

    def ended(self, status: int, error: str) -> None:
        """End it."""
        if status:
            self._attributes["http.response.status_code"] = status
        self._span.end(self._attributes, error or "ok")


def _remote(traceparent: str) -> SpanContext:
    """The caller's span from a validated header."""
    _, trace, span, flags = traceparent.split("-")
    return SpanContext(int(trace, 16), int(span, 16), True, _SAMPLED if int(flags, 16) & 1 else _NOT_SAMPLED)
