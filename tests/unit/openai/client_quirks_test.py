"""How an answer is told: the model's choices and the client's traits."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from flowise_gateway.flow.errors import FlowiseUnavailable, ProviderRefused, RunFailed, ServerFault
from flowise_gateway.flow.model import Model
from flowise_gateway.openai.client_quirks import Style, Traits, Wording, style_of, traits_of

LIBRECHAT = Path(__file__).resolve().parents[2] / "wire/librechat"
AGENT, USER = "langchainjs-openai/1.0.0 ((node/v24.21.0; linux; x64))", "6b010cafa0a485bc603a2231"
MODEL = Model("m", "f", "M")


# Its administrator can have the user's id dropped; nothing else tells LibreChat from n8n then.
KNOWN = [path for path in sorted(LIBRECHAT.glob("*.json")) if f'"user": "{USER}"' in path.read_text()]


@pytest.mark.parametrize("path", KNOWN, ids=lambda path: path.stem)
def test_librechat_is_known_by_every_recorded_request_with_its_user(path: Path) -> None:
    request = json.loads(path.read_text())["request"]
    traits = traits_of(request["headers"]["user-agent"], request["body"].get("user"))
    assert traits == Traits(shows_annotations=False, asks_for_usage="azure" in path.stem)


@pytest.mark.parametrize(
    ("agent", "user"),
    [
        ("", None),
        (AGENT, None),
        (AGENT, "n8n"),
        (AGENT, USER.upper()),
        (AGENT, USER + "0"),
        (AGENT, 5),
        ("OpenAI/Python 1.0", USER),
    ],
)
def test_other_clients_are_treated_as_openais_own(agent: str, user: Any) -> None:
    assert traits_of(agent, user) == Traits()
    assert style_of(MODEL, {"user": user}, agent) == Style()


@pytest.mark.parametrize(
    ("choices", "expected"),
    [
        ({}, Style()),
        ({"steps": "off"}, Style(steps=False)),
        ({"sources": "annotations"}, Style()),
        ({"sources": "footer"}, Style(annotations=False, footer=True)),
        ({"sources": "off"}, Style(annotations=False)),
        ({"usage": "always"}, Style(usage=True)),
        ({"usage": "asked"}, Style()),
    ],
)
def test_a_model_chooses(choices: dict[str, Any], expected: Style) -> None:
    assert style_of(Model("m", "f", "M", **choices), {}, "curl/8") == expected


@pytest.mark.parametrize(
    ("choices", "expected"),
    [
        ({}, Style(footer=True, usage=True)),
        ({"sources": "annotations", "usage": "asked"}, Style()),
        ({"sources": "off"}, Style(annotations=False, usage=True)),
    ],
)
def test_librechat_gets_what_it_can_show(choices: dict[str, Any], expected: Style) -> None:
    assert style_of(Model("m", "f", "M", **choices), {"user": USER}, AGENT) == expected


@pytest.mark.parametrize(
    ("agent", "is_codex"),
    [
        ("codex_cli_rs/0.150.1 (Ubuntu 24.4.0; x86_64) xterm-256color", True),
        ("codex-tui/0.150.1 (Mac OS 26.5.0; arm64) iTerm.app/3.6.10 (codex-tui; 0.150.1)", True),
        ("codex_exec/0.98.0 (Windows 11; x86_64) unknown", True),
        ("codex_vscode/0.98.0 (Mac OS 26.5.0; arm64) vscode/1.99", True),
        ("Codex Desktop/26.429.30905 (Mac OS 26.5.0; arm64)", True),
        ("codexample/1.0", False),
        ("my codex_cli_rs/1.0", False),
    ],
)
def test_codex_is_known_by_how_its_user_agent_begins(agent: str, is_codex: bool) -> None:
    assert style_of(MODEL, {}, agent) == Style(repeats_failures=is_codex)


@pytest.mark.parametrize(
    ("metadata", "is_codex"),
    [
        ({"x-codex-turn-metadata": "{}"}, True),
        ({"x-codex-installation-id": "4d36dee5"}, True),
        ({"turn": "1"}, False),
        ("x-codex-turn-metadata", False),
        (None, False),
    ],
)
def test_codex_within_another_program_is_known_by_its_metadata(metadata: Any, is_codex: bool) -> None:
    agent = "under-test/0.171.0 (Debian 12.0.0; x86_64) xterm (under-test; 1)"
    assert style_of(MODEL, {"client_metadata": metadata}, agent) == Style(repeats_failures=is_codex)


@pytest.mark.parametrize(
    ("sources", "expected"), [("auto", True), ("annotations", True), ("footer", False), ("off", False)]
)
def test_open_webui_gets_its_sources_as_its_own_events(sources: str, expected: bool) -> None:
    model = Model("m", "f", "M", sources=sources)
    assert style_of(model, {}, "", is_open_webui=True).source_events is expected
    assert not style_of(model, {}, "").source_events


def test_what_is_parsed_gets_no_footer() -> None:
    model = Model("m", "f", "M", sources="footer")
    assert not style_of(model, {}, "", is_task=True).footer
    for kind in ("json_object", "json_schema"):
        assert not style_of(model, {"response_format": {"type": kind}}, "").footer
    for plain in ({"type": "text"}, None, "json_object"):
        assert style_of(model, {"response_format": plain}, "").footer


# --- failures ---

RETRIED = {
    # opencode 1.18.33, packages/opencode/src/session/retry.ts: of the message and of the body
    "opencode": (
        "(?i)429|500|502|503|504|524",
        "(?i)rate increased too quickly|rate limit|rate-limit|rate_limit|too many requests",
        "(?i)overloaded|service unavailable|service_unavailable|service-unavailable|internal error"
        "|internal_error|internal server error|server error|server_error|server-error"
        "|provider returned error|provider_returned_error|provider-returned-error",
        r"(?i)terminated|fetch failed|failed to fetch|network[-_\s]error|upstream connect|connection error"
        "|connection refused|connection lost|socket connection was closed|socket hang up"
        "|reset before headers|getaddrinfo|enotfound|eai_again|econnrefused|econnreset|etimedout",
        r"(?i)^timeout$|\b(?:request|response|connection|network|stream|read)"
        r" (?:timeout|timed out|time out)\b",
        "(?i)try your request again|retry your request|resource exhausted|resource_exhausted",
        r"(?i)\btry again (?:later|in\b)|\b(?:currently|temporarily) at capacity\b",
        "(?i)too_many_requests|exhausted|unavailable",
    ),
    # litellm 1.81.10, litellm_core_utils/exception_mapping_utils.py, of what aider 0.86.2 sends again
    "LiteLLM": (
        r"\b429\b",
        r"(?i)rate[\s_\-]*limit|service tier capacity exceeded",
        "Request Timeout Error|Request timed out|Timed out generating response|The read operation timed out",
        "A timeout occurred|Web server is returning an unknown error|Request too large",
        "The server had an error processing your request|Mistral API raised a streaming error",
        "content_policy_violation|violating our usage policy",
        "(?i)request was rejected as a result of the safety system",
    ),
    # @continuedev/cli 1.5.47, src/util/exponentialBackoff.ts
    "Continue": (
        "(?i)premature close|premature end|connection reset|socket hang up|aborted|overloaded",
        "server_error|rate_limit_exceeded",
    ),
}
SAID = (
    *(
        "500 The fake model broke",
        "terminated",
        "429 Rate limit reached",
        "HTTP 503 Service Unavailable",
        "50429",
    ),
    *(
        "Timeout",
        "timeout",
        "Request timed out.",
        "Stream timeout",
        "The stream timed out",
        "A timeout occurred",
        "read ETIMEDOUT",
    ),
    *(
        "connect ECONNREFUSED",
        "socket hang up",
        "Premature close",
        "This operation was aborted",
        "fetch failed",
    ),
    *(
        "The engine is currently overloaded, please try again later",
        "RESOURCE_EXHAUSTED: quota",
        "rate-limit",
    ),
    *(
        "Internal Server Error",
        "server_error",
        "provider returned error",
        "Too Many Requests",
        "too_many_requests",
    ),
    *(
        "Rate increased too quickly",
        "Connection error.",
        "network error",
        "getaddrinfo EAI_AGAIN",
        "at capacity",
    ),
    *("Please try your request again", "You can retry your request", "upstream connect error", "rate  limit"),
    *(
        "Request too large for the model",
        "content_policy_violation",
        "Web server is returning an unknown error",
    ),
    *("The server had an error processing your request.", "Mistral API raised a streaming error: x"),
    "Invalid prompt: your prompt was flagged as potentially violating our usage policy",
    "Your request was rejected as a result of the safety system",
)
OPENCODE = "opencode/1.18.33 ai-sdk/provider-utils/4.0.23 runtime/bun/1.3.14"


@pytest.mark.parametrize("client", RETRIED)
@pytest.mark.parametrize("said", SAID)
def test_a_failure_in_any_words_is_sent_again_by_no_client_that_reads_them(said: str, client: str) -> None:
    error = RunFailed(f"The flow failed while it ran: {said}")
    for failed in (error, RunFailed(said)):
        shown = Wording().reworded(failed)
        assert not [one for one in RETRIED[client] if re.search(one, shown.message)]
        assert shown.message.replace("\N{WORD JOINER}", "") == failed.message
        assert failed.message.endswith(said), "the failure that is logged stays as it is"


def test_every_word_that_a_client_looks_for_is_tried() -> None:
    for client, patterns in RETRIED.items():
        for pattern in patterns:
            assert [said for said in SAID if re.search(pattern, said)], (client, pattern)


def test_plain_words_and_settings_are_left_alone() -> None:
    for said in (
        "The flow ended without an answer.",
        "Flowise gave no answer within FLOWISE_REQUEST_TIMEOUT (30 s).",
        "The connection to Flowise ended before the answer was whole.",
        "The model has 4096 tokens, of which 512 are left.",
    ):
        assert Wording().reworded(RunFailed(said)).message == said


def test_a_code_that_sounds_like_another_try_becomes_a_plain_one() -> None:
    limited = Wording().reworded(ProviderRefused("Wait.", code="provider_rate_limited"))
    assert (limited.code, limited.message, limited.type) == ("flow_failed", "Wait.", ProviderRefused.type)
    for code in ("flowise_timeout", "content_filter", "context_length_exceeded", "empty_answer"):
        assert Wording().reworded(RunFailed("It broke.", code=code)).code == code
    ours = Wording().reworded(ServerFault("The server had an error."))
    assert (ours.code, ours.type) == (RunFailed.code, RunFailed.type)


def test_a_failure_before_anything_ran_is_told_as_it_is() -> None:
    error = FlowiseUnavailable("Flowise cannot be reached. Nothing has run; try again later.")
    assert Wording(" (x)").reworded(error, in_stream=True) is error


def test_only_a_stream_needs_the_word_that_litellm_looks_for() -> None:
    [litellm] = {traits_of(agent, None, is_raw=True).wording for agent in LITELLM}
    assert litellm is not None
    error = RunFailed("It broke.")
    assert litellm.reworded(error).message == "It broke."
    assert litellm.reworded(error, in_stream=True).message == "It broke. (invalid_request_error)"


LITELLM = ("OpenAI/Python 2.20.0", "AsyncOpenAI/Python 2.20.0")


@pytest.mark.parametrize(
    ("agent", "is_raw", "expected"),
    [
        (OPENCODE, False, Traits(repeats_failures=True, wording=Wording())),
        ("ls/JS 5.23.2", False, Traits(wording=Wording())),
        ("OpenAI/JS 5.23.2", False, Traits()),
        ("AzureOpenAI/JS 5.23.2", True, Traits()),
        (LITELLM[0], False, Traits()),
        ("my opencode/1", False, Traits()),
        ("", True, Traits()),
    ],
)
def test_clients_that_read_failures_are_known(agent: str, is_raw: bool, expected: Traits) -> None:
    assert traits_of(agent, None, is_raw=is_raw) == expected
    style = style_of(MODEL, {}, agent, is_raw=is_raw)
    assert (style.wording, style.repeats_failures) == (expected.wording, expected.repeats_failures)
