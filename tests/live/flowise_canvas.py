"""Draws flows as Flowise's editor would store them, from the node definitions of a running Flowise."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any

Json = dict[str, Any]
# (source id, target id, name of the target's input)
ChatLink = tuple[str, str, str]
# (source id, target id, which output of the source)
AgentLink = tuple[str, str, int]

# An input of one of these types is filled in by hand; any other type is an anchor for a connection.
PARAMETER_TYPES = frozenset(
    {
        "asyncOptions",
        "asyncMultiOptions",
        "options",
        "multiOptions",
        "array",
        "datagrid",
        "string",
        "number",
        "boolean",
        "password",
        "json",
        "code",
        "date",
        "file",
        "folder",
        "tabs",
        "conditionFunction",
        "timePicker",
        "weekDaysPicker",
        "monthDaysPicker",
        "datePicker",
        "jsonEditor",
    }
)
# An empty text in these breaks the run.
LIST_INPUTS = frozenset({"llmMessages", "agentMessages"})
FRAME: Json = {"position": {"x": 0, "y": 0}, "width": 300, "height": 100}


class NodeMaker:
    """Makes nodes whose inputs have the defaults of their definition."""

    def __init__(self, definition: Callable[[str], Json]) -> None:
        self._definition = definition
        self._known: dict[str, Json] = {}

    def make(
        self, node_id: str, *, output: str | None = None, credential: str | None = None, **inputs: Any
    ) -> Json:
        """The node `<component>_<number>`; `inputs` name what differs from the defaults."""
        name = node_id.rsplit("_", 1)[0]
        component = self._component(name)
        fields: list[Json] = component.get("inputs") or []
        for field in fields:
            field["id"] = f"{node_id}-input-{field['name']}-{field['type']}"
        values = {field["name"]: field.get("default", _nothing(field)) for field in fields}
        is_agent = component["category"] == "Agent Flows"
        anchors, outputs = _outputs(node_id, component, output)
        shown = ("label", "version", "type", "category", "color", "hideInput", "hideOutput")
        data = {
            **{key: component[key] for key in shown if key in component},
            "id": node_id,
            "name": name,
            "baseClasses": component.get("baseClasses") or [],
            "description": component.get("description", ""),
            "inputParams": [field for field in fields if field["type"] in PARAMETER_TYPES],
            "inputAnchors": [field for field in fields if field["type"] not in PARAMETER_TYPES],
            "inputs": values | inputs,
            "outputAnchors": anchors,
            "outputs": outputs,
        }
        if credential:
            data["credential"] = credential
        return {"id": node_id, "type": "agentFlow" if is_agent else "customNode", **FRAME, "data": data}

    def _component(self, name: str) -> Json:
        if name not in self._known:
            self._known[name] = self._definition(name)
        return copy.deepcopy(self._known[name])


def chatflow(nodes: Iterable[Json], links: Iterable[ChatLink] = ()) -> Json:
    """A flow whose links fill named inputs with other nodes."""
    by_id = {node["id"]: node for node in nodes}
    edges = [_connect(by_id[source], by_id[target], name) for source, target, name in links]
    return _canvas(by_id.values(), edges)


def agentflow(nodes: Iterable[Json], links: Iterable[AgentLink]) -> Json:
    """A flow whose links say which node runs next."""
    by_id = {node["id"]: node for node in nodes}
    edges = []
    for source, target, output in links:
        handle = by_id[source]["data"]["outputAnchors"][output]["id"]
        edges.append(_edge("agentFlow", source, handle, target, target))
    return _canvas(by_id.values(), edges)


def sequence(*nodes: Json) -> Json:
    """An agentflow that runs its nodes one after the other."""
    return agentflow(nodes, [(one["id"], next_one["id"], 0) for one, next_one in pairwise(nodes)])


def overridable(flow: Json, inputs: Iterable[str], variables: Iterable[str] = ()) -> Json:
    """The `apiConfig` that lets callers override these inputs and variables of the flow, as Flowise writes it.

    A model of an agentflow's node has its settings in an input of their own, `<name>Config`.
    """
    wanted = frozenset(inputs)
    nodes = {}
    for node in flow["nodes"]:
        fields = list(node["data"]["inputParams"])
        fields += [
            {"label": f"{field['label']} Config", "name": f"{field['name']}Config", "type": "json"}
            for field in node["data"]["inputParams"]
            if field.get("loadConfig")
        ]
        fields = [field for field in fields if field["name"] in wanted]
        if fields:
            nodes[node["data"]["label"]] = [
                {"label": field["label"], "name": field["name"], "type": field["type"], "enabled": True}
                for field in fields
            ]
    static = [{"id": name, "name": name, "type": "static", "enabled": True} for name in variables]
    return {"overrideConfig": {"status": True, "nodes": nodes, "variables": static}}


def _nothing(field: Json) -> str | list[Any]:
    return [] if field["name"] in LIST_INPUTS else ""


def _outputs(node_id: str, component: Json, chosen: str | None) -> tuple[list[Json], Json]:
    """The node's output anchors, and which of several outputs is in use."""
    outs: list[Json] = component.get("outputs") or []
    classes: list[str] = component.get("baseClasses") or []
    name, label = component["name"], component["label"]
    if component["category"] == "Agent Flows":
        if outs:
            return [{"id": f"{node_id}-output-{n}", "name": n, "label": n} for n, _ in enumerate(outs)], {}
        return [
            {"id": f"{node_id}-output-{name}", "name": name, "label": label, "type": " | ".join(classes)}
        ], {}
    if not outs:
        handle = f"{node_id}-output-{name}-{'|'.join(classes)}"
        return [{"id": handle, "name": name, "label": label, "type": " | ".join(classes)}], {}
    options = [_output_option(node_id, out) for out in outs]
    chosen = chosen or outs[0]["name"]
    anchor = {"name": "output", "label": "Output", "type": "options", "options": options, "default": chosen}
    return [anchor], {"output": chosen}


def _output_option(node_id: str, out: Json) -> Json:
    classes: list[str] = out.get("baseClasses") or []
    handle = f"{node_id}-output-{out['name']}-{'|'.join(classes)}"
    return {"id": handle, "name": out["name"], "label": out["label"], "type": " | ".join(classes)}


def _connect(source: Json, target: Json, name: str) -> Json:
    """Puts a reference to the source into the target's input, and draws the edge."""
    anchor = next(anchor for anchor in target["data"]["inputAnchors"] if anchor["name"] == name)
    reference = f"{{{{{source['id']}.data.instance}}}}"
    inputs = target["data"]["inputs"]
    inputs[name] = [*(inputs[name] or []), reference] if anchor.get("list") else reference
    return _edge("buttonedge", source["id"], _handle_in_use(source), target["id"], anchor["id"])


def _handle_in_use(node: Json) -> str:
    anchor = node["data"]["outputAnchors"][0]
    if "options" in anchor:
        anchor = next(o for o in anchor["options"] if o["name"] == node["data"]["outputs"]["output"])
    return str(anchor["id"])


def _edge(kind: str, source: str, source_handle: str, target: str, target_handle: str) -> Json:
    return {
        "id": f"{source}-{source_handle}-{target}-{target_handle}",
        "type": kind,
        "source": source,
        "sourceHandle": source_handle,
        "target": target,
        "targetHandle": target_handle,
        "data": {},
    }


def _canvas(nodes: Iterable[Json], edges: list[Json]) -> Json:
    return {"nodes": list(nodes), "edges": edges, "viewport": {"x": 0, "y": 0, "zoom": 1}}
