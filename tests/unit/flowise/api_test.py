"""Single calls of Flowise's API: listings, probes, versions, and answers that are none."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest

from flowise_gateway.flow.errors import (
    FlowiseMisconfigured,
    FlowiseRefused,
    FlowiseUnavailable,
    ModelNotFound,
    ProxyError,
    RateLimited,
)
from flowise_gateway.flowise.api import FlowiseApi
from flowise_gateway.flowise.run import Limits
from flowise_gateway.flowise.transport.base import read_all
from flowise_gateway.flowise.transport.requests_transport import RequestsTransport
from tests.support.scripted_server import ScriptedServer, http

FLOW = "5518949f-3ebc-4082-af01-fa2a18623da6"


def api_of(server: ScriptedServer) -> FlowiseApi:
    """An API that is called once, and waits no longer than it must."""
    url = f"{server.url}/api/v1"
    return FlowiseApi(url, "key", RequestsTransport(url), Limits(request_timeout=0.2, max_attempts=1))


@pytest.mark.parametrize(
    ("answer", "config"),
    [
        (http("200 OK", b'{"flowData":"{}","uploads":{}}'), {"flowData": "{}", "uploads": {}}),
        (http("200 OK", b'"OK"'), {}),
        (http("404 Not Found", b"<html>", "text/html"), {}),
        (http("500 Error", f'{{"message":"Error: a.b - Chatflow {FLOW} not found"}}'.encode()), None),
    ],
)
def test_what_is_public_of_a_flow_is_read(answer: bytes, config: Any) -> None:
    with ScriptedServer([answer]) as server:
        if config is None:
            with pytest.raises(ModelNotFound):
                api_of(server).public_config(FLOW)
        else:
            assert api_of(server).public_config(FLOW) == config
        assert server.requests[0].startswith(f"GET /api/v1/public-chatbotConfig/{FLOW} ".encode())


@pytest.mark.parametrize(
    "body", [b'[{"id":"a"},5]', b'{"data":[{"id":"a"}],"total":1}', b'{"data":[{"id":"a"}],"total":null}']
)
def test_both_shapes_of_a_listing_are_read(body: bytes) -> None:
    with ScriptedServer([http("200 OK", body)]) as server:
        assert list(api_of(server).flows()) == [{"id": "a"}]


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (http("401 Unauthorized", b'{"error":"Unauthorized Access"}'), "flowise_auth"),
        (http("403 Forbidden", b'{"message":"Forbidden"}'), "flowise_misconfigured"),
        (http("200 OK", b"<html>", "text/html"), "flowise_misconfigured"),
        (http("200 OK", b"{}"), "flowise_misconfigured"),
        (http("500 Error", b"{}"), "flowise_unavailable"),
    ],
)
def test_a_listing_that_is_none_says_why(answer: bytes, code: str) -> None:
    with ScriptedServer([answer]) as server:
        with pytest.raises(ProxyError) as caught:
            list(api_of(server).flows())
        assert caught.value.code == code


@pytest.mark.parametrize(
    "script",
    [
        [],  # not a byte comes
        [b""],  # the connection ends before the head
        [b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n1"],  # the rest never comes
        [b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n1", b""],  # it breaks off
    ],
    ids=["silent", "closed", "stuck", "cut"],
)
def test_an_answer_that_does_not_come_whole_is_no_answer(script: list[bytes]) -> None:
    with ScriptedServer(script) as server, pytest.raises(FlowiseUnavailable):
        api_of(server).get("/version")


@pytest.mark.parametrize(
    ("version", "shown"),
    [(b"3.1.4", "3.1.4"), (b"3.1\\u001b[2J\\n\\u202e4", "3.1[2J4"), (b"9" * 5000, "9" * 64)],
)
def test_a_version_is_shown_without_what_a_terminal_obeys_and_not_for_ever(
    version: bytes, shown: str
) -> None:
    with ScriptedServer([http("200 OK", b'{"version":"%b"}' % version)]) as server:
        assert api_of(server).version() == shown


@pytest.mark.parametrize(
    ("status", "error"),
    [
        ("302 Found", FlowiseMisconfigured),
        ("401 Unauthorized", FlowiseRefused),
        ("403 Forbidden", FlowiseMisconfigured),
        ("404 Not Found", FlowiseMisconfigured),
        ("429 Too Many Requests", RateLimited),
        ("500 Internal Server Error", FlowiseUnavailable),
        ("502 Bad Gateway", FlowiseUnavailable),
    ],
)
def test_a_list_that_is_refused_says_so_in_words_about_a_list(status: str, error: type[ProxyError]) -> None:
    body = b'{"message":"Error: chatflowsService.getAllChatflows - no such column"}'
    with ScriptedServer([http(status, body)]) as server, pytest.raises(error) as caught:
        list(api_of(server).flows())
    assert caught.value.nothing_ran
    assert "column" not in caught.value.message


def test_what_is_opened_is_read_by_the_caller() -> None:
    with ScriptedServer([http("404 Not Found", b"no", "text/plain")]) as server:
        head, reply = api_of(server).get_streaming("/get-upload-file?fileName=x")
        with contextlib.closing(reply):
            assert (head.status, head.headers["content-type"]) == (404, "text/plain")
            assert read_all(reply, 5) == b"no"
        assert server.requests[0].startswith(b"GET /api/v1/get-upload-file?fileName=x HTTP/1.1\r\n")
