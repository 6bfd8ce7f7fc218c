"""Random and mutated messages over WebSockets: each is answered by a response's events or an error in OpenAI's shape."""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from typing import Any

import orjson
from wsproto.events import BytesMessage, CloseConnection, TextMessage

from flowise_gateway.conformance.websocket_client import TERMINAL, SocketClient
from tests.chaos.frames import leak_in

BROKEN = (
    '{"type":',
    "",
    "[]",
    "null",
    "NaN",
    '"x"',
    "{" * 3000,
    "\x00",
    '{"type":"response.create"}',
    "é" * 4000,
)
TYPES = ("response.create", "response.create", "response.cancel", "response.x", "", 7, None)
MAX_FAULTS = 20


class SocketFuzzer:
    """Messages made from right ones by a seeded chance, on one connection after another."""

    def __init__(self, url: str, seed: int, mutated: Any) -> None:
        """`mutated` gives the body of a request, as JSON or broken."""
        self._url = url
        self._chance = random.Random(seed)
        self._mutated = mutated
        self.statuses: Counter[str] = Counter()
        self.faults: list[str] = []

    def run(self, count: int, until: float) -> None:
        """Send so many messages, or until the time is up."""
        sent = 0
        while sent < count and time.monotonic() < until and len(self.faults) < MAX_FAULTS:
            with SocketClient(self._url) as client:
                if client.status != 101:
                    self.faults.append(f"no upgrade: {client.status} {client.body[:200]!r}")
                    continue
                # A connection is used again: what one message leaves behind must not spoil the next.
                for _ in range(min(200, count - sent)):
                    sent += 1
                    if not self._told(client) or time.monotonic() >= until:
                        break

    def _message(self) -> TextMessage | BytesMessage:
        chance = self._chance
        if chance.random() < 0.02:
            return BytesMessage(data=bytes(chance.randbytes(chance.randrange(300))))
        if chance.random() < 0.2:
            return TextMessage(data=chance.choice(BROKEN))
        raw = self._mutated()
        try:
            body = json.loads(raw)
        except (ValueError, RecursionError):
            return TextMessage(data=raw.decode("latin-1"))
        if isinstance(body, dict):
            body = {"type": chance.choice(TYPES), **body, "input": body.get("input", "Hello")}
        return TextMessage(data=json.dumps(body, ensure_ascii=True))

    def _told(self, client: SocketClient) -> bool:
        """Send one message and read its answer; whether the connection goes on."""
        message = self._message()
        client.send(message)
        while True:
            event = client.next()
            if isinstance(event, CloseConnection):
                self.statuses[f"closed {event.code}"] += 1
                if event.code not in (1000, 1003, 1007, 1008, 1009):
                    self.faults.append(f"closed {event.code} {event.reason}: {str(message.data)[:300]}")
                return False
            text = getattr(event, "data", "")
            while not getattr(event, "message_finished", True):
                event = client.next()
                text += getattr(event, "data", "")
            if (end := self._end_of(text, message)) is not None:
                self.statuses[end] += 1
                return True

    def _end_of(self, text: str, message: TextMessage | BytesMessage) -> str | None:
        """What an answer ended with; None while it goes on."""
        try:
            event = orjson.loads(text)
        except ValueError:
            self.faults.append(f"no JSON: {text[:200]!r}")
            return "no JSON"
        if event.get("type") in TERMINAL:
            return str(event["type"])
        if "status" not in event:
            return None
        error = event.get("error")
        if not (400 <= event["status"] < 500 and isinstance(error, dict) and error.get("message")):
            self.faults.append(f"{text[:300]!r}\n    {str(message.data)[:300]!r}")
        elif leak := leak_in(json.dumps(error).encode()):
            self.faults.append(leak)
        return f"error {event['status']}"
