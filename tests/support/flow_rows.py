"""Rows of Flowise's listing, made by hand."""

from __future__ import annotations

import json
from typing import Any


def flow_id(number: int, head: str = "aaaaaaaa") -> str:
    """A flow's id."""
    return f"{head}-0000-4000-8000-{number:012d}"


def row(number: int, name: str, nodes: Any = None, **more: Any) -> dict[str, Any]:
    """A row of Flowise's listing."""
    drawing = {"nodes": [{"data": node} for node in nodes]} if isinstance(nodes, list) else nodes
    created = f"2026-01-01T00:00:{number:02d}.000Z"
    own = {
        "id": flow_id(number),
        "name": name,
        "createdDate": created,
        "updatedDate": "1",
        "type": "CHATFLOW",
    }
    return {**own, "flowData": drawing if isinstance(drawing, str) else json.dumps(drawing), **more}


def overridable(nodes: Any, *variables: Any, status: Any = True) -> str:
    """A flow's `apiConfig` that has these inputs of its nodes enabled, by the nodes' labels."""
    return json.dumps({"overrideConfig": {"status": status, "nodes": nodes, "variables": [*variables]}})


def enabled(name: str, *, is_enabled: Any = True) -> dict[str, Any]:
    """One input or variable of an `apiConfig`."""
    return {"label": name, "name": name, "type": "string", "enabled": is_enabled}
