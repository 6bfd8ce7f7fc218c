"""Enables tracing according to OpenTelemetry's standard environment variables."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Protocol

from flowise_gateway.flow.request_summary import RequestSpan, RequestSummary

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")


class Tracing(Protocol):
    """Begins a span for each request; `counts` has the spans that were exported, and those that were not."""

    @property
    def counts(self) -> Mapping[str, int]:
        """The counts."""

    def request(self, summary: RequestSummary, traceparent: str) -> RequestSpan:
        """Start the span of a request, in the trace of its caller if there is one."""

    def shutdown(self) -> None:
        """Send the remaining spans, within a short timeout."""


def is_wanted(environ: Mapping[str, str]) -> bool:
    """Whether the variables enable traces."""
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    exporter = environ.get("OTEL_TRACES_EXPORTER", "").strip().lower()
    return exporter == "otlp" or (not exporter and any(environ.get(name) for name in _ENDPOINTS))


def tracing_problem(environ: Mapping[str, str] = os.environ) -> str:
    """The reason why enabled traces cannot be sent; empty if they can."""
    if not is_wanted(environ):
        return ""
    if find_spec("opentelemetry") is None:
        return "OTEL_*: traces need the extra otel: pip install 'flowise-gateway[otel]'"
    protocol = environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or environ.get("OTEL_EXPORTER_OTLP_PROTOCOL")
    if protocol and protocol != "http/protobuf":
        return f"OTEL_EXPORTER_OTLP_PROTOCOL: only http/protobuf is supported, not {protocol[:40]}"
    return ""


def open_tracing(environ: Mapping[str, str] = os.environ) -> Tracing | None:
    """The tracer of this process; None if tracing is off, in which case nothing is imported."""
    if not is_wanted(environ) or tracing_problem(environ):
        return None
    from flowise_gateway.telemetry.otel import OtelTracing  # noqa: PLC0415

    return OtelTracing()


def end_span(summary: RequestSummary) -> None:
    """End a request's span; an observer of finished requests."""
    if summary.span is not None:
        summary.span.ended(summary)
