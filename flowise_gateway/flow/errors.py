"""The exception hierarchy of all errors that clients can receive, and their serialization.

The status says whether a retry is safe, since clients retry based on the status alone (OpenAI SDKs: 408, 409,
429 and 5xx; LibreChat: 408, 422 and 5xx, seven times): 5xx, 429 and 408 mean that nothing has run; any other
4xx means that a retry cannot help or that a flow may have run. 409 and 422 are never sent.
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
    """The body of every error response."""

    error: ErrorObject


class SettingsError(Exception):
    """An invalid setting; one line with the variable, its value (never a secret) and the allowed values."""


class ProxyError(Exception):
    """Base class of all errors that clients receive; the message is safe to show."""

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
        """Set the fields of the error response; `code` overrides the class's own."""
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code or self.code
        self.retry_after_seconds = retry_after_seconds
        self.headers: dict[str, str] = {}


class BadRequest(ProxyError):
    """The request is invalid; `param` names the field."""

    status = 400
    type = "invalid_request_error"


class NotAuthenticated(ProxyError):
    """The client key is missing or wrong; the answer is the same on every route."""

    status = 401
    type = "invalid_request_error"
    code = "invalid_api_key"


class OriginNotAllowed(ProxyError):
    """A web page from another origin called a server without client keys."""

    status = 403
    type = "invalid_request_error"
    code = "origin_not_allowed"


class HostNotAllowed(ProxyError):
    """The server has no client keys, and Host is a foreign name (DNS rebinding)."""

    status = 403
    type = "invalid_request_error"
    code = "host_not_allowed"


class AdminsOnly(ProxyError):
    """The key is not allowed to see data of other callers."""

    status = 403
    type = "invalid_request_error"
    code = "admin_key_required"


class ModelNotFound(ProxyError):
    """The model does not exist, or the caller may not use it."""

    status = 404
    nothing_ran = True
    type = "invalid_request_error"
    code = "model_not_found"


class FileNotFound(ProxyError):
    """The link to a file is forged or has expired, or the file no longer exists."""

    status = 404
    type = "invalid_request_error"
    code = "file_not_found"


class ResponseNotFound(ProxyError):
    """The caller has no response with this id, or it is no longer stored."""

    status = 404
    type = "invalid_request_error"
    code = "response_not_found"


class StoreUnavailable(ProxyError):
    """The operation needs the store, which is unavailable."""

    status = 503
    nothing_ran = True
    code = "store_unavailable"


class UnknownUrl(ProxyError):
    """There is no route with this path."""

    status = 404
    type = "invalid_request_error"
    code = "unknown_url"


class MethodNotAllowed(ProxyError):
    """The route does not support the method."""

    status = 405
    type = "invalid_request_error"
    code = "method_not_supported"


class BodyTooSlow(ProxyError):
    """The request's body did not arrive within PROXY_BODY_TIMEOUT."""

    status = 408
    type = "invalid_request_error"
    code = "request_timeout"


class BodyTooLarge(ProxyError):
    """The request is larger than this server or Flowise accepts."""

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
    """The address sent too many wrong client keys."""

    status = 429
    nothing_ran = True
    type = "rate_limit_error"
    code = "too_many_wrong_keys"
    should_retry = False


class QuotaExhausted(ProxyError):
    """A daily budget or the quota of the Flowise account is used up; a quick retry does not help."""

    status = 429
    nothing_ran = True
    type = "insufficient_quota"
    code = "insufficient_quota"
    should_retry = False


class FlowiseUnavailable(ProxyError):
    """Flowise is unreachable or temporarily refuses requests; nothing has run."""

    status = 503
    nothing_ran = True
    type = "server_error"
    code = "flowise_unavailable"


class FlowiseRefused(ProxyError):
    """Flowise rejects the gateway's key; nothing has run, and the configuration must be corrected."""

    status = 400
    nothing_ran = True
    type = "upstream_error"
    code = "flowise_auth"
    should_retry = False


class FlowiseMisconfigured(ProxyError):
    """The configured URL is not Flowise's API, or Flowise's settings forbid the call."""

    status = 400
    nothing_ran = True
    type = "upstream_error"
    code = "flowise_misconfigured"
    should_retry = False


class ProviderRefused(ProxyError):
    """The model provider returned an error during the run; the code says which. Tools may have run."""

    status = 400
    type = "invalid_request_error"
    may_have_run = False
    should_retry = False


class RunFailed(ProxyError):
    """A failure after which the flow may have run; its status is PROXY_RUN_ERROR_STATUS."""

    status = 400
    type = "upstream_error"
    code = "flow_failed"
    may_have_run = True
    should_retry = False


class ServerFault(ProxyError):
    """An internal error; details are only in the log."""


def error_body(error: ProxyError) -> ErrorBody:
    """The JSON body of an error, and the data of an error event in a stream."""
    return {"error": {"message": error.message, "type": error.type, "param": error.param, "code": error.code}}


def error_status(error: ProxyError, run_error_status: int) -> int:
    """The HTTP status; `run_error_status` is the setting for failures of a run."""
    return run_error_status if error.may_have_run else error.status


def error_headers(error: ProxyError) -> dict[str, str]:
    """Headers that tell SDKs whether and when to retry (openai-python `_should_retry`)."""
    headers = dict(error.headers)
    if error.should_retry is not None:
        headers["x-should-retry"] = "true" if error.should_retry else "false"
    if error.retry_after_seconds is not None:
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_seconds)))
        headers["retry-after-ms"] = str(max(1, math.ceil(error.retry_after_seconds * 1000)))
    return headers
