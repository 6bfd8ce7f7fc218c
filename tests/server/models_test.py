"""Flows are models: discovery, names, keys, limits and the file, over real sockets."""

from __future__ import annotations

import hashlib
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests

from flowise_gateway.storage.sqlite_store import SqliteStore
from tests.support.demo_server import DemoServer
from tests.support.openai_check import valid
from tests.support.processes import wait_for
from tests.support.running_proxy import RunningProxy
from tests.support.scripted_server import ScriptedServer, http

ASSISTANT = "5518949f-3ebc-4082-af01-fa2a18623da6"
CLOSED = "00000000-0000-4000-8000-000000000001"


def key_lines(name: str, key: str, *more: str) -> str:
    """A key's entry of the file."""
    digest = hashlib.sha256(key.encode()).hexdigest()
    return "\n".join([f"  - name: {name}", f"    sha256: {digest}", *(f"    {line}" for line in more)])


FILE = f"""
models:
  - id: support
    flow: {ASSISTANT}
    name: Support assistant
    description: Answers questions about orders
    aliases: [gpt-4o]
    fallback: demo-json
  - id: gone
    flow: {CLOSED}
    fallback: support
keys:
{key_lines("all", "key-all")}
{key_lines("sales", "key-sales", "models: [support, 'sales-*']")}
{key_lines("slow", "key-slow", "requests_per_minute: 3")}
{key_lines("narrow", "key-narrow", "max_in_flight: 1")}
{key_lines("wide", "key-wide", "max_in_flight: 4", "requests_per_minute: 6")}
discovery: {{refresh_seconds: 1}}
tasks: {{model: demo-json}}
"""


@pytest.fixture(scope="module")
def flowise() -> Iterator[DemoServer]:
    """A demo Flowise of this file's own, whose flows come and go."""
    with DemoServer("--token-seconds", "0.001") as server:
        yield server


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The proxy.yaml of the server under test."""
    path = tmp_path_factory.mktemp("models") / "proxy.yaml"
    path.write_text(FILE)
    return path


@pytest.fixture(scope="module")
def server(flowise: DemoServer, file: Path) -> Iterator[RunningProxy]:
    """A server with that file."""
    with RunningProxy(file.parent, FLOWISE_BASE_URL=flowise.base_url) as running:
        yield running


def post(server: RunningProxy, path: str, key: str, **body: Any) -> requests.Response:
    """POST with a key."""
    headers = {"Authorization": f"Bearer {key}", "Connection": "close"}
    return requests.post(f"{server.url}{path}", json=body, headers=headers, timeout=30)


def chat(server: RunningProxy, key: str, model: str, text: str = "Hello", **more: Any) -> requests.Response:
    """Ask for a chat completion with a key."""
    messages = [{"role": "user", "content": text}]
    return post(server, "/v1/chat/completions", key, model=model, messages=messages, **more)


def get(server: RunningProxy, path: str, key: str) -> requests.Response:
    """GET with a key."""
    return requests.get(f"{server.url}{path}", headers={"api-key": key, "Connection": "close"}, timeout=30)


def ids(server: RunningProxy, key: str = "key-all", path: str = "/v1/models") -> list[str]:
    """The ids of a list."""
    return [entry["id"] for entry in get(server, path, key).json()["data"]]


def test_models_are_those_of_the_file_and_those_discovered(server: RunningProxy) -> None:
    assert wait_for(lambda: {"support", "demo-agent", "demo-json"} <= set(ids(server)), 5)
    listed = get(server, "/v1/models", "key-all")
    valid("models", listed.content)
    entry = next(e for e in listed.json()["data"] if e["id"] == "support")
    assert (entry["name"], entry["description"]) == ("Support assistant", "Answers questions about orders")
    assert {"permission", "root", "parent", "provider", "status", "lifecycle_status"} <= set(entry)
    assert "demo-assistant" not in ids(server), "the configured model stands for its flow"


def test_what_a_flow_can_do_is_told_once_it_was_asked(server: RunningProxy) -> None:
    def streaming(model: str) -> Any:
        return get(server, f"/v1/models/{model}", "key-all").json()["capabilities"]["streaming"]

    assert wait_for(lambda: streaming("demo-agent") is True and streaming("demo-json") is False, 10)


@pytest.mark.parametrize("path", ["/v1/models", "/models", "/openai/models", "/v1/responses/models"])
def test_every_list_is_the_same_list(server: RunningProxy, path: str) -> None:
    assert ids(server, path=path) == ids(server)


def test_deployments_are_the_models(server: RunningProxy) -> None:
    deployments = get(server, "/openai/deployments?api-version=2022-12-01", "key-all").json()
    assert [d["id"] for d in deployments["data"]] == ids(server)
    assert {d["object"] for d in deployments["data"]} == {"deployment"}


@pytest.mark.parametrize("model", ["support", "gpt-4o", ASSISTANT, ASSISTANT.upper(), "demo-assistant"])
def test_a_model_goes_by_all_its_names(server: RunningProxy, model: str) -> None:
    answer = chat(server, "key-all", model)
    assert (answer.status_code, answer.json()["model"]) == (200, model)


@pytest.mark.parametrize("model", ["demo-agent", "demo-json", CLOSED, "no-such-model"])
def test_another_keys_model_is_404_in_every_route(server: RunningProxy, model: str) -> None:
    assert ids(server, "key-sales") == ["support"]
    answers = [
        chat(server, "key-sales", model),
        chat(server, "key-sales", model, stream=True),
        post(server, "/v1/completions", "key-sales", model=model, prompt="Hello"),
        post(server, "/v1/responses", "key-sales", model=model, input="Hello"),
        post(
            server,
            f"/openai/deployments/{model}/chat/completions",
            "key-sales",
            messages=[{"role": "user", "content": "x"}],
        ),
        get(server, f"/v1/models/{model}", "key-sales"),
        get(server, f"/openai/models/{model}", "key-sales"),
    ]
    for answer in answers:
        valid("error", answer.content)
        assert answer.status_code == 404
        assert answer.json()["error"]["code"] in ("model_not_found", "DeploymentNotFound")
    assert chat(server, "key-sales", "support").status_code == 200


def test_a_new_flow_is_a_model_a_renamed_one_goes_by_both_names_a_deleted_one_is_gone(
    server: RunningProxy, flowise: DemoServer
) -> None:
    row = flowise.control("POST", "/__demo/flows", {"name": "sales Größe"})
    assert wait_for(lambda: "sales-grosse" in ids(server), 5), ids(server)
    assert "sales-grosse" in ids(server, "key-sales")
    assert chat(server, "key-sales", "sales-grosse").status_code == 200
    flowise.control("PUT", f"/__demo/flows/{row['id']}", {"name": "sales team"})
    assert wait_for(lambda: "sales-team" in ids(server), 5)
    assert "sales-grosse" not in ids(server)
    assert chat(server, "key-sales", "sales-grosse").status_code == 200
    assert chat(server, "key-sales", "sales-team").status_code == 200
    flowise.control("DELETE", f"/__demo/flows/{row['id']}")
    assert wait_for(lambda: "sales-team" not in ids(server), 5)
    for name in ("sales-team", "sales-grosse", row["id"]):
        assert chat(server, "key-all", name).status_code == 404


def test_requests_per_minute_are_exact_and_told(server: RunningProxy) -> None:
    answers = [chat(server, "key-slow", "support") for _ in range(5)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429, 429]
    assert [a.headers["x-ratelimit-remaining-requests"] for a in answers[:3]] == ["2", "1", "0"]
    refused = answers[3]
    valid("error", refused.content)
    assert refused.json()["error"]["code"] == "rate_limit_exceeded"
    assert 0 < int(refused.headers["Retry-After"]) <= 60
    assert int(refused.headers["retry-after-ms"]) <= 60_000
    assert get(server, "/v1/models", "key-slow").status_code == 200, "lists are not limited"


def test_requests_in_flight_are_limited_and_freed(server: RunningProxy) -> None:
    headers = {"Authorization": "Bearer key-narrow"}
    body = {"model": "demo-errors", "messages": [{"role": "user", "content": "slow"}], "stream": True}
    url = f"{server.url}/v1/chat/completions"
    with requests.post(url, json=body, headers=headers, stream=True, timeout=30) as first:
        assert first.status_code == 200
        assert chat(server, "key-narrow", "support").status_code == 429
    assert wait_for(lambda: chat(server, "key-narrow", "support").status_code == 200, 5)


def test_several_choices_count_as_so_many_runs_in_every_limit(server: RunningProxy) -> None:
    answer = chat(server, "key-wide", "support", n=4)
    assert (answer.status_code, len(answer.json()["choices"])) == (200, 4)
    assert answer.headers["x-ratelimit-remaining-requests"] == "2"
    refused = chat(server, "key-wide", "support", n=3)
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "rate_limit_exceeded")
    assert refused.headers["x-ratelimit-remaining-requests"] == "2", "a refused request counts for nothing"
    for asked, param in (({"n": 5}, "n"), ({"prompt": ["a"] * 5}, "prompt"), ({"prompt": "a", "n": 5}, "n")):
        if "prompt" in asked:
            refused = post(server, "/v1/completions", "key-narrow", model="support", **asked)
        else:
            refused = chat(server, "key-narrow", "support", **asked)
        valid("error", refused.content)
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, param)
    assert wait_for(lambda: chat(server, "key-narrow", "support").status_code == 200, 5)


@pytest.mark.parametrize("stream", [False, True])
def test_a_fallback_answers_only_if_nothing_has_run(server: RunningProxy, stream: bool) -> None:
    assert chat(server, "key-all", "gone", stream=stream).status_code == 200
    assert wait_for(lambda: '"fallback":"support"' in server.log(), 2)


def test_a_fallback_gets_what_it_can_take(server: RunningProxy, flowise: DemoServer) -> None:
    """The model that stands in takes no images: the one that was asked for is not known to take none."""
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    messages = [
        {"role": "user", "content": [image, {"type": "text", "text": "What is it?"}]},
        {"role": "assistant", "content": "A cat."},
        {"role": "user", "content": "Go on"},
    ]
    flowise.clear()
    body = {"model": "gone", "messages": messages}
    answer = post(server, "/v1/chat/completions", "key-all", **body)
    assert answer.status_code == 200
    assert answer.json()["flowise"]["warnings"][-1].endswith("image (1).")
    assert flowise.records()[-1]["messages"][0]["content"] == "[image left out]\n\nWhat is it?"


def test_a_chat_uis_own_requests_go_to_the_model_for_tasks(server: RunningProxy, flowise: DemoServer) -> None:
    flowise.clear()
    title = (
        "Provide a concise, 5-word-or-less title for the conversation, using title case conventions. "
        "Only return the title itself.\n\nConversation:\nUser: First question about cats\nAI: "
    )
    answer = chat(server, "key-all", "support", title)
    assert (answer.status_code, answer.json()["model"]) == (200, "support")
    chat(server, "key-all", "support", "What is a title?")
    assert [record["flow"] for record in flowise.records()] == ["demo-json", "demo-assistant"]


def test_the_file_is_taken_over_while_serving_and_a_broken_one_is_not(
    server: RunningProxy, file: Path
) -> None:
    file.write_text(
        FILE.replace("id: support", "id: helpdesk").replace("fallback: support", "fallback: helpdesk")
    )
    assert wait_for(lambda: "helpdesk" in ids(server), 3)
    assert chat(server, "key-all", "helpdesk").status_code == 200
    file.write_text("models: [")
    assert wait_for(lambda: get(server, "/ready", "key-all").json().get("config_error"), 3)
    assert "helpdesk" in ids(server)
    assert "config_error" not in requests.get(f"{server.url}/ready", timeout=5).json()
    file.write_text(FILE)
    assert wait_for(lambda: "support" in ids(server), 3)
    assert get(server, "/ready", "key-all").json()["config_error"] is None


def test_a_file_that_loses_its_keys_opens_the_server_to_nobody(server: RunningProxy, file: Path) -> None:
    file.write_text("discovery: {refresh_seconds: 1}\n")
    assert wait_for(lambda: "no longer contains a key" in (ids(server) and server.log()), 4)
    assert "no longer contains a key" in get(server, "/ready", "key-all").json()["config_error"]
    assert requests.get(f"{server.url}/v1/models", timeout=5).status_code == 401
    assert chat(server, "key-sales", "support").status_code == 404
    file.write_text(FILE)
    assert wait_for(lambda: "support" in ids(server), 4)


def test_key_names_are_logged_and_keys_never(server: RunningProxy) -> None:
    chat(server, "key-sales", "support")
    assert wait_for(lambda: '"caller":"sales"' in server.log(), 2)
    assert "key-sales" not in server.log()


def test_a_wrong_file_stops_the_start_with_one_line(tmp_path: Path) -> None:
    (tmp_path / "proxy.yaml").write_text("models:\n  - id: a\n    flow: nothing\n")
    with pytest.raises(RuntimeError) as caught, RunningProxy(tmp_path):
        pass
    assert "proxy.yaml:3: models[0].flow: " in str(caught.value)


def together(count: int, ask: Callable[[int], int]) -> list[int]:
    """Ask many times at once."""
    with ThreadPoolExecutor(min(count, 100)) as threads:
        return list(threads.map(ask, range(count)))


def test_a_thousand_first_requests_cause_at_most_two_listings(flowise: DemoServer, tmp_path: Path) -> None:
    with RunningProxy(tmp_path, FLOWISE_BASE_URL=flowise.base_url) as cold:
        before = flowise.stats()["listings"]
        statuses = together(
            1000, lambda n: get(cold, f"/v1/models/{'demo-agent' if n % 2 else 'x'}", "any").status_code
        )
        assert statuses.count(200) == statuses.count(404) == 500
        assert flowise.stats()["listings"] - before <= 2


@pytest.mark.parametrize("listing", ["hang", 500])
def test_a_listing_that_fails_blocks_no_request_to_a_known_flow(tmp_path: Path, listing: Any) -> None:
    with DemoServer("--token-seconds", "0") as broken:
        broken.control("POST", "/__demo/script", {"listing_status": listing})
        with RunningProxy(tmp_path, FLOWISE_BASE_URL=broken.base_url) as cold:
            began = time.monotonic()
            assert chat(cold, "any", ASSISTANT).status_code == 200
            assert time.monotonic() - began < 1.5
            began = time.monotonic()
            listed = get(cold, "/v1/models", "any")
            assert time.monotonic() - began < 3
            assert (listed.status_code, listed.json()["error"]["code"]) == (503, "flowise_unavailable")


def test_callers_keys_are_passed_through_to_flowise(tmp_path: Path) -> None:
    with DemoServer("--key", "flowise-key", "--token-seconds", "0") as keyed:
        settings = {"FLOWISE_BASE_URL": keyed.base_url, "FLOWISE_KEY_PASSTHROUGH": "true"}
        with RunningProxy(tmp_path, **settings) as server:
            assert "demo-keyed" in ids(server, "flowise-key")
            assert chat(server, "flowise-key", "demo-keyed").status_code == 200
            for path in ("/v1/models", "/openai/deployments", "/v1/models/demo-agent"):
                answer = get(server, path, "another")
                assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")
            assert requests.get(f"{server.url}/v1/models", timeout=5).status_code == 401


def test_keys_of_the_file_are_refused_where_callers_keys_are_passed_through(
    flowise: DemoServer, tmp_path: Path
) -> None:
    path = tmp_path / "proxy.yaml"
    path.write_text("discovery: {refresh_seconds: 1}\n")
    settings = {"FLOWISE_BASE_URL": flowise.base_url, "FLOWISE_KEY_PASSTHROUGH": "true"}
    with RunningProxy(tmp_path, **settings) as server:
        path.write_text(f"keys:\n{key_lines('x', 'key-x')}\n")

        def fault() -> str:
            return str(get(server, "/ready", "any").json()["config_error"])

        assert wait_for(lambda: "keys: must be left out with FLOWISE_KEY_PASSTHROUGH" in fault(), 10)
        assert "demo-agent" in ids(server, "any")


def test_a_flow_of_a_flowise_that_gives_no_list_is_described_all_the_same(tmp_path: Path) -> None:
    with (
        DemoServer("--key", "flowise-key") as keyed,
        RunningProxy(tmp_path, FLOWISE_BASE_URL=keyed.base_url) as cold,
    ):

        def told() -> dict[str, Any]:
            body: dict[str, Any] = get(cold, f"/v1/models/{ASSISTANT}", "any").json()
            return body

        assert wait_for(lambda: told()["capabilities"]["streaming"] is True, 10)
        assert (told()["type"], told()["capabilities"]["memory"]) == ("CHATFLOW", True)
        assert get(cold, "/v1/models", "any").status_code == 400


def test_a_changed_file_forgets_no_names_while_flowise_gives_none(tmp_path: Path) -> None:
    path = tmp_path / "proxy.yaml"
    path.write_text("discovery: {refresh_seconds: 1}\n")
    with DemoServer() as failing, RunningProxy(tmp_path, FLOWISE_BASE_URL=failing.base_url) as server:
        assert "demo-agent" in ids(server, "any")
        failing.control("POST", "/__demo/script", {"listing_status": 500})
        path.write_text(f"discovery: {{refresh_seconds: 1}}\nmodels:\n  - id: mine\n    flow: {ASSISTANT}\n")
        assert wait_for(lambda: "mine" in ids(server, "any"), 10)
        assert "demo-agent" in ids(server, "any")


def test_a_file_rewritten_under_load_loses_no_request(flowise: DemoServer, tmp_path: Path) -> None:
    path = tmp_path / "proxy.yaml"
    contents = [f"models:\n  - id: a{n}\n    flow: {ASSISTANT}\n    aliases: [steady]\n" for n in range(10)]
    contents[3] = contents[7] = "models: ["
    path.write_text(contents[0])
    with RunningProxy(tmp_path, FLOWISE_BASE_URL=flowise.base_url) as server:
        done = threading.Event()

        def rewrite() -> None:
            for content in contents[1:]:
                path.write_text(content)
                done.wait(0.3)

        writer = threading.Thread(target=rewrite)
        writer.start()
        statuses = together(400, lambda _: chat(server, "any", "steady").status_code)
        done.set()
        writer.join()
        assert set(statuses) == {200}


def test_the_last_listing_serves_a_start_without_flowise(tmp_path: Path) -> None:
    with DemoServer() as known:
        with RunningProxy(tmp_path, FLOWISE_BASE_URL=known.base_url) as first:
            assert wait_for(lambda: _has_listing(tmp_path, first, known.base_url), 10)
            before = ids(first, "any")
        address = known.base_url
    with RunningProxy(tmp_path, FLOWISE_BASE_URL=address) as second:
        began = time.monotonic()
        assert ids(second, "any") == before
        assert time.monotonic() - began < 1
        answer = chat(second, "any", "demo-agent")
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "flowise_unavailable")


def _has_listing(folder: Path, server: RunningProxy, address: str) -> bool:
    ids(server, "any")
    store = SqliteStore(folder / "data" / "proxy.sqlite3")
    whose = f"{address}\n"  # and no key
    return store.get(f"listing:{hashlib.sha256(whose.encode()).hexdigest()}") is not None


def test_a_kept_listing_is_shown_for_no_other_address_or_key(tmp_path: Path) -> None:
    with DemoServer("--key", "right") as keyed:
        with RunningProxy(tmp_path, FLOWISE_BASE_URL=keyed.base_url, FLOWISE_API_KEY="right") as first:
            assert "demo-agent" in ids(first, "any")
        address = keyed.base_url
    for settings, is_known in (
        ({"FLOWISE_BASE_URL": address, "FLOWISE_API_KEY": "right"}, True),
        ({"FLOWISE_BASE_URL": address, "FLOWISE_API_KEY": "another"}, False),
        ({"FLOWISE_BASE_URL": "http://127.0.0.1:9", "FLOWISE_API_KEY": "right"}, False),
    ):
        with RunningProxy(tmp_path, **settings) as later:
            listed = get(later, "/v1/models", "any")
            assert listed.status_code == (200 if is_known else 503), listed.text


@pytest.mark.parametrize("path", ["/v1/models", "/openai/deployments", "/v1/responses/models"])
def test_an_unreachable_flowise_is_no_empty_list(tmp_path: Path, path: str) -> None:
    with RunningProxy(tmp_path, FLOWISE_BASE_URL="http://127.0.0.1:9") as server:
        listed = get(server, path, "any")
        valid("error", listed.content)
        assert (listed.status_code, listed.json()["error"]["code"]) == (503, "flowise_unavailable")
        assert "refused" in listed.json()["error"]["message"]
        assert "Retry-After" in listed.headers
        state = get(server, "/ready", "any").json()["flowise"]
        assert (state["reachable"], "refused" in state["error"]) == (False, True)
        assert get(server, f"/v1/models/{ASSISTANT}", "any").status_code == 200
        (tmp_path / "proxy.yaml").write_text(f"models:\n  - id: mine\n    flow: {ASSISTANT}\n")
        assert wait_for(lambda: get(server, "/v1/models", "any").status_code == 200, 5)
        assert ids(server, "any") == ["mine"]


@pytest.mark.parametrize(("key", "cure"), [("", "set FLOWISE_API_KEY"), ("wrong", "check FLOWISE_API_KEY")])
def test_a_missing_or_wrong_key_is_no_empty_list_and_ready_names_it(
    tmp_path: Path, key: str, cure: str
) -> None:
    with (
        DemoServer("--key", "right") as keyed,
        RunningProxy(tmp_path, FLOWISE_BASE_URL=keyed.base_url, FLOWISE_API_KEY=key) as server,
    ):
        listed = get(server, "/v1/models", "any")
        valid("error", listed.content)
        assert (listed.status_code, listed.json()["error"]["code"]) == (400, "flowise_auth")
        assert listed.headers["x-should-retry"] == "false"
        assert cure in listed.json()["error"]["message"]
        state = get(server, "/ready", "any").json()["flowise"]
        assert state["reachable"] is True
        assert cure in state["error"]
        refused = chat(server, "any", "22222222-2222-4222-8222-222222222222")
        assert refused.status_code in (400, 404)


def test_a_flowise_without_flows_is_an_empty_list(tmp_path: Path) -> None:
    rows = http("200 OK", b'{"data":[],"total":0}')
    with ScriptedServer(*[[rows, b""]] * 4) as flowise:
        with RunningProxy(tmp_path, FLOWISE_BASE_URL=flowise.url) as server:
            assert ids(server, "any") == []


def test_a_certificate_that_is_not_trusted_is_named_and_can_be(tmp_path: Path) -> None:
    certificate = tmp_path / "own.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    subject = ["-days", "2", "-subj", "/CN=own", "-addext", "subjectAltName=IP:127.0.0.1"]
    key = tmp_path / "own.key"
    subprocess.run([*command, *subject, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    with ScriptedServer(
        *[[http("200 OK", b'{"data":[],"total":0,"version":"3"}'), b""]] * 20, tls=tls
    ) as flowise:
        with RunningProxy(tmp_path, FLOWISE_BASE_URL=flowise.url) as server:
            listed = get(server, "/v1/models", "any")
            assert (listed.status_code, listed.json()["error"]["code"]) == (400, "flowise_misconfigured")
            for told in (
                listed.json()["error"]["message"],
                get(server, "/ready", "any").json()["flowise"]["error"],
            ):
                assert "certificate is not trusted: it is self-signed" in told
                assert "FLOWISE_CA_FILE" in told
            answer = chat(server, "any", ASSISTANT)
            assert (answer.status_code, answer.json()["error"]["code"]) == (400, "flowise_misconfigured")
        for setting in ("FLOWISE_CA_FILE", "SSL_CERT_FILE"):
            settings = {"FLOWISE_BASE_URL": flowise.url, setting: str(certificate)}
            with RunningProxy(tmp_path, **settings) as server:
                assert ids(server, "any") == []
                assert get(server, "/ready", "any").json()["flowise"] == {
                    "reachable": True,
                    "version": "3",
                    "error": None,
                }


def test_authorities_that_cannot_be_read_stop_the_start_with_one_line(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("no certificate")
    settings = {"FLOWISE_BASE_URL": "https://127.0.0.1:9", "FLOWISE_CA_FILE": str(tmp_path / "ca.pem")}
    with pytest.raises(RuntimeError) as caught, RunningProxy(tmp_path, **settings):
        pass
    assert "FLOWISE_CA_FILE" in str(caught.value)
    assert "Traceback" not in str(caught.value)


def test_limits_are_shared_by_servers_with_one_redis(
    flowise: DemoServer, redis_url: str, tmp_path: Path
) -> None:
    file = f"keys:\n{key_lines('slow', 'key-slow', 'requests_per_minute: 3')}\n"
    settings = {"FLOWISE_BASE_URL": flowise.base_url, "PROXY_STORE": redis_url}
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "proxy.yaml").write_text(file)
    with RunningProxy(tmp_path / "one", **settings) as one, RunningProxy(tmp_path / "two", **settings) as two:
        servers = (one, two, one, two, one)
        statuses = [chat(server, "key-slow", ASSISTANT).status_code for server in servers]
    assert statuses == [200, 200, 200, 429, 429]
