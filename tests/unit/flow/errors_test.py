"""The tree of errors and what of it goes on the wire."""

from __future__ import annotations

import pytest

from flowise_gateway.flow.errors import (
    AdminsOnly,
    BadRequest,
    BodyTooLarge,
    BodyTooSlow,
    EncodingNotSupported,
    FileNotFound,
    FlowiseMisconfigured,
    FlowiseRefused,
    FlowiseUnavailable,
    HostNotAllowed,
    MethodNotAllowed,
    ModelNotFound,
    NotAuthenticated,
    OriginNotAllowed,
    ProviderRefused,
    ProxyError,
    QuotaExhausted,
    RateLimited,
    ResponseNotFound,
    RunFailed,
    ServerFault,
    StoreUnavailable,
    TooManyWrongKeys,
    UnknownUrl,
    error_body,
    error_headers,
    error_status,
)
from tests.support.openai_check import valid

WIRE: list[tuple[type[ProxyError], int, str, str | None]] = [
    (BadRequest, 400, "invalid_request_error", None),
    (NotAuthenticated, 401, "invalid_request_error", "invalid_api_key"),
    (OriginNotAllowed, 403, "invalid_request_error", "origin_not_allowed"),
    (ModelNotFound, 404, "invalid_request_error", "model_not_found"),
    (HostNotAllowed, 403, "invalid_request_error", "host_not_allowed"),
    (FileNotFound, 404, "invalid_request_error", "file_not_found"),
    (ResponseNotFound, 404, "invalid_request_error", "response_not_found"),
    (StoreUnavailable, 503, "server_error", "store_unavailable"),
    (UnknownUrl, 404, "invalid_request_error", "unknown_url"),
    (MethodNotAllowed, 405, "invalid_request_error", "method_not_supported"),
    (BodyTooSlow, 408, "invalid_request_error", "request_timeout"),
    (BodyTooLarge, 413, "invalid_request_error", "request_too_large"),
    (EncodingNotSupported, 415, "invalid_request_error", "unsupported_content_encoding"),
    (RateLimited, 429, "rate_limit_error", "rate_limit_exceeded"),
    (QuotaExhausted, 429, "insufficient_quota", "insufficient_quota"),
    (TooManyWrongKeys, 429, "rate_limit_error", "too_many_wrong_keys"),
    (AdminsOnly, 403, "invalid_request_error", "admin_key_required"),
    (FlowiseUnavailable, 503, "server_error", "flowise_unavailable"),
    (FlowiseRefused, 400, "upstream_error", "flowise_auth"),
    (FlowiseMisconfigured, 400, "upstream_error", "flowise_misconfigured"),
    (ProviderRefused, 400, "invalid_request_error", None),
    (RunFailed, 400, "upstream_error", "flow_failed"),
    (ServerFault, 500, "server_error", None),
    (ProxyError, 500, "server_error", None),
]
EVERY = [row[0] for row in WIRE]


def test_the_table_holds_every_error() -> None:
    # Other tests derive errors of their own, and one of those may still be alive here.
    ours = {error for error in ProxyError.__subclasses__() if error.__module__ == ProxyError.__module__}
    assert set(EVERY) == {ProxyError, *ours}


@pytest.mark.parametrize(("error", "status", "kind", "code"), WIRE)
def test_an_error_has_its_status_type_and_code(
    error: type[ProxyError], status: int, kind: str, code: str | None
) -> None:
    raised = error("What happened.")
    assert raised.status == status
    assert error_body(raised) == {
        "error": {"message": "What happened.", "type": kind, "param": None, "code": code}
    }


@pytest.mark.parametrize("error", EVERY)
def test_a_body_is_what_the_schema_of_openai_asks_for(error: type[ProxyError]) -> None:
    valid("error", {**error_body(error("What happened.", param="messages", code="a_code"))})


@pytest.mark.parametrize("error", EVERY)
def test_no_error_has_a_status_that_makes_clients_send_again_after_a_run(error: type[ProxyError]) -> None:
    assert error.status not in (409, 422)
    if error.may_have_run:
        assert error.status < 500
        assert error.status not in (408, 429)
        assert error.should_retry is False


@pytest.mark.parametrize("error", [error for error in EVERY if error.status in (408, 429, 503)])
def test_what_asks_to_be_sent_again_has_not_run(error: type[ProxyError]) -> None:
    assert error.may_have_run is False


def test_a_code_of_its_own_replaces_that_of_the_class() -> None:
    error = RunFailed("silent", code="flowise_timeout", param="model")
    assert error_body(error)["error"]["code"] == "flowise_timeout"
    assert error_body(error)["error"]["param"] == "model"
    assert error_body(RunFailed("silent"))["error"]["code"] == "flow_failed"


def test_the_message_is_the_exceptions_text() -> None:
    assert str(BadRequest("The body must be a JSON object.")) == "The body must be a JSON object."


@pytest.mark.parametrize("chosen", [400, 500, 502])
def test_the_operator_chooses_the_status_of_failures_of_a_run_alone(chosen: int) -> None:
    for error in EVERY:
        expected = chosen if error is RunFailed else error.status
        assert error_status(error("x"), chosen) == expected


@pytest.mark.parametrize(
    ("error", "headers"),
    [
        (BadRequest("x"), {}),
        (RunFailed("x"), {"x-should-retry": "false"}),
        (QuotaExhausted("x"), {"x-should-retry": "false"}),
        (FlowiseUnavailable("x"), {}),
        (FlowiseUnavailable("x", retry_after_seconds=2), {"Retry-After": "2", "retry-after-ms": "2000"}),
        (RateLimited("x", retry_after_seconds=0.25), {"Retry-After": "1", "retry-after-ms": "250"}),
        (RateLimited("x", retry_after_seconds=0), {"Retry-After": "1", "retry-after-ms": "1"}),
        (RateLimited("x", retry_after_seconds=90.6), {"Retry-After": "91", "retry-after-ms": "90600"}),
    ],
)
def test_headers_tell_whether_and_when_to_try_again(error: ProxyError, headers: dict[str, str]) -> None:
    assert error_headers(error) == headers


def test_an_error_may_ask_to_be_sent_again() -> None:
    class Again(ProxyError):
        """Not used by the server, but foreseen by the header."""

        should_retry = True

    assert error_headers(Again("x")) == {"x-should-retry": "true"}
