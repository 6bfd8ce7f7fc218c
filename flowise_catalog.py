"""Which flows there are: Flowise's listing as models, names to flow ids. Upstream layer."""

from __future__ import annotations

import logging
import re
import threading
import time
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any

from flow_turn import Model
from proxy_errors import ModelNotFound, ProxyError

log = logging.getLogger(__name__)

FLOW_ID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
MODEL_ID = re.compile(r"[A-Za-z0-9._:/@-]{1,128}")
LISTING_TTL_SECONDS = 60.0
RETRY_SECONDS = 5.0


class Catalog:
    """The models of one Flowise; a listing older than a minute is fetched anew, the last good one kept."""

    def __init__(
        self, fetch: Callable[[], Iterable[Mapping[str, Any]]], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Take a function that lists Flowise's flows, or raises ProxyError."""
        self._fetch = fetch
        self._clock = clock
        self._lock = threading.Lock()
        self._fresh_until = float("-inf")
        self._models: dict[str, Model] = {}

    def models(self) -> list[Model]:
        """All listed flows; those of the last good listing while Flowise gives none."""
        self._refresh()
        return list(self._models.values())

    def resolve(self, name: str) -> Model:
        """The model of this name; a flow's UUID always is one, listed or not. Raises ModelNotFound."""
        if MODEL_ID.fullmatch(name):
            if FLOW_ID.fullmatch(name):
                return Model(name, name.lower(), name)
            self._refresh()
            if model := self._models.get(name):
                return model
        shown = name if MODEL_ID.fullmatch(name) else name[:40].encode("ascii", "replace").decode()
        raise ModelNotFound(
            f"The model `{shown}` does not exist or you do not have access to it. "
            "GET /v1/models lists what there is; a flow's id always works.",
            param="model",
        )

    def find(self, name: str) -> Model:
        """The listed model of this name or flow id. Raises ModelNotFound."""
        listed = {model.flow: model for model in self.models()}
        return listed.get(name.lower()) or self.resolve(name)

    def _refresh(self) -> None:
        if self._clock() < self._fresh_until or not self._lock.acquire(blocking=not self._models):
            return
        try:
            if self._clock() < self._fresh_until:
                return
            self._fresh_until = self._clock() + LISTING_TTL_SECONDS
            self._models = {model.id: model for model in named(self._fetch())}
        except ProxyError as error:
            self._fresh_until = self._clock() + RETRY_SECONDS
            log.warning("Flowise gave no list of flows: %s", error.message)
        finally:
            self._lock.release()


def named(rows: Iterable[Mapping[str, Any]]) -> list[Model]:
    """Flows as models: the slug of a flow's name, which the oldest flow of that name keeps."""
    models: dict[str, Model] = {}
    for row in sorted(rows, key=lambda row: (str(row.get("createdDate")), str(row.get("id")))):
        flow, name = row.get("id"), row.get("name")
        if not isinstance(flow, str) or not isinstance(name, str) or not FLOW_ID.fullmatch(flow):
            continue
        slug = slug_of(name)
        if not slug or FLOW_ID.fullmatch(slug):  # another flow's id must never lead here
            slug = f"flow-{flow[:8]}"
        candidates = (slug, f"{slug}-{flow[:8]}", f"{slug}-{flow}")
        unique = next(candidate for candidate in candidates if candidate not in models)
        models[unique] = Model(unique, flow.lower(), name, _seconds(row.get("createdDate")))
    return sorted(models.values(), key=lambda model: model.id)


def slug_of(name: str) -> str:
    """A flow's name in lower-case ASCII letters, digits and hyphens; empty when none are left."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:100]


def _seconds(date: Any) -> int:
    try:
        return int(datetime.fromisoformat(date).timestamp())
    except (TypeError, ValueError):
        return 0
