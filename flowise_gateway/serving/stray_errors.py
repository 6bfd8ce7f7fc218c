"""Errors that nobody catches, in greenlets, threads and finalizers: in the log's form instead of Python's."""

from __future__ import annotations

import logging
import sys
import threading
from types import TracebackType
from typing import Any

import gevent

log = logging.getLogger(__name__)


def log_stray_errors() -> None:
    """Log what would be printed, in this process and those that are forked from it."""
    threading.excepthook = _thread_failed
    sys.unraisablehook = _not_raised


def log_hub_errors() -> None:
    """Log what this thread's hub would print; each forked process has a hub of its own."""
    hub: Any = gevent.get_hub()
    hub.print_exception = _greenlet_failed


def _greenlet_failed(
    _context: object, kind: type[BaseException], error: BaseException | None, trace: TracebackType | None
) -> None:
    # Without the context: a greenlet's description repeats its arguments.
    _write("a greenlet failed", kind, error, trace)


def _thread_failed(args: Any) -> None:
    if args.exc_type is not SystemExit:
        _write("a thread failed", args.exc_type, args.exc_value, args.exc_traceback)


def _not_raised(args: Any) -> None:
    _write("an error could not be raised", args.exc_type, args.exc_value, args.exc_traceback)


def _write(
    what: str, kind: type[BaseException], error: BaseException | None, trace: TracebackType | None
) -> None:
    log.error("%s: %s", what, kind.__name__, exc_info=(kind, error or kind(), trace))
