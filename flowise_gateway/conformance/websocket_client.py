"""A WebSocket client of the Responses API: what it sends and gets, without a thread."""

from __future__ import annotations

import socket
import ssl
import sys
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import orjson
from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    CloseConnection,
    Event,
    Message,
    Ping,
    Pong,
    RejectConnection,
    RejectData,
    Request,
    TextMessage,
)
from wsproto.extensions import Extension, PerMessageDeflate

TERMINAL = ("response.completed", "response.incomplete", "response.failed")


class SocketClient:
    """Context manager over one connection; `status` is the handshake's, `body` that of a refusal."""

    def __init__(
        self,
        url: str,
        path: str = "/v1/responses",
        headers: Mapping[str, str] | None = None,
        *,
        extensions: Sequence[Extension] | None = None,
        max_bytes: int = sys.maxsize,
    ) -> None:
        """Connect, offering compression unless `extensions` says otherwise, to read at most `max_bytes`."""
        self.socket = connected(url)
        self.protocol = WSConnection(ConnectionType.CLIENT)
        self.events: list[Event] = []
        self._left = max_bytes
        self.status, self.body, self.headers = 0, b"", dict[str, str]()
        extra = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
        try:
            self.send(
                Request(
                    host=urlsplit(url).netloc,
                    target=path,
                    extra_headers=extra,
                    extensions=[PerMessageDeflate()] if extensions is None else [*extensions],
                )
            )
            self._shake_hands()
        except BaseException:
            self.socket.close()
            raise

    def __enter__(self) -> SocketClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, event: Event) -> None:
        """Send anything."""
        self.socket.sendall(self.protocol.send(event))

    def say(self, message: Any) -> None:
        """Send a value as JSON."""
        self.send(TextMessage(orjson.dumps(message).decode()))

    def ask(self, said: Any = "Hello", model: str = "demo-agent", **more: Any) -> list[dict[str, Any]]:
        """Ask for a response and give its events, the last one being its end."""
        self.say({"type": "response.create", "model": model, "input": said, **more})
        return self.answer()

    def answer(self) -> list[dict[str, Any]]:
        """The events up to the end of a response, or an error."""
        events = [self.event()]
        while events[-1]["type"] not in TERMINAL and "status" not in events[-1]:  # a message refused
            events.append(self.event())
        return events

    def event(self) -> dict[str, Any]:
        """The next message."""
        parts: list[str] = []
        while True:
            event = self.next()
            if not isinstance(event, TextMessage):
                raise AssertionError(f"no text came, but {event}")
            parts.append(event.data)
            if event.message_finished:
                value: dict[str, Any] = orjson.loads("".join(parts))
                return value

    def next(self) -> Event:
        """The next thing that is no ping; an end of the connection is a close event."""
        while True:
            while not self.events:
                data = self.socket.recv(65_536)
                self._left -= len(data)
                if self._left < 0:
                    raise AssertionError("the socket says more than any case asks for")
                self.protocol.receive_data(data or None)
                self.events += self.protocol.events()
            event = self.events.pop(0)
            if isinstance(event, Ping):
                self.send(Pong(event.payload))
            else:
                return event

    def closed(self) -> CloseConnection:
        """The close that comes after any messages."""
        while not isinstance(event := self.next(), CloseConnection):
            if not isinstance(event, Message):
                raise AssertionError(f"no message came, but {event}")
        return event

    def _shake_hands(self) -> None:
        event = self.next()
        if isinstance(event, AcceptConnection):
            self.status = 101
            if event.extensions:
                raise AssertionError("an extension was accepted that was not wanted")
            self.headers = {name.decode(): value.decode() for name, value in event.extra_headers}
            return
        if not isinstance(event, RejectConnection):
            raise AssertionError(f"the handshake was answered by {event}")
        self.status = event.status_code
        while isinstance(rest := self.next(), RejectData):
            self.body += rest.data
            if rest.body_finished:
                return


def connected(url: str) -> socket.socket:
    """A connection; of an https address an encrypted one, for the key goes over it."""
    parts = urlsplit(url)
    is_https, host = parts.scheme == "https", parts.hostname or ""
    plain = socket.create_connection((host, parts.port or (443 if is_https else 80)), timeout=30)
    if not is_https:
        return plain
    try:
        return ssl.create_default_context().wrap_socket(plain, server_hostname=host)
    except BaseException:
        plain.close()
        raise
