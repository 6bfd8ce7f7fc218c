"""Log lines and request ids: one line per request, without prompts, keys or Flowise addresses."""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import orjson

from flowise_gateway.flow.request_scope import RequestScope, request_scope
from flowise_gateway.flow.request_summary import RequestSummary
from flowise_gateway.telemetry.redaction import redacted
from flowise_gateway.telemetry.repeats import Repeats

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

log = logging.getLogger("proxy.request")
repeats = Repeats()
"""The warnings of this process, and how often each occurred."""

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_PLAIN_VALUE = re.compile(r"[^\s\"'=\\]+")
_WORD = re.compile(r"[a-z]+(?:[._-][a-z]+)*")
_OWN_ID = re.compile(r"resp_[0-9A-Za-z]+")
_MAX_PATH, _MAX_WORD, _MAX_AGENT = 200, 24, 200
_QUIET = ("/health", "/metrics")

_MESSAGES = {
    "request": "request",
    "websocket_response": "response over a websocket",
    "background_response": "background response",
}

Finished = Callable[[RequestSummary, str], object]
"""Called with the summary of a finished request, and its outcome unless another is known."""


def request_id(offered: str | None) -> str:
    """The caller's own request id if it is safe, otherwise a new one."""
    if offered and _REQUEST_ID.fullmatch(offered):
        return offered
    return "req_" + os.urandom(12).hex()


def configure_logging(level: str, *, as_json: bool) -> None:
    """Send all log lines to standard error, as JSON objects or as readable text."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if as_json else TextFormatter())
    handler.addFilter(repeats)
    # Lines contain no thread, process or source, so logging need not collect them (Python's logging howto).
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging._srcfile = None
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # urllib3's pool warnings contain Flowise's host; debug lines contain headers and bodies.
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
    for name in ("urllib3", "requests", "openai", "httpx", "httpcore"):
        logging.getLogger(name).setLevel(logging.WARNING)


class JsonFormatter(logging.Formatter):
    """One JSON object per line, whatever the message contains."""

    def format(self, record: logging.LogRecord) -> str:
        """Format the record as one line."""
        line: dict[str, Any] = {
            "time": time.strftime(f"%Y-%m-%dT%H:%M:%S.{int(record.msecs):03}Z", time.gmtime(record.created)),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        try:
            return orjson.dumps(line, default=str, option=orjson.OPT_NON_STR_KEYS).decode()
        except TypeError:  # a lone surrogate, or a number beyond 64 bits
            return json.dumps(line, default=str)


class TextFormatter(logging.Formatter):
    """A line for a terminal; control characters are escaped."""

    def format(self, record: logging.LogRecord) -> str:
        """Format the record as one line, followed by a traceback."""
        fields = "".join(f" {name}={_quoted(value)}" for name, value in getattr(record, "fields", {}).items())
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        line = f"{clock} {record.levelname.lower():7} {_visible(record.getMessage() + fields)}"
        if not record.exc_info:
            return line
        return "\n".join([line, *map(_visible, self.formatException(record.exc_info).splitlines())])


def _quoted(value: object) -> str:
    """A value unchanged, or quoted if it could be taken for the next field."""
    text = str(value)
    return text if _PLAIN_VALUE.fullmatch(text) else json.dumps(text, ensure_ascii=False)


def _visible(text: str) -> str:
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)


class RequestLog:
    """WSGI middleware that reports the end of every request."""

    def __init__(self, application: WSGIApplication, finished: Finished) -> None:
        """Wrap an application, which fills its request's summary; `finished` is called at the end."""
        self._application = application
        self._finished = finished

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Serve the request and report its end."""
        scope = request_scope(environ)
        scope.summary.method, scope.summary.path = environ["REQUEST_METHOD"], environ["PATH_INFO"]

        def noted(status: str, headers: list[tuple[str, str]], *rest: Any) -> Any:
            scope.summary.status = int(status[:3])
            return start_response(status, headers, *rest)

        try:
            body = self._application(environ, noted)
        except BaseException:
            scope.close()
            self._finished(scope.summary, "client_gone")
            raise
        return _Closing(body, scope, self._finished)


def log_request(summary: RequestSummary) -> None:
    """Log a finished request."""
    path, rule = summary.path, summary.rule
    level = logging.DEBUG if path in _QUIET or rule.startswith("/page/") else logging.INFO
    if not log.isEnabledFor(level):
        return
    tokens, first = summary.tokens, summary.first_token
    values = {
        "method": summary.method,
        "path": path if path == rule else _harmless(path, rule),
        "request_id": summary.request_id,
        "trace_id": summary.trace_id,
        "client": summary.client,
        "user_agent": _shown_agent(summary.user_agent),
        "caller": summary.caller,
        "user": summary.user_hash,
        "conversation": summary.conversation_hash,
        "model": summary.model,
        "flowise": summary.flowise,
        "flow": summary.flow,
        "fallback": summary.fallback,
        "response_id": summary.response_id,
        "chat_id": ", ".join(summary.chat_ids),
        "stream": summary.stream,
        "status": summary.status,
        "outcome": summary.outcome,
        "tokens_in": tokens and tokens.input,
        "tokens_out": tokens and tokens.output,
        "tokens_source": tokens and tokens.source,
        "ttft_ms": first and round((first - summary.started) * 1000, 1),
        "ms": round(summary.seconds * 1000, 1),
    }
    fields = {name: value for name, value in values.items() if value is not None and value != ""}
    if summary.prompt is not None:
        fields["prompt"], fields["answer"] = redacted(summary.prompt), redacted(summary.answer)
    log.log(level, _MESSAGES[summary.kind], extra={"fields": fields})


class _Closing:
    """A response body; closing it releases the request's resources and reports its end.

    Not a generator: a dropped one would be closed by a finalizer, where failures cannot be reported.
    """

    def __init__(self, body: Iterable[bytes], scope: RequestScope, finished: Finished) -> None:
        self._body, self._pieces = body, iter(body)
        self._scope = scope
        self._finished = finished
        self._is_whole = False

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        try:
            return next(self._pieces)
        except StopIteration:
            self._is_whole = True
            raise

    def close(self) -> None:
        try:
            close = getattr(self._body, "close", None)
            if close is not None:
                close()
        finally:
            self._scope.close()
            self._finished(self._scope.summary, "ok" if self._is_whole else "client_gone")


@lru_cache(maxsize=1024)
def _shown_agent(agent: str) -> str:
    """The user agent in a form safe to log, since it may contain a key."""
    return redacted(agent[:_MAX_AGENT])


def _harmless(path: str, rule: str) -> str:
    """The path in a form safe to log: it may contain a key or a signed file link.

    It contains the fixed parts of the route, our own ids, and without a route only short plain words.
    """
    known = set(rule.split("/"))
    return "/".join(
        part if part in known or _OWN_ID.fullmatch(part) or (not rule and _is_word(part)) else "…"
        for part in path[:_MAX_PATH].split("/")
    )


def _is_word(part: str) -> bool:
    return part in ("", "v1") or (len(part) <= _MAX_WORD and _WORD.fullmatch(part) is not None)
