"""Our encoder of spans gives what the SDK's own gives."""

from __future__ import annotations

from typing import Any

from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from flowise_gateway.telemetry.otlp_exporter import SLICE_SPANS, encoded

TRACE = 0x0AF7651916CD43DD8448EB211C80319C
RESOURCE = Resource({"service.name": "s", "process.pid": 7})
SCOPE = InstrumentationScope("flowise_gateway", "1.0")
ATTRIBUTES: dict[str, Any] = {
    "text": "Grüße 🙂",
    "empty": "",
    "number": 2**40,
    "negative": -1,
    "share": 0.25,
    "yes": True,
    "no": False,
    "list": ("stop", "length"),
    "numbers": [1, 2],
}


def span(number: int, **fields: Any) -> ReadableSpan:
    """A span."""
    context = SpanContext(TRACE, number, False, TraceFlags(1))
    made = {"start_time": 10, "end_time": 20 + number, "resource": RESOURCE, "instrumentation_scope": SCOPE}
    return ReadableSpan(f"span {number}", context, **{**made, **fields})


def test_spans_are_encoded_as_the_sdk_encodes_them() -> None:
    remote = SpanContext(TRACE, 99, True, TraceFlags(1))
    spans = [
        span(1, kind=SpanKind.SERVER, parent=remote, attributes=ATTRIBUTES),
        span(2, kind=SpanKind.CLIENT, parent=span(1).get_span_context(), status=Status(StatusCode.ERROR)),
        span(3, events=[Event("first_token", None, 12), Event("step", {"flowise.step": "Agent"}, 13)]),
        span(4, attributes={}),
    ]
    ours = ExportTraceServiceRequest.FromString(encoded(spans))
    theirs = encode_spans(spans)
    # An empty status says as much as none.
    for found in (ours, theirs):
        for one in found.resource_spans[0].scope_spans[0].spans:
            if not one.status.code:
                one.ClearField("status")
    assert ours == theirs


def test_many_spans_are_one_message_for_whoever_reads_it() -> None:
    count = 3 * SLICE_SPANS + 1
    found = ExportTraceServiceRequest.FromString(encoded([span(n) for n in range(1, count + 1)]))
    ids = [one.span_id for part in found.resource_spans for one in part.scope_spans[0].spans]
    assert ids == [n.to_bytes(8, "big") for n in range(1, count + 1)]
    assert len({part.resource.SerializeToString() for part in found.resource_spans}) == 1


def test_what_the_sdk_would_refuse_is_not_made_up() -> None:
    [one] = ExportTraceServiceRequest.FromString(encoded([span(5)])).resource_spans[0].scope_spans[0].spans
    assert (one.trace_id.hex(), one.span_id.hex(), one.parent_span_id) == (f"{TRACE:032x}", f"{5:016x}", b"")
