"""The server under test: how it is asked, and how what it answers wrongly is told."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

import orjson
import requests

from flowise_gateway.conformance.response_shapes import right, stream_faults
from flowise_gateway.conformance.websocket_client import SocketClient

CONNECT_SECONDS, SECONDS = 10, 60
MAX_ANSWER = 16 * 2**20
"""Bytes of an answer, unpacked: far more than any case gets from a right server."""
_PIECE = 65_536
NO_ROUTE = (404, 405, 501)
"""The statuses by which servers say that they do not have what was asked for."""
Json = dict[str, Any]


class Deviation(AssertionError):
    """What a server did otherwise than OpenAI's API does, in words for a person."""


class NotOffered(Exception):
    """The server does not have what a case is about: the route is unknown to it."""


def expect(is_so: object, what: str) -> None:
    """Raise Deviation unless it is so."""
    if not is_so:
        raise Deviation(what)


def schemas_unknown(kind: str, payload: bytes | Mapping[str, Any]) -> None:
    """Check nothing: OpenAI's own schemas are not part of the kit."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer of the server under test, read to its end."""

    status_code: int
    headers: Mapping[str, str]
    content: bytes

    @property
    def text(self) -> str:
        """The content as a person reads it."""
        return self.content.decode(errors="replace")

    def json(self) -> Any:
        """The content as a value. Raises ValueError."""
        return orjson.loads(self.content)


@dataclass(frozen=True, slots=True)
class Target:
    """A server, one of its models, and a key that it takes; `valid` checks against further schemas."""

    url: str
    model: str
    key: str = "key"
    valid: Callable[[str, bytes | Mapping[str, Any]], None] = schemas_unknown

    def ask(self, method: str, path: str, body: object = None, **headers: str) -> Answer:
        """Any answer; a body of bytes is sent as it is, anything else as JSON. Redirects are not followed."""
        data = body if isinstance(body, bytes) or body is None else orjson.dumps(body)
        own = {"Authorization": f"Bearer {self.key}", **headers}
        if data is not None:
            own.setdefault("Content-Type", "application/json")
        with requests.Session() as session:
            session.trust_env = False
            limits = (CONNECT_SECONDS, SECONDS)
            with session.request(
                method,
                f"{self.url}/v1{path}",
                data=data,
                headers=own,
                timeout=limits,
                allow_redirects=False,
                stream=True,
            ) as answer:
                return Answer(answer.status_code, answer.headers, _read(answer))

    def model_path(self) -> str:
        """The path of the model among the models."""
        return f"/models/{quote(self.model)}"

    def post(self, body: Json, path: str = "") -> Answer:
        """Any answer of the Responses API."""
        return self.ask("POST", f"/responses{path}", body)

    def respond(self, said: Any, **more: Any) -> Json:
        """A completed response with some output."""
        answer = self.post({"model": self.model, "input": said, **more})
        if answer.status_code in NO_ROUTE:
            raise NotOffered
        expect(answer.status_code == 200, f"status {answer.status_code}: {answer.text[:200]}")
        expect(answer.headers["Content-Type"].startswith("application/json"), "the answer is not JSON")
        return self.completed(answer.json())

    def connect(self) -> SocketClient:
        """A WebSocket."""
        path = f"{urlsplit(self.url).path}/v1/responses"
        headers = {"Authorization": f"Bearer {self.key}"}
        client = SocketClient(self.url, path, headers, extensions=(), max_bytes=MAX_ANSWER)
        if client.status != 101:
            client.socket.close()
            raise NotOffered
        return client

    def say(self, client: SocketClient, said: Any, **more: Any) -> list[Json]:
        """The events of a response, or an error alone, asked for over a socket; nothing is stored."""
        return client.ask(said, self.model, store=False, **more)

    def completed(self, response: Json) -> Json:
        """The response, once it is known to be a right and completed one with some output."""
        self.valid("response", response)
        right("response", response)
        expect(response["status"] == "completed", f"the status is {response['status']}")
        expect(response["output"], "the output is empty")
        return response

    def streamed(self, events: Sequence[Json]) -> Json:
        """The completed response at the end of events, once all of these are known to be right."""
        frames = [f"event: {event['type']}\ndata: {orjson.dumps(event).decode()}\n\n" for event in events]
        self.valid("response.stream", "".join([*frames, "data: [DONE]\n\n"]).encode())
        faults = stream_faults(events)
        expect(not faults, "; ".join(faults))
        expect(events[-1]["type"] == "response.completed", f"the stream ends with {events[-1]['type']}")
        return self.completed(events[-1]["response"])

    def refused(self, events: Sequence[Json], status: int = 400) -> Json:
        """What an error says that came over a socket in the place of a response."""
        expect(len(events) == 1, "an error is one message")
        right("socket error", events[0])
        self.valid("error", {"error": events[0]["error"]})
        expect(events[0]["status"] == status, f"the status is {events[0]['status']}, not {status}")
        error: Json = events[0]["error"]
        return error


def _read(answer: requests.Response) -> bytes:
    """The content of an answer. Raises Deviation for one without an end."""
    content = bytearray()
    for piece in answer.iter_content(_PIECE):
        content += piece
        expect(len(content) <= MAX_ANSWER, f"the answer has more than {MAX_ANSWER} bytes")
    return bytes(content)


@dataclass(frozen=True, slots=True)
class Case:
    """One promise of OpenAI's API, and what shows whether a server keeps it."""

    area: str
    promise: str
    run: Callable[[Target], None]
