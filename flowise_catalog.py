"""Which flows there are: profiles of Flowise's listing and probes, fresh in the background. Upstream."""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, Protocol

from flowise_profiles import FlowProfile, profiled, with_abilities
from proxy_errors import ProxyError

log = logging.getLogger(__name__)

RETRY_SECONDS = 5.0
FIRST_WAIT_SECONDS = 2.0
"""How long a first request waits for a first listing; LibreChat gives up after five."""

MOST_FORMER_SLUGS = 10_000


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
            self._by_flow[flow] = with_abilities(profile, streams, uploads)


def _with_abilities_of(known: FlowProfile, profile: FlowProfile) -> FlowProfile:
    return replace(
        profile,
        streams=known.streams,
        takes_images=known.takes_images,
        takes_files=known.takes_files,
        takes_audio=known.takes_audio,
    )
