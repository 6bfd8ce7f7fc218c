"""Converts a conversation's attachments for its flow: documents to text, images to uploads.

A document becomes part of its message, so that Flowise's memory contains it; of a `file:full` upload, the
memory only contains the name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from flowise_gateway.flow.errors import BadRequest, ProxyError
from flowise_gateway.flow.lru import LRU
from flowise_gateway.flow.model import Model
from flowise_gateway.flow.turn import Attachment, HistoryMessage, Upload, with_attached
from flowise_gateway.openai.conversation_builder import left_out_note

Kind = Literal["image", "audio", "file"]

_SETTINGS = {
    "image": ("images", "image uploads in its chat model"),
    "audio": ("audio", "speech to text"),
}
_MAX_CACHED_TEXTS = 32
_MAX_CACHED_CHARACTERS = 1_000_000


class UploadClient(Protocol):
    """The part of a flow's client that attachments need. Both methods raise ProxyError."""

    flow_id: str
    name: str

    def capabilities(self, flow_id: str) -> tuple[bool | None, dict[str, Any]]:
        """Whether a flow streams (None: unknown), and which uploads it accepts."""

    def document_text(self, chat_id: str, upload: Upload) -> str:
        """Return the text of a document, given as a data URI."""


@dataclass(frozen=True, slots=True)
class Takes:
    """Which attachments a flow accepts, and its client, through which Flowise reads documents."""

    client: UploadClient
    image: bool
    audio: bool

    def takes(self, kind: Kind) -> bool:
        """Whether it accepts such uploads; documents are refused later, if Flowise cannot read one."""
        return kind == "file" or (self.image if kind == "image" else self.audio)


@dataclass(frozen=True, slots=True)
class Fitted:
    """The history to send, the text before the question, the uploads, and the kinds of omitted parts."""

    history: tuple[HistoryMessage, ...]
    documents: str = ""
    uploads: tuple[Upload, ...] = ()
    left_out: tuple[str, ...] = ()


class Attachments:
    """Converts attachments for flows; caches the texts of documents, since clients resend them."""

    def __init__(self) -> None:
        self._texts: LRU[tuple[str, str, str], str] = LRU(_MAX_CACHED_TEXTS)

    def fitted(
        self,
        attachments: Sequence[Attachment],
        sent: tuple[HistoryMessage, ...],
        length: int,
        flow: Takes,
        chat_id: str,
    ) -> Fitted:
        """Convert the attachments of the `sent` messages, of a history of `length`, and of the question.

        Raises BadRequest for a document in the user's last message that Flowise cannot read; any other one is
        replaced by a note.
        """
        texts: dict[int, list[str]] = {}
        uploads, left_out = [], []
        wanted = [a for a in attachments if a.position < len(sent) or a.position >= length]
        for attachment in wanted:
            position, kind = attachment.position, kind_of(attachment.upload)
            # Flowise would replace the question by the transcript of an earlier recording.
            if kind != "file" and flow.takes(kind) and (kind == "image" or position >= length):
                uploads.append(attachment.upload)
                continue
            text = self._document(attachment, flow.client, chat_id) if kind == "file" else None
            if text is None:
                text = left_out_note(kind)
                left_out.append(kind)
            texts.setdefault(position, []).append(text)
        history = []
        at_hand = {attachment.position for attachment in wanted}
        for position, message in enumerate(sent):
            attached = "\n\n".join(texts.get(position, [message.attached]))
            if message.files and not attached and position not in at_hand:
                # The client only sends new messages, and another session of Flowise has the attachment.
                attached = left_out_note("file")
                left_out.append("file")
            history.append(HistoryMessage(message.role, with_attached(attached, message.content)))
        documents = "\n\n".join(texts.get(length, ()))
        return Fitted(tuple(history), documents, tuple(uploads), tuple(left_out))

    def _document(self, attachment: Attachment, client: UploadClient, chat_id: str) -> str | None:
        upload = attachment.upload
        if upload.type == "file:full":
            return _doc(upload.name, upload.data)
        key = client.name, client.flow_id, attachment.digest
        text = self._texts.get(key)
        if text is None:
            try:
                text = client.document_text(chat_id, upload)
            except ProxyError as error:
                if not attachment.is_newest:
                    return None
                if isinstance(error, BadRequest):
                    error.param = attachment.param
                raise
            if len(text) <= _MAX_CACHED_CHARACTERS:
                self._texts[key] = text
        return _doc(upload.name, text)


def _doc(name: str, text: str) -> str:
    return f'<doc name="{name}">{text}</doc>'


def kind_of(upload: Upload) -> Kind:
    """The kind of an upload as a flow sees it."""
    if upload.type == "audio":
        return "audio"
    return "image" if upload.type != "file:full" and upload.mime.startswith("image/") else "file"


def takes_of(attachments: Iterable[Attachment], model: Model, client: UploadClient) -> Takes:
    """What the flow accepts, as far as needed for the attachments; may call Flowise. Raises ProxyError."""
    kinds = {kind_of(attachment.upload) for attachment in attachments}
    images, audio = model.takes_images, model.takes_audio
    if ("image" in kinds and images is None) or ("audio" in kinds and audio is None):
        try:
            found = client.capabilities(model.flow)[1]
        except ProxyError:
            if not model.fallback:
                raise
            return Takes(client, image=True, audio=True)  # the run will fail, and the fallback will answer
        images = found.get("isImageUploadAllowed") is True
        audio = found.get("isSpeechToTextEnabled") is True
    return Takes(client, image=bool(images), audio=bool(audio))


def refuse(attachments: Iterable[Attachment], flow: Takes) -> None:
    """Refuse new attachments that Flowise would silently drop."""
    for attachment in attachments:
        kind = kind_of(attachment.upload)
        if attachment.is_newest and not flow.takes(kind):
            name, setting = _SETTINGS[kind]
            raise BadRequest(
                f"The flow behind this model does not accept {name}: enable {setting} in Flowise.",
                param=attachment.param,
                code="unsupported_content",
            )


def left_out_warning(kinds: Iterable[str]) -> str:
    """The warning about omitted parts of earlier messages; empty if there are none."""
    counted = ", ".join(f"{kind} ({count})" for kind, count in sorted(Counter(kinds).items()))
    return (
        f"Left out of earlier messages, because this model does not accept them: {counted}."
        if counted
        else ""
    )
