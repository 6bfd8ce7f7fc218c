"""A model, that is a flow as clients see it, and the syntax of its names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

FLOW_ID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
"""A flow's id in Flowise: a UUID. Nothing else is ever sent in a path after `/prediction/`."""

MODEL_ID = re.compile(r"[A-Za-z0-9._:/@-]{1,128}")
"""The syntax of a model name."""

DEFAULT_FLOWISE = "default"
"""The name of the Flowise at FLOWISE_BASE_URL."""


@dataclass(frozen=True, slots=True)
class Model:
    """A flow as clients see it: `id` is what they send as model, `created` seconds since 1970.

    `names` are all its names, `fallback` is the model to use if this one cannot be reached. `inputs` are the
    override inputs enabled for the flow, each with the name of the node type that has it (one of them, if
    there are several), None if Flowise does not say. `chains_models` means that it runs several models in
    sequence. `flowise` is the name of the Flowise that has the flow. The last six come from `proxy.yaml`.
    """

    id: str
    flow: str
    name: str
    created: int = 0
    description: str = ""
    type: str = ""
    names: frozenset[str] = frozenset()
    streams: bool | None = None
    takes_images: bool | None = None
    takes_files: bool | None = None
    takes_audio: bool | None = None
    has_memory: bool | None = None
    chains_models: bool = False
    inputs: Mapping[str, str] | None = None
    flowise: str = DEFAULT_FLOWISE
    request_timeout: float | None = None
    fallback: str | None = None
    history: str = "auto"
    system: str = "auto"
    steps: str = "reasoning"
    sources: str = "auto"
    usage: str = "auto"
    tools: str = "report"
