"""A WebSocket on a connection handed over by the HTTP server.

It has no thread: it waits in `receive`, and during a response `look` reads data that has arrived.
Messages are never compressed, so that there are no decompression bombs.
"""

from __future__ import annotations

import contextlib
import socket
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import NoReturn

from wsproto import ConnectionType, WSConnection
from wsproto.connection import ConnectionState
from wsproto.events import AcceptConnection, BytesMessage, CloseConnection, Event, Ping, Request, TextMessage
from wsproto.frame_protocol import CloseReason
from wsproto.utilities import LocalProtocolError, RemoteProtocolError

from flowise_gateway.flow.cooperative import LOOP_SLEEP_SECONDS, SLICE_SECONDS
from flowise_gateway.flow.errors import BadRequest

PING_SECONDS = 20.0
"""A silent peer is pinged after this time, and disconnected after twice as long."""
SEND_SECONDS = 30.0
MAX_WAITING = 4
"""The maximum number of messages that wait while one is answered."""
MAX_FRAMES, MAX_FRAMES_A_SECOND, FRAME_BYTES = 1000, 10, 64
"""Frames allowed without completing a message: a base number, more per second, one per this many bytes."""
CLOSE_SECONDS = 2.0
"""How long a refused peer may continue sending; closing at once would discard the error sent to it."""
_READ_BYTES = 65_536


class WebSocketClosed(Exception):
    """The connection is over."""


class WebSocket:
    """The server's end; every method but `close` raises WebSocketClosed once the connection is over.

    A message for which `takes_at_once` returns true has been handled, and is not returned by `receive`.
    """

    def __init__(
        self,
        connection: socket.socket,
        most_bytes: int,
        message_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take a connection whose request has been read; the limits are those of a message."""
        self._connection = connection
        self._most_bytes = most_bytes
        self._message_seconds = message_seconds
        self._clock = clock
        self._protocol = WSConnection(ConnectionType.SERVER)
        self._messages: deque[str] = deque()
        self.takes_at_once: Callable[[str], bool] = lambda _: False
        self._parts: list[str] = []
        self._size = 0
        self._is_cut = False
        self._heard, self._is_asked = clock(), False
        self._frames, self._since, self._begun = 0, clock(), 0.0
        self._turn_ends = 0.0

    def accept(self, headers: Iterable[tuple[str, str]], answer: Mapping[str, str]) -> None:
        """Answer the handshake. Raises BadRequest if it is invalid, before anything is sent."""
        lines = [f"{name}: {value}" for name, value in headers if name.lower() not in _NOT_OF_THE_HANDSHAKE]
        raw = "\r\n".join(["GET / HTTP/1.1", *lines, "", ""]).encode("latin-1", "replace")
        try:
            self._protocol.receive_data(raw)
            if not any(isinstance(event, Request) for event in self._protocol.events()):
                raise BadRequest("The WebSocket handshake is incomplete.")
        except (RemoteProtocolError, LocalProtocolError):
            raise BadRequest("This is not a WebSocket handshake.") from None
        extra = [(name.encode(), value.encode()) for name, value in answer.items()]
        self._send(AcceptConnection(extra_headers=extra))

    def receive(self, seconds: float) -> str | None:
        """Wait for the next message; None after the timeout."""
        until = self._clock() + seconds
        # If each is answered with an error at once, endless messages would delay all other clients.
        time.sleep(LOOP_SLEEP_SECONDS)
        while not self._messages:
            if self._parts and self._clock() - self._begun > self._message_seconds:
                # The received part is held in memory.
                self._refuse(CloseReason.POLICY_VIOLATION, "a message took too long")
            due = min(until, self._heard + PING_SECONDS * (2 if self._is_asked else 1))
            wait = due - self._clock()
            if wait > 0:
                self._connection.settimeout(wait)
                with contextlib.suppress(TimeoutError):
                    self._take(self._read())
            elif due == until:
                return None
            else:
                self._ask_for_life()
        return self._messages.popleft()

    def _ask_for_life(self) -> None:
        if self._is_asked:
            self._refuse(CloseReason.POLICY_VIOLATION, "no answer to a ping")
        self._is_asked = True
        self._send(Ping())

    def look(self) -> None:
        """Read data that has arrived, without blocking."""
        try:
            while True:
                self._connection.settimeout(0)  # each time: a pong may have been sent in between
                self._take(self._read())
        except BlockingIOError:
            return

    def send(self, text: str) -> None:
        """Send a message; a client that does not read it in time is disconnected."""
        self._send(TextMessage(text))

    def close(self, reason: CloseReason = CloseReason.NORMAL_CLOSURE, words: str = "") -> None:
        """Close the connection unless it is already closed."""
        if self._protocol.state is ConnectionState.OPEN:
            try:
                self._send(CloseConnection(reason, words))
            except WebSocketClosed:
                return

    def _read(self) -> bytes:
        try:
            data = self._connection.recv(_READ_BYTES)
        except (TimeoutError, BlockingIOError):
            raise
        except OSError:
            data = b""
        if not data:
            raise WebSocketClosed
        self._heard, self._is_asked = self._clock(), False
        return data

    def _take(self, data: bytes) -> None:
        try:
            self._protocol.receive_data(data)
            for event in self._protocol.events():
                self._heed(event)
                self._count()
        except RemoteProtocolError:
            self._refuse(CloseReason.PROTOCOL_ERROR)

    def _count(self) -> None:
        """Count a frame, and yield, since reading a flood of frames never blocks."""
        now = self._clock()
        self._frames += 1
        allowed = MAX_FRAMES + (now - self._since) * MAX_FRAMES_A_SECOND + self._size // FRAME_BYTES
        if self._frames > allowed:
            self._refuse(CloseReason.POLICY_VIOLATION, "too many frames without a message")
        if now > self._turn_ends:
            time.sleep(LOOP_SLEEP_SECONDS)
            self._turn_ends = self._clock() + SLICE_SECONDS

    def _heed(self, event: Event) -> None:
        if isinstance(event, (Ping, CloseConnection)):
            if self._protocol.state in (ConnectionState.OPEN, ConnectionState.REMOTE_CLOSING):
                self._send(event.response())
            if isinstance(event, CloseConnection):
                raise WebSocketClosed
        elif isinstance(event, BytesMessage):
            self._refuse(CloseReason.UNSUPPORTED_DATA, "messages must be text")
        elif isinstance(event, TextMessage):
            self._read_text(event)

    def _read_text(self, event: TextMessage) -> None:
        if not self._parts:
            self._begun = self._clock()
        self._size += len(event.data)
        self._parts.append(event.data)
        if self._size > self._most_bytes:
            self._refuse(CloseReason.MESSAGE_TOO_BIG, f"at most {self._most_bytes} bytes")
        if event.message_finished:
            text = "".join(self._parts)
            self._parts.clear()
            self._size = 0
            self._frames, self._since = 0, self._clock()
            if self.takes_at_once(text):
                return
            if len(self._messages) >= MAX_WAITING:
                self._refuse(CloseReason.POLICY_VIOLATION, "one response at a time")
            self._messages.append(text)

    def _refuse(self, reason: CloseReason, words: str = "") -> NoReturn:
        self.close(reason, words)
        until = self._clock() + CLOSE_SECONDS
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_WR)
            while (left := until - self._clock()) > 0:
                self._connection.settimeout(left)
                if not self._connection.recv(_READ_BYTES):
                    break
                time.sleep(LOOP_SLEEP_SECONDS)
        raise WebSocketClosed

    def _send(self, event: Event) -> None:
        if self._is_cut:
            raise WebSocketClosed
        self._is_cut = True  # until complete: after a partial message, nothing else can be parsed
        try:
            self._connection.settimeout(SEND_SECONDS)
            self._connection.sendall(self._protocol.send(event))
        except (OSError, LocalProtocolError) as error:
            raise WebSocketClosed from error
        self._is_cut = False


_NOT_OF_THE_HANDSHAKE = ("sec-websocket-extensions", "content-length", "transfer-encoding")
