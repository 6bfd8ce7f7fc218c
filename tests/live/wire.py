"""Raw requests to the server under test, every answer checked against OpenAI's schemas."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import requests

from tests.support.openai_check import valid

Json = dict[str, Any]
SECONDS = 60


@dataclass(frozen=True, slots=True)
class Failure:
    """An error as a client meets it: before the stream with a status, or inside it with status 200."""

    status: int
    headers: Mapping[str, str]
    error: Json
    text: str = ""

    @property
    def code(self) -> str:
        """OpenAI's `code`."""
        return str(self.error["code"])

    @property
    def message(self) -> str:
        """What a person reads."""
        return str(self.error["message"])


class Wire:
    """Context manager; speaks to one server."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._session = requests.Session()
        self._session.trust_env = False

    def __enter__(self) -> Wire:
        return self

    def __exit__(self, *_: object) -> None:
        self._session.close()

    def get(self, path: str, kind: str) -> Json:
        """The body of a good answer."""
        reply = self._session.get(f"{self._url}{path}", timeout=SECONDS)
        assert reply.status_code == 200, reply.text
        valid(kind, reply.content)
        body: Json = reply.json()
        return body

    def post(
        self, path: str, body: Json, seconds: float = SECONDS, headers: Mapping[str, str] | None = None
    ) -> requests.Response:
        """Any answer, its body still to be read."""
        url = f"{self._url}{path}"
        return self._session.post(url, json=body, headers=headers, stream=True, timeout=seconds)

    def chat(self, model: str, question: str | list[Json], **more: Any) -> Json:
        """A whole chat completion."""
        with self.post("/v1/chat/completions", chat_body(model, question, **more)) as reply:
            assert reply.status_code == 200, reply.text
            assert reply.headers["Content-Type"].startswith("application/json")
            valid("chat.response", reply.content)
            body: Json = reply.json()
            return body

    def ask(self, model: str, question: str | list[Json], **more: Any) -> str:
        """The text of a whole chat completion."""
        message = self.chat(model, question, **more)["choices"][0]["message"]
        return str(message["content"])

    def stream(self, model: str, question: str | list[Json], **more: Any) -> str:
        """The text of a streamed chat completion."""
        with self.post("/v1/chat/completions", chat_body(model, question, stream=True, **more)) as reply:
            assert reply.status_code == 200, reply.text
            assert reply.headers["Content-Type"].startswith("text/event-stream")
            valid("chat.stream", reply.content)
            return text_of(reply.content)

    def fail(self, model: str, question: str, *, stream: bool) -> Failure:
        """The error of a chat request that must not succeed."""
        with self.post("/v1/chat/completions", chat_body(model, question, stream=stream)) as reply:
            if reply.status_code != 200:
                valid("error", reply.content)
                return Failure(reply.status_code, reply.headers, reply.json()["error"])
            assert stream, f"no error: {reply.text}"
            valid("chat.stream", reply.content, strict=False)
            errors = [frame["error"] for frame in frames_of(reply.content) if "error" in frame]
            assert errors, f"no error: {reply.text}"
            return Failure(200, reply.headers, errors[0], text_of(reply.content))


def chat_body(model: str, question: str | list[Json], **more: Any) -> Json:
    """A request body; a text is the first question of a conversation."""
    messages = [{"role": "user", "content": question}] if isinstance(question, str) else question
    return {"model": model, "messages": messages, **more}


def frames_of(raw: bytes) -> Iterator[Json]:
    """The JSON frames of a stream."""
    for line in raw.decode().split("\n"):
        if line.startswith("data: ") and line != "data: [DONE]":
            yield json.loads(line.removeprefix("data: "))


def text_of(raw: bytes) -> str:
    """All content of a streamed chat completion."""
    choices = [choice for frame in frames_of(raw) for choice in frame.get("choices") or []]
    return "".join(choice["delta"].get("content") or "" for choice in choices)
