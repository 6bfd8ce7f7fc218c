"""Notices a client that leaves while its flow is silent."""

from __future__ import annotations

import socket
from typing import Any

import gevent


class _ClientWatcher:
    """Watches the client's socket while its run is on; its end ends the greenlet that serves it."""

    __slots__ = ("_client", "_runs", "_serving", "_watch", "is_started")

    def __init__(self, client: Any, runs: set[Any]) -> None:
        self._client = client
        self._runs = runs
        self._serving: Any = None
        self._watch: Any = None
        self.is_started = False

    def start(self) -> None:
        """Watch from now on; the body must have been read."""
        if self._client is not None:
            self.is_started = True
            self._serving = gevent.getcurrent()
            self._runs.add(self._serving)
            self._watch = gevent.get_hub().loop.io(self._client.fileno(), 1)
            self._watch.start(self._readable)

    def stop(self) -> None:
        """Watch no more."""
        if self._watch is not None:
            self._runs.discard(self._serving)
            self._stop_watching()

    def _stop_watching(self) -> None:
        self._watch.stop()
        self._watch.close()

    def _readable(self) -> None:
        try:
            ahead = socket.socket.recv(self._client, 1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError:
            ahead = b""
        self._stop_watching()
        if not ahead:  # else it is the next request, sent ahead
            gevent.kill(self._serving)
