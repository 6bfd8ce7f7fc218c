"""Gunicorn's log and error pages in our forms."""

from __future__ import annotations

import json
import logging
import sys
from http import HTTPStatus
from typing import Any

from flowise_gateway.flow.errors import BadRequest, ProxyError, error_body
from flowise_gateway.telemetry.log import request_id


class GunicornLog:
    """Gunicorn's log lines through the server's log; its start-up lines at level debug."""

    def __init__(self, cfg: Any) -> None:
        """Take gunicorn's configuration, which gunicorn reads back as `cfg`."""
        self.cfg = cfg
        self._log = logging.getLogger("gunicorn")
        self.info = self.debug
        self.error = self._log.error
        self.critical = self._log.critical

    def exception(self, message: object, *_: Any, **__: Any) -> None:
        """Write a failure; as a warning if the client left or read nothing, or the drain ended its run."""
        error = sys.exc_info()[1]
        if isinstance(error, (OSError, ProxyError)):
            self._log.warning("an answer was cut off: %s", type(error).__name__)
        else:  # Without the URL that gunicorn names: it may hold a key.
            self._log.exception("%s", str(message).partition(" %s")[0])

    def debug(self, message: object, *arguments: Any, **named: Any) -> None:
        """Write gunicorn's own steps, but no request line, which may hold a key."""
        if not str(message).startswith(("%s %s", "Ignored", "Invalid")):
            self._log.debug(message, *arguments, **named)

    def warning(self, message: object, *arguments: Any, **named: Any) -> None:
        """Write a warning; without the bytes of a request that could not be parsed."""
        if str(message).startswith("Invalid request"):
            message, arguments = "an invalid HTTP request was refused", ()
        self._log.warning(message, *arguments, **named)

    def setup(self, cfg: Any) -> None:
        """Take a new configuration."""
        self.cfg = cfg

    def access(self, *_: Any) -> None:
        """Write nothing: telemetry/log.py writes the line of a request."""

    def reopen_files(self) -> None:
        """Nothing to reopen."""

    def close_on_exec(self) -> None:
        """Nothing to close."""


def write_parse_error(client: Any, status: int, reason: str, message: str) -> None:
    """Answer what is no HTTP request, in OpenAI's shape; takes the place of gunicorn's page."""
    _ = message  # It repeats what was sent, a key perhaps.
    # Clients send a 5xx again, gunicorn's 501 for an unknown transfer coding too, and it would fail again.
    status = HTTPStatus.BAD_REQUEST if status >= HTTPStatus.INTERNAL_SERVER_ERROR else status
    body = json.dumps(error_body(BadRequest(f"The request could not be read: {reason}."))).encode()
    lines = [
        f"HTTP/1.1 {status:d} {reason}",
        "Connection: close",
        "Content-Type: application/json",
        f"x-request-id: {request_id(None)}",
        f"Content-Length: {len(body)}",
    ]
    client.sendall("\r\n".join([*lines, "", ""]).encode() + body)
    client.linger()  # Else what the client is still sending would reset the connection, and lose the answer.
