"""Images, audio and files of a message as Flowise's uploads."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from flowise_gateway.flow.errors import BadRequest
from flowise_gateway.flow.turn import Attachment, Upload
from flowise_gateway.openai.conversation_builder import LOOK
from flowise_gateway.openai.messages import conversation
from openai_adapter import parse_chat

LIBRECHAT = Path(__file__).parents[2] / "wire/librechat"
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


def named(kind: str, content: str, extension: str) -> str:
    """The name of a picture or a recording, by its content."""
    if content.startswith("data:"):
        content = content.partition(",")[2]
    return f"{kind}-{hashlib.sha256(content.encode()).hexdigest()[:12]}.{extension}"


@pytest.mark.parametrize(
    ("part", "upload"),
    [
        (image("data:image/png;base64,AAAA"), Upload("file", named("image", "data:image/png;base64,AAAA", "png"), "image/png", "data:image/png;base64,AAAA")),
        (
            image("DATA:image/JPEG;name=x.jpg;BASE64,AA\n-_"),
            Upload("file", named("image", "data:image/jpeg;base64,AA+/", "jpg"), "image/jpeg", "data:image/jpeg;base64,AA+/"),
        ),
        (
            image("data:image/svg+xml,%3Csvg/%3E"),
            Upload("file", named("image", f"data:image/svg+xml;base64,{encoded('<svg/>')}", "svg"), "image/svg+xml", f"data:image/svg+xml;base64,{encoded('<svg/>')}"),
        ),
        (image("https://a.b/c.webp?x=1"), Upload("url", named("image", "https://a.b/c.webp?x=1", "webp"), "image/webp", "https://a.b/c.webp?x=1")),
        (image("http://a.b/pic"), Upload("url", named("image", "http://a.b/pic", "png"), "image/png", "http://a.b/pic")),
        (image("http://a.b/page.html"), Upload("url", named("image", "http://a.b/page.html", "png"), "image/png", "http://a.b/page.html")),
        (
            {"type": "image_url", "image_url": "data:image/gif;base64,AAAA"},
            Upload("file", named("image", "data:image/gif;base64,AAAA", "gif"), "image/gif", "data:image/gif;base64,AAAA"),
        ),
        (
            {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "WEBM"}},
            Upload("audio", named("audio", "data:audio/webm;base64,AAAA", "webm"), "audio/webm", "data:audio/webm;base64,AAAA"),
        ),
        (
            {"type": "input_audio", "input_audio": {"data": "data:audio/ogg;base64,AAAA", "format": "opus"}},
            Upload("audio", named("audio", "data:audio/ogg;base64,AAAA", "ogg"), "audio/ogg", "data:audio/ogg;base64,AAAA"),
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
            Upload("file", named("image", "data:image/png;base64,AAAA", "png"), "image/png", "data:image/png;base64,AAAA"),
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
            {"type": "image_url", "image_url": "data:application/pdf;base64,AAAA"},
            Upload("file", "file-1.pdf", "application/pdf", "data:application/pdf;base64,AAAA"),
        ),
        (
            image("DATA:Application/PDF;base64,AAAA"),
            Upload("file", "file-1.pdf", "application/pdf", "data:application/pdf;base64,AAAA"),
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
        (image("https://a.b/\nc.png"), "image_url.url", "invalid_value"),
        (image("https://a.b/c.png\t"), "image_url.url", "invalid_value"),
        (image("\x01https://a.b/c.png"), "image_url.url", "invalid_value"),
        (image("https://a.b\x7f/c.png"), "image_url.url", "invalid_value"),
        (image("https://a.b/\x85c.png"), "image_url.url", "invalid_value"),
        (image("https://a.b/\u2028c.png"), "image_url.url", "invalid_value"),
        (image("data:image/p\nng;base64,AAAA"), "image_url.url", "invalid_value"),
        (image("data:image/png;\0base64,AAAA"), "image_url.url", "invalid_value"),
        ({"type": "image_url", "image_url": "https://a.b/\r\nc"}, "image_url", "invalid_value"),
        (image("https://a.b/" + "c" * 8200), "image_url.url", "invalid_value"),
        (image("data:image/svg+xml," + "%3C" * 100_001), "image_url.url", "invalid_value"),
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
    assert [(a.position, a.upload.data[-5:], a.is_newest) for a in chat.attachments] == [
        (0, "1.png", False),
        (2, "2.png", True),
        (2, "3.png", True),
    ]
    assert (chat.user_text, chat.question) == (LOOK, LOOK)


CHATS = [path for path in sorted(LIBRECHAT.glob("*.json")) if '"messages"' in path.read_text()]


@pytest.mark.parametrize("path", CHATS, ids=lambda path: path.stem)
def test_librechats_attachments_are_read(path: Path) -> None:
    body = json.loads(path.read_text())["request"]["body"]
    names = [attachment.upload.name.partition("-")[0] for attachment in parse_chat(body).attachments]
    assert names == {"09-chat-image": ["image"], "11-chat-pdf-file": ["doc.pdf"]}.get(path.stem, [])


PNG, JPEG, WEBP = (
    encoded(b"\x89PNG\r\n\x1a\n"),
    encoded(b"\xff\xd8\xff\xe0"),
    encoded(b"RIFF\0\0\0\0WEBPVP8 "),
)


@pytest.mark.parametrize(
    ("mime", "data", "standard", "extension"),
    [
        ("image/jpg", "AAAA", "image/jpeg", "jpg"),
        ("IMAGE/JPG", "AAAA", "image/jpeg", "jpg"),
        ("image/pjpeg", "AAAA", "image/jpeg", "jpg"),
        ("image/x-png", "AAAA", "image/png", "png"),
        ("image/apng", "AAAA", "image/png", "png"),
        ("image/x-ms-bmp", "AAAA", "image/bmp", "bmp"),
        ("image/tif", "AAAA", "image/tiff", "tiff"),
        ("image/svg", "AAAA", "image/svg+xml", "svg"),
        ("image/vnd.microsoft.icon", "AAAA", "image/x-icon", "ico"),
        ("image/avif", "AAAA", "image/avif", "avif"),
        ("image/*", PNG, "image/png", "png"),
        ("image/unknown", JPEG, "image/jpeg", "jpg"),
        ("application/octet-stream", WEBP, "image/webp", "webp"),
        ("", PNG, "image/png", "png"),
    ],
)
def test_an_images_type_is_the_standard_one_with_the_extension_that_flowise_takes(
    mime: str, data: str, standard: str, extension: str
) -> None:
    uri = f"data:{standard};base64,{data}"
    for part in (
        image(f"data:{mime};base64,{data}"),
        file(filename="a.JPG", file_data=f"data:{mime};base64,{data}"),
    ):
        if part["type"] == "file" and not mime.lower().startswith("image/"):
            continue
        assert attached(part).upload == Upload("file", named("image", uri, extension), standard, uri)


@pytest.mark.parametrize(
    "mime", ["image/heic", "image/jxl", "image/vnd.adobe.photoshop", "image/x-canon-cr2"]
)
def test_an_image_that_flowise_would_fail_for_is_refused_before(mime: str) -> None:
    for part in (image(f"data:{mime};base64,AAAA"), file(filename="a", file_data=f"data:{mime};base64,AAAA")):
        with pytest.raises(BadRequest, match="send png, jpeg, gif or webp") as caught:
            attached(part)
        assert caught.value.code == "unsupported_content"


DOCX = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"


@pytest.mark.parametrize(
    ("name", "mime", "kind", "known", "standard"),
    [
        ("a.docx", "", "file", "a.docx", DOCX),
        ("a", DOCX, "file", "a.docx", DOCX),
        ("a.pdf", "application/x-pdf", "file", "a.pdf", "application/pdf"),
        ("a.pdf", "binary/octet-stream", "file", "a.pdf", "application/pdf"),
        ("a.csv", "application/vnd.ms-excel", "file:full", "a.csv", "text/csv"),
        ("a.xls", "application/vnd.ms-excel", "file", "a.xls", "application/vnd.ms-excel"),
        ("a.ts", "video/mp2t", "file:full", "a.ts", "text/plain"),
        ("a.toml", "", "file:full", "a.toml", "text/plain"),
        ("a.rtf", "text/rtf", "file", "a.rtf", "application/rtf"),
    ],
)
def test_a_documents_type_is_the_standard_one(
    name: str, mime: str, kind: str, known: str, standard: str
) -> None:
    data = f"data:{mime};base64,{encoded('words')}" if mime else encoded("words")
    upload = attached(file(filename=name, file_data=data)).upload
    assert (upload.type, upload.name, upload.mime) == (kind, known, standard)


def test_the_digest_is_of_the_content_alone() -> None:
    digest = attached(image("data:image/png;base64,AAAA")).digest
    assert digest == attached(image("data:image/jpeg;base64,AAAA")).digest
    assert digest != attached(image("data:image/png;base64,AAAB")).digest
    assert attached(image("https://a.b/c?sig=1#x")).digest == attached(image("https://a.b/c?sig=2")).digest
