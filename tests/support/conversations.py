"""Callers with keys of one person or of many, who ask a model in whole conversations."""

from __future__ import annotations

import hashlib
from typing import Any, cast

import requests

from tests.support.demo_server import DemoServer
from tests.support.running_proxy import RunningProxy

Json = dict[str, Any]


def key_lines(name: str, *more: str) -> str:
    """A key of the file whose text is its name."""
    digest = hashlib.sha256(name.encode()).hexdigest()
    return "\n".join([f"  - name: {name}", f"    sha256: {digest}", *(f"    {line}" for line in more)])


FILE = f"""
models:
  - {{id: folded, flow: 2b7f4c68-8d0e-4a86-b1f4-93d7a5c0e812, history: question}}
keys:
{key_lines("one-person", "single_user: true")}
{key_lines("team-a")}
{key_lines("team-b")}
{key_lines("operator", "overrides: true")}
"""


class Client:
    """Somebody with a key who asks a model."""

    def __init__(self, proxy: RunningProxy, key: str = "one-person", model: str = "demo-agent") -> None:
        self.url = proxy.url
        self.key = key
        self.model = model

    def post(
        self, messages: list[Json], headers: Json | None = None, patience: float = 30, **more: Any
    ) -> requests.Response:
        """Send messages; an idle kept-alive connection would hold up the server's end."""
        own = {"Authorization": f"Bearer {self.key}", "Connection": "close", **(headers or {})}
        body = {"model": self.model, "messages": messages, **more}
        return requests.post(f"{self.url}/v1/chat/completions", json=body, headers=own, timeout=patience)

    def ask(self, messages: list[Json], headers: Json | None = None, **more: Any) -> Json:
        """Send messages and give the answer's body."""
        answer = self.post(messages, headers, **more)
        assert answer.status_code == 200, answer.text
        return cast("Json", answer.json())

    def text(self, messages: list[Json], headers: Json | None = None, **more: Any) -> str:
        """Send messages and give the answer's text."""
        return str(self.ask(messages, headers, **more)["choices"][0]["message"]["content"])


def user(text: Any) -> Json:
    """A user's message."""
    return {"role": "user", "content": text}


def assistant(text: str) -> Json:
    """An answer."""
    return {"role": "assistant", "content": text}


def seen(flowise: DemoServer, run: int = -1) -> list[Json]:
    """What the model of a run saw, without a system text of its own."""
    return [message for message in flowise.records()[run]["messages"] if message["role"] != "system"]


def sessions(flowise: DemoServer) -> list[str]:
    """The sessions of all runs."""
    return [record["session_id"] for record in flowise.records()]
