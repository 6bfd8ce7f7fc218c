"""All clients, as their test files declare them."""

from __future__ import annotations

import importlib
from functools import cache
from pathlib import Path

from tests.clients.matrix import DEMO, Client, Results


@cache
def declared_clients() -> tuple[Client, ...]:
    """Each file's `CLIENT`, or `CLIENTS`."""
    found: list[Client] = []
    for path in sorted(Path(__file__).parent.glob("*/*_test.py")):
        module = importlib.import_module(f"tests.clients.{path.parent.name}.{path.stem}")
        found += getattr(module, "CLIENTS", None) or [module.CLIENT]
    return tuple(found)


def clients_before(upstream: str) -> tuple[Client, ...]:
    """Those that are tried before this upstream."""
    return tuple(client for client in declared_clients() if upstream == DEMO or client.meets_flowise)


def only_declared(results: Results, upstream: str) -> Results:
    """What is on record, without clients and surfaces that are no longer declared."""
    surfaces = {
        client.name: dict.fromkeys(cell.surface for cell in client.cells(upstream))
        for client in clients_before(upstream)
    }
    return {
        name: found
        | {"surfaces": {one: found["surfaces"][one] for one in surfaces[name] if one in found["surfaces"]}}
        for name, found in results.items()
        if name in surfaces
    }
