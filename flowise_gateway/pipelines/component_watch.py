"""Reports components to their runs, through Haystack's tracing."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from haystack import tracing

from flowise_gateway.pipelines.run_output import CURRENT


def watch_components(names: frozenset[str]) -> None:
    """Report these components to their runs; an existing tracer still receives everything."""
    tracing.enable_tracing(RunTracer(tracing.tracer.actual_tracer, names))


class WatchedSpan(tracing.Span):  # type: ignore[misc] # Haystack is typed where it is installed
    """A span of the other tracer that keeps the component's output."""

    def __init__(self, span: Any) -> None:
        """Wrap the span."""
        self.span = span
        self.output: Mapping[str, Any] = {}

    def set_tag(self, key: str, value: Any) -> None:
        """Pass on."""
        self.span.set_tag(key, value)

    def set_content_tag(self, key: str, value: Any) -> None:
        """Keep the output, and pass on."""
        if key == "haystack.component.output" and isinstance(value, Mapping):
            self.output = value
        self.span.set_content_tag(key, value)

    def raw_span(self) -> Any:
        """The other tracer's own object."""
        return self.span.raw_span()

    def get_correlation_data_for_logs(self) -> dict[str, Any]:
        """Pass on."""
        return dict(self.span.get_correlation_data_for_logs())


class RunTracer(tracing.Tracer):  # type: ignore[misc] # as above
    """Reports a component to the run in whose context it runs; nested components are not reported."""

    def __init__(self, inner: Any, names: frozenset[str]) -> None:
        """Wrap the other tracer."""
        self._inner = inner
        self._names = names

    @contextlib.contextmanager
    def trace(self, operation_name: str, tags: Any = None, parent_span: Any = None) -> Iterator[Any]:
        """Trace with the other tracer, and report to the run."""
        run, name = CURRENT.get(), (tags or {}).get("haystack.component.name")
        parent = parent_span.span if isinstance(parent_span, WatchedSpan) else parent_span
        with self._inner.trace(operation_name, tags=tags, parent_span=parent) as span:
            if run is None or operation_name != "haystack.component.run" or name not in self._names:
                yield span
                return
            step, watched = run.component_begins(name, tags["haystack.component.type"]), WatchedSpan(span)
            try:
                yield watched
            except BaseException:
                run.component_ends(step, None)
                raise
            run.component_ends(step, watched.output)

    def current_span(self) -> Any:
        """The other tracer's."""
        return self._inner.current_span()
