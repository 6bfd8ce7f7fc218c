"""Signed links to files, and the headers of what they open."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowise_gateway.access.file_links import MAX_TOKEN, FileLinks, StoredFile
from flowise_gateway.flow.errors import FileNotFound, FlowiseUnavailable
from flowise_gateway.flow.events import ArtifactMade
from flowise_gateway.flowise.transport.base import ConnectionBroken, ReplyHead
from flowise_gateway.openai.artifacts import FILES_PATH, artifact_text, without_links
from flowise_gateway.web.files import check_is_file, file_headers, first_piece, pieces

FLOW, CHAT = "5518949f-3ebc-4082-af01-fa2a18623da6", "0c6fd9a2-1f53-4a57-9a3e-6d6f0b1c52e1"
FILE = StoredFile(FLOW, CHAT, "chart.png")
DAY = 86_400
PNG = b"\x89PNG\r\n\x1a\n..."


class Clock:
    """A clock that is set by hand."""

    now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


def links(secret: bytes = b"secret", days: float = 30, clock: Clock | None = None) -> FileLinks:
    """Links of one server."""
    return FileLinks(secret, days, clock or Clock())


names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=200)


@given(st.uuids(), st.uuids(), names, st.sampled_from(["default", "hr"]))
def test_a_link_opens_the_file_it_was_made_for(flow: Any, chat: Any, name: str, flowise: str) -> None:
    file = StoredFile(str(flow), str(chat), name, flowise)
    token = links().token(file)
    assert links().opened(token) == file
    assert len(token) <= MAX_TOKEN
    made = ArtifactMade({}, name, f"https://ai.example.com{FILES_PATH}{token}")
    assert without_links(f"Hello{artifact_text(made)}") == "Hello"


def test_a_link_of_before_there_were_several_flowises_is_one_of_the_default_one() -> None:
    raw = base64.urlsafe_b64decode(links().token(FILE) + "==")
    assert raw[37:-32] == b"chart.png"
    assert links().opened(links().token(FILE)).flowise == "default"


@given(st.data())
def test_no_changed_link_opens_anything(data: st.DataObject) -> None:
    raw = bytearray(base64.urlsafe_b64decode(links().token(FILE) + "=="))
    place = data.draw(st.integers(0, len(raw) - 1))
    raw[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(FileNotFound):
        links().opened(base64.urlsafe_b64encode(raw).decode().rstrip("="))


@given(st.text())
def test_no_text_opens_anything(token: str) -> None:
    with pytest.raises(FileNotFound):
        links().opened(token)


@pytest.mark.parametrize(
    "token", ["", "a", "A" * MAX_TOKEN, "A" * (MAX_TOKEN + 1), "é", "a/b", "A" * 92, "=" * 8]
)
def test_odd_texts_open_nothing(token: str) -> None:
    with pytest.raises(FileNotFound):
        links().opened(token)


def test_a_link_of_another_secret_opens_nothing() -> None:
    with pytest.raises(FileNotFound):
        links(b"other").opened(links().token(FILE))


def test_a_link_is_good_until_it_expires() -> None:
    clock = Clock()
    token = links(days=2, clock=clock).token(FILE)
    clock.now += 2 * DAY
    assert links(clock=clock).opened(token) == FILE
    clock.now += 1
    with pytest.raises(FileNotFound, match="no such file, or its link has expired"):
        links(clock=clock).opened(token)


def test_the_query_holds_any_name() -> None:
    assert StoredFile(FLOW, CHAT, "a b&chatId=x/..#é.png").path == (
        f"/get-upload-file?chatflowId={FLOW}&chatId={CHAT}&fileName=a%20b%26chatId%3Dx%2F..%23%C3%A9.png"
    )


class Arriving:
    """A reply whose pieces are given; None is silence, an exception a broken connection."""

    def __init__(self, *given: bytes | Exception | None) -> None:
        self.given = list(given)

    def head(self, seconds: float) -> ReplyHead | None:
        """No test asks for it."""
        raise NotImplementedError

    def read_available(self, seconds: float) -> bytes | None:
        """The next piece."""
        piece = self.given.pop(0)
        if isinstance(piece, Exception):
            raise piece
        return piece

    def pump(self, take: Callable[[bytearray], bool]) -> None:
        """Everything is read."""

    def close(self) -> None:
        """Nothing is open."""


def test_a_file_is_passed_on_piece_by_piece() -> None:
    reply = Arriving(b"a", b"b", b"")
    passed = pieces(first_piece(reply), reply)
    assert next(passed) == b"a"
    assert reply.given == [b"b", b""]
    assert list(passed) == [b"b"]
    assert list(pieces(first_piece(Arriving(b"")), Arriving())) == []


@pytest.mark.parametrize("fault", [None, ConnectionBroken("x")])
def test_a_file_that_breaks_off_is_no_whole_file(fault: Exception | None) -> None:
    with pytest.raises(FlowiseUnavailable):
        first_piece(Arriving(fault))
    with pytest.raises(FlowiseUnavailable):
        list(pieces(b"a", Arriving(b"b", fault)))


@pytest.mark.parametrize("kind", ["", "application/octet-stream", "image/png"])
def test_a_file_may_have_any_type_but_those_of_answers(kind: str) -> None:
    check_is_file(200, kind)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (200, "text/html; charset=UTF-8"),
        (200, "Application/JSON"),
        (500, ""),
        (404, ""),
        (302, ""),
        (206, ""),
    ],
)
def test_what_is_no_file_is_not_passed_on(status: int, kind: str) -> None:
    with pytest.raises(FileNotFound):
        check_is_file(status, kind)


@pytest.mark.parametrize(
    ("name", "beginning", "kind", "disposition"),
    [
        ("chart.png", PNG, "image/png", "inline"),
        ("a.PNG", PNG, "image/png", "inline"),
        ("a.jpg", b"\xff\xd8\xff\xe0", "image/jpeg", "inline"),
        ("a.jpeg", b"\xff\xd8\xff\xe0", "image/jpeg", "inline"),
        ("a.gif", b"GIF89a", "image/gif", "inline"),
        ("a.webp", b"RIFF....WEBP", "image/webp", "inline"),
        ("a.pdf", b"%PDF-1.7", "application/pdf", "attachment"),
        ("a.png", b"<svg onload=alert(1)>", "application/octet-stream", "attachment"),
        ("a.png", b"", "application/octet-stream", "attachment"),
        ("a.jpg", PNG, "application/octet-stream", "attachment"),
        ("a.svg", b"<svg/>", "application/octet-stream", "attachment"),
        ("a.html", b"<script>", "application/octet-stream", "attachment"),
        ("png", b"", "application/octet-stream", "attachment"),
        ("a.", PNG, "application/octet-stream", "attachment"),
    ],
)
def test_only_images_are_shown(name: str, beginning: bytes, kind: str, disposition: str) -> None:
    headers = file_headers(name, beginning)
    assert headers["Content-Type"] == kind
    assert headers["Content-Disposition"] == f"{disposition}; filename*=UTF-8''{name}"
    assert headers["Content-Security-Policy"] == "sandbox; default-src 'none'"
    assert headers["X-Content-Type-Options"] == "nosniff"


@given(names)
def test_a_name_cannot_break_a_header(name: str) -> None:
    header = file_headers(name, b"")["Content-Disposition"]
    assert header.isascii()
    assert not set(header.partition("''")[2]) & set("\r\n\"'; ")


def test_links_of_an_old_secret_open_their_files_until_they_expire() -> None:
    clock = Clock()
    old = links(b"old", days=2, clock=clock).token(FILE)
    rotated = FileLinks(b"new", 30, clock, old_secrets=[b"older", b"old"])
    assert rotated.opened(old) == FILE
    assert links(b"new").opened(rotated.token(FILE)) == FILE
    clock.now += 2 * DAY + 1
    with pytest.raises(FileNotFound):
        rotated.opened(old)
