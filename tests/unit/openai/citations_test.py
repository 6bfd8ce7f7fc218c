"""Citations and the footer."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowise_gateway.flow.events import ArtifactMade, SourcesFound
from flowise_gateway.flow.transcript import Transcript
from flowise_gateway.openai.artifacts import artifact_text
from flowise_gateway.openai.citations import (
    FOOTER_HEAD,
    MAX_CITATIONS,
    citations,
    source_events,
    sources_footer,
    url_annotations,
    without_footer,
)

A, B = "https://a.example/one", "http://b.example/two"


def answer(text: str, *metadata: Any) -> Transcript:
    """An answer that rests on documents with this metadata."""
    documents = tuple({"pageContent": "p", "metadata": each} for each in metadata)
    transcript = Transcript(texts=[text])
    transcript.add(SourcesFound(documents))
    return transcript


def spans(text: str, count: int = 3) -> list[str]:
    """What the citations of a text's sources point at."""
    sources = [{"source": f"https://x.example/{n}"} for n in range(1, count + 1)]
    return [text[c["start_index"] : c["end_index"]] for c in citations(answer(text, *sources))]


@pytest.mark.parametrize(
    ("text", "pointed_at"),
    [
        ("Paris [1] and Nile [2].", ["[1]", "[2]", ""]),
        ("Nile[2], Paris[1].", ["[1]", "[2]", ""]),
        ("Wörld 🙂[^3]", ["", "", "[^3]"]),
        ("【1】 and 【2†page 4】 and 【3", ["【1】", "【2†page 4】", ""]),
        ("【4:0†source】", ["", "", ""]),
        ("`a[1]` then [1]", ["[1]", "", ""]),
        ("```\na[1]\n```\n[2]", ["", "[2]", ""]),
        ("```\na[1]\n[2]", ["", "", ""]),
        ("````\n```\n[1]\n````\n[3]", ["", "", "[3]"]),
        ("```\n[1]\n`````\n[3]", ["", "", "[3]"]),
        ("[2]" + "x" * 200_000 + "[1]", ["", "[2]", ""]),
        ("```" + "x" * 200_000 + "```[1]", ["", "", ""]),
        ("[1](https://x.example) [2]: y", ["", "", ""]),
        ("Both[1][2](all)[3]", ["[1]", "", "[3]"]),
        ("[0] [4] [1000] [] [a]", ["", "", ""]),
        ("", ["", "", ""]),
    ],
)
def test_a_citation_points_at_the_first_marker_of_its_source(text: str, pointed_at: list[str]) -> None:
    assert spans(text) == pointed_at


def test_the_first_of_several_markers_counts() -> None:
    [found] = citations(answer("a [1] b [1]", {"source": A}))
    assert (found["start_index"], found["end_index"]) == (2, 5)


def test_an_address_is_cited_once_with_the_first_marker_of_its_documents() -> None:
    found = citations(
        answer("x [3] [2]", {"source": A, "title": "One"}, {"source": B}, {"source": A}, {"source": A})
    )
    assert found == [
        {"url": A, "title": "One", "start_index": 2, "end_index": 5},
        {"url": B, "title": "b.example/two", "start_index": 6, "end_index": 9},
    ]


def test_documents_without_an_address_count_but_are_not_cited() -> None:
    found = citations(answer("[1] [2]", {"source": "a.pdf"}, {"source": A}))
    assert [(c["url"], c["start_index"]) for c in found] == [(A, 4)]


@pytest.mark.parametrize(
    ("metadata", "url"),
    [
        ({"url": A}, A),
        ({"source": A}, A),
        ({"link": A}, A),
        ({"source": "blob", "url": A}, A),
        ({"url": 5, "source": A}, A),
        ({"source": "https://docs.example/a?b=c#d"}, "https://docs.example/a?b=c#d"),
        ({"source": "HTTPS://A.example"}, "HTTPS://A.example"),
        ({"source": "https://[::1"}, None),
        ({"source": "https://"}, None),
        ({"source": "https://?x"}, None),
        ({"source": "https://me:pw@a.example"}, None),
        ({"source": "https://a.example/ b"}, None),
        ({"source": 'https://a.example/"x'}, None),
        ({"source": "javascript:alert(1)"}, None),
        ({"source": "file:///etc/passwd"}, None),
        ({"source": "/root/a.pdf"}, None),
        ({}, None),
        (None, None),
        ("https://a.example", None),
    ],
)
def test_only_web_addresses_are_cited(metadata: Any, url: str | None) -> None:
    assert [c["url"] for c in citations(answer("", metadata))] == ([url] if url else [])


@pytest.mark.parametrize(
    ("metadata", "title"),
    [
        ({"title": " The\n title "}, "The title"),
        ({"title": "", "name": "Name"}, "Name"),
        ({"fileName": "a.html"}, "a.html"),
        ({"title": 7}, "a.example/one"),
        ({"title": "x" * 300}, "x" * 200),
    ],
)
def test_a_citation_has_a_title(metadata: dict[str, Any], title: str) -> None:
    assert citations(answer("", {"source": A, **metadata}))[0]["title"] == title


def test_a_flood_of_sources_is_bounded() -> None:
    flood = answer("", *({"source": f"{A}/{n}"} for n in range(500)))
    assert len(citations(flood)) == MAX_CITATIONS
    assert sources_footer(flood).count("\n- ") == MAX_CITATIONS


def test_annotations_have_the_form_of_chat_completions() -> None:
    [annotation] = url_annotations(answer("", {"source": A}))
    assert annotation == {
        "type": "url_citation",
        "url_citation": {"url": A, "title": "a.example/one", "start_index": 0, "end_index": 0},
    }


def test_the_footer_lists_each_address_once_under_its_number() -> None:
    two = answer(
        "x", {"source": "a.pdf"}, {"source": A, "title": "[One] *x*"}, {"source": A}, {"source": B + "_(c)"}
    )
    assert sources_footer(two) == (
        "\n\n---\n\n**Sources of this answer**\n\n"
        f"- [2] [\\[One\\] \\*x\\*]({A})\n- [4] [b.example/two\\_(c)]({B}_%28c%29)"
    )
    assert sources_footer(answer("x", {"source": "a.pdf"})) == ""
    assert sources_footer(Transcript()) == ""


titles = st.text(max_size=30)
metadatas = st.lists(
    st.fixed_dictionaries(
        {"source": st.sampled_from([A, B, B + "_(c)", "a.pdf"])}, optional={"title": titles}
    ),
    max_size=4,
)
texts = st.one_of(
    st.text(),
    st.lists(st.sampled_from(["\n", "\n\n---", FOOTER_HEAD, "- [1] [a](b)", "Hello", " "])).map("".join),
)


@given(texts, metadatas.filter(lambda found: any(each["source"] != "a.pdf" for each in found)))
def test_our_footer_is_cut_from_any_text(text: str, metadata: list[dict[str, Any]]) -> None:
    footer = sources_footer(answer("", *metadata))
    assert without_footer(text + footer) == text
    assert without_footer((text + footer).rstrip()) == text


@given(st.text(), metadatas)
def test_a_client_that_trims_changes_nothing(text: str, metadata: list[dict[str, Any]]) -> None:
    assert without_footer((text + sources_footer(answer("", *metadata))).strip()).strip() == text.strip()


def test_files_and_footer_are_cut_together() -> None:
    url = "/v1/flowise/files/" + "x" * 100
    files = artifact_text(ArtifactMade({}, "a.png", url)) + artifact_text(ArtifactMade({}, "b.pdf", url))
    footer = sources_footer(answer("", {"source": A}))
    assert without_footer("Hello" + files + footer) == "Hello"
    assert without_footer((files + footer).strip()) == ""


@pytest.mark.parametrize(
    "text",
    [
        "Hello",
        "",
        FOOTER_HEAD,
        FOOTER_HEAD + "and so on",
        f"{FOOTER_HEAD}- [1] [a]({A})\n\nMore text",
        f"x\n\n---\n\n**Sources**\n\n- [1] [a]({A})",
    ],
)
def test_what_is_no_footer_of_ours_stays(text: str) -> None:
    assert without_footer(text) == text


def test_a_hostile_text_is_read_in_good_time() -> None:
    for unit in ("```", "[1", "\n\n![", "【1†", FOOTER_HEAD, "- [1] [", "`", "\n\n[\\"):
        text = unit * (200_000 // len(unit))
        without_footer(text)
        citations(answer(text, {"source": A}))


def told(metadata: Any, text: Any = "p") -> Any:
    """What Open WebUI is told of a document."""
    [event] = source_events(Transcript(sources=[{"pageContent": text, "metadata": metadata}]))
    assert event["type"] == "source"
    return event["data"]


@pytest.mark.parametrize(
    ("metadata", "name", "passage"),
    [
        ({"source": A, "title": "One"}, {"name": "One", "url": A}, {"source": A, "name": "One"}),
        ({"source": A}, {"name": "a.example/one", "url": A}, {"source": A, "name": "a.example/one"}),
        (
            {"source": "blob", "fileName": "rivers.txt", "loc": {"pageNumber": 3}},
            {"name": "rivers.txt"},
            {"source": "rivers.txt", "name": "rivers.txt", "page": 2},
        ),
        (
            {"source": "/root/.flowise/storage/x/notes.pdf", "page_number": 1},
            {"name": "notes.pdf"},
            {"source": "notes.pdf", "name": "notes.pdf", "page": 0},
        ),
        ({"source": "C:\\files\\a b.pdf"}, {"name": "a b.pdf"}, {"source": "a b.pdf", "name": "a b.pdf"}),
        ({"source": "blob"}, {"name": "Source 1"}, {"source": "Source 1", "name": "Source 1"}),
        ({"source": "/folder/"}, {"name": "Source 1"}, {"source": "Source 1", "name": "Source 1"}),
        (
            {"source": 5, "loc": {"pageNumber": True}},
            {"name": "Source 1"},
            {"source": "Source 1", "name": "Source 1"},
        ),
        (
            {"loc": {"pageNumber": 0}, "page_number": "2"},
            {"name": "Source 1"},
            {"source": "Source 1", "name": "Source 1"},
        ),
        (None, {"name": "Source 1"}, {"source": "Source 1", "name": "Source 1"}),
    ],
)
def test_open_webui_is_told_of_sources_without_an_address_too(metadata: Any, name: Any, passage: Any) -> None:
    assert told(metadata) == {"source": name, "document": ["p"], "metadata": [passage]}


def test_open_webui_gets_the_texts_of_a_source_together() -> None:
    files = [{"fileName": "a.txt", "loc": {"pageNumber": n}} for n in (1, 2)]
    first, second = source_events(answer("", files[0], {"fileName": "b.txt"}, files[1]))
    assert first["data"]["document"] == ["p", "p"]
    assert [passage.get("page") for passage in first["data"]["metadata"]] == [0, 1]
    assert second["data"]["source"] == {"name": "b.txt"}


def test_what_open_webui_gets_is_bounded_and_text() -> None:
    assert told({}, "x" * 5000)["document"] == ["x" * 2000]
    assert told({}, None)["document"] == [""]
    assert len(source_events(answer("", *[{"fileName": f"{n}"} for n in range(500)]))) == MAX_CITATIONS
    assert source_events(answer("")) == []
