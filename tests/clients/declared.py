"""All clients, as their test files declare them."""

from __future__ import annotations

import importlib
from functools import cache

from tests.clients.matrix import RESULTS, Client


@cache
def declared_clients() -> tuple[Client, ...]:
    """Each file's `CLIENT`, or `CLIENTS`."""
    found: list[Client] = []
    for path in sorted(RESULTS.parent.glob("*/*_test.py")):
        module = importlib.import_module(f"tests.clients.{path.parent.name}.{path.stem}")
        found += getattr(module, "CLIENTS", None) or [module.CLIENT]
    return tuple(found)
