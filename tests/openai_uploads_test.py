"""Images, audio and files of a message as Flowise's uploads."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from flow_turn import Attachment, Upload
from openai_adapter import parse_chat
from openai_messages import LOOK, conversation
from proxy_errors import BadRequest

LIBRECHAT = Path(__file__).parent / "wire/librechat"
PLACE = "messages[0].content[0]"


def attached(part: Any) -> Attachment:
    """What becomes of a part that stands alone in a message."""
    [attachment] = conversation([{"role": "user", "content": [part]}]).attachments
    return attachment


def image(url: Any) -> dict[str, Any]:
    """An image in OpenAI's form."""
    return {"type": "image_url", "image_url": {"url": url, "detail": "auto"}}


def file(**fields: Any) -> dict[str, Any]:
    """A file in OpenAI's form."""
    return {"type": "file", "file": fields}


def encoded(text: str | bytes) -> str:
    """Base64 of a text."""
    return base64.b64encode(text.encode() if isinstance(text, str) else text).decode()


@pytest.mark.parametrize(
    ("part", "upload"),
    [
        (image("data:image/png;base64,AAAA"), Upload("file", "image-1.png", "image/png", "data:image/png;base64,AAAA")),
        (
            image("DATA:image/JPEG;name=x.jpg;BASE64,AA\n-_"),
            Upload("file", "image-1.jpg", "image/jpeg", "data:image/jpeg;base64,AA+/"),
        ),
        (
            image("data:image/svg+xml,%3Csvg/%3E"),
            Upload("file", "image-1.svg", "image/svg+xml", f"data:image/svg+xml;base64,{encoded('<svg/>')}"),
        ),
        (image("https://a.b/c.webp?x=1"), Upload("url", "image-1.webp", "image/webp", "https://a.b/c.webp?x=1")),
        (image("http://a.b/pic"), Upload("url", "image-1.png", "image/png", "http://a.b/pic")),
        (image("http://a.b/page.html"), Upload("url", "image-1.png", "image/png", "http://a.b/page.html")),
        (
            {"type": "image_url", "image_url": "data:image/gif;base64,AAAA"},
            Upload("file", "image-1.gif", "image/gif", "data:image/gif;base64,AAAA"),
        ),
        (
            {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "WEBM"}},
            Upload("audio", "audio-1.webm", "audio/webm", "data:audio/webm;base64,AAAA"),
        ),
        (
            {"type": "input_audio", "input_audio": {"data": "data:audio/ogg;base64,AAAA", "format": "opus"}},
            Upload("audio", "audio-1.ogg", "audio/ogg", "data:audio/ogg;base64,AAAA"),
        ),
        (
            file(filename="notes.txt", file_data=f"data:text/plain;base64,{encoded('hé')}"),
            Upload("file:full", "notes.txt", "text/plain", "hé"),
        ),
        (file(filename="a.md", file_data=encoded("# a")), Upload("file:full", "a.md", "text/markdown", "# a")),
        (
            file(filename="w.csv", file_data=encoded("\ufeffa".encode("utf-16"))),
            Upload("file:full", "w.csv", "text/csv", "\ufeffa"),
        ),
        (
            file(filename="a.json", file_data=f"data:application/octet-stream;base64,{encoded('{}')}"),
            Upload("file:full", "a.json", "application/json", "{}"),
        ),
        (
            file(filename="x.png", file_data="data:image/png;base64,AAAA"),
            Upload("file", "image-1.png", "image/png", "data:image/png;base64,AAAA"),
        ),
        (
            file(filename="../../etc/a b?.pdf", file_data="data:application/pdf;base64,AAAA"),
            Upload("file", "a b_.pdf", "application/pdf", "data:application/pdf;base64,AAAA"),
        ),
        (
            file(filename="report", file_data="data:application/pdf;base64,AAAA"),
            Upload("file", "report.pdf", "application/pdf", "data:application/pdf;base64,AAAA"),
        ),
        (
            file(file_data="AAAA"),
            Upload("file", "file-1.bin", "application/octet-stream", "data:application/octet-stream;base64,AAAA"),
        ),
    ],
)  # fmt: skip
def test_a_part_is_an_upload_by_flowises_rules(part: dict[str, Any], upload: Upload) -> None:
    assert attached(part).upload == upload


@pytest.mark.parametrize(
    ("part", "param", "code"),
    [
        ({"type": "image_url"}, "image_url", "missing_required_parameter"),
        ({"type": "image_url", "image_url": 5}, "image_url", "invalid_type"),
        (image(5), "image_url.url", "invalid_type"),
        (image("ftp://a.b/c.png"), "image_url.url", "invalid_value"),
        (image("http://[::1"), "image_url.url", "invalid_value"),
        (image("http:///c.png"), "image_url.url", "invalid_value"),
        (image("data:text/plain;base64,AAAA"), "image_url.url", "invalid_value"),
        (image("data:image/png;base64 AAAA"), "image_url.url", "invalid_value"),
        (image("data:image/png;base64,"), "image_url.url", "invalid_value"),
        (image("data:image/png;base64,A"), "image_url.url", "invalid_value"),
        (image("data:image/png;base64,A*AA"), "image_url.url", "invalid_value"),
        ({"type": "input_audio"}, "input_audio", "missing_required_parameter"),
        ({"type": "input_audio", "input_audio": "x"}, "input_audio", "invalid_type"),
        (
            {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
            "input_audio.format",
            "unsupported_content",
        ),
        ({"type": "input_audio", "input_audio": {"format": "webm"}}, "input_audio.data", "missing_required_parameter"),
        (file(file_id="file-1"), "file.file_id", "unsupported_content"),
        (file(filename=5, file_data="AAAA"), "file.filename", "invalid_type"),
        (file(filename="a.txt"), "file.file_data", "missing_required_parameter"),
        (file(filename="a.txt", file_data=encoded(b"\xff\xfa\x00")), "file.file_data", "invalid_value"),
    ],
)  # fmt: skip
def test_a_bad_part_names_its_place(part: dict[str, Any], param: str, code: str) -> None:
    with pytest.raises(BadRequest) as caught:
        attached(part)
    assert (caught.value.param, caught.value.code) == (f"{PLACE}.{param}", code)


def test_an_attachment_knows_the_message_it_came_with() -> None:
    chat = conversation(
        [
            {"role": "user", "content": [{"type": "text", "text": "a"}, image("https://a.b/1.png")]},
            {"role": "assistant", "content": "b"},
            {"role": "user", "content": [image("https://a.b/2.png"), image("https://a.b/3.png")]},
        ]
    )
    assert [(a.position, a.upload.name) for a in chat.attachments] == [
        (0, "image-1.png"),
        (2, "image-2.png"),
        (2, "image-3.png"),
    ]
    assert (chat.question, chat.to_ask) == ("", LOOK)


@pytest.mark.parametrize("path", sorted(LIBRECHAT.glob("*.json")), ids=lambda path: path.stem)
def test_librechats_attachments_are_read(path: Path) -> None:
    body = json.loads(path.read_text())["request"]["body"]
    names = [attachment.upload.name for attachment in parse_chat(body).attachments]
    assert names == {"09-chat-image": ["image-1.png"], "11-chat-pdf-file": ["doc.pdf"]}.get(path.stem, [])
