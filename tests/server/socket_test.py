"""The WebSocket of the Responses API: who is let in, what is refused, what an idle or rude client costs."""

from __future__ import annotations

import contextlib
import resource
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import requests
from openai.types.responses import ResponseSteerFailedEvent
from wsproto import ConnectionType, WSConnection
from wsproto.events import BytesMessage, CloseConnection, Ping, Pong, Request, TextMessage

from flowise_gateway.conformance.response_shapes import stream_faults
from flowise_gateway.conformance.websocket_client import SocketClient
from flowise_gateway.responses.websocket import WebSocket, WebSocketClosed
from tests.support.demo_server import DemoServer
from tests.support.openai_check import valid
from tests.support.processes import wait_for
from tests.support.running_proxy import RunningProxy

KEY = {"Authorization": "Bearer key"}
IDLE = 1500


@pytest.fixture(scope="module")
def server(demo: DemoServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningProxy]:
    """A server with a key and a small limit of what a request may hold."""
    folder = tmp_path_factory.mktemp("socket")
    settings = {"PROXY_API_KEYS": "key", "PROXY_MAX_BODY_BYTES": "200000"}
    with RunningProxy(folder, FLOWISE_BASE_URL=demo.base_url, **settings) as running:
        yield running


@pytest.mark.parametrize(
    "path", ["/responses", "/v1/responses/", "/openai/v1/responses", "/openai/responses"]
)
def test_a_socket_is_there_under_every_prefix(server: RunningProxy, path: str) -> None:
    with SocketClient(server.url, path, KEY) as client:
        assert client.status == 101
        assert client.headers["x-request-id"].startswith("req_")
        assert client.ask()[-1]["type"] == "response.completed"


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer other"}])
def test_without_a_key_nothing_is_upgraded(server: RunningProxy, headers: dict[str, str]) -> None:
    with SocketClient(server.url, headers=headers) as client:
        assert client.status == 401
        valid("error", client.body)


def test_without_keys_no_foreign_page_is_let_in(proxy: RunningProxy) -> None:
    with SocketClient(proxy.url, headers={"Origin": "https://evil.example"}) as client:
        assert client.status == 403
        assert orjson.loads(client.body)["error"]["code"] == "origin_not_allowed"
    with SocketClient(proxy.url, headers={"Origin": "http://localhost:3000"}) as client:
        assert client.status == 101


def test_a_handshake_that_is_none_is_a_bad_request(server: RunningProxy) -> None:
    headers = {**KEY, "Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
    answer = requests.get(f"{server.url}/v1/responses", headers=headers, timeout=30)
    assert answer.status_code == 400
    valid("error", answer.content)


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ("{", None),
        ("[]", None),
        ('"text"', None),
        ('{"type": "response.cancel"}', "type"),
        ('{"model": "demo-agent", "input": "x"}', "type"),
        ('{"type": "response.create", "input": "x"}', "model"),
        ('{"type": "response.create", "model": "demo-agent"}', "input"),
        (
            '{"type": "response.create", "model": "demo-agent", "input": "x", "background": true}',
            "background",
        ),
    ],
)
def test_a_wrong_message_is_told_and_the_connection_stays(
    server: RunningProxy, message: str, param: str | None
) -> None:
    with SocketClient(server.url, headers=KEY) as client:
        client.send(TextMessage(message))
        error = client.event()
        assert (error["type"], error["status"], error["error"]["param"]) == ("error", 400, param)
        assert set(error["error"]) == {"message", "type", "param", "code"}
        assert client.ask()[-1]["type"] == "response.completed"


@pytest.mark.parametrize(
    ("model", "said", "status"),
    [("nothing", "x", 404), ("demo-errors", "fail500", 400), ("demo-errors", "unavailable", 503)],
)
def test_a_failure_before_the_first_event_has_its_status(
    server: RunningProxy, model: str, said: str, status: int
) -> None:
    with SocketClient(server.url, headers=KEY) as client:
        [error] = client.ask(said, model)
        assert error["status"] == status
        assert client.ask()[-1]["type"] == "response.completed"


def test_a_failure_in_the_middle_is_a_failed_response(server: RunningProxy) -> None:
    with SocketClient(server.url, headers=KEY) as client:
        events = client.ask("failmid", "demo-errors")
        assert events[0]["type"] == "response.created"
        assert not stream_faults(events)
        assert [event["type"] for event in events[-2:]] == ["error", "response.failed"]
        assert events[-2]["message"] == events[-2]["error"]["message"]
        response_id = events[-1]["response"]["id"]
    kept = requests.get(f"{server.url}/v1/responses/{response_id}", headers=KEY, timeout=30)
    assert kept.json() == events[-1]["response"]


def test_what_is_sent_ahead_runs_nothing(server: RunningProxy, demo: DemoServer) -> None:
    with SocketClient(server.url, headers=KEY) as client:
        demo.clear()
        events = client.ask("Hello", generate=False, store=False, stream_id="a")
        kinds = ["response.created", "response.in_progress", "response.completed"]
        assert [event["type"] for event in events] == kinds
        assert {event["stream_id"] for event in events} == {"a"}
        ahead = events[-1]["response"]
        assert (ahead["output"], demo.records()) == ([], [])
        end = client.ask([], store=False, previous_response_id=ahead["id"])[-1]
        assert end["type"] == "response.completed"
        assert demo.records()[-1]["body"]["question"] == "Hello"


def test_each_event_of_a_lane_names_it(server: RunningProxy) -> None:
    with SocketClient(server.url, headers=KEY) as client:
        for lane in ("a", 'b "ü"', "a"):
            events = client.ask(stream_id=lane)
            assert events[-1]["type"] == "response.completed"
            assert {event["stream_id"] for event in events} == {lane}
            assert "stream_id" not in events[-1]["response"]
        assert not any("stream_id" in event for event in client.ask())
        [error] = client.ask(model="nothing", stream_id="c")
        assert (error["status"], error["stream_id"]) == (404, "c")
        for wrong in (5, "x" * 257):
            [error] = client.ask(stream_id=wrong)
            assert (error["error"]["param"], "stream_id" in error) == ("stream_id", False)


STEERED = {"type": "response.steer", "input": [{"type": "message", "role": "user", "content": "Stop that"}]}


def test_steering_gives_the_input_back_while_the_response_runs(folder: Path) -> None:
    with (
        DemoServer("--token-seconds", "0.05") as slow,
        RunningProxy(folder, FLOWISE_BASE_URL=slow.base_url) as proxy,
    ):
        with SocketClient(proxy.url) as client:
            client.say({"type": "response.create", "model": "demo-agent", "input": "Hello", "stream_id": "a"})
            created = client.event()
            response_id = created["response"]["id"]
            client.say({**STEERED, "previous_response_id": response_id})
            events = client.answer()
            [failed] = [event for event in events if event["type"] == "response.steer.failed"]
            assert failed["error"]["code"] == "steering_not_supported"
            assert failed["steer"] == {"previous_response_id": response_id, "input": STEERED["input"]}
            assert failed["stream_id"] == "a"
            ResponseSteerFailedEvent.model_validate(failed, strict=True)
            assert events.index(failed) < len(events) - 2, "answered only after the run"
            numbers = [event["sequence_number"] for event in [created, *events] if event is not failed]
            assert numbers == list(range(len(numbers)))
            assert events[-1]["type"] == "response.completed"
            client.say({**STEERED, "previous_response_id": response_id})
            assert client.event()["error"]["code"] == "response_already_completed"


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({}, "previous_response_id"),
        ({"previous_response_id": 5}, "previous_response_id"),
        ({"previous_response_id": "r", "input": None}, "input"),
        ({"previous_response_id": "r", "input": 5}, "input"),
        ({"previous_response_id": "r", "input": {}}, "input"),
    ],
)
def test_steering_that_makes_no_sense_is_an_error(
    server: RunningProxy, more: dict[str, Any], param: str
) -> None:
    with SocketClient(server.url, headers=KEY) as client:
        client.say({**STEERED, **more})
        error = client.event()
        assert (error["type"], error["status"], error["error"]["param"]) == ("error", 400, param)
        client.say({**STEERED, "previous_response_id": "resp_of_another"})
        assert client.event()["error"]["code"] == "response_not_found"
        # The word alone is no message that steers.
        assert client.ask('"response.steer"')[-1]["type"] == "response.completed"


def test_a_connection_knows_only_its_latest_responses(server: RunningProxy) -> None:
    with SocketClient(server.url, headers=KEY) as client:
        ids = [client.ask(generate=False)[-1]["response"]["id"] for _ in range(65)]
        codes = []
        for response_id in (ids[0], ids[1], ids[-1]):
            client.say({**STEERED, "previous_response_id": response_id})
            codes.append(client.event()["error"]["code"])
        assert codes == ["response_not_found", "response_already_completed", "response_already_completed"]


@pytest.mark.parametrize("pieces", [1, 7])
def test_a_message_that_is_too_large_ends_the_connection(server: RunningProxy, pieces: int) -> None:
    with SocketClient(server.url, headers=KEY) as client:
        with contextlib.suppress(OSError):
            for number in range(pieces):
                client.send(TextMessage("x" * (200_001 // pieces + 1), message_finished=number == pieces - 1))
        assert client.closed().code == 1009


def test_a_large_message_in_pieces_is_read(server: RunningProxy) -> None:
    message = {"type": "response.create", "model": "demo-agent", "input": "ä" * 50_000}
    text = orjson.dumps(message).decode()
    with SocketClient(server.url, headers=KEY) as client:
        for start in range(0, len(text), 9_000):
            client.send(TextMessage(text[start : start + 9_000], message_finished=start + 9_000 >= len(text)))
        assert client.answer()[-1]["type"] == "response.completed"


def test_what_is_no_text_ends_the_connection(server: RunningProxy) -> None:
    with SocketClient(server.url, headers=KEY) as client:
        client.send(BytesMessage(b"{}"))
        assert client.closed().code == 1003
    with SocketClient(server.url, headers=KEY) as client:
        client.socket.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert client.closed().code == 1002


def test_more_than_a_few_messages_at_once_end_the_connection(server: RunningProxy) -> None:
    with SocketClient(server.url, headers=KEY) as client:
        message = orjson.dumps({"type": "response.create", "model": "demo-agent", "input": "x"}).decode()
        raw = b"".join(client.protocol.send(TextMessage(message)) for _ in range(20))
        client.socket.sendall(raw)
        assert client.closed().code == 1008


def test_a_ping_is_answered_and_a_close_too(server: RunningProxy) -> None:
    with SocketClient(server.url, headers=KEY) as client:
        client.send(Ping(b"life?"))
        event = client.next()
        assert isinstance(event, Pong)
        assert event.payload == b"life?"
        client.send(CloseConnection(1000))
        assert client.closed().code == 1000


def test_a_client_that_leaves_ends_its_run(folder: Path) -> None:
    with DemoServer("--token-seconds", "0.3") as slow:
        with RunningProxy(folder, FLOWISE_BASE_URL=slow.base_url) as proxy:
            with SocketClient(proxy.url) as client:
                client.say({"type": "response.create", "model": "demo-agent", "input": "Hello"})
                while client.event()["type"] != "response.output_item.added":
                    pass
                assert slow.stats()["active_runs"] == 1
            assert wait_for(lambda: slow.stats()["active_runs"] == 0, 20), slow.stats()


def test_a_keys_limit_counts_each_message(folder: Path, demo: DemoServer) -> None:
    (folder / "proxy.yaml").write_text(
        "keys: [{name: k, requests_per_minute: 2, sha256: "
        "2c70e12b7a0646f92279f427c7b38e7334d8e5389cff167a1dc30e73f826b683}]\n"  # of "key"
    )
    with RunningProxy(folder, FLOWISE_BASE_URL=demo.base_url) as proxy:
        with SocketClient(proxy.url, headers=KEY) as client:
            ends = [client.ask()[-1] for _ in range(3)]
    assert [end["type"] for end in ends] == ["response.completed", "response.completed", "error"]
    assert (ends[2]["status"], ends[2]["error"]["code"]) == (429, "rate_limit_exceeded")


def test_a_key_that_is_taken_away_ends_its_connection(folder: Path, demo: DemoServer) -> None:
    file = folder / "proxy.yaml"
    digest = "2c70e12b7a0646f92279f427c7b38e7334d8e5389cff167a1dc30e73f826b683"
    other = f"{{name: other, sha256: {'0' * 64}}}"
    file.write_text(f"keys: [{other}, {{name: k, sha256: {digest}}}]\n")
    with RunningProxy(folder, FLOWISE_BASE_URL=demo.base_url) as proxy:
        with SocketClient(proxy.url, headers=KEY) as client:
            assert client.ask()[-1]["type"] == "response.completed"
            file.write_text(f"keys: [{other}]\n")

            def is_refused() -> bool:
                return requests.get(f"{proxy.url}/v1/models", headers=KEY, timeout=30).status_code == 401

            assert wait_for(is_refused, 20)
            [error] = client.ask()
            assert error["status"] == 401
            assert client.closed().code == 1008


def test_a_server_that_ends_says_so_to_idle_sockets(folder: Path, demo: DemoServer) -> None:
    with RunningProxy(folder, FLOWISE_BASE_URL=demo.base_url) as proxy:
        with SocketClient(proxy.url) as client:
            assert client.ask()[-1]["type"] == "response.completed"
            proxy.terminate()
            assert client.closed().code == 1001


def test_many_idle_sockets_cost_little_and_are_answered(server: RunningProxy) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, IDLE + 500)), hard))
    before = _memory_kb(server.pid)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(SocketClient(server.url, headers=KEY)) for _ in range(IDLE)]
        assert {client.status for client in clients} == {101}
        grown = _memory_kb(server.pid) - before
        assert grown / IDLE < 200, f"{grown / IDLE:.0f} KiB a socket"
        assert requests.get(f"{server.url}/health", timeout=30).ok
        for client in clients[:: IDLE // 5]:
            assert client.ask()[-1]["type"] == "response.completed"


def _memory_kb(master: int) -> int:
    [worker] = Path(f"/proc/{master}/task/{master}/children").read_text().split()
    lines = Path(f"/proc/{worker}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))


def test_the_handshake_is_answered_before_the_client_says_anything(server: RunningProxy) -> None:
    with SocketClient(server.url, headers=KEY) as client:
        assert client.status == 101
        # What comes with it or next, unasked, would be a ping: then the answer was held back until then.
        client.socket.settimeout(0.2)
        with pytest.raises(TimeoutError):
            client.socket.recv(1)
        assert not client.events


def _mask(opcode: int, payload: bytes = b"", *, is_last: bool = True) -> bytes:
    """A client's frame with a mask of zeros."""
    return bytes([opcode | (0x80 if is_last else 0), 0x80 | len(payload)]) + bytes(4) + payload


FLOODS = {
    "pings": (b"", _mask(0x9, b"life?")),
    "pongs": (b"", _mask(0xA)),
    "empty continuations": (_mask(0x1, b"{", is_last=False), _mask(0x0, is_last=False)),
    "one-byte continuations": (_mask(0x1, b"{", is_last=False), _mask(0x0, b" ", is_last=False)),
}


@pytest.mark.parametrize("flood", FLOODS)
def test_a_flood_of_frames_is_closed_and_holds_nobody_up(server: RunningProxy, flood: str) -> None:
    opening, frame = FLOODS[flood]
    with SocketClient(server.url, headers=KEY) as client:
        client.socket.sendall(opening)
        refused = threading.Thread(target=_send_until_refused, args=(client.socket, frame * 10_000))
        refused.start()
        assert requests.get(f"{server.url}/health", timeout=5).ok
        while not isinstance(event := client.next(), CloseConnection):
            assert isinstance(event, Pong)
        assert (event.code, event.reason) == (1008, "too many frames without a message")
        refused.join(30)
        assert not refused.is_alive()
    assert requests.get(f"{server.url}/health", timeout=5).ok


def _send_until_refused(connection: socket.socket, data: bytes) -> None:
    with contextlib.suppress(OSError):
        while True:
            connection.sendall(data)


def test_pings_are_answered_for_as_long_as_messages_come(server: RunningProxy) -> None:
    with SocketClient(server.url, headers=KEY) as client:
        for _ in range(3):
            for _ in range(900):
                client.send(Ping())
                assert isinstance(client.next(), Pong)
            assert client.ask()[-1]["type"] == "response.completed"


def test_wrong_messages_without_pause_let_others_in(server: RunningProxy) -> None:
    with SocketClient(server.url, headers=KEY) as client, requests.Session() as others:
        for _ in range(20):
            client.socket.sendall(_mask(0x1, b"{") * 3)
            assert others.get(f"{server.url}/health", timeout=5).ok
            assert [client.event()["status"] for _ in range(3)] == [400] * 3


def test_a_message_that_does_not_end_is_not_held_for_ever() -> None:
    ours, theirs = socket.socketpair()
    now = [0.0]
    client = WSConnection(ConnectionType.CLIENT)
    handshake = client.send(Request(host="x", target="/")).decode()
    lines = [line.partition(": ") for line in handshake.split("\r\n")[1:] if line]
    with ours, theirs:
        held = WebSocket(ours, 1000, 30, clock=lambda: now[0])
        held.accept([(name, value) for name, _, value in lines], {})
        now[0] = 1000.0  # silence before it does not count
        theirs.sendall(_mask(0x1, b"{", is_last=False))
        held.look()
        now[0] += 29
        assert held.receive(0) is None
        now[0] += 2
        theirs.shutdown(socket.SHUT_WR)
        with pytest.raises(WebSocketClosed):
            held.receive(0)
        client.receive_data(theirs.recv(65_536))
        [_, closed] = (event for event in client.events() if not isinstance(event, Ping))
    assert isinstance(closed, CloseConnection)
    assert (closed.code, closed.reason) == (1008, "a message took too long")
