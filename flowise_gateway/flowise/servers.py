"""The equal servers of one Flowise: which takes the next call, and how each of them is."""

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
"""How often a server that could not be reached is looked at, where others take its calls meanwhile."""

PING_TIMEOUT_SECONDS = 5.0


class Server:
    """One server: its address, what sends calls to it, its health, and how many runs it has now.

    `name` stands for its address where sessions are kept: it is the same for every worker and after a
    restart, and tells nobody the address.
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
        """Whether it is called: its breaker is not open."""
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
    """All servers of one Flowise. Nothing here waits, so greenlets need no lock."""

    def __init__(self, servers: Sequence[Server], *, is_sticky: bool = True) -> None:
        """Balance over one server or more; `is_sticky`: each keeps the sessions that began there."""
        self._servers = tuple(servers)
        self._is_sticky = is_sticky and len(servers) > 1
        self._numbers = itertools.count(1)
        self._watched: set[str] = set()
        self._is_closed = False

    def __iter__(self) -> Iterator[Server]:
        """All of them, in the order of the configuration."""
        return iter(self._servers)

    @property
    def retries(self) -> int:
        """How many calls were tried again."""
        return sum(server.health.retries for server in self._servers)

    def server_of_session(self, *, is_new: bool) -> str:
        """The name of the server for a session, empty if any will do.

        One that is not new, and of which no server is known, began while there was but one: the first.
        """
        if not self._is_sticky:
            return ""
        return (self._taken() if is_new else self._servers)[0].name

    def for_call(self) -> list[Server]:
        """Whom to ask what all of them know, one after another until one answers."""
        return self._by_load()

    def for_run(self, name: str = "") -> list[Server]:
        """Where to run, one after another while nothing has run: at the one of this name alone, else at any.

        Raises FlowiseUnavailable if there is none of this name any more.
        """
        if len(self._servers) == 1:
            return [*self._servers]
        if not name or not self._is_sticky:
            return self._taken()
        found = [server for server in self._servers if server.name == name]
        if not found:
            raise FlowiseUnavailable(
                "The server of this conversation is not there any more. Nothing has run."
            )
        return found

    def _by_load(self) -> list[Server]:
        """Those that are well first, then those with the fewest runs, then those taken longest ago."""
        return sorted(self._servers, key=lambda each: (not each.is_well, each.runs, each.last_taken))

    def _taken(self) -> list[Server]:
        """By load, the first of them taken for a run: the next finds another one, where loads are alike."""
        ordered = self._by_load()
        ordered[0].last_taken = next(self._numbers)
        return ordered

    def note_failure(self, server: Server) -> None:
        """Look at a server that could not be reached until it can be, if its calls go elsewhere."""
        if len(self._servers) == 1 or server.is_well or server.name in self._watched:
            return
        self._watched.add(server.name)
        with contextlib.suppress(RuntimeError):  # there can be no more threads
            threading.Thread(target=self._watch, args=(server,), daemon=True).start()
            return
        self._watched.discard(server.name)

    def _watch(self, server: Server) -> None:
        number = self._servers.index(server) + 1
        log.warning("server %s of a Flowise cannot be reached: its calls go to the others", number)
        try:
            while not self._is_closed and not server.is_well:
                time.sleep(PING_SECONDS)
                if _answers(server):
                    server.health.reached()
        finally:
            self._watched.discard(server.name)
        if not self._is_closed:
            log.warning("server %s of a Flowise can be reached again", number)

    def close(self) -> None:
        """Close idle connections; calls under way go on."""
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
