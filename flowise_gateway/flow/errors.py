"""The tree of errors a caller can meet, and the one function that puts an error on the wire.

The status tells whether sending again is safe, since clients resend by status alone (OpenAI SDKs: 408, 409,
429 and 5xx; LibreChat: 408, 422 and 5xx, seven times): 5xx, 429 and 408 mean that nothing has run, any other
4xx that trying again cannot help or that a flow may have run. 409 and 422 are never sent.
"""

from __future__ import annotations

import math
from typing import ClassVar, TypedDict


class ErrorObject(TypedDict):
    """The value of `error`; OpenAI's schema requires all four keys."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(TypedDict):
    """What every failed request is answered with."""

    error: ErrorObject


class SettingsError(Exception):
    """A bad setting: one line naming the variable, the value (never a secret) and what is allowed."""


class ProxyError(Exception):
    """Base of all errors that reach a caller; its message is safe to show."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    code: str | None = None
    may_have_run: ClassVar[bool] = False
    nothing_ran: ClassVar[bool] = False
    should_retry: ClassVar[bool | None] = None

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after_seconds: float | None = None,
    ) -> None:
        """Keep what the wire needs; `code` overrides the class's own."""
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code or self.code
        self.retry_after_seconds = retry_after_seconds
        self.headers: dict[str, str] = {}


class BadRequest(ProxyError):
    """The body is not what the API defines; `param` names the field."""

    status = 400
    type = "invalid_request_error"


class NotAuthenticated(ProxyError):
    """No client key, or a wrong one: one answer on every route."""

    status = 401
    type = "invalid_request_error"
    code = "invalid_api_key"


class OriginNotAllowed(ProxyError):
    """A web page of another origin called a server that has no client keys."""

    status = 403
    type = "invalid_request_error"
    code = "origin_not_allowed"


class HostNotAllowed(ProxyError):
    """The Host is not this machine's: a web page whose name was made to lead here, and no client keys."""

    status = 403
    type = "invalid_request_error"
    code = "host_not_allowed"


class AdminsOnly(ProxyError):
    """What concerns all callers, asked for with a key that may not see it."""

    status = 403
    type = "invalid_request_error"
    code = "admin_key_required"


class ModelNotFound(ProxyError):
    """No such model, or none that this caller may use."""

    status = 404
    nothing_ran = True
    type = "invalid_request_error"
    code = "model_not_found"


class FileNotFound(ProxyError):
    """A link to a file that is forged or expired, or whose file is gone."""

    status = 404
    type = "invalid_request_error"
    code = "file_not_found"


class ResponseNotFound(ProxyError):
    """No response of this caller has the id, or it is not kept any more."""

    status = 404
    type = "invalid_request_error"
    code = "response_not_found"


class StoreUnavailable(ProxyError):
    """What cannot be done without the store, while the store cannot be used."""

    status = 503
    nothing_ran = True
    code = "store_unavailable"


class UnknownUrl(ProxyError):
    """No route takes this path."""

    status = 404
    type = "invalid_request_error"
    code = "unknown_url"


class MethodNotAllowed(ProxyError):
    """The path exists, the method does not."""

    status = 405
    type = "invalid_request_error"
    code = "method_not_supported"


class BodyTooSlow(ProxyError):
    """The request's body did not arrive within PROXY_BODY_TIMEOUT."""

    status = 408
    type = "invalid_request_error"
    code = "request_timeout"


class BodyTooLarge(ProxyError):
    """The request is larger than this server, or Flowise, takes."""

    status = 413
    type = "invalid_request_error"
    code = "request_too_large"


class EncodingNotSupported(ProxyError):
    """The body is compressed."""

    status = 415
    type = "invalid_request_error"
    code = "unsupported_content_encoding"


class RateLimited(ProxyError):
    """Too many requests; nothing has run."""

    status = 429
    nothing_ran = True
    type = "rate_limit_error"
    code = "rate_limit_exceeded"


class TooManyWrongKeys(ProxyError):
    """An address that goes on sending wrong client keys."""

    status = 429
    nothing_ran = True
    type = "rate_limit_error"
    code = "too_many_wrong_keys"
    should_retry = False


class QuotaExhausted(ProxyError):
    """A budget of the day, or the quota of the Flowise account, is used up: a moment does not help."""

    status = 429
    nothing_ran = True
    type = "insufficient_quota"
    code = "insufficient_quota"
    should_retry = False


class FlowiseUnavailable(ProxyError):
    """Flowise could not be reached or refused for now; nothing has run."""

    status = 503
    nothing_ran = True
    type = "server_error"
    code = "flowise_unavailable"


class FlowiseRefused(ProxyError):
    """Flowise does not take our key; nothing has run and only a setting can help."""

    status = 400
    nothing_ran = True
    type = "upstream_error"
    code = "flowise_auth"
    should_retry = False


class FlowiseMisconfigured(ProxyError):
    """The address given is not Flowise's API, or its settings forbid us the flow."""

    status = 400
    nothing_ran = True
    type = "upstream_error"
    code = "flowise_misconfigured"
    should_retry = False


class ProviderRefused(ProxyError):
    """The model provider refused inside the run; the code says why. Tools may have run before."""

    status = 400
    type = "invalid_request_error"
    may_have_run = False
    should_retry = False


class RunFailed(ProxyError):
    """A failure after which the flow may have run: its status is the setting PROXY_RUN_ERROR_STATUS."""

    status = 400
    type = "upstream_error"
    code = "flow_failed"
    may_have_run = True
    should_retry = False


class ServerFault(ProxyError):
    """Our own fault; details are in the log only."""


def error_body(error: ProxyError) -> ErrorBody:
    """The JSON body of an error, and the data of an error event in a stream."""
    return {"error": {"message": error.message, "type": error.type, "param": error.param, "code": error.code}}


def error_status(error: ProxyError, run_error_status: int) -> int:
    """The HTTP status, `run_error_status` being what the operator chose for failures of a run."""
    return run_error_status if error.may_have_run else error.status


def error_headers(error: ProxyError) -> dict[str, str]:
    """Headers that tell an SDK whether and when to try again (openai-python `_should_retry`)."""
    headers = dict(error.headers)
    if error.should_retry is not None:
        headers["x-should-retry"] = "true" if error.should_retry else "false"
    if error.retry_after_seconds is not None:
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_seconds)))
        headers["retry-after-ms"] = str(max(1, math.ceil(error.retry_after_seconds * 1000)))
    return headers
