"""The 17 cases of Open Responses' compliance suite (release 2026-04-24): what each one sends and demands.

As in the suite one model passes all of them, so it has to take images and tools.
"""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import orjson

from flowise_gateway.conformance.response_shapes import right
from flowise_gateway.conformance.target import NO_ROUTE, Answer, Case, Json, NotOffered, Target, expect

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


def offered(answer: Answer) -> Answer:
    """The answer, unless its route is unknown to the server. Raises NotOffered."""
    if answer.status_code in NO_ROUTE:
        raise NotOffered
    return answer


def said_in(response: Json) -> str:
    """The text of the only message."""
    answers = [item for item in response["output"] if item["type"] == "message"]
    expect(len(answers) == 1, f"{len(answers)} messages in the output")
    [answer] = answers
    expect(answer["role"] == "assistant", "the message is not the assistant's")
    text: str = answer["content"][0]["text"]
    expect(text, "the message is empty")
    return text


def calls_in(response: Json) -> list[Json]:
    """The calls of the client's tools."""
    return [item for item in response["output"] if item["type"] == "function_call"]


def frames_of(stream: bytes) -> list[Json]:
    """The events of a stream, which ends with the word for it."""
    *frames, end, nothing = stream.decode().replace("\r\n", "\n").split("\n\n")
    expect((end, nothing) == ("data: [DONE]", ""), "the stream does not end with [DONE]")
    told = [frame.split("\n") for frame in frames if not frame.startswith(":")]
    events: list[Json] = []
    for lines in told:
        expect(len(lines) == 2, f"a frame is not its name and its data: {lines[0][:40]}")
        name, line = lines
        events.append(orjson.loads(line.removeprefix("data: ")))
        expect(name == f"event: {events[-1]['type']}", "an event has another name than its type")
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
    """An output may tell the phases of its messages."""
    response = target.respond("Hello")
    [answer] = [item for item in response["output"] if item["type"] == "message"]
    phases = [{**answer, "id": f"msg_{phase}", "phase": phase} for phase in ("commentary", "final_answer")]
    target.completed({**response, "output": phases})


def streaming_response(target: Target) -> None:
    """A stream tells its response bit by bit."""
    asked = {"model": target.model, "input": [message("user", "Count to five.")], "stream": True}
    answer = offered(target.post(asked))
    expect(answer.status_code == 200, f"status {answer.status_code}: {answer.text[:200]}")
    expect(answer.headers["Content-Type"].startswith("text/event-stream"), "the answer is no event stream")
    target.valid("response.stream", answer.content)
    said_in(target.streamed(frames_of(answer.content)))


def system_prompt(target: Target) -> None:
    """A system message may stand in the input."""
    said_in(target.respond([message("system", "Talk like a sailor."), message("user", "Greet me.")]))


def tool_calling(target: Target) -> None:
    """A tool is called where one is offered, and is told back."""
    question = message("user", "How is the weather in Boston?")
    response = target.respond([question], tools=[WEATHER])
    expect(calls_in(response), "no tool was called")
    for call in calls_in(response):
        expect(call["name"] == WEATHER["name"], "another tool was called")
        expect(isinstance(orjson.loads(call["arguments"]), dict), "the arguments are no object")
    expect([tool["name"] for tool in response["tools"]] == [WEATHER["name"]], "the tools are not told back")


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
    offered(answer)
    expect(answer.status_code == 200, f"status {answer.status_code}: {answer.text[:200]}")
    right("compaction", answer.json())
    expect([item["type"] for item in answer.json()["output"]] == ["compaction"], "no compaction item")


def compact_missing_model(target: Target) -> None:
    """Packing needs a model's name."""
    answer = target.post({"input": [message("user", "Pack this.")]}, "/compact")
    offered(answer)
    expect(answer.status_code in (400, 422), f"status {answer.status_code}, not 400")
    target.valid("error", answer.content)
    error = answer.json()["error"]
    expect("model" in f"{error.get('param')} {error['message']}", "neither param nor message names the model")


# ------------------------------------------------------------------------------------------- WebSocket


def websocket_response(target: Target) -> None:
    """A socket gives the events of a stream; this one response is stored."""
    with target.connect() as client:
        said_in(target.streamed(client.ask([message("user", "Count to three.")], target.model)))


def websocket_sequential_responses(target: Target) -> None:
    """A socket answers one request after the other."""
    with target.connect() as client:
        responses = [target.streamed(target.say(client, f"Say just: {word}")) for word in ("one", "two")]
    expect(len({response["id"] for response in responses}) == 2, "two responses have one id")


def websocket_continuation(target: Target) -> None:
    """A socket goes on from a response of its own that is not stored."""
    with target.connect() as client:
        first = target.streamed(target.say(client, "The word is amber. Say OK."))
        second = target.streamed(target.say(client, "Which word was it?", previous_response_id=first["id"]))
    expect(second["previous_response_id"] == first["id"], "the response before is not told back")
    said_in(second)


def websocket_reconnect_store_false_recovery(target: Target) -> None:
    """Another socket does not know what is not stored, and stays open to begin anew."""
    with target.connect() as client:
        first = target.streamed(target.say(client, "The word is silver. Say OK."))
    with target.connect() as client:
        again = target.say(client, "Go on. Say just: again", previous_response_id=first["id"])
        expect(target.refused(again)["code"] == "previous_response_not_found", "the error has another code")
        recovered = target.streamed(target.say(client, [message("user", "Begin anew. Say just: anew")]))
    expect(recovered["previous_response_id"] is None, "a response before is told")


def websocket_previous_response_not_found(target: Target) -> None:
    """An id that names nothing is an error of its own."""
    with target.connect() as client:
        error = target.refused(target.say(client, "Go on.", previous_response_id="resp_of_nobody"))
    expect(error["code"] == "previous_response_not_found", "the error has another code")
    expect(error["param"] == "previous_response_id", "the error names another field")
    expect("resp_of_nobody" in error["message"], "the message does not name the id")


def websocket_failed_continuation_evicts_cache(target: Target) -> None:
    """What could not be gone on from is forgotten."""
    with target.connect() as client:
        first = target.streamed(target.say(client, "The word is ash. Say OK."))
        go_on = partial(target.say, client, previous_response_id=first["id"])
        unmatched = {"type": "function_call_output", "call_id": "call_of_nobody", "output": "Nobody asked."}
        target.refused(go_on([unmatched]))
        again = target.refused(go_on("Go on. Say just: on"))
        expect(again["code"] == "previous_response_not_found", "what failed is still remembered")


def websocket_compact_new_chain(target: Target) -> None:
    """A packed conversation is the beginning of a new one."""
    said = [
        message("user", [{"type": "input_text", "text": "The word is chalk."}]),
        message("assistant", [{"type": "output_text", "text": "Noted."}]),
        message("user", [{"type": "input_text", "text": "Pack all this for later."}]),
    ]
    packed = offered(target.post({"model": target.model, "input": said}, "/compact"))
    expect(packed.status_code == 200, f"status {packed.status_code}: {packed.text[:200]}")
    right("compaction", packed.json())
    with target.connect() as client:
        going_on = [
            *packed.json()["output"],
            {"type": "message", "role": "user", "content": "Go on from here."},
        ]
        response = target.streamed(target.say(client, going_on, tools=[]))
    expect(response["previous_response_id"] is None, "a response before is told")
    said_in(response)


HTTP_CASES: Sequence[Callable[[Target], None]] = (
    *(basic_response, assistant_phase, response_output_phase_schema, streaming_response, system_prompt),
    *(tool_calling, image_input, multi_turn, compact_response, compact_missing_model),
)
SOCKET_CASES: Sequence[Callable[[Target], None]] = (
    *(websocket_response, websocket_sequential_responses, websocket_continuation),
    *(websocket_reconnect_store_false_recovery, websocket_previous_response_not_found),
    *(websocket_failed_continuation_evicts_cache, websocket_compact_new_chain),
)


CASES: Sequence[Case] = tuple(
    Case(area, (case.__doc__ or "").rstrip("."), case)
    for area, cases in (("responses", HTTP_CASES), ("responses over WebSocket", SOCKET_CASES))
    for case in cases
)
