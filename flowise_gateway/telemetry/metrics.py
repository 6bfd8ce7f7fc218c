"""Prometheus metrics, and the text of `/metrics`.

Counting is a dict lookup and an addition; everything else happens during a scrape. No label contains client
input: routes are templates, models are existing flows, outcomes are the gateway's error codes.
"""

from __future__ import annotations

import re
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import NamedTuple

from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from flowise_gateway.flow.events import SUBSTANCE, FlowEvent
from flowise_gateway.flow.lru import LRU
from flowise_gateway.flow.model import FLOW_ID, Model
from flowise_gateway.flow.request_summary import RequestSummary
from flowise_gateway.flow.spans import AttemptSpan
from flowise_gateway.telemetry.shared_counts import Board, Key, Rows, add_up

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
ROUTE = "/metrics"
UNCOUNTED = ("/", "/page/{name}", "/health", "/ready", ROUTE)
"""Uncounted routes: the page's files, and routes that are polled."""

MAX_MODELS = 200
MAX_ROWS = 4000
"""The maximum number of models and of rows of a worker; beyond either, models are `other`."""

OTHER = "other"
SHOW_SECONDS = 1.0
"""The maximum age of other workers' counts."""

_PREFIX = "flowise_proxy_"
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_LAG_SECONDS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 5)
_METHODS = {"GET", "POST", "DELETE", "OPTIONS", "HEAD"}
_ROUTE_PREFIX = re.compile(
    r"/(?:v1|openai/v1|openai/deployments/<path:deployment>|openai(?!/deployments))(?=/)"
)


class Kind(NamedTuple):
    """A metric: its help, its labels, and the buckets of a histogram.

    The value is the sum over all workers, or with `is_largest` the maximum.
    """

    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    is_largest: bool = False


KINDS: Mapping[str, Kind] = {
    "requests_total": Kind(
        "Answered requests; outcome is ok, client_gone or an error code. Not counted: " + " ".join(UNCOUNTED),
        ("model", "route", "method", "status", "outcome"),
    ),
    "request_duration_seconds": Kind(
        "Time from the request to the end of its answer.", ("route", "stream"), _SECONDS
    ),
    "responses_total": Kind(
        "Finished responses over WebSockets and in the background; kind is websocket_response or "
        "background_response.",
        ("model", "kind", "outcome"),
    ),
    "runs_total": Kind(
        "Runs of flows; result is ok, an error code, or aborted.",
        ("model", "result"),
    ),
    "run_duration_seconds": Kind(
        "Time from a call of Flowise to the end of its answer.", ("model",), _SECONDS
    ),
    "first_token_seconds": Kind(
        "Time from a call of Flowise to the first chunk of a streamed answer.", ("model",), _SECONDS
    ),
    "tokens_total": Kind(
        "Tokens in the usage of answers, including interrupted ones; reported by Flowise or estimated.",
        ("model", "direction", "source"),
    ),
    "retries_total": Kind("Retried calls to a Flowise.", ("flowise",)),
    "limit_refusals_total": Kind("Requests refused by a limit.", ("limit",)),
    "store_errors_total": Kind("Failures of the store that keeps conversations."),
    "file_links_made_total": Kind("Links to files of flows in answers; opening a link counts as a request."),
    "log_messages_total": Kind(
        "Warnings and errors, including repeated ones; source is gateway, greenlet, gunicorn or store.",
        ("source", "level"),
    ),
    "spans_total": Kind("OpenTelemetry spans; result is exported or failed.", ("result",)),
    "event_loop_lag_seconds": Kind("Scheduling delay of a worker's event loop.", (), _LAG_SECONDS),
    "requests_in_flight": Kind("Requests in flight, as counted for PROXY_MAX_IN_FLIGHT."),
    "streams_open": Kind("Open event streams to clients."),
    "runs_open": Kind("Active runs of flows."),
    "breakers_open": Kind("Workers whose circuit breaker for a Flowise is open.", ("flowise",)),
    "flowise_up": Kind(
        "Workers that can reach a server of a Flowise; server is its index.", ("flowise", "server")
    ),
    "stores_failing": Kind("Workers whose last access to the store, or last write, failed."),
    "config_errors": Kind("Workers that do not apply the current proxy.yaml, or part of it."),
    "catalogs_failing": Kind("Workers whose last refresh of a Flowise's flows failed.", ("flowise",)),
    "catalog_age_seconds": Kind(
        "Age of the list of flows that the gateway's own key gets; refreshed on demand.",
        ("flowise",),
        is_largest=True,
    ),
    "workers": Kind("Number of worker processes."),
    "build_info": Kind("Workers by the gateway's version.", ("version",)),
}
_LARGEST = frozenset(name for name, kind in KINDS.items() if kind.is_largest)
_GAUGES = {name for name, kind in KINDS.items() if not kind.buckets and not name.endswith("_total")}


class Metrics:
    """The metrics of one worker, or with a board of all workers."""

    def __init__(self, board: Board | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        """Continue the counts of the previous worker in this slot of the board."""
        self._board, self._clock = board, clock
        self._rows: Rows = board.own() if board else {}
        self._models = {key[1] for key in self._rows if _has_model(key)}
        self._renamed: LRU[str, str] = LRU(MAX_MODELS)
        self._routes: dict[str, str] = {}
        self._watched: list[tuple[Key, Callable[[], float]]] = []
        self._seen: dict[Key, float] = {}
        self._streams = self._runs = 0
        self._due = 0.0
        self.watch("workers", lambda: 1)
        self.watch("streams_open", lambda: self._streams)
        self.watch("runs_open", lambda: self._runs)

    def watch(self, name: str, read: Callable[[], float], *labels: str) -> None:
        """Read a number from another object at each scrape; totals start at 0."""
        self._watched.append(((name, *labels), read))

    def forget(self, name: str, *labels: str) -> None:
        """Stop reading a number; a gauge disappears, a total keeps its value."""
        key = (name, *labels)
        self.show()
        self._watched = [each for each in self._watched if each[0] != key]
        self._seen.pop(key, None)
        if name in _GAUGES:
            self._rows.pop(key, None)

    def admit(self, model: Model) -> None:
        """Give a model its own label if it is known to exist, since clients can invent flow ids."""
        if model.id not in self._models and (model.type or not FLOW_ID.fullmatch(model.id)):
            self._name(model.id)

    def rename(self, flow: str, model: Model) -> None:
        """Move counts of a flow id to its model, once that is known."""
        self.admit(model)
        if flow != model.id:
            self._renamed[flow] = model.id

    def _name(self, model: str) -> None:
        if len(self._models) < MAX_MODELS:
            self._models.add(model)

    def request(self, summary: RequestSummary) -> None:
        """Count a finished request, or one response of it."""
        route = self._routes.get(summary.rule) or self._route(summary.rule)
        if route in UNCOUNTED:
            return
        model = self._label(summary.model) if summary.model else ""
        if tokens := summary.tokens:
            self._row(("tokens_total", model, "input", tokens.source))[0] += tokens.input
            self._row(("tokens_total", model, "output", tokens.source))[0] += tokens.output
        if summary.kind != "request":
            self._row(("responses_total", model, summary.kind, summary.outcome))[0] += 1
            return
        method = summary.method if summary.method in _METHODS else OTHER
        status = str(summary.status or "none")
        self._row(("requests_total", model, route, method, status, summary.outcome))[0] += 1
        if summary.status != 101:  # a WebSocket connection is not a slow request
            stream = "true" if summary.stream else "false"
            self._observe(("request_duration_seconds", route, stream), summary.seconds)

    def _route(self, rule: str) -> str:
        """The template of a route, without its prefix."""
        route = re.sub(r"<(?:path:)?(\w+)>", r"{\1}", _ROUTE_PREFIX.sub("", rule)) or "none"
        if route.startswith("/") and route not in UNCOUNTED and not route.startswith("/openai"):
            route = f"/v1{route}"
        self._routes[rule] = route
        return route

    def count(self, name: str, *labels: str) -> None:
        """Increment a counter that no other object maintains."""
        self._row((name, *labels))[0] += 1

    def run(self, model: str, summary: RequestSummary, *, streams: bool) -> RunCount:
        """Start counting a run of a model's flow for a request."""
        self._runs += 1
        return RunCount(self, model, summary, streams=streams)

    def stream(self) -> Callable[[], None]:
        """Count an open stream until the returned function is called."""
        self._streams += 1

        def ended() -> None:
            self._streams -= 1

        return ended

    def beat(self, late_seconds: float) -> None:
        """Record the delay of the event loop, and publish this worker's counts once a second."""
        self._observe(("event_loop_lag_seconds",), late_seconds)
        if self._clock() >= self._due:
            self.show()

    def show(self) -> None:
        """Publish this worker's counts to the others."""
        self._due = self._clock() + SHOW_SECONDS
        for key, read in self._watched:
            value = read()
            if key[0] in _GAUGES:
                self._row(key)[0] = value
            else:
                self._row(key)[0] += value - self._seen.get(key, 0)
                self._seen[key] = value
        if self._board:
            self._board.show(self._rows)

    def text(
        self,
        may_see: Callable[[str], bool] = lambda _model: True,
        may_see_flowise: Callable[[str], bool] = lambda _flowise: True,
    ) -> bytes:
        """All metrics in Prometheus' text format.

        Models that the caller may not see are `other`; Flowises that it may not see are left out.
        """
        # Published before a scrape reads them: the successor of a killed worker continues from the published
        # counts, and no total may decrease.
        self.show()
        rows: Rows = {}
        add_up(rows, _as_seen(self._rows, may_see, may_see_flowise))
        for others, is_alive in self._board.others() if self._board else ():
            seen = _as_seen(others, may_see, may_see_flowise)
            add_up(
                rows, ((key, values) for key, values in seen if is_alive or key[0] not in _GAUGES), _LARGEST
            )
        pieces = []
        for name in KINDS:
            family = _family(name, {key[1:]: row for key, row in rows.items() if key[0] == name})
            pieces.append(generate_latest(_Collector([family])))
            time.sleep(1e-6)  # let other greenlets run; a sleep of 0 would not poll sockets
        return b"".join(pieces)

    def _label(self, model: str) -> str:
        model = self._renamed.get(model, model)
        return model if model in self._models else OTHER

    def _row(self, key: Key) -> list[float]:
        row = self._rows.get(key)
        return row if row is not None else self._new_row(key)

    def _new_row(self, key: Key) -> list[float]:
        if len(self._rows) >= MAX_ROWS and _has_model(key):
            key = (key[0], OTHER, *key[2:])
        buckets = KINDS[key[0]].buckets
        return self._rows.setdefault(key, [0] * (len(buckets) + 2 if buckets else 1))

    def _observe(self, key: Key, seconds: float) -> None:
        row = self._row(key)
        row[bisect_left(KINDS[key[0]].buckets, seconds)] += 1
        row[-1] += seconds


class RunCount:
    """Counts one run; `ended` must be called exactly once."""

    __slots__ = ("_awaits_first", "_metrics", "_model", "_started", "_summary", "begin_attempt")

    def __init__(self, metrics: Metrics, model: str, summary: RequestSummary, *, streams: bool) -> None:
        self._metrics, self._model, self._started = metrics, model, metrics._clock()
        self._summary = summary
        self.begin_attempt: Callable[[], AttemptSpan] | None = None
        self._awaits_first = streams

    def add(self, batch: Sequence[FlowEvent]) -> None:
        """Record the time of the first chunk of a streamed answer."""
        if self._awaits_first and any(isinstance(event, SUBSTANCE) for event in batch):
            self._awaits_first = False
            self._observe("first_token_seconds")
            self._summary.first_token = self._summary.first_token or self._metrics._clock()

    def ended(self, result: str) -> None:
        """Count the run with its result; a flow that answers exists, so its model gets a label."""
        metrics = self._metrics
        metrics._runs -= 1
        if result == "ok" and self._model not in metrics._renamed:
            metrics._name(self._model)
        metrics._row(("runs_total", metrics._label(self._model), result))[0] += 1
        self._observe("run_duration_seconds")

    def _observe(self, name: str) -> None:
        metrics = self._metrics
        metrics._observe((name, metrics._label(self._model)), metrics._clock() - self._started)


def _has_model(key: Key) -> bool:
    return KINDS[key[0]].labels[:1] == ("model",) and key[1] not in ("", OTHER)


def _as_seen(
    rows: Rows, may_see: Callable[[str], bool], may_see_flowise: Callable[[str], bool]
) -> Iterator[tuple[Key, list[float]]]:
    for key, values in rows.items():
        if KINDS[key[0]].labels[:1] == ("flowise",) and not may_see_flowise(key[1]):
            continue
        hidden = _has_model(key) and not may_see(key[1])
        yield (key[0], OTHER, *key[2:]) if hidden else key, values


class _Collector(list[Metric]):
    """The collector interface of prometheus_client."""

    def collect(self) -> list[Metric]:
        return self


def _family(name: str, rows: Rows) -> Metric:
    """One metric with all its rows by labels, for prometheus_client."""
    kind = KINDS[name]
    if not kind.buckets:
        family = GaugeMetricFamily if name in _GAUGES else CounterMetricFamily
        single = family(_PREFIX + name, kind.help, labels=kind.labels)
        for labels, values in rows.items():
            single.add_metric(labels, values[0])
        return single
    histogram = HistogramMetricFamily(_PREFIX + name, kind.help, labels=kind.labels)
    bounds = [*(str(float(bound)) for bound in kind.buckets), "+Inf"]
    for labels, values in rows.items():
        counts = accumulate(values[:-1])
        histogram.add_metric(labels, list(zip(bounds, counts, strict=True)), values[-1])
    return histogram
