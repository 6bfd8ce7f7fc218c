"""S3, S9, S10: keys, prompts and answers are nowhere but where they belong.

Every secret and every text is a word that stands nowhere else; after all kinds of requests it is searched for.
"""

from __future__ import annotations

import contextlib
import gc
import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests

from flowise_gateway.config.settings import Settings
from flowise_gateway.conformance.websocket_client import SocketClient
from openai_compatible_server import create_app
from tests.support.demo_server import DemoServer
from tests.support.hostile import CANARY, post
from tests.support.running_proxy import RunningProxy
from tests.support.saying_flowise import FLOW, SayingFlowise, event

CLIENT_KEY = "sk-client-canary-0c1d2e3f4a5b6c7d"
FLOWISE_KEY = "flowise-canary-9a8b7c6d5e4f3a2b"
SECRET = "secret-canary-1f2e3d4c5b6a79881f2e3d4c5b6a7988"
WRONG_KEY = "wrong-canary-77665544332211"
PROMPT = "prompt-canary-73feffa4b7f6bb68e44cf984c85f6e88"
UNSTORED = f"{PROMPT}-unstored"
"""What is sent with `store: false`."""
SECRETS = (CLIENT_KEY, FLOWISE_KEY, SECRET, WRONG_KEY)
CALLS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": PROMPT}]}),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": PROMPT}], "stream": True}),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": 7}], "user": PROMPT}),
    ("/v1/completions", {"prompt": PROMPT, "stream": True}),
    ("/v1/responses", {"input": UNSTORED, "store": False}),
    ("/v1/responses", {"input": UNSTORED, "stream": True, "store": False, "metadata": {"a": UNSTORED}}),
    ("/v1/responses/input_tokens", {"input": PROMPT}),
    ("/v1/responses", {"input": UNSTORED, "store": False, UNSTORED: UNSTORED}),
    (f"/v1/{PROMPT}", {}),
)
FAILURES = ("", " fail500", " reset", " fail401", " fail429", " html")


class Searched:
    """A server after every kind of request, and all that it let out."""

    def __init__(self, proxy: RunningProxy, folder: Path, answers: list[bytes], errors: list[bytes]) -> None:
        self.proxy, self.folder, self.answers, self.errors = proxy, folder, answers, errors


@pytest.fixture(scope="module")
def searched(demo: DemoServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Searched]:
    """A server in debug mode that was asked everything, rightly and wrongly."""
    folder = tmp_path_factory.mktemp("canaries")
    settings = {
        "FLOWISE_BASE_URL": demo.base_url,
        "FLOWISE_API_KEY": FLOWISE_KEY,
        "PROXY_API_KEYS": CLIENT_KEY,
        "PROXY_SECRET": SECRET,
        "PROXY_STORE": f"sqlite:///{folder}/store.sqlite3",
        "LOG_LEVEL": "debug",
    }
    answers: list[bytes] = []
    errors: list[bytes] = []
    with RunningProxy(folder, **settings) as proxy, requests.Session() as session:
        session.trust_env = False
        for key in (CLIENT_KEY, WRONG_KEY):
            for path, body in CALLS:
                for model in ("demo-assistant", "demo-agent", "demo-errors"):
                    for failure in FAILURES if model == "demo-errors" else ("",):
                        text = json.dumps({"model": model, **body}).replace(PROMPT, PROMPT + failure)
                        answer = session.post(
                            f"{proxy.url}{path}?key={key}",
                            data=text,
                            headers={"Authorization": f"Bearer {key}", "X-Request-Id": "of-this-request"},
                            timeout=30,
                        )
                        (answers if answer.ok else errors).append(answer.content)
        paths = (f"/v1/models/{PROMPT}", f"/v1/flowise/files/{PROMPT}", f"/v1/responses/resp_{PROMPT}")
        mine = {"api-key": CLIENT_KEY}
        errors += [session.get(proxy.url + path, headers=mine, timeout=10).content for path in paths]
        with SocketClient(proxy.url, headers={"Authorization": f"Bearer {CLIENT_KEY}"}) as client:
            client.ask(UNSTORED, store=False)
        yield Searched(proxy, folder, answers, errors)


def test_no_secret_and_no_text_is_in_the_log(searched: Searched) -> None:
    log = searched.proxy.log()
    assert "demo-errors" in log
    assert [line for line in log.splitlines() if any(word in line for word in (*SECRETS, PROMPT))] == []


def test_no_answer_holds_a_secret_or_an_inner_address(searched: Searched, demo: DemoServer) -> None:
    address = urlsplit(demo.base_url).netloc.encode()
    assert len(searched.answers) > 10
    assert len(searched.errors) > 20
    for body in searched.answers + searched.errors:
        assert not [word for word in SECRETS if word.encode() in body], body[:300]
    for body in searched.errors:
        assert address not in body
        assert b"Traceback" not in body
        assert b'.py"' not in body


def test_metrics_state_and_page_tell_neither_secrets_nor_texts(searched: Searched, demo: DemoServer) -> None:
    url, mine = searched.proxy.url, {"api-key": CLIENT_KEY}
    hidden = [*SECRETS, PROMPT]
    for path in ("/metrics", "/ready", "/v1/models", "/", "/page/app.js"):
        answer = requests.get(url + path, headers=mine, timeout=10)
        assert not [word for word in hidden if word in answer.text], path
    for path in ("/ready", "/", "/health"):
        answer = requests.get(url + path, timeout=10)
        assert answer.ok
        assert urlsplit(demo.base_url).netloc not in answer.text, path


def test_the_store_holds_texts_where_documented_alone_and_no_secret(searched: Searched) -> None:
    """The texts of a conversation whose flow has no memory are stored (docs/security.md), as its next turn needs them."""
    with contextlib.closing(sqlite3.connect(searched.folder / "store.sqlite3")) as database:
        rows = database.execute("SELECT key, value, owner FROM entries").fetchall()
    assert rows
    for row in rows:
        text = b" ".join(part if isinstance(part, bytes) else str(part).encode() for part in row)
        assert not [word for word in (*SECRETS, UNSTORED) if word.encode() in text], row[0]
        assert PROMPT.encode() not in text or row[0].startswith("talk:")


def test_the_demo_was_asked_all_this_with_the_key_for_it(searched: Searched, demo: DemoServer) -> None:
    """What this file searches for was there to be found."""
    assert PROMPT in json.dumps(demo.records())
    assert any(PROMPT.encode() in body for body in searched.answers)


def test_no_object_shows_a_secret_when_it_is_printed() -> None:
    settings = Settings(
        flowise_base_url="http://127.0.0.1:9/api/v1",
        flowise_api_key=FLOWISE_KEY,
        proxy_api_keys=(CLIENT_KEY,),
        proxy_secret=(SECRET,),
        proxy_store=f"redis://:{WRONG_KEY}@127.0.0.1:1/0",
    )
    app = create_app(settings)
    client = app.test_client()
    client.get("/v1/models", headers={"api-key": CLIENT_KEY})
    ours = [
        thing
        for thing in gc.get_objects()
        if str(type(thing).__module__).startswith(("flowise_", "openai_")) and not isinstance(thing, type)
    ]
    assert len({type(thing) for thing in ours}) > 20
    shown = {(type(thing).__name__, word) for thing in ours for word in SECRETS if word in repr(thing)}
    assert shown == set()


def test_an_answer_of_flowise_that_tells_too_much_is_cut(tmp_path: Path) -> None:
    """Flowise puts its stack and addresses into errors."""
    inner = "connect ECONNREFUSED 10.1.2.3:5432\n    at Object.<anonymous> (/usr/src/flowise/x.js:1:2)"
    with (
        SayingFlowise() as flowise,
        RunningProxy(tmp_path, FLOWISE_BASE_URL=flowise.base_url, PROXY_API_KEYS=CANARY) as server,
    ):
        flowise.streams(event("error", inner))
        body = {"model": FLOW, "messages": [{"role": "user", "content": "Hello"}], "stream": True}
        text = post(server, json=body).text
        assert "error" in text
        assert "10.1.2.3" not in text
        assert "/usr/src" not in text
        assert "/usr/src" not in server.log()
