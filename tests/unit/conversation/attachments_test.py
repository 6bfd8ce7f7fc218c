"""What was attached to a conversation: fitted to its flow by a demo Flowise that reads documents, or does not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from flowise_client import FlowiseClient
from flowise_demo.server import DEMO_FLOWS
from flowise_gateway.conversation.attachments import (
    Attachments,
    Fitted,
    Takes,
    kind_of,
    left_out_warning,
    refuse,
    takes_of,
)
from flowise_gateway.flow.errors import BadRequest, FlowiseUnavailable
from flowise_gateway.flow.model import Model
from flowise_gateway.flow.turn import Attachment, HistoryMessage, Upload
from tests.support.demo_server import DemoServer

PDF = Upload("file", "a.pdf", "application/pdf", "data:application/pdf;base64,JVBERg==")
NOTES = Upload("file:full", "n.txt", "text/plain", "words")
PICTURE = Upload("file", "image-1.png", "image/png", "data:image/png;base64,AAAA")
SPOKEN = Upload("audio", "audio-1.webm", "audio/webm", "data:audio/webm;base64,AAAA")
TALK = (HistoryMessage("userMessage", "Read it", ("d1",)), HistoryMessage("apiMessage", "I did"))


@pytest.fixture(scope="module")
def flowise() -> Iterator[DemoServer]:
    """A Flowise with a flow that reads documents."""
    with DemoServer() as demo:
        yield demo


@pytest.fixture(scope="module")
def reader(flowise: DemoServer) -> FlowiseClient:
    """The client of a flow that reads documents."""
    config = json.dumps({"fullFileUpload": {"status": True}})
    flow = flowise.control("POST", "/__demo/flows", {"name": "Reader", "chatbotConfig": config})
    return FlowiseClient(flowise.base_url, flow["id"])


def attached(upload: Upload, position: int = 0, **more: Any) -> Attachment:
    """Something of the message at a position."""
    return replace(Attachment(upload, "the.field", position, digest="d1"), **more)


def fit(client: FlowiseClient, *attachments: Attachment, takes: bool = True, held: int = 0) -> Fitted:
    """Fit attachments of a talk, of whose messages the session holds some."""
    flow = Takes(client, image=takes, audio=takes)
    return Attachments().fitted(attachments, TALK[: len(TALK) - held], len(TALK), flow, "chat-1")


def test_documents_stand_before_the_text_of_their_message(reader: FlowiseClient) -> None:
    found = fit(reader, attached(PDF), attached(NOTES), attached(NOTES, 2), attached(PDF, 2, is_newest=True))
    pdf, notes = '<doc name="a.pdf">The text of a.pdf.</doc>', '<doc name="n.txt">words</doc>'
    assert [message.content for message in found.history] == [f"{pdf}\n\n{notes}\n\nRead it", "I did"]
    assert (found.documents, found.uploads, found.left_out) == (f"{notes}\n\n{pdf}", (), ())


def test_what_the_session_holds_is_not_sent_again(reader: FlowiseClient) -> None:
    found = fit(reader, attached(PDF), attached(PICTURE), attached(PICTURE, 2), held=2)
    assert (found.history, found.documents, found.uploads, found.left_out) == ((), "", (PICTURE,), ())


def test_a_document_is_read_once_for_as_long_as_it_is_remembered(
    flowise: DemoServer, reader: FlowiseClient
) -> None:
    remembering, flow = Attachments(), Takes(reader, image=False, audio=False)

    def read(client: FlowiseClient, digest: str, name: str = "a.pdf") -> str:
        pdf = attached(replace(PDF, name=name), 2, digest=digest)
        return remembering.fitted([pdf], TALK, 2, replace(flow, client=client), "chat-1").documents

    assert "The text of a.pdf." in read(reader, "d1")
    gone = FlowiseClient("http://127.0.0.1:9/api/v1", reader.flow_id)
    assert read(gone, "d1", "b.pdf") == '<doc name="b.pdf">The text of a.pdf.</doc>'
    for number in range(40):
        read(reader, f"other-{number}")
    assert read(gone, "d1") == "[file left out]"


def test_a_document_that_cannot_be_read_is_refused_in_the_newest_message_alone(flowise: DemoServer) -> None:
    client = FlowiseClient(flowise.base_url, DEMO_FLOWS["demo-assistant"])
    with pytest.raises(BadRequest) as caught:
        fit(client, attached(PDF, 2, is_newest=True))
    assert (caught.value.param, caught.value.code) == ("the.field", "unsupported_content")
    found = fit(client, attached(PDF), attached(PDF, 2))
    assert found.history[0].content == "[file left out]\n\nRead it"
    assert (found.documents, found.left_out) == ("[file left out]", ("file", "file"))


def test_a_flowise_that_is_away_is_told_of_for_the_newest_document_alone() -> None:
    client = FlowiseClient("http://127.0.0.1:9/api/v1", DEMO_FLOWS["demo-assistant"])
    assert fit(client, attached(PDF)).left_out == ("file",)
    with pytest.raises(FlowiseUnavailable):
        fit(client, attached(PDF, 2, is_newest=True))


def test_what_a_flow_does_not_take_is_a_note(reader: FlowiseClient) -> None:
    found = fit(reader, attached(PICTURE), attached(SPOKEN), attached(PICTURE, 2), takes=False)
    assert found.history[0].content == "[image left out]\n\n[audio left out]\n\nRead it"
    assert (found.documents, found.uploads) == ("[image left out]", ())
    assert left_out_warning(found.left_out) == (
        "Left out of earlier messages, because this model does not accept them: audio (1), image (2)."
    )
    assert left_out_warning(()) == ""


def test_an_earlier_recording_never_goes_along(reader: FlowiseClient) -> None:
    found = fit(reader, attached(PICTURE), attached(SPOKEN), attached(SPOKEN, 2))
    assert found.uploads == (PICTURE, SPOKEN)
    assert found.history[0].content == "[audio left out]\n\nRead it"


def test_what_nobody_has_any_more_is_a_note(reader: FlowiseClient) -> None:
    """A client that sends only what is new, and a session that is lost."""
    assert fit(reader).history[0].content == "[file left out]\n\nRead it"
    kept = (replace(TALK[0], attached='<doc name="n.txt">words</doc>'), TALK[1])
    flow = Takes(reader, image=True, audio=True)
    found = Attachments().fitted([], kept, 2, flow, "chat-1")
    assert (found.history[0].content, found.left_out) == ('<doc name="n.txt">words</doc>\n\nRead it', ())


def test_only_what_is_new_and_not_taken_is_refused(reader: FlowiseClient) -> None:
    flow = Takes(reader, image=False, audio=False)
    refuse([attached(PICTURE), attached(SPOKEN, 2), attached(PDF, 2, is_newest=True)], flow)
    for upload, setting in ((PICTURE, "image uploads"), (SPOKEN, "speech to text")):
        with pytest.raises(BadRequest, match=setting) as caught:
            refuse([attached(upload, 2, is_newest=True)], flow)
        assert caught.value.param == "the.field"
        refuse([attached(upload, 2, is_newest=True)], Takes(reader, image=True, audio=True))


@pytest.mark.parametrize(
    ("upload", "kind"),
    [
        (PICTURE, "image"),
        (Upload("url", "x.png", "image/png", "https://a.b/x.png"), "image"),
        (SPOKEN, "audio"),
        (PDF, "file"),
        (Upload("file:full", "x.svg", "image/svg+xml", "<svg/>"), "file"),
    ],
)
def test_what_a_file_is_to_a_flow(upload: Upload, kind: str) -> None:
    assert kind_of(upload) == kind


def test_what_a_flow_takes_is_asked_where_it_is_not_known_and_matters(flowise: DemoServer) -> None:
    client = FlowiseClient(flowise.base_url, DEMO_FLOWS["demo-agent"])
    model = Model("m", client.flow_id, "m")
    found = takes_of([attached(PICTURE)], model, client)
    assert (found.image, found.audio) == (True, True)
    gone = FlowiseClient("http://127.0.0.1:9/api/v1", client.flow_id)
    assert takes_of([attached(PDF)], model, gone) == Takes(gone, image=False, audio=False)
    known = replace(model, takes_images=True)
    assert takes_of([attached(PICTURE)], known, gone) == Takes(gone, image=True, audio=False)
    with pytest.raises(FlowiseUnavailable):
        takes_of([attached(SPOKEN)], known, gone)
    # Another model stands in: what this one takes does not matter then.
    stood_in = replace(known, fallback="other")
    assert takes_of([attached(SPOKEN)], stood_in, gone) == Takes(gone, image=True, audio=True)
