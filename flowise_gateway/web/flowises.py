"""The Flowises behind the gateway, each with its clients, catalogs and health."""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import NotRequired, Protocol, TypedDict

from flowise_gateway.access.keys import Caller
from flowise_gateway.config.flowises import PIPELINES, Upstream, upstreams
from flowise_gateway.config.schema import DiscoveryConfig, ProxyConfig
from flowise_gateway.config.settings import Settings
from flowise_gateway.conversation.attachments import UploadClient
from flowise_gateway.flow.errors import FlowiseUnavailable, ProxyError, SettingsError
from flowise_gateway.flow.events import Batches
from flowise_gateway.flow.lru import LRU
from flowise_gateway.flow.turn import Turn
from flowise_gateway.flowise.catalog import Catalog, FlowSource
from flowise_gateway.flowise.queue_mode import QueueMode
from flowise_gateway.flowise.run import RunState
from flowise_gateway.flowise.servers import Servers
from flowise_gateway.flowise.transport.base import Reply, ReplyHead
from flowise_gateway.storage.store import WatchedStore
from flowise_gateway.telemetry.metrics import Metrics

log = logging.getLogger(__name__)

MAX_CATALOGS = 256
LISTING_SECONDS = 90 * 86400.0


class FlowClient(UploadClient, FlowSource, Protocol):
    """A client of Flowise for one flow; `FlowiseClient` is one."""

    def batches(
        self,
        turn: Turn,
        *,
        wake: Callable[[], float],
        headers: Mapping[str, str] | None = None,
        request_timeout: float | None = None,
        pump: Callable[[str], bool] | None = None,
        state: RunState | None = None,
    ) -> Batches:
        """Run the flow and yield its events as they arrive."""

    def version(self) -> str:
        """Return Flowise's version. Raises ProxyError."""

    def get_streaming(self, path: str) -> tuple[ReplyHead, Reply]:
        """GET a path; the caller reads and closes the body. Raises ProxyError."""


class FlowClients(Protocol):
    """The clients of all flows of one Flowise, and their shared state."""

    servers: Servers
    mode: QueueMode

    def client(self, flow_id: str = "", api_key: str = "") -> FlowClient:
        """Return a flow's client, with the caller's own key for Flowise or the configured one."""

    def close(self) -> None:
        """Close idle connections; active calls continue."""


class FlowiseState(TypedDict):
    """The state of a Flowise: an error if it is unusable, and which of several servers are reachable."""

    reachable: bool
    version: NotRequired[str | None]
    error: str | None
    servers: NotRequired[list[bool]]


class Flowise:
    """One Flowise: its clients, and a catalog for each key."""

    def __init__(self, upstream: Upstream, clients: FlowClients, store: WatchedStore) -> None:
        """Create it without calling it; listings are saved in the store."""
        self.upstream = upstream
        self.clients = clients
        self.clients.mode.is_set = upstream.is_queued
        self._store = store
        self._catalogs: LRU[str, Catalog] = LRU(MAX_CATALOGS)
        self._lock = threading.Lock()

    def catalog(self, caller: Caller, refresh_seconds: float) -> Catalog:
        """The flows visible to the caller's own key for Flowise, or to the configured one."""
        key = caller.flowise_key
        # Reading the saved listing waits for the store; without the lock, concurrent requests with the same
        # key would create a second catalog.
        with self._lock:
            catalog = self._catalogs.get(key)
            if catalog is None:
                catalog = self._new_catalog(caller)
            self._catalogs[key] = catalog
        catalog.refresh_seconds = refresh_seconds
        return catalog

    def state(self, caller: Caller, discovery: DiscoveryConfig) -> FlowiseState:
        """Whether Flowise answers, and its errors, for `/ready`."""
        try:
            version = self.clients.client("", caller.flowise_key).version()
        except ProxyError as error:
            return {"reachable": False, "error": error.message}
        refusal = None
        if discovery.enabled:
            catalog = self.catalog(caller, discovery.refresh_seconds)
            catalog.profiles()
            refusal = catalog.error
        state = FlowiseState(reachable=True, version=version, error=refusal.message if refusal else None)
        servers = list(self.clients.servers)
        if len(servers) > 1:
            state["servers"] = [server.is_well for server in servers]
        return state

    def catalog_age(self) -> float:
        """The age of the gateway's own list of flows; other keys' lists could be made to age at will."""
        own = self._catalogs.get("")
        return own.age if own else 0.0

    def has_failing_catalog(self) -> bool:
        """Whether the gateway's own key currently gets no list."""
        own = self._catalogs.get("")
        return own is not None and own.error is not None

    def _new_catalog(self, caller: Caller) -> Catalog:
        key, settings = caller.flowise_key, self.upstream.settings
        # Saved under URL and key, so that a listing is only shown to the key that sees it.
        source = f"{settings.flowise_base_url}\n{key or settings.flowise_api_key}"
        name = f"listing:{hashlib.sha256(source.encode()).hexdigest()}"
        owner = caller.scope if key else None
        return Catalog(
            self.clients.client("", key),
            saved=lambda: self._store.get(name),
            save=lambda listing: self._store.put({name: listing}, LISTING_SECONDS, owner),
        )


def _any_server(*, is_new: bool) -> str:
    """No server is known for a Flowise that is no longer configured."""
    del is_new
    return ""


class Flowises:
    """All Flowises by name, the default one first, according to the current `proxy.yaml`."""

    def __init__(
        self,
        settings: Settings,
        clients_of: Callable[[Upstream], FlowClients],
        store: WatchedStore,
        metrics: Metrics,
    ) -> None:
        """Start without Flowises; `follow` applies a configuration."""
        self._settings = settings
        self._clients_of = clients_of
        self._store = store
        self._metrics = metrics
        self._by_name: dict[str, Flowise] = {}

    def follow(self, config: ProxyConfig) -> list[str]:
        """Apply added, changed and removed entries, and return what cannot be applied.

        Active calls continue with the Flowise on which they started.
        """
        is_queued = config.flowise_mode == "queue"
        try:
            found = upstreams(self._settings, config.flowises, is_queued=is_queued)
        except ValueError as error:  # a file of a key is gone since proxy.yaml was read
            return [f"flowises: an api_key {error}: the previous entries stay in effect"]
        wanted = {each.name: each for each in found}
        problems = []
        if config.pipelines and PIPELINES not in wanted:
            problems.append("pipelines: the first ones need a restart, which starts the pipeline host")
        now = self._made(wanted, problems)
        if not now:
            return [*problems, "it no longer lists a Flowise: the previous ones stay in use until a restart"]
        former, self._by_name = self._by_name, now
        for name, flowise in former.items():
            if now.get(name) is not flowise:
                self._watch(name, flowise, forget=True)
                flowise.clients.close()
        for name, flowise in now.items():
            if former.get(name) is not flowise:
                self._watch(name, flowise)
        return problems

    def _made(self, wanted: Mapping[str, Upstream], problems: list[str]) -> dict[str, Flowise]:
        """The configured Flowises: unchanged ones are kept, new and changed ones are created if possible."""
        made: dict[str, Flowise] = {}
        for name, upstream in wanted.items():
            present = self._by_name.get(name)
            if present is not None and present.upstream == upstream:
                made[name] = present
                continue
            try:
                made[name] = Flowise(upstream, self._clients_of(upstream), self._store)
            except SettingsError as error:
                log.error("%s cannot be used: %s", name, error)  # noqa: TRY400
                problems.append(f"flowises: {name} cannot be used: the log says why")
                if present is not None:
                    made[name] = present
        return made

    def _watch(self, name: str, flowise: Flowise, *, forget: bool = False) -> None:
        """Add the counters of a Flowise to the metrics, or remove them."""
        servers = flowise.clients.servers
        readers: dict[tuple[str, ...], Callable[[], float]] = {
            ("breakers_open", name): lambda: sum(server.health.is_down for server in servers),
            ("retries_total", name): lambda: servers.retries,
            ("catalog_age_seconds", name): flowise.catalog_age,
            ("catalogs_failing", name): flowise.has_failing_catalog,
        }
        for number, server in enumerate(servers, 1):
            readers["flowise_up", name, str(number)] = partial(getattr, server, "is_up")
        for key, read in readers.items():
            if forget:
                self._metrics.forget(*key)
            else:
                self._metrics.watch(key[0], read, *key[1:])

    def __iter__(self) -> Iterator[Flowise]:
        """Iterate over all Flowises, the default one first."""
        return iter([*self._by_name.values()])

    def get(self, name: str) -> Flowise | None:
        """The Flowise with this name."""
        return self._by_name.get(name)

    def server_of_session(self, name: str) -> Callable[..., str]:
        """A function that selects the server for a session; see `Servers.server_of_session`."""
        flowise = self._by_name.get(name)
        return flowise.clients.servers.server_of_session if flowise else _any_server

    def client(self, name: str, flow: str = "", api_key: str = "") -> FlowClient:
        """The client of a flow of this Flowise. Raises FlowiseUnavailable if it was removed."""
        flowise = self._by_name.get(name)
        if flowise is None:
            raise FlowiseUnavailable("This model's Flowise is no longer configured. Nothing has run.")
        return flowise.clients.client(flow, api_key)
