"""Checks bodies and streams against OpenAI's own schemas, and what clients and their decoders rely on."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from tests.support import decoders

Golden = Callable[[str, bytes], None]
"""Compares what is given with a golden file of that name, or writes it (the fixture `golden`)."""

GOLDEN = Path(__file__).resolve().parents[1] / "wire/openai"
VALIDATOR = Path(__file__).resolve().parents[1] / "openai_schemas/validate.py"


def valid(kind: str, payload: bytes | Mapping[str, Any], *, strict: bool = True) -> None:
    """Fails with the list of faults unless the payload is what OpenAI's API sends as `kind`.

    What an SDK has read and written again is not `strict`: it is no longer what clients get.
    """
    raw = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    schema_faults, client_faults, _ = _validator().validate(kind, raw)
    faults = [*schema_faults, *(client_faults + decoders.faults(kind, raw) if strict else [])]
    assert not faults, f"not a valid {kind}: {faults}\n{raw.decode(errors='replace')[:3000]}"


def valid_chunks(kind: str, chunks: Iterable[Mapping[str, Any]]) -> None:
    """The same for a whole stream that an SDK has taken apart."""
    frames = [f"data: {json.dumps(chunk)}\n\n" for chunk in chunks]
    valid(kind, "".join([*frames, "data: [DONE]\n\n"]).encode())


def golden_files(*, update: bool) -> Golden:
    """The golden files, which `update` writes anew."""

    def compare(name: str, given: bytes) -> None:
        path = GOLDEN / name
        if update:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(given)
        assert given == path.read_bytes(), f"{name}: if the change is meant, run pytest --update-wire"

    return compare


@cache
def _validator() -> Any:
    spec = importlib.util.spec_from_file_location("openai_schemas_validate", VALIDATOR)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
