"""The demo as a server: listing, control routes, load profiles, HTTP, its process, stored files."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from flowise_demo.__main__ import main
from flowise_demo.http import MAX_BODY_BYTES
from flowise_demo.server import DEMO_FLOWS, DemoOptions
from tests.support.demo_client import (
    Client,
    is_silent,
    prediction,
    read_to_end,
    read_until,
    running,
    wait_for,
)
from tests.support.demo_server import PROJECT, DemoServer

NAMES = "demo-assistant demo-agent demo-sources demo-json demo-approval demo-errors"


def test_the_listing_is_a_bare_array_or_a_page_with_the_total(demo: Client) -> None:
    rows = demo.call("GET", "/api/v1/chatflows").body
    assert {row["name"] for row in rows} >= set(NAMES.split())
    assert {row["id"] for row in rows} >= set(DEMO_FLOWS.values())
    page = demo.call("GET", "/api/v1/chatflows?page=2&limit=3").body
    assert page["total"] == len(rows)
    assert page["data"] == rows[3:6]
    assert len(demo.call("GET", "/api/v1/chatflows?page=x").body) == len(rows)


def test_a_row_has_all_fields_and_a_readable_canvas(demo: Client) -> None:
    row = demo.call("GET", f"/api/v1/chatflows/{DEMO_FLOWS['demo-assistant']}").body
    fields = """
        id name flowData deployed isPublic apikeyid chatbotConfig apiConfig analytic speechToText textToSpeech
        followUpPrompts category type createdDate updatedDate mcpServerConfig webhookSecretConfigured workspaceId
    """
    assert list(row) == fields.split()
    categories = [node["data"]["category"] for node in json.loads(row["flowData"])["nodes"]]
    assert categories == ["Chat Models", "Memory", "Chains"]


def test_the_listing_can_be_narrowed_to_a_type(demo: Client) -> None:
    agents = demo.call("GET", "/api/v1/chatflows?type=AGENTFLOW").body
    assert {row["type"] for row in agents} == {"AGENTFLOW"}
    everything = demo.call("GET", "/api/v1/chatflows?type=NONSENSE").body
    assert {row["type"] for row in everything} == {"AGENTFLOW", "CHATFLOW"}


def test_the_probes_say_what_a_flow_can_do(demo: Client) -> None:
    for name, streams in (("demo-assistant", True), ("demo-json", False)):
        probe = demo.call("GET", f"/api/v1/chatflows-streaming/{DEMO_FLOWS[name]}").body
        assert probe == {"isStreaming": streams}
    config = demo.call("GET", f"/api/v1/public-chatbotConfig/{DEMO_FLOWS['demo-agent']}").body
    assert config["uploads"]["isImageUploadAllowed"] is True
    assert json.loads(config["flowData"])["nodes"][0]["data"]["inputs"]["startInputType"] == "chatInput"


def test_flows_are_created_renamed_and_removed(demo: Client) -> None:
    row = demo.call("POST", "/__demo/flows", {"name": "New", "type": "AGENTFLOW", "category": "a;b"}).body
    assert (row["name"], row["type"], row["category"]) == ("New", "AGENTFLOW", "a;b")
    assert demo.call("GET", "/api/v1/chatflows").body[0]["id"] == row["id"]
    renamed = demo.call("PUT", f"/__demo/flows/{row['id']}", {"name": "Other", "isPublic": True}).body
    assert (renamed["name"], renamed["category"], renamed["isPublic"]) == ("Other", "a;b", True)
    assert "agentFlowEvent" in demo.ask(row["id"], "Hello").names
    demo.call("DELETE", f"/__demo/flows/{row['id']}")
    assert demo.ask(row["id"], "Hello", streaming=False).status == 404
    assert demo.call("POST", "/__demo/flows", {"id": []}).status == 500


def test_a_test_can_make_the_listing_fail_hang_or_recover(demo: Client) -> None:
    demo.call("POST", "/__demo/script", {"listing_status": 503})
    assert demo.call("GET", "/api/v1/chatflows").status == 503
    demo.call("POST", "/__demo/script", {"listing_status": "hang"})
    assert is_silent(demo.send(b"GET /api/v1/chatflows HTTP/1.1\r\nHost: x\r\n\r\n"))
    demo.call("POST", "/__demo/script", {"listing_status": None, "prediction_status": [429, None, 503]})
    assert demo.call("GET", "/api/v1/chatflows").status == 200
    before = demo.stats()["predictions"]
    statuses = [demo.ask("demo-assistant", "Hello").status for _ in range(5)]
    assert statuses == [429, 200, 503, 200, 200]
    assert demo.stats()["predictions"] == before + 5


def test_records_hold_body_headers_and_messages(demo: Client) -> None:
    headers = {"X-Request-Id": "r1", "Authorization": "Bearer k"}
    body = {"question": "Hello", "overrideConfig": {"sessionId": "s"}, "chatId": "c"}
    demo.call("POST", prediction("demo-assistant"), body, headers)
    record = demo.records()[0]
    assert record["flow"] == "demo-assistant"
    assert record["body"] == body
    assert record["headers"]["x-request-id"] == "r1"
    assert record["headers"]["authorization"] == "Bearer k"
    assert record["messages"] == [{"role": "user", "content": "Hello"}]
    assert (record["chat_id"], record["session_id"], record["outcome"]) == ("c", "s", "finished")


def test_without_record_there_are_no_control_routes() -> None:
    with running(DemoOptions()) as client:
        assert client.call("GET", "/__demo/records").text.startswith("<!DOCTYPE html>")
        assert client.call("POST", "/__demo/flows", {"name": "x"}).text.startswith("<!DOCTYPE html>")


def test_the_listing_is_open_without_a_key_and_counts_itself(demo: Client) -> None:
    before = demo.stats()["listings"]
    assert demo.call("GET", "/api/v1/chatflows", headers={"Authorization": "Bearer any"}).status == 200
    assert demo.stats()["listings"] == before + 1


def test_a_keyed_flow_takes_the_demo_key_if_no_other_is_set(demo: Client) -> None:
    headers = {"Authorization": "Bearer demo-key"}
    assert demo.ask("demo-keyed", "Hello", streaming=False).status == 500
    assert demo.call("POST", prediction("demo-keyed"), {"question": "Hello"}, headers).status == 200


def test_a_load_profile_streams_its_tokens_with_the_clock_in_them(demo: Client) -> None:
    started = time.monotonic_ns() // 1000
    reply = demo.ask("be7c5f10-0005-0010-0020-003200000000", "q")
    tokens = [str(data) for name, data in reply.events if name == "token"]
    stamps = [int(token[1:17]) for token in tokens]
    assert [len(token) for token in tokens] == [32] * 5
    assert stamps == sorted(stamps)
    assert started + 20_000 <= stamps[0] < stamps[-1]
    assert reply.names == ["start", "token", "metadata", "end"]


def test_a_load_profile_without_pauses_sends_all_its_tokens(demo: Client) -> None:
    assert len(demo.ask("be7c5f10-0050-0000-0000-000800000000", "q").said) == 400


def test_a_load_profile_answers_json_of_the_size_asked_for(demo: Client) -> None:
    for profile, size in (
        ("be7c5f10-0001-0000-0000-000800000512", 512),
        ("be7c5f10-0004-0001-0001-000800000000", 32),
    ):
        assert len(demo.ask(profile, "q", streaming=False).body["text"]) == size


def test_a_load_profile_is_known_but_not_listed_and_ends_with_its_client(demo: Client) -> None:
    profile = "be7c5f10-9999-0020-0000-000800000000"
    assert demo.call("GET", f"/api/v1/chatflows-streaming/{profile}").body == {"isStreaming": True}
    assert profile not in demo.call("GET", "/api/v1/chatflows").text
    before = demo.stats()["active_runs"]
    stream = demo.open(profile, "q")
    read_until(stream, b'"token"')
    stream.close()
    wait_for(lambda: demo.stats()["active_runs"] == before)


def test_many_streams_are_held_at_once(demo: Client) -> None:
    streams = [demo.open("be7c5f10-0002-0200-0100-002000000000", "q") for _ in range(200)]
    for stream in streams:
        assert read_until(stream, b"\r\n0\r\n\r\n").count(b'"token"') == 2
        stream.close()


def test_a_connection_serves_one_request_after_another(demo: Client) -> None:
    connection = http.client.HTTPConnection(*demo.address, timeout=5)
    with contextlib.closing(connection):
        for _ in range(3):
            connection.request("GET", "/api/v1/ping")
            assert connection.getresponse().read() == b"pong"


def test_requests_sent_at_once_are_answered_in_order(demo: Client) -> None:
    ping = b"GET /api/v1/ping HTTP/1.1\r\nHost: x\r\n\r\n"
    last = b"GET /api/v1/version HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    got = read_to_end(demo.send(ping + ping + last))
    assert got.count(b"pong") == 2
    assert got.endswith(b'{"version":"3.1.4"}')
    assert b"Connection: close" in got


def test_an_idle_connection_is_closed(demo: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowise_demo.http.KEEP_ALIVE_SECONDS", 0.05)
    connection = demo.send(b"GET /api/v1/ping HTTP/1.1\r\nHost: x\r\n\r\n")
    assert read_to_end(connection).endswith(b"pong")


def test_a_client_of_http_1_0_gets_a_stream_without_chunks(demo: Client) -> None:
    body = b'{"question":"Hello","streaming":true}'
    head = f"POST {prediction('demo-assistant')} HTTP/1.0\r\nContent-Type: application/json\r\n"
    got = read_to_end(demo.send(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body))
    assert b"Transfer-Encoding" not in got
    assert got.endswith(b'data:{"event":"end","data":"[DONE]"}\n\n')


def test_a_client_that_waits_for_the_100_gets_it(demo: Client) -> None:
    head = f"POST {prediction('demo-assistant')} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    connection = demo.send(f"{head}Content-Length: 2\r\nExpect: 100-continue\r\n\r\n".encode())
    assert read_until(connection, b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    connection.sendall(b"{}")
    read_until(connection, b"HTTP/1.1 200 OK")


def test_what_is_not_http_is_refused(demo: Client) -> None:
    assert read_to_end(demo.send(b"nonsense\r\n\r\n")).startswith(b"HTTP/1.1 400 Bad Request")


def test_a_body_that_is_too_large_is_refused(demo: Client) -> None:
    reply = demo.call("POST", prediction("demo-assistant"), b"x" * (MAX_BODY_BYTES + 1))
    assert reply.status == 413
    assert reply.body["message"] == "request entity too large"


def test_a_body_nested_too_deeply_is_refused(demo: Client) -> None:
    headers = {"Content-Type": "application/json"}
    assert demo.call("POST", prediction("demo-assistant"), b"[" * 100_000, headers).status == 400


def test_half_a_surrogate_pair_stays_an_escape(demo: Client) -> None:
    for streaming in (True, False):
        assert "\\ud83d" in demo.ask("demo-assistant", "\ud83d", streaming=streaming).text


def test_a_body_that_is_no_object_is_no_body(demo: Client) -> None:
    assert demo.call("POST", prediction("demo-assistant"), [1]).status == 200


def test_a_browser_may_ask_from_anywhere(demo: Client) -> None:
    reply = demo.call("OPTIONS", prediction("demo-assistant"), headers={"Origin": "https://any.example"})
    assert reply.status == 204
    assert reply.header("Access-Control-Allow-Origin") == "https://any.example"


def test_the_process_prints_one_line_and_ends_when_told(demo: Client) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "flowise_demo"], cwd=PROJECT, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        line = json.loads(process.stdout.readline())
        assert Client(line["base_url"]).ask("demo-assistant", "Hello", streaming=False).status == 200
        process.send_signal(signal.SIGTERM)
        assert process.stdout.read() == b""
    assert process.returncode == 0


def test_the_process_ends_with_its_parent() -> None:
    with DemoServer("--token-seconds", "0", "--key", "k") as server:
        client = Client(server.base_url)
        stream = client.open("demo-errors", "silent")
        read_until(stream, b"\r\n\r\n")
        assert client.call("GET", "/api/v1/chatflows").status == 401
        assert server.stats()["active_runs"] == 1
        assert [record["outcome"] for record in server.records()] == ["running"]
        server.clear()
        assert server.records() == []
        process = server._process
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(5) == 0
        stream.close()


def test_a_server_that_cannot_start_says_so() -> None:
    with pytest.raises(RuntimeError), DemoServer("--nonsense"):
        pass


def test_main_serves_until_its_input_ends(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ended = threading.Event()

    def read(_descriptor: int, _size: int) -> bytes:
        return b"" if ended.wait(0.05) else b"more"

    monkeypatch.setattr(os, "read", read)
    threading.Timer(0.1, ended.set).start()
    assert main(["--exit-with-stdin", "--token-seconds", "0"]) == 0
    assert json.loads(capsys.readouterr().out)["base_url"].startswith("http://127.0.0.1:")


def test_a_run_leaves_files_that_are_fetched_by_flow_chat_and_name(demo: Client) -> None:
    flow = DEMO_FLOWS["demo-files"]
    made = demo.ask("demo-files", "Draw", streaming=False, chatId="drawn").body
    assert made["artifacts"][0] == {"type": "png", "data": "FILE-STORAGE::chart.png"}
    assert made["fileAnnotations"][0]["fileName"] == "report.pdf"
    path = f"/api/v1/get-upload-file?chatflowId={flow}&chatId=drawn&fileName=report.pdf"
    report = demo.call("GET", path)
    assert (report.status, report.text[:5]) == (200, "%PDF-")
    assert demo.call("GET", path.replace("drawn", "other")).status == 500
    assert demo.call("GET", path.replace("report.pdf", "other.pdf")).status == 500
    assert demo.call("GET", path.replace("fileName", "name")).status == 500
