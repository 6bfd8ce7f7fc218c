"""Errors that nobody catches are log lines, not what Python prints."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import gevent
import pytest

from flowise_gateway.serving.stray_errors import log_hub_errors, log_stray_errors


@pytest.fixture(autouse=True)
def _own_hooks() -> Iterator[None]:
    before = threading.excepthook, sys.unraisablehook
    log_stray_errors()
    log_hub_errors()
    yield
    threading.excepthook, sys.unraisablehook = before
    hub: Any = gevent.get_hub()
    del hub.print_exception


def fail(secret: str) -> None:
    """Fail, with an argument that must not be shown."""
    raise ZeroDivisionError


def test_a_greenlets_error_is_logged_without_its_arguments(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    gevent.spawn(fail, "canary").join()
    [record] = caplog.records
    assert (record.levelname, record.getMessage()) == ("ERROR", "a greenlet failed: ZeroDivisionError")
    assert record.exc_info
    assert "canary" not in caplog.text
    assert capfd.readouterr().err == ""


def test_a_greenlet_that_was_ended_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    greenlet = gevent.spawn(gevent.sleep, 30)
    gevent.sleep(0)
    greenlet.kill()
    assert not caplog.records


def test_a_threads_error_is_logged(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    for target in (lambda: fail("canary"), sys.exit):
        thread = threading.Thread(target=target)
        thread.start()
        thread.join()
    assert [record.getMessage() for record in caplog.records] == ["a thread failed: ZeroDivisionError"]
    assert capfd.readouterr().err == ""


def test_an_error_in_a_finalizer_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    sys.unraisablehook(
        SimpleNamespace(exc_type=ValueError, exc_value=None, exc_traceback=None, object=None, err_msg=None)
    )
    assert [record.getMessage() for record in caplog.records] == ["an error could not be raised: ValueError"]
