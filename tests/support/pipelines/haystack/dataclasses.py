"""Messages, documents and chunks as Haystack has them."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class ChatRole(StrEnum):
    """Who speaks."""

    USER = "user"
    SYSTEM = "system"
    ASSISTANT = "assistant"
    TOOL = "tool"


@dataclass
class ToolCall:
    """A tool that a model asks for."""

    tool_name: str
    arguments: dict[str, Any]
    id: str | None = None


@dataclass
class ToolCallResult:
    """What a tool gave."""

    result: Any
    origin: ToolCall
    error: bool


@dataclass
class ToolCallDelta:
    """A piece of a tool call."""

    index: int
    tool_name: str | None = None
    arguments: str | None = None
    id: str | None = None


@dataclass
class ReasoningContent:
    """What a model thinks."""

    reasoning_text: str


@dataclass
class ImageContent:
    """A picture."""

    base64_image: str
    mime_type: str | None = None


@dataclass
class ChatMessage:
    """One message."""

    role: ChatRole
    text: str | None = None
    meta: dict[str, Any] = field(default_factory=dict)
    images: list[ImageContent] = field(default_factory=list)
    tool_call_results: list[ToolCallResult] = field(default_factory=list)

    @classmethod
    def from_user(cls, text: str | None = None, content_parts: Any = None) -> ChatMessage:
        """A user's message."""
        parts = content_parts or []
        images = [part for part in parts if isinstance(part, ImageContent)]
        return cls(ChatRole.USER, text if text is not None else parts[0], images=images)

    @classmethod
    def from_system(cls, text: str) -> ChatMessage:
        """A system message."""
        return cls(ChatRole.SYSTEM, text)

    @classmethod
    def from_assistant(cls, text: str, meta: dict[str, Any] | None = None) -> ChatMessage:
        """A model's message."""
        return cls(ChatRole.ASSISTANT, text, meta or {})

    @classmethod
    def from_tool(cls, tool_result: str, origin: ToolCall, error: bool = False) -> ChatMessage:
        """A tool's message."""
        return cls(ChatRole.TOOL, tool_call_results=[ToolCallResult(tool_result, origin, error)])


@dataclass
class Document:
    """A document."""

    content: str | None = None
    meta: dict[str, Any] = field(default_factory=dict)


@dataclass
class GeneratedAnswer:
    """An answer with its documents."""

    data: str
    query: str
    documents: list[Document]
    meta: dict[str, Any] = field(default_factory=dict)


@dataclass
class StreamingChunk:
    """A piece of what a model says."""

    content: str
    index: int | None = None
    tool_calls: list[ToolCallDelta] | None = None
    tool_call_result: ToolCallResult | None = None
    reasoning: ReasoningContent | None = None
