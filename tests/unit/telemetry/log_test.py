"""Log lines and request ids."""

from __future__ import annotations

import contextlib
import json
import logging
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from flowise_gateway.flow.request_scope import request_scope
from flowise_gateway.flow.request_summary import RequestSummary
from flowise_gateway.serving.gunicorn_log import GunicornLog
from flowise_gateway.telemetry.finished import FinishedRequests
from flowise_gateway.telemetry.log import (
    JsonFormatter,
    RequestLog,
    TextFormatter,
    configure_logging,
    log_request,
    request_id,
)

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment


@pytest.fixture(autouse=True)
def _untouched_logging() -> Iterator[None]:
    root = logging.getLogger()
    names = ("urllib3", "requests", "openai", "httpx", "httpcore")
    handlers, level = root.handlers[:], root.level
    levels = {name: logging.getLogger(name).level for name in names}
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, before in levels.items():
        logging.getLogger(name).setLevel(before)


def record(message: str, *args: Any, level: int = logging.INFO, error: bool = False, **fields: Any) -> Any:
    """A log record, with the exception at hand if asked for."""
    exc_info = sys.exc_info() if error else None
    made = logging.LogRecord("proxy.test", level, "file.py", 1, message, args, exc_info)
    made.created, made.msecs = 1_700_000_000.042, 42.0
    if fields:
        made.fields = fields
    return made


def failed(message: str) -> Any:
    """The record of a failure with its traceback."""
    try:
        raise ValueError(message)
    except ValueError:
        return record("it failed", level=logging.ERROR, error=True)


@pytest.mark.parametrize("offered", ["abc", "A-b_c.9", "x" * 64, "0"])
def test_a_harmless_request_id_is_kept(offered: str) -> None:
    assert request_id(offered) == offered


@pytest.mark.parametrize(
    "offered", [None, "", "x" * 65, "a b", "a\n", "a\nb", "é", "<script>", "a/b", "\x00", "a;b"]
)
def test_any_other_request_id_is_replaced(offered: str | None) -> None:
    given = request_id(offered)
    assert given.startswith("req_")
    assert len(given) == 28
    assert given != request_id(offered)


def test_a_json_line_holds_time_level_logger_message_and_fields() -> None:
    line = JsonFormatter().format(record("it is %s", "so", status=200, path="/v1/models"))
    assert json.loads(line) == {
        "time": "2023-11-14T22:13:20.042Z",
        "level": "info",
        "logger": "proxy.test",
        "message": "it is so",
        "status": 200,
        "path": "/v1/models",
    }


@pytest.mark.parametrize("message", ["a\nb\r\nc", '"}{', "\x1b[2J\x00", "\u2028\x85", "Grüße 🙂"])
def test_a_json_line_is_one_line_whatever_it_holds(message: str) -> None:
    line = JsonFormatter().format(record("%s", message, odd=object(), path=message))
    assert "\n" not in line
    assert "\r" not in line
    assert "\x1b" not in line
    assert json.loads(line)["message"] == json.loads(line)["path"] == message


@pytest.mark.parametrize(("message", "fields"), [("\ud800", {}), ("x", {"n": 2**70}), ("x", {"d": {1: 2}})])
def test_a_json_line_can_be_written_whatever_it_holds(message: str, fields: dict[str, Any]) -> None:
    assert json.loads(JsonFormatter().format(record(message, **fields)))


def test_a_json_line_holds_the_traceback_as_text() -> None:
    line = JsonFormatter().format(failed("broken\nhere"))
    assert "\n" not in line
    assert "ValueError: broken\nhere" in json.loads(line)["exception"]


def test_a_text_line_shows_level_message_and_fields() -> None:
    line = TextFormatter().format(record("it is %s", "so", level=logging.WARNING, status=200))
    assert line[8:] == " warning it is so status=200"


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("a\nb", r"a\x0ab"),
        ("\x1b[2J", r"\x1b[2J"),
        ("\u2028", r"\x2028"),
        ("\ud800", r"\xd800"),
        ("ü🙂", "ü🙂"),
    ],
)
def test_control_characters_are_shown_and_never_obeyed(message: str, shown: str) -> None:
    assert TextFormatter().format(record("%s", message)).endswith(shown)
    assert "\n" not in TextFormatter().format(record("m", path=message))
    assert "\x1b" not in TextFormatter().format(record("m", path=message))


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("/v1/models", "/v1/models"),
        (200, "200"),
        (None, "None"),
        ("ü🙂", "ü🙂"),
        ("", '""'),
        ("x status=500", '"x status=500"'),
        ('"', r'"\""'),
        ("a\nb", r'"a\nb"'),
        ("\u2028", r'"\x2028"'),
        ("\x1b[2J", r"\x1b[2J"),
        ("\\", r'"\\"'),
    ],
)
def test_a_value_cannot_be_taken_for_the_next_field(value: object, shown: str) -> None:
    line = TextFormatter().format(record("m", path=value, outcome="ok"))
    assert line.endswith(f"m path={shown} outcome=ok")


def test_a_text_line_has_its_traceback_below_it() -> None:
    first, second, *_, last = TextFormatter().format(failed("broken")).splitlines()
    assert first.endswith("it failed")
    assert second == "Traceback (most recent call last):"
    assert last == "ValueError: broken"


def test_control_characters_in_a_traceback_are_not_obeyed_either() -> None:
    assert "\x1b" not in TextFormatter().format(failed("\x1b[2J"))


def test_gunicorn_tells_of_a_failed_request_without_its_address(caplog: pytest.LogCaptureFixture) -> None:
    try:
        raise ZeroDivisionError
    except ZeroDivisionError:
        GunicornLog(None).exception("Error handling request %s %s", "GET", "/v1/models?key=sk-secret")
    [line] = caplog.records
    assert line.getMessage() == "Error handling request"
    assert line.exc_info


@pytest.mark.parametrize(("as_json", "formatter"), [(True, JsonFormatter), (False, TextFormatter)])
def test_logging_goes_to_one_place_and_libraries_are_kept_quiet(
    as_json: bool, formatter: type[logging.Formatter]
) -> None:
    configure_logging("debug", as_json=as_json)
    configure_logging("debug", as_json=as_json)
    root = logging.getLogger()
    assert root.level == logging.DEBUG
    assert [type(handler.formatter) for handler in root.handlers] == [formatter]
    assert not logging.getLogger("urllib3.connectionpool").isEnabledFor(logging.DEBUG)
    assert not logging.getLogger("requests").isEnabledFor(logging.INFO)


class Body:
    """An answer's body that notes that it was closed."""

    def __init__(self, *pieces: bytes, error: Exception | None = None) -> None:
        self.pieces = pieces
        self.error = error
        self.is_closed = False

    def __iter__(self) -> Iterator[bytes]:
        yield from self.pieces
        if self.error is not None:
            raise self.error

    def close(self) -> None:
        """Note it."""
        self.is_closed = True


def served(
    body: Iterable[bytes],
    *,
    path: str = "/v1/models",
    rule: str | None = None,
    before: Callable[[RequestSummary], None] = lambda _: None,
) -> tuple[Any, list[tuple[Any, ...]]]:
    """What the middleware gives for an application that answers with this body."""
    started: list[tuple[Any, ...]] = []

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        summary = request_scope(environ).summary
        summary.rule = path if rule is None else rule
        before(summary)
        start_response("204 No Content", [("x-a", "b")])
        return body

    def start_response(*args: Any) -> Any:
        started.append(args)

    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": path}
    return RequestLog(application, FinishedRequests(log_request).add)(environ, start_response), started


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Callable[[], list[tuple[int, dict[str, Any]]]]:
    """The request lines written so far: level and fields."""
    caplog.set_level(logging.DEBUG, "proxy.request")
    return lambda: [(line.levelno, line.fields) for line in caplog.records]  # type: ignore[attr-defined]


Lines = Callable[[], list[tuple[int, dict[str, Any]]]]


def test_the_line_of_a_request_is_written_when_its_answer_has_ended(lines: Lines) -> None:
    body = Body(b"a", b"b")
    answer, started = served(body, before=lambda summary: setattr(summary, "model", "m"))
    assert b"".join(answer) == b"ab"
    assert not lines()
    answer.close()
    assert body.is_closed
    assert started == [("204 No Content", [("x-a", "b")])]
    [(level, fields)] = lines()
    assert level == logging.INFO
    assert fields.pop("ms") >= 0
    assert fields == {"method": "GET", "path": "/v1/models", "status": 204, "model": "m", "outcome": "ok"}


def test_an_answer_left_half_read_is_noted_as_a_client_gone(lines: Lines) -> None:
    answer, _ = served(Body(b"a", b"b"))
    next(iter(answer))
    answer.close()
    assert [fields["outcome"] for _, fields in lines()] == ["client_gone"]


def test_an_outcome_that_is_already_known_is_kept(lines: Lines) -> None:
    answer, _ = served(Body(), before=lambda summary: setattr(summary, "outcome", "model_not_found"))
    answer.close()
    assert [fields["outcome"] for _, fields in lines()] == ["model_not_found"]


def test_a_body_without_close_is_served_as_well(lines: Lines) -> None:
    answer, _ = served([b"a"])
    assert list(answer) == [b"a"]
    answer.close()
    assert [fields["outcome"] for _, fields in lines()] == ["ok"]


def test_the_line_is_written_although_closing_fails(lines: Lines) -> None:
    class Broken(Body):
        """A body that cannot be closed."""

        def close(self) -> None:
            """Fail."""
            raise ZeroDivisionError

    answer, _ = served(Broken(b"a"))
    with pytest.raises(ZeroDivisionError):
        answer.close()
    assert len(lines()) == 1


@pytest.mark.parametrize("error", [ZeroDivisionError, SystemExit, GeneratorExit])
def test_an_application_that_fails_is_noted_too(error: type[BaseException], lines: Lines) -> None:
    def fail(_summary: RequestSummary) -> None:
        raise error

    with pytest.raises(error):
        served(Body(), before=fail)
    assert [fields["method"] for _, fields in lines()] == ["GET"]


@pytest.mark.parametrize(
    ("path", "level"),
    [("/health", logging.DEBUG), ("/metrics", logging.DEBUG), ("/v1/models", logging.INFO)],
)
def test_health_checks_are_noted_only_when_debugging(path: str, level: int, lines: Lines) -> None:
    answer, _ = served(Body(), path=path)
    answer.close()
    assert [found for found, _ in lines()] == [level]


FILE = "/v1/flowise/files/<path:token>"
MODEL = "/v1/models/<path:name>"
INPUT = "/v1/responses/<response_id>/input_items"


@pytest.mark.parametrize(
    ("path", "rule", "shown"),
    [
        ("/v1/chat/completions", "/v1/chat/completions", "/v1/chat/completions"),
        ("/", "", "/"),
        ("/v1/flowise/files/c2VjcmV0", FILE, "/v1/flowise/files/…"),
        ("/v1/flowise/files/c2VjcmV0/more", FILE, "/v1/flowise/files/…/…"),
        ("/v1/flowise/files/\nc2VjcmV0", FILE, "/v1/flowise/files/…"),
        ("/v1/models/sk-live-0123456789abcdef", MODEL, "/v1/models/…"),
        ("/v1/models/hunter", MODEL, "/v1/models/…"),
        ("/v1/responses/resp_0af3/input_items", INPUT, "/v1/responses/resp_0af3/input_items"),
        ("/v1/responses/sk-live-0af3/input_items", INPUT, "/v1/responses/…/input_items"),
        ("/v1/embeddings", "", "/v1/embeddings"),
        ("/wp-admin/setup.php", "", "/wp-admin/setup.php"),
        ("/sk-live-0123456789abcdef/v1/chat/completions", "", "/…/v1/chat/completions"),
        ("/v1/correct-horse-battery-staple", "", "/v1/…"),
        ("/v1/key=0123", "", "/v1/…"),
        ("/" + "x" * 10_000, "", "/…"),
        ("/a" * 10_000, "", "/a" * 100),
    ],
)
def test_a_secret_in_a_path_is_not_written_down(path: str, rule: str, shown: str, lines: Lines) -> None:
    answer, _ = served(Body(), path=path, rule=rule)
    answer.close()
    assert lines()[0][1]["path"] == shown


@pytest.mark.parametrize("end", ["never read", "half read", "failed"])
def test_what_a_request_holds_is_given_back_however_it_ends(end: str) -> None:
    given_back: list[str] = []

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        request_scope(environ).on_close.append(lambda: given_back.append(end))
        if end == "failed":
            raise GeneratorExit
        start_response("200 OK", [])
        return [b"a", b"b"]

    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/"}
    with contextlib.suppress(GeneratorExit):
        answer: Any = RequestLog(application, FinishedRequests().add)(environ, lambda *_: lambda _: None)
        if end == "half read":
            next(answer)
        assert not given_back
        answer.close()
    assert given_back == [end]
