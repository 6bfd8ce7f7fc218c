"""A Flowise whose only flow says exactly what a test wants, for what the demo's model never says."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any

FLOW = "11111111-2222-4333-8444-555555555555"


class SayingFlowise:
    """Context manager; `says` is the next answers' text, streamed a few letters at a time."""

    def __init__(self) -> None:
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self) -> SayingFlowise:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def base_url(self) -> str:
        """Its API's address."""
        return f"http://127.0.0.1:{self._server.server_port}/api/v1"

    @property
    def says(self) -> str:
        """What the flow answers from now on."""
        return self._server.says

    @says.setter
    def says(self, text: str) -> None:
        self._server.says = text

    @property
    def bodies(self) -> list[dict[str, Any]]:
        """What the predictions got."""
        return self._server.bodies


class _Server(ThreadingHTTPServer):
    says = ""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.bodies: list[dict[str, Any]] = []


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        if self.path.endswith(f"/chatflows-streaming/{FLOW}"):
            self._json({"isStreaming": True})
        elif self.path.endswith("/version"):
            self._json({"version": "3.1.4"})
        else:
            self._json({"message": "not here"}, 404)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.bodies.append(body)
        ids = {"chatId": body["chatId"], "sessionId": body["chatId"]}
        if body.get("streaming"):
            self._stream(self.server.says, ids)
        else:
            self._json({"text": self.server.says, **ids})

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

    def log_message(self, format: str, *arguments: Any) -> None:
        """Say nothing."""
