"""The 17 cases of Open Responses' compliance suite (release 2026-04-24): what each one sends and demands.

They run against any server and model: the demo in `open_responses_test`, a real Flowise in `live/`. As in the suite
one model passes all of them, so its flow has to take images, and tools in words.
"""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import orjson
import requests

from tests.support.open_responses_check import Json, right, stream_faults
from tests.support.openai_check import valid
from tests.support.websocket_client import SocketClient

SECONDS = 30
WEATHER: Json = {
    "type": "function",
    "name": "get_weather",
    "description": "Tells what the weather is at a place",
    "parameters": {
        "type": "object",
        "properties": {"location": {"type": "string", "description": "A city and its state"}},
        "required": ["location"],
    },
}


@dataclass(frozen=True, slots=True)
class Target:
    """A server, one of its models, and a key that it takes."""

    url: str
    model: str
    key: str = "key"

    def post(self, body: Json, path: str = "") -> requests.Response:
        """Any answer to a request."""
        url = f"{self.url}/v1/responses{path}"
        with requests.Session() as session:
            session.trust_env = False
            return session.post(url, json=body, headers=self._headers, timeout=SECONDS)

    def respond(self, said: Any, **more: Any) -> Json:
        """A completed response with some output."""
        answer = self.post({"model": self.model, "input": said, **more})
        assert answer.status_code == 200, answer.text
        assert answer.headers["Content-Type"].startswith("application/json")
        return completed(answer.json())

    def connect(self) -> SocketClient:
        """A WebSocket."""
        client = SocketClient(self.url, headers=self._headers)
        assert client.status == 101
        return client

    def ask(self, client: SocketClient, said: Any, **more: Any) -> list[Json]:
        """The events of a response, or an error alone, asked for over a socket; nothing is stored."""
        return client.ask(said, self.model, store=False, **more)

    @property
    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.key}"}


Case = Callable[[Target], None]


def message(role: str, content: Any, **more: Any) -> Json:
    """A message of the input."""
    return {"type": "message", "role": role, "content": content, **more}


def picture() -> str:
    """A red square, as a data URL."""
    side = 16
    pixels = zlib.compress((b"\x00" + b"\xff\x00\x00" * side) * side)
    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", pixels), (b"IEND", b""))
    written = [
        struct.pack(">I", len(held)) + name + held + struct.pack(">I", zlib.crc32(name + held))
        for name, held in chunks
    ]
    png = b"\x89PNG\r\n\x1a\n" + b"".join(written)
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def completed(response: Json) -> Json:
    """The response, once it is known to be a right and completed one with some output."""
    valid("response", response)
    right("response", response)
    assert response["status"] == "completed"
    assert response["output"]
    return response


def streamed(events: Sequence[Json]) -> Json:
    """The completed response at the end of events, once all of these are known to be right and in order."""
    frames = [f"event: {event['type']}\ndata: {orjson.dumps(event).decode()}\n\n" for event in events]
    valid("response.stream", "".join([*frames, "data: [DONE]\n\n"]).encode())
    faults = stream_faults(events)
    assert not faults, faults
    assert events[-1]["type"] == "response.completed"
    return completed(events[-1]["response"])


def refused(events: Sequence[Json], status: int = 400) -> Json:
    """What an error says that came over a socket in the place of a response."""
    [event] = events
    right("socket error", event)
    valid("error", {"error": event["error"]})
    assert event["status"] == status
    error: Json = event["error"]
    return error


def said_in(response: Json) -> str:
    """The text of the only message."""
    [answer] = [item for item in response["output"] if item["type"] == "message"]
    assert answer["role"] == "assistant"
    text: str = answer["content"][0]["text"]
    assert text
    return text


def calls_in(response: Json) -> list[Json]:
    """The calls of the client's tools."""
    return [item for item in response["output"] if item["type"] == "function_call"]


def frames_of(stream: bytes) -> list[Json]:
    """The events of a stream, which ends with the word for it."""
    *frames, end, nothing = stream.decode().split("\n\n")
    assert (end, nothing) == ("data: [DONE]", "")
    told = [frame.split("\n") for frame in frames if not frame.startswith(":")]
    events: list[Json] = []
    for name, line in told:
        events.append(orjson.loads(line.removeprefix("data: ")))
        assert name == f"event: {events[-1]['type']}"
    return events


# ------------------------------------------------------------------------------------------------ HTTP


def basic_response(target: Target) -> None:
    """A message gets a text."""
    said_in(target.respond([message("user", "Greet me in three words.")]))


def assistant_phase(target: Target) -> None:
    """Earlier messages may say that they were comments or the final answer."""
    earlier = [
        message("assistant", "I shall look up what I noted.", phase="commentary"),
        message("assistant", "It was four.", phase="final_answer"),
    ]
    said_in(target.respond([*earlier, message("user", "Say the number again.")]))


def response_output_phase_schema(target: Target) -> None:
    """Nothing is sent here in the suite: phases are right in an output, by the shapes that all cases check."""
    response = target.respond("Hello")
    [answer] = [item for item in response["output"] if item["type"] == "message"]
    phases = [{**answer, "id": f"msg_{phase}", "phase": phase} for phase in ("commentary", "final_answer")]
    completed({**response, "output": phases})


def streaming_response(target: Target) -> None:
    """A stream tells its response bit by bit."""
    asked = {"model": target.model, "input": [message("user", "Count to five.")], "stream": True}
    answer = target.post(asked)
    assert answer.status_code == 200, answer.text
    assert answer.headers["Content-Type"].startswith("text/event-stream")
    valid("response.stream", answer.content)
    said_in(streamed(frames_of(answer.content)))


def system_prompt(target: Target) -> None:
    """A system message may stand in the input."""
    said_in(target.respond([message("system", "Talk like a sailor."), message("user", "Greet me.")]))


def tool_calling(target: Target) -> None:
    """A tool is called where one is offered, and is told back."""
    question = message("user", "How is the weather in Boston?")
    response = target.respond([question], tools=[WEATHER])
    assert calls_in(response)
    for call in calls_in(response):
        assert call["name"] == WEATHER["name"]
        assert isinstance(orjson.loads(call["arguments"]), dict)
    assert [tool["name"] for tool in response["tools"]] == [WEATHER["name"]]


def image_input(target: Target) -> None:
    """A picture may stand beside a text."""
    parts = [
        {"type": "input_text", "text": "What is this? Use one sentence."},
        {"type": "input_image", "image_url": picture()},
    ]
    said_in(target.respond([message("user", parts)]))


def multi_turn(target: Target) -> None:
    """A conversation may be sent as a whole."""
    said = [
        message("user", "I am called Bob."),
        message("assistant", "Welcome, Bob! What can I do for you?"),
        message("user", "How am I called?"),
    ]
    said_in(target.respond(said))


def compact_response(target: Target) -> None:
    """A conversation is packed into one item."""
    said = [
        message("user", "Let us meet on Monday, and tell the others before."),
        message("assistant", "Monday it is. The others will know before."),
    ]
    answer = target.post({"model": target.model, "input": said, "prompt_cache_key": "a-key"}, "/compact")
    assert answer.status_code == 200, answer.text
    right("compaction", answer.json())
    assert [item["type"] for item in answer.json()["output"]] == ["compaction"]


def compact_missing_model(target: Target) -> None:
    """Packing needs a model's name."""
    answer = target.post({"input": [message("user", "Pack this.")]}, "/compact")
    assert answer.status_code == 400
    valid("error", answer.content)
    assert answer.json()["error"]["param"] == "model"


# ------------------------------------------------------------------------------------------- WebSocket


def websocket_response(target: Target) -> None:
    """A socket gives the events of a stream; this one response is stored."""
    with target.connect() as client:
        said_in(streamed(client.ask([message("user", "Count to three.")], target.model)))


def websocket_sequential_responses(target: Target) -> None:
    """A socket answers one request after the other."""
    with target.connect() as client:
        responses = [streamed(target.ask(client, f"Say just: {word}")) for word in ("one", "two")]
    assert len({response["id"] for response in responses}) == 2


def websocket_continuation(target: Target) -> None:
    """A socket goes on from a response of its own that is not stored."""
    with target.connect() as client:
        first = streamed(target.ask(client, "The word is amber. Say OK."))
        second = streamed(target.ask(client, "Which word was it?", previous_response_id=first["id"]))
    assert second["previous_response_id"] == first["id"]
    said_in(second)


def websocket_reconnect_store_false_recovery(target: Target) -> None:
    """Another socket does not know what is not stored, and stays open to begin anew."""
    with target.connect() as client:
        first = streamed(target.ask(client, "The word is silver. Say OK."))
    with target.connect() as client:
        again = target.ask(client, "Go on. Say just: again", previous_response_id=first["id"])
        assert refused(again)["code"] == "previous_response_not_found"
        recovered = streamed(target.ask(client, [message("user", "Begin anew. Say just: anew")]))
    assert recovered["previous_response_id"] is None


def websocket_previous_response_not_found(target: Target) -> None:
    """An id that names nothing is an error of its own."""
    with target.connect() as client:
        error = refused(target.ask(client, "Go on.", previous_response_id="resp_of_nobody"))
    assert error["code"] == "previous_response_not_found"
    assert error["param"] == "previous_response_id"
    assert "resp_of_nobody" in error["message"]


def websocket_failed_continuation_evicts_cache(target: Target) -> None:
    """What could not be gone on from is forgotten."""
    with target.connect() as client:
        first = streamed(target.ask(client, "The word is ash. Say OK."))
        go_on = partial(target.ask, client, previous_response_id=first["id"])
        unmatched = {"type": "function_call_output", "call_id": "call_of_nobody", "output": "Nobody asked."}
        refused(go_on([unmatched]))
        assert refused(go_on("Go on. Say just: on"))["code"] == "previous_response_not_found"


def websocket_compact_new_chain(target: Target) -> None:
    """A packed conversation is the beginning of a new one."""
    said = [
        message("user", [{"type": "input_text", "text": "The word is chalk."}]),
        message("assistant", [{"type": "output_text", "text": "Noted."}]),
        message("user", [{"type": "input_text", "text": "Pack all this for later."}]),
    ]
    packed = target.post({"model": target.model, "input": said}, "/compact")
    assert packed.status_code == 200, packed.text
    right("compaction", packed.json())
    with target.connect() as client:
        going_on = [
            *packed.json()["output"],
            {"type": "message", "role": "user", "content": "Go on from here."},
        ]
        response = streamed(target.ask(client, going_on, tools=[]))
    assert response["previous_response_id"] is None
    said_in(response)


HTTP_CASES: Sequence[Case] = (
    *(basic_response, assistant_phase, response_output_phase_schema, streaming_response, system_prompt),
    *(tool_calling, image_input, multi_turn, compact_response, compact_missing_model),
)
SOCKET_CASES: Sequence[Case] = (
    *(websocket_response, websocket_sequential_responses, websocket_continuation),
    *(websocket_reconnect_store_false_recovery, websocket_previous_response_not_found),
    *(websocket_failed_continuation_evicts_cache, websocket_compact_new_chain),
)
