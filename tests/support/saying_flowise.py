"""A Flowise whose only flow says exactly what a test wants, for what the demo's model never says."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.support.thread_server import ThreadServer

FLOW = "11111111-2222-4333-8444-555555555555"

Step = bytes | float | Callable[[], object]
"""A chunk of its own, seconds of silence, or what must return before the next step."""

ENDING = (("metadata", {"chatId": "c", "sessionId": "c"}), ("end", "[DONE]"))
"""The events that end a whole run."""


def event(name: str, data: Any) -> bytes:
    """An event of a stream, as Flowise writes it."""
    line = json.dumps({"event": name, "data": data}, ensure_ascii=False, separators=(",", ":"))
    return f"message:\ndata:{line}\n\n".encode()


def token(text: str) -> bytes:
    """The event of a token."""
    return event("token", text)


def ending() -> bytes:
    """The events that end a whole run, together."""
    return b"".join(event(name, data) for name, data in ENDING)


class SayingFlowise(ThreadServer["_Server"]):
    """Context manager; `says` is the next answers' text, streamed a few letters at a time."""

    def __init__(self) -> None:
        super().__init__(_Server(("127.0.0.1", 0), _Handler))

    @property
    def base_url(self) -> str:
        """Its API's address."""
        return f"http://127.0.0.1:{self.port}/api/v1"

    @property
    def says(self) -> str:
        """What the flow answers from now on."""
        return self._server.says

    @says.setter
    def says(self, text: str) -> None:
        self._server.says = text

    def answers(self, *answers: dict[str, Any]) -> None:
        """Give these JSON answers from now on, one after the other."""
        self._server.answers = list(answers)

    def streams(self, *steps: Step) -> None:
        """Take these steps in streams from now on; an empty chunk breaks the connection off."""
        self._server.steps = steps

    def stores(self, rows: Sequence[Any] | None) -> None:
        """Keep these messages from now on; None: nobody may read them, as without a key."""
        self._server.stored = rows

    @property
    def reads(self) -> list[str]:
        """The ids of the stored messages that were asked for."""
        return self._server.reads

    @property
    def steps_done(self) -> int:
        """How many of the steps have been taken in the last stream."""
        return self._server.steps_done

    @property
    def is_streaming(self) -> bool:
        """Whether the last stream's steps are still being taken, as far as its reader lets them."""
        return self._server.is_streaming

    @property
    def bodies(self) -> list[dict[str, Any]]:
        """What the predictions got."""
        return self._server.bodies


class _Server(ThreadingHTTPServer):
    says = ""
    steps: Sequence[Step] = ()
    steps_done = 0
    is_streaming = False
    stored: Sequence[Any] | None = None

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.bodies: list[dict[str, Any]] = []
        self.answers: list[dict[str, Any]] = []
        self.reads: list[str] = []


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        if self.path.endswith(f"/chatflows-streaming/{FLOW}"):
            self._json({"isStreaming": True})
        elif self.path.endswith("/version"):
            self._json({"version": "3.1.4"})
        elif f"/chatmessage/{FLOW}?messageId=" in self.path:
            self._tell_stored(self.path.partition("=")[2])
        else:
            self._json({"message": "not here"}, 404)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.bodies.append(body)
        ids = {"chatId": body["chatId"], "sessionId": body["chatId"]}
        if body.get("streaming") and self.server.steps:
            self.server.is_streaming = True
            with contextlib.suppress(OSError):
                self._play(self.server.steps)
            self.server.is_streaming = False
        elif body.get("streaming"):
            self._stream(self.server.says, ids)
        elif self.server.answers:
            self._json({**self.server.answers.pop(0), **ids})
        else:
            self._json({"text": self.server.says, **ids})

    def _tell_stored(self, message_id: str) -> None:
        self.server.reads.append(message_id)
        if self.server.stored is None:
            self._json({"error": "Unauthorized Access"}, 401)
        else:
            self._json([row for row in self.server.stored if row["id"] == message_id])

    def _json(self, value: Any, status: int = 200) -> None:
        content = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _stream(self, text: str, ids: dict[str, str]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        tokens = [("token", text[at : at + 5]) for at in range(0, len(text), 5)]
        for name, data in [("start", ""), *tokens, ("metadata", ids), ("end", "[DONE]")]:
            line = json.dumps({"event": name, "data": data})
            self.wfile.write(f"message:\ndata:{line}\n\n".encode())

    def _play(self, steps: Sequence[Step]) -> None:
        self.wfile.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        self.close_connection = True
        self.server.steps_done = 0
        for step in steps:
            if isinstance(step, float):
                time.sleep(step)
            elif not isinstance(step, bytes):
                step()
            elif step:
                self.wfile.write(b"%X\r\n%b\r\n" % (len(step), step))
            else:
                return
            self.server.steps_done += 1
        self.wfile.write(b"0\r\n\r\n")

    def log_message(self, format: str, *arguments: Any) -> None:
        """Say nothing."""
