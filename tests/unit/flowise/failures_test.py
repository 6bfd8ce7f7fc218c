"""What Flowise's failures mean, told from recordings of a real one and from pages of gateways."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from flowise_gateway.flow.errors import (
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
from flowise_gateway.flowise.failures import failure, not_the_api, readable, refused
from flowise_gateway.flowise.transport.base import ReplyHead

RECORDINGS = Path(__file__).resolve().parents[2] / "wire/flowise-3.1.4"
PAGE = b"<!DOCTYPE html>\r\n<html><head><title>502 Bad Gateway</title></head><body>nginx</body></html>"


def recording(name: str) -> tuple[ReplyHead, bytes] | None:
    """A recorded answer, without the `100 Continue` before it; None where not one byte came."""
    head, _, body = (RECORDINGS / f"{name}.http").read_bytes().partition(b"\r\n\r\n")
    while head.startswith(b"HTTP/1.1 100"):
        head, _, body = body.partition(b"\r\n\r\n")
    if not head:
        return None
    status, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.strip().lower(): value.strip() for name, _, value in (x.partition(":") for x in lines)}
    return ReplyHead(int(status.split()[1]), headers), body


RECORDED: list[tuple[str, type[ProxyError], str, int]] = [
    ("abort-af_agent-json", RunFailed, "flow_failed", 400),
    ("abort-af_llm-json", RunFailed, "flow_failed", 400),
    ("err-body-bad-json", RunFailed, "flow_failed", 400),
    ("err-body-bad-json-streaming", RunFailed, "flow_failed", 400),
    ("err-body-too-large", BodyTooLarge, "request_too_large", 413),
    ("err-body-too-large-streaming", BodyTooLarge, "request_too_large", 413),
    ("err-chatid-number", RunFailed, "flow_failed", 400),
    ("err-get-method", FlowiseMisconfigured, "flowise_misconfigured", 400),
    ("err-key-missing-af_llm_keyed-json", FlowiseRefused, "flowise_auth", 400),
    ("err-key-missing-conv_keyed-json", FlowiseRefused, "flowise_auth", 400),
    ("err-key-other-valid-af_llm_keyed-json", FlowiseRefused, "flowise_auth", 400),
    ("err-key-other-valid-conv_keyed-json", FlowiseRefused, "flowise_auth", 400),
    ("err-key-wrong-af_llm_keyed-json", FlowiseRefused, "flowise_auth", 400),
    ("err-key-wrong-conv_keyed-json", FlowiseRefused, "flowise_auth", 400),
    ("err-key-x-api-key", FlowiseRefused, "flowise_auth", 400),
    ("err-llm-429-conv-json", ProviderRefused, "provider_rate_limited", 400),
    ("err-llm-down-af-json", RunFailed, "flow_failed", 400),
    ("err-llm-down-conv-json", RunFailed, "flow_failed", 400),
    ("err-llm-fail401-af_agent-json", ProviderRefused, "provider_auth", 400),
    ("err-llm-fail401-af_llm-json", ProviderRefused, "provider_auth", 400),
    ("err-llm-fail401-conv-json", ProviderRefused, "provider_auth", 400),
    ("err-llm-fail401-toolagent-json", ProviderRefused, "provider_auth", 400),
    ("err-llm-failctx-af_agent-json", ProviderRefused, "context_length_exceeded", 400),
    ("err-llm-failctx-af_llm-json", ProviderRefused, "context_length_exceeded", 400),
    ("err-llm-failctx-conv-json", ProviderRefused, "context_length_exceeded", 400),
    ("err-llm-failctx-toolagent-json", ProviderRefused, "context_length_exceeded", 400),
    ("err-llm-failjson-af_agent-json", RunFailed, "flow_failed", 400),
    ("err-llm-failjson-af_llm-json", RunFailed, "flow_failed", 400),
    ("err-llm-failjson-conv-json", RunFailed, "flow_failed", 400),
    ("err-llm-failjson-toolagent-json", RunFailed, "flow_failed", 400),
    ("err-llm-failmid-af_agent-json", RunFailed, "flow_failed", 400),
    ("err-llm-failmid-af_llm-json", RunFailed, "flow_failed", 400),
    ("err-llm-failmid-conv-json", RunFailed, "flow_failed", 400),
    ("err-llm-failmid-toolagent-json", RunFailed, "flow_failed", 400),
    ("err-malformed-id-json", ModelNotFound, "model_not_found", 404),
    ("err-no-id", FlowiseRefused, "flowise_auth", 400),
    ("err-no-id-slash", RunFailed, "flow_failed", 400),
    ("err-nonstreamable-flow-json", ProviderRefused, "provider_auth", 400),
    ("err-origin-denied-json", FlowiseMisconfigured, "flowise_misconfigured", 400),
    ("err-origin-denied-stream", FlowiseMisconfigured, "flowise_misconfigured", 400),
    ("err-ratelimit-call3-json", RateLimited, "rate_limit_exceeded", 429),
    ("err-ratelimit-stream", RateLimited, "rate_limit_exceeded", 429),
    ("err-sessionid-number", RunFailed, "flow_failed", 400),
    ("err-unknown-api-path-key", FlowiseMisconfigured, "flowise_misconfigured", 400),
    ("err-unknown-api-path-nokey", FlowiseRefused, "flowise_auth", 400),
    ("err-unknown-flow-json", ModelNotFound, "model_not_found", 404),
    ("err-unknown-flow-stream-false-string", ModelNotFound, "model_not_found", 404),
    ("err-unknown-path-post", FlowiseMisconfigured, "flowise_misconfigured", 400),
    ("err-wrong-case", FlowiseRefused, "flowise_auth", 400),
    ("human-6-no-such-execution", RunFailed, "flow_failed", 400),
    ("ok-af_function_error-json", RunFailed, "flow_failed", 400),
    ("ok-key-right-lowercase-bearer", FlowiseRefused, "flowise_auth", 400),
]


def test_every_recorded_refusal_is_in_the_table() -> None:
    refusals = set()
    for path in RECORDINGS.glob("*.http"):
        answer = None if path.stem.startswith("route-") else recording(path.stem)
        if answer and (answer[0].status >= 400 or answer[0].headers["content-type"].startswith("text/html")):
            refusals.add(path.stem)
    assert refusals == {row[0] for row in RECORDED}


@pytest.mark.parametrize(("name", "kind", "code", "status"), RECORDED)
def test_a_recorded_refusal_has_its_class_code_and_status(
    name: str, kind: type[ProxyError], code: str, status: int
) -> None:
    answer = recording(name)
    assert answer is not None
    error = refused(*answer)
    assert (type(error), error.code, error.status) == (kind, code, status)
    assert error.message
    assert not any(leak in error.message for leak in ("predictionsServices", "<html", "sk-", "stack"))


@pytest.mark.parametrize(
    ("status", "headers", "body", "kind", "code"),
    [
        (200, {}, PAGE, FlowiseMisconfigured, "flowise_misconfigured"),
        (204, {}, b"", FlowiseMisconfigured, "flowise_misconfigured"),
        (301, {"location": "https://x/"}, PAGE, FlowiseMisconfigured, "flowise_misconfigured"),
        (307, {}, b"", FlowiseMisconfigured, "flowise_misconfigured"),
        (400, {}, PAGE, RunFailed, "flowise_bad_answer"),
        (401, {}, PAGE, FlowiseRefused, "flowise_auth"),
        (403, {}, b"", FlowiseMisconfigured, "flowise_misconfigured"),
        (404, {}, PAGE, FlowiseMisconfigured, "flowise_misconfigured"),
        (404, {}, b'{"message": 3}', FlowiseMisconfigured, "flowise_misconfigured"),
        (404, {}, b'["message"]', FlowiseMisconfigured, "flowise_misconfigured"),
        (404, {}, b'{"message": "Chatflow x not found"}', ModelNotFound, "model_not_found"),
        (413, {}, PAGE, BodyTooLarge, "request_too_large"),
        (429, {}, b"Slow down", RateLimited, "rate_limit_exceeded"),
        (500, {}, PAGE, RunFailed, "flowise_bad_answer"),
        (500, {}, b'{"message": null}', RunFailed, "flowise_bad_answer"),
        (500, {}, b'{"message": "x', RunFailed, "flowise_bad_answer"),
        (500, {}, b'{"message": ""}', RunFailed, "flow_failed"),
        (500, {}, b'{"message": "Predictions limit exceeded"}', QuotaExhausted, "insufficient_quota"),
        (502, {}, PAGE, RunFailed, "flowise_bad_answer"),
        (503, {}, PAGE, FlowiseUnavailable, "flowise_unavailable"),
        (504, {}, PAGE, RunFailed, "flowise_bad_answer"),
        (524, {}, PAGE, RunFailed, "flowise_bad_answer"),
    ],
)
def test_pages_and_statuses_of_gateways_are_told_apart(
    status: int, headers: Mapping[str, str], body: bytes, kind: type[ProxyError], code: str
) -> None:
    error = refused(ReplyHead(status, headers), body)
    assert (type(error), error.code) == (kind, code)
    assert "<" not in error.message
    assert (str(status) in error.message) is (code == "flowise_bad_answer")


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ({"retry-after": "30"}, 30),
        ({"retry-after": "0"}, 1),
        ({"retry-after": "Wed, 21 Oct 2026 07:28:00 GMT"}, 1),
        ({"retry-after": "-5"}, 1),
        ({"retry-after": ""}, 1),
        ({}, 1),
    ],
)
def test_flowises_own_waiting_time_is_passed_on(
    status: int, header: Mapping[str, str], seconds: float
) -> None:
    assert refused(ReplyHead(status, header), b"").retry_after_seconds == seconds


def test_a_waiting_time_in_odd_digits_is_no_waiting_time() -> None:
    assert refused(ReplyHead(429, {"retry-after": "²"}), b"").retry_after_seconds == 1


def test_an_endless_waiting_time_is_bounded() -> None:
    seconds = refused(ReplyHead(429, {"retry-after": "9" * 400}), b"").retry_after_seconds
    assert seconds is not None
    assert seconds < 10**9


def test_an_answer_that_is_not_the_api_names_the_setting() -> None:
    assert "FLOWISE_BASE_URL" in not_the_api().message


BEFORE = ["", "Error: ", "Error: predictionsServices.buildChatflow - ", "Error: a.b - "]


@pytest.mark.parametrize(
    ("message", "kind", "code"),
    [
        ("Unauthorized", FlowiseRefused, "flowise_auth"),
        ("Unauthorized access to the sheet", RunFailed, "flow_failed"),
        ("401 Unauthorized – wrong key", ProviderRefused, "provider_auth"),
        ("401 Invalid model key", ProviderRefused, "provider_auth"),
        ("4011 items", RunFailed, "flow_failed"),
        ("Incorrect API key provided: sk-abc", ProviderRefused, "provider_auth"),
        ("Chatflow 1234 not found in the database!", ModelNotFound, "model_not_found"),
        ("Invalid Chatflow ID", ModelNotFound, "model_not_found"),
        ("Document not found", RunFailed, "flow_failed"),
        ("Predictions limit exceeded", QuotaExhausted, "insufficient_quota"),
        ("429 Too many", ProviderRefused, "provider_rate_limited"),
        ("Rate limit reached for gpt-4o", ProviderRefused, "provider_rate_limited"),
        ("You exceeded your current quota", ProviderRefused, "provider_rate_limited"),
        ("This model's maximum context length is 8192", ProviderRefused, "context_length_exceeded"),
        ("400 prompt is too long: 9 tokens > 8", ProviderRefused, "context_length_exceeded"),
        ("400 The response was filtered by content management", ProviderRefused, "content_filter"),
        ("Connection error.", RunFailed, "flow_failed"),
        ("", RunFailed, "flow_failed"),
    ],
)
@pytest.mark.parametrize("before", BEFORE[:3])
def test_a_failure_is_known_by_its_text_behind_flowises_prefixes(
    before: str, message: str, kind: type[ProxyError], code: str
) -> None:
    error = failure(before + message)
    assert (type(error), error.code) == (kind, code)


OWN, OTHER = (f"{letter * 8}-0000-4000-8000-000000000000" for letter in "ab")


@pytest.mark.parametrize(
    "message",
    ["Unauthorized", f"Chatflow {OWN} not found", "Invalid Chatflow ID", "Predictions limit exceeded"],
)
def test_what_refuses_a_run_is_not_believed_once_something_ran(message: str) -> None:
    assert failure(BEFORE[2] + message, OWN).nothing_ran
    for error in (
        failure(BEFORE[2] + message, OWN, has_run=True),
        failure(f"{BEFORE[2]}Error in Execute Flow node: {message}", OWN),
    ):
        assert isinstance(error, RunFailed), "of a flow, or a service, that the run called"


def test_another_flow_that_is_missing_says_nothing_of_this_one() -> None:
    assert isinstance(failure(f"Chatflow {OTHER} not found", OWN), RunFailed)
    assert isinstance(failure(f"Chatflow {OWN.upper()} not found", OWN), ModelNotFound)
    answer = b'{"message": "Error: a.b - Chatflow %b not found"}'
    for status in (404, 500):
        assert isinstance(refused(ReplyHead(status, {}), answer % OTHER.encode(), OWN), RunFailed)
        assert isinstance(refused(ReplyHead(status, {}), answer % OWN.encode(), OWN), ModelNotFound)
    assert isinstance(refused(ReplyHead(404, {}), b'{"message": "Not here"}', OWN), ModelNotFound)


@pytest.mark.parametrize("message", ["context length exceeded", "429 Too many"])
def test_what_the_provider_refused_is_believed_at_any_time(message: str) -> None:
    assert isinstance(failure(f"Error in LLM node: {message}", OWN, has_run=True), ProviderRefused)


def test_what_the_model_provider_refused_is_never_a_status_that_is_sent_again() -> None:
    for message in ("429 Too many", "401 no", "maximum context length", "moderation"):
        error = failure(message)
        assert error.status == 400
        assert error.should_retry is False


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("The model broke", "The model broke"),
        ("Error: predictionsServices.buildChatflow - Error in Agent node: It broke", "It broke"),
        ("Error: aServices.b - Error: cService.d - It broke", "It broke"),
        ("It broke\n    at run (/usr/src/app/index.js:1:2)\n    at main", "It broke"),
        ("\n\n It broke \n more", "It broke"),
        ("", ""),
        ("x" * 1000, "…"),
        ("word " * 200, ("word " * 60).strip()),
    ],
)
def test_a_failure_shows_its_first_line_in_short(message: str, shown: str) -> None:
    assert readable(message) == shown


def test_the_readable_text_is_part_of_the_error() -> None:
    assert failure("Error: It broke\nat x").message == "The flow failed while it ran: It broke"
    assert failure("Error: \n").message == "The flow failed while it ran."


WORD = st.text("abcdefghijklmnopqrstuvwxyz0123456789", min_size=4, max_size=12)
HOST = st.builds("{}.{}".format, WORD, st.sampled_from(["internal", "svc.cluster.local", "example.com"]))
PORT = st.integers(1, 65535)
TOKEN = st.text("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789", min_size=8, max_size=60)
SECRETS = st.one_of(
    st.builds("{}-{}".format, st.sampled_from(["sk", "pk", "key", "SK", "xoxb", "sk-proj", "sk-ant"]), TOKEN),
    st.builds("Bearer {}".format, TOKEN),
    TOKEN.map(lambda token: token * 4),
    st.builds(
        "{}://{}:{}/{}".format,
        st.sampled_from(["http", "https", "redis", "postgres", "WS"]),
        HOST,
        PORT,
        WORD,
    ),
    st.builds("{}:{}".format, HOST, PORT),
    st.builds("{}:{}".format, st.ip_addresses(v=4), PORT),
    st.ip_addresses(v=4).map(str),
    st.builds("localhost:{}".format, PORT),
    st.builds("/{}/{}.js".format, WORD, WORD),
    st.builds("/{}/{}/{}".format, WORD, WORD, WORD),
    st.builds("C:\\{}\\{}".format, WORD, WORD),
)
AROUND = st.text("abcXYZ ,.;", max_size=6)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(AROUND, st.sampled_from(' "(=:,[<'), SECRETS, st.sampled_from(' ")]>,;'), AROUND)
@example("Incorrect API key provided", " ", "sk-abcd1234", ".", "")
@example("connect ECONNREFUSED", " ", "10.0.0.7:5432", " ", "")
def test_no_key_address_or_path_is_shown(before: str, left: str, secret: str, right: str, after: str) -> None:
    shown = readable(f"failed {before}{left}{secret}{right}{after}")
    assert secret not in shown
    for part in secret.replace("Bearer ", "").split("://")[-1].split("/"):
        assert len(part) < 8 or part not in shown


@pytest.mark.parametrize(
    "secret",
    [
        "sk-***************************1234",
        "sk-proj-abc_DEF-123",
        "https://user:pw@host/path?key=1",
        "[::1]:11434",
        "[fe80::1]:443",
        "127.0.0.1",
        "/usr/src/packages/server/dist/index.js",
        "C:\\Users\\me\\flow.json",
        "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9",
    ],
)
def test_a_known_form_of_secret_is_not_shown(secret: str) -> None:
    assert readable(f"it broke: {secret} is wrong") == "it broke: … is wrong"


@pytest.mark.parametrize(
    ("message", "secret"),
    [
        ("connect ECONNREFUSED ::1:11434", "::1"),
        ("connect EHOSTUNREACH fe80::a00:27ff:fe4e:66a1:5432", "fe80::a00"),
        ("connect ECONNREFUSED [2001:db8:0:1:1:1:1:1]:443", "2001:db8"),
        ("connect ECONNREFUSED ollama:11434", "ollama:11434"),
        ("getaddrinfo ENOTFOUND vectors.internal.example", "vectors.internal"),
        ("cannot read s3://company-bucket", "company-bucket"),
        ("EACCES: permission refused, mkdir '/secrets'", "/secrets"),
        ("refused with api_key=abcd1234efgh", "abcd1234efgh"),
        ("refused with hf_abcdefgh1234", "hf_abcdefgh1234"),
    ],
)
def test_a_further_form_of_secret_is_not_shown(message: str, secret: str) -> None:
    assert secret not in readable(message)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.text())
def test_any_text_becomes_one_short_line(message: str) -> None:
    shown = readable(message)
    assert "\n" not in shown
    assert len(shown) <= 300


BODIES = st.binary(max_size=50) | st.text().map(lambda text: json.dumps({"message": text}).encode())


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(200, 599), BODIES)
@example(500, b'[{"message": "x"}]')
@example(404, b"null")
def test_any_answer_becomes_an_error_that_no_client_sends_again_by_mistake(status: int, body: bytes) -> None:
    error = refused(ReplyHead(status, {}), body)
    assert error.status not in (408, 409, 422, 500)
    assert (error.status in (429, 503)) is (status in (429, 503) or isinstance(error, QuotaExhausted))
