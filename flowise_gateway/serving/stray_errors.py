"""Logs uncaught errors in greenlets, threads and finalizers."""

from __future__ import annotations

import logging
import sys
import threading
from types import TracebackType
from typing import Any

import gevent

log = logging.getLogger(__name__)


def log_stray_errors() -> None:
    """Log uncaught errors in this process and its forks."""
    threading.excepthook = _thread_failed
    sys.unraisablehook = _not_raised


def log_hub_errors() -> None:
    """Log uncaught errors of this thread's hub; each forked process has its own."""
    hub: Any = gevent.get_hub()
    hub.print_exception = _greenlet_failed


def _greenlet_failed(
    _context: object, kind: type[BaseException], error: BaseException | None, trace: TracebackType | None
) -> None:
    # Without the context, since a greenlet's description contains its arguments.
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
