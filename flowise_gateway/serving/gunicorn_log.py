"""Gunicorn's log and error pages in the gateway's formats."""

from __future__ import annotations

import json
import logging
import sys
from http import HTTPStatus
from typing import Any

from flowise_gateway.flow.errors import BadRequest, ProxyError, error_body
from flowise_gateway.telemetry.log import request_id


class GunicornLog:
    """Writes gunicorn's log lines to the server's log, start-up lines at debug level."""

    def __init__(self, cfg: Any) -> None:
        """Keep gunicorn's configuration, which gunicorn expects as `cfg`."""
        self.cfg = cfg
        self._log = logging.getLogger("gunicorn")
        self.info = self.debug
        self.error = self._log.error
        self.critical = self._log.critical

    def exception(self, message: object, *_: Any, **__: Any) -> None:
        """Log a failure; as a warning if the client disconnected or stalled, or draining ended its run."""
        error = sys.exc_info()[1]
        if isinstance(error, (OSError, ProxyError)):
            self._log.warning("an answer was cut off: %s", type(error).__name__)
        else:  # without the URL in gunicorn's message, which may contain a key
            self._log.exception("%s", str(message).partition(" %s")[0])

    def debug(self, message: object, *arguments: Any, **named: Any) -> None:
        """Log gunicorn's own steps, without request lines, which may contain a key."""
        if not str(message).startswith(("%s %s", "Ignored", "Invalid")):
            self._log.debug(message, *arguments, **named)

    def warning(self, message: object, *arguments: Any, **named: Any) -> None:
        """Log a warning, without the bytes of an invalid request."""
        if str(message).startswith("Invalid request"):
            message, arguments = "an invalid HTTP request was refused", ()
        self._log.warning(message, *arguments, **named)

    def setup(self, cfg: Any) -> None:
        """Replace the configuration."""
        self.cfg = cfg

    def access(self, *_: Any) -> None:
        """Log nothing: telemetry/log.py logs requests."""

    def reopen_files(self) -> None:
        """Nothing to reopen."""

    def close_on_exec(self) -> None:
        """Nothing to close."""


def write_parse_error(client: Any, status: int, reason: str, message: str) -> None:
    """Answer an invalid HTTP request in OpenAI's format, instead of gunicorn's page."""
    _ = message  # It repeats the request, possibly with a key.
    # Clients would retry gunicorn's 501 for an unknown transfer coding, and fail again.
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
    client.linger()  # Otherwise unread data would reset the connection, and the response would be lost.
