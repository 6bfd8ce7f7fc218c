"""Which flows there are: Flowise's listing and probes as profiles, fresh in the background. Upstream."""

from __future__ import annotations

import logging
import re
import threading
import time
import unicodedata
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Protocol

import orjson

from proxy_errors import ProxyError

log = logging.getLogger(__name__)

FLOW_ID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
RETRY_SECONDS = 5.0
FIRST_WAIT_SECONDS = 2.0
"""How long a first request waits for a first listing; LibreChat gives up after five."""

MOST_FORMER_SLUGS = 10_000
_STARTS_NOT_BY_CHAT = ("webhookTrigger", "scheduleInput")


@dataclass(frozen=True, slots=True)
class FlowProfile:
    """What is known of a flow; None where Flowise has not told."""

    flow: str
    name: str
    slug: str = ""
    type: str = "CHATFLOW"
    created: int = 0
    updated: str = ""
    has_memory: bool | None = None
    streams: bool | None = None
    takes_images: bool | None = None
    takes_files: bool | None = None
    is_hidden: bool = False


class FlowSource(Protocol):
    """What a catalog asks: Flowise's listing and its public probes. All raise ProxyError."""

    def flows(self) -> Iterable[Mapping[str, Any]]:
        """List the flows as Flowise describes them."""

    def abilities(self, flow_id: str) -> tuple[bool, Mapping[str, Any]]:
        """Tell whether a flow streams, and which uploads it takes."""


class Catalog:
    """The flows of one Flowise for one key; reading waits for nothing but a first listing, two seconds."""

    def __init__(
        self, source: FlowSource, refresh_seconds: float = 60, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Take where to ask; the first reader starts the first listing."""
        self._source = source
        self._refresh_seconds = refresh_seconds
        self._clock = clock
        self._due = float("-inf")
        self._is_refreshing = False
        self._first = threading.Event()
        self._first_deadline = 0.0
        self._by_flow: dict[str, FlowProfile] = {}
        self._by_slug: dict[str, str] = {}
        self._former: OrderedDict[str, str] = OrderedDict()
        self._was_listed = False
        self.error: ProxyError | None = None

    def profiles(self) -> list[FlowProfile]:
        """All flows that can be chatted with, by slug; of the last good listing while there is no newer."""
        self._keep_fresh()
        return sorted(self._by_flow.values(), key=lambda profile: profile.slug)

    def by_slug(self, slug: str) -> FlowProfile | None:
        """The flow of this slug, or the one that had it before its name changed."""
        self._keep_fresh()
        flow = self._by_slug.get(slug) or self._former.get(slug)
        return self._by_flow.get(flow) if flow else None

    def by_flow(self, flow: str) -> FlowProfile | None:
        """The flow of this id if it is known by now; never waits."""
        self._keep_fresh(may_wait=False)
        return self._by_flow.get(flow)

    def failure(self) -> ProxyError | None:
        """Why there has never been a listing; None once there was one."""
        return None if self._was_listed else self.error

    def _keep_fresh(self, *, may_wait: bool = True) -> None:
        if self._clock() >= self._due and not self._is_refreshing:
            if not self._first.is_set():
                self._first_deadline = self._clock() + FIRST_WAIT_SECONDS
            # No lock: between the test above and this line nothing can switch to another greenlet, and of two
            # threads that both came here the second only asks once more.
            self._is_refreshing = True
            threading.Thread(target=self._refresh, daemon=True).start()
        if may_wait and not self._first.is_set():
            self._first.wait(max(0.0, self._first_deadline - self._clock()))

    def _refresh(self) -> None:
        wait = RETRY_SECONDS
        try:
            self._take_over(profiled(self._source.flows()))
            self._was_listed = True
            self._first.set()
            self._ask_abilities()
            self.error = None
            wait = self._refresh_seconds
        except ProxyError as error:
            self.error = error
            log.warning("Flowise gave no list of flows: %s", error.message)
        except Exception:
            log.exception("the list of flows could not be read")
        finally:
            self._first.set()
            self._due = self._clock() + wait
            self._is_refreshing = False

    def _take_over(self, profiles: Iterable[FlowProfile]) -> None:
        before = self._by_flow
        by_flow: dict[str, FlowProfile] = {}
        for profile in profiles:
            known = before.get(profile.flow)
            is_same = known is not None and known.updated == profile.updated
            by_flow[profile.flow] = _with_abilities_of(known, profile) if known and is_same else profile
        by_slug = {profile.slug: profile.flow for profile in by_flow.values()}
        for slug, flow in self._by_slug.items():
            if flow in by_flow and slug not in by_slug:
                self._former[slug] = flow
        for slug in by_slug:
            self._former.pop(slug, None)
        while len(self._former) > MOST_FORMER_SLUGS:
            self._former.popitem(last=False)
        self._by_flow, self._by_slug = by_flow, by_slug

    def _ask_abilities(self) -> None:
        for flow, profile in list(self._by_flow.items()):
            if profile.streams is not None:
                continue
            try:
                streams, uploads = self._source.abilities(flow)
            except ProxyError:
                continue  # asked again with the next listing
            self._by_flow[flow] = replace(
                profile,
                streams=streams,
                takes_images=uploads.get("isImageUploadAllowed") is True,
                takes_files=bool(uploads.get("fileUploadSizeAndTypes")),
            )


def _with_abilities_of(known: FlowProfile, profile: FlowProfile) -> FlowProfile:
    return replace(
        profile,
        streams=known.streams,
        takes_images=known.takes_images,
        takes_files=known.takes_files,
    )


def profiled(rows: Iterable[Mapping[str, Any]]) -> list[FlowProfile]:
    """Rows of the listing as profiles; the oldest flow of a name keeps it, hidden ones are left out."""
    profiles: list[FlowProfile] = []
    taken: set[str] = set()
    # By id first: a flow that is saved while pages are read stands on two of them.
    distinct = {str(row.get("id")).lower(): row for row in rows}.values()
    for row in sorted(distinct, key=lambda row: (str(row.get("createdDate")), str(row.get("id")))):
        profile = _profile(row)
        if profile is None or profile.is_hidden:
            continue
        slug = slug_of(profile.name)
        if not slug or FLOW_ID.fullmatch(slug):  # another flow's id must never lead here
            slug = f"flow-{profile.flow[:8]}"
        # The last one is no other flow's name, being this flow's id.
        candidates = (slug, f"{slug}-{profile.flow[:8]}", f"{slug[:90]}-{profile.flow}", profile.flow)
        slug = next(candidate for candidate in candidates if candidate not in taken)
        taken.add(slug)
        profiles.append(replace(profile, slug=slug))
    return profiles


def _profile(row: Mapping[str, Any]) -> FlowProfile | None:
    flow, name = row.get("id"), row.get("name")
    if not isinstance(flow, str) or not FLOW_ID.fullmatch(flow) or not isinstance(name, str):
        return None
    nodes = flow_nodes(row.get("flowData"))
    kind = row.get("type")
    return FlowProfile(
        flow.lower(),
        name,
        type=kind if isinstance(kind, str) else "CHATFLOW",
        created=_seconds(row.get("createdDate")),
        updated=str(row.get("updatedDate")),
        has_memory=None if nodes is None else any(map(_remembers, nodes)),
        is_hidden=any(_start_type(node) in _STARTS_NOT_BY_CHAT for node in nodes or ()),
    )


def flow_nodes(flow_data: Any) -> list[dict[str, Any]] | None:
    """The data of a flow's nodes, or None where the flow's drawing is not given."""
    try:
        drawing = orjson.loads(flow_data) if isinstance(flow_data, str) else flow_data
        return [node["data"] for node in drawing["nodes"] if isinstance(node["data"], dict)]
    except (orjson.JSONDecodeError, TypeError, KeyError):
        return None


def _remembers(node: Mapping[str, Any]) -> bool:
    inputs = node.get("inputs")
    if node.get("category") == "Memory":
        return True
    return isinstance(inputs, dict) and any(
        inputs.get(name) in (True, "true") for name in ("llmEnableMemory", "agentEnableMemory")
    )


def _start_type(node: Mapping[str, Any]) -> str | None:
    inputs = node.get("inputs")
    is_start = node.get("name") == "startAgentflow" and isinstance(inputs, dict)
    return inputs.get("startInputType") if is_start and isinstance(inputs, dict) else None


def slug_of(name: str) -> str:
    """A flow's name in lower-case ASCII letters, digits and hyphens; empty when none are left."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:100].strip("-")


def _seconds(date: Any) -> int:
    try:
        return int(datetime.fromisoformat(date).timestamp())
    except (TypeError, ValueError):
        return 0
