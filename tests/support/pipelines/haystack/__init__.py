"""A stand-in for Haystack of which the host uses little: what `make check` runs instead of it.

`make clients` runs the same tests on the real one, which keeps this honest.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import yaml

from haystack import tracing  # type: ignore[attr-defined, unused-ignore] # this very package
from haystack.dataclasses import ChatMessage, Document


class PipelineRuntimeError(Exception):
    """A component has failed."""

    def __init__(self, name: str, error: Exception) -> None:
        """Keep the component's name."""
        super().__init__(f"The following component failed to run: {name}")
        self.component_name = name


class _Component:
    """The decorator `@component`, and `@component.output_types`."""

    def __call__(self, kind: type) -> type:
        return kind

    @staticmethod
    def output_types(**types: Any) -> Callable[[Any], Any]:
        def mark(run: Any) -> Any:
            run.output_types = types
            return run

        return mark


component = _Component()


class Pipeline:
    """Runs components one after the other, in the order in which they were added."""

    def __init__(self) -> None:
        """Begin without components."""
        self._parts: dict[str, Any] = {}
        self._wires: list[tuple[str, str, str, str]] = []

    @classmethod
    def loads(cls, text: str, allowed_modules: Any = None) -> Pipeline:
        """Make the components that the YAML names."""
        told, made = yaml.safe_load(text), cls()
        for name, part in told["components"].items():
            module, _, kind = part["type"].rpartition(".")
            assert module.partition(".")[0] in allowed_modules
            scope = __import__(module, fromlist=[kind])
            made.add_component(name, getattr(scope, kind)(**part["init_parameters"]))
        for wire in told["connections"]:
            made.connect(wire["sender"], wire["receiver"])
        return made

    @property
    def graph(self) -> Any:
        """Nodes and edges, as a graph of networkx has them."""
        nodes = {name: {"instance": part} for name, part in self._parts.items()}
        return SimpleNamespace(nodes=nodes, edges=[(one, two, "") for one, _, two, _ in self._wires])

    def add_component(self, name: str, part: Any) -> None:
        """Add a component."""
        self._parts[name] = part

    def connect(self, sender: str, receiver: str) -> None:
        """Connect two sockets, `component.socket` each."""
        one, _, out = sender.partition(".")
        two, _, into = receiver.partition(".")
        self._wires.append((one, out, two, into))

    def inputs(self, include_components_with_connected_inputs: bool = False) -> dict[str, Any]:
        """The open inputs, or all."""
        taken = {(two, into) for _, _, two, into in self._wires}
        found: dict[str, Any] = {}
        for name, part in self._parts.items():
            hints = typing.get_type_hints(part.run)
            for socket, parameter in inspect.signature(part.run).parameters.items():
                if include_components_with_connected_inputs or (name, socket) not in taken:
                    needed = parameter.default is parameter.empty
                    about = {"type": hints.get(socket, Any), "is_mandatory": needed}
                    found.setdefault(name, {})[socket] = about
        return found

    def outputs(self, include_components_with_connected_outputs: bool = False) -> dict[str, Any]:
        """The open outputs, or all."""
        taken = {(one, out) for one, out, _, _ in self._wires}
        found: dict[str, Any] = {}
        for name, part in self._parts.items():
            for socket, kind in part.run.output_types.items():
                if include_components_with_connected_outputs or (name, socket) not in taken:
                    found.setdefault(name, {})[socket] = {"type": kind}
        return found

    def run(self, data: Mapping[str, Any], include_outputs_from: Any = ()) -> dict[str, Any]:
        """Run all components."""
        results: dict[str, Any] = {}
        given = {name: dict(inputs) for name, inputs in data.items()}
        for name, part in self._parts.items():
            tags = {"haystack.component.name": name, "haystack.component.type": type(part).__name__}
            with tracing.tracer.trace("haystack.component.run", tags=tags) as span:
                try:
                    results[name] = part.run(**given.get(name, {}))
                except Exception as error:
                    raise PipelineRuntimeError(name, error) from error
                span.set_content_tag("haystack.component.output", results[name])
            for one, out, two, into in self._wires:
                if one == name:
                    given.setdefault(two, {})[into] = results[name][out]
        return results


class AsyncPipeline(Pipeline):
    """The same in an event loop."""

    async def run_async(self, data: Mapping[str, Any], include_outputs_from: Any = ()) -> dict[str, Any]:
        """Run all components."""
        return super().run(data, include_outputs_from)


__all__ = ["AsyncPipeline", "ChatMessage", "Document", "Pipeline", "component", "tracing"]
