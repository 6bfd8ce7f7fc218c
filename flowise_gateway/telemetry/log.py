"""Log lines and request ids: one line a request, without prompts, keys or addresses of others."""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import orjson

from flowise_gateway.flow.request_scope import RequestScope, request_scope

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

log = logging.getLogger("proxy.request")

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_PLAIN_VALUE = re.compile(r"[^\s\"'=\\]+")
_WORD = re.compile(r"[a-z]+(?:[._-][a-z]+)*")
_OWN_ID = re.compile(r"resp_[0-9A-Za-z]+")
_MAX_PATH, _MAX_WORD = 200, 24
_QUIET = ("/health", "/metrics")

Record = Callable[[Mapping[str, Any], str, float], object]
"""Gets a request's line, the rule of its route (empty: no route) and the seconds it took."""


def request_id(offered: str | None) -> str:
    """The caller's own id if it is a harmless one, else a new one."""
    if offered and _REQUEST_ID.fullmatch(offered):
        return offered
    return "req_" + os.urandom(12).hex()


def configure_logging(level: str, *, as_json: bool) -> None:
    """Send all log lines to standard error, as JSON objects or as text a person reads."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if as_json else TextFormatter())
    # No line names its thread, process or source, so logging need not find them out (Python's logging howto).
    logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
    logging._srcfile = None
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # Warnings of urllib3's pool name Flowise's host; debug lines of these libraries hold headers and bodies.
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
    for name in ("urllib3", "requests", "openai", "httpx", "httpcore"):
        logging.getLogger(name).setLevel(logging.WARNING)


class JsonFormatter(logging.Formatter):
    """One JSON object a line, whatever the message holds."""

    def format(self, record: logging.LogRecord) -> str:
        """Put the record on one line."""
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
        except TypeError:  # half a surrogate pair, or a number beyond 64 bits
            return json.dumps(line, default=str)


class TextFormatter(logging.Formatter):
    """A line for a terminal; control characters are shown, never obeyed."""

    def format(self, record: logging.LogRecord) -> str:
        """Put the record on one line, a traceback below it."""
        fields = "".join(f" {name}={_quoted(value)}" for name, value in getattr(record, "fields", {}).items())
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        line = f"{clock} {record.levelname.lower():7} {_visible(record.getMessage() + fields)}"
        if not record.exc_info:
            return line
        return "\n".join([line, *map(_visible, self.formatException(record.exc_info).splitlines())])


def _quoted(value: object) -> str:
    """A value as it is, or in quotes where it could be taken for the line's next field."""
    text = str(value)
    return text if _PLAIN_VALUE.fullmatch(text) else json.dumps(text, ensure_ascii=False)


def _visible(text: str) -> str:
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)


class RequestLog:
    """WSGI middleware that writes the line of a request when its answer has ended, however it ended."""

    def __init__(self, application: WSGIApplication, record: Record = lambda *_: None) -> None:
        """Wrap an application, which adds to its request's `log_fields`; `record` gets them whole."""
        self._application = application
        self._record = record

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Serve the request and note what becomes of it."""
        scope = request_scope(environ)
        fields = scope.log_fields
        fields["method"], fields["path"] = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        started = time.monotonic()

        def noted(status: str, headers: list[tuple[str, str]], *rest: Any) -> Any:
            fields["status"] = int(status[:3])
            return start_response(status, headers, *rest)

        try:
            body = self._application(environ, noted)
        except BaseException:
            scope.close()
            self._write(fields, started, "client_gone")
            raise
        return _Closing(body, scope, partial(self._write, fields, started))

    def _write(self, fields: dict[str, Any], started: float, outcome: str) -> None:
        """Write the line, with this outcome unless another is known."""
        seconds = time.monotonic() - started
        fields.setdefault("outcome", outcome)
        fields["ms"] = round(seconds * 1000, 1)
        rule = fields.pop("rule", "")
        if fields["path"] != rule:
            fields["path"] = _harmless(fields["path"], rule)
        self._record(fields, rule, seconds)
        level = logging.DEBUG if fields["path"] in _QUIET or rule.startswith("/page/") else logging.INFO
        log.log(level, "request", extra={"fields": fields})


class _Closing:
    """An answer's body; closing it releases what the request holds and writes its line.

    Not a generator: one that is dropped would be closed by a finalizer, where no failure can be reported.
    """

    def __init__(self, body: Iterable[bytes], scope: RequestScope, write_line: Callable[[str], None]) -> None:
        self._body, self._pieces = body, iter(body)
        self._scope = scope
        self._write_line = write_line
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
            self._write_line("ok" if self._is_whole else "client_gone")


def _harmless(path: str, rule: str) -> str:
    """The path as it may be logged: a caller may have put a key there, and a file's link opens the file.

    Shown are the words of the route's rule, our own ids, and where there is no route short plain words.
    """
    known = set(rule.split("/"))
    return "/".join(
        part if part in known or _OWN_ID.fullmatch(part) or (not rule and _is_word(part)) else "…"
        for part in path[:_MAX_PATH].split("/")
    )


def _is_word(part: str) -> bool:
    return part in ("", "v1") or (len(part) <= _MAX_WORD and _WORD.fullmatch(part) is not None)
