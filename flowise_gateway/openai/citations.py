"""Sources of an answer as citations, or as a list for clients that do not show citations."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal, TypedDict
from urllib.parse import urlsplit

from flowise_gateway.flow.transcript import Transcript
from flowise_gateway.openai.artifacts import label, without_links

MAX_CITATIONS = 100
MAX_PASSAGE = 2_000
MAX_MARKED = 200_000
"""The number of characters of an answer that are searched for citation markers."""

FOOTER_HEAD = "\n\n---\n\n**Sources of this answer**\n\n"
"""The start of the source list, which counts as one only if it extends to the end of the answer."""

_URL_KEYS = ("url", "source", "link", "href", "source_url", "sourceURL")
_TITLE_KEYS = ("title", "name", "fileName", "filename")
_URL = re.compile(r"https?://[^\s<>\"\\^`{|}\x00-\x20\x7f]{1,2000}", re.IGNORECASE)
_MARKER = re.compile(
    r"(?P<fence>`{3,})|`[^`\n]*`"  # code, where [1] is an index
    r"|\[\^?(?P<plain>\d{1,3})\](?![(:])"
    r"|【(?P<wide>\d{1,3})(?:†[^【】\n]{0,200})?】"
)
_FENCE = re.compile("`{3,}")
_FOOTER_LINES = re.compile(r"(?:- \[\d+\] \[(?:\\.|[^\[\]\\\n])*\]\([^\s()]+\)(?:\n|\s*\Z))+")


class UrlCitation(TypedDict):
    """OpenAI's citation of a web page; the indexes count code points; both are 0 for the whole text."""

    url: str
    title: str
    start_index: int
    end_index: int


class Annotation(TypedDict):
    type: Literal["url_citation"]
    url_citation: UrlCitation


def citations(transcript: Transcript) -> list[UrlCitation]:
    """The http(s) sources of an answer, each once, with the position of its first marker in the text.

    A marker is `[n]`, `[^n]`, `【n】` or `【n†…】` outside of code; n is the number of the source, from 1, in
    Flowise's order.
    """
    sources = list(_web_sources(transcript))
    places = _markers(transcript.text) if sources else {}
    found: dict[str, UrlCitation] = {}
    for number, url, title in sources:
        start, end = places.get(number, (0, 0))
        if url not in found or (end and not found[url]["end_index"]):
            first_title = found[url]["title"] if url in found else title
            found[url] = {"url": url, "title": first_title, "start_index": start, "end_index": end}
    return list(found.values())[:MAX_CITATIONS]


def url_annotations(transcript: Transcript) -> list[Annotation]:
    return [{"type": "url_citation", "url_citation": citation} for citation in citations(transcript)]


def source_events(transcript: Transcript) -> list[dict[str, Any]]:
    """The sources of an answer in Open WebUI's format, including files, which annotations cannot name.

    The passages of one source are grouped; their `page` is counted from 0.
    """
    found: dict[str, dict[str, Any]] = {}
    for number, document in enumerate(transcript.sources[:MAX_CITATIONS], 1):
        metadata, text = document.get("metadata"), document.get("pageContent")
        known = metadata if isinstance(metadata, Mapping) else {}
        url = _url(known)
        name = _title(known, url) or _file_name(known) or f"Source {number}"
        passage: dict[str, Any] = {"source": url or name, "name": name}
        if page := _page(known):
            passage["page"] = page - 1
        source = {"name": name, "url": url} if url else {"name": name}
        data = found.setdefault(url or name, {"source": source, "document": [], "metadata": []})
        data["document"].append(text[:MAX_PASSAGE] if isinstance(text, str) else "")
        data["metadata"].append(passage)
    return [{"type": "source", "data": data} for data in found.values()]


def _file_name(metadata: Mapping[str, Any]) -> str:
    """The name of the file of a document, without the folders on Flowise's disk."""
    source = metadata.get("source")
    name = re.split(r"[\\/]", source.strip())[-1][:200] if isinstance(source, str) else ""
    return "" if name == "blob" else name


def _page(metadata: Mapping[str, Any]) -> int:
    """The page, counted from 1; 0 if there is none."""
    place = metadata.get("loc")
    pages = [place.get("pageNumber") if isinstance(place, Mapping) else None, metadata.get("page_number")]
    return next((page for page in pages if type(page) is int and page > 0), 0)


def sources_footer(transcript: Transcript) -> str:
    """The http(s) sources, each once, as a Markdown list for the end of the text; empty if there are none."""
    lines: dict[str, str] = {}
    for number, url, title in _web_sources(transcript):
        escaped = url.replace("(", "%28").replace(")", "%29")
        lines.setdefault(url, f"- [{number}] [{label(title)}]({escaped})")
    return FOOTER_HEAD + "\n".join(list(lines.values())[:MAX_CITATIONS]) if lines else ""


def without_footer(text: str) -> str:
    """An answer that a client sends back, without the added source list and file links."""
    headed = "\n\n" + text  # the client may have trimmed an answer that consists of the list only
    place = headed.rfind(FOOTER_HEAD)
    if place >= 0 and _FOOTER_LINES.fullmatch(headed, place + len(FOOTER_HEAD)):
        text = headed[2:place]
    return without_links(text)


def _markers(text: str) -> dict[int, tuple[int, int]]:
    places: dict[int, tuple[int, int]] = {}
    at = 0
    while found := _MARKER.search(text, at, MAX_MARKED):
        at = found.end()
        if found["fence"]:
            at = _end_of_code(text, at, len(found["fence"]))
        elif number := found["plain"] or found["wide"]:
            places.setdefault(int(number), found.span())
    return places


def _end_of_code(text: str, at: int, size: int) -> int:
    """The end of the code after an opening fence: after a fence of `size` or more, or the end of the text."""
    fences = _FENCE.finditer(text, at, MAX_MARKED)
    return next((fence.end() for fence in fences if len(fence[0]) >= size), len(text))


def _web_sources(transcript: Transcript) -> Iterator[tuple[int, str, str]]:
    for number, document in enumerate(transcript.sources, 1):
        metadata = document.get("metadata")
        if isinstance(metadata, Mapping) and (url := _url(metadata)):
            yield number, url, _title(metadata, url)


def _url(metadata: Mapping[str, Any]) -> str:
    for key in _URL_KEYS:
        value = metadata.get(key)
        if isinstance(value, str) and _URL.fullmatch(value) and _is_plain(value):
            return value
    return ""


def _is_plain(url: str) -> bool:
    """Whether the URL has a host and no user name or password."""
    try:
        parts = urlsplit(url)
        return bool(parts.hostname) and parts.username is None
    except ValueError:
        return False


def _title(metadata: Mapping[str, Any], url: str) -> str:
    for key in _TITLE_KEYS:
        value = metadata.get(key)
        if isinstance(value, str) and value.strip():
            return " ".join(value.split())[:200]
    return url.partition("://")[2].rstrip("/")[:200]
