"""Files of a run as text of the answer: links, images and short texts."""

from __future__ import annotations

import re

from flowise_gateway.flow.events import ArtifactMade
from flowise_gateway.flow.lenient_json import json_text

MAX_TEXT = 20_000
MAX_IMAGE = 8_000
"""Maximum length of an inline text or image; clients resend them with every turn."""

FILES_PATH = "/v1/flowise/files/"
"""The path of stored files; a signed token follows."""

_LANGUAGES = {
    **{kind: kind for kind in ("csv", "html", "json", "javascript", "latex", "markdown", "python", "text")},
    "js": "javascript",
    "md": "markdown",
    "svg": "xml",
    "xml": "xml",
}
_IMAGE_NAMES = (".png", ".jpg", ".jpeg", ".gif", ".webp")
_IMAGE_DATA = re.compile(r"data:image/(?:png|jpeg|gif|webp);base64,[A-Za-z0-9+/]+={0,2}")
_IMAGE_URL = re.compile(r"https://[^\s()<>\"\\]{1,2000}")
_ARTIFACT = "![artifact]("
_LINK = re.compile(
    r"(?:\A|\n\n)"
    r"(?:!?\[(?:\\.|[^\[\]\\\n])*\]\([^\s()]*/v1/flowise/files/[A-Za-z0-9_-]{80,}\)"
    r"|!\[artifact\]\([^\s()]+\))"
    r"(?=\n\n|\s*\Z)"
)


def artifact_text(made: ArtifactMade) -> str:
    """A file as a paragraph: an image or a link if it can be fetched, a short text as a code block."""
    return "\n\n" + (_linked(made) if made.stored or "filePath" in made.artifact else _inline(made))


def without_links(text: str) -> str:
    """A text without the paragraphs that `artifact_text` creates for images and links."""
    # Most answers contain none, and some are megabytes long.
    return _LINK.sub("", text) if FILES_PATH in text or _ARTIFACT in text else text


def label(text: str, limit: int = 200) -> str:
    """Untrusted text as the text of a Markdown link: one line, escaped so that it cannot end the link."""
    line = " ".join(text.split())
    shown = line if len(line) <= limit else line[:limit] + "…"
    return re.sub(r"([\\\[\]`*_<>|!])", r"\\\1", shown)


def _linked(made: ArtifactMade) -> str:
    name = made.stored or "file"
    if not made.url:
        return f"(File: {label(name)})"
    return f"{'!' if name.lower().endswith(_IMAGE_NAMES) else ''}[{label(name)}]({made.url})"


def _inline(made: ArtifactMade) -> str:
    kind, data = json_text(made.artifact.get("type")).lower(), made.artifact.get("data")
    if kind in _LANGUAGES and data is not None:
        return _fenced(json_text(data), _LANGUAGES[kind])
    image = data if isinstance(data, str) and len(data) <= MAX_IMAGE else ""
    is_address = _IMAGE_URL.fullmatch(image) and "get-upload-file" not in image
    if is_address or _IMAGE_DATA.fullmatch(image):
        return f"![artifact]({image})"
    return f"(A file of type {label(kind, 40)}, which cannot be shown here.)"


def _fenced(text: str, language: str) -> str:
    shown = text if len(text) <= MAX_TEXT else text[:MAX_TEXT] + "\n…"
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", shown)), default=0))
    return f"{fence}{language}\n{shown}\n{fence}"
