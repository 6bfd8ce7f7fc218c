"""Converts images, audio and files in a message to Flowise's uploads.

Flowise's rules (docs/reference/flowise.md, Uploads): data is a data URI, `name` has an extension that fits
the MIME type, a text is sent as `file:full`. Formats that only Flowise can read (PDF, docx …) are sent as
`file`.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import mimetypes
import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal
from urllib.parse import SplitResult, unquote_to_bytes, urlsplit

from flowise_gateway.flow.cooperative import slices, yield_before
from flowise_gateway.flow.errors import BadRequest
from flowise_gateway.flow.turn import Attachment, Upload
from flowise_gateway.openai.fields import missing, optional, required, string, wrong_type, wrong_value

_MAX_HEAD = 1000
_MAX_NAME = 120
_MAX_EXTENSION = 20
_MAX_ADDRESS = 8192
_MAX_PERCENT_ENCODED = 300_000
_EXTENSIONS = {
    "image/png": "png",
    "image/jpeg": "jpg",
    "image/gif": "gif",
    "image/webp": "webp",
    "image/bmp": "bmp",
    "image/tiff": "tiff",
    "image/svg+xml": "svg",
    "image/x-icon": "ico",
    "image/avif": "avif",
    "audio/webm": "webm",
    "audio/mp4": "m4a",
    "audio/ogg": "ogg",
    "application/pdf": "pdf",
    "application/msword": "doc",
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document": "docx",
    "application/vnd.ms-excel": "xls",
    "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet": "xlsx",
    "application/vnd.ms-powerpoint": "ppt",
    "application/vnd.openxmlformats-officedocument.presentationml.presentation": "pptx",
    "application/rtf": "rtf",
}
"""The MIME types that Flowise supports, with the required extension; a run fails for any other."""

_STANDARD = {
    **dict.fromkeys(("image/jpg", "image/pjpeg", "image/jfif", "image/jpe", "image/x-jpeg"), "image/jpeg"),
    **dict.fromkeys(("image/x-png", "image/apng", "image/vnd.mozilla.apng"), "image/png"),
    **dict.fromkeys(("image/x-bmp", "image/x-ms-bmp", "image/x-windows-bmp", "image/ms-bmp"), "image/bmp"),
    **dict.fromkeys(("image/tif", "image/x-tiff", "image/x-tif"), "image/tiff"),
    **dict.fromkeys(("image/svg", "image/svg-xml"), "image/svg+xml"),
    **dict.fromkeys(("image/ico", "image/icon", "image/vnd.microsoft.icon"), "image/x-icon"),
    **dict.fromkeys(("image/x-webp",), "image/webp"),
    **dict.fromkeys(("application/x-pdf", "application/acrobat", "text/pdf"), "application/pdf"),
    **dict.fromkeys(("text/rtf", "application/x-rtf", "text/richtext"), "application/rtf"),
    **dict.fromkeys(
        ("application/excel", "application/x-excel", "application/xls"), "application/vnd.ms-excel"
    ),
}
"""Unregistered aliases of registered MIME types."""

_BEGINNINGS = {
    b"\x89PNG\r\n\x1a\n": "image/png",
    b"\xff\xd8\xff": "image/jpeg",
    b"GIF8": "image/gif",
    b"BM": "image/bmp",
    b"II*\0": "image/tiff",
    b"MM\0*": "image/tiff",
}
_AUDIO = {
    **dict.fromkeys(("webm",), "audio/webm"),
    **dict.fromkeys(("mp4", "m4a"), "audio/mp4"),
    **dict.fromkeys(("ogg", "oga", "opus"), "audio/ogg"),
}
"""The formats that Flowise transcribes; it silently ignores others."""

_TEXTS = frozenset(
    f"application/{kind}"
    for kind in (
        *("json", "xml", "yaml", "x-yaml", "javascript", "x-javascript", "typescript", "sql", "toml"),
        *("x-sh", "x-httpd-php", "graphql", "x-ndjson"),
    )
)
_MORE_TYPES = {
    **{extension: mime for mime, extension in _EXTENSIONS.items()},
    **dict.fromkeys(("md", "markdown"), "text/markdown"),
    **dict.fromkeys(("yaml", "yml"), "text/yaml"),
    **dict.fromkeys(
        ("ts", "tsx", "jsx", "toml", "log", "ini", "conf", "jsonl", "sql", "rs", "go"), "text/plain"
    ),
    "csv": "text/csv",
}
"""MIME types of extensions that `mimetypes` knows only on some operating systems."""

_PDF = "data:application/pdf;"
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")

_SAYS_NOTHING = (
    "",
    "application/octet-stream",
    "binary/octet-stream",
    "application/vnd.ms-excel",
    "video/mp2t",
)
"""Types less specific than the extension; browsers send the last two for tables and TypeScript."""


def image_part(part: Mapping[str, Any], param: str, number: int) -> Attachment:
    """An `image_url` part: an object with `url`, or the bare string that some clients send."""
    image = part.get("image_url")
    if image is None:
        raise missing(f"{param}.image_url")
    if isinstance(image, dict):
        param = f"{param}.image_url.url"
        image = string(image, "url", param)
    elif isinstance(image, str):
        param = f"{param}.image_url"
    else:
        raise wrong_type(f"{param}.image_url", "an object or a string", image)
    if image[: len(_PDF)].lower() == _PDF:  # how aider and other clients of LiteLLM send one
        return document("", image, param, number)
    return image_at(image, param)


def image_at(address: str, param: str) -> Attachment:
    """An image by its URL: a data URI, or a URL that the model's provider fetches."""
    if address[:5].lower() == "data:":
        mime, data = _data_uri(address, param)
        return _image(mime, data, param)
    if len(address) > _MAX_ADDRESS:
        raise wrong_value(param, f"a URL may have at most {_MAX_ADDRESS} characters")
    _check_plain(address, param)
    parts = _split(address)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise wrong_value(param, "it must be a data: URI or an http(s) URL")
    mime = _type_of(parts.path)
    mime = mime if mime in _EXTENSIONS and mime.startswith("image/") else "image/png"
    name = f"image-{_digest(address)[:12]}.{_EXTENSIONS[mime]}"
    unsigned = address.partition("#")[0].partition("?")[0]  # the query of a signed URL changes daily
    return Attachment(Upload("url", name, mime, address), param, digest=_digest(unsigned))


def _image(mime: str, data: str, param: str) -> Attachment:
    mime = _STANDARD.get(mime, mime)
    if mime not in _EXTENSIONS:
        mime = _image_type(data) or mime
    if not mime.startswith("image/"):
        raise wrong_value(param, f"'{mime[:60]}' is not an image type")
    if mime not in _EXTENSIONS:
        raise BadRequest(
            f"Flowise does not accept images of type '{mime[:60]}'; send png, jpeg, gif or webp.",
            param=param,
            code="unsupported_content",
        )
    return _named_by_content("image", mime, data, param)


def _image_type(data: str) -> str:
    """The MIME type of an image, according to its first bytes."""
    head = base64.b64decode(data[:24])
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "image/webp"
    return next((mime for beginning, mime in _BEGINNINGS.items() if head.startswith(beginning)), "")


def _named_by_content(kind: Literal["image", "audio"], mime: str, data: str, param: str) -> Attachment:
    """An upload named by a hash of its content, since all files of a session are in one Flowise folder."""
    digest = _digest(data)
    name = f"{kind}-{digest[:12]}.{_EXTENSIONS[mime]}"
    upload = Upload("audio" if kind == "audio" else "file", name, mime, f"data:{mime};base64,{data}")
    return Attachment(upload, param, digest=digest)


def _digest(content: str) -> str:
    digest = hashlib.sha256()
    for part in slices(content):
        digest.update(part.encode())
    return digest.hexdigest()[:32]


def _check_plain(text: str, param: str) -> None:
    """Refuse control characters: some URL parsers drop them, and would fetch another URL."""
    if _CONTROL.search(text):
        raise wrong_value(param, "it contains control characters")


def _split(address: str) -> SplitResult:
    """The parts of a URL, all empty if it is malformed."""
    try:
        return urlsplit(address if len(address) <= _MAX_ADDRESS else "")
    except ValueError:
        return urlsplit("")


def is_image_address(address: str) -> bool:
    """Whether this is an http(s) URL whose path has the extension of an image."""
    parts = _split(address)
    return parts.scheme in ("http", "https") and _type_of(parts.path).startswith("image/")


def audio_part(part: Mapping[str, Any], param: str, _number: int) -> Attachment:
    """An `input_audio` part, in one of the formats that Flowise transcribes."""
    audio = required(part.get("input_audio"), dict, f"{param}.input_audio")
    kind = string(audio, "format", f"{param}.input_audio.format").lower()
    data = string(audio, "data", f"{param}.input_audio.data")
    if kind not in _AUDIO:
        raise BadRequest(
            f"Flowise does not transcribe '{kind[:20]}' audio; send webm, mp4 or ogg.",
            param=f"{param}.input_audio.format",
            code="unsupported_content",
        )
    mime, param = _AUDIO[kind], f"{param}.input_audio.data"
    data = _data_uri(data, param)[1] if data[:5].lower() == "data:" else _base64(data, param)
    return _named_by_content("audio", mime, data, param)


def file_part(part: Mapping[str, Any], param: str, number: int) -> Attachment:
    """A `file` part: texts are decoded here, images are sent as images, Flowise reads all others."""
    file = required(part.get("file"), dict, f"{param}.file")
    if file.get("file_id") is not None:
        raise BadRequest(
            "This server does not store files; send the file itself as file_data.",
            param=f"{param}.file.file_id",
            code="unsupported_content",
        )
    name = optional(file.get("filename"), str, f"{param}.file.filename")
    data = string(file, "file_data", f"{param}.file.file_data")
    return document(name or "", data, f"{param}.file.file_data", number)


def document(name: str, data: str, param: str, number: int) -> Attachment:
    """A file given as a data URI or as bare base64."""
    mime = ""
    if data[:5].lower() == "data:":
        mime, data = _data_uri(data, param)
    else:
        data = _base64(data, param)
    mime = _STANDARD.get(mime, mime)
    if mime in _SAYS_NOTHING:
        mime = _type_of(name) or mime or "application/octet-stream"
    if mime.startswith("image/"):
        return _image(mime, data, param)
    name = _file_name(name, mime, number)
    if mime in _TEXTS or mime.startswith("text/") or mime.endswith(("+json", "+xml", "+yaml")):
        text = _text(data, param)
        return Attachment(Upload("file:full", name, mime, text), param, digest=_digest(text))
    upload = Upload("file", name, mime, f"data:{mime};base64,{data}")
    return Attachment(upload, param, digest=_digest(data))


def _data_uri(uri: str, param: str) -> tuple[str, str]:
    """The MIME type of a data URI, and its content as plain base64."""
    head, comma, _ = uri[:_MAX_HEAD].partition(",")
    if not comma:
        raise wrong_value(param, "it must be a data: URI such as data:image/png;base64,…")
    _check_plain(head, param)
    mime, *options = head[len("data:") :].lower().split(";")
    mime = mime.strip() or "text/plain"
    yield_before(len(uri))
    content = uri[len(head) + 1 :]
    is_base64 = options[-1:] == ["base64"]
    if is_base64:
        return mime, _base64(content, param)
    if len(content) > _MAX_PERCENT_ENCODED:  # decoding it takes long
        raise wrong_value(param, f"over {_MAX_PERCENT_ENCODED} characters must be sent as base64")
    return mime, base64.b64encode(unquote_to_bytes(content)).decode()


def _base64(text: str, param: str) -> str:
    """Normalize base64 with any alphabet, line breaks and padding to its standard form."""
    if not _is_plain(text):  # rare, and each step below copies the text
        parts = ["".join(part.split()).replace("-", "+").replace("_", "/") for part in slices(text)]
        yield_before(len(text))
        text = "".join(parts).rstrip("=")
        text += "=" * (-len(text) % 4)
        if not _is_plain(text):
            raise wrong_value(param, "it is not valid base64")
    if not text:
        raise wrong_value(param, "it is empty")
    return text


def _is_plain(text: str) -> bool:
    """Whether a text is base64 in the standard form, which every reader accepts."""
    if len(text) % 4 or text.find("=", 0, -2) >= 0:
        return False
    try:
        for _ in _decoded(text):
            pass
    except ValueError:
        return False
    return True


def _decoded(text: str) -> Iterator[bytes]:
    """The bytes of standard base64, in slices. Raises ValueError."""
    return (binascii.a2b_base64(part, strict_mode=True) for part in slices(text))  # sizes divisible by 4


def _text(data: str, param: str) -> str:
    raw = b"".join(_decoded(data))
    yield_before(len(raw))
    try:
        return raw.decode("utf-16" if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError:
        raise wrong_value(param, "a text file must be UTF-8") from None


def _type_of(name: str) -> str:
    extension = name.rpartition(".")[2][: _MAX_EXTENSION + 1].lower()
    return _MORE_TYPES.get(extension) or mimetypes.guess_type(f"x.{extension}")[0] or ""


def _file_name(name: str, mime: str, number: int) -> str:
    """The file's name without a path, with an extension that Flowise accepts for the type."""
    own = name.replace("\\", "/").rpartition("/")[2].strip(" .")[-_MAX_NAME:]
    plain = re.sub(r"[^\w .()\[\]-]", "_", own)
    if plain and _type_of(plain) == mime:
        return plain
    extension = _EXTENSIONS.get(mime) or (mimetypes.guess_extension(mime) or ".bin")[1:]
    return f"{plain or f'file-{number}'}.{extension}"
