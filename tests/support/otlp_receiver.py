"""A collector for traces: takes OTLP over HTTP, as any OpenTelemetry collector does."""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

from tests.support.processes import wait_for
from tests.support.thread_server import ThreadServer


@dataclass(frozen=True)
class ReceivedSpan:
    """One span as it came."""

    name: str
    kind: str
    trace_id: str
    span_id: str
    parent_id: str
    attributes: Mapping[str, Any]
    events: tuple[tuple[str, Mapping[str, Any]], ...]
    is_error: bool
    start: int
    end: int
    resource: Mapping[str, Any]


class OtlpReceiver(ThreadServer["_Server"]):
    """Context manager; `spans` are those received so far, `status` what exports are answered with."""

    def __init__(self) -> None:
        super().__init__(_Server(("127.0.0.1", 0), _Handler))

    @property
    def environment(self) -> dict[str, str]:
        """What has a program send its spans here, soon."""
        address = f"http://127.0.0.1:{self.port}"
        return {"OTEL_EXPORTER_OTLP_ENDPOINT": address, "OTEL_BSP_SCHEDULE_DELAY": "200"}

    @property
    def spans(self) -> list[ReceivedSpan]:
        """All spans so far, by their start."""
        return sorted(self._server.spans, key=lambda span: span.start)

    @property
    def status(self) -> int:
        """What exports are answered with."""
        return self._server.status

    @status.setter
    def status(self, status: int) -> None:
        self._server.status = status

    def trace(self, root: str, **attributes: Any) -> list[ReceivedSpan]:
        """The spans below and with the one of this name and these attributes, once that has come."""

        def found() -> list[ReceivedSpan]:
            return [
                span
                for span in self.spans
                if span.name == root and all(span.attributes.get(n) == v for n, v in attributes.items())
            ]

        assert wait_for(lambda: bool(found()), 15), [span.name for span in self.spans]
        [top] = found()
        known, tree = {top.span_id}, [top]
        for span in self.spans:
            if span.parent_id in known:
                known.add(span.span_id)
                tree.append(span)
        return tree


class _Server(ThreadingHTTPServer):
    status = 200

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.spans: list[ReceivedSpan] = []


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        assert (self.path, self.headers["Content-Type"]) == ("/v1/traces", "application/x-protobuf")
        if self.server.status == 200:
            self.server.spans += _received(ExportTraceServiceRequest.FromString(body))
        answer = ExportTraceServiceResponse().SerializeToString()
        self.send_response(self.server.status)
        self.send_header("Content-Type", "application/x-protobuf")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Say nothing."""


def _received(message: Any) -> list[ReceivedSpan]:
    return [
        ReceivedSpan(
            span.name,
            span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_").lower(),
            span.trace_id.hex(),
            span.span_id.hex(),
            span.parent_span_id.hex(),
            _values(span.attributes),
            tuple((event.name, _values(event.attributes)) for event in span.events),
            span.status.code == 2,
            span.start_time_unix_nano,
            span.end_time_unix_nano,
            _values(resource.resource.attributes),
        )
        for resource in message.resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]


def _values(attributes: Any) -> dict[str, Any]:
    return {one.key: _value(one.value) for one in attributes}


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(one) for one in value.array_value.values]
    return getattr(value, kind)


def as_text(spans: list[ReceivedSpan]) -> str:
    """A trace as a tree of lines."""
    first, depths, lines = spans[0].start, {spans[0].parent_id: -1}, []
    for span in spans:
        depths[span.span_id] = depth = depths[span.parent_id] + 1
        took = f"{(span.start - first) / 1e6:.1f} to {(span.end - first) / 1e6:.1f} ms"
        lines.append(f"{'  ' * depth}{span.name} [{span.kind}] {took}{' ERROR' if span.is_error else ''}")
        lines += [f"{'  ' * depth}    {name} = {value}" for name, value in span.attributes.items()]
        lines += [
            f"{'  ' * depth}    event {name} {dict(values) or ''}".rstrip() for name, values in span.events
        ]
    return "\n".join(lines)
