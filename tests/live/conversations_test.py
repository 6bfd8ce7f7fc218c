"""Six turns with every kind of client over every kind of flow: the model sees each past turn once, in order."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from tests.live.real_flowise import RealFlowise
from tests.live.surface_conversation_test import everything, said, seen_by_model, system_message, user
from tests.live.wire import Json, Wire, text_of
from tests.support.documents import PDF
from tests.support.running_proxy import StartProxy

pytestmark = pytest.mark.live

FLOWS = ["conv", "toolagent", "af_llm", "af_agent", "af_llm_nomem", "llmchain"]
LIBRECHAT = Path(__file__).parents[1] / "wire/librechat/03-chat-turn1-params.json"
PNG = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAIAAABLbSncAAAACXBIWXMAAAsSAAALEgHS3X78AAAAEklEQVQI"
    "mWP4z8CAFWEXHbQSACj/P8FTKqelAAAAAElFTkSuQmCC"
)
Ask = Callable[[Wire, str, list[Json], str], str]


def by_sdk(wire: Wire, flow: str, talk: list[Json], _id: str) -> str:
    """A plain client that resends everything and names nobody."""
    return wire.ask(flow, talk)


def by_librechat(wire: Wire, flow: str, talk: list[Json], conversation: str) -> str:
    """LibreChat's own request, with this conversation in it."""
    recorded = json.loads(LIBRECHAT.read_text())["request"]
    kept = {name: text for name, text in recorded["headers"].items() if name.startswith("x-")}
    body = {**recorded["body"], "model": flow, "messages": [recorded["body"]["messages"][0], *talk]}
    headers = {**kept, "x-conversation-id": conversation, "user-agent": recorded["headers"]["user-agent"]}
    with wire.post("/v1/chat/completions", body, headers=headers) as reply:
        assert reply.status_code == 200, reply.text
        return text_of(reply.content).strip()


def by_conversation_id(wire: Wire, flow: str, talk: list[Json], conversation: str) -> str:
    """A client that names the conversation and resends everything."""
    return wire.ask(flow, talk, conversation_id=conversation)


def by_new_message_alone(wire: Wire, flow: str, talk: list[Json], conversation: str) -> str:
    """A client that names the conversation and sends only what is new."""
    return wire.ask(flow, talk[-1:], conversation_id=conversation)


def by_responses_conversation(wire: Wire, flow: str, talk: list[Json], conversation: str) -> str:
    """A client of the Responses API that names the conversation."""
    body = {"model": flow, "input": talk[-1]["content"], "conversation": {"id": conversation}}
    with wire.post("/v1/responses", body) as reply:
        assert reply.status_code == 200, reply.text
        output: list[Any] = reply.json()["output"]
        return "".join(
            part["text"] for item in output if item["type"] == "message" for part in item["content"]
        )


_LAST: dict[str, str] = {}


def by_previous_response(wire: Wire, flow: str, talk: list[Json], conversation: str) -> str:
    """A client of the Responses API that names the response before."""
    body: Json = {"model": flow, "input": talk[-1]["content"], "store": True}
    if conversation in _LAST:
        body["previous_response_id"] = _LAST[conversation]
    with wire.post("/v1/responses", body) as reply:
        assert reply.status_code == 200, reply.text
        response = reply.json()
    _LAST[conversation] = response["id"]
    messages = (item for item in response["output"] if item["type"] == "message")
    return "".join(part["text"] for item in messages for part in item["content"])


CLIENTS = [
    by_previous_response,
    by_sdk,
    by_librechat,
    by_conversation_id,
    by_new_message_alone,
    by_responses_conversation,
]


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.__name__)
@pytest.mark.parametrize("flow", FLOWS)
def test_six_turns_reach_the_model_once_and_in_order(
    flow: str, client: Ask, flowise: RealFlowise, wire: Wire
) -> None:
    talk: list[Json] = []
    conversation = str(uuid4())
    for _ in range(6):
        talk.append(user(f"What is {uuid4().hex}?"))
        answer = client(wire, flowise.flows[flow], talk, conversation)
        shown = everything(said(seen_by_model(flowise, talk[-1]["content"])))
        questions = [message["content"] for message in talk if message["role"] == "user"]
        if flow == "llmchain":  # its answers quote the question, which quotes what was before
            assert all(question in shown for question in questions)
        else:
            marks = [question.split()[-1].strip("?") for question in questions]
            # The fake model's answers repeat their question: each mark stands twice but the newest.
            assert [shown.count(mark) for mark in marks] == [2] * (len(marks) - 1) + [1], shown
            assert sorted(marks, key=shown.find) == marks
        talk.append({"role": "assistant", "content": answer})


@pytest.mark.parametrize("flow", ["conv", "toolagent", "af_llm", "af_agent"])
def test_a_fork_an_edit_and_a_changed_system_text(flow: str, flowise: RealFlowise, wire: Wire) -> None:
    flow_id = flowise.flows[flow]
    talk: list[Json] = []
    for _ in range(3):
        talk.append(user(f"What is {uuid4().hex}?"))
        talk.append({"role": "assistant", "content": wire.ask(flow_id, talk)})
    for kept in (2, 4, 2, 6):
        branch = [*talk[:kept], user(f"What is {uuid4().hex}?")]
        wire.ask(flow_id, branch)
        shown = said(seen_by_model(flowise, branch[-1]["content"]))
        assert shown == [(message["role"], message["content"].strip()) for message in branch]
    system = f"Mind {uuid4().hex}."
    asked = [system_message(system), *talk, user(f"What is {uuid4().hex}?")]
    wire.ask(flow_id, asked)
    shown_text = everything(seen_by_model(flowise, asked[-1]["content"]))
    assert shown_text.count(system) == 1


@pytest.mark.parametrize("text", ["{city} and {{x}}", '{"a": {"b": 1}}', "}{ {", "{{ $flow.state }}"])
@pytest.mark.parametrize("flow", ["conv", "toolagent", "llmchain", "af_llm", "rag"])
def test_braces_reach_the_model_as_they_are(text: str, flow: str, flowise: RealFlowise, wire: Wire) -> None:
    mark = uuid4().hex
    first = f"Say {text} for {mark}."
    answer = wire.ask(flowise.flows[flow], first)
    again = f"Again {uuid4().hex}?"
    wire.ask(flowise.flows[flow], [user(first), {"role": "assistant", "content": answer}, user(again)])
    assert first in everything(seen_by_model(flowise, again))


@pytest.mark.parametrize("flow", ["conv_override", "toolagent_override", "af_override"])
@pytest.mark.parametrize("system", ["Mind {braces} and {{more}}.", "Plain.", '{"json": {"a": [1]}}'])
def test_a_system_text_reaches_the_model_verbatim_on_every_turn(
    flow: str, system: str, flowise: RealFlowise, wire: Wire
) -> None:
    talk = [system_message(f"{system} {uuid4().hex}")]
    for _ in range(3):
        talk.append(user(f"What is {uuid4().hex}?"))
        answer = wire.ask(flowise.flows[flow], talk)
        seen = seen_by_model(flowise, talk[-1]["content"])
        shown = everything([turn for turn in seen if turn[0] != "assistant"])  # it answers what it was told
        assert shown.count(talk[0]["content"]) == 1, shown
        talk.append({"role": "assistant", "content": answer})


# Files


def file_part(name: str, mime: str, content: str) -> Json:
    """A file as LibreChat sends it."""
    return {"type": "file", "file": {"filename": name, "file_data": f"data:{mime};base64,{content}"}}


def picture() -> tuple[Json, str]:
    """A picture that no other test has, and its data."""
    data = PNG + base64.b64encode(uuid4().bytes[:15]).decode()
    return {"type": "image_url", "image_url": {"url": data}}, data


def requests_of_run(flowise: RealFlowise, text: str) -> list[str]:
    """What the models of the newest run were sent, as JSON: each node's request that holds this text."""
    bodies = (json.dumps(entry["body"]) for entry in flowise.llm_log() if "messages" in entry.get("body", {}))
    return [body for body in bodies if text in body]


def four_turns(wire: Wire, flow: str, talk: list[Json], parts: list[Json], more: Json) -> Iterator[str]:
    """Put a conversation into `talk` whose first message has attachments; its questions, turn by turn."""
    for number in range(4):
        question = f"What is {uuid4().hex}?"
        talk.append(user([*parts, {"type": "text", "text": question}] if number == 0 else question))
        talk.append({"role": "assistant", "content": wire.ask(flow, talk, **more)})
        yield question


WITH_MEMORY = ["conv", "conv_fullfile", "conv_vision", "toolagent", "af_llm", "af_agent"]


@pytest.mark.parametrize("named", [False, True], ids=["no id", "conversation id"])
@pytest.mark.parametrize("flow", [*WITH_MEMORY, "af_two_llms", "af_llm_nomem", "af_ephemeral", "llmchain"])
def test_a_document_of_the_first_turn_is_known_in_the_fourth(
    flow: str, named: bool, flowise: RealFlowise, wire: Wire
) -> None:
    flow_id, secret = flowise.flows[flow], uuid4().hex
    part = file_part("notes.txt", "text/plain", base64.b64encode(f"The word is {secret}.".encode()).decode())
    more = {"conversation_id": str(uuid4())} if named else {}
    talk: list[Json] = []
    for question in four_turns(wire, flow_id, talk, [part], more):
        # Of two models the second one knows it too.
        assert all(secret in body for body in requests_of_run(flowise, question))
    for _ in range(2):  # edited, and gone on from there
        talk = [*talk[:2], user(f"Edited {uuid4().hex}")]
        talk.append({"role": "assistant", "content": wire.ask(flow_id, talk, **more)})
        assert all(secret in body for body in requests_of_run(flowise, talk[2]["content"]))
        talk = [*talk, user(f"On {uuid4().hex}")]
        wire.ask(flow_id, talk, **more)
        wire.ask(flow_id, talk, **more)  # regenerated
        assert all(secret in body for body in requests_of_run(flowise, talk[-1]["content"]))


@pytest.mark.parametrize("named", [False, True], ids=["no id", "conversation id"])
@pytest.mark.parametrize(
    "flow", ["conv_vision", "af_llm", "af_agent", "af_two_llms", "af_llm_nomem", "af_ephemeral"]
)
def test_pictures_are_known_in_every_later_turn(
    flow: str, named: bool, flowise: RealFlowise, wire: Wire
) -> None:
    flow_id = flowise.flows[flow]
    part, data = picture()
    more = {"conversation_id": str(uuid4())} if named else {}
    talk: list[Json] = []
    for question in four_turns(wire, flow_id, talk, [part], more):
        assert data in requests_of_run(flowise, question)[0]
    second, other = picture()
    talk.append(user([second, {"type": "text", "text": f"And this, {uuid4().hex}?"}]))
    talk.append({"role": "assistant", "content": wire.ask(flow_id, talk, **more)})
    talk.append(user(f"Both, {uuid4().hex}?"))
    wire.ask(flow_id, talk, **more)
    [shown, *_] = requests_of_run(flowise, talk[-1]["content"])
    assert (data in shown, other in shown) == (True, True)
    for edited in ([*talk[:2], user(f"Edited {uuid4().hex}")], [*talk[:4], user(f"Edited {uuid4().hex}")]):
        answer = wire.ask(flow_id, edited, **more)
        shown = requests_of_run(flowise, edited[-1]["content"])[0]
        assert (data in shown, other in shown) == (True, False)
        later = [*edited, {"role": "assistant", "content": answer}, user(f"On {uuid4().hex}")]
        wire.ask(flow_id, later, **more)
        assert data in requests_of_run(flowise, later[-1]["content"])[0]


@pytest.mark.parametrize("flow", ["conv_fullfile", "af_llm"])
def test_files_stay_with_a_previous_response(flow: str, flowise: RealFlowise, wire: Wire) -> None:
    secret = uuid4().hex
    content = base64.b64encode(f"The word is {secret}.".encode()).decode()
    file = {"type": "input_file", "filename": "n.txt", "file_data": f"data:text/plain;base64,{content}"}
    parts: list[Json] = [file]
    data = ""
    if flow == "af_llm":
        image, data = picture()
        parts.append({"type": "input_image", "image_url": image["image_url"]["url"]})
    previous: Json = {}
    for number in range(4):
        question = f"What is {uuid4().hex}?"
        text = {"type": "input_text", "text": question}
        asked = [{"role": "user", "content": [*parts, text] if number == 0 else [text]}]
        body = {"model": flowise.flows[flow], "input": asked, "store": True, **previous}
        with wire.post("/v1/responses", body) as reply:
            assert reply.status_code == 200, reply.text
            previous = {"previous_response_id": reply.json()["id"]}
        shown = requests_of_run(flowise, question)[0]
        assert secret in shown
        assert data in shown


def test_a_pdf_of_the_first_turn_is_known_in_the_fourth(flowise: RealFlowise, wire: Wire) -> None:
    flow_id = flowise.flows["conv_fullfile"]
    talk: list[Json] = []
    for question in four_turns(wire, flow_id, talk, [file_part("doc.pdf", "application/pdf", PDF)], {}):
        assert "Pdf words here" in requests_of_run(flowise, question)[0]
    edited = [*talk[:2], user(f"Edited {uuid4().hex}")]
    wire.ask(flow_id, edited)
    assert "Pdf words here" in requests_of_run(flowise, edited[-1]["content"])[0]


@pytest.mark.parametrize("named", [False, True], ids=["no id", "conversation id"])
def test_a_flow_that_forgets_is_told_all_each_time(named: bool, flowise: RealFlowise, wire: Wire) -> None:
    talk: list[Json] = []
    conversation = str(uuid4())
    for _ in range(4):
        talk.append(user(f"What is {uuid4().hex}?"))
        answer = (by_new_message_alone if named else by_sdk)(
            wire, flowise.flows["af_ephemeral"], talk, conversation
        )
        shown = said(seen_by_model(flowise, talk[-1]["content"]))
        assert shown == [(message["role"], message["content"].strip()) for message in talk]
        talk.append({"role": "assistant", "content": answer})


@pytest.mark.parametrize("flow", ["conv", "af_llm", "af_agent"])
def test_streams_that_follow_at_once_share_a_chat_id(flow: str, flowise: RealFlowise, wire: Wire) -> None:
    """Flowise keeps one stream per chat id: none may end with the one before it."""
    talk: list[Json] = []
    for _ in range(10):
        talk.append(user(f"What is {uuid4().hex}?"))
        answer = wire.stream(flowise.flows[flow], talk)
        assert talk[-1]["content"] in answer
        talk.append({"role": "assistant", "content": answer})
    assert len(said(seen_by_model(flowise, talk[-2]["content"]))) == 19


def test_a_conversation_is_one_in_flowises_own_view(flowise: RealFlowise, wire: Wire) -> None:
    chats, talk = set(), list[Json]()
    for _ in range(3):
        talk.append(user(f"What is {uuid4().hex}?"))
        body = wire.chat(flowise.flows["af_llm"], talk)
        talk.append({"role": "assistant", "content": body["choices"][0]["message"]["content"]})
        chats.add(body["flowise"]["chat_id"])
    assert len(chats) == 1


@pytest.mark.parametrize(
    "mime", ["image/jpg", "image/pjpeg", "image/x-png", "image/x-ms-bmp", "image/tif", "image/*"]
)
def test_a_picture_of_an_unusual_type_reaches_the_model(mime: str, flowise: RealFlowise, wire: Wire) -> None:
    question = f"What is on it, {uuid4().hex}?"
    image = {"type": "image_url", "image_url": {"url": PNG.replace("image/png", mime)}}
    wire.ask(flowise.flows["af_llm"], [user([{"type": "text", "text": question}, image])])
    assert "image_url" in requests_of_run(flowise, question)[0]


def test_a_refused_picture_does_not_make_the_chat_unusable(flowise: RealFlowise, wire: Wire) -> None:
    part, _ = picture()
    talk = [user([part, {"type": "text", "text": f"What is it, {uuid4().hex}?"}])]
    with wire.post("/v1/chat/completions", {"model": flowise.flows["conv"], "messages": talk}) as reply:
        assert reply.status_code == 400
    question = f"Go on without it, {uuid4().hex}"
    body = wire.chat(flowise.flows["conv"], [*talk, user(question)])
    assert "image (1)" in body["flowise"]["warnings"][0]
    assert "[image left out]" in requests_of_run(flowise, question)[0]


@pytest.mark.parametrize("flow", ["conv_vision", "af_llm"])
def test_an_image_reaches_the_model(flow: str, flowise: RealFlowise, wire: Wire) -> None:
    question = f"What is on it, {uuid4().hex}?"
    image = {"type": "image_url", "image_url": {"url": PNG}}
    wire.ask(flowise.flows[flow], [user([{"type": "text", "text": question}, image])])
    assert "image_url" in json.dumps(newest_request(flowise, question))


def test_an_image_for_a_flow_without_vision_is_refused(flowise: RealFlowise, wire: Wire) -> None:
    image = {"type": "image_url", "image_url": {"url": PNG}}
    with wire.post(
        "/v1/chat/completions", {"model": flowise.flows["conv"], "messages": [user([image])]}
    ) as r:
        assert (r.status_code, r.json()["error"]["code"]) == (400, "unsupported_content")
        assert r.json()["error"]["param"] == "messages[0].content[0].image_url.url"


@pytest.mark.parametrize("flow", ["conv", "af_llm", "llmchain", "toolagent"])
def test_a_text_file_reaches_the_model_of_any_flow(flow: str, flowise: RealFlowise, wire: Wire) -> None:
    question = f"Read it, {uuid4().hex}."
    part = file_part("notes.txt", "text/plain", "c2VjcmV0IG5vdGVz")
    wire.ask(flowise.flows[flow], [user([part, {"type": "text", "text": question}])])
    assert "secret notes" in everything(seen_by_model(flowise, question))


def test_a_pdf_reaches_the_model_where_the_flow_takes_files(flowise: RealFlowise, wire: Wire) -> None:
    question = f"Read it, {uuid4().hex}."
    csv = file_part("table.csv", "application/vnd.ms-excel", "YSxiCjEsMgo=")  # as Windows calls it
    for part, words in ((file_part("doc.pdf", "application/pdf", PDF), "Pdf words here"), (csv, "a,b")):
        body = {
            "model": flowise.flows["conv_fullfile"],
            "messages": [user([part, {"type": "text", "text": question}])],
        }
        with wire.post("/v1/chat/completions", body) as reply:
            assert reply.status_code == 200, reply.text
            assert words in everything(seen_by_model(flowise, question))


def test_a_pdf_for_a_flow_without_files_is_refused(flowise: RealFlowise, wire: Wire) -> None:
    part = file_part("doc.pdf", "application/pdf", PDF)
    body = {"model": flowise.flows["af_llm"], "messages": [user([part])]}
    with wire.post("/v1/chat/completions", body) as reply:
        error = reply.json()["error"]
        assert (reply.status_code, error["code"]) == (400, "unsupported_content")
        assert error["param"] == "messages[0].content[0].file.file_data"


def newest_request(flowise: RealFlowise, text: str) -> Json:
    """The newest request to the model that holds this text."""
    bodies = (entry["body"] for entry in reversed(flowise.llm_log()) if "messages" in entry.get("body", {}))
    return next(body for body in bodies if text in json.dumps(body))


# Decisions


@pytest.fixture(scope="module")
def shared_key_wire(start_proxy: StartProxy) -> Iterator[Wire]:
    """A server whose one key many people may share."""
    with start_proxy(PROXY_API_KEYS="shared-by-many") as running, Wire(running.url) as connection:
        yield connection


@pytest.mark.parametrize("who", ["user ids", "no ids"])
@pytest.mark.parametrize("word", ["approve", "reject, rather not"])
@pytest.mark.parametrize("flow", ["af_human", "af_agent_human"])
def test_a_person_decides_by_plain_messages(
    flow: str, word: str, who: str, flowise: RealFlowise, shared_key_wire: Wire
) -> None:
    headers = {"Authorization": "Bearer shared-by-many"}
    more = {"user": "ann"} if who == "user ids" else {}
    talk = [user(f"please usetool {uuid4().hex}")]

    def ask() -> str:
        body = {"model": flowise.flows[flow], "messages": talk, **more}
        with shared_key_wire.post("/v1/chat/completions", body, headers=headers) as reply:
            assert reply.status_code == 200, reply.text
            return str(reply.json()["choices"][0]["message"]["content"])

    asked = ask()
    assert "Waiting for your decision" in asked
    talk.extend([{"role": "assistant", "content": asked}, user(word)])
    answer = ask()
    assert "Waiting for your decision" not in answer
    assert "Nothing was run" in ask()
