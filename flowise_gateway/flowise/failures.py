"""What Flowise's failures mean: texts, statuses and pages into errors of `flow/errors.py`.

Flowise answers nearly every failure with one status, 500, or with a text in a 200 stream: the text decides.
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
"""Characters of a failure's text that are looked at: behind them a provider may repeat a whole prompt."""

_PREFIX = re.compile(
    r"^(?:Error: |[A-Za-z]+(?:Service|Services)\.[A-Za-z]+ - |Error in [^:\n]{1,80} node: )+"
)
_OF_NODE = re.compile(r"Error in [^:\n]{1,80} node: ")
_TELLING = re.compile(
    # addresses, paths, hosts, keys and settings: whatever a word of plain language does not hold
    r"[/\\@=]|::|:\d|\w\.\w|\w{24}|(?i:\b(?:sk|pk|hf|gsk|key|api|ghp|xox[a-z])[-_][\w*])"
)


def readable(message: str) -> str:
    """A failure's text that may be shown: its first line, without words that look like keys or addresses."""
    first = _PREFIX.sub("", message[:MAX_LOOKED_AT]).strip().split("\n", 1)[0]
    words = re.sub(r"(?i)bearer\s+\S+", "…", first).split()
    return " ".join("…" if _TELLING.search(word) else word for word in words)[:300].strip()


def failure(message: str, flow: str = "", *, has_run: bool = False) -> ProxyError:
    """The error behind a failure text of Flowise, which says all causes with one status.

    The same text may refuse the run of `flow`, or come from a flow or service that the run called: the latter
    once something ran, if it comes from a node, or if it names another flow. What the provider refused
    becomes a 4xx that no client sends again, since tools may have run before.
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
    """Why Flowise did not start the run, if that is what its text says."""
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
    """A failure's text with the settings as they are called for this Flowise."""
    if flowise == DEFAULT_FLOWISE:
        return text
    return _SETTING.sub(lambda found: f"{found[1].lower()} of {flowise} (flowises in proxy.yaml)", text)


def unreachable(cause: NotSent | ConnectionBroken) -> ProxyError:
    """The failure of a call that did not reach Flowise; its cause holds no address."""
    if isinstance(cause, NotTrusted):
        return FlowiseMisconfigured(
            f"Flowise's certificate is not trusted: {cause}. Nothing has run. "
            "Name an authority of your own in FLOWISE_CA_FILE."
        )
    return FlowiseUnavailable(
        f"Flowise cannot be reached: {cause}. Nothing has run; try again later.", retry_after_seconds=1
    )


def no_such_flow() -> ProxyError:
    """The error of a flow that Flowise does not know."""
    return ModelNotFound("The flow behind this model does not exist in Flowise.", param="model")


def _provider(code: str, message: str, param: str | None = None) -> Callable[[], ProxyError]:
    return lambda: ProviderRefused(message, code=code, param=param)


_CAUSES: tuple[tuple[re.Pattern[str], Callable[[], ProxyError]], ...] = (
    (
        re.compile(r"(?i)context.?length|context window|maximum context|too many tokens|prompt is too long"),
        _provider(
            "context_length_exceeded",
            "The conversation is longer than the model of this flow takes; shorten the messages.",
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
        _provider("provider_rate_limited", "The model provider of this flow limits the rate or quota; wait."),
    ),
    (
        re.compile(
            r"(?i)^401\b|incorrect api key|invalid (?:model|api) key|invalid.x-api-key|permission.denied"
        ),
        _provider("provider_auth", "The model provider refused the credential that is set in this flow."),
    ),
)


def refused(head: ReplyHead, body: bytes, flow: str = "") -> ProxyError:
    """The error behind any answer to a prediction of `flow` that is neither a stream nor a JSON 200."""
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
        f"Flowise, or a gateway before it, answered with status {head.status}.", code="flowise_bad_answer"
    )


_WORKS_ANYWAY = "A flow's id works as model all the same, and so do the models of proxy.yaml."


def listing_refused(head: ReplyHead, *, has_key: bool) -> ProxyError:
    """Why Flowise gives no list of its flows."""
    if head.status < 400 or head.status == 404:
        return not_the_api()
    if head.status == 401:
        wanted = "check FLOWISE_API_KEY" if has_key else "set FLOWISE_API_KEY to one of its API keys"
        return FlowiseRefused(
            f"Flowise lists its flows for a key that it knows alone: {wanted}. {_WORKS_ANYWAY}"
        )
    if head.status == 403:
        return FlowiseMisconfigured(
            "Flowise does not let FLOWISE_API_KEY list its flows: give it the right to view chatflows or "
            f"agentflows. {_WORKS_ANYWAY}"
        )
    if error := _by_status(head):
        return error
    return FlowiseUnavailable(
        f"Flowise could not list its flows (status {head.status}).", retry_after_seconds=5
    )


def document_refused(body: bytes) -> ProxyError:
    """The error of a file that Flowise does not read for a flow."""
    answer = _json(body)
    message = answer.get("message") if isinstance(answer, dict) else None
    text = message[:MAX_LOOKED_AT] if isinstance(message, str) else ""
    if re.search("(?i)not enabled", text):
        reason = "the flow takes no files (its setting for full file uploads is off)"
    elif re.search("(?i)not allowed|not supported|invalid file|mime|extension", text):
        reason = "the flow does not take files of this type"
    else:
        reason = "Flowise cannot read it"
    return BadRequest(f"This file cannot be passed on: {reason}.", code="unsupported_content")


def not_the_api() -> ProxyError:
    """The error of an address that answers, but not as Flowise's API does: a page, or a way to elsewhere."""
    return FlowiseMisconfigured(
        "FLOWISE_BASE_URL does not lead to Flowise's API: the answer was neither JSON nor an event stream. "
        "It is Flowise's address with /api/v1, as in https://flows.example.com/api/v1."
    )


def _not_found(message: Any, flow: str) -> ProxyError:
    if not isinstance(message, str):
        return not_the_api()
    is_flow = re.search(r"(?i)\bchatflow \S+ not found", message[:MAX_LOOKED_AT])
    return failure(message, flow) if is_flow else no_such_flow()


def _by_status(head: ReplyHead) -> ProxyError | None:
    """The error that some statuses mean whatever stands in the body."""
    match head.status:
        case 401:
            return FlowiseRefused("Flowise refused the key: check FLOWISE_API_KEY.")
        case 403:
            return FlowiseMisconfigured(
                "Flowise forbids this call: check the flow's allowed origins and the rights of "
                "FLOWISE_API_KEY."
            )
        case 413:
            return BodyTooLarge("The request is larger than Flowise takes (its FLOWISE_FILE_SIZE_LIMIT).")
        case 429:
            return RateLimited(
                "Flowise limits the rate of this flow. Nothing has run; try again later.",
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
