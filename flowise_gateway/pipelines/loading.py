"""Loads, describes and runs a Haystack pipeline."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from flowise_gateway.pipelines.prediction import PARAMETERS, SYSTEM_INPUT, pipeline_inputs, prediction
from flowise_gateway.pipelines.run_output import CURRENT, RunOutput
from flowise_gateway.pipelines.sockets import Named, Sockets, wiring


class LoadedPipeline:
    """A Haystack pipeline and its sockets."""

    def __init__(self, config: Mapping[str, Any], folder: Path) -> None:
        """Load it and find its inputs and outputs. Raises Unclear, and any error of the pipeline's code."""
        self._takes_images: bool = config["images"]
        self._folder = folder
        self._source: str = config["source"]
        self._pipeline = _load(self._source, folder)
        graph = self._pipeline.graph
        self._components = {name: graph.nodes[name]["instance"] for name in graph.nodes}
        templates = {name for name, part in self._components.items() if _has_message_template(part)}
        self.wiring = wiring(
            _described(self._pipeline.inputs, "include_components_with_connected_inputs", self._components),
            _described(self._pipeline.outputs, "include_components_with_connected_outputs", self._components),
            [(source, target) for source, target, *_ in graph.edges],
            frozenset(templates),
            Named(tuple(config["question"]), config["messages"], config["answer"]),
        )
        self._loop = _async_loop() if type(self._pipeline).__name__ == "AsyncPipeline" else None
        if hasattr(self._pipeline, "warm_up"):
            self._pipeline.warm_up()
        from flowise_gateway.pipelines.component_watch import watch_components  # noqa: PLC0415 - needs Haystack

        watch_components(frozenset(self._components))

    def profile(self) -> dict[str, Any]:
        """The description for the host, and the files whose change triggers a reload."""
        names = [SYSTEM_INPUT, *(PARAMETERS if self.wiring.parameterized else ())]
        files = {str(_path(self._source, self._folder))} if _is_yaml(self._source) else set()
        # Only modules next to proxy.yaml are watched; installed ones do not change while they run.
        for module in list(sys.modules.values()):
            file = getattr(module, "__file__", None)
            if file and Path(file).is_relative_to(self._folder) and "site-packages" not in file:
                files.add(file)
        components = {name: type(part).__name__ for name, part in self._components.items()}
        return {"inputs": names, "files": sorted(files), "components": components}

    def run(self, body: Mapping[str, Any], output: RunOutput) -> Mapping[str, Any]:
        """Run the pipeline for a prediction. Raises any error of its components."""
        asked = prediction(body, takes_images=self._takes_images)
        data = pipeline_inputs(asked, self.wiring, _HaystackMessages(), self._template_of)
        if body.get("streaming") in (True, "true"):
            for name in self.wiring.speakers:
                data.setdefault(name, {})["streaming_callback"] = _callback(output, name)
        CURRENT.set(output)
        include = {place.component for place in self.wiring.answers}
        if self._loop is None:
            return dict(self._pipeline.run(data, include_outputs_from=include))
        running = self._pipeline.run_async(data, include_outputs_from=include)
        return dict(asyncio.run_coroutine_threadsafe(running, self._loop).result())

    def _template_of(self, component: str) -> list[Any]:
        return list(self._components[component].template)


def _callback(output: RunOutput, component: str) -> Callable[[Any], None]:
    # A function, not a method: Haystack deep-copies inputs, and with a method its object.
    def take(chunk: Any) -> None:
        output.chunk(component, chunk)

    return take


def _load(source: str, folder: Path) -> Any:
    """The pipeline from a YAML file or a function."""
    sys.path.append(str(folder))
    if _is_yaml(source):
        haystack = importlib.import_module("haystack")
        # Newer versions only load classes of allowed modules, to which those next to proxy.yaml are added.
        own = [file.stem for file in folder.glob("*.py")] + [
            file.parent.name for file in folder.glob("*/__init__.py")
        ]
        text = _path(source, folder).read_text()
        can_allow = "allowed_modules" in inspect.signature(haystack.Pipeline.loads).parameters
        return haystack.Pipeline.loads(text, **({"allowed_modules": own} if can_allow else {}))
    module, _, function = source.partition(":")
    return getattr(importlib.import_module(module), function)()


def _is_yaml(source: str) -> bool:
    return source.endswith((".yaml", ".yml"))


def _path(source: str, folder: Path) -> Path:
    return folder / source


def _described(
    describe: Callable[..., Sockets], with_connected: str, components: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """All sockets of the components, each with whether another component is connected to it."""
    every, open_ones = describe(**{with_connected: True}), describe()
    return {
        component: {
            socket: {
                "is_mandatory": False,
                **about,
                "is_connected": socket not in open_ones.get(component, {}),
            }
            for socket, about in every.get(component, {}).items()
        }
        for component in components
    }


def _has_message_template(component: Any) -> bool:
    template = getattr(component, "template", None)
    return type(component).__name__ == "ChatPromptBuilder" and isinstance(template, list)


def _async_loop() -> asyncio.AbstractEventLoop:
    """An event loop in its own thread, for asynchronous pipelines."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()
    return loop


class _HaystackMessages:
    """Haystack's own messages."""

    def __init__(self) -> None:
        self._classes = importlib.import_module("haystack.dataclasses")

    def user(self, text: str, pictures: tuple[tuple[str, str], ...] = ()) -> Any:
        """A user's message."""
        if not pictures:
            return self._classes.ChatMessage.from_user(text)
        images = [self._classes.ImageContent(base64_image=data, mime_type=kind) for kind, data in pictures]
        return self._classes.ChatMessage.from_user(content_parts=[text, *images])

    def assistant(self, text: str) -> Any:
        """A model's message."""
        return self._classes.ChatMessage.from_assistant(text)

    def system(self, text: str) -> Any:
        """A system message."""
        return self._classes.ChatMessage.from_system(text)
