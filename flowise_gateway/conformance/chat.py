"""What clients rely on in models, chat completions, completions and errors, after OpenAI's reference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import orjson

from flowise_gateway.conformance.target import NO_ROUTE, Answer, Case, Json, NotOffered, Target, expect

FINISH_REASONS = ("stop", "length", "tool_calls", "content_filter", "function_call")
DONE = "data: [DONE]"
UNICODE = "Grüße, 世界 🙂"


def case(area: str, promise: str) -> Callable[[Callable[[Target], None]], Callable[[Target], None]]:
    """Take a function into the list of cases."""

    def add(run: Callable[[Target], None]) -> Callable[[Target], None]:
        CASES.append(Case(area, promise, run))
        return run

    return add


CASES: list[Case] = []


def chat(target: Target, said: Any = "Hello", **more: Any) -> Answer:
    """The answer to a chat of one message."""
    messages = said if isinstance(said, list) else [{"role": "user", "content": said}]
    return target.ask("POST", "/chat/completions", {"model": target.model, "messages": messages, **more})


def whole(answer: Answer, kind: str = "chat.completion") -> Json:
    """The body of a right answer."""
    expect(answer.status_code == 200, f"status {answer.status_code}: {answer.text[:200]}")
    expect(answer.headers.get("content-type", "").startswith("application/json"), "the answer is not JSON")
    body: Json = answer.json()
    expect(body.get("object") == kind, f"object is {body.get('object')!r}, not {kind!r}")
    expect(isinstance(body.get("id"), str) and body["id"], "there is no id")
    expect(isinstance(body.get("created"), int), "created is no whole number of seconds")
    expect(isinstance(body.get("model"), str), "there is no model")
    expect(isinstance(body.get("choices"), list) and body["choices"], "there are no choices")
    for index, choice in enumerate(body["choices"]):
        expect(choice.get("index") == index, "the choices are not numbered from 0")
        expect(
            choice.get("finish_reason") in FINISH_REASONS, f"finish_reason is {choice.get('finish_reason')!r}"
        )
    return body


def text_of(body: Json) -> str:
    """The text of the first choice of a chat completion."""
    message = body["choices"][0].get("message", {})
    expect(message.get("role") == "assistant", "the message is not the assistant's")
    content = message.get("content")
    expect(isinstance(content, str), f"content is {content!r}")
    return str(content)


def check_usage(usage: Any) -> None:
    """Tokens are counted, and add up."""
    expect(isinstance(usage, dict), "there is no usage")
    counts = [usage.get(f"{name}_tokens") for name in ("prompt", "completion", "total")]
    expect(all(isinstance(count, int) for count in counts), f"usage is {usage}")
    expect(counts[0] + counts[1] == counts[2], "the tokens do not add up")


def frames(answer: Answer) -> list[Json]:
    """The chunks of a stream; the word for its end is no chunk."""
    expect(answer.status_code == 200, f"status {answer.status_code}: {answer.text[:200]}")
    kind = answer.headers.get("content-type", "")
    expect(kind.startswith("text/event-stream"), f"the content type is {kind!r}")
    text = answer.content.decode().replace("\r\n", "\n")
    lines = [line for line in text.split("\n\n") if line and not line.startswith(":")]
    expect(all(line.startswith("data: ") for line in lines), "a frame is no `data: ` line")
    return [orjson.loads(line[6:]) for line in lines if line != DONE]


def check_chunks(chunks: Sequence[Json], kind: str = "chat.completion.chunk") -> None:
    """Each chunk is of one answer, and each choice ends once."""
    expect(chunks, "the stream is empty")
    expect({chunk.get("object") for chunk in chunks} == {kind}, f"a chunk's object is not {kind!r}")
    for name in ("id", "created", "model"):
        values = {chunk.get(name) for chunk in chunks}
        expect(len(values) == 1 and None not in values, f"{name} is not the same in all chunks")
    expect(all(isinstance(chunk.get("choices"), list) for chunk in chunks), "a chunk has no choices")
    ends = [
        choice["finish_reason"]
        for chunk in chunks
        for choice in chunk["choices"]
        if choice.get("finish_reason")
    ]
    expect(len(ends) == 1 and ends[0] in FINISH_REASONS, f"the finish reasons are {ends}")


def error_of(answer: Answer, *statuses: int) -> Json:
    """The error of an answer, in OpenAI's shape."""
    expect(
        answer.status_code in statuses, f"status {answer.status_code}, not {' or '.join(map(str, statuses))}"
    )
    kind = answer.headers.get("content-type", "")
    expect(kind.startswith("application/json"), f"the error is {kind or 'of no type'}, not JSON")
    error = answer.json().get("error") if isinstance(answer.json(), dict) else None
    expect(isinstance(error, dict), "there is no object `error`")
    assert isinstance(error, dict)  # noqa: S101 - for the type checker
    expect(isinstance(error.get("message"), str) and error["message"], "the error has no message")
    expect(isinstance(error.get("type"), str), "the error has no type")
    expect("param" in error and "code" in error, "the error has no param or no code")
    return error


# ---------------------------------------------------------------------------------------------- models


@case("models", "the list is OpenAI's, and holds the model")
def _list(target: Target) -> None:
    answer = target.ask("GET", "/models")
    expect(answer.status_code == 200, f"status {answer.status_code}")
    body = answer.json()
    expect(body.get("object") == "list", f"object is {body.get('object')!r}")
    for model in body["data"]:
        expect(model.get("object") == "model", "an entry's object is not 'model'")
        missing = {"id", "created", "owned_by"} - model.keys()
        expect(not missing, f"an entry has no {', '.join(sorted(missing))}")
    expect(target.model in [model["id"] for model in body["data"]], "the model is not in the list")


@case("models", "a model can be looked up")
def _retrieve(target: Target) -> None:
    answer = target.ask("GET", target.model_path())
    expect(answer.status_code == 200, f"status {answer.status_code}")
    expect(answer.json().get("id") == target.model, "it is another one")


@case("models", "an unknown model is 404 model_not_found")
def _unknown_model(target: Target) -> None:
    error = error_of(target.ask("GET", "/models/no-such-model-0"), 404)
    expect(error["code"] == "model_not_found", f"the code is {error['code']!r}")


# ------------------------------------------------------------------------------------ chat completions


@case("chat", "a message gets an answer, with usage")
def _chat(target: Target) -> None:
    body = whole(chat(target))
    expect(text_of(body), "the answer is empty")
    check_usage(body.get("usage"))
    target.valid("chat.response", orjson.dumps(body))


@case("chat", "a conversation with system and assistant messages is taken")
def _conversation(target: Target) -> None:
    messages = [
        ("system", "Be brief."),
        ("user", "My name is Bob."),
        ("assistant", "Hello Bob."),
        ("user", "Who am I?"),
    ]
    whole(chat(target, [{"role": role, "content": text} for role, text in messages]))


@case("chat", "a developer message is taken")
def _developer(target: Target) -> None:
    messages = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
    whole(chat(target, messages))


@case("chat", "content may be a list of parts")
def _parts(target: Target) -> None:
    whole(chat(target, [{"role": "user", "content": [{"type": "text", "text": "Hello"}]}]))


@case("chat", "tool calls and their results may stand in the history")
def _tool_history(target: Target) -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "look_up", "arguments": "{}"}}
    messages = [
        {"role": "user", "content": "Look it up."},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "call_1", "content": "It is 4."},
    ]
    whole(chat(target, messages))


@case("chat", "parameters of OpenAI's are taken, null ones too")
def _parameters(target: Target) -> None:
    more = {"temperature": 0.5, "top_p": 1, "max_tokens": 200, "seed": 1, "user": "u", "stop": None, "n": 1}
    whole(chat(target, **more, frequency_penalty=0, presence_penalty=0, logit_bias=None, metadata={"a": "b"}))


@case("chat", "n gives as many choices")
def _n(target: Target) -> None:
    expect(len(whole(chat(target, n=2))["choices"]) == 2, "there are not two choices")


@case("chat", "what a stop sequence ends holds it no more")
def _stop(target: Target) -> None:
    expect(
        "e" not in text_of(whole(chat(target, "Hello there", stop=["e"]))), "the sequence is in the answer"
    )


# --------------------------------------------------------------------------------------------- streams


@case("stream", "a stream is chunks of one answer, ended by [DONE]")
def _stream(target: Target) -> None:
    answer = chat(target, stream=True)
    chunks = frames(answer)
    check_chunks(chunks)
    expect(answer.text.rstrip().endswith(DONE), "the stream does not end with `data: [DONE]`")
    said = [choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"]]
    expect("".join(said), "the answer is empty")
    target.valid("chat.stream", answer.content)


@case("stream", "the first delta tells the role, the last is empty")
def _role_first(target: Target) -> None:
    deltas = [choice["delta"] for chunk in frames(chat(target, stream=True)) for choice in chunk["choices"]]
    expect(deltas[0].get("role") == "assistant", "the first delta has no role")
    expect(not deltas[-1].get("content"), "the delta of the finish reason has content")


@case("stream", "usage comes once, when it is asked for, without choices, before [DONE]")
def _usage(target: Target) -> None:
    chunks = frames(chat(target, stream=True, stream_options={"include_usage": True}))
    expect(chunks[-1].get("choices") == [], "the last chunk has choices")
    check_usage(chunks[-1].get("usage"))
    expect(not any(chunk.get("usage") for chunk in chunks[:-1]), "usage comes twice")


@case("stream", "usage does not come unasked")
def _no_usage(target: Target) -> None:
    chunks = frames(chat(target, stream=True))
    expect(all(chunk["choices"] for chunk in chunks), "a chunk has no choices")
    expect(not any(chunk.get("usage") for chunk in chunks), "there is usage")


@case("stream", "characters of any script come through whole")
def _unicode(target: Target) -> None:
    chunks = frames(chat(target, f"Repeat: {UNICODE}", stream=True))
    check_chunks(chunks)
    expect("\ufffd" not in orjson.dumps(chunks).decode(), "a character was broken")


@case("stream", "what is wrong before the first token is a status, not a stream")
def _error_before(target: Target) -> None:
    body = {"model": target.model, "messages": "Hello", "stream": True}
    error_of(target.ask("POST", "/chat/completions", body), 400, 422)


# ----------------------------------------------------------------------------------------- completions


@case("completions", "a prompt gets a text")
def _completion(target: Target) -> None:
    answer = target.ask("POST", "/completions", {"model": target.model, "prompt": "Hello"})
    if answer.status_code in NO_ROUTE:
        raise NotOffered
    body = whole(answer, "text_completion")
    expect(isinstance(body["choices"][0].get("text"), str), "there is no text")
    check_usage(body.get("usage"))


@case("completions", "a stream of texts ends with [DONE]")
def _completion_stream(target: Target) -> None:
    answer = target.ask("POST", "/completions", {"model": target.model, "prompt": "Hello", "stream": True})
    if answer.status_code in NO_ROUTE:
        raise NotOffered
    check_chunks(frames(answer), "text_completion")


# ---------------------------------------------------------------------------------------------- errors


@case("errors", "a wrong key is 401 invalid_api_key")
def _wrong_key(target: Target) -> None:
    answer = target.ask("GET", "/models", Authorization="Bearer wrong")
    if answer.status_code == 200:
        raise NotOffered  # a server that asks for no key
    expect(error_of(answer, 401)["code"] == "invalid_api_key", "the code is another one")


@case("errors", "an unknown model is 404 model_not_found")
def _no_model(target: Target) -> None:
    body = {"model": "no-such-model-0", "messages": [{"role": "user", "content": "Hello"}]}
    error = error_of(target.ask("POST", "/chat/completions", body), 404)
    expect(error["code"] == "model_not_found", f"the code is {error['code']!r}")


@case("errors", "a body that is no JSON is 400")
def _no_json(target: Target) -> None:
    error_of(target.ask("POST", "/chat/completions", b'{"model":'), 400)


@case("errors", "missing messages are 400, and named")
def _no_messages(target: Target) -> None:
    error = error_of(target.ask("POST", "/chat/completions", {"model": target.model}), 400)
    expect("messages" in f"{error['param']} {error['message']}", "neither param nor message names them")


@case("errors", "a field of a wrong type is 400, and named")
def _wrong_type(target: Target) -> None:
    error = error_of(chat(target, temperature="hot"), 400)
    expect("temperature" in f"{error['param']} {error['message']}", "neither param nor message names it")


@case("errors", "an unknown role is 400")
def _wrong_role(target: Target) -> None:
    error_of(chat(target, [{"role": "nobody", "content": "Hello"}]), 400)


@case("errors", "an unknown address is 404 in OpenAI's shape")
def _no_route(target: Target) -> None:
    error_of(target.ask("POST", "/no/such/route", {}), 404)


@case("errors", "a wrong method is 404 or 405 in OpenAI's shape")
def _wrong_method(target: Target) -> None:
    error_of(target.ask("GET", "/chat/completions"), 404, 405)


@case("errors", "each answer has an x-request-id")
def _request_id(target: Target) -> None:
    answers = chat(target), target.ask("GET", "/models/no-such-model-0")
    expect(all(answer.headers.get("x-request-id") for answer in answers), "one has none")


@case("browsers", "a preflight is answered without a key")
def _preflight(target: Target) -> None:
    asked = {
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type",
    }
    answer = target.ask(
        "OPTIONS", "/chat/completions", Authorization="", Origin="http://localhost:3000", **asked
    )
    expect(answer.status_code in (200, 204), f"status {answer.status_code}")
    allowed = answer.headers.get("access-control-allow-origin")
    expect(allowed in ("*", "http://localhost:3000"), f"the origin allowed is {allowed!r}")
    names = answer.headers.get("access-control-allow-headers", "").lower()
    expect("*" in names or "authorization" in names, "the header Authorization is not allowed")
