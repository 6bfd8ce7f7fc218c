"""S1: no name leads to another route or host of Flowise than the API offers."""

from __future__ import annotations

import socket
from urllib.parse import quote, urlsplit

import pytest
import requests

from tests.support.demo_server import DemoServer
from tests.support.hostile import hostile_ids
from tests.support.openai_check import valid
from tests.support.running_proxy import RunningProxy


def test_no_hostile_model_leaves_the_prediction_route(proxy: RunningProxy, demo: DemoServer) -> None:
    demo.clear()
    started = demo.stats()["runs_started"]
    with requests.Session() as session:
        for name in hostile_ids(1000):
            body = {"model": name, "messages": [{"role": "user", "content": "x"}]}
            answer = session.post(f"{proxy.url}/v1/chat/completions", json=body, timeout=10)
            assert answer.status_code in (400, 404), name
            assert answer.json()["error"]["code"] in ("model_not_found", None), name
    assert demo.records() == []
    assert demo.stats()["runs_started"] == started


def test_no_hostile_deployment_leaves_the_prediction_route(proxy: RunningProxy, demo: DemoServer) -> None:
    demo.clear()
    address = urlsplit(proxy.url)
    for name in hostile_ids(200):
        path = f"/openai/deployments/{quote(name, safe='')}/chat/completions"
        body = b'{"messages":[{"role":"user","content":"x"}]}'
        with socket.create_connection((address.hostname or "", address.port or 0)) as raw:
            raw.sendall(
                f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode()
                + body
            )
            head, _, body = raw.makefile("rb").read().partition(b"\r\n\r\n")
        assert head.split()[1] in (b"400", b"404", b"405", b"414"), name
        valid("error", body)
    assert demo.records() == []


def test_no_address_that_a_client_names_is_asked(proxy: RunningProxy) -> None:
    """S7: files by address are Flowise's to fetch or refuse; the server itself opens no connection to them."""
    with socket.create_server(("127.0.0.1", 0)) as canary:
        canary.settimeout(1)
        port = canary.getsockname()[1]
        hosts = (
            "127.0.0.1",
            "localhost",
            "2130706433",
            "0x7f000001",
            "[::ffff:127.0.0.1]",
            "127.1",
            "user@127.0.0.1",
        )
        for url in [f"http://{host}:{port}/a.png" for host in hosts]:
            image = {"type": "image_url", "image_url": {"url": url}}
            audio = {"type": "input_audio", "input_audio": {"data": url, "format": "webm"}}
            file = {"type": "file", "file": {"filename": "a.txt", "file_data": url}}
            for part in (image, audio, file):
                for model in ("demo-assistant", "demo-agent"):
                    body = {"model": model, "messages": [{"role": "user", "content": [part]}]}
                    requests.post(f"{proxy.url}/v1/chat/completions", json=body, timeout=10)
            items = [{"type": "input_image", "image_url": url}, {"type": "input_file", "file_url": url}]
            for item in items:
                asked = {"model": "demo-agent", "input": [{"role": "user", "content": [item]}]}
                requests.post(f"{proxy.url}/v1/responses", json=asked, timeout=10)
            requests.get(f"{proxy.url}/v1/flowise/files/{quote(url, safe='')}", timeout=10)
        with pytest.raises(TimeoutError):
            canary.accept()
