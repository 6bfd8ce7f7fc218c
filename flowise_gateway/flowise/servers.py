"""The replicas of one Flowise: load balancing and health."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import logging
import threading
import time
from collections.abc import Iterator, Sequence

from flowise_gateway.flow.errors import FlowiseUnavailable
from flowise_gateway.flowise.retries import FlowiseHealth
from flowise_gateway.flowise.transport.base import ConnectionBroken, FlowiseRequest, NotSent, Transport

log = logging.getLogger(__name__)

PING_SECONDS = 1.0
"""The interval for probing an unreachable server while others take its calls."""

PING_TIMEOUT_SECONDS = 5.0


class Server:
    """One server: its URL, transport, health and number of active runs.

    `name` identifies it in stored sessions: it is the same for every worker and after a restart, and does not
    reveal the URL.
    """

    def __init__(self, base_url: str, transport: Transport) -> None:
        self.base_url = base_url
        self.transport = transport
        self.name = hashlib.sha256(base_url.encode()).hexdigest()[:12]
        self.health = FlowiseHealth()
        self.runs = 0
        self.last_taken = 0

    @property
    def is_up(self) -> bool:
        """Whether its breaker is closed."""
        return not self.health.is_down

    @property
    def is_well(self) -> bool:
        """Whether the last call reached it."""
        return not self.health.is_failing

    @contextlib.contextmanager
    def run(self) -> Iterator[None]:
        """Count a run."""
        self.runs += 1
        try:
            yield
        finally:
            self.runs -= 1


class Servers:
    """All servers of one Flowise. Nothing here blocks, so greenlets need no lock."""

    def __init__(self, servers: Sequence[Server], *, is_sticky: bool = True) -> None:
        """Balance over one or more servers; `is_sticky`: sessions stay on the server where they started."""
        self._servers = tuple(servers)
        self._is_sticky = is_sticky and len(servers) > 1
        self._numbers = itertools.count(1)
        self._watched: set[str] = set()
        self._is_closed = False

    def __iter__(self) -> Iterator[Server]:
        """Iterate over the servers in configuration order."""
        return iter(self._servers)

    @property
    def retries(self) -> int:
        """The number of retried calls."""
        return sum(server.health.retries for server in self._servers)

    def server_of_session(self, *, is_new: bool) -> str:
        """The name of the server for a session; empty if any will do.

        An existing session without a known server is from when there was only one: the first.
        """
        if not self._is_sticky:
            return ""
        return (self._taken() if is_new else self._servers)[0].name

    def for_call(self) -> list[Server]:
        """The servers for a call that any of them can answer, in the order to try them."""
        return self._by_load()

    def for_run(self, name: str = "") -> list[Server]:
        """The servers for a run, in the order to try them while nothing has run; with a name, only that one.

        Raises FlowiseUnavailable if no server has this name any more.
        """
        if len(self._servers) == 1:
            return [*self._servers]
        if not name or not self._is_sticky:
            return self._taken()
        found = [server for server in self._servers if server.name == name]
        if not found:
            raise FlowiseUnavailable(
                "The Flowise server of this conversation is no longer configured. Nothing has run."
            )
        return found

    def _by_load(self) -> list[Server]:
        """Healthy servers first, then by fewest runs, then least recently used."""
        return sorted(self._servers, key=lambda each: (not each.is_well, each.runs, each.last_taken))

    def _taken(self) -> list[Server]:
        """By load; marks the first as used, so that with equal loads the next run goes to another one."""
        ordered = self._by_load()
        ordered[0].last_taken = next(self._numbers)
        return ordered

    def note_failure(self, server: Server) -> None:
        """Probe an unreachable server until it answers, if other servers take its calls."""
        if len(self._servers) == 1 or server.is_well or server.name in self._watched:
            return
        self._watched.add(server.name)
        with contextlib.suppress(RuntimeError):  # no more threads can be started
            threading.Thread(target=self._watch, args=(server,), daemon=True).start()
            return
        self._watched.discard(server.name)

    def _watch(self, server: Server) -> None:
        number = self._servers.index(server) + 1
        log.warning("Flowise server %s cannot be reached: its calls go to the others", number)
        try:
            while not self._is_closed and not server.is_well:
                time.sleep(PING_SECONDS)
                if _answers(server):
                    server.health.reached()
        finally:
            self._watched.discard(server.name)
        if not self._is_closed:
            log.warning("Flowise server %s can be reached again", number)

    def close(self) -> None:
        """Close idle connections; active calls continue."""
        self._is_closed = True
        for server in self._servers:
            server.transport.close()


def _answers(server: Server) -> bool:
    request = FlowiseRequest("GET", f"{server.base_url}/ping", {"Accept": "*/*"})
    with (
        contextlib.suppress(NotSent, ConnectionBroken),
        contextlib.closing(server.transport.send(request)) as reply,
    ):
        head = reply.head(PING_TIMEOUT_SECONDS)
        return head is not None and head.status != 503
    return False
