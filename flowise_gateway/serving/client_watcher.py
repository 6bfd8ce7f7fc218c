"""Detects that a client disconnects while its flow is silent, when no write can fail."""

from __future__ import annotations

import socket
from typing import Any

import gevent


class ClientWatcher:
    """Watches a client's socket during a run, and ends its greenlet when the client disconnects."""

    __slots__ = ("_client", "_runs", "_serving", "_watch")

    def __init__(self, client: Any, runs: set[Any]) -> None:
        self._client = client
        self._runs = runs
        self._serving: Any = None
        self._watch: Any = None

    def start(self) -> None:
        """Start watching; the request body must have been read, since its bytes would end the watch."""
        if self._client is not None:
            self._serving = gevent.getcurrent()
            self._runs.add(self._serving)
            self._watch = gevent.get_hub().loop.io(self._client.fileno(), 1)
            self._watch.start(self._readable)

    def stop(self) -> None:
        """Stop watching."""
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
        if not ahead:  # data would be a pipelined request
            gevent.kill(self._serving)
