"""Files of a run as text of the answer."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowise_gateway.flow.events import ArtifactMade
from flowise_gateway.openai.artifacts import MAX_IMAGE, MAX_TEXT, artifact_text, label, without_links

URL = "https://ai.example.com/v1/flowise/files/" + "aB3_-" * 30
PNG = "data:image/png;base64,iVBORw0KGgo="
UNSHOWN = "\n\n(A file of type png, which cannot be shown here.)"


def stored(name: str, url: str = URL) -> ArtifactMade:
    """A file in Flowise's storage."""
    return ArtifactMade({"type": "png", "data": f"FILE-STORAGE::{name}"}, name, url)


@pytest.mark.parametrize(
    ("made", "text"),
    [
        (stored("chart.png"), f"\n\n![chart.png]({URL})"),
        (stored("Photo.JPEG"), f"\n\n![Photo.JPEG]({URL})"),
        (stored("report.pdf"), f"\n\n[report.pdf]({URL})"),
        (stored("a](http://x) *b*.pdf"), rf"{chr(10)}{chr(10)}[a\](http://x) \*b\*.pdf]({URL})"),
        (stored("report.pdf", ""), "\n\n(File: report.pdf)"),
        (ArtifactMade({"filePath": "/root/x", "fileName": "x/y"}), "\n\n(File: file)"),
        (ArtifactMade({"type": "html", "data": "<b>hi</b>"}), "\n\n```html\n<b>hi</b>\n```"),
        (ArtifactMade({"type": "MD", "data": "```\na\n````"}), "\n\n`````markdown\n```\na\n````\n`````"),
        (ArtifactMade({"type": "json", "data": {"a": [1]}}), '\n\n```json\n{"a":[1]}\n```'),
        (ArtifactMade({"type": "text", "data": ""}), "\n\n```text\n\n```"),
        (ArtifactMade({"type": "png", "data": PNG}), f"\n\n![artifact]({PNG})"),
        (
            ArtifactMade({"type": "png", "data": "https://x.example/a.png"}),
            "\n\n![artifact](https://x.example/a.png)",
        ),
        (ArtifactMade({"type": "png", "data": "https://x/api/v1/get-upload-file?chatId=1"}), UNSHOWN),
        (ArtifactMade({"type": "png", "data": "http://flowise:3000/a.png"}), UNSHOWN),
        (ArtifactMade({"type": "png", "data": "https://x/a)(b"}), UNSHOWN),
        (ArtifactMade({"type": "png", "data": "data:image/svg+xml;base64,AAAA"}), UNSHOWN),
        (ArtifactMade({"type": "png", "data": None}), UNSHOWN),
        (ArtifactMade({"type": "png", "data": [1]}), UNSHOWN),
        (
            ArtifactMade({"type": "x](y)"}),
            r"{0}{0}(A file of type x\](y), which cannot be shown here.)".format("\n"),
        ),
        (ArtifactMade({}), "\n\n(A file of type null, which cannot be shown here.)"),
    ],
)
def test_a_file_is_a_paragraph(made: ArtifactMade, text: str) -> None:
    assert artifact_text(made) == text


def test_a_long_text_is_cut() -> None:
    shown = artifact_text(ArtifactMade({"type": "text", "data": "x" * (MAX_TEXT + 1)}))
    assert shown == f"\n\n```text\n{'x' * MAX_TEXT}\n…\n```"


def test_a_large_image_is_only_named() -> None:
    start = "data:image/png;base64,"
    fits = start + "A" * (MAX_IMAGE - len(start))
    assert fits in artifact_text(ArtifactMade({"type": "png", "data": fits}))
    assert artifact_text(ArtifactMade({"type": "png", "data": fits + "A"})) == UNSHOWN


def test_a_label_is_one_short_line_that_cannot_end_a_link() -> None:
    assert label("a\n b") == "a b"
    assert label("x" * 300) == "x" * 200 + "…"
    assert label("[a](b) `c` <d> \\ ![e]") == r"\[a\](b) \`c\` \<d\> \\ \!\[e\]"


LINKED: list[Any] = [
    stored("chart.png"),
    stored("re[p]ort *1*.pdf"),
    stored("back\\slash.pdf"),
    ArtifactMade({"type": "png", "data": PNG}),
    ArtifactMade({"type": "png", "data": "https://x.example/a.png"}),
]


@given(st.text(), st.lists(st.sampled_from(LINKED), max_size=4), st.sampled_from(["", "\n", " \n\n"]))
def test_links_are_cut_from_any_text(text: str, made: list[ArtifactMade], end: str) -> None:
    links = "".join(map(artifact_text, made))
    assert without_links(text + links) == text
    assert without_links((text + links).strip()).strip() == text.strip()
    assert without_links(text + links + end) == text + end


def test_links_in_the_middle_of_a_text_are_cut_and_code_stays() -> None:
    code = artifact_text(ArtifactMade({"type": "html", "data": "<b>hi</b>"}))
    link = artifact_text(stored("chart.png"))
    assert without_links(f"Hello{link}{code}{link}") == f"Hello{code}"


@pytest.mark.parametrize(
    "text",
    [
        f"See [chart.png]({URL}) here",
        f"\n\n[chart.png]({URL}) here",
        "\n\n![a](https://elsewhere.example/a.png)",
        "\n\n[a](https://ai.example.com/v1/flowise/files/short)",
    ],
)
def test_what_we_did_not_write_stays(text: str) -> None:
    assert without_links(text) == text
