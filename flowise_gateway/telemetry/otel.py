"""Spans by OpenTelemetry's SDK, sent by OTLP over HTTP. Imported only where tracing is on: it takes 0.3 s.

The names are those of the semantic conventions for HTTP and for generative AI (1.41): a flow is an agent that
is invoked. No span becomes anybody's current one: parents are handed on, since the runs of one request may be
in several greenlets.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import (
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    Tracer,
    set_span_in_context,
)

from flowise_gateway import __version__
from flowise_gateway.flow.events import SUBSTANCE, Batch, StepStarted, ToolUsed, TurnEnded, UsageReported
from flowise_gateway.flow.model import Model
from flowise_gateway.flow.request_summary import RequestKind, RequestSummary
from flowise_gateway.flow.spans import AttemptSpan, RunWatch
from flowise_gateway.flow.turn import Turn

BATCH_SPANS = 64
"""Spans that are packed at once, in 2 ms in which others wait; OTEL_BSP_MAX_EXPORT_BATCH_SIZE replaces it."""
END_SECONDS = 2.0
MAX_NAME = 200
_FINE = ("ok", "client_gone", "cancelled", "aborted")


class OtelTracing:
    """Begins a span for each request; `counts` has the spans that were exported, and those that were not."""

    def __init__(self) -> None:
        """Trace as the standard environment variables say; after the fork, since a thread sends the spans."""
        own_name = "service.name=" in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
        own_size = "OTEL_BSP_MAX_EXPORT_BATCH_SIZE" in os.environ
        attributes = {
            "service.version": __version__,
            "service.instance.id": f"{socket.gethostname()}:{os.getpid()}",
        }
        if not own_name:
            attributes["service.name"] = os.environ.get("OTEL_SERVICE_NAME") or "flowise-gateway"
        exporter = _CountedExporter(OTLPSpanExporter())
        self.counts = exporter.counts
        self._provider = TracerProvider(resource=Resource.create(attributes), shutdown_on_exit=False)
        self._provider.add_span_processor(
            BatchSpanProcessor(exporter, max_export_batch_size=None if own_size else BATCH_SPANS)
        )
        self._tracer = self._provider.get_tracer("flowise_gateway", __version__)

    def request(self, summary: RequestSummary, traceparent: str) -> TracedRequest:
        """Begin the span of a request, in the trace of its caller if it has one."""
        attributes = {
            "http.request.method": summary.method,
            "http.route": summary.rule,
            "client.address": summary.client,
            "flowise.request_id": summary.request_id,
        }
        span = self._tracer.start_span(
            f"{summary.method} {summary.rule}".strip(),
            _remote(traceparent) if traceparent else None,
            SpanKind.SERVER,
            attributes,
        )
        return TracedRequest(self._tracer, span)

    def shutdown(self) -> None:
        """Send what is left, within END_SECONDS: a silent collector must not hold up the worker's end."""
        ending = threading.Thread(target=self._provider.shutdown, daemon=True)
        ending.start()
        ending.join(END_SECONDS)


class TracedRequest:
    """The span of a request or of one of its responses."""

    def __init__(self, tracer: Tracer, span: Span) -> None:
        self._tracer, self._span = tracer, span
        self.trace_id = f"{span.get_span_context().trace_id:032x}"

    def run(self, watch: RunWatch, model: Model, turn: Turn) -> RunWatch:
        """Begin the span of a run."""
        return TracedRun(self._tracer, self._span, watch, model, turn)

    def response(self, kind: RequestKind) -> TracedRequest:
        """Begin the span of a response over a WebSocket, or of a background response."""
        return TracedRequest(self._tracer, self._tracer.start_span(kind, _below(self._span)))

    def ended(self, summary: RequestSummary) -> None:
        """End it."""
        attributes: dict[str, Any] = {"flowise.outcome": summary.outcome, "flowise.caller": summary.caller}
        if summary.status:
            attributes["http.response.status_code"] = summary.status
        if summary.model:
            attributes["flowise.model"] = summary.model
        if summary.user_hash:
            attributes["enduser.pseudo.id"] = summary.user_hash
        if summary.response_id:
            attributes["gen_ai.response.id"] = summary.response_id
        if summary.fallback:
            attributes["flowise.fallback"] = summary.fallback
        if tokens := summary.tokens:
            # Not under gen_ai.usage: the run has it where Flowise reports it, and no sum may have it twice.
            attributes["flowise.tokens.input"] = tokens.input
            attributes["flowise.tokens.output"] = tokens.output
            attributes["flowise.tokens.source"] = tokens.source
        _end(self._span, attributes, summary.outcome)


class TracedRun:
    """The span of one run of a flow, beside what counts the run."""

    def __init__(self, tracer: Tracer, parent: Span, watch: RunWatch, model: Model, turn: Turn) -> None:
        self._tracer, self._watch = tracer, watch
        self._awaits_first = turn.stream
        self._attempts, self._started = 0, time.monotonic()
        self._more: dict[str, Any] = {}
        self._span = tracer.start_span(
            f"invoke_agent {model.id[:MAX_NAME]}",
            _below(parent),
            SpanKind.CLIENT,
            {
                "gen_ai.operation.name": "invoke_agent",
                "gen_ai.provider.name": "flowise",
                "gen_ai.agent.id": model.flow,
                "gen_ai.agent.name": model.id[:MAX_NAME],
                "gen_ai.request.model": model.id[:MAX_NAME],
                "gen_ai.request.stream": turn.stream,
                "gen_ai.conversation.id": turn.chat_id,
            },
        )
        self.begin_attempt: Callable[[], AttemptSpan] | None = self._begin_attempt

    def _begin_attempt(self) -> AttemptSpan:
        self._attempts += 1
        return TracedAttempt(self._tracer, self._span, self._attempts)

    def add(self, batch: Batch) -> None:
        """Note the first piece, the steps, the tokens and the end."""
        self._watch.add(batch)
        for event in batch:
            if self._awaits_first and isinstance(event, SUBSTANCE):
                self._awaits_first = False
                self._span.add_event("first_token")
                self._more["gen_ai.response.time_to_first_chunk"] = time.monotonic() - self._started
            elif isinstance(event, StepStarted):
                self._span.add_event("step", {"flowise.step": event.label[:MAX_NAME]})
            elif isinstance(event, ToolUsed):
                self._span.add_event("tool", {"gen_ai.tool.name": event.tool[:MAX_NAME]})
            elif isinstance(event, UsageReported):
                self._more["gen_ai.usage.input_tokens"] = event.input_tokens
                self._more["gen_ai.usage.output_tokens"] = event.output_tokens
                self._more["gen_ai.usage.reasoning.output_tokens"] = event.reasoning_tokens
                self._more["gen_ai.usage.cache_read.input_tokens"] = event.cached_tokens
            elif isinstance(event, TurnEnded):
                self._more["gen_ai.response.finish_reasons"] = (event.reason,)

    def ended(self, result: str) -> None:
        """End it."""
        self._watch.ended(result)
        _end(self._span, self._more, result)


class TracedAttempt:
    """The span of one call of Flowise, up to the head of its answer."""

    def __init__(self, tracer: Tracer, parent: Span, number: int) -> None:
        attributes: dict[str, Any] = {"http.request.method": "POST", "url.template": "/prediction/{flow}"}
        if number > 1:
            attributes["http.request.resend_count"] = number - 1
        self._span = tracer.start_span("POST /prediction/{flow}", _below(parent), SpanKind.CLIENT, attributes)
        context = self._span.get_span_context()
        trace = f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}"
        self.headers: Mapping[str, str] = {"traceparent": trace}

    def ended(self, status: int, error: str) -> None:
        """End it."""
        _end(self._span, {"http.response.status_code": status} if status else {}, error or "ok")


def _end(span: Span, attributes: Mapping[str, Any], outcome: str) -> None:
    if outcome not in _FINE:
        attributes = {**attributes, "error.type": outcome}
        span.set_status(Status(StatusCode.ERROR))
    span.set_attributes(attributes)
    span.end()


def _below(parent: Span) -> Any:
    return set_span_in_context(parent, Context())


def _remote(traceparent: str) -> Any:
    """The caller's span, which a checked header names."""
    _, trace, span, flags = traceparent.split("-")
    return _below(
        NonRecordingSpan(SpanContext(int(trace, 16), int(span, 16), True, TraceFlags(int(flags, 16) & 1)))
    )


class _CountedExporter(SpanExporter):
    """An exporter that counts what became of the spans."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self.counts = {"exported": 0, "failed": 0}

    def shutdown(self) -> None:
        """End the exporter."""
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Send what the exporter holds."""
        return self._exporter.force_flush(timeout_millis)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send spans."""
        result = self._exporter.export(spans)
        self.counts["exported" if result.name == "SUCCESS" else "failed"] += len(spans)
        return result
