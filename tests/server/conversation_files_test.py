"""Pictures, speech and documents in conversations, over real sockets: what reaches the flow, then and later."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import pytest
import requests

from tests.support.conversations import FILE, Client, Json, assistant, seen, sessions, user
from tests.support.demo_server import DemoServer
from tests.support.running_proxy import RunningProxy

PNG = "data:image/png;base64,iVBORw0KGgo="
PNG_NAME = f"image-{hashlib.sha256(b'iVBORw0KGgo=').hexdigest()[:12]}.png"
AUDIO = f"audio-{hashlib.sha256(b'AAAA').hexdigest()[:12]}.webm"


@pytest.fixture(scope="module")
def proxy(flowise: DemoServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningProxy]:
    """A server with keys of one person and of many."""
    folder = tmp_path_factory.mktemp("proxy")
    (folder / "proxy.yaml").write_text(FILE)
    with RunningProxy(folder, FLOWISE_BASE_URL=flowise.base_url) as running:
        yield running


@pytest.fixture(autouse=True)
def _clean(flowise: DemoServer) -> None:
    flowise.clear()


def test_an_image_goes_to_a_flow_that_takes_images(proxy: RunningProxy, flowise: DemoServer) -> None:
    parts = [{"type": "text", "text": "What is it?"}, {"type": "image_url", "image_url": {"url": PNG}}]
    Client(proxy).text([user(parts)])
    [record] = flowise.records()
    assert record["body"]["uploads"] == [{"type": "file", "name": PNG_NAME, "mime": "image/png", "data": PNG}]
    assert record["body"]["question"] == "What is it?"


@pytest.mark.parametrize(
    ("part", "param"),
    [
        ({"type": "image_url", "image_url": {"url": PNG}}, "messages[0].content[0].image_url.url"),
        (
            {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "webm"}},
            "messages[0].content[0].input_audio.data",
        ),
    ],
)
def test_what_a_flow_does_not_take_is_refused_by_name(
    part: Json, param: str, proxy: RunningProxy, flowise: DemoServer
) -> None:
    answer = Client(proxy, model="demo-assistant").post([user([part])])
    error = answer.json()["error"]
    assert (answer.status_code, error["param"], error["code"]) == (400, param, "unsupported_content")
    assert flowise.records() == []


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_speech_goes_to_a_flow_that_hears_and_its_words_are_told(
    stream: bool, proxy: RunningProxy, flowise: DemoServer
) -> None:
    part = {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "webm"}}
    answer = Client(proxy).post([user([part])], stream=stream)
    assert answer.status_code == 200
    [record] = flowise.records()
    assert [(u["type"], u["mime"]) for u in record["body"]["uploads"]] == [("audio", "audio/webm")]
    assert seen(flowise)[-1]["content"] == f"The spoken words of {AUDIO}"
    assert f'"transcript":"The spoken words of {AUDIO}"' in answer.text


NOTES = "data:text/plain;base64,aGVsbG8gZmlsZQ=="
NOTES_TEXT = '<doc name="notes.txt">hello file</doc>'


def file(name: str, data: str) -> Json:
    """A file of a message."""
    return {"type": "file", "file": {"filename": name, "file_data": data}}


def documents(flowise: DemoServer) -> int:
    """How many messages of users, as the model of the last run saw them, hold the notes."""
    return sum(message["role"] == "user" and NOTES_TEXT in message["content"] for message in seen(flowise))


def image(data: str) -> Json:
    """A picture of a message."""
    return {"type": "image_url", "image_url": {"url": data}}


@pytest.mark.parametrize("model", ["demo-assistant", "demo-agent", "folded"])
@pytest.mark.parametrize("key", ["one-person", "team-a"])
def test_a_document_of_the_first_message_is_known_in_every_later_one(
    key: str, model: str, proxy: RunningProxy, flowise: DemoServer
) -> None:
    client = Client(proxy, key, model)
    text = f"Read it for {key} and {model}"
    messages = [user([file("notes.txt", NOTES), {"type": "text", "text": text}])]
    for number in range(4):
        messages.append(assistant(client.text(messages)))
        assert documents(flowise) == 1
        messages.append(user(f"next {number}"))
    assert (len(set(sessions(flowise))) == 1) == (key == "one-person" and model != "folded")
    messages = [messages[0], assistant("Another answer"), user("edited")]
    for _ in range(3):
        messages.append(assistant(client.text(messages)))
        assert documents(flowise) == 1
        messages.append(user("on"))


def test_a_document_stays_where_only_what_is_new_is_sent(proxy: RunningProxy, flowise: DemoServer) -> None:
    for model in ("demo-assistant", "folded"):
        client = Client(proxy, "team-a", model)
        ids: Json = {"conversation_id": f"with-notes-{model}"}
        client.text([user([file("notes.txt", NOTES), {"type": "text", "text": "Read it"}])], **ids)
        for number in range(3):
            client.text([user(f"next {number}")], **ids)
            assert documents(flowise) == 1


def test_a_session_has_one_chat_id_and_its_pictures_names_of_their_own(
    proxy: RunningProxy, flowise: DemoServer
) -> None:
    """Agentflows look for earlier pictures, by their names, under the chat id of the call."""
    client, messages = Client(proxy), list[Json]()
    for data in ("iVBORw0KGgo=", "iVBORw0KGgoA", "iVBORw0KGgo="):
        messages.append(user([{"type": "text", "text": "one chat"}, image(f"data:image/png;base64,{data}")]))
        messages.append(assistant(client.text(messages)))
    bodies = [record["body"] for record in flowise.records()]
    assert len({body["chatId"] for body in bodies}) == 1
    names = [[upload["name"] for upload in body["uploads"]] for body in bodies]
    assert [len(of_one) for of_one in names] == [1, 1, 1]
    assert names[0] == names[2] != names[1]


def test_another_picture_under_the_same_words_reaches_the_model(
    proxy: RunningProxy, flowise: DemoServer
) -> None:
    client = Client(proxy)
    cat, dog = (image(f"data:image/png;base64,{data}") for data in ("AAAA", "AAAB"))
    answer = client.text([user(["What is it?", cat])])
    client.text([user(["What is it?", dog]), assistant(answer), user("And its colour?")])
    uploads = flowise.records()[-1]["body"]["uploads"]
    assert [upload["data"] for upload in uploads] == ["data:image/png;base64,AAAB"]
    assert flowise.records()[-1]["body"]["history"][0]["content"] == "What is it?"


IMAGE_LEFT_OUT = "Left out of earlier messages, because this model does not accept them: image (1)."


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_a_refused_picture_does_not_make_the_chat_unusable(
    stream: bool, proxy: RunningProxy, flowise: DemoServer
) -> None:
    client = Client(proxy, model="demo-assistant")
    refused = user(["What is it?", image(PNG)])
    assert client.post([refused]).status_code == 400
    for later in (
        [user("Go on without it")],
        [assistant("Error: it takes no images"), user("Go on without it")],
    ):
        answer = client.post([refused, *later], stream=stream)
        assert (answer.status_code, IMAGE_LEFT_OUT in answer.text) == (200, True), answer.text
        assert seen(flowise)[0]["content"].startswith("[image left out]\n\nWhat is it?")
        assert "uploads" not in flowise.records()[-1]["body"]


def test_a_change_of_model_leaves_out_what_the_new_one_cannot_take(
    proxy: RunningProxy, flowise: DemoServer
) -> None:
    recording = {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "webm"}}
    pdf = file("paper.pdf", "data:application/pdf;base64,JVBERg==")
    talk = [
        user(["What is it?", image(PNG)]),
        assistant("A cat."),
        user([recording]),
        assistant("Yes."),
        user([pdf]),
        assistant("I see."),
        user("And now?"),
    ]
    body = Client(proxy, model="demo-assistant").ask(talk)
    assert [message["content"] for message in seen(flowise)][::2] == [
        "[image left out]\n\nWhat is it?",
        "[audio left out]\n\nSee the attachment.",
        "[file left out]\n\nSee the attachment.",
        "And now?",
    ]
    assert body["flowise"]["warnings"] == [
        "Left out of earlier messages, because this model does not accept them: audio (1), file (1), image (1)."
    ]
    # A model that hears: the words of an earlier recording would stand in the place of the question.
    Client(proxy, model="demo-agent").ask(talk)
    record = flowise.records()[-1]
    assert [upload["type"] for upload in record["body"]["uploads"]] == ["file"]
    assert seen(flowise)[-1]["content"] == "And now?"


def test_nothing_in_an_earlier_message_makes_a_chat_unusable(
    proxy: RunningProxy, flowise: DemoServer
) -> None:
    client = Client(proxy, model="demo-assistant")
    talk = [
        user([{"type": "video_url", "video_url": {"url": "https://a.b/c.mp4"}}, "Watch this"]),
        {"role": "assistant", "content": [{"type": "thinking", "thinking": "Hm."}, "I did."]},
        user(None),
        {"role": "assistant", "content": None, "tool_calls": [{"id": "c1", "type": "function"}]},
        {"role": "tool", "tool_call_id": "c1", "content": None},
        {"role": "narrator", "content": "Meanwhile"},
        user("Go on"),
    ]
    body = client.ask(talk)
    assert body["flowise"]["warnings"] == [
        "Left out of earlier messages, because this model does not accept them: message (1), part (1), tool call (1)."
    ]
    assert "Watch this" in seen(flowise)[0]["content"]
    raw = b'{"model":"demo-assistant","messages":[{"role":"user","content":"cut \\ud83d"}]}'
    headers = {
        "Authorization": "Bearer one-person",
        "Connection": "close",
        "Content-Type": "application/json",
    }
    answer = requests.post(f"{proxy.url}/v1/chat/completions", data=raw, headers=headers, timeout=30)
    assert (answer.status_code, seen(flowise)[-1]["content"]) == (200, "cut \ufffd")
