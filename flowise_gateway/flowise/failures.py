"""Converts Flowise's failures (texts, statuses, pages) to the errors of `flow/errors.py`.

Flowise reports nearly every failure as a 500 or as a text in a 200 stream, so the text decides.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import orjson

from flowise_gateway.flow.errors import (
    BadRequest,
    BodyTooLarge,
    FlowiseMisconfigured,
    FlowiseRefused,
    FlowiseUnavailable,
    ModelNotFound,
    ProviderRefused,
    ProxyError,
    QuotaExhausted,
    RateLimited,
    RunFailed,
)
from flowise_gateway.flow.model import DEFAULT_FLOWISE
from flowise_gateway.flowise.transport.base import ConnectionBroken, NotSent, NotTrusted, ReplyHead

_SETTING = re.compile(
    r"FLOWISE_(API_KEY|BASE_URL|CONNECT_TIMEOUT|REQUEST_TIMEOUT|STREAM_IDLE_TIMEOUT|RUN_TIMEOUT|MAX_ATTEMPTS)\b"
)

MAX_LOOKED_AT = 10_000
"""The part of a failure's text that is examined; after it, a provider may repeat a whole prompt."""

_PREFIX = re.compile(
    r"^(?:Error: |[A-Za-z]+(?:Service|Services)\.[A-Za-z]+ - |Error in [^:\n]{1,80} node: )+"
)
_OF_NODE = re.compile(r"Error in [^:\n]{1,80} node: ")
_TELLING = re.compile(
    # URLs, paths, hosts, keys and settings: anything that does not look like a plain word
    r"[/\\@=]|::|:\d|\w\.\w|\w{24}|(?i:\b(?:sk|pk|hf|gsk|key|api|ghp|xox[a-z])[-_][\w*])"
)


def readable(message: str) -> str:
    """The presentable part of a failure's text: its first line, without anything like a key or URL."""
    first = _PREFIX.sub("", message[:MAX_LOOKED_AT]).strip().split("\n", 1)[0]
    words = re.sub(r"(?i)bearer\s+\S+", "…", first).split()
    return " ".join("…" if _TELLING.search(word) else word for word in words)[:300].strip()


def failure(message: str, flow: str = "", *, has_run: bool = False) -> ProxyError:
    """The error for a failure text of Flowise, which uses one status for all causes.

    The same text may mean that the run of `flow` was refused, or come from a flow or service that the run
    called. It is the latter once something has run, if it comes from a node, or if it names another flow.
    Provider errors become a 4xx that no client retries, since tools may have run.
    """
    message = message[:MAX_LOOKED_AT]
    prefix = _PREFIX.match(message)
    bare = message[prefix.end() :].strip() if prefix else message.strip()
    if not has_run and not (prefix and _OF_NODE.search(prefix[0])):
        refusal = _refusal(bare, flow)
        if refusal:
            return refusal
    for pattern, make in _CAUSES:
        if pattern.search(bare):
            return make()
    shown = readable(message)
    return RunFailed(f"The flow failed while it ran: {shown}" if shown else "The flow failed while it ran.")


def _refusal(bare: str, flow: str) -> ProxyError | None:
    """The reason why Flowise did not start the run, if the text says so."""
    if bare == "Unauthorized":
        return FlowiseRefused(
            "Flowise refused the key: set FLOWISE_API_KEY to the key that this flow is bound to in Flowise."
        )
    if re.search("(?i)predictions? limit exceeded", bare):
        return QuotaExhausted("The quota of the Flowise account is used up.")
    missing = re.search(r"(?i)\bchatflow (\S+) not found", bare)
    is_missing = missing and (not flow or missing[1].lower() == flow.lower())
    return no_such_flow() if is_missing or re.search("(?i)invalid chatflow id", bare) else None


def naming_settings_of(flowise: str, text: str) -> str:
    """A failure's text with the names that the settings have for this Flowise."""
    if flowise == DEFAULT_FLOWISE:
        return text
    return _SETTING.sub(lambda found: f"{found[1].lower()} of {flowise} (flowises in proxy.yaml)", text)


def unreachable(cause: NotSent | ConnectionBroken) -> ProxyError:
    """The error of a call that did not reach Flowise; the cause contains no address."""
    if isinstance(cause, NotTrusted):
        return FlowiseMisconfigured(
            f"Flowise's certificate is not trusted: {cause}. Nothing has run. "
            "Set FLOWISE_CA_FILE to your own certificate authority."
        )
    return FlowiseUnavailable(
        f"Flowise cannot be reached: {cause}. Nothing has run; try again later.", retry_after_seconds=1
    )


def no_such_flow() -> ProxyError:
    """The error for a flow that does not exist in Flowise."""
    return ModelNotFound("The flow behind this model does not exist in Flowise.", param="model")


def _provider(code: str, message: str, param: str | None = None) -> Callable[[], ProxyError]:
    return lambda: ProviderRefused(message, code=code, param=param)


_CAUSES: tuple[tuple[re.Pattern[str], Callable[[], ProxyError]], ...] = (
    (
        re.compile(r"(?i)context.?length|context window|maximum context|too many tokens|prompt is too long"),
        _provider(
            "context_length_exceeded",
            "The conversation exceeds the context length of this flow's model; shorten the messages.",
            "messages",
        ),
    ),
    (
        re.compile(r"(?i)content.?(?:filter|policy|management)|safety system|moderation"),
        _provider("content_filter", "The model provider's content filter refused this request."),
    ),
    (
        re.compile(
            r"(?i)^429\b|rate.?limit|too many requests|exceeded your current quota|insufficient.quota"
        ),
        _provider(
            "provider_rate_limited",
            "The rate limit or quota at this flow's model provider is exceeded; wait before trying again.",
        ),
    ),
    (
        re.compile(
            r"(?i)^401\b|incorrect api key|invalid (?:model|api) key|invalid.x-api-key|permission.denied"
        ),
        _provider("provider_auth", "The model provider rejected the credential configured in this flow."),
    ),
)


def refused(head: ReplyHead, body: bytes, flow: str = "") -> ProxyError:
    """The error for a response to a prediction of `flow` that is neither a stream nor a JSON 200."""
    if head.status < 400:
        return not_the_api()
    if error := _by_status(head):
        return error
    answer = _json(body)
    message = answer.get("message") if isinstance(answer, dict) else None
    if head.status == 404:
        return _not_found(message, flow)
    if isinstance(message, str):
        return failure(message, flow)
    return RunFailed(
        f"Flowise, or a proxy in front of it, answered with status {head.status}.", code="flowise_bad_answer"
    )


_WORKS_ANYWAY = "Flow ids and the models of proxy.yaml still work."


def listing_refused(head: ReplyHead, *, has_key: bool) -> ProxyError:
    """The error if Flowise does not list its flows."""
    if head.status < 400 or head.status == 404:
        return not_the_api()
    if head.status == 401:
        wanted = "check FLOWISE_API_KEY" if has_key else "set FLOWISE_API_KEY to one of its API keys"
        return FlowiseRefused(f"Flowise only lists its flows for a valid API key: {wanted}. {_WORKS_ANYWAY}")
    if head.status == 403:
        return FlowiseMisconfigured(
            "FLOWISE_API_KEY may not list Flowise's flows: give it the permission to view chatflows or "
            f"agentflows. {_WORKS_ANYWAY}"
        )
    if error := _by_status(head):
        return error
    return FlowiseUnavailable(
        f"Flowise could not list its flows (status {head.status}).", retry_after_seconds=5
    )


def document_refused(body: bytes) -> ProxyError:
    """The error for a file that Flowise cannot read for a flow."""
    answer = _json(body)
    message = answer.get("message") if isinstance(answer, dict) else None
    text = message[:MAX_LOOKED_AT] if isinstance(message, str) else ""
    if re.search("(?i)not enabled", text):
        reason = "the flow does not accept files (its setting for full file uploads is off)"
    elif re.search("(?i)not allowed|not supported|invalid file|mime|extension", text):
        reason = "the flow does not accept files of this type"
    else:
        reason = "Flowise cannot read it"
    return BadRequest(f"This file cannot be passed on: {reason}.", code="unsupported_content")


def not_the_api() -> ProxyError:
    """The error for a URL that responds, but not like Flowise's API: with a page or a redirect."""
    return FlowiseMisconfigured(
        "FLOWISE_BASE_URL does not point to Flowise's API: the answer was neither JSON nor an event stream. "
        "Set it to Flowise's address with /api/v1, as in https://flows.example.com/api/v1."
    )


def _not_found(message: Any, flow: str) -> ProxyError:
    if not isinstance(message, str):
        return not_the_api()
    is_flow = re.search(r"(?i)\bchatflow \S+ not found", message[:MAX_LOOKED_AT])
    return failure(message, flow) if is_flow else no_such_flow()


def _by_status(head: ReplyHead) -> ProxyError | None:
    """The error for statuses that have one meaning regardless of the body."""
    match head.status:
        case 401:
            return FlowiseRefused("Flowise refused the key: check FLOWISE_API_KEY.")
        case 403:
            return FlowiseMisconfigured(
                "Flowise forbids this call: check the flow's allowed origins and the permissions of "
                "FLOWISE_API_KEY."
            )
        case 413:
            return BodyTooLarge("The request is larger than Flowise accepts (its FLOWISE_FILE_SIZE_LIMIT).")
        case 429:
            return RateLimited(
                "Flowise's rate limit for this flow is exceeded. Nothing has run; try again later.",
                retry_after_seconds=_retry_after(head) or 1,
            )
        case 503:
            return FlowiseUnavailable(
                "Flowise is not available at the moment. Nothing has run; try again later.",
                retry_after_seconds=_retry_after(head) or 1,
            )
        case _:
            return None


def _retry_after(head: ReplyHead) -> float | None:
    text = head.headers.get("retry-after", "")
    return float(text) if text.isascii() and text.isdigit() and len(text) < 7 else None


def _json(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
