"""The list of flows: profiles from Flowise's listing and probes, refreshed in the background."""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple, Protocol

from flowise_gateway.flow.errors import FlowiseRefused, FlowiseUnavailable, ModelNotFound, ProxyError
from flowise_gateway.flow.lru import LRU
from flowise_gateway.flowise.profiles import (
    FlowProfile,
    flow_profiles,
    pack_profiles,
    public_profile,
    unpack_profiles,
    with_capabilities,
    with_capabilities_of,
)

log = logging.getLogger(__name__)

RETRY_SECONDS = 5.0
FIRST_WAIT_SECONDS = 2.0
"""How long a first request waits for the first listing; LibreChat's timeout is five seconds."""

MAX_FORMER_SLUGS = 10_000
MAX_UNLISTED = 1000
MAX_WAITING = 100


class FlowSource(Protocol):
    """What a catalog needs: Flowise's listing and its public probes. All methods raise ProxyError."""

    def flows(self) -> Iterable[Mapping[str, Any]]:
        """List the flows as Flowise describes them."""

    def capabilities(self, flow_id: str) -> tuple[bool | None, Mapping[str, Any]]:
        """Whether a flow streams (None: unknown), and which uploads it accepts."""

    def public_config(self, flow_id: str) -> Mapping[str, Any]:
        """The public information about a flow, with its definition."""


class Catalog:
    """The flows of one Flowise for one key; reading never blocks, except two seconds for the first listing.

    `save` stores a successful listing and `saved` loads it at the next start, so that names work before
    Flowise answers. It contains what one key may see, and is used only for that key.
    """

    def __init__(
        self,
        source: FlowSource,
        refresh_seconds: float = 60,
        clock: Callable[[], float] = time.monotonic,
        *,
        saved: Callable[[], bytes | None] = lambda: None,
        save: Callable[[bytes], None] = lambda _content: None,
    ) -> None:
        """Use the given source; the first reader starts the first listing."""
        self.refresh_seconds = refresh_seconds
        self.error: ProxyError | None = None
        self._source = source
        self._clock = clock
        self._save = save
        self._due = float("-inf")
        self._is_refreshing = False
        self._first = threading.Event()
        self._first_deadline = 0.0
        self._was_listed = False
        self._listed_at = self._clock()
        self._by_flow: dict[str, FlowProfile] = {}
        self._by_slug: dict[str, str] = {}
        self._former: LRU[str, str] = LRU(MAX_FORMER_SLUGS)
        self._asked: dict[str, str] = {}
        self._unlisted = _Unlisted(source, lambda: self.refresh_seconds, clock)
        self._last_saved = self._load(saved)

    def profiles(self) -> list[FlowProfile]:
        """All flows that can be chatted with, by slug, from the last successful listing."""
        self._keep_fresh()
        if not self._by_flow:
            self._await_first()
        return sorted(self._by_flow.values(), key=lambda profile: profile.slug)

    def find(self, name: str) -> FlowProfile | None:
        """The listed flow with this id or slug, or the one that had the slug before it was renamed."""
        self._keep_fresh()
        if self._flow_of(name) is None:
            self._await_first()
        return self._by_flow.get(self._flow_of(name) or "")

    def by_flow(self, flow: str) -> FlowProfile | None:
        """The flow with this id if it is already known; never blocks.

        A flow that is not in the listing is requested individually in the background.
        """
        self._keep_fresh()
        listed = self._by_flow.get(flow)
        if listed is None and self._first.is_set():
            return self._unlisted.profile(flow)
        return listed

    def listed(self, name: str) -> FlowProfile | None:
        """The flow with this id or slug if it is already listed; never blocks, and requests nothing."""
        self._keep_fresh()
        return self._by_flow.get(name) or self._by_flow.get(self._by_slug.get(name, ""))

    @property
    def age(self) -> float:
        """Seconds since Flowise returned the listing, or since the first one was requested."""
        return self._clock() - self._listed_at

    def failure(self) -> ProxyError | None:
        """Why the flows are unknown: there never was a listing, or Flowise now rejects the key."""
        if self._was_listed and not isinstance(self.error, FlowiseRefused):
            return None
        return self.error or FlowiseUnavailable(_UNREAD, retry_after_seconds=RETRY_SECONDS)

    def _flow_of(self, name: str) -> str | None:
        return name if name in self._by_flow else self._by_slug.get(name) or self._former.get(name)

    def _await_first(self) -> None:
        if not self._first.is_set():
            self._first.wait(max(0.0, self._first_deadline - self._clock()))

    def _keep_fresh(self) -> None:
        if self._clock() < self._due or self._is_refreshing:
            return
        if not self._first.is_set():
            self._first_deadline = self._clock() + FIRST_WAIT_SECONDS
        # No lock: no greenlet switch can happen between the test above and this line, and if two threads get
        # here, the second one only causes another request.
        self._is_refreshing = True
        if not _in_background(self._refresh):
            self._settle(FlowiseUnavailable(_UNREAD, retry_after_seconds=RETRY_SECONDS))

    def _refresh(self) -> None:
        error: ProxyError | None = FlowiseUnavailable(_UNREAD, retry_after_seconds=RETRY_SECONDS)
        try:
            self._take_over(flow_profiles(self._source.flows()))
            self._was_listed = True
            self._listed_at = self._clock()
            self._first.set()
            self._probe_flows()
            error = None
        except ProxyError as refusal:
            error = refusal
            if self.error is None or self.error.message != error.message:
                log.warning("Flowise returned no list of flows: %s", error.message)
        except Exception:
            log.exception("the list of flows could not be read")
        finally:
            self._settle(error)
        if error is None:
            self._save_listing()

    def _settle(self, error: ProxyError | None) -> None:
        self.error = error
        self._due = self._clock() + (RETRY_SECONDS if error else self.refresh_seconds)
        self._first.set()
        self._is_refreshing = False

    def _take_over(self, profiles: Iterable[FlowProfile]) -> None:
        # A changed flow keeps its capabilities until it is probed again, so that it does not stop streaming.
        known = self._by_flow
        by_flow = {p.flow: with_capabilities_of(known[p.flow], p) if p.flow in known else p for p in profiles}
        by_slug = {profile.slug: profile.flow for profile in by_flow.values()}
        for slug in by_slug:
            self._former.pop(slug, None)
        for slug, flow in self._by_slug.items():
            if flow in by_flow and slug not in by_slug:
                self._former[slug] = flow
        for profile in by_flow.values():
            if profile.first_slug not in by_slug:
                self._former.setdefault(profile.first_slug, profile.flow)
        self._asked = {flow: state for flow, state in self._asked.items() if flow in by_flow}
        self._by_flow, self._by_slug = by_flow, by_slug

    def _probe_flows(self) -> None:
        for flow, profile in list(self._by_flow.items()):
            if self._asked.get(flow) == profile.updated:
                continue
            try:
                streams, uploads = self._source.capabilities(flow)
            except FlowiseUnavailable:
                return  # no flow can be probed now; the next listing tries again
            except ProxyError:
                continue
            self._by_flow[flow] = with_capabilities(profile, streams, uploads)
            if streams is not None and uploads:
                self._asked[flow] = profile.updated

    def _load(self, saved: Callable[[], bytes | None]) -> bytes | None:
        try:
            content = saved()
            profiles, former = unpack_profiles(content or b"")
        except Exception:
            log.exception("the saved list of flows could not be read")
            return None
        self._by_flow = {profile.flow: profile for profile in profiles}
        self._by_slug = {profile.slug: profile.flow for profile in profiles}
        self._former.update(former)
        self._asked = {profile.flow: profile.updated for profile in profiles if profile.updated}
        return content

    def _save_listing(self) -> None:
        # The state that the probes saw is saved, so that a flow changed since then is probed after a restart.
        flows = [replace(p, updated=self._asked.get(p.flow, "")) for p in self._by_flow.values()]
        content = pack_profiles(flows, self._former)
        if content == self._last_saved:
            return
        try:
            self._save(content)
            self._last_saved = content
        except Exception:
            log.exception("the list of flows could not be saved")


_UNREAD = "The list of Flowise's flows could not be read. Nothing has run; try again later."


class _Known(NamedTuple):
    due: float
    profile: FlowProfile | None


_UNKNOWN = _Known(float("-inf"), None)


class _Unlisted:
    """Flows that are in no listing, read from Flowise's public routes, which need no permission.

    They are requested one after another in the background; the ones requested longest ago are dropped.
    """

    def __init__(
        self, source: FlowSource, refresh_seconds: Callable[[], float], clock: Callable[[], float]
    ) -> None:
        self._source = source
        self._refresh_seconds = refresh_seconds
        self._clock = clock
        self._known: LRU[str, _Known] = LRU(MAX_UNLISTED)
        self._waiting: OrderedDict[str, None] = OrderedDict()
        self._is_probing = False

    def profile(self, flow: str) -> FlowProfile | None:
        """The profile as far as it is known; it is requested again once it is older than a listing may be."""
        due, profile = self._known.get(flow, _UNKNOWN)
        if self._clock() >= due and len(self._waiting) < MAX_WAITING:
            # Until there is an answer, the next attempt is due soon.
            self._known[flow] = _Known(self._clock() + RETRY_SECONDS, profile)
            self._waiting[flow] = None
        if self._waiting and not self._is_probing:
            self._is_probing = True
            if not _in_background(self._probe_all):
                self._is_probing = False
        return profile

    def _probe_all(self) -> None:
        try:
            while self._waiting:
                flow, _ = self._waiting.popitem(last=False)
                profile = self._probe(flow)
                self._known[flow] = _Known(self._clock() + self._refresh_seconds(), profile)
        except ProxyError:
            self._waiting.clear()  # no flow can be probed now; each is tried again soon
        except Exception:
            log.exception("a flow could not be read")
        finally:
            self._is_probing = False

    def _probe(self, flow: str) -> FlowProfile | None:
        try:
            profile = public_profile(flow, self._source.public_config(flow))
            return with_capabilities(profile, *self._source.capabilities(flow))
        except ModelNotFound:
            return None


def _in_background(work: Callable[[], None]) -> bool:
    """Start work in a thread; False if no thread can be started."""
    try:
        threading.Thread(target=work, daemon=True).start()
    except RuntimeError as error:
        log.warning("Flowise is not called: %s", error)
        return False
    return True
