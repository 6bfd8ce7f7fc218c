"""A Redis over TLS, with a user of few rights, and behind a Sentinel whose master dies."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import redis
import requests

from tests.support.demo_server import DemoServer
from tests.support.processes import free_port, wait_for
from tests.support.redis_server import RedisServer
from tests.support.running_proxy import RunningProxy

pytestmark = pytest.mark.clients

KEY = "a-key-of-the-redis-test"
CONFIG = f"""keys:
  - name: limited
    sha256: {hashlib.sha256(KEY.encode()).hexdigest()}
    requests_per_minute: 100
    max_in_flight: 10
    tokens_per_day: 1000000
"""
PASSWORD = "a-password/of:redis"
QUOTED = "a-password%2Fof%3Aredis"


@pytest.fixture
def serve(demo: DemoServer, tmp_path: Path) -> Iterator[Callable[[str], RunningProxy]]:
    """Starts a server with a Redis, and a key whose requests are counted there."""
    (tmp_path / "proxy.yaml").write_text(CONFIG)
    with ExitStack() as stack:
        yield lambda store: stack.enter_context(
            RunningProxy(
                tmp_path,
                FLOWISE_BASE_URL=demo.base_url,
                PROXY_STORE=store,
                PROXY_SECRET="one for all of us",
            )
        )


def respond(server: RunningProxy, text: str, **body: Any) -> requests.Response:
    return requests.post(
        f"{server.url}/v1/responses",
        json={"model": "demo-assistant", "input": text, **body},
        headers={"Authorization": f"Bearer {KEY}"},
        timeout=30,
    )


def ready(server: RunningProxy) -> Any:
    headers = {"Authorization": f"Bearer {KEY}"}
    return requests.get(f"{server.url}/ready", headers=headers, timeout=10).json()


def check_works(server: RunningProxy) -> str:
    """A chain of two responses goes on, and a key's requests are counted; the last response's id."""
    first = respond(server, "Hello")
    assert first.status_code == 200, first.text
    assert int(first.headers["x-ratelimit-remaining-requests"]) < 100
    second = respond(server, "And on", previous_response_id=first.json()["id"])
    assert second.status_code == 200, second.text
    assert second.json()["store"] is True
    assert "remember 2 earlier" in second.text
    assert (ready(server)["store_error"], ready(server)["secret_error"]) == (None, None)
    assert "Traceback" not in server.log()
    return str(second.json()["id"])


def test_over_tls_with_a_certificate_of_ones_own(
    serve: Callable[[str], RunningProxy], tmp_path: Path
) -> None:
    certificate, key = tmp_path / "own.pem", tmp_path / "own.key"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    subject = ["-days", "2", "-subj", "/CN=own", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*command, *subject, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    tls = ["--tls-port", str(port := free_port()), "--tls-auth-clients", "no"]
    files = ["--tls-cert-file", str(certificate), "--tls-key-file", str(key)]
    with RedisServer(tmp_path, *tls, *files):
        address = f"rediss://127.0.0.1:{port}/0"
        server = serve(f"{address}?ssl_ca_certs={certificate}")
        check_works(server)
        assert "failed" not in server.log()
        with_unknown = serve(address)
        answer = respond(with_unknown, "Hello")
        assert (answer.status_code, answer.json()["store"]) == (200, False)
        assert ready(with_unknown)["store_error"]


def test_with_a_user_that_may_use_our_keys_alone(
    serve: Callable[[str], RunningProxy], tmp_path: Path
) -> None:
    rights = "~flowise-proxy:* ~LIMITS:* -@all +@read +@write +@scripting +@transaction +@connection +time"
    user = ["--user", "gateway", "on", f">{PASSWORD}", *rights.split(), "--user", "default", "off"]
    with RedisServer(tmp_path, *user) as running:
        address = f"127.0.0.1:{running.port}/0"
        server = serve(f"redis://gateway:{QUOTED}@{address}")
        check_works(server)
        assert "failed" not in server.log()
        assert QUOTED not in server.log()
        refused = serve(f"redis://gateway:wrong@{address}")
        assert respond(refused, "Hello").status_code == 200
        assert "Authentication" in ready(refused)["store_error"]


def test_behind_a_sentinel_the_replica_takes_over_from_a_master_that_dies(
    serve: Callable[[str], RunningProxy], tmp_path: Path
) -> None:
    login = ["--requirepass", PASSWORD, "--masterauth", PASSWORD, "--repl-diskless-sync-delay", "0"]
    with ExitStack() as stack:
        master = stack.enter_context(RedisServer(tmp_path, *login))
        follow = ["--replicaof", "127.0.0.1", str(master.port)]
        stack.enter_context(RedisServer(tmp_path, *login, *follow))
        with redis.Redis(port=master.port, password=PASSWORD) as asked:
            assert wait_for(lambda: asked.info("replication").get("slave0", {}).get("state") == "online", 20)
        watched = f"""sentinel monitor ours 127.0.0.1 {master.port} 1
sentinel auth-pass ours {PASSWORD}
sentinel down-after-milliseconds ours 500
sentinel failover-timeout ours 2000
requirepass {PASSWORD}
"""
        sentinel = stack.enter_context(RedisServer(tmp_path, sentinel=watched))
        hosts = f"127.0.0.1:{free_port()},127.0.0.1:{sentinel.port}"
        server = serve(f"redis+sentinel://:{QUOTED}@{hosts}/ours")
        last = check_works(server)
        assert "failed" not in server.log()
        with redis.Redis(port=sentinel.port, password=PASSWORD) as asked:
            assert wait_for(lambda: bool(asked.sentinel_slaves("ours")), 20)
        master.kill()

        def goes_on() -> bool:
            answer = respond(server, "After", previous_response_id=last)
            assert answer.status_code in (200, 503), answer.text
            return answer.status_code == 200 and answer.json()["store"] is True

        assert wait_for(goes_on, 40), server.log()
        check_works(server)
